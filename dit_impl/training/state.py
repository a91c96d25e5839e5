"""What a training resumes from: a file that is whole or the old one, however the training ends."""

from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
import errno
import logging
import math
import os
from pathlib import Path
from typing import Any, Iterator

import torch

from ..errors import TrainingError
from ..sources.atomic import save_state

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

log = logging.getLogger(__name__)

FREE = ("steps", "precision", "checkpointing")  # settings that a resumed run may change


@dataclass
class Log:
    """What training told: losses by step, and validation losses as (step, loss). unsaved: why the newest state is not in its file."""
    losses: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    unsaved: str = ""


def check_whole(kept: dict) -> None:
    """Raise ValueError or KeyError unless a state has come as far as its log, with finite parameters."""
    losses = kept["log"]["losses"]
    # one that was stopped between two lines of the loop may be a step ahead
    if type(kept["step"]) is not int or not isinstance(losses, list) or not 0 <= kept["step"] - len(losses) <= 1:
        raise ValueError(f"its step is {kept['step']!r:.40}, its log is of {len(losses)} steps")
    if not _finite([kept["parameters"], losses]):
        raise ValueError("it holds parameters or losses that are NaN or infinite")


def check_moments(kept: dict, parameters: list[torch.Tensor]) -> None:
    """Raise ValueError unless an optimizer's moments are of these parameters."""
    for at, moments in kept.items():
        shape = parameters[at].shape if type(at) is int and 0 <= at < len(parameters) else None
        if any(isinstance(value, torch.Tensor) and value.numel() > 1 and value.shape != shape for value in moments.values()) or shape is None:
            raise ValueError(f"moments of parameter {at!r:.40}, of another shape or of none there is")


def _finite(values: Any) -> bool:
    """Whether all numbers and tensors in lists, in tables … are finite."""
    if isinstance(values, dict):
        return all(map(_finite, values.values()))
    if isinstance(values, (list, tuple)):
        return all(map(_finite, values))
    if isinstance(values, torch.Tensor):
        return bool(values.isfinite().all())
    return not isinstance(values, float) or math.isfinite(values)


@contextmanager
def held(path: Path | None) -> Iterator[None]:
    """While it lasts, no other training writes this state. Raises TrainingError if one does. The system lets go of it however a program ends."""
    if path is None:
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    taken = TrainingError(f"another training is writing {path}: wait until it has ended, or choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    except OSError as error:
        raise TrainingError(f"{path} can't be written: {error.strerror}") from error
    with file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise taken from None
            log.warning("%s: this disk knows no locks, so that another training of the same name is not noticed", path)
        if fcntl and not (lock.exists() and os.path.samestat(lock.stat(), os.fstat(file.fileno()))):
            raise taken  # it has just ended, and took the file with it that we locked
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no file that is open
                lock.unlink()


class State:
    """The file of a training, None for none, and what goes into it: parameters that learn, optimizer, schedule, average, log."""

    def __init__(self, path: Path | None, objective, parts: dict, settings, runner):
        self.path, self.objective, self.parts, self.runner = path, objective, parts, runner
        self.defaults, self.account = asdict(type(settings)()), asdict(settings) | objective.account
        self.step: int | None = None  # that this training wrote or read

    def begin(self, done: int, told: Log) -> None:
        """The first state, to which a later step can go back. That of an earlier training of this name is set aside. Raises TrainingError."""
        if not self.path:
            return
        if self.step is None and self.runner.rank == 0 and self.path.exists():
            earlier = self.path.with_name(f"{self.path.stem}.earlier{self.path.suffix}")
            self.path.replace(earlier)
            log.warning("the state of an earlier training of this name is now %s", earlier)
        try:
            self._write(done, told)
        except OSError as error:
            raise TrainingError(str(error)) from error

    def keep(self, done: int, told: Log) -> None:
        """Write the state as it is now. Where that fails it is told, and the training goes on: all it has learnt is still in memory."""
        if not self.path:
            return
        try:
            self._write(done, told)
        except OSError as error:
            told.unsaved = f"{error}; the state there is of step {self.step}"
            log.warning("step %d: %s", done, told.unsaved)

    def _write(self, done: int, told: Log) -> None:
        trained = {name: p.detach() for name, p in self.objective.trained.items()}
        values = {"step": done, "settings": self.account, "log": {**asdict(told), "unsaved": ""},
                  **self.runner.whole({"parameters": trained, **{name: part.state_dict() for name, part in self.parts.items()}})}
        if self.runner.rank == 0:
            save_state(values, self.path)
        self.step, told.unsaved = done, ""

    def restore(self) -> tuple[int, Log]:
        """Put back what was written: → the steps done, the log. Raises TrainingError."""
        if not self.path or not self.path.exists():
            raise TrainingError(f"there is nothing to resume: no state in {self.path}")
        trained = self.objective.trained
        try:
            kept = torch.load(self.path, weights_only=True, map_location=self.objective.device)
            check_whole(kept)
            # a setting that the file does not know came later, and was what it is where nothing is said
            settings, parameters, told = self.defaults | kept["settings"], kept["parameters"], Log(**kept["log"])
        except Exception as error:  # whatever a broken file, or another one, makes of it
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise TrainingError(f"{self.path} is no state of a training: {' '.join(why.split())[:100]}") from None
        for name, value in self.account.items():
            if name not in FREE and settings.get(name) != value:
                raise TrainingError(f"resume goes on with the settings it began with: {name} was {settings.get(name)}, not {value}")
        if {name: value.shape for name, value in parameters.items()} != {name: value.shape for name, value in trained.items()}:
            raise TrainingError(f"{self.path} is of another model or scope: its {len(parameters)} parameters are not the {len(trained)} trained here")
        try:
            for name, part in self.parts.items():
                if kept[name].keys() != part.state_dict().keys() or not _finite(kept[name]):
                    raise ValueError("other entries, or numbers that are NaN or infinite")
                if hasattr(part, "param_groups"):
                    check_moments(kept[name]["state"], [p for group in part.param_groups for p in group["params"]])
                part.load_state_dict(self._placed(kept[name]))
        except Exception as error:  # whatever they make of a state that is another's
            raise TrainingError(f"{self.path} is no state of this training: its {name} does not fit ({' '.join(str(error).split())[:100]})") from None
        with torch.no_grad():
            for name, value in parameters.items():
                trained[name].copy_(self.runner.placed(value, trained[name]))
        told.validation = [tuple(pair) for pair in told.validation]
        self.step = kept["step"]
        return self.step, told

    def _placed(self, values: dict) -> dict:
        """An optimizer's or an average's state, its tensors where the parameters are that they belong to."""
        parameters = list(self.objective.trained.values())

        def place(value, parameter):
            return self.runner.placed(value, parameter) if isinstance(value, torch.Tensor) and value.shape == parameter.shape else value
        if "shadow_params" in values:
            return {**values, "shadow_params": [place(*pair) for pair in zip(values["shadow_params"], parameters)]}
        if "state" in values:
            return {**values, "state": {i: {key: place(value, parameters[i]) for key, value in moments.items()}
                                        for i, moments in values["state"].items()}}
        return values

    def back(self, what: str) -> TrainingError:
        """Go back to the state that was last written, and say so. what: happened."""
        if self.step is None:
            return TrainingError(what)
        kept, _ = self.restore()
        return TrainingError(f"{what}; the last good state, of step {kept}, is in {self.path}")
