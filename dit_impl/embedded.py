"""The small default model that ships with the pack: VAE, text encoder and flexible MM-DiT in models/embedded/."""

from functools import lru_cache
import json
import logging
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor, nn

from .backbone import Backbone
from .files import replace_atomically
from .flow import RectifiedFlow
from .mmdit import MMDiT, MMDiTConfig
from .text import TextConfig, TextEncoder, Tokenizer
from .vae import VAE, VAEConfig

log = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parent.parent / "models" / "embedded"


def _save(module: nn.Module, path: Path, **metadata) -> None:
    tensors = {name: t.detach().half().contiguous() for name, t in module.state_dict().items()}
    metadata["config"] = vars(module.config)
    replace_atomically(path, lambda aside: save_file(tensors, aside, {k: json.dumps(v) for k, v in metadata.items()}))


def save_vae(vae: VAE, path: Path) -> None:
    """Write a VAE, in half precision, with its configuration."""
    _save(vae, path)


def save_dit(model: MMDiT, text: TextEncoder, scale: Tensor, shift: Tensor, folder: Path) -> None:
    """Write a DiT and its text encoder, in half precision. scale, shift [C]: DiT space = (VAE latent − shift)·scale."""
    _save(text, folder / "text.safetensors")
    _save(model, folder / "dit.safetensors", latent_format={"scale": scale.tolist(), "shift": shift.tolist()})


def _load(path: Path, build) -> tuple[nn.Module, dict]:
    with safe_open(path, "pt") as file:
        metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
        state = {name: file.get_tensor(name).float() for name in file.keys()}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in metadata["config"].items()}
    with torch.device("meta"):
        module = build(values)
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False), metadata


def load_vae(path: Path = FOLDER / "vae.safetensors") -> VAE:
    """Read a VAE that `save_vae` wrote, in float32."""
    return _load(path, lambda config: VAE(VAEConfig(**config)))[0]


def load_text(path: Path = FOLDER / "text.safetensors") -> TextEncoder:
    """Read a text encoder that `save_dit` wrote, in float32."""
    return _load(path, lambda config: TextEncoder(TextConfig(**config)))[0]


def load_dit(path: Path = FOLDER / "dit.safetensors") -> tuple[MMDiT, Tensor, Tensor]:
    """Read a DiT that `save_dit` wrote, in float32, with its latent scale and shift [C]."""
    model, metadata = _load(path, lambda config: MMDiT(MMDiTConfig(**config)))
    return model, *(torch.tensor(metadata["latent_format"][name]) for name in ("scale", "shift"))


class EmbeddedCLIP:
    """The text encoder behind the calls that ComfyUI's CLIPTextEncode makes of a CLIP."""

    def __init__(self, encoder: TextEncoder):
        self.encoder, self.tokenizer = encoder, Tokenizer(encoder.config)

    def tokenize(self, text: str, **_) -> dict[str, list]:
        """Text → {"words": [[(token number, weight), …]]}. Words outside the vocabulary are left out, and logged."""
        ids, ignored = self.tokenizer(text)
        if ignored:
            log.warning("Embedded CLIP ignored words it does not know or has no room for: %s", ", ".join(ignored))
        return {"words": [[(i, 1.0) for i in ids]]}

    @torch.no_grad()
    def encode_from_tokens_scheduled(self, tokens: dict[str, list], **_) -> list:
        """Token numbers → CONDITIONING: [[states [1, T, E], {"pooled_output": [1, E]}]]."""
        ids = torch.tensor([[i for i, _ in row] for row in tokens["words"]])
        states, pooled = self.encoder(ids)
        return [[states, {"pooled_output": pooled}]]


class EmbeddedVAE:
    """The VAE behind the calls that ComfyUI's nodes make of one: pictures [B, H, W, 3] in 0..1, latents [B, C, H/8, W/8]."""

    def __init__(self, vae: VAE):
        self.vae = vae
        self.latent_channels, self.downscale_ratio = vae.config.latent_channels, vae.config.downscale

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, H, W, 3 or more] in 0..1 → [B, C, H/8, W/8]. Sizes that 8 does not divide are cropped around the middle."""
        d = self.downscale_ratio
        height, width = (length // d * d for length in pixels.shape[1:3])
        if not height or not width:
            raise ValueError(f"a picture is at least {d}×{d} pixels, this one is {pixels.shape[2]}×{pixels.shape[1]}")
        top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
        cut = pixels[:, top:top + height, left:left + width, :3]
        with torch.no_grad():
            return self.vae.encode(cut.movedim(-1, 1).float() * 2 - 1)

    def decode(self, latent: Tensor) -> Tensor:
        """[B, C, h, w] → [B, 8h, 8w, 3] in 0..1."""
        if latent.dim() != 4 or latent.shape[1] != self.latent_channels:
            raise ValueError(f"this VAE decodes latents of {self.latent_channels} channels, not {list(latent.shape)}")
        with torch.no_grad():
            return (self.vae.decode(latent.float()).movedim(1, -1) / 2 + 0.5).clamp(0, 1)

    def encode_tiled(self, pixels: Tensor, **_) -> Tensor:
        return self.encode(pixels)

    def decode_tiled(self, latent: Tensor, **_) -> Tensor:
        return self.decode(latent)

    def spacial_compression_encode(self) -> int:
        return self.downscale_ratio

    spacial_compression_decode = spacial_compression_encode

    def temporal_compression_decode(self) -> None:
        return None


@lru_cache(maxsize=1)
def load_embedded(folder: Path = FOLDER) -> tuple[Backbone, EmbeddedCLIP, EmbeddedVAE]:
    """The default model's three parts, read once a process."""
    vae = load_vae(folder / "vae.safetensors")
    model, scale, shift = load_dit(folder / "dit.safetensors")
    backbone = Backbone(model, {"scale": scale, "shift": shift}, RectifiedFlow(model.config.prediction, shift=2.0),
                        "the embedded DiT", vae.config.downscale, 256, vae.latent_rgb())
    return backbone, EmbeddedCLIP(load_text(folder / "text.safetensors")), EmbeddedVAE(vae)
