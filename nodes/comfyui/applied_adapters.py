"""An adapter's weights over a transformer of ComfyUI, for the length of a call. Imported only where there is a MODEL.

Followed: comfy/ldm/modules/diffusionmodules/mmdit.py and comfy/ldm/flux/model.py of ComfyUI 0.33.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
import math
import re

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from ...dit_impl.errors import BackboneError
from ...dit_impl.model import position
from ...dit_impl.model.copies import plain
from ...dit_impl.sources.adapter_layers import LOW_RANK
from ...dit_impl.tokens.other_sizes import resize_embedding, resize_head
from ...dit_impl.tokens.patch import channels_last_rows, pad_to_patches, patchify, token_grid, unpatchify
from .stages import FluxStages, MMDiTStages
from .stages.base import changed, followed


class AppliedAdapter:
    """An adapter's weights over a transformer of ComfyUI. `low_rank`: which of its linear layers learn; embed, head, time: which of its modules
    are the patch embedding, the head and the embedding of time."""
    low_rank: re.Pattern
    upstream: str
    embed, head, time = "x_embedder", "final_layer.linear", "t_embedder"

    def __init__(self, patch_size: int, weights: Mapping[str, Tensor]):
        self.patch_size, self.weights, self._cast = patch_size, weights, {}

    def part(self, name: str, like: Tensor) -> Tensor:
        """One of the weights where and in what the model computes."""
        weight, key = self.weights[name], (name, like.device, like.dtype)
        if weight.requires_grad:
            return weight.to(like)
        if key not in self._cast:
            self._cast[key] = weight.to(like)
        return self._cast[key]

    def linear(self, name: str, x: Tensor) -> Tensor:
        """The new embedding or head: [..., in] → [..., out]."""
        name = f"{name}.{self.patch_size}"
        bias = self.part(f"{name}.bias", x) if f"{name}.bias" in self.weights else None
        return F.linear(x, self.part(f"{name}.weight", x), bias)

    @property
    def low_ranks(self) -> list[str]:
        """The paths of the layers that have a low-rank addition."""
        return [key.removesuffix(".a") for key in self.weights if key.endswith(".a")]

    def added(self, path: str, x: Tensor) -> Tensor:
        """What is added to a layer's answer: [..., in] → [..., out]."""
        return F.linear(F.linear(x, self.part(f"{path}.a", x)), self.part(f"{path}.b", x))

    @contextmanager
    def on(self, transformer: nn.Module) -> Iterator[None]:
        """While it lasts, the transformer reads patches of the new size; afterwards it is what it was."""
        sizes = []

        def pad(_, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            # the models bring a latent up to whole patches of their own size only
            x, *rest = args
            sizes.append(x.shape[-2:])
            return (pad_to_patches(x, self.patch_size), *rest), kwargs

        def crop(_, args: tuple, answer: Tensor) -> Tensor:
            height, width = sizes.pop()
            return answer[..., :height, :width]
        hooks = [transformer.register_forward_pre_hook(pad, with_kwargs=True), transformer.register_forward_hook(crop)]
        try:
            with changed(self.changes(transformer)):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def changes(self, transformer: nn.Module) -> Iterator[tuple[nn.Module, str, object]]:
        """What is another while it is applied: (whose, attribute, value)."""
        def low(layer: nn.Module, path: str) -> Callable:
            own = layer.forward
            return lambda x: own(x) + self.added(path, x)
        for path in self.low_ranks:
            layer = transformer.get_submodule(path)
            yield layer, "forward", low(layer, path)
        embed, head, time = (transformer.get_submodule(name) for name in (self.embed, self.head, self.time))
        own_time = time.forward
        yield embed, "forward", lambda x: self.linear("x_embedder", self.tokens(x))
        yield head, "forward", lambda x: self.linear("final_layer.linear", x)

        def moved(*args, **kwargs) -> Tensor:
            vector = own_time(*args, **kwargs)
            return vector + self.part("patch_embedder.vector", vector)
        yield time, "forward", moved

    def tokens(self, x: Tensor) -> Tensor:
        """What the model gives its patch embedding → raw tokens [B, N, C·p·p]."""
        return x

    @classmethod
    def own_parts(cls, transformer: nn.Module, patch_size: int) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Embedding [D, C·p·p], its bias, head [C·p·p, D] and its bias of the model's own size; no bias where it has none."""
        embed, head = transformer.get_submodule(cls.embed), transformer.get_submodule(cls.head)
        return tuple(part if part is None else plain(part) for part in (embed.weight, embed.bias, head.weight, head.bias))

    @classmethod
    def fresh(cls, transformer: nn.Module, patch_size: int, own: int, rank: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Weights to begin with: PI-resized embedding and head, no patch-size vector, low-rank additions that add nothing yet."""
        embed, embed_bias, head, head_bias = (part if part is None else part.to(device, torch.float32) for part in cls.own_parts(transformer, own))
        made = {"x_embedder.weight": resize_embedding(embed, own, patch_size), "final_layer.linear.weight": resize_head(head, own, patch_size)}
        if embed_bias is not None:
            made["x_embedder.bias"] = embed_bias
        if head_bias is not None:
            made["final_layer.linear.bias"] = resize_head(head_bias[:, None], own, patch_size).flatten()
        made = {f"{name.rpartition('.')[0]}.{patch_size}.{name.rpartition('.')[2]}": value for name, value in made.items()}
        made["patch_embedder.vector"] = torch.zeros(len(embed), device=embed.device)
        for name, layer in transformer.named_modules():
            if cls.low_rank.fullmatch(name) and hasattr(layer, "in_features"):
                made[f"{name}.a"] = torch.randn(rank, layer.in_features, device=embed.device) / math.sqrt(layer.in_features)
                made[f"{name}.b"] = torch.zeros(layer.out_features, rank, device=embed.device)
        return {name: value.clone() for name, value in made.items()}


class AdaptedMMDiT(AppliedAdapter):
    """Over SD3 and SD3.5, by the names that this library's own MMDiT has: an adapter fits either."""
    low_rank, upstream = LOW_RANK, MMDiTStages.upstream
    _table: tuple[float, float, int] | None = None

    def changes(self, transformer):
        yield from super().changes(transformer)
        yield transformer, "cropped_pos_embed", lambda hw, device=None: self.positions(transformer, hw, device)
        yield transformer, "unpatchify", lambda x, hw: unpatchify(x, self.patch_size, tuple(hw))

    def positions(self, transformer: nn.Module, hw: tuple[int, int], device: torch.device | None = None) -> Tensor:
        """Of the centres of patches of this size over a latent of (H, W): → [1, N, D]."""
        p, own = self.patch_size, transformer.x_embedder.patch_size[0]
        if self._table is None:
            self._table = table_of(transformer)
        start, base, side = self._table
        grid = position.cropped_positions(token_grid(*hw, p), p / own, side, base / side, start)
        return position.sincos_2d(transformer.hidden_size, *grid)[None].to(device)

    def tokens(self, x):
        return patchify(x, self.patch_size)

    @classmethod
    def own_parts(cls, transformer, patch_size):
        embed, head = transformer.x_embedder.proj, transformer.final_layer.linear
        rows = channels_last_rows(len(head.weight), patch_size)
        return plain(embed.weight).flatten(1), plain(embed.bias), plain(head.weight)[rows], plain(head.bias)[rows]


class AdaptedFlux(AppliedAdapter):
    """Over Flux."""
    low_rank = re.compile(r"double_blocks\.\d+\.(img|txt)_(attn\.(qkv|proj)|mlp\.[02])|single_blocks\.\d+\.linear[12]")
    upstream, embed, time = FluxStages.upstream, "img_in", "time_in"

    def changes(self, transformer):
        yield from super().changes(transformer)
        own, size = transformer.process_img, transformer.patch_size

        def process(*args, transformer_options: dict = {}, **kwargs) -> tuple[Tensor, Tensor]:
            return own(*args, transformer_options=self.placed(transformer_options, size), **kwargs)
        yield transformer, "process_img", process
        yield transformer, "patch_size", self.patch_size

    def placed(self, options: dict, own: int) -> dict:
        """transformer_options that tell the rotary positions of this size's patches, on the grid of the model's own size."""
        # patch i covers what is of the model's own patches from scale·i to scale·(i + 1): its middle is told
        rope, scale = options.get("rope_options") or {}, self.patch_size / own
        return {**options, "rope_options": {
            **rope, **{f"scale_{axis}": rope.get(f"scale_{axis}", 1.0) * scale for axis in "xy"},
            **{f"shift_{axis}": rope.get(f"shift_{axis}", 0.0) + (scale - 1) / 2 for axis in "xy"}}}


KINDS = (AdaptedMMDiT, AdaptedFlux)


def kind_of(transformer: nn.Module, name: str) -> type[AppliedAdapter]:
    """How an adapter goes over this transformer. Raises BackboneError."""
    for kind in KINDS:
        if followed(transformer, kind.upstream):
            return kind
    raise BackboneError(f"{name} can have no patch-size adapter: it is for SD3, SD3.5 and Flux, and for the pack's own models")


def table_of(transformer: nn.Module) -> tuple[float, float, int]:
    """SD3's position table: its first coordinate, the length it covers, its side."""
    side, start, unit = position.table_coordinates(plain(transformer.pos_embed)[0].cpu())
    return start, unit * side, side
