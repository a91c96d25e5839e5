"""A training as the Train node and `dit-blocks train` run it: objective, state, log as CSV, filters and samples as they change."""

from collections.abc import Callable
import csv
from dataclasses import dataclass, field, replace
import logging
from pathlib import Path

import torch
from torch import Tensor

from ..drawing import charts
from ..drawing.charts import in_language, lines, side_by_side
from ..handle.backbone import Backbone, DitHandle
from ..model.conditioning import Conditioning
from ..see.filters import filters_picture
from ..sources.atomic import replace_atomically
from ..tokens.wire import unfold
from .adapter import Distilling
from .loop import Alone, Objective, Settings, train
from .objectives import Denoising, training_copy
from .sets import TrainingSet
from .state import Log

ADAPTER = "patch-size adapter"  # a scope, beside those of `objectives`
STATE, TABLE = "state.pt", "log.csv"
SNAPSHOTS = 24
SAMPLE_STEPS = 12
WORDS = {"loss": {"en": "loss", "zh": "损失"}, "validation": {"en": "validation loss", "zh": "验证损失"}, "step": {"en": "step", "zh": "步"}}
Report = Callable[[int, Tensor | None], None]
Sample = Callable[[DitHandle, int], Tensor]  # (a DIT as it stands, patch size or 0) → picture [H, W, 3] in 0..1


@dataclass(frozen=True)
class Trained:
    """The taught model, what was told of it, and what was seen. filters, samples: [T, H, W, 3] in 0..1."""
    dit: DitHandle
    log: Log
    filters: Tensor
    samples: Tensor | None
    picture: Tensor


@dataclass
class Monitor:
    """What is to be seen of a training: the loss, the patch embedding's filters as they change, and samples. patch_size: that is learnt,
    0 for the model's own."""
    dit: Backbone
    steps: int
    runner: Alone
    sample: Sample | None = None
    sample_every: int = 0
    filters: list[Tensor] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)
    patch_size: int = 0
    language: str = "English"

    def look(self, done: int) -> bool:
        """Take what is due at this step; → whether there is something new to show."""
        every = max(1, self.steps // (SNAPSHOTS - 1))
        filters = done % every == 0 or done == self.steps
        samples = self.sample and self.sample_every and (done % self.sample_every == 0 or done == self.steps)
        if filters or samples:
            dit = self.runner.readable(self.dit)
        if filters:
            self.filters.append(filters_picture(dit, self.patch_size, language=self.language))
        if samples:
            self.samples.append(self.sample(dit, self.patch_size))
        return bool(filters or samples)

    def picture(self, log: Log) -> Tensor:
        """Loss, filters and the last sample side by side: → [H, W, 3] in 0..1."""
        return side_by_side([curve(log, self.language), *self.filters[-1:], *self.samples[-1:]])

    def told(self, dit: DitHandle, log: Log) -> Trained:
        return Trained(dit, log, torch.stack(self.filters), torch.stack(self.samples) if self.samples else None, self.picture(log))


@charts.drawn
def curve(log: Log, language: str = "English") -> Tensor:
    """The losses as a chart: → [H, W, 3] in 0..1."""
    loss, validation, step = (in_language(words, language) for words in WORDS.values())
    series = {loss: list(enumerate(log.losses, 1))}
    if log.validation:
        series[validation] = log.validation
    return lines(series, loss, step, loss, language=language)


def write_log(log: Log, path: Path) -> None:
    """The log as CSV: step, loss, gradient norm, validation loss where it was taken."""
    validation = dict(log.validation)

    def write(aside: Path) -> None:
        with aside.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["step", "loss", "gradient_norm", "validation_loss"])
            if 0 in validation:
                table.writerow([0, "", "", validation[0]])
            for step, (loss, norm) in enumerate(zip(log.losses, log.gradients), 1):
                table.writerow([step, loss, norm, validation.get(step, "")])
    replace_atomically(path, write)


def drawn(positive: Conditioning, size: tuple[int, int], decode: Callable[[Tensor], Tensor] | None, seed: int,
          negative: Conditioning | None = None, cfg: float = 1.0) -> Sample:
    """→ what draws one picture. size: of the latent; decode: latent → [B, H, W, 3]."""
    def sample(dit: DitHandle, patch_size: int) -> Tensor:
        with torch.no_grad():
            sigmas = dit.schedule(SAMPLE_STEPS)
            empty = dit.fold({"samples": torch.zeros(1, dit.channels, *size)}, patch_size)
            noisy, _ = dit.add_noise(empty, sigmas, 0, seed)
            tokens, _ = dit.denoise(noisy, sigmas, positive, negative, cfg)
            if decode is None:
                return dit.picture(tokens, tokens["tokens"])
            return decode(unfold(tokens))[0].clone()
    return sample


def run(dit: DitHandle, data: TrainingSet, settings: Settings, scope: str = "everything", target: str = "own", weighting: str = "none",
        times: str = "logit_normal", folder: Path | None = None, resume: bool = False, sample: Sample | None = None,
        sample_every: int = 0, report: Report = lambda *_: None, runner=Alone(), language: str = "English") -> Trained:
    """Train a copy of a Backbone. folder: where state and log go. `report(done, picture or None)` may raise to stop, which keeps the state.

    Raises TrainingError.
    """
    taught = training_copy(dit)
    objective = Denoising(taught, scope, None, target, weighting, times, settings.checkpointing)
    monitor = Monitor(taught, settings.steps, runner, sample, sample_every, language=language)
    log = _watched(objective, monitor, data, settings, folder, resume, report)
    taught = runner.readable(taught)
    taught.model.eval().requires_grad_(False)
    taught.model.checkpointing = False
    return monitor.told(replace(taught, name=dit.name, facts=facts_of(log, settings, data) | objective.account), log)


def run_adapter(dit: DitHandle, data: TrainingSet, settings: Settings, patch_size: int, rank: int, times: str = "logit_normal",
                folder: Path | None = None, resume: bool = False, sample: Sample | None = None, sample_every: int = 0,
                report: Report = lambda *_: None, runner=Alone(), language: str = "English") -> Trained:
    """Teach an adapter for a patch size, as `run` trains. Raises TrainingError."""
    with torch.inference_mode(False):
        objective = Distilling(dit, patch_size, rank, times=times, checkpointing=settings.checkpointing, seed=settings.seed)
    pupil = replace(objective.dit, model=objective.student)
    monitor = Monitor(pupil, settings.steps, runner, sample, sample_every, patch_size=patch_size, language=language)
    log = _watched(objective, monitor, data, settings, folder, resume, report)
    with torch.inference_mode(False):
        done = objective.result(**facts_of(log, settings, data))
    return monitor.told(done, log)


def facts_of(log: Log, settings: Settings, data: TrainingSet) -> dict:
    """Of a training, for people to read: in the metadata of what it made."""
    facts = {"steps": len(log.losses), "batch": settings.batch * settings.accumulate, "optimizer": settings.optimizer,
             "learning_rate": settings.learning_rate, "pictures": len(data) - settings.validation, "seed": settings.seed, "loss": round(log.losses[-1], 6)}
    return facts | ({"validation_loss": round(log.validation[-1][1], 6)} if log.validation else {})


def _watched(objective: Objective, monitor: Monitor, data: TrainingSet, settings: Settings, folder: Path | None, resume: bool,
             report: Report) -> Log:
    """Train, and look at it; whatever ends it, the log is written."""
    monitor.look(0)
    last = Log()

    def watch(done: int, log: Log) -> None:
        nonlocal last
        last = log
        report(done, monitor.picture(log) if monitor.look(done) else None)
    try:
        last = train(objective, data, settings, folder and folder / STATE, resume, watch, runner=monitor.runner)
    finally:
        if folder and last.losses and monitor.runner.rank == 0:
            try:
                write_log(last, folder / TABLE)
            except OSError as error:  # what was learnt is worth more than its log
                last.unsaved = f"{last.unsaved}; {error}" if last.unsaved else str(error)
                logging.getLogger(__name__).warning("%s", error)
    return last
