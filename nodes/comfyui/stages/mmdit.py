"""MMDiT (SD3, SD3.5) by stages. Follows comfy.ldm.modules.diffusionmodules.mmdit as of ComfyUI 0.33.0."""

import torch
from torch import Tensor

from ....dit_impl.errors import StagesError
from .base import Attention, Hidden, ModelStages, or_replaced, own_options, residual


class MMDiTStages(ModelStages):
    name = "MMDiT"
    upstream = "comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper"
    reads_text = "context_embedder"
    embed, final, usual_text = "x_embedder.proj", "final_layer.linear", 154
    of_image, of_text = (rf"joint_blocks\.\d+\.{side}_block\.(attn2?|mlp)\..*" for side in ("x", "context"))
    rewritten = ("forward", "forward_core_with_concat")
    needs = ("context_processor", "context_embedder", "register_length", "t_embedder", "y_embedder", "x_embedder", "cropped_pos_embed",
             "joint_blocks", "final_layer", "unpatchify")

    @property
    def blocks(self):
        return self.model.joint_blocks

    @property
    def heads(self) -> int:
        return self.model.joint_blocks[0].x_block.attn.num_heads

    @property
    def kinds(self) -> list[str]:
        return ["joint"] * len(self.model.joint_blocks)

    @property
    def patch_size(self) -> int:
        return self.model.x_embedder.patch_size[0]

    def text_tokens(self, hidden: Hidden) -> range:
        return range(0) if hidden.context is None else range(self.model.register_length, hidden.context.shape[1])

    def attended(self, width):
        return {"joint": width * len(self.kinds), "image_to_image": width * sum(hasattr(block.x_block, "attn2") for block in self.blocks),
                "registers": self.model.register_length}

    def attentions(self, hidden: Hidden, tokens: int, block: int = 0) -> list[Attention]:
        image = {"image": range(tokens)}
        return [*super().attentions(hidden, tokens), Attention(image, image, tokens)]  # the second one in dual blocks only

    def condition(self, x, timesteps, context=None, y=None, control=None, transformer_options={}, **kwargs) -> Hidden:
        model = self.model
        vector = model.t_embedder(timesteps, dtype=x.dtype)  # [B, D]
        if y is not None and model.y_embedder is not None:
            vector = vector + model.y_embedder(y)
        if context is not None:
            if model.context_processor is not None:
                context = model.context_processor(context.clone())  # which changes it in place
            context = model.context_embedder(context)  # [B, T, D]
            if model.register_length > 0:
                context = torch.cat((model.register.expand(len(x), -1, -1), context), dim=1)
        return Hidden(x, context, vector, None, 0, {
            "size": x.shape[-2:], "control": control, "transformer_options": own_options(transformer_options)})

    def patch_embed(self, hidden: Hidden) -> Hidden:
        return hidden.but(x=self.model.x_embedder(hidden.x))

    def position_embed(self, hidden: Hidden) -> Hidden:
        table = self.model.cropped_pos_embed(hidden.extra["size"], device=hidden.x.device)
        return hidden.but(x=hidden.x + self.theirs.comfy.ops.cast_to_input(table, hidden.x))

    def scaled_positions(self, hidden: Hidden, grid):
        return self.resized_positions(hidden, grid, self.model.pos_embed_max_size)

    def block(self, i: int, x, context, hidden: Hidden, options: dict):
        if context is None:
            raise StagesError(f"block {i} needs the text tokens, but the last block ({len(self.kinds) - 1}) drops them: run it last")

        def joint(args):
            txt, img = self.model.joint_blocks[i](args["txt"], args["img"], c=args["vec"], use_checkpoint=False,
                                                  transformer_options=args["transformer_options"])
            return {"txt": txt, "img": img}
        out = or_replaced(options, ("double_block", i), joint, {
            "img": x, "txt": context, "vec": hidden.vector, "transformer_options": options})
        x, context = out["img"], out["txt"]
        added = residual(hidden.extra["control"], "output", i)
        if added is not None:
            x += added
        return x, context

    def head(self, hidden: Hidden) -> Tensor:
        height, width = hidden.extra["size"]
        x = self.model.final_layer(hidden.x, hidden.vector)  # [B, N, p·p·C]
        return self.model.unpatchify(x, hw=(height, width))[:, :, :height, :width]
