"""Pixel space: what stands for a VAE where a transformer reads pictures themselves, a cell for each pixel. Li & He 2025 (JiT), §3."""

from typing import NoReturn

import torch
from torch import Tensor

from ..errors import StandInError
from ..tokens.wire import check_finite
from .stand_in import StandInVAE

CHANNELS = 3
# values of −1..1 are shown as they are: a linear map to RGB 0..1, the last row added
AS_RGB = torch.cat([0.5 * torch.eye(CHANNELS), torch.full((1, CHANNELS), 0.5)])


class PixelSpace(StandInVAE):
    """The calls that ComfyUI's nodes make of a VAE: pictures [B, H, W, 3] in 0..1 ↔ [B, 3, H, W] in −1..1. Nothing is lost."""
    of, does = "pixel space", "takes pictures as they are"
    latent_channels, downscale_ratio = CHANNELS, 1

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, H, W, 1, 3 or more] in 0..1 → [B, 3, H, W] in −1..1. Raises TokensError for NaN."""
        check_finite(pixels, "picture")
        if pixels.shape[-1] == 1:  # grey
            pixels = pixels.expand(-1, -1, -1, CHANNELS)
        return (pixels[..., :CHANNELS].movedim(-1, 1).float() * 2 - 1).contiguous()

    def decode(self, latent: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, H, W, 3] in 0..1. Raises ValueError for a latent."""
        if latent.dim() != 4 or latent.shape[1] != CHANNELS:
            raise ValueError(f"pixel space has pictures of {CHANNELS} channels, not {list(latent.shape)}: a latent needs its own VAE")
        check_finite(latent, "picture")
        return (latent.float().movedim(1, -1) / 2 + 0.5).clamp(0, 1).contiguous()

    def get_sd(self) -> NoReturn:
        raise StandInError("pixel space has no weights to save")
