"""Draws the same noise and prompt in several ways that spend less, shows what each one cost, and beside it fewer steps at the same seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import time

import torch
from torch import Tensor

from ..cost.answers import known_shape, of_step, tokens_of
from ..cost.arithmetic import Architecture
from ..drawing import charts
from ..handle.backbone import Conditioning, DitHandle
from ..handle.block_plan import BlockPlan
from ..handle.patch_schedule import PatchSchedule, denoise_by_schedule, readings
from ..handle.step_cache import told_between
from ..sampling.guidance import is_guided
from ..tokens.wire import unfold
from .cache_hits import by_step
from .vae_distance import distances
from .ways import FULL, STEPS, Way, control_of

WORDS = {
    "cost": {"en": "{tokens:,} tokens, {flops}", "zh": "{tokens:,} 个 token，{flops}"}, "seconds": {"en": "s", "zh": "秒"},
    "unknown": {"en": "FLOPs unknown", "zh": "FLOPs 未知"}, "reference": {"en": "reference", "zh": "基准"},
    "same": {"en": "the same picture, bit for bit", "zh": "同一张图，逐位相同"},
    "features": {"en": "VAE features {distance:.3g} apart", "zh": "VAE 特征相距 {distance:.3g}"},
    "measured": {"en": "{mib:,.0f} MiB at most", "zh": "最多 {mib:,.0f} MiB"}, "reckoned": {"en": "about {mib:,.0f} MiB", "zh": "约 {mib:,.0f} MiB"},
    "hits": {"en": "blocks left out in {count} of {of} steps", "zh": "{of} 步中有 {count} 步省去了块"},
    "control": {"en": "same seconds: {label}", "zh": "同样的时间：{label}"},
}
MIB = 2 ** 20


@dataclass(frozen=True)
class Run:
    """One way to draw the picture. image [B, H, W, 3]; tokens: over all steps and pictures; macs: over all steps, 0 if the
    model's shape is not known; decibels: peak signal-to-noise ratio to the reference, infinite for the same picture. memory: bytes at most,
    0 if unknown; measured: whether the device told them, else they are reckoned. distance: to the reference, see `vae_distance`. hits: by
    step, the share of calls in which a cache left blocks out. controls: the way whose seconds it has, for fewer steps. remark: what is not the
    model's own way of reading patches."""
    label: str
    image: Tensor
    seconds: float
    tokens: int
    macs: int
    decibels: float
    memory: float = 0.0
    measured: bool = False
    distance: float | None = None
    hits: tuple[float, ...] = ()
    controls: str = ""
    remark: str = ""

    def caption(self, first: "Run", language: str = "English") -> str:
        """The cost compared with the reference, and the difference between the pictures."""
        texts = {name: charts.in_language(words, language) for name, words in WORDS.items()}
        flops = f"{self.macs / first.macs:.0%} FLOPs" if first.macs else texts["unknown"]
        lines = [f"{self.seconds:.2f} {texts['seconds']} ({self.seconds / first.seconds:.0%})", texts["cost"].format(tokens=self.tokens, flops=flops)]
        if self.memory:
            lines.append(texts["measured" if self.measured else "reckoned"].format(mib=self.memory / MIB))
        if self.hits:
            lines.append(texts["hits"].format(count=sum(hit == 1 for hit in self.hits), of=len(self.hits)))
        difference = texts["reference"] if self is first else texts["same"] if self.decibels == float("inf") else f"{self.decibels:.1f} dB"
        lines.append(difference)
        if self is not first and self.distance and self.decibels != float("inf"):
            lines.append(texts["features"].format(distance=self.distance))
        return "\n".join(filter(None, [*lines, self.remark]))

    def title(self, language: str = "English", sizes: str = "") -> str:
        """What it is. sizes: goes before a line that begins with a patch size."""
        if self.controls:
            return charts.in_language(WORDS["control"], language).format(label=self.label)
        return self.label if not self.label[:1].isdigit() or STEPS.match(self.label) else sizes + self.label


def _shape_for(dit: DitHandle, plan: PatchSchedule, sigmas: Tensor, cells: tuple[int, int], frames: int) -> Architecture | None:
    """The architecture, if it is known what every step of a plan costs with it."""
    shape = known_shape(dit, (frames, *cells))
    try:
        for p, *_ in plan.stretches(sigmas, 0, len(sigmas) - 1) if shape else ():
            of_step(shape, cells, p, mask=plan.mask)
    except ValueError:
        return None
    return shape


def cost(dit: DitHandle, plan: PatchSchedule, sigmas: Tensor, size: tuple[int, int], batch: int, guided: bool, skip: str = "",
         hits: Sequence[float] = (), frames: int = 1) -> tuple[int, int]:
    """→ tokens and multiply-adds (0 if the model's architecture is not known) over all steps. size: (height, width) in pixels. skip: blocks
    that do not run; hits: by step, the share of calls in which only the first block runs. Of blocks that differ each counts as the mean."""
    cells, tokens, macs = (size[0] // dit.downscale, size[1] // dit.downscale), 0, 0
    shape = _shape_for(dit, plan, sigmas, cells, frames)
    for p, start, stop in plan.stretches(sigmas, 0, len(sigmas) - 1):
        tokens += (stop - start) * batch * frames * tokens_of(p, cells, plan.mask)
        for step in range(start, stop) if shape else ():
            spent = of_step(shape, cells, p, batch, guided, plan.mask)
            left = shape.depth - (len(BlockPlan(skip).steps(shape.depth)) if skip else 0)
            ran = left - (left - 1) * (hits[step] if step < len(hits) else 0)
            macs += round(spent.macs - spent.blocks * (1 - ran / shape.depth))
    return tokens, macs


def _most_memory(dit: DitHandle, plan: PatchSchedule, sigmas: Tensor, size: tuple[int, int], batch: int, guided: bool,
                 frames: int = 1) -> float:
    """Bytes by arithmetic: all weights, and a block at its widest in the dearest step. 0 if the architecture is not known."""
    cells, each = (size[0] // dit.downscale, size[1] // dit.downscale), 4 if dit.compute_device.type == "cpu" else 2
    shape = _shape_for(dit, plan, sigmas, cells, frames)
    if shape is None:
        return 0.0
    steps = [of_step(shape, cells, p, batch, guided, plan.mask) for p, *_ in plan.stretches(sigmas, 0, len(sigmas) - 1)]
    return each * shape.parameters + max(step.activations for step in steps) * each / 2


@dataclass(frozen=True)
class Drawing:
    """A way once it was drawn, before its picture is decoded."""
    way: Way
    latents: Tensor
    seconds: float
    memory: float
    hits: tuple[float, ...]
    size: tuple[int, ...]
    remark: str
    controls: str = ""


def compare(dit: DitHandle, vae, decode: Callable[[Tensor], Tensor], latent: dict, ways: list[Way], sigmas: Tensor, seed: int,
            positive: Conditioning, negative: Conditioning | None, cfg: float, solver: str,
            report: Callable[[int, Tensor | None], None] = lambda *_: None, controls: bool = True) -> list[Run]:
    """Draw the picture once for each way, and once for fewer steps at the same seconds: → a Run each, the full run among them first.

    vae: for distances. decode: latent → [B, H, W, 3]. Raises as `DitHandle.denoise` does.
    """
    steps, done, device = len(sigmas) - 1, 0, dit.compute_device
    whole = next((way for way in ways if way.is_full(dit, steps)), Way(FULL))
    ways = [whole, *(way for way in ways if way is not whole)]
    handles = [way.handle(dit) for way in ways]
    for way, handle in zip(ways, handles):  # all of them first, so that an error comes before the work
        levels = way.sigmas(sigmas)
        readings(handle, way.plan(dit), way.plan(dit).stretches(levels, 0, len(levels) - 1))

    def walked(handle: DitHandle, way: Way, levels: Tensor, end: int):
        clean = dit.fold(latent, way.first_patch(dit))
        noisy, _ = dit.add_noise(clean, levels, 0, seed)
        tokens, _, remark = denoise_by_schedule(handle, noisy, way.plan(dit), levels, positive, negative, cfg, solver, 0, end,
                                                lambda step, wire, x0: report(done + step, dit.preview(wire, x0)))
        return clean, noisy, tokens, remark

    def drawn(handle: DitHandle, way: Way) -> Drawing:
        nonlocal done
        levels = way.sigmas(sigmas)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        clean, noisy, tokens, remark = walked(handle, way, levels, len(levels) - 1)
        latents = unfold(tokens).cpu()  # which waits for the device
        seconds = time.perf_counter() - began
        done += len(levels) - 1
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        return Drawing(way, latents, seconds, memory, tuple(by_step(told_between(noisy, tokens), levels)), tuple(clean["size"][-2:]), remark)
    walked(handles[0], whole, sigmas, 1)  # what is done only once is not timed
    found, fewer = [], {}
    for way, handle in zip(ways, handles):
        found.append(drawn(handle, way))
        control = control_of(way, found[-1].seconds, found[0].seconds, steps) if controls and way is not whole else None
        if control is not None:
            if control.steps not in fewer:
                fewer[control.steps] = drawn(dit, control)
            found.append(replace(fewer[control.steps], controls=way.label))
    # only now, as a host may take the model off its device to make room for the VAE
    images = [decode(one.latents) for one in found]
    apart = distances(vae, images, images[0])
    return [_run(dit, one, image, images[0], distance, sigmas, is_guided(cfg)) for one, image, distance in zip(found, images, apart)]


def _run(dit: DitHandle, one: Drawing, image: Tensor, reference: Tensor, distance: float | None, sigmas: Tensor, guided: bool) -> Run:
    levels, plan, size = one.way.sigmas(sigmas), one.way.plan(dit), tuple(length * dit.downscale for length in one.size)
    films = len(one.latents), guided
    frames = one.latents.shape[2] if one.latents.dim() == 5 else 1
    spent = cost(dit, plan, levels, size, *films, one.way.skip or "", one.hits, frames)
    memory = one.memory or _most_memory(dit, plan, levels, size, *films, frames)
    error = (image - reference).square().mean()
    return Run(one.way.label, image, one.seconds, *spent, (-10 * error.log10()).item(), memory, bool(one.memory), distance, one.hits, one.controls,
               one.remark)


def in_words(runs: list[Run], language: str = "English") -> str:
    """The labels and what each way cost, a block for each."""
    return "\n\n".join(f"{run.title(language)}\n{run.caption(runs[0], language)}" for run in runs)


@charts.drawn
def sheet(runs: list[Run], language: str = "English", columns: int = 4) -> Tensor:
    """A contact sheet with the first picture of each run, fewer steps at the same seconds beside their way: → [1, H, W, 3] in 0..1."""
    cells: list[Run | None] = []
    for run, following in zip(runs, [*runs[1:], None]):
        if following is not None and following.controls and len(cells) % columns == columns - 1:
            cells.append(None)  # a pair stays in one line
        cells.append(run)
    pictures = [torch.ones_like(runs[0].image[0, ..., :3]) if run is None else run.image[0, ..., :3] for run in cells]
    labels = ["" if run is None else f"{run.title(language, 'p = ')}\n{run.caption(runs[0], language)}" for run in cells]
    return charts.sheet(pictures, labels, columns, language=language)[None]
