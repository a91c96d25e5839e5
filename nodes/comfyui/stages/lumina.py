"""Lumina 2 and Z-Image by stages. Follows comfy.ldm.lumina.model.NextDiT as of ComfyUI 0.33.0.

Text tokens come before image tokens in every layer. The refiners, small stacks over the text alone and the image alone, run in
`condition` and in `position_embed`, so that `blocks` are the layers that see both.
"""

import torch
from torch import Tensor

from ....dit_impl.errors import StagesError
from .base import Hidden, ModelStages, own_options


class LuminaStages(ModelStages):
    name = "Lumina 2 and Z-Image"
    upstream = "comfy.ldm.lumina.model.NextDiT"
    reads_text = "cap_embedder.1"
    embed, final = "x_embedder", "final_layer.linear"
    of_image, of_text = (rf"(layers|{refiner})\.\d+\.(attention|feed_forward)\..*" for refiner in ("noise_refiner", "context_refiner"))
    positions, rotary = "rotary", "rope_embedder"
    rewritten = ("forward", "_forward", "patchify_and_embed", "embed_all")
    needs = ("t_embedder", "time_scale", "clip_text_pooled_proj", "embed_cap", "context_refiner", "x_embedder", "pad_tokens_multiple",
             "rope_embedder", "noise_refiner", "layers", "final_layer", "unpatchify")

    @property
    def blocks(self):
        return self.model.layers

    @property
    def heads(self) -> int:
        return self.model.layers[0].attention.n_local_heads

    @property
    def kinds(self) -> list[str]:
        return ["layer"] * len(self.model.layers)

    def attended(self, width):
        model = self.model
        return {"joint": width * len(model.layers), "image_to_image": width * len(model.noise_refiner),
                "text_to_text": width * len(model.context_refiner), "multiple": model.pad_tokens_multiple or 1}

    def first_token(self, hidden: Hidden) -> int:
        return 0

    def text_tokens(self, hidden: Hidden) -> range:
        return range(hidden.extra["text_length"])  # after it the text may be padded

    def condition(self, x, timesteps, context=None, ref_latents=(), clip_text_pooled=None, transformer_options={}, **kwargs) -> Hidden:
        if ref_latents:
            raise StagesError("the stages of Lumina 2 and Z-Image take no reference latents; use DiT Denoise Step")
        model, comfy, options, size = self.model, self.theirs.comfy, own_options(transformer_options), x.shape[-2:]
        x = comfy.ldm.common_dit.pad_to_patch_size(x, (self.patch_size, self.patch_size))
        vector = model.t_embedder((1.0 - timesteps) * model.time_scale, dtype=x.dtype)  # [B, D]
        if model.clip_text_pooled_proj is not None:
            pooled = (torch.zeros((len(x), model.clip_text_dim), device=x.device, dtype=x.dtype) if clip_text_pooled is None
                      else model.clip_text_pooled_proj(clip_text_pooled))
            vector = model.time_text_embed(torch.cat((vector, pooled), dim=-1))
        (context,), (text_position,), length = model.embed_cap(context, bsz=1, device=x.device, dtype=x.dtype)
        context = comfy.utils.repeat_to_batch_size(context, len(x))  # [B, T, D]
        for layer in model.context_refiner:
            context = layer(context, None, text_position, transformer_options=options)
        return Hidden(x, context, vector, None, 0, {
            "text_position": text_position, "text_length": length, "latent": x, "size": size, "transformer_options": options})

    def patch_embed(self, hidden: Hidden) -> Hidden:
        p, (batch, channels, height, width) = self.patch_size, hidden.x.shape
        x = hidden.x.view(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        x = self.model.x_embedder(x)  # [B, N, D]
        if self.model.pad_tokens_multiple is not None:
            x, _ = self.theirs.pad_zimage(x, self.model.x_pad_token, self.model.pad_tokens_multiple)
        return hidden.but(x=x)

    def position_embed(self, hidden: Hidden) -> Hidden:
        model, p, x, options = self.model, self.patch_size, hidden.x, hidden.extra["transformer_options"].copy()
        height, width = hidden.extra["latent"].shape[-2:]
        ids = self.theirs.pos_ids_x(hidden.context.shape[1] + 1, height // p, width // p, 1, x.device, transformer_options=options)
        ids = torch.nn.functional.pad(ids, (0, 0, 0, x.shape[1] - ids.shape[1]))
        position = model.rope_embedder(ids).movedim(1, 2)
        for i, layer in enumerate(model.noise_refiner):
            x = layer(x, None, position, hidden.vector, transformer_options=options)
            for patch in options.get("patches", {}).get("noise_refiner", ()):
                x = patch({"img": x, "img_input": hidden.x, "txt": hidden.context, "pe": position, "vec": hidden.vector,
                           "x": hidden.extra["latent"], "block_index": i, "transformer_options": options,
                           "block_type": "noise_refiner"}).get("img", x)
        position = torch.cat((hidden.extra["text_position"], position), dim=1)
        return hidden.but(x=x, position=position.to(x.device), extra={"img_input": x})

    def block(self, i: int, x, context, hidden: Hidden, options: dict):
        text, joined = context.shape[1], torch.cat((context, x), dim=1)
        options.update(total_blocks=len(self.model.layers), block_type="double", block_index=i)
        joined = self.model.layers[i](joined, None, hidden.position, hidden.vector, transformer_options=options)
        for patch in options.get("patches", {}).get("double_block", ()):
            out = patch({"img": joined[:, text:], "img_input": hidden.extra["img_input"], "txt": joined[:, :text],
                         "pe": hidden.position[:, text:], "vec": hidden.vector, "x": hidden.extra["latent"], "block_index": i,
                         "transformer_options": options})
            joined[:, text:] = out.get("img", joined[:, text:])
            joined[:, :text] = out.get("txt", joined[:, :text])
        return joined[:, text:], joined[:, :text]

    def head(self, hidden: Hidden) -> Tensor:
        (batch, text), latent, (height, width) = hidden.context.shape[:2], hidden.extra["latent"], hidden.extra["size"]
        x = self.model.final_layer(torch.cat((hidden.context, hidden.x), dim=1), hidden.vector)  # [B, T + N, p·p·C]
        x = self.model.unpatchify(x, [latent.shape[-2:]] * batch, [text] * batch, return_tensor=True)
        return -x[:, :, :height, :width]
