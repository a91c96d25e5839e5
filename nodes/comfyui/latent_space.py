"""A MODEL's latent space as numbers. Imported only where there is a MODEL."""

import torch
from torch import Tensor

from ...dit_impl.tokens.wire import LatentFormat, identity_format, into_dit_space, latent_format, out_of_dit_space


def read_latent_format(host_format) -> LatentFormat:
    """ComfyUI's latent format as numbers a channel; where it is not (x − shift)·scale / std, bit for bit, as it is."""
    channels = host_format.latent_channels

    def values(name: str, default: float) -> Tensor:
        found = getattr(host_format, name, None)
        return torch.as_tensor(default if found is None else found, dtype=torch.float32).flatten().expand(channels).contiguous()
    shift = values("latents_mean", 0.0) if hasattr(host_format, "latents_mean") else values("shift_factor", 0.0)
    ours = latent_format(values("scale_factor", 1.0), shift, values("latents_std", 1.0))
    probe = torch.linspace(-4, 4, channels * 12).view(1, channels, *[1] * (host_format.latent_dimensions - 2), 3, 4)
    if not (torch.equal(into_dit_space(probe, ours), host_format.process_in(probe))
            and torch.equal(out_of_dit_space(probe, ours), host_format.process_out(probe))):
        return {**identity_format(channels), "host": host_format}
    return ours


def read_latent_rgb(known) -> Tensor | None:
    """The linear map from latents to RGB by which ComfyUI previews them: [C + 1, 3], the last row added; None where it has none."""
    if known.latent_rgb_factors is None or known.latent_rgb_factors_reshape is not None:
        return None
    factors = torch.tensor(known.latent_rgb_factors, dtype=torch.float32)
    bias = known.latent_rgb_factors_bias
    return torch.cat([factors, torch.zeros(1, 3) if bias is None else torch.tensor(bias, dtype=torch.float32)[None]])
