"""Flux (dev, schnell, Flux.2, LongCat, Ovis) by stages. Follows comfy.ldm.flux.model.Flux as of ComfyUI 0.33.0."""

from einops import rearrange
import torch
from torch import Tensor

from .base import Hidden, ModelStages, or_replaced, own_options, places, post_input, residual


class FluxStages(ModelStages):
    name = "Flux"
    upstream = "comfy.ldm.flux.model.Flux"
    reads_text = "txt_in"
    embed, final, usual_text, guided = "img_in", "final_layer.linear", 512, False
    of_image, of_text = (rf"double_blocks\.\d+\.{side}_(attn|mlp)\..*|single_blocks\.\d+\.linear\d" for side in ("img", "txt"))
    positions, rotary = "rotary", "pe_embedder"
    rewritten = ("forward", "_forward", "forward_orig")
    needs = ("params", "process_img", "img_in", "time_in", "vector_in", "txt_norm", "txt_in", "pe_embedder", "double_blocks",
             "single_blocks", "final_layer")

    @property
    def least_text(self) -> int:
        return 512 if getattr(self.model.params, "global_modulation", False) else 0  # Flux.2: comfy/model_base.py

    @property
    def blocks(self):
        return [*self.model.double_blocks, *self.model.single_blocks]

    @property
    def heads(self) -> int:
        return self.model.params.num_heads

    @property
    def kinds(self) -> list[str]:
        return ["double"] * len(self.model.double_blocks) + ["single"] * len(self.model.single_blocks)

    def condition(self, x, timesteps, context=None, y=None, guidance=None, ref_latents=None, ref_latents_method=None, control=None,
                  transformer_options={}, attention_mask=None, **kwargs) -> Hidden:
        model, params, embedding = self.model, self.model.params, self.theirs.timestep_embedding
        options = own_options(transformer_options)
        tokens, img_ids = model.process_img(x, transformer_options=options)  # [B, N, C·p·p]
        image_tokens, at_zero = tokens.shape[1], None
        if ref_latents:
            method = ref_latents_method or params.default_ref_method
            tokens, img_ids = self._with_references(tokens, img_ids, x.shape[-2:], ref_latents, method, options)
            if method == "index_timestep_zero":
                timesteps, at_zero = torch.cat([timesteps, timesteps * 0]), [[image_tokens, tokens.shape[1]]]

        vector = model.time_in(embedding(timesteps, 256).to(x.dtype))  # [B, D], or [2·B, D] with references at time 0
        if params.guidance_embed and guidance is not None:
            vector = vector + model.guidance_in(embedding(guidance, 256).to(x.dtype))
        if model.vector_in is not None:
            if y is None:
                y = torch.zeros((len(x), params.vec_in_dim), device=x.device, dtype=x.dtype)
            vector = vector + model.vector_in(y[:, :params.vec_in_dim])
        text_vector = vector
        if at_zero:
            text_vector, vector = vector[:len(x)], vector.unflatten(0, (2, -1)).movedim(0, 1)  # [B, 2, D]
        double = single = vector
        if params.global_modulation:  # Flux.2: one modulation for all blocks of a kind
            double = (model.double_stream_modulation_img(vector), model.double_stream_modulation_txt(text_vector))
            single, _ = model.single_stream_modulation(vector)

        length = context.shape[1]
        txt_ids = torch.zeros((len(x), length, len(params.axes_dim)), device=x.device, dtype=torch.float32)
        for axis in params.txt_ids_dims:
            txt_ids[:, :, axis] = torch.linspace(0, length - 1, steps=length, device=x.device, dtype=torch.float32)
        if model.txt_norm is not None:
            context = model.txt_norm(context)
        return Hidden(tokens, model.txt_in(context), (vector, double, single), None, 0, {
            "img_ids": img_ids, "txt_ids": txt_ids, "image_tokens": image_tokens, "at_zero": at_zero, "size": x.shape[-2:],
            "attention_mask": attention_mask, "control": control, "transformer_options": options})

    def _with_references(self, tokens, img_ids, size, latents, method: str, options: dict) -> tuple[Tensor, Tensor]:
        """The tokens of reference latents after the picture's own."""
        p, params = self.patch_size, self.model.params
        beyond = tuple((side + p // 2) // p * p for side in size) if method == "uxo" else None
        step = params.ref_index_scale if method in ("index", "index_timestep_zero") else None
        parts, counts = [(tokens, img_ids)], []
        for latent, index, top, left in places(latents, step, beyond):
            parts.append(self.model.process_img(latent, index=index, h_offset=top, w_offset=left, transformer_options=options))
            counts.append(parts[-1][0].shape[1])
        options["reference_image_num_tokens"] = counts
        return tuple(torch.cat(part, dim=1) for part in zip(*parts))

    def _times(self, hidden: Hidden, text: int = 0) -> list[tuple[int, int, int]] | None:
        """(from, to, which time) over the image tokens after `text` text tokens, where the references are at time 0."""
        at_zero = hidden.extra["at_zero"]
        if at_zero is None:
            return None
        at_time = self.theirs.invert_slices(at_zero, hidden.x.shape[1])
        return [(start and start + text, end + text, which) for which, spans in enumerate((at_time, at_zero)) for start, end in spans]

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
        model, options = self.model, args["transformer_options"]
        options.pop("img_slice", None)
        options.update(total_blocks=len(model.double_blocks), block_type="double", block_index=i)

        def double(args):
            img, txt = model.double_blocks[i](img=args["img"], txt=args["txt"], vec=args["vec"], pe=args["pe"],
                                              attn_mask=args.get("attn_mask"), modulation_dims_img=self._times(hidden),
                                              transformer_options=args.get("transformer_options"))
            return {"img": img, "txt": txt}
        out = or_replaced(options, ("double_block", i), double, {"img": x, "txt": context, "vec": hidden.vector[1], **args})
        x, context = out["img"], out["txt"]
        added = residual(hidden.extra["control"], "input", i)
        if added is not None:
            x[:, :added.shape[1]] += added
        return x, context

    def _single(self, i: int, x, context, hidden: Hidden, args: dict):
        model, options, text = self.model, args["transformer_options"], context.shape[1]
        if x.dtype == torch.float16:
            x = torch.nan_to_num(x, nan=0.0, posinf=65504, neginf=-65504)
        joined = torch.cat((context, x), dim=1)
        options.update(total_blocks=len(model.single_blocks), block_type="single", block_index=i, img_slice=[text, joined.shape[1]])

        def single(args):
            return {"img": model.single_blocks[i](args["img"], vec=args["vec"], pe=args["pe"], attn_mask=args.get("attn_mask"),
                                                  modulation_dims=self._times(hidden, text),
                                                  transformer_options=args.get("transformer_options"))}
        joined = or_replaced(options, ("single_block", i), single, {"img": joined, "vec": hidden.vector[2], **args})["img"]
        added = residual(hidden.extra["control"], "output", i)
        if added is not None:
            joined[:, text:text + added.shape[1]] += added
        return joined[:, text:], joined[:, :text]

    def head(self, hidden: Hidden) -> Tensor:
        height, width = hidden.extra["size"]
        p = self.patch_size
        x = self.model.final_layer(hidden.x, hidden.vector[0], modulation_dims=self._times(hidden))  # [B, N, C·p·p]
        x = x[:, :hidden.extra["image_tokens"]]
        x = rearrange(x, "b (h w) (c ph pw) -> b c (h ph) (w pw)", h=(height + p // 2) // p, w=(width + p // 2) // p, ph=p, pw=p)
        return x[:, :, :height, :width]
