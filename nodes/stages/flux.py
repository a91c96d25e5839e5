"""Flux (dev, schnell, Flux.2, LongCat, Ovis) by stages. Follows comfy.ldm.flux.model.Flux as of ComfyUI 0.33.0."""

from einops import rearrange
import torch
from torch import Tensor

from .base import Hidden, Stages, StagesError, or_replaced, own_options, post_input, residual


class FluxStages(Stages):
    name = "Flux"
    upstream = "comfy.ldm.flux.model.Flux"
    rewritten = ("forward", "_forward", "forward_orig")
    needs = ("params", "process_img", "img_in", "time_in", "vector_in", "txt_norm", "txt_in", "pe_embedder", "double_blocks",
             "single_blocks", "final_layer")

    @property
    def kinds(self) -> list[str]:
        return ["double"] * len(self.model.double_blocks) + ["single"] * len(self.model.single_blocks)

    def condition(self, x, timesteps, context=None, y=None, guidance=None, ref_latents=None, control=None, transformer_options={},
                  attention_mask=None, **kwargs) -> Hidden:
        if ref_latents:
            raise StagesError("the stages of Flux take no reference latents; use DiT Denoise Step")
        model, params, embedding = self.model, self.model.params, self.theirs.timestep_embedding
        options = own_options(transformer_options)
        vector = model.time_in(embedding(timesteps, 256).to(x.dtype))  # [B, D]
        if params.guidance_embed and guidance is not None:
            vector = vector + model.guidance_in(embedding(guidance, 256).to(x.dtype))
        if model.vector_in is not None:
            if y is None:
                y = torch.zeros((len(x), params.vec_in_dim), device=x.device, dtype=x.dtype)
            vector = vector + model.vector_in(y[:, :params.vec_in_dim])
        txt_ids = torch.zeros((len(x), context.shape[1], len(params.axes_dim)), device=x.device, dtype=torch.float32)
        for axis in params.txt_ids_dims:
            txt_ids[:, :, axis] = torch.linspace(0, context.shape[1] - 1, steps=context.shape[1], device=x.device, dtype=torch.float32)
        if model.txt_norm is not None:
            context = model.txt_norm(context)
        tokens, img_ids = model.process_img(x, transformer_options=options)  # [B, N, p·p·C]
        return Hidden(tokens, model.txt_in(context), vector, None, 0, {
            "img_ids": img_ids, "txt_ids": txt_ids, "image_tokens": tokens.shape[1], "size": x.shape[-2:],
            "attention_mask": attention_mask, "control": control, "transformer_options": options})

    def patch_embed(self, hidden: Hidden) -> Hidden:
        return hidden.but(x=self.model.img_in(hidden.x))

    def position_embed(self, hidden: Hidden) -> Hidden:
        at = post_input(hidden)
        position = self.model.pe_embedder(torch.cat((at["txt_ids"], at["img_ids"]), dim=1))
        return hidden.but(x=at["img"], context=at["txt"], position=position)

    def block(self, i: int, x, context, hidden: Hidden, options: dict):
        doubles = len(self.model.double_blocks)
        step = self._double if i < doubles else self._single
        args = {"pe": hidden.position, "attn_mask": hidden.extra["attention_mask"], "transformer_options": options}
        return step(i if i < doubles else i - doubles, x, context, hidden, args)

    def _double(self, i: int, x, context, hidden: Hidden, args: dict):
        model, options, vector = self.model, args["transformer_options"], hidden.vector
        options.pop("img_slice", None)
        options.update(total_blocks=len(model.double_blocks), block_type="double", block_index=i)
        if model.params.global_modulation:
            vector = (model.double_stream_modulation_img(vector), model.double_stream_modulation_txt(vector))

        def double(args):
            img, txt = model.double_blocks[i](img=args["img"], txt=args["txt"], vec=args["vec"], pe=args["pe"],
                                              attn_mask=args.get("attn_mask"), transformer_options=args.get("transformer_options"))
            return {"img": img, "txt": txt}
        out = or_replaced(options, ("double_block", i), double, {"img": x, "txt": context, "vec": vector, **args})
        x, context = out["img"], out["txt"]
        added = residual(hidden.extra["control"], "input", i)
        if added is not None:
            x[:, :added.shape[1]] += added
        return x, context

    def _single(self, i: int, x, context, hidden: Hidden, args: dict):
        model, options, vector, text = self.model, args["transformer_options"], hidden.vector, context.shape[1]
        if x.dtype == torch.float16:
            x = torch.nan_to_num(x, nan=0.0, posinf=65504, neginf=-65504)
        joined = torch.cat((context, x), dim=1)
        options.update(total_blocks=len(model.single_blocks), block_type="single", block_index=i, img_slice=[text, joined.shape[1]])
        if model.params.global_modulation:
            vector, _ = model.single_stream_modulation(vector)

        def single(args):
            return {"img": model.single_blocks[i](args["img"], vec=args["vec"], pe=args["pe"], attn_mask=args.get("attn_mask"),
                                                  transformer_options=args.get("transformer_options"))}
        joined = or_replaced(options, ("single_block", i), single, {"img": joined, "vec": vector, **args})["img"]
        added = residual(hidden.extra["control"], "output", i)
        if added is not None:
            joined[:, text:text + added.shape[1]] += added
        return joined[:, text:], joined[:, :text]

    def head(self, hidden: Hidden) -> Tensor:
        height, width = hidden.extra["size"]
        p = self.patch_size
        x = self.model.final_layer(hidden.x, hidden.vector)[:, :hidden.extra["image_tokens"]]  # [B, N, C·p·p]
        x = rearrange(x, "b (h w) (c ph pw) -> b c (h ph) (w pw)", h=(height + p // 2) // p, w=(width + p // 2) // p, ph=p, pw=p)
        return x[:, :, :height, :width]
