"""`dit-blocks eval embedded`: how often the default model draws what the prompt says, and how well its VAE rebuilds pictures."""

from collections.abc import Iterable
from pathlib import Path
import random
import re
import time
from typing import Callable

import torch
from torch import Tensor
import torch.nn.functional as F

from ...cost.answers import of_walk
from ...cost.arithmetic import architecture
from ...handle.backbone import Backbone
from ...handle.patch_schedule import PatchSchedule, denoise_by_schedule, parse_schedule
from ...model.conditioning import join
from ...see.cache_hits import by_step
from ...sources.embedded import FOLDER, EmbeddedVAE, Parts, load_embedded
from ...tokens.wire import unfold
from ..precision import quick
from . import matcher, scenes, textures, things
from .reader import read_scene, same_scene
from .train_vae import psnr

STEPS, CFG, BATCH = 20, 2.0, 20
# coarse patches at first, then fine ones where there is detail
MIXED = {"4-2": "4 until 30%, then 4 with 2 on 25%", "8-4-2": "8 until 30%, then 8 with 4 on 50% with 2 on 50%"}
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")

_THING = re.compile(
    rf"an? (?P<size>{'|'.join(scenes.SIZES)}) (?P<colour>{'|'.join(scenes.COLOURS)}) (?P<shape>{'|'.join(scenes.SHAPES)}) "
    rf"(?:at the|in the) (?P<place>{'|'.join(sorted(scenes.PLACES, key=len, reverse=True))})")


def read_caption(text: str) -> scenes.Scene:
    """A full caption of shapes back into its scene. Raises ValueError where a word is missing, since the answer could not be judged."""
    things = [scenes.Thing(**m.groupdict()) for m in _THING.finditer(text)]
    background = re.search(rf"on an? ({'|'.join(scenes.BACKGROUNDS)}) background", text)
    scene = scenes.Scene(tuple(things), background.group(1) if background else "")
    if not things or not background or scenes.caption(scene) != text.strip():
        raise ValueError(f"not a full caption, such as {scenes.caption(scenes.held_out()[0][0])!r}: {text.strip()!r}")
    return scene


def draw_prompts(prompts: list[str], plan: PatchSchedule, seed: int = 0, dit: Backbone | None = None,
                 parts: Parts | None = None) -> tuple[Tensor, float]:
    """Pictures of prompts, one batch from one seed: → ([len(prompts), 3, H, W] in 0..1, seconds of denoising). parts: other ones than the
    default model's. dit: one that reads their text in the place of theirs."""
    return draw_in_steps(prompts, plan, STEPS, seed, dit, parts)[:2]


def draw_in_steps(prompts: list[str], plan: PatchSchedule, steps: int, seed: int = 0, dit: Backbone | None = None,
                  parts: Parts | None = None) -> tuple[Tensor, float, list[float]]:
    """`draw_prompts` in so many steps: → its pictures and seconds, and by step the share of model calls in which a cache left blocks out."""
    backbone, clip, vae = parts or load_embedded()
    backbone = dit or backbone
    sigmas, side = backbone.schedule(steps), backbone.picture_size // backbone.downscale
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0] for prompt in prompts]
    joined = join([{"context": states, "pooled": extra["pooled_output"]} for states, extra in encoded])
    positive = [[joined["context"], {"pooled_output": joined["pooled"]}]]
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    empty = backbone.fold({"samples": torch.zeros(len(prompts), backbone.channels, side, side)})
    noisy, _ = backbone.add_noise(empty, sigmas, 0, seed)
    began = time.perf_counter()
    with torch.no_grad(), quick(noisy["tokens"].device):
        clean, *_ = denoise_by_schedule(backbone, noisy, plan, sigmas, positive, negative, CFG, "euler", 0, steps)
    seconds = time.perf_counter() - began
    return vae.decode(unfold(clean)).movedim(-1, 1), seconds, by_step(clean.get("hits", ()), sigmas)


Draw = Callable[[list[str], int], Tensor]  # prompts and a seed → pictures [B, 3, H, W]
Each = Callable[[Callable, Iterable], Iterable]  # as `map`: a function and what to call it with, one by one or many at a time


def share_right(wanted: list[scenes.Scene], draw: Draw, read: Callable[[Tensor], scenes.Scene] = read_scene,
                progress: Callable[[int], None] = lambda _: None, each: Each = map) -> float:
    """Share of scenes drawn with every attribute right, from their full captions. each: draws the batches."""
    def right_of(batch: list[scenes.Scene]) -> int:
        pictures = draw([scenes.caption(scene) for scene in batch], wanted.index(batch[0]))
        return sum(same_scene(read(picture), scene) for picture, scene in zip(pictures, batch))
    right, done, batches = 0, 0, batches_of(wanted)
    for batch, count in zip(batches, each(right_of, batches)):
        right, done = right + count, done + len(batch)
        progress(done)
    return right / len(wanted)


def batches_of(wanted: list[scenes.Scene]) -> list[list[scenes.Scene]]:
    """Scenes whose captions take as many text tokens, up to BATCH together: texts of other lengths in a batch would be repeated, each as often
    as it fits, which is another prompt."""
    clip, alike = load_embedded()[1], {}
    for scene in wanted:
        alike.setdefault(len(clip.tokenize(scenes.caption(scene))["words"][0]), []).append(scene)
    return [scenes_alike[i:i + BATCH] for scenes_alike in alike.values() for i in range(0, len(scenes_alike), BATCH)]


def accuracy(wanted: list[scenes.Scene], patch_size: int, progress: Callable[[int], None] = lambda _: None, dit: Backbone | None = None,
             method: str = "auto", parts: Parts | None = None, read: Callable[[Tensor], scenes.Scene] = read_scene, each: Each = map) -> float:
    """Share of scenes drawn with every attribute right at a patch size. dit, parts: as in `draw_prompts`."""
    plan = parse_schedule(str(patch_size), method)
    return share_right(wanted, lambda prompts, seed: draw_prompts(prompts, plan, seed, dit, parts)[0], read, progress, each)


def unevenness(wanted: list[scenes.Scene], pictures: Tensor) -> float:
    """How much plain backgrounds vary, in RGB 0..1: the mean deviation of what lies well outside the objects."""
    found = []
    for scene, picture in zip(wanted, pictures):
        side = picture.shape[-1]
        shown = (scenes.draw(scene, side) - scenes.ground(scene.background, side)).abs().amax(0, keepdim=True) > 0.01
        reach = 2 * round(0.05 * side) + 1
        outside = F.max_pool2d(shown[None].float(), reach, 1, reach // 2)[0, 0] == 0
        found.append(picture[:, outside].std(dim=1).mean().item())
    return sum(found) / len(found)


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


def evaluate_embedded(prompts: Path | None = None, progress: Callable[[int, int], None] = lambda *_: None, each: Each = map) -> dict:
    """Caption accuracy at every patch size and with several in one sequence, how even backgrounds are, PSNR, and size on disk.

    `prompts`: a file of full captions, one a line. `progress(done, of)` counts the pictures. each: draws batches, as `map` does. What can't be measured here says in a line why.
    """
    parts = load_embedded()
    sizes, own = parts[0].patch_sizes, parts[0].patch_size
    singles, pairs = scenes.held_out()
    thing, thing_pair, thing_triple = scenes.held_out_things() if prompts is None else ([], [], [])
    if prompts is not None:
        given = [read_caption(line) for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
        singles, pairs = ([s for s in given if len(s.things) == n] for n in (1, 2))
    report: dict = {"accuracy": {"single": {}, "pair": {}}}
    runs = [("single", singles, p, read_scene) for p in sizes] + [("pair", pairs, own, read_scene)]
    if why := things_unknown(parts):
        report["accuracy"] |= {"thing": why} if prompts is None else {}
    else:
        runs += [("thing", thing, p, matcher.read_scene) for p in sizes]
        runs += [("thing_pair", thing_pair, own, matcher.read_scene), ("thing_triple", thing_triple, own, matcher.read_scene)]
    runs = [run for run in runs if run[1]]
    plans = {name: parse_schedule(rows) for name, rows in MIXED.items() if singles and set(map(int, name.split("-"))) <= set(sizes)}
    done, total = 0, sum(len(wanted) for _, wanted, *_ in runs) + len(plans) * len(singles)
    for kind, wanted, p, read in runs:
        of_kind = report["accuracy"].setdefault(kind, {})
        of_kind[str(p)] = accuracy(wanted, p, lambda n: progress(done + n, total), read=read, each=each)
        done += len(wanted)
    report["mixed"] = {}
    for name, plan in plans.items():
        right = share_right(singles, lambda captions, seed: draw_prompts(captions, plan, seed)[0],
                            progress=lambda n: progress(done + n, total), each=each)
        report["mixed"][name] = {"accuracy": right, **spent(parts[0], plan)}
        done += len(singles)
    if singles:
        few = singles[:BATCH]
        report["background"] = {str(p): unevenness(few, draw_prompts([scenes.caption(s) for s in few], parse_schedule(str(p)))[0]) for p in sizes}
    report["psnr"] = {"procedural": vae_psnr(parts[2], procedural())}
    if things.font_path():
        rng = random.Random(90211)
        drawn = [scenes.draw(scenes.any_scene(rng, 1 + i % 3, 0.7, giant=0.2), 256, rng) for i in range(48)]
        report["psnr"]["scenes"] = vae_psnr(parts[2], torch.stack(drawn))
    try:
        report["psnr"]["photographs"] = vae_psnr(parts[2], photographs())
    except ImportError:
        report["psnr"]["photographs"] = "not measured: its photographs come with scikit-image, pip install scikit-image"
    report["bytes"] = sum(file.stat().st_size for file in FOLDER.glob("*.safetensors"))
    report["prompts"] = len(singles) + len(pairs)
    return report


def spent(dit: Backbone, plan: PatchSchedule) -> dict[str, float]:
    """FLOPs and image tokens of a guided run, as shares of what the model's own patch size takes."""
    shape, side = architecture(dit), dit.picture_size // dit.downscale
    walk, own = (of_walk(shape, (side, side), one, dit.schedule(STEPS), CFG) for one in (plan, parse_schedule(str(dit.patch_size))))
    tokens = [sum(one["steps"] * one["tokens"] for one in each["stretches"]) for each in (walk, own)]
    return {"flops": walk["share"], "tokens": tokens[0] / tokens[1]}


def things_unknown(parts: Parts) -> str:
    """Why pictures of things can't be measured, in a line; "" where they can."""
    if not set(things.WORDS) <= set(parts[1].encoder.config.vocabulary):
        return "not measured: the model's text encoder has no words for things"
    return "" if things.font_path() else f"not measured: {things.INSTALL}"
