"""A training over several processes, as `accelerate launch` starts them: DDP or FSDP by its configuration."""

from contextlib import nullcontext
import os

import torch
from torch import Tensor, nn

from .loop import Alone, Objective, TrainingError


def launched() -> bool:
    """Whether this process is one of several that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


class Launched(Alone):
    """One process of a launch. The objective's module is wrapped, so that gradients are means over all processes."""

    def __init__(self):
        try:
            from accelerate import Accelerator
        except ImportError:
            raise TrainingError("several processes need accelerate: pip install accelerate") from None
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.module: nn.Module | None = None

    def prepare(self, objective: Objective, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        objective.module, optimizer = self.accelerator.prepare(objective.module, optimizer)
        self.module = objective.module
        return optimizer

    def gathering(self, objective: Objective, last: bool):
        return nullcontext() if last else self.accelerator.no_sync(self.module)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], most: float) -> Tensor:
        return self.accelerator.clip_grad_norm_(parameters, most)

    def mean(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, "mean")
