"""Patches: the permutation between a latent and its tokens."""

from einops import rearrange
import torch
from torch import Tensor
import torch.nn.functional as F

_LATENT = "b c (t f) (h p) (w q)"
_TOKENS = "b (t h w) (c f p q)"


def token_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """How many rows and columns of tokens cover a latent. If p does not divide a side, the last row or column is padded."""
    return -(-height // patch_size), -(-width // patch_size)


def pad_to_patches(latent: Tensor, patch_size: int) -> Tensor:
    """Pad H and W up to multiples of p, wrapping around as ComfyUI does: [B, C, …, H, W] → [B, C, …, h·p, w·p]."""
    height, width = latent.shape[-2:]
    for side, length in (("height", height), ("width", width)):
        if length < patch_size:
            raise ValueError(f"latent {side} {length} is smaller than patch size {patch_size}")
    h, w = token_grid(height, width, patch_size)
    if (h * patch_size, w * patch_size) == (height, width):
        return latent
    padding = (0, w * patch_size - width, 0, h * patch_size - height)
    if latent.dim() == 5:  # F.pad pads three dimensions in circular mode, or none
        padding += (0, 0)
    return F.pad(latent, padding, mode="circular")


def patchify(latent: Tensor, patch_size: int, frame_patch: int = 1) -> Tensor:
    """Fold a latent into tokens: [B, C, H, W] → [B, N, C·p·p], row-major over the grid. Peebles & Xie 2022, §3.2.

    A video's latent [B, C, T, H, W] → [B, N, C·f·p·p], with f frames in a patch, earlier frames first (Wan 2025, §4.2).
    It only reorders values: nothing is learned and nothing is lost. If p does not divide the size, the latent is padded first.
    """
    padded = pad_to_patches(latent, patch_size)
    if latent.dim() == 4:
        padded = padded.unsqueeze(2)
    return rearrange(padded, f"{_LATENT} -> {_TOKENS}", f=frame_patch, p=patch_size, q=patch_size)


def unpatchify(tokens: Tensor, patch_size: int, size: tuple[int, ...], frame_patch: int = 1) -> Tensor:
    """The inverse of `patchify`, with the padding cropped: → [B, C, H, W] for size (H, W), [B, C, T, H, W] for (T, H, W)."""
    h, w = token_grid(*size[-2:], patch_size)
    latent = rearrange(tokens, f"{_TOKENS} -> {_LATENT}", h=h, w=w, f=frame_patch, p=patch_size, q=patch_size)
    latent = latent[..., :size[-2], :size[-1]]
    return latent.squeeze(2) if len(size) == 2 else latent


def channels_last_rows(values: int, patch_size: int) -> Tensor:
    """The order of rows that makes a head with output (p, q, C), as in SD3 and DiT, give (C, p, q): → indices [values]."""
    channels = values // patch_size ** 2
    return torch.arange(values).view(patch_size, patch_size, channels).permute(2, 0, 1).flatten()
