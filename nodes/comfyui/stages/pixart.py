"""PixArt-α and PixArt-Σ by stages. Follows comfy.ldm.pixart.pixartms.PixArtMS as of ComfyUI 0.33.0, which takes no patches."""

from contextlib import contextmanager

import torch
from torch import Tensor

from ....dit_impl.errors import StagesError
from .base import Attention, Hear, Hidden, Look, ModelStages, own_options, unseen


class PixArtStages(ModelStages):
    name = "PixArt"
    upstream = "comfy.ldm.pixart.pixartms.PixArtMS"
    reads_text = "y_embedder.y_proj.fc1"
    embed, final, usual_text = "x_embedder.proj", "final_layer.linear", 300
    of_image = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\..*|cross_attn\.(q_linear|proj))"
    of_text = r"blocks\.\d+\.cross_attn\.kv_linear|y_embedder\.y_proj\.fc2"
    rewritten = ("forward", "forward_orig")
    needs = ("micro_conditioning", "pe_interpolation", "pe_precision", "hidden_size", "t_embedder", "t_block", "y_embedder", "x_embedder",
             "blocks", "final_layer", "unpatchify", "pred_sigma", "in_channels")

    @property
    def blocks(self):
        return self.model.blocks

    @property
    def heads(self) -> int:
        return self.model.num_heads

    @property
    def kinds(self) -> list[str]:
        return ["layer"] * len(self.model.blocks)

    def attended(self, width):
        if any(block.attn.sr_ratio > 1 for block in self.blocks):
            raise StagesError(f"{self.name} merges the keys of neighbours in some blocks, whose cost is not known here")
        return {"image_to_image": width * len(self.kinds), "image_to_text": width * len(self.kinds)}

    def attentions(self, hidden: Hidden, tokens: int, block: int = 0) -> list[Attention]:
        image, text = {"image": range(tokens)}, self.text_tokens(hidden)
        return [Attention(image, image, tokens), Attention(image, {"text": text}, len(text))]

    @contextmanager
    def observe(self, i: int, look: Look = unseen, hear: Hear = unseen):
        """Upstream hands these blocks no transformer_options; what their projections give is looked at in place of attention. What comes out is
        not heard: no text reads the picture here."""
        own, cross, queries = self.blocks[i].attn, self.blocks[i].cross_attn, []
        if own.sr_ratio > 1:
            raise StagesError(f"block {i} of {self.name} merges the keys of neighbours: there is no key for each token")

        def keep(module, args, out: Tensor) -> None:
            queries.append(out)

        def show(number: int):
            def hook(module, args, out: Tensor) -> None:
                q = queries.pop()  # [B, N, D]
                k = out[..., :q.shape[-1]].reshape(len(q), -1, q.shape[-1])  # without the values, where they are beside the keys
                q, k = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k))
                if look(number, q, k, q.shape[-1] ** -0.5, None) is not None:
                    raise StagesError(f"{self.name}'s attention takes no mask from outside: its image tokens read all others")
            return hook
        hooks = [module.register_forward_hook(hook) for module, hook in (
            (own.q_norm, keep), (own.k_norm, show(0)), (cross.q_linear, keep), (cross.kv_linear, show(1)))]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def condition(self, x, timesteps, context=None, c_size=None, c_ar=None, transformer_options={}, **kwargs) -> Hidden:
        model, (batch, _, height, width) = self.model, x.shape
        time = model.t_embedder(timesteps, x.dtype)  # [B, D]
        if model.micro_conditioning:
            if c_size is None:
                c_size = torch.tensor([height * 8, width * 8], dtype=x.dtype, device=x.device).repeat(batch, 1)
            if c_ar is None:
                c_ar = torch.tensor([height / width], dtype=x.dtype, device=x.device).repeat(batch, 1)
            time = time + torch.cat([model.csize_embedder(c_size, batch), model.ar_embedder(c_ar, batch)], dim=1)
        if context.ndim == 3:
            context = context.unsqueeze(1)
        context = model.y_embedder(context, model.training).squeeze(1)  # [B, T, D]
        return Hidden(x, context, (time, model.t_block(time)), None, 0, {
            "size": (height, width), "transformer_options": own_options(transformer_options)})

    def patch_embed(self, hidden: Hidden) -> Hidden:
        return hidden.but(x=self.model.x_embedder(hidden.x))

    def position_embed(self, hidden: Hidden) -> Hidden:
        model, p, (height, width) = self.model, self.patch_size, hidden.extra["size"]
        side = (height + width) // 2
        interpolation = model.pe_interpolation
        if interpolation is None or model.pe_precision is not None:
            interpolation = round(side / (512 / 8.0), model.pe_precision or 0)
        table = self.theirs.get_2d_sincos_pos_embed_torch(
            model.hidden_size, h=height // p, w=width // p, pe_interpolation=interpolation, base_size=round(side / 64) * 64 // p,
            device=hidden.x.device, dtype=hidden.x.dtype)
        return hidden.but(x=hidden.x + table.unsqueeze(0))

    def block(self, i: int, x, context, hidden: Hidden, options: dict):
        text = context.reshape(1, -1, context.shape[-1])  # as upstream packs it
        return self.model.blocks[i](x, text, hidden.vector[1], None, hidden.extra["size"]), context

    def head(self, hidden: Hidden) -> Tensor:
        model = self.model
        x = model.final_layer(hidden.x, hidden.vector[0])  # [B, N, p·p·C]
        x = model.unpatchify(x, *hidden.extra["size"])
        return x[:, :model.in_channels] if model.pred_sigma else x
