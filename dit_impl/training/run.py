"""A complete training, for the Train DiT node and `dit-blocks train`: objective, state, a log as CSV, filters and samples on the way."""

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
Sample = Callable[[DitHandle, int], Tensor]  # (handle, patch size or 0) → a picture [H, W, 3] in 0..1 that it draws now


@dataclass(frozen=True)
class Trained:
    """The trained model, its log, and pictures from the training: filters and samples [T, H, W, 3] in 0..1."""
    dit: DitHandle
    log: Log
    filters: Tensor
    samples: Tensor | None
    picture: Tensor


@dataclass
class Monitor:
    """Collects pictures during a training: the patch embedding's filters, and samples. patch_size: the size that learns; 0 is the
    model's own."""
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
        """Make the pictures that are due at this step: → whether there is something new to show."""
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
        """The loss curve, the last filters and the last sample side by side: → [H, W, 3] in 0..1."""
        return side_by_side([curve(log, self.language), *self.filters[-1:], *self.samples[-1:]])

    def told(self, dit: DitHandle, log: Log) -> Trained:
        return Trained(dit, log, torch.stack(self.filters), torch.stack(self.samples) if self.samples else None, self.picture(log))


@charts.drawn
def curve(log: Log, language: str = "English") -> Tensor:
    """The loss curve as a chart: → [H, W, 3] in 0..1."""
    loss, validation, step = (in_language(words, language) for words in WORDS.values())
    series = {loss: list(enumerate(log.losses, 1))}
    if log.validation:
        series[validation] = log.validation
    return lines(series, loss, step, loss, language=language)


def write_log(log: Log, path: Path) -> None:
    """Write the log as CSV: step, loss, gradient norm, and validation loss if it was measured."""
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
    """→ a function that draws one picture. size: of the latent; decode: latent → [B, H, W, 3], None for a rough picture."""
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
    """Train a copy of a Backbone. folder: for state and log. Raises TrainingError.

    report(done, picture or None) is called after every step. If it raises an error, training stops and the state is kept.
    """
    taught = training_copy(dit)
    objective = Denoising(taught, scope, None, target, weighting, times, settings.checkpointing)
    monitor = Monitor(taught, settings.steps, runner, sample, sample_every, language=language)
    log = _watched(objective, monitor, data, settings, folder, resume, report)
    taught = runner.readable(taught)
    taught.model.eval().requires_grad_(False)
    taught.model.checkpointing = False
    mixes = {"mixes": settings.mix} if settings.mix else {}
    return monitor.told(replace(taught, name=dit.name, facts=facts_of(log, settings, data) | objective.account | mixes), log)


def run_adapter(dit: DitHandle, data: TrainingSet, settings: Settings, patch_size: int, rank: int, times: str = "logit_normal",
                folder: Path | None = None, resume: bool = False, sample: Sample | None = None, sample_every: int = 0,
                report: Report = lambda *_: None, runner=Alone(), language: str = "English") -> Trained:
    """Train an adapter for a patch size; the arguments are those of `run`. Raises TrainingError."""
    with torch.inference_mode(False):
        objective = Distilling(dit, patch_size, rank, times=times, checkpointing=settings.checkpointing, seed=settings.seed)
    pupil = replace(objective.dit, model=objective.student)
    monitor = Monitor(pupil, settings.steps, runner, sample, sample_every, patch_size=patch_size, language=language)
    log = _watched(objective, monitor, data, settings, folder, resume, report)
    with torch.inference_mode(False):
        done = objective.result(**facts_of(log, settings, data))
    return monitor.told(done, log)


def facts_of(log: Log, settings: Settings, data: TrainingSet) -> dict:
    """Facts about a training for people to read. They go into the metadata of its result."""
    facts = {"steps": len(log.losses), "batch": settings.batch * settings.accumulate, "optimizer": settings.optimizer,
             "learning_rate": settings.learning_rate, "pictures": len(data) - settings.validation, "seed": settings.seed, "loss": round(log.losses[-1], 6)}
    return facts | ({"validation_loss": round(log.validation[-1][1], 6)} if log.validation else {})


def _watched(objective: Objective, monitor: Monitor, data: TrainingSet, settings: Settings, folder: Path | None, resume: bool,
             report: Report) -> Log:
    """Train with a monitor. The log is written even if training stops early."""
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
            except OSError as error:  # do not lose the trained model because its log can't be written
                last.unsaved = f"{last.unsaved}; {error}" if last.unsaved else str(error)
                logging.getLogger(__name__).warning("%s", error)
    return last
