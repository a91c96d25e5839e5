"""The small default model that ships with the pack: VAE, text encoder and flexible MM-DiT in models/embedded/."""

from functools import lru_cache
import json
import logging
import math
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, StandInError
from ..handle.backbone import Backbone
from ..model.copies import compute_device
from ..model.mmdit import MMDiT
from ..model.text import PAD, TextConfig, TextEncoder, Tokenizer
from ..model.vae import VAE, VAEConfig
from ..reading import check_value, read
from ..sampling.flow import RectifiedFlow
from ..tokens.wire import LatentFormat, check_finite, latent_format
from .checkpoints import load_model, load_strictly, read_safetensors, save_model, without_storage
from .chinese import translate
from .stand_in import StandInCLIP, StandInVAE, Tokens

log = logging.getLogger(__name__)

NAME = "the embedded DiT"
FOLDER = Path(__file__).resolve().parents[2] / "models" / "embedded"


def _save(module: nn.Module, path: Path, **metadata) -> None:
    save_model(module, path, dtype=torch.float16, extra_metadata={k: json.dumps(v) for k, v in metadata.items()})


def save_vae(vae: VAE, path: Path) -> None:
    """Write a VAE, in half precision, with its configuration."""
    _save(vae, path)


def save_embedded_dit(model: MMDiT, text: TextEncoder, scale: Tensor, shift: Tensor, folder: Path) -> None:
    """Write a DiT and its text encoder, in half precision. scale, shift [C]: DiT space = (VAE latent − shift)·scale."""
    _save(text, folder / "text.safetensors")
    _save(model, folder / "dit.safetensors", latent_format={"scale": scale.tolist(), "shift": shift.tolist()})


def _load(path: Path, config_type, build) -> nn.Module:
    """Read a module that `_save` wrote, in float32. Raises CheckpointError."""
    tensors, metadata = read_safetensors(path)
    try:
        config = read(config_type, json.loads(metadata["config"]), "config", "config: ")
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata describes no {config_type.__name__}: {error}") from None
    with without_storage():
        module = build(config)
    return load_strictly(module, tensors, str(path)).eval().requires_grad_(False)


def load_vae(path: Path = FOLDER / "vae.safetensors") -> VAE:
    """Read a VAE that `save_vae` wrote, in float32. Raises CheckpointError."""
    return _load(path, VAEConfig, VAE)


def load_text(path: Path = FOLDER / "text.safetensors") -> TextEncoder:
    """Read a text encoder that `save_embedded_dit` wrote, in float32. Raises CheckpointError."""
    return _load(path, TextConfig, TextEncoder)


def load_embedded_dit(path: Path = FOLDER / "dit.safetensors") -> tuple[MMDiT, LatentFormat]:
    """Read a DiT that `save_embedded_dit` wrote, in float32, with its latents' scale and shift. Raises CheckpointError."""
    model = load_model(path).eval().requires_grad_(False)
    try:
        values = json.loads(read_safetensors(path)[1]["latent_format"])
        return model, latent_format(*(torch.tensor(check_value(name, values[name], tuple[float, ...]), dtype=torch.float32)
                                      for name in ("scale", "shift")))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: its metadata has no latent_format of scale and shift: {error}") from None


class EmbeddedCLIP(StandInCLIP):
    """The text encoder behind the calls that ComfyUI's CLIPTextEncode makes of a CLIP."""

    of = NAME

    def __init__(self, encoder: TextEncoder):
        self.encoder, self.tokenizer, self.layers = encoder, Tokenizer(encoder.config), None

    def tokenize(self, text: str, **_) -> dict[str, list]:
        """Text → {"words": [[(token number, weight), …]], "ignored": words left out, for they are outside the vocabulary}; these are logged.

        As many thirds of the model's tokens as hold the words: the rest is padding, without which the model draws the same things in less
        time. No finer parts, since KSampler repeats two texts until they are of one length, and what is asked for twice is drawn worse.
        Chinese is read as well, see `chinese`."""
        caption, not_understood = translate(text)
        ids, ignored = self.tokenizer(caption)
        third, used = self.tokenizer.length // 3, len(ids) - ids.count(self.tokenizer.index[PAD])
        ids = ids[:third * math.ceil(used / third)]
        ignored = not_understood + ignored
        if ignored:
            log.warning("Embedded CLIP ignored words it does not know or has no room for: %s", ", ".join(ignored))
        return Tokens({"words": [[(i, 1.0) for i in ids]], "ignored": ignored}, self.of)

    def clip_layer(self, layer: int) -> None:
        """Take the states after a layer before the last: −1 is the last, as of ComfyUI's CLIPs. The pooled vector stays. Raises StandInError."""
        depth = self.encoder.config.depth
        if not -depth <= layer <= -1:
            raise StandInError(f"the text encoder of {self.of} has {depth} layers: stop_at_clip_layer is from {-depth} to -1, not {layer}")
        self.layers = depth + layer + 1

    @property
    def cond_stage_model(self) -> nn.Module:
        return self.encoder

    @torch.no_grad()
    def conditioning(self, tokens: dict[str, list]) -> list:
        """Token numbers → CONDITIONING: [[states [1, T, E], {"pooled_output": [1, E], "words": [T], "ignored": […]}]], which names the tokens."""
        ids = torch.tensor([[i for i, _ in row] for row in tokens["words"]])
        states, pooled = (one.cpu() for one in self.encoder(ids.to(compute_device(self.encoder)), self.layers))
        words = [self.encoder.config.vocabulary[i] for i in ids[0].tolist()]
        return [[states, {"pooled_output": pooled, "words": words, "ignored": tokens.get("ignored", [])}]]


class EmbeddedVAE(StandInVAE):
    """The VAE behind the calls that ComfyUI's nodes make of one: pictures [B, H, W, 3] in 0..1, latents [B, C, H/8, W/8]."""

    of = NAME

    def __init__(self, vae: VAE):
        self.vae = vae
        self.latent_channels, self.downscale_ratio = vae.config.latent_channels, vae.config.downscale

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, H, W, 3 or more] in 0..1 → [B, C, H/8, W/8]. Sizes that 8 does not divide are cropped around the middle."""
        d = self.downscale_ratio
        height, width = (length // d * d for length in pixels.shape[1:3])
        if not height or not width:
            raise ValueError(f"a picture is at least {d}×{d} pixels, this one is {pixels.shape[2]}×{pixels.shape[1]}")
        check_finite(pixels, "picture")
        top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
        if pixels.shape[-1] == 1:  # grey
            pixels = pixels.expand(-1, -1, -1, 3)
        cut = pixels[:, top:top + height, left:left + width, :3]
        with torch.no_grad():
            return self.vae.encode((cut.movedim(-1, 1).float() * 2 - 1).to(compute_device(self.vae))).to(pixels.device)

    def decode(self, latent: Tensor) -> Tensor:
        """[B, C, h, w] → [B, 8h, 8w, 3] in 0..1."""
        if latent.dim() != 4 or latent.shape[1] != self.latent_channels:
            raise ValueError(f"this VAE decodes latents of {self.latent_channels} channels, not {list(latent.shape)}")
        check_finite(latent, "latent")
        with torch.no_grad():
            return (self.vae.decode(latent.float().to(compute_device(self.vae))).movedim(1, -1) / 2 + 0.5).clamp(0, 1).to(latent.device)

    def get_sd(self) -> NoReturn:
        raise StandInError(f"the VAE of {self.of} is no VAE that ComfyUI's loaders know: it comes with its DIT's own loader")


def default_backbone(model: MMDiT, space: LatentFormat, latent_rgb: Tensor | None = None, name: str = NAME,
                     downscale: int = 8) -> Backbone:
    """The default model's transformer as a DIT. Its VAE knows the `latent_rgb`."""
    facts = {"mixes": "patches of several sizes in one sequence"} if model.config.detail else {}
    return Backbone(model, space, RectifiedFlow(model.config.prediction, shift=2.0), name, downscale, 256, latent_rgb, facts=facts)


Parts = tuple[Backbone, EmbeddedCLIP, EmbeddedVAE]


def assemble(model: MMDiT, text: TextEncoder, vae: VAE, space: LatentFormat, name: str = NAME) -> Parts:
    """Transformer, text encoder and VAE as a DIT, a CLIP and a VAE."""
    return default_backbone(model, space, vae.latent_rgb(), name, vae.config.downscale), EmbeddedCLIP(text), EmbeddedVAE(vae)


@lru_cache(maxsize=1)
@torch.inference_mode(False)  # one for all of a process, whoever loads it first: a node, or what trains
def load_embedded(folder: Path = FOLDER) -> Parts:
    """The default model's three parts, read once a process."""
    model, space = load_embedded_dit(folder / "dit.safetensors")
    return assemble(model, load_text(folder / "text.safetensors"), load_vae(folder / "vae.safetensors"), space)
