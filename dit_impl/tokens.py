"""DIT_TOKENS: raw patch tokens on the wire, a plain dict as LATENT is.

    tokens         [B, N, C·p·p], each patch flattened as (C, p_row, p_col), row-major over the grid
    patch_size     p
    grid           (h, w) in tokens, N = h·w
    channels       C
    size           (H, W) of the latent before padding
    latent_format  {"scale": [C], "shift": [C]}: DiT space = (VAE latent − shift)·scale
    memory         (optional) what a multistep solver keeps: {"x0": tokens, "sigma": []}
"""

import torch
from torch import Tensor

from .patch import patchify, token_grid, unpatchify

LatentFormat = dict[str, Tensor]


class TokensError(ValueError):
    """Tokens or a latent that don't fit: one line that names the rule and the value."""


def identity_format(channels: int) -> LatentFormat:
    """The format of a latent that is taken as it is."""
    return {"scale": torch.ones(channels), "shift": torch.zeros(channels)}


def same_format(a: LatentFormat, b: LatentFormat) -> bool:
    """Whether two latent formats are the same map."""
    return torch.equal(a["scale"], b["scale"]) and torch.equal(a["shift"], b["shift"])


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).view(1, -1, 1, 1)


def into_dit_space(latent: Tensor, latent_format: LatentFormat) -> Tensor:
    """VAE latent → DiT space: [B, C, H, W] → same. An empty (all-zero) latent stays empty, as in ComfyUI."""
    if not latent.any():
        return latent
    return (latent - _shaped(latent_format["shift"], latent)) * _shaped(latent_format["scale"], latent)


def out_of_dit_space(latent: Tensor, latent_format: LatentFormat) -> Tensor:
    """DiT space → VAE latent: [B, C, H, W] → same."""
    return latent / _shaped(latent_format["scale"], latent) + _shaped(latent_format["shift"], latent)


def check_latent(latent: Tensor, patch_size: int) -> None:
    """Raise TokensError unless a latent is a finite [B, C, H, W] that patches of p fit into."""
    if latent.dim() != 4:
        raise TokensError(f"a latent is [B, C, H, W], not {list(latent.shape)}")
    if patch_size < 1:
        raise TokensError(f"patch_size is at least 1, not {patch_size}")
    for name, length in zip(("height", "width"), latent.shape[-2:]):
        if length < patch_size:
            raise TokensError(f"latent {name} {length} is smaller than patch_size {patch_size}")
    if not torch.isfinite(latent).all():
        raise TokensError(f"the latent holds {(~torch.isfinite(latent)).sum().item()} values that are NaN or infinite")


def fold(latent: Tensor, patch_size: int, latent_format: LatentFormat | None = None) -> dict:
    """Latent, as a VAE gives it → DIT_TOKENS: [B, C, H, W] → dict. Raises TokensError."""
    check_latent(latent, patch_size)
    latent_format = latent_format or identity_format(latent.shape[1])
    if not latent.any():  # an empty latent takes the model's channels, as in ComfyUI
        latent = latent.new_zeros(latent.shape[0], len(latent_format["scale"]), *latent.shape[-2:])
    if len(latent_format["scale"]) != latent.shape[1]:
        raise TokensError(f"the model's latents have {len(latent_format['scale'])} channels, this one has {latent.shape[1]}")
    size = tuple(latent.shape[-2:])
    return {"tokens": patchify(into_dit_space(latent.float(), latent_format), patch_size), "patch_size": patch_size,
            "grid": token_grid(*size, patch_size), "channels": latent.shape[1], "size": size,
            "latent_format": latent_format}


def unfold(wire: dict) -> Tensor:
    """DIT_TOKENS → latent, as a VAE takes it: dict → [B, C, H, W]."""
    return out_of_dit_space(unpatchify(wire["tokens"], wire["patch_size"], wire["size"]), wire["latent_format"])


def with_tokens(wire: dict, tokens: Tensor, memory: dict | None = None) -> dict:
    """The same grid with other values; `memory` replaces what a solver carried."""
    changed = {**wire, "tokens": tokens, "memory": memory}
    if memory is None:
        del changed["memory"]
    return changed


def noise_like(wire: dict, seed: int) -> Tensor:
    """The noise KSampler draws for this seed, in tokens: → [B, N, C·p·p]. Drawn in latent layout on the CPU, then folded,
    so that it is the same picture of noise for every patch size."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(wire["tokens"].shape[0], wire["channels"], *wire["size"], generator=generator)
    return patchify(latent, wire["patch_size"])


def describe(wire: dict) -> str:
    """The token arithmetic in words: `1024 tokens of 16 values: a 32×32 grid of 2×2 patches of a 64×64×4 latent`."""
    (h, w), (height, width), p, channels = wire["grid"], wire["size"], wire["patch_size"], wire["channels"]
    text = (f"{h * w} tokens of {channels * p * p} values: a {h}×{w} grid of {p}×{p} patches "
            f"of a {height}×{width}×{channels} latent")
    return text if (h * p, w * p) == (height, width) else f"{text}, padded to {h * p}×{w * p}"
