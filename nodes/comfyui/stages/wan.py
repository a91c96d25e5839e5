"""Wan 2.1 and 2.2 (text to video, image to video) by stages. Follows comfy.ldm.wan.model.WanModel as of ComfyUI 0.33.0."""

import torch
from torch import Tensor

from ....dit_impl.errors import StagesError
from .base import Attention, Hidden, ModelStages, or_replaced, own_options


class WanStages(ModelStages):
    name = "Wan"
    upstream = "comfy.ldm.wan.model.WanModel"
    reads_text = "text_embedding.0"
    positions, rotary, trained = "rotary", "rope_embedder", 80  # 1280 pixels
    rewritten = ("forward", "_forward", "forward_orig")
    needs = ("patch_embedding", "rope_encode", "freq_dim", "dim", "time_embedding", "time_projection", "text_embedding", "img_emb",
             "ref_conv", "blocks", "head", "unpatchify")

    @property
    def blocks(self):
        return self.model.blocks

    @property
    def heads(self) -> int:
        return self.model.num_heads

    @property
    def width(self) -> int:
        return self.model.dim

    @property
    def kinds(self) -> list[str]:
        return ["layer"] * len(self.model.blocks)

    @property
    def patch_size(self) -> int:
        return self.model.patch_size[-1]

    def architecture(self, name, channels, downscale):
        raise StagesError(f"the layers of {self.name} are counted by its own forward")

    def first_token(self, hidden: Hidden) -> int:
        return hidden.extra["img_offset"]

    def attentions(self, hidden: Hidden, tokens: int, block: int = 0) -> list[Attention]:
        offset, shown = hidden.extra["img_offset"], hidden.extra["image_context"] or 0
        image, text = range(offset, offset + tokens), range(hidden.context.shape[1] - shown)
        own = Attention({"image": image}, {"image": image}, hidden.x.shape[1])
        to_start_image = [Attention({"image": image}, {}, shown)] if hasattr(self.blocks[0].cross_attn, "k_img") else []
        return [own, *to_start_image, Attention({"image": image}, {"text": text}, len(text))]

    def condition(self, x, timesteps, context=None, clip_fea=None, time_dim_concat=None, transformer_options={}, reference_latent=None,
                  context_latents=(), **kwargs) -> Hidden:
        model, size = self.model, x.shape[2:]
        time = model.time_embedding(self.theirs.sinusoidal_embedding_1d(model.freq_dim, timesteps.flatten()).to(dtype=x.dtype))
        time = time.reshape(len(timesteps), -1, time.shape[-1])  # [B, 1 or frames, D]
        modulation = model.time_projection(time).unflatten(2, (6, model.dim))
        context = model.text_embedding(context)  # [B, T, D]
        if clip_fea is not None and model.img_emb is not None:
            context = torch.concat([model.img_emb(clip_fea), context], dim=1)
        x = self._padded(x)
        if time_dim_concat is not None:
            x = torch.cat([x, self._padded(time_dim_concat)], dim=2)
        return Hidden(x, context, (time, modulation), None, 0, {
            "size": size, "latent": x, "image_context": None if clip_fea is None else clip_fea.shape[-2],
            "reference": None if model.ref_conv is None else reference_latent,
            "context_latents": [self._padded(latent) for latent in context_latents or ()],
            "transformer_options": own_options(transformer_options)})

    def _padded(self, latent: Tensor) -> Tensor:
        return self.theirs.comfy.ldm.common_dit.pad_to_patch_size(latent, self.model.patch_size)

    def _embedded(self, latent: Tensor) -> Tensor:
        """[B, C, T, H, W] → [B, D, t, h, w]; the convolution is kept in float32."""
        return self.model.patch_embedding(latent.float()).to(latent.dtype)

    def patch_embed(self, hidden: Hidden) -> Hidden:
        extra, x = hidden.extra, self._embedded(hidden.x)
        grid, x = x.shape[2:], x.flatten(2).transpose(1, 2)  # [B, N, D]
        offset = 0
        if extra["reference"] is not None:
            reference = self.model.ref_conv(extra["reference"]).flatten(2).transpose(1, 2)
            x, offset = torch.concat((reference, x), dim=1), reference.shape[1]
        end = x.shape[1]
        for latent in extra["context_latents"]:
            x = torch.cat([x, self._embedded(latent.to(x.device)).flatten(2).transpose(1, 2)], dim=1)
        return hidden.but(x=x, extra={"grid": grid, "img_offset": offset, "end": end,
                                      "transformer_options": extra["transformer_options"] | {"grid_sizes": grid}})

    def position_embed(self, hidden: Hidden) -> Hidden:
        extra, x = hidden.extra, hidden.extra["latent"]
        _, height, width = extra["size"]
        made = {"device": x.device, "dtype": x.dtype, "transformer_options": extra["transformer_options"]}
        tables = [self.model.rope_encode(x.shape[2] + (extra["reference"] is not None), height, width, **made)]
        tables += [self.model.rope_encode(*latent.shape[2:], source_id=i, **made) for i, latent in enumerate(extra["context_latents"], 1)]
        return hidden.but(position=torch.cat(tables, dim=1))

    def block(self, i: int, x, context, hidden: Hidden, options: dict):
        time, modulation = hidden.vector
        options.update(total_blocks=len(self.kinds), block_type="double", block_index=i)

        def layer(args):
            return {"img": self.model.blocks[i](args["img"], context=args["txt"], e=args["vec"], freqs=args["pe"],
                                                context_img_len=hidden.extra["image_context"],
                                                transformer_options=args["transformer_options"])}
        x = or_replaced(options, ("double_block", i), layer, {
            "img": x, "txt": context, "vec": modulation, "pe": hidden.position, "transformer_options": options})["img"]
        for patch in options.get("patches", {}).get("double_block", ()):
            x = patch({"img": x, "x": hidden.extra["latent"], "vec": time, "block_index": i, "img_offset": hidden.extra["img_offset"],
                       "transformer_options": options})["img"]
        return x, context

    def head(self, hidden: Hidden) -> Tensor:
        frames, height, width = hidden.extra["size"]
        x = self.model.head(hidden.x, hidden.vector[0])[:, hidden.extra["img_offset"]:hidden.extra["end"]]
        return self.model.unpatchify(x, hidden.extra["grid"])[:, :, :frames, :height, :width]
