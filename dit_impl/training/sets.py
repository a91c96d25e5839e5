"""A training set, the DIT_TRAINING_SET wire: latents, encoded once by the frozen VAE, and a conditioning for each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
import hashlib
import json
import logging
import math
from pathlib import Path
import random
from typing import Callable

from safetensors.torch import save_file
import torch
from torch import Tensor

from ..errors import SetError
from ..model.conditioning import Conditioning
from ..sources.atomic import replace_atomically
from ..sources.checkpoints import read_safetensors
from .default_model import scenes
from .default_model.things import font_path

log = logging.getLogger(__name__)

SHOWN = 16
BYTES_A_PIXEL = 13  # red, green and blue in float32, and its share of the latent
KINDS = {"shapes": 0.0, "things": 1.0, "both": 0.5}  # what scenes show → the share of small pictures of things


@dataclass(frozen=True)
class TrainingSet:
    """latents [n, C, H, W] from the VAE. conditionings: one for each; None for a model without conditioning.

    nothing: the conditioning of an empty prompt. It replaces a share of the captions, so that guidance works.
    """
    latents: Tensor
    conditionings: list[Conditioning] | None
    captions: tuple[str, ...] = ()
    nothing: Conditioning | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def __str__(self) -> str:
        _, c, h, w = self.latents.shape
        said = f"{len(self)} latents of {c}×{h}×{w}, {self.latents.nbytes / 2 ** 20:.1f} MiB"
        if missing := self.captions.count(""):
            return f"{said}; {missing} of {len(self)} captions are empty"
        return f"{said}; captions: {len(self.captions)}" if self.captions else said


def same_size(latents: Sequence[Tensor]) -> Tensor:
    """Join latents [b, C, H, W] of the same size: → [n, C, H, W]. Raises SetError."""
    if not latents or not sum(map(len, latents)):
        raise SetError("the set is empty: there is no picture in it")
    sizes = sorted({tuple(latent.shape[1:]) for latent in latents})
    if len(sizes) > 1:
        shown = ", ".join("×".join(map(str, size)) for size in sizes[:3])
        raise SetError(f"all pictures of a set must have the same size, these have {len(sizes)} sizes ({shown}): crop or resize them first")
    latent = torch.cat([latent.detach().float() for latent in latents])
    if latent.dim() != 4:
        raise SetError(f"a set takes latents of pictures, [B, C, H, W], not {list(latent.shape)}")
    broken = (~torch.isfinite(latent)).flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        raise SetError(f"latent {broken[0]} holds values that are NaN or infinite")
    return latent


def pictures_of(images: Sequence[Tensor]) -> list[Tensor]:
    """Split IMAGEs [b, H, W, C] of the same size into single pictures: → [1, H, W, 3] each. Raises SetError."""
    pictures = [picture[None, ..., :3] for image in images for picture in image]
    if not pictures:
        raise SetError("the set is empty: there is no picture in it")
    sizes = sorted({(picture.shape[2], picture.shape[1]) for picture in pictures})
    if len(sizes) > 1:
        shown = ", ".join(f"{w}×{h}" for w, h in sizes[:3])
        raise SetError(f"all pictures of a set must have the same size, these have {len(sizes)} sizes ({shown}): crop or resize them first")
    return pictures


def paired(captions: Sequence[str], count: int) -> list[str]:
    """`count` captions, from as many or from one for all. Raises SetError."""
    captions = list(captions)
    if len(captions) == 1:
        captions = captions * count
    if len(captions) != count:
        raise SetError(f"there are {len(captions)} captions for {count} pictures: give one for each, or one for all")
    return captions


def from_pictures(images: Sequence[Tensor], vae, captions: Sequence[str] | None = None, clip=None, cache: Path | None = None,
                  report: Callable[[int, int], None] = lambda *_: None) -> TrainingSet:
    """Encode pictures and captions: IMAGEs [b, H, W, 3], all of the same size → TrainingSet. Raises SetError.

    cache: a folder for the latents. They are read from it again for the same pictures, and mapped from the file instead of held in memory.
    """
    pictures = pictures_of(images)
    texts = None
    if captions is not None:
        texts = paired(captions, len(pictures))
        if clip is None:
            raise SetError("captions need a clip, which encodes them")
    elif clip is not None:
        raise SetError("captions are missing: wire captions, or leave clip out for a model without text")
    path = cache and cache / f"{fingerprint(pictures, vae)}.safetensors"
    if path and path.exists():
        latents = read_safetensors(path)[0]["latents"]
    else:
        encoded = []
        for number, picture in enumerate(pictures):
            encoded.append(vae.encode(picture))
            report(number + 1, len(pictures))
        latents = same_size(encoded)
        if path:
            try:
                replace_atomically(path, lambda aside: save_file({"latents": latents.contiguous()}, aside))
                latents = read_safetensors(path)[0]["latents"]
            except OSError as error:
                log.warning("the latents stay in memory: %s", error)
    return TrainingSet(latents, *_texts(texts, clip))


def from_latents(latents: Sequence[dict], conditionings: Sequence[Conditioning] | None, clip=None) -> TrainingSet:
    """From lists of LATENT and CONDITIONING, as core's training nodes give them → TrainingSet. Raises SetError."""
    samples = same_size([latent["samples"] for latent in latents])
    if conditionings is not None and len(conditionings) != len(samples):
        raise SetError(f"there are {len(conditionings)} conditionings for {len(samples)} latents")
    nothing = clip.encode_from_tokens_scheduled(clip.tokenize("")) if clip is not None else None
    return TrainingSet(samples, None if conditionings is None else list(conditionings), (), nothing)


def procedural(vae, clip, count: int, size: int, seed: int, things: int = 1, zoom: int = 1, kinds: str = "shapes",
               report: Callable[[int, int], None] = lambda *_: None, free: float = math.inf) -> tuple[TrainingSet, Tensor]:
    """Draw new captioned scenes of the kind that the default model was trained on: `count` pictures of `size` pixels with up to `things` in
    each → the set, and the first pictures [16 or fewer, size, size, 3]. zoom: one thing in the middle, so much larger. kinds: one of KINDS;
    where there is no font for pictures of things, shapes. Raises SetError."""
    if count < 1:
        raise SetError("the set is empty: there is no picture in it")
    for name, value, least, most in (("size", size, 8, 4096), ("shapes", things, 1, 16), ("zoom", zoom, 1, 16)):
        if not least <= value <= most:
            raise SetError(f"{name} is from {least} to {most}, not {value:.6g}")
    if (needed := BYTES_A_PIXEL * count * size ** 2) > free:
        raise SetError(f"{count} pictures of {size}×{size} pixels take {needed / 2 ** 30:,.1f} GiB: {free / 2 ** 30:,.1f} GiB of memory are free")
    if kinds not in KINDS:
        raise SetError(f"kinds is one of {', '.join(KINDS)}, not {kinds!r}")
    rng, excluded, pictured = random.Random(seed), scenes.excluded(), KINDS[kinds] if font_path() else 0.0
    drawn = []
    while len(drawn) < count:
        number = rng.randint(1, things) if zoom == 1 else 1
        scene = scenes.random_scene(rng, number) if kinds == "shapes" else scenes.any_scene(rng, number, pictured)
        if zoom > 1:
            scene = replace(scene, things=(replace(scene.things[0], place="center"),))
        if zoom > 1 or scene not in excluded:
            drawn.append(scene)
    edge = size * (zoom - 1) // 2
    pictures = [scenes.draw(scene, size * zoom, rng)[:, edge:edge + size, edge:edge + size].movedim(0, -1)[None] for scene in drawn]
    captions = [scenes.caption(scene) for scene in drawn] if clip is not None else None
    return from_pictures(pictures, vae, captions, clip, None, report), torch.cat(pictures[:SHOWN])


def _texts(texts: list[str] | None, clip) -> tuple[list[Conditioning] | None, tuple[str, ...], Conditioning | None]:
    if texts is None:
        return None, (), None
    known = {text: clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in {*texts, ""}}
    return [known[text] for text in texts], tuple(texts), known[""]


def fingerprint(pictures: Sequence[Tensor], vae) -> str:
    """A name that depends on the pictures and the VAE: equal for equal ones."""
    digest = hashlib.sha256(json.dumps([type(vae).__name__, len(pictures), list(pictures[0].shape)]).encode())
    probe = vae.encode(torch.linspace(0, 1, 64 * 64 * 3).view(1, 64, 64, 3))
    for tensor in (probe, *pictures):
        digest.update((tensor.detach().float().cpu().contiguous().numpy() * 255).round().astype("int16").tobytes())
    return digest.hexdigest()[:32]
