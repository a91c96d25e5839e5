"""Patches: the permutation between a latent and its tokens."""

from einops import rearrange
import torch
from torch import Tensor
import torch.nn.functional as F

_LATENT = "b c (h p) (w q)"
_TOKENS = "b (h w) (c p q)"


def token_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of tokens that cover a latent of this size, the last ones padded where p does not divide it."""
    return -(-height // patch_size), -(-width // patch_size)


def pad_to_patches(latent: Tensor, patch_size: int) -> Tensor:
    """Pad H and W up to multiples of p, wrapping around as ComfyUI does: [B, C, H, W] → [B, C, h·p, w·p]."""
    height, width = latent.shape[-2:]
    for side, length in (("height", height), ("width", width)):
        if length < patch_size:
            raise ValueError(f"latent {side} {length} is smaller than patch size {patch_size}")
    h, w = token_grid(height, width, patch_size)
    if (h * patch_size, w * patch_size) == (height, width):
        return latent
    return F.pad(latent, (0, w * patch_size - width, 0, h * patch_size - height), mode="circular")


def patchify(latent: Tensor, patch_size: int) -> Tensor:
    """Fold a latent into tokens: [B, C, H, W] → [B, N, C·p·p], row-major over the grid. Peebles & Xie 2022, §3.2.

    A permutation: nothing is learned and nothing is lost. Sizes that p does not divide are padded first.
    """
    return rearrange(pad_to_patches(latent, patch_size), f"{_LATENT} -> {_TOKENS}", p=patch_size, q=patch_size)


def unpatchify(tokens: Tensor, patch_size: int, size: tuple[int, int]) -> Tensor:
    """Lay tokens back out as a latent and crop the padding: [B, N, C·p·p] → [B, C, H, W], size = (H, W)."""
    h, w = token_grid(*size, patch_size)
    latent = rearrange(tokens, f"{_TOKENS} -> {_LATENT}", h=h, w=w, p=patch_size, q=patch_size)
    return latent[..., :size[0], :size[1]]


def channels_last_rows(values: int, patch_size: int) -> Tensor:
    """Row order that turns a head answering in (p, q, C), as SD3's and DiT's do, into (C, p, q): → [values] indices."""
    channels = values // patch_size ** 2
    return torch.arange(values).view(patch_size, patch_size, channels).permute(2, 0, 1).flatten()
