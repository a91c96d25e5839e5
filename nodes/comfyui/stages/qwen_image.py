"""Qwen-Image by stages. Follows comfy.ldm.qwen_image.model.QwenImageTransformer2DModel as of ComfyUI 0.33.0."""

import torch
from torch import Tensor

from .base import Hidden, ModelStages, or_replaced, own_options, places, post_input, residual


class QwenImageStages(ModelStages):
    name = "Qwen-Image"
    upstream = "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel"
    reads_text = "txt_in"
    embed, final, usual_text = "img_in", "proj_out", 512
    of_image = r"transformer_blocks\.\d+\.(img_mlp\..*|attn\.to_(q|k|v|out\.0))"
    of_text = r"transformer_blocks\.\d+\.(txt_mlp\..*|attn\.(add_[qkv]_proj|to_add_out))"
    positions, rotary = "rotary", "pe_embedder"
    rewritten = ("forward", "_forward")
    needs = ("process_img", "img_in", "txt_norm", "txt_in", "time_text_embed", "pe_embedder", "transformer_blocks", "norm_out", "proj_out")

    @property
    def blocks(self):
        return self.model.transformer_blocks

    @property
    def heads(self) -> int:
        return self.model.transformer_blocks[0].attn.heads

    @property
    def kinds(self) -> list[str]:
        return ["joint"] * len(self.model.transformer_blocks)

    def condition(self, x, timesteps, context=None, attention_mask=None, ref_latents=None, ref_latents_method=None, additional_t_cond=None,
                  transformer_options={}, control=None, **kwargs) -> Hidden:
        model, p, options = self.model, self.patch_size, own_options(transformer_options)
        if attention_mask is not None and not torch.is_floating_point(attention_mask):
            attention_mask = (attention_mask - 1).to(x.dtype) * torch.finfo(x.dtype).max
        tokens, img_ids, padded = model.process_img(x)  # [B, N, C·p·p]
        at_zero, image_tokens = None, tokens.shape[1]
        if ref_latents:
            method = ref_latents_method or model.default_ref_method
            step = {"index": 1, "index_timestep_zero": 1, "negative_index": -1}.get(method)
            parts = [(tokens, img_ids)] + [model.process_img(latent, index=index, h_offset=top, w_offset=left)[:2]
                                           for latent, index, top, left in places(ref_latents, step)]
            tokens, img_ids = (torch.cat(part, dim=1) for part in zip(*parts))
            options["reference_image_num_tokens"] = [part.shape[1] for part, _ in parts[1:]]
            if method == "index_timestep_zero":
                timesteps, at_zero = torch.cat([timesteps, timesteps * 0]), image_tokens
        vector = model.time_text_embed(timesteps, x, additional_t_cond)  # [B, D] of x's type, or [2·B, D] with references at time 0
        start = round(max(((x.shape[-1] + p // 2) // p) // 2, ((x.shape[-2] + p // 2) // p) // 2))
        txt_ids = torch.arange(start, start + context.shape[1], device=x.device).reshape(1, -1, 1).repeat(len(x), 1, 3)
        return Hidden(tokens, model.txt_in(model.txt_norm(context)), vector, None, 0, {
            "img_ids": img_ids, "txt_ids": txt_ids, "padded": padded, "latent": x, "image_tokens": image_tokens, "at_zero": at_zero,
            "mask": attention_mask, "control": control, "transformer_options": options})

    def patch_embed(self, hidden: Hidden) -> Hidden:
        return hidden.but(x=self.model.img_in(hidden.x))

    def position_embed(self, hidden: Hidden) -> Hidden:
        at = post_input(hidden)
        position = self.model.pe_embedder(torch.cat((at["txt_ids"], at["img_ids"]), dim=1))
        position = position.to(hidden.extra["latent"].dtype).contiguous()
        return hidden.but(x=at["img"], context=at["txt"], position=position)

    def block(self, i: int, x, context, hidden: Hidden, options: dict):
        options.update(total_blocks=len(self.kinds), block_type="double", block_index=i)

        def joint(args):
            txt, img = self.model.transformer_blocks[i](
                hidden_states=args["img"], encoder_hidden_states=args["txt"], encoder_hidden_states_mask=hidden.extra["mask"],
                temb=args["vec"], image_rotary_emb=args["pe"], timestep_zero_index=hidden.extra["at_zero"],
                transformer_options=args["transformer_options"])
            return {"txt": txt, "img": img}
        out = or_replaced(options, ("double_block", i), joint, {
            "img": x, "txt": context, "vec": hidden.vector, "pe": hidden.position, "transformer_options": options})
        for patch in options.get("patches", {}).get("double_block", ()):
            out = patch({"img": out["img"], "txt": out["txt"], "x": hidden.extra["latent"], "block_index": i,
                         "transformer_options": options})
        x, context = out["img"], out["txt"]
        added = residual(hidden.extra["control"], "input", i)
        if added is not None:
            x[:, :added.shape[1]] += added
        return x, context

    def head(self, hidden: Hidden) -> Tensor:
        latent, (batch, channels, frames, height, width) = hidden.extra["latent"], hidden.extra["padded"]
        x = self.model.proj_out(self.model.norm_out(hidden.x, hidden.vector[:batch]))[:, :hidden.extra["image_tokens"]]  # [B, N, C·p·p]
        x = x.view(batch, frames, height // 2, width // 2, channels, 2, 2)  # upstream's patches are 2 wide
        x = x.permute(0, 4, 1, 2, 5, 3, 6).reshape(batch, channels, frames, height, width)
        return x[..., :latent.shape[-2], :latent.shape[-1]]
