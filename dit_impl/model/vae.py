"""A small convolutional VAE that makes latents 8 times smaller than the picture. Patches are cut from its latents."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
import torch.nn.functional as F


@dataclass(frozen=True)
class VAEConfig:
    latent_channels: int = 16
    width: int = 64
    depth: int = 3
    downscale: int = 8


class ResBlock(nn.Module):
    """Two convolutions added to the input: [B, C, H, W] → same. There is no norm, so results do not depend on the picture's size."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class VAE(nn.Module):
    """Pictures [B, 3, H, W] in -1..1 ↔ latents [B, C, H/8, W/8] (Rombach et al. 2022, §3.1). H and W are multiples of 8.

    Encoder and decoder are each the sum of a linear map of 8x8 pixel patches and a network. Before training, the linear maps are set to the
    principal components of patches, so that the networks only learn what linear maps cannot do.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        width, wide = config.width, 2 * config.width

        def blocks(channels: int) -> list[nn.Module]:
            return [ResBlock(channels) for _ in range(config.depth)]
        channels, patch = config.latent_channels, config.downscale
        self.linear_encoder = nn.Conv2d(3, channels, patch, stride=patch)
        self.linear_decoder = nn.ConvTranspose2d(channels, 3, patch, stride=patch)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, width, 3, padding=1), *blocks(width),
            nn.Conv2d(width, wide, 2, stride=2), *blocks(wide),
            nn.Conv2d(wide, 2 * channels, 3, padding=1))
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, wide, 3, padding=1), *blocks(wide),
            nn.Conv2d(wide, 4 * width, 1), nn.PixelShuffle(2), *blocks(width),
            nn.Conv2d(width, 48, 3, padding=1), nn.PixelShuffle(4))
        for last in (self.encoder[-1], self.decoder[-2]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @torch.no_grad()
    def set_linear_code(self, pixels: Tensor) -> None:
        """Set the linear maps to the whitened principal components of the 8x8 patches of pictures [B, 3, H, W] in -1..1."""
        patches = F.unfold(pixels, self.config.downscale, stride=self.config.downscale).transpose(1, 2).flatten(0, 1)
        mean = patches.mean(0)
        _, deviations, axes = torch.linalg.svd(patches - mean, full_matrices=False)
        channels = self.config.latent_channels
        scale, axes = deviations[:channels, None] / len(patches) ** 0.5, axes[:channels]
        self.linear_encoder.weight.copy_((axes / scale).view_as(self.linear_encoder.weight))
        self.linear_encoder.bias.copy_(-(axes / scale) @ mean)
        self.linear_decoder.weight.copy_((axes * scale).view_as(self.linear_decoder.weight))
        self.linear_decoder.bias.copy_(mean.view(3, -1).mean(1))

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent's posterior: [B, 3, H, W] → two of [B, C, H/8, W/8]."""
        mean, log_variance = self.encoder(pixels).chunk(2, dim=1)
        return self.linear_encoder(pixels) + mean, (log_variance - 4).clamp(-20, 5)

    def encode(self, pixels: Tensor) -> Tensor:
        """The posterior's mean: [B, 3, H, W] in -1..1 → [B, C, H/8, W/8]."""
        return self.moments(pixels)[0]

    def decode(self, latent: Tensor) -> Tensor:
        """[B, C, h, w] → [B, 3, 8h, 8w], about -1..1 (not clamped)."""
        return self.linear_decoder(latent) + self.decoder(latent)

    def latent_rgb(self) -> Tensor:
        """A linear map from latents to RGB 0..1, for previews: → [C + 1, 3]. The last row is added to every cell."""
        weight, bias = self.linear_decoder.weight.mean((2, 3)), self.linear_decoder.bias
        return torch.cat([weight / 2, (bias + 1)[None] / 2])


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean over all elements of KL(N(mean, variance) ‖ N(0, 1)). Kingma & Welling 2013, appendix B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
