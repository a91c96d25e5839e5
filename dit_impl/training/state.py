"""What a training resumes from: a file that is whole or the old one, however the training ends."""

from dataclasses import asdict, dataclass, field
import logging
from pathlib import Path

import torch

from ..errors import TrainingError
from ..sources.atomic import save_state

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
            # a setting that the file does not know came later, and was what it is where nothing is said
            settings, parameters, told = self.defaults | kept["settings"], kept["parameters"], Log(**kept["log"])
        except Exception as error:  # whatever a broken file, or another one, makes of it
            raise TrainingError(f"{self.path} is no state of a training: {' '.join(str(error).split())[:100]}") from None
        for name, value in self.account.items():
            if name not in FREE and settings.get(name) != value:
                raise TrainingError(f"resume goes on with the settings it began with: {name} was {settings.get(name)}, not {value}")
        if {name: value.shape for name, value in parameters.items()} != {name: value.shape for name, value in trained.items()}:
            raise TrainingError(f"{self.path} is of another model or scope: its {len(parameters)} parameters are not the {len(trained)} trained here")
        with torch.no_grad():
            for name, value in parameters.items():
                trained[name].copy_(self.runner.placed(value, trained[name]))
        for name, part in self.parts.items():
            part.load_state_dict(self._placed(kept[name]))
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
