"""AuraFlow by stages. Follows comfy.ldm.aura.mmdit.MMDiT as of ComfyUI 0.33.0."""

import torch
from torch import Tensor

from .base import Hidden, ModelStages, or_replaced, own_options


class AuraFlowStages(ModelStages):
    name = "AuraFlow"
    upstream = "comfy.ldm.aura.mmdit.MMDiT"
    reads_text = "cond_seq_linear"
    embed, final = "init_x_linear", "final_linear"
    of_image, of_text = (rf"double_layers\.\d+\.(attn\.w{n}.|mlp{side}\..*)|single_layers\.\d+\.(attn|mlp)\..*" for n, side in ((2, "X"), (1, "C")))
    positions = "learned"
    rewritten = ("forward", "_forward")
    needs = ("cond_seq_linear", "register_tokens", "t_embedder", "patchify", "init_x_linear", "apply_pos_embeds", "double_layers",
             "single_layers", "modF", "final_linear", "unpatchify")

    @property
    def blocks(self):
        return [*self.model.double_layers, *self.model.single_layers]

    @property
    def heads(self) -> int:
        return self.blocks[0].attn.n_heads

    @property
    def kinds(self) -> list[str]:
        return ["double"] * len(self.model.double_layers) + ["single"] * len(self.model.single_layers)

    def attended(self, width):
        return {"joint": width * len(self.kinds), "registers": self.model.register_tokens.shape[1]}

    def text_tokens(self, hidden: Hidden) -> range:
        return range(self.model.register_tokens.shape[1], hidden.context.shape[1])

    def condition(self, x, timesteps, context=None, transformer_options={}, **kwargs) -> Hidden:
        model = self.model
        context = model.cond_seq_linear(context)
        registers = self.theirs.comfy.ops.cast_to_input(model.register_tokens, context).repeat(len(context), 1, 1)
        return Hidden(x, torch.cat([registers, context], dim=1), model.t_embedder(timesteps, x.dtype), None, 0, {
            "size": x.shape[-2:], "transformer_options": own_options(transformer_options)})

    def patch_embed(self, hidden: Hidden) -> Hidden:
        return hidden.but(x=self.model.init_x_linear(self.model.patchify(hidden.x)))

    def position_embed(self, hidden: Hidden) -> Hidden:
        return hidden.but(x=self.model.apply_pos_embeds(hidden.x, *hidden.extra["size"]))

    def scaled_positions(self, hidden: Hidden, grid):
        return self.resized_positions(hidden, grid, self.model.h_max)

    def block(self, i: int, x, context, hidden: Hidden, options: dict):
        args = {"vec": hidden.vector, "transformer_options": options}
        doubles = len(self.model.double_layers)
        if i < doubles:
            def double(args):
                txt, img = self.model.double_layers[i](args["txt"], args["img"], args["vec"],
                                                       transformer_options=args["transformer_options"])
                return {"txt": txt, "img": img}
            out = or_replaced(options, ("double_block", i), double, {"img": x, "txt": context, **args})
            return out["img"], out["txt"]

        def single(args):
            return {"img": self.model.single_layers[i - doubles](args["img"], args["vec"],
                                                                 transformer_options=args["transformer_options"])}
        joined = torch.cat([context, x], dim=1)
        joined = or_replaced(options, ("single_block", i - doubles), single, {"img": joined, **args})["img"]
        text = context.shape[1]
        return joined[:, text:], joined[:, :text]

    def head(self, hidden: Hidden) -> Tensor:
        height, width = hidden.extra["size"]
        shift, scale = self.model.modF(hidden.vector).chunk(2, dim=1)
        x = self.model.final_linear(self.theirs.modulate(hidden.x, shift, scale))  # [B, N, p·p·C]
        x = self.model.unpatchify(x, (height + 1) // self.patch_size, (width + 1) // self.patch_size)
        return x[:, :, :height, :width]
