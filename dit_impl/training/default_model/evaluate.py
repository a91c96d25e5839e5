"""`dit-blocks eval embedded`: how often the default model draws what the prompt says, and how well its VAE rebuilds pictures."""

from pathlib import Path
import random
import re
import time
from typing import Callable

import torch
from torch import Tensor
import torch.nn.functional as F

from ...handle.backbone import Backbone
from ...handle.patch_schedule import PatchSchedule, denoise_by_schedule, parse_schedule
from ...sources.embedded import FOLDER, EmbeddedVAE, load_embedded
from ...tokens.wire import unfold
from . import scenes, textures
from .reader import read_scene, same_scene
from .train_vae import psnr

STEPS, CFG, BATCH = 20, 2.0, 20
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")

_THING = re.compile(
    rf"an? (?P<size>{'|'.join(scenes.SIZES)}) (?P<colour>{'|'.join(scenes.COLOURS)}) (?P<shape>{'|'.join(scenes.SHAPES)}) "
    rf"(?:at the|in the) (?P<place>{'|'.join(sorted(scenes.PLACES, key=len, reverse=True))})")


def read_caption(text: str) -> scenes.Scene:
    """A full caption back into its scene. Raises ValueError where a word is missing, since the answer could not be judged."""
    things = [scenes.Thing(**m.groupdict()) for m in _THING.finditer(text)]
    background = re.search(rf"on an? ({'|'.join(scenes.BACKGROUNDS)}) background", text)
    scene = scenes.Scene(tuple(things), background.group(1) if background else "")
    if not things or not background or scenes.caption(scene) != text.strip():
        raise ValueError(f"not a full caption, such as {scenes.caption(scenes.held_out()[0][0])!r}: {text.strip()!r}")
    return scene


def draw_prompts(prompts: list[str], plan: PatchSchedule, seed: int = 0, dit: Backbone | None = None) -> tuple[Tensor, float]:
    """Pictures of prompts, one batch from one seed: → ([len(prompts), 3, H, W] in 0..1, seconds of denoising). dit: one that reads the
    default model's text in its place."""
    backbone, clip, vae = load_embedded()
    backbone = dit or backbone
    sigmas, side = backbone.schedule(STEPS), backbone.picture_size // backbone.downscale
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0] for prompt in prompts]
    positive = [[torch.cat([states for states, _ in encoded]),
                 {"pooled_output": torch.cat([extra["pooled_output"] for _, extra in encoded])}]]
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    empty = backbone.fold({"samples": torch.zeros(len(prompts), backbone.channels, side, side)})
    noisy, _ = backbone.add_noise(empty, sigmas, 0, seed)
    began = time.perf_counter()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # several times faster where it counts, the transformer
        clean, *_ = denoise_by_schedule(backbone, noisy, plan, sigmas, positive, negative, CFG, "euler", 0, STEPS)
    seconds = time.perf_counter() - began
    return vae.decode(unfold(clean)).movedim(-1, 1), seconds


def accuracy(wanted: list[scenes.Scene], patch_size: int, progress: Callable[[int], None] = lambda _: None, dit: Backbone | None = None,
             method: str = "auto") -> float:
    """Share of scenes drawn with every attribute right, from their full captions. dit: as in `draw_prompts`."""
    right, plan = 0, parse_schedule(str(patch_size), method)
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start:start + BATCH]
        pictures, _ = draw_prompts([scenes.caption(scene) for scene in batch], plan, start, dit)
        right += sum(same_scene(read_scene(picture), scene) for picture, scene in zip(pictures, batch))
        progress(start + len(batch))
    return right / len(wanted)


def _square(picture: Tensor, side: int) -> Tensor:
    cut = min(picture.shape[-2:])
    top, left = ((length - cut) // 2 for length in picture.shape[-2:])
    cut_out = picture[None, :, top:top + cut, left:left + cut]
    return F.interpolate(cut_out, size=(side, side), mode="bicubic", antialias=True)[0].clamp(0, 1)


def photographs() -> Tensor:
    """scikit-image's astronaut, coffee and chelsea, cut square: → [3, 3, 256, 256] in 0..1."""
    from skimage import data
    return torch.stack([_square(torch.from_numpy(getattr(data, name)()).movedim(-1, 0).float() / 255, 256)
                        for name in PHOTOGRAPHS])


def procedural(count: int = 48, seed: int = 90210) -> Tensor:
    """Procedural pictures that training never saw: → [count, 3, 256, 256] in 0..1."""
    rng = random.Random(seed)
    return torch.stack([textures.random_picture(256, rng) for _ in range(count)])


def vae_psnr(vae: EmbeddedVAE, pictures: Tensor) -> float:
    """Mean over pictures [B, 3, H, W] of the round trip's PSNR in dB."""
    values = []
    for picture in pictures:
        pixels = picture.movedim(0, -1)[None]
        values.append(psnr(vae.decode(vae.encode(pixels)), pixels, peak=1.0))
    return sum(values) / len(values)


def evaluate_embedded(prompts: Path | None = None, progress: Callable[[int, int], None] = lambda *_: None) -> dict:
    """Caption accuracy at every patch size, PSNR, and size on disk. `prompts`: a file of full captions, one a line.

    `progress(done, of)` counts the pictures. The photographs' PSNR is None where scikit-image is not installed.
    """
    backbone, _, vae = load_embedded()
    singles, pairs = scenes.held_out()
    if prompts is not None:
        given = [read_caption(line) for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
        singles, pairs = ([s for s in given if len(s.things) == n] for n in (1, 2))
    runs = [("single", singles, p) for p in backbone.patch_sizes] + [("pair", pairs, backbone.patch_size)]
    done, total = 0, sum(len(wanted) for _, wanted, _ in runs)
    report: dict = {"accuracy": {"single": {}, "pair": {}}, "psnr": {}}
    for kind, wanted, p in runs:
        if wanted:
            report["accuracy"][kind][str(p)] = accuracy(wanted, p, lambda n: progress(done + n, total))
            done += len(wanted)
    report["psnr"]["procedural"] = vae_psnr(vae, procedural())
    try:
        report["psnr"]["photographs"] = vae_psnr(vae, photographs())
    except ImportError:
        report["psnr"]["photographs"] = None
    report["bytes"] = sum(file.stat().st_size for file in FOLDER.glob("*.safetensors"))
    report["prompts"] = len(singles) + len(pairs)
    return report
