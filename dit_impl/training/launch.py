"""Training in several processes, started by `accelerate launch`: DDP or FSDP, as its configuration says."""

from contextlib import nullcontext
import copy
from dataclasses import replace
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import TrainingError
from ..handle.backbone import Backbone
from ..libraries import library
from ..model.copies import hollow_copy
from .loop import Alone, Objective


def launched() -> bool:
    """Whether this process is one of several that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


class Launched(Alone):
    """One of several processes. It wraps the objective's module, so that gradients are averaged over all processes. Under FSDP each process
    holds a part of every weight."""

    def __init__(self):
        accelerate = library("accelerate", "a training over several processes")
        # a step uses one patch size, so embeddings and heads of other sizes get no gradient
        ddp = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = accelerate.Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[ddp])
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.sharded = hasattr(self.accelerator.state, "fsdp_plugin")
        self.module: nn.Module | None = None
        self.hollow: nn.Module | None = None  # a copy of the module from before it was wrapped, without its numbers

    def prepare(self, objective: Objective, optimizers: list[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
        if self.sharded:
            if any(isinstance(optimizer, torch.optim.Muon) for optimizer in optimizers):
                raise TrainingError("optimizer muon needs whole matrices, but FSDP splits them: use optimizer adamw, or DDP")
            if (version := self.accelerator.state.fsdp_plugin.fsdp_version) != 2:
                raise TrainingError(f"fsdp_version must be 2, not {version}: accelerate launch --fsdp_version 2")
            self.hollow = hollow_copy(objective.module)
        objective.module, *optimizers = self.accelerator.prepare(objective.module, *optimizers)
        self.module = objective.module
        if self.sharded:  # wrapping has replaced the parameters that the objective names
            now = dict(self.module.named_parameters())
            objective.trained = {name: now[name] for name in objective.trained}
        return optimizers

    def gathering(self, objective: Objective, last: bool):
        return nullcontext() if last else self.accelerator.no_sync(self.module)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], most: float) -> Tensor:
        return self.whole(self.accelerator.clip_grad_norm_(parameters, most))

    def mean(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, "mean")

    def whole(self, values: Any) -> Any:
        return tree_map(lambda value: value.full_tensor() if hasattr(value, "full_tensor") else value, values)

    def readable(self, dit: Backbone) -> Backbone:
        if self.hollow is None:
            return dit
        model = copy.deepcopy(self.hollow)
        model.load_state_dict(self.whole({name: value.detach() for name, value in self.module.state_dict().items()}), assign=True)
        for name, buffer in self.module.named_buffers():  # buffers are not in the state dict
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, buffer)
        return replace(dit, model=model)

    def placed(self, value: Tensor, parameter: nn.Parameter) -> Tensor:
        if not hasattr(parameter, "device_mesh"):
            return value
        from torch.distributed.tensor import distribute_tensor
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
