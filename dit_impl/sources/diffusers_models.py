"""Transformers that the diffusers library runs, behind the call that our own models answer: PixArt and Flux, whole."""

from collections.abc import Mapping
from dataclasses import dataclass
import inspect
import json
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..libraries import diffusers_part
from ..model.conditioning import TextConditions
from ..reading import Between, check_value
from ..tokens.patch import patchify, unpatchify
from .checkpoints import METADATA_KEY, load_strictly, read_safetensors
from .diffusers_parts import check_count
from .layouts import Shapes


@dataclass(frozen=True)
class WrappedConfig:
    """A diffusers class and what it was built with. `downscale`: pixels to a latent cell."""
    patch_sizes: tuple[int, ...]
    in_channels: int
    class_name: str
    settings: Mapping
    downscale: int


class PixArt(nn.Module):
    """PixArt-α and PixArt-Σ: cross-attention to masked text. Chen et al. 2023, §2.2; 2024."""

    def __init__(self, transformer: nn.Module, downscale: int):
        super().__init__()
        self.transformer = transformer
        c = transformer.config
        self.config = WrappedConfig((c.patch_size,), c.in_channels, type(transformer).__name__, settings_of(transformer), downscale)
        self.conditions = TextConditions(c.caption_channels or c.cross_attention_dim, masked=True)

    def forward(self, tokens: Tensor, grid: tuple[int, int], patch_size: int, t: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """[B, N, C·p·p], times [B], text [B, T, E] and its mask [B, T] → ε in tokens, without the variance PixArt also answers."""
        height, width = (length * patch_size for length in grid)
        answer = self.transformer(
            unpatchify(tokens, patch_size, (height, width)), encoder_hidden_states=context, timestep=t,
            encoder_attention_mask=mask, added_cond_kwargs=self._picture(height, width, tokens), return_dict=False)[0]
        return patchify(answer[:, :self.config.in_channels], patch_size)

    def _picture(self, height: int, width: int, like: Tensor) -> dict[str, Tensor | None]:
        """PixArt-α at 1024 is told the picture's size: resolution [B, 2] in pixels and aspect ratio [B, 1]."""
        if not self.transformer.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        size = like.new_tensor([[height, width]]) * self.config.downscale
        return {"resolution": size.repeat(len(like), 1), "aspect_ratio": like.new_full((len(like), 1), height / width)}


class Flux(nn.Module):
    """Flux.1: text and image in one sequence, rotary positions. Its packed latents are our tokens of patch size 2."""

    def __init__(self, transformer: nn.Module, downscale: int):
        super().__init__()
        self.transformer = transformer
        c = transformer.config
        self.config = WrappedConfig((2,), c.in_channels // 4, type(transformer).__name__, settings_of(transformer), downscale)
        self.conditions = TextConditions(c.joint_attention_dim, c.pooled_projection_dim, guided=c.guidance_embeds)

    def forward(self, tokens: Tensor, grid: tuple[int, int], patch_size: int, t: Tensor, context: Tensor, pooled: Tensor,
                guidance: Tensor | None = None) -> Tensor:
        """[B, N, C·2·2], times 0..1000 [B], text [B, T, E] and [B, P], guidance strength [B] → velocity in tokens."""
        places = torch.zeros(*grid, 3, device=tokens.device)
        places[..., 1] = torch.arange(grid[0], device=tokens.device)[:, None]
        places[..., 2] = torch.arange(grid[1], device=tokens.device)
        return self.transformer(
            tokens, encoder_hidden_states=context, pooled_projections=pooled, timestep=t / 1000, guidance=guidance,
            img_ids=places.flatten(0, 1), txt_ids=places.new_zeros(context.shape[1], 3), return_dict=False)[0]


DEPTHS = {"num_layers": "transformer_blocks", "num_single_layers": "single_transformer_blocks"}
Cells = Annotated[int, Between(1, 2048)]  # a side of a latent, of up to 16,384 pixels
WRAPPERS = {"PixArtTransformer2DModel": PixArt, "FluxTransformer2DModel": Flux}


def settings_of(transformer: nn.Module) -> dict:
    """What a diffusers model was built with, as JSON can hold it."""
    return json.loads(json.dumps({key: value for key, value in transformer.config.items() if not key.startswith("_")}))


def wrap(class_name: str, settings: Mapping, downscale: int, tensors: Mapping[str, Tensor], name: str) -> PixArt | Flux:
    """Build a diffusers transformer from its config.json and give it exactly these tensors. Raises CheckpointError and LibraryError."""
    cls = diffusers_part(class_name, name)
    known = inspect.signature(cls.__init__).parameters
    settings = {key: value for key, value in settings.items() if key in known}
    for key, blocks in DEPTHS.items():
        if key in settings:
            check_count(name, key, settings[key], Shapes(tensors).depth(blocks))
    check_value(f"{name}/config.json: sample_size", settings.get("sample_size", 1), Cells, CheckpointError)
    try:
        with torch.device("meta"):
            transformer = cls.from_config(settings)
    except Exception as error:  # whatever a class makes of settings that do not fit it
        raise CheckpointError(f"{name}: its config.json describes no {class_name}: {' '.join(str(error).split())[:200]}") from None
    load_strictly(transformer, tensors, name, dtype=None)
    # no larger than what was just loaded
    shallow = cls.from_config({**settings, **{depth: 0 for depth in DEPTHS if depth in known}})
    for key, buffer in shallow.named_buffers():  # tables that are computed, not stored
        parent, _, last = key.rpartition(".")
        transformer.get_submodule(parent).register_buffer(last, buffer, persistent=False)
    return WRAPPERS[class_name](transformer.eval().requires_grad_(False), downscale)


def is_wrapped(metadata: Mapping[str, str]) -> bool:
    """Whether a file's metadata tells of one of these models."""
    return '"class_name"' in metadata.get(METADATA_KEY, "")


def load_wrapped(path: Path) -> PixArt | Flux:
    """Read what `save_model` wrote of one of these models, in the type it has there. Raises CheckpointError."""
    tensors, metadata = read_safetensors(path)
    try:
        config = json.loads(metadata[METADATA_KEY])
        class_name, settings, downscale = config["class_name"], dict(config["settings"]), int(config["downscale"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        raise CheckpointError(f"{path}: metadata {METADATA_KEY!r} describes no model of diffusers") from None
    if class_name not in WRAPPERS:
        raise CheckpointError(f"{path}: its transformer is a {str(class_name)[:80]}, known are {', '.join(WRAPPERS)}")
    return wrap(class_name, settings, downscale,
                {key.removeprefix("transformer."): value for key, value in tensors.items()}, str(path))
