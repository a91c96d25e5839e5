"""Draws the same noise and prompt with several patch sizes, methods or schedules, and shows what each one cost."""

from dataclasses import dataclass
import time
from typing import Callable

import torch
from torch import Tensor

from ..cost.answers import of_step, tokens_of
from ..cost.arithmetic import architecture
from ..drawing import charts
from ..errors import BackboneError, ScheduleError
from ..handle.backbone import Conditioning, DitHandle
from ..handle.patch_schedule import PatchSchedule, denoise_by_schedule, finest, parse_schedule
from ..sampling.guidance import is_guided
from ..tokens.other_sizes import METHODS
from ..tokens.wire import unfold

WORDS = {
    "cost": {"en": "{tokens:,} tokens, {flops}", "zh": "{tokens:,} 个 token，{flops}"}, "seconds": {"en": "s", "zh": "秒"},
    "unknown": {"en": "FLOPs unknown", "zh": "FLOPs 未知"}, "reference": {"en": "reference", "zh": "基准"},
    "same": {"en": "the same picture, bit for bit", "zh": "同一张图，逐位相同"},
}


@dataclass(frozen=True)
class Run:
    """One way to draw the picture. image [B, H, W, 3]; tokens: over all steps and pictures; macs: over all steps, 0 if the
    model's shape is not known; decibels: peak signal-to-noise ratio to the first run, infinite for the same picture."""
    label: str
    image: Tensor
    seconds: float
    tokens: int
    macs: int
    decibels: float

    def caption(self, first: "Run", language: str = "English") -> str:
        """The cost compared with the first run, and the difference between the pictures."""
        texts = {name: charts.in_language(words, language) for name, words in WORDS.items()}
        flops = f"{self.macs / first.macs:.0%} FLOPs" if first.macs else texts["unknown"]
        difference = texts["reference"] if self is first else texts["same"] if self.decibels == float("inf") else f"{self.decibels:.1f} dB"
        return (f"{self.seconds:.2f} {texts['seconds']} ({self.seconds / first.seconds:.0%})\n"
                f"{texts['cost'].format(tokens=self.tokens, flops=flops)}\n{difference}")


def parse_rows(text: str) -> list[tuple[str, PatchSchedule]]:
    """A text with a line for each run, such as `4 until 50%, then 2 by resample` → (line, schedule) each. Raises ScheduleError."""
    rows = []
    for line in filter(None, map(str.strip, text.splitlines())):
        schedule, _, method = line.partition(" by ")
        if method and method not in METHODS:
            raise ScheduleError(f"the word after 'by' is one of {', '.join(METHODS)}, not {method!r}")
        rows.append((line, parse_schedule(schedule, method or "auto")))
    if not rows:
        raise ScheduleError("there is nothing to compare: write a line for each patch size or schedule")
    return rows


def cost(dit: DitHandle, plan: PatchSchedule, sigmas: Tensor, size: tuple[int, int], batch: int, guided: bool) -> tuple[int, int]:
    """→ tokens and multiply-adds (0 if the model's architecture is not known) over all steps. size: (height, width) in pixels."""
    try:
        shape = architecture(dit)
    except BackboneError:
        shape = None
    tokens = macs = 0
    cells = size[0] // dit.downscale, size[1] // dit.downscale
    for p, start, stop in plan.stretches(sigmas, 0, len(sigmas) - 1):
        tokens += (stop - start) * batch * tokens_of(p, cells, plan.mask)
        if shape:
            macs += (stop - start) * of_step(shape, cells, p, batch, guided, plan.mask).macs
    return tokens, macs


def compare(dit: DitHandle, decode: Callable[[Tensor], Tensor], latent: dict, rows: list[tuple[str, PatchSchedule]], sigmas: Tensor, seed: int,
            positive: Conditioning, negative: Conditioning | None, cfg: float, solver: str,
            report: Callable[[int, Tensor | None], None] = lambda *_: None) -> list[Run]:
    """Draw the picture once for each row: → a Run each. decode: latent → [B, H, W, 3]. Raises as `DitHandle.denoise` does."""
    runs, drawn, steps = [], [], len(sigmas) - 1
    for number, (label, plan) in enumerate(rows):
        clean = dit.fold(latent, finest(plan.rows[0].sizes))
        noisy, _ = dit.add_noise(clean, sigmas, 0, seed)
        began = time.perf_counter()
        tokens, *_ = denoise_by_schedule(dit, noisy, plan, sigmas, positive, negative, cfg, solver, 0, steps,
                             lambda done, wire, x0, before=number * steps: report(before + done, dit.preview(wire, x0)))
        drawn.append((label, plan, unfold(tokens).cpu(), time.perf_counter() - began, clean["size"][-2:]))
    # only now, as a host may take the model off its device to make room for the VAE
    for label, plan, latents, seconds, size in drawn:
        image = decode(latents)
        spent = cost(dit, plan, sigmas, tuple(length * dit.downscale for length in size), len(image), is_guided(cfg))
        error = (image - runs[0].image).square().mean() if runs else torch.tensor(0.0)
        runs.append(Run(label, image, seconds, *spent, (-10 * error.log10()).item()))
    return runs


@charts.drawn
def sheet(runs: list[Run], language: str = "English", columns: int = 4) -> Tensor:
    """A contact sheet with the first picture of each run: → [1, H, W, 3] in 0..1."""
    labels = [f"p = {run.label}\n{run.caption(runs[0], language)}" for run in runs]
    return charts.sheet([run.image[0, ..., :3] for run in runs], labels, columns, language=language)[None]
