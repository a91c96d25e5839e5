"""A training set, the DIT_TRAINING_SET wire: latents, encoded once by the frozen VAE, and a conditioning for each."""

from collections import Counter
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
    """latents from the VAE: [n, C, H, W], or if they differ in size a tuple of n latents [C, H, W]. conditionings: one for each; None for a
    model without conditioning.

    nothing: the conditioning of an empty prompt. It replaces a share of the captions, so that guidance works.
    """
    latents: Tensor | tuple[Tensor, ...]
    conditionings: list[Conditioning] | None
    captions: tuple[str, ...] = ()
    nothing: Conditioning | None = None

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many latents there are of each size (H, W)."""
        return Counter([tuple(self.latents.shape[-2:])] * len(self) if isinstance(self.latents, Tensor) else
                       [tuple(latent.shape[-2:]) for latent in self.latents])

    @property
    def channels(self) -> int:
        return self.latents[0].shape[0]

    def take(self, chosen: Tensor) -> Tensor:
        """Latents by their numbers, all of one size: [k] → [k, C, H, W], copies in float32."""
        return torch.stack([self.latents[i] for i in chosen.tolist()]).float()

    def buckets(self, begin: int, end: int) -> list[Tensor]:
        """The numbers from `begin` to before `end`, by the size of their latents."""
        if isinstance(self.latents, Tensor):
            return [torch.arange(begin, end)]
        by_size: dict[tuple, list[int]] = {}
        for number in range(begin, end):
            by_size.setdefault(tuple(self.latents[number].shape), []).append(number)
        return [torch.tensor(numbers) for _, numbers in sorted(by_size.items())]

    def __str__(self) -> str:
        sizes = self.sizes.most_common()
        shown = ", ".join(f"{self.channels}×{h}×{w}" + (f" ({count})" if len(sizes) > 1 else "") for (h, w), count in sizes[:4])
        more = f" and {len(sizes) - 4} more sizes" if len(sizes) > 4 else ""
        said = f"{len(self)} latents of {shown}{more}, {sum(latent.nbytes for latent in self.latents) / 2 ** 20:.1f} MiB"
        if missing := self.captions.count(""):
            return f"{said}; {missing} of {len(self)} captions are empty"
        return f"{said}; captions: {len(self.captions)}" if self.captions else said


def joined(latents: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """Join latents [b, C, H, W]: → [n, C, H, W], or if they differ in size a tuple of n latents [C, H, W]. Raises SetError."""
    if not latents or not sum(map(len, latents)):
        raise SetError("the set is empty: there is no picture in it")
    wrong = next((latent for latent in latents if latent.dim() != 4), None)
    if wrong is not None:
        raise SetError(f"a set takes latents of pictures, [B, C, H, W], not {list(wrong.shape)}")
    if len(channels := sorted({latent.shape[1] for latent in latents})) > 1:
        raise SetError(f"the latents of a set come from one VAE, these have {', '.join(map(str, channels))} channels")
    each = [one.detach().float() for latent in latents for one in latent]
    broken = next((number for number, one in enumerate(each) if not one.isfinite().all()), None)
    if broken is not None:
        raise SetError(f"latent {broken} holds values that are NaN or infinite")
    return torch.stack(each) if len({one.shape for one in each}) == 1 else tuple(each)


def pictures_of(images: Sequence[Tensor]) -> list[Tensor]:
    """Split IMAGEs [b, H, W, C] into single pictures: → [1, H, W, 3] each; grey ones are made three channels. Raises SetError."""
    pictures = [picture[None].expand(-1, -1, -1, 3) if picture.shape[-1] == 1 else picture[None, ..., :3] for image in images for picture in image]
    if not pictures:
        raise SetError("the set is empty: there is no picture in it")
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
    """Encode pictures and captions: IMAGEs [b, H, W, 3] of any sizes → TrainingSet. Raises SetError.

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
        latents = _kept(path)
    else:
        encoded = []
        for number, picture in enumerate(pictures):
            encoded.append(vae.encode(picture))
            report(number + 1, len(pictures))
        latents = joined(encoded)
        if path:
            try:
                kept = {"latents": latents} if isinstance(latents, Tensor) else {f"{i:08}": latent for i, latent in enumerate(latents)}
                replace_atomically(path, lambda aside: save_file({name: latent.contiguous() for name, latent in kept.items()}, aside))
                latents = _kept(path)
            except OSError as error:
                log.warning("the latents stay in memory: %s", error)
    return TrainingSet(latents, *_texts(texts, clip))


def from_latents(latents: Sequence[dict], conditionings: Sequence[Conditioning] | None, clip=None) -> TrainingSet:
    """From lists of LATENT and CONDITIONING, as core's training nodes give them → TrainingSet. Raises SetError."""
    samples = joined([latent["samples"] for latent in latents])
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


def _kept(path: Path) -> Tensor | tuple[Tensor, ...]:
    """Latents as `from_pictures` keeps them: one tensor, or one for each picture by its number."""
    tensors = read_safetensors(path)[0]
    return tensors["latents"] if "latents" in tensors else tuple(tensors[name] for name in sorted(tensors))


def _texts(texts: list[str] | None, clip) -> tuple[list[Conditioning] | None, tuple[str, ...], Conditioning | None]:
    if texts is None:
        return None, (), None
    known = {text: clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in {*texts, ""}}
    return [known[text] for text in texts], tuple(texts), known[""]


def fingerprint(pictures: Sequence[Tensor], vae) -> str:
    """A name that depends on the pictures and the VAE: equal for equal ones."""
    shapes = [list(picture.shape) for picture in pictures]
    more = shapes if any(shape != shapes[0] for shape in shapes) else []
    digest = hashlib.sha256(json.dumps([type(vae).__name__, len(pictures), list(pictures[0].shape), *more]).encode())
    probe = vae.encode(torch.linspace(0, 1, 64 * 64 * 3).view(1, 64, 64, 3))
    for tensor in (probe, *pictures):
        digest.update((tensor.detach().float().cpu().contiguous().numpy() * 255).round().astype("int16").tobytes())
    return digest.hexdigest()[:32]
