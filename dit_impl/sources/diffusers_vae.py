"""diffusers' AutoencoderKL behind the calls that ComfyUI's nodes make of a VAE."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..libraries import diffusers_part
from ..model.copies import compute_device
from ..model.vae import VAEConfig
from .checkpoints import listed
from .diffusers_parts import Load, all_tensors, check_size, read_json, variant_of
from .embedded import EmbeddedVAE

STEM = "diffusion_pytorch_model"
# Bytes of the largest activations: ComfyUI's measures of a KL-regularised autoencoder, for each pixel and byte of a number.
ENCODE_BYTES, DECODE_BYTES = 1767, 2178


class KLVAE(nn.Module):
    """Pictures [B, 3, H, W] in -1..1 ↔ latents [B, C, H/8, W/8], computed in the type and place of the weights."""

    def __init__(self, autoencoder: nn.Module):
        super().__init__()
        self.autoencoder = autoencoder
        c = autoencoder.config
        self.config = VAEConfig(c.latent_channels, downscale=2 ** (len(c.block_out_channels) - 1))

    def encode(self, pixels: Tensor) -> Tensor:
        """The posterior's mean: [B, 3, H, W] → [B, C, H/8, W/8], float32."""
        return self.autoencoder.encode(self._there(pixels)).latent_dist.mode().float()

    def decode(self, latent: Tensor) -> Tensor:
        """[B, C, h, w] → [B, 3, 8h, 8w], float32."""
        return self.autoencoder.decode(self._there(latent)).sample.float()

    def _there(self, x: Tensor) -> Tensor:
        """Where and in what it computes."""
        return x.to(compute_device(self), next(self.parameters()).dtype)


class DiffusersVAE(EmbeddedVAE):
    """A KLVAE that is brought to the device when it is used."""

    def __init__(self, vae: KLVAE, load: Load, of: str):
        super().__init__(vae)
        self.of = of
        self._load, self._bytes = load, next(vae.parameters()).element_size()

    def encode(self, pixels: Tensor) -> Tensor:
        self._load([self.vae], ENCODE_BYTES * pixels.shape[1] * pixels.shape[2] * self._bytes)
        return super().encode(pixels)

    def decode(self, latent: Tensor) -> Tensor:
        self._load([self.vae], DECODE_BYTES * latent.shape[-1] * latent.shape[-2] * self.downscale_ratio ** 2 * self._bytes)
        return super().decode(latent)

    def encode_tiled(self, pixels: Tensor, **_) -> Tensor:
        return self._in_tiles(self.encode, pixels)

    def decode_tiled(self, latent: Tensor, **_) -> Tensor:
        return self._in_tiles(self.decode, latent)

    def _in_tiles(self, call, x: Tensor) -> Tensor:
        """As the library tiles: tiles of the size the VAE was trained for."""
        self.vae.autoencoder.enable_tiling()
        try:
            return call(x)
        finally:
            self.vae.autoencoder.disable_tiling()


def load_vae(folder: Path, load: Load) -> DiffusersVAE:
    """Read a VAE in the type it is stored in, but for one that half precision is too narrow for. Raises CheckpointError and LibraryError."""
    AutoencoderKL = diffusers_part("AutoencoderKL", f"the VAE of {folder.parent.name}")
    name = f"{folder.parent.name}/{folder.name}"
    tensors = all_tensors(folder, STEM)
    stored = next(iter(tensors.values())).dtype
    check_size(name, lambda: AutoencoderKL.from_config(read_json(folder / "config.json")), tensors)
    try:
        autoencoder, info = AutoencoderKL.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, variant=variant_of(folder, STEM) or None,
            low_cpu_mem_usage=False, torch_dtype=stored, output_loading_info=True)
    except Exception as error:  # whatever the library makes of files that do not fit
        raise CheckpointError(f"{name}: not an AutoencoderKL that can be read ({' '.join(str(error).split())[:200]})") from None
    for fault in ("missing keys", "unexpected keys", "mismatched keys"):
        if found := info[fault.replace(" ", "_")]:
            raise CheckpointError(f"{name}: {fault} {listed(map(str, found))}")
    if stored == torch.float16 and autoencoder.config.force_upcast:
        autoencoder.float()
    return DiffusersVAE(KLVAE(autoencoder.eval().requires_grad_(False)), load, folder.parent.name)
