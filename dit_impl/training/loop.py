"""The training loop. What learns, and the loss, come from an objective: see `objectives.py` and `adapter.py`.

A batch depends only on the seed and the number of the step. So a resumed run equals a run without a break, and every process knows which
pictures the others take.
"""

from contextlib import nullcontext
from dataclasses import dataclass
import logging
import math
from pathlib import Path
import random
import time
from typing import Any, Callable, Protocol

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..handle.backbone import Backbone
from ..libraries import diffusers_part
from ..model.conditioning import Conditioning
from ..tokens.mixed import Mix
from ..tokens.wire import LatentFormat, into_dit_space
from .mixes import MIX_SHARE, random_mix, read_mixes
from .optimizers import OPTIMIZERS, optimizers_of
from .sets import TrainingSet
from .state import Log, State, held

log = logging.getLogger(__name__)

SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine")
PRECISIONS = ("float32", "bfloat16")
VALIDATION_SEED = 7919


@dataclass(frozen=True)
class Settings:
    """How to train.

    steps: of the optimizer, each over `accumulate` batches of `batch` pictures. warmup: in steps. ema: decay of the averaged weights, 0 for
    none. drop: share of captions that are left out, so that guidance works. validation: how many pictures are held out. checkpointing: run
    blocks again in the backward pass, to save memory. clip: the largest gradient norm. mix: sizes of patches in one sequence, as "4-2, 8-4-2",
    for a share of the batches."""
    steps: int = 500
    batch: int = 8
    learning_rate: float = 1e-3
    scheduler: str = "cosine"
    warmup: int = 20
    precision: str = "float32"
    accumulate: int = 1
    checkpointing: bool = False
    ema: float = 0.0
    seed: int = 0
    drop: float = 0.1
    validation: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    optimizer: str = "adamw"
    mix: str = ""

    def check(self) -> None:
        """Raise TrainingError for a setting that is not possible."""
        for name in ("steps", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is at least 1, not {getattr(self, name)}")
        for name, most in (("batch", 100_000), ("accumulate", 100_000), ("steps", 10 ** 9), ("warmup", 10 ** 9), ("seed", 0xFFFFFFFF)):
            if getattr(self, name) > most:
                raise TrainingError(f"{name} is at most {most}, not {getattr(self, name):.6g}")
        for name in ("warmup", "validation", "weight_decay", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise TrainingError(f"{name} is at least 0, not {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f"{name} is above 0, not {getattr(self, name)}")
        for name, known in (("scheduler", SCHEDULERS), ("precision", PRECISIONS), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise TrainingError(f"{name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        for name in ("ema", "drop"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"{name} is from 0 to below 1, not {getattr(self, name)}")
        read_mixes(self.mix)


@dataclass(frozen=True)
class Batch:
    """The input of one loss: clean latents and noise [B, C, H, W] in DiT space, noise levels [B], conditionings, one patch size.
    mix: where patches of several sizes lie, in the place of the one."""
    clean: Tensor
    noise: Tensor
    sigma: Tensor
    conditionings: list[Conditioning | None]
    patch_size: int
    mix: Mix | None = None


class Objective(Protocol):
    """What learns, and the loss.

    module: the module that the loss calls; a launcher may wrap it. trained: the parameters that learn, by name. patch_sizes: each step uses
    one of them. nothing: the conditioning of an empty caption, if the training set has none. account: all other settings that the result
    depends on; resume compares them.
    """
    module: nn.Module
    trained: dict[str, nn.Parameter]
    patch_sizes: tuple[int, ...]
    latent_format: LatentFormat
    device: torch.device
    nothing: Conditioning | None
    account: dict[str, str | int | float]

    def sigmas(self, count: int, generator: torch.Generator) -> Tensor:
        """Random noise levels: → [count]."""

    def check_mix(self, sizes: tuple[int, ...]) -> None:
        """Raise TrainingError unless it can learn sequences with patches of these sizes."""

    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch: → []."""


class Alone:
    """One process, one device."""
    rank, processes = 0, 1
    sharded = False  # whether each process holds only a part of every weight

    def prepare(self, objective: Objective, optimizers: list[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
        return optimizers

    def gathering(self, objective: Objective, last: bool):
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self, parameters: list[nn.Parameter], most: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, most)

    def mean(self, value: Tensor) -> Tensor:
        return value

    def whole(self, values: Any) -> Any:
        """The same nested values, with whole tensors in place of parts that are split over processes."""
        return values

    def readable(self, dit: Backbone) -> Backbone:
        """The handle that is being trained, with whole weights, for reading."""
        return dit

    def placed(self, value: Tensor, parameter: nn.Parameter) -> Tensor:
        """A whole tensor, split over processes as this parameter is."""
        return value


class Draws:
    """Makes the batch of a step from its number: pictures, noise, noise levels, and which captions are left out."""

    def __init__(self, data: TrainingSet, objective: Objective, settings: Settings, runner):
        self.data, self.objective, self.settings, self.runner = data, objective, settings, runner
        self.count = len(data) - settings.validation
        if self.count < 1:
            raise TrainingError(f"the set has {len(data)} pictures, validation holds out {settings.validation}: none is left for training")
        self.buckets = data.buckets(0, self.count)
        channels, side = data.channels, min(map(min, data.sizes))
        if channels != len(objective.latent_format["scale"]):
            raise TrainingError(f"the set has latents of {channels} channels, "
                                f"the model reads {len(objective.latent_format['scale'])}")
        if side < max(objective.patch_sizes):
            raise TrainingError(f"the shorter side of the set's latents is {side} cells, less than a patch of {max(objective.patch_sizes)}")
        self.mixes = read_mixes(settings.mix)
        for mix in self.mixes:
            objective.check_mix(mix)
            if wrong := next((size for size in data.sizes if any(length % mix[0] for length in size)), None):
                raise TrainingError(f"mix {'-'.join(map(str, mix))}: the set has latents of {wrong[0]}×{wrong[1]} cells, "
                                    f"which is not a multiple of {mix[0]}")
        if settings.batch % runner.processes:
            raise TrainingError(f"batch {settings.batch} is not a multiple of {runner.processes} processes")

    def at(self, step: int, part: int = 0) -> Batch:
        """This process's part of a step's batch. part: which of the accumulated batches."""
        settings = self.settings
        generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + step) * 1_009 + part)
        if len(self.buckets) > 1:
            return self._batch(self._of_one_size(step * settings.accumulate + part), generator, settings.drop)
        # an epoch is a permutation, and the position in it follows from the number of the step
        places = torch.arange(settings.batch) + (step * settings.accumulate + part) * settings.batch
        chosen = torch.stack([self._order(int(place) // self.count)[int(place) % self.count] for place in places])
        return self._batch(chosen, generator, settings.drop)

    def _of_one_size(self, number: int) -> Tensor:
        """The pictures of a batch, counted from the start of training, if the set has several sizes: an epoch takes every picture once, in
        batches of one size, which are in any order. The last ones of a size may be few."""
        batches = sum(math.ceil(len(bucket) / self.settings.batch) for bucket in self.buckets)
        epoch, place = divmod(number, batches)
        generator = torch.Generator().manual_seed(self.settings.seed * 7_919 + epoch)
        parts = [part for bucket in self.buckets for part in bucket[torch.randperm(len(bucket), generator=generator)].split(self.settings.batch)]
        return parts[torch.randperm(batches, generator=generator)[place]]

    def held_numbers(self) -> list[Tensor]:
        """The numbers of the pictures held out for validation, batch by batch, each of one size."""
        return [chunk for bucket in self.data.buckets(self.count, len(self.data)) if len(bucket) for chunk in bucket.split(self.settings.batch)]

    def held_out(self) -> list[Batch]:
        """Batches of the pictures held out for validation, always with the same noise and noise levels."""
        generator = torch.Generator().manual_seed(VALIDATION_SEED)
        return [self._batch(chunk, generator, 0.0) for chunk in self.held_numbers()]

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(self.count, generator=torch.Generator().manual_seed(self.settings.seed * 7_919 + epoch))

    def _batch(self, chosen: Tensor, generator: torch.Generator, drop: float) -> Batch:
        objective, data = self.objective, self.data
        sizes = objective.patch_sizes
        patch_size = sizes[int(torch.randint(len(sizes), (1,), generator=generator))]
        latents = data.take(chosen)
        noise = torch.randn(latents.shape, generator=generator)
        sigma = objective.sigmas(len(chosen), generator)
        dropped = torch.rand(len(chosen), generator=generator) < drop
        # a process without a picture of its own takes another's, so that the others do not wait for it
        mine = slice(self.runner.rank % len(chosen), None, self.runner.processes)
        device = objective.device
        clean = into_dit_space(latents[mine], objective.latent_format)
        nothing = data.nothing or objective.nothing
        conditionings = [None if data.conditionings is None else nothing if out and nothing else data.conditionings[i]
                         for i, out in zip(chosen[mine].tolist(), dropped[mine].tolist())]
        return Batch(clean.to(device), noise[mine].to(device), sigma[mine].to(device), conditionings, patch_size,
                     self._mix(latents, mine, generator))

    def _mix(self, latents: Tensor, mine: slice, generator: torch.Generator) -> Mix | None:
        """Where patches of several sizes lie in this process's pictures, if the batch is one that has several."""
        if not self.mixes or torch.rand(1, generator=generator).item() >= MIX_SHARE:
            return None
        sizes = self.mixes[int(torch.randint(len(self.mixes), (1,), generator=generator))]
        rng = random.Random(int(torch.randint(2 ** 31, (1,), generator=generator)))
        mix = random_mix(into_dit_space(latents, self.objective.latent_format), sizes, rng, generator)
        return Mix(mix.size, {p: places[mine].to(self.objective.device) for p, places in mix.places.items()})


def validate(objective: Objective, draws: Draws, runner) -> float:
    """The mean loss on the pictures held out, over all processes; NaN if there are none."""
    held, total = len(draws.data) - draws.count, torch.zeros((), device=objective.device)
    with torch.no_grad():
        for chunk, batch in zip(draws.held_numbers(), draws.held_out()):
            own = range(runner.rank, len(chunk), runner.processes)
            total += objective.loss(batch) * len(own)
    return (runner.mean(total) * runner.processes / held).item() if held else float("nan")


Watch = Callable[[int, Log], None]  # (steps done, log), after every step; an error from it stops the training, and the state is kept


def train(objective: Objective, data: TrainingSet, settings: Settings, state: Path | None = None, resume: bool = False,
          watch: Watch = lambda *_: None, every: int = 50, runner=Alone(), averaged: bool = True) -> Log:
    """Train `objective.trained` in place. With `settings.ema` the averaged weights are left there.

    state: the file that training resumes from, written every `every` steps, at the end, and when training is stopped. It works in any mode
    of the caller, also in inference mode. Raises TrainingError. If the loss is not finite, the last good state is kept.
    """
    settings.check()
    with held(state if runner.rank == 0 else None), torch.inference_mode(False), torch.enable_grad():
        return _train(objective, data, settings, state, resume, watch, every, runner, averaged)


def forget(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _train(objective, data, settings, state, resume, watch, every, runner, averaged) -> Log:
    get_scheduler = diffusers_part("get_scheduler", "training", "diffusers.optimization")
    EMAModel = diffusers_part("EMAModel", "training", "diffusers.training_utils")
    draws, told, done = Draws(data, objective, settings, runner), Log(), 0
    optimizers = runner.prepare(objective, optimizers_of(objective.trained, settings.learning_rate, settings.weight_decay, settings.optimizer))
    parameters = list(objective.trained.values())  # a launcher may have replaced them
    schedules = [get_scheduler(settings.scheduler, optimizer, num_warmup_steps=settings.warmup, num_training_steps=settings.steps)
                 for optimizer in optimizers]
    average = EMAModel(parameters, settings.ema) if settings.ema else None
    parts = {name + ("2" if i else ""): part for name, made in (("optimizer", optimizers), ("schedule", schedules))
             for i, part in enumerate(made)} | ({"average": average} if average else {})
    kept = State(state, objective, parts, settings, runner)
    if resume:
        done, told = kept.restore()
    began, began_at, autocast = time.monotonic() - told.seconds, done, settings.precision == "bfloat16"
    if settings.validation and not done:
        told.validation.append((0, validate(objective, draws, runner)))
    try:
        while done < settings.steps:
            total = torch.zeros((), device=objective.device)
            for part in range(settings.accumulate):
                with runner.gathering(objective, part == settings.accumulate - 1):
                    with torch.autocast(objective.device.type, torch.bfloat16, enabled=autocast):
                        loss = objective.loss(draws.at(done, part)) / settings.accumulate
                    runner.backward(loss)
                total += loss.detach()
            norm, reached = runner.clip(parameters, settings.clip).item(), runner.mean(total).item()
            if not (math.isfinite(reached) and math.isfinite(norm)):
                raise kept.back(f"the loss of step {done + 1} is {reached}, its gradient's norm {norm}: "
                                f"learning_rate {settings.learning_rate:g} is too high")
            # write a state only after a finite loss, so that a training that fails at once does not replace an earlier state
            if done == began_at:
                kept.begin(done, told)
            elif done % every == 0:
                kept.keep(done, told)
            for part in (*optimizers, *schedules):
                part.step()
            forget(parameters)
            if average:
                average.step(parameters)
            done += 1
            told.losses.append(reached)
            told.gradients.append(norm)
            if settings.validation and (done % every == 0 or done == settings.steps):
                told.validation.append((done, validate(objective, draws, runner)))
            told.seconds = time.monotonic() - began
            watch(done, told)
    except TrainingError:
        raise
    except BaseException:
        forget(parameters)
        if state and done > began_at:
            kept.keep(done, told)
            log.warning("training stopped at step %d of %d; its state of step %d is in %s, and resume continues from there",
                        done, settings.steps, kept.step, state)
        raise
    if not runner.whole(nn.utils.get_total_norm([p.detach() for p in parameters])).isfinite():
        raise kept.back(f"step {done} made weights that are not finite: learning_rate {settings.learning_rate:g} is too high")
    kept.keep(done, told)
    if average and averaged:
        average.copy_to(parameters)
    objective.trained = runner.whole({name: p.detach() for name, p in objective.trained.items()}) if runner.sharded else objective.trained
    return told
