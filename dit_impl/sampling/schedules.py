"""Noise schedules: the sigmas that a sampler walks down. Formulas and results as ComfyUI's schedulers of the same names."""

import math

import torch
from torch import Tensor

from .flow import DDPM, Flow, shift_time

SCHEDULERS = ("simple", "normal", "sgm_uniform", "karras", "exponential", "linear")


def sigma_table(flow: Flow) -> Tensor:
    """The thousand noise levels that discrete schedulers choose from, rising: [1000]."""
    if isinstance(flow, DDPM):
        return flow.sigmas.float()
    return shift_time(torch.arange(1, 1001) / 1000, flow.shift)


def all_steps(denoise: float) -> bool:
    """Whether a share of the schedule is all of it, as KSampler takes it: from 0.9999 on. Raises ValueError outside (0, 1]."""
    if not 0 < denoise <= 1 + 1e-6:
        raise ValueError(f"denoise is above 0 and at most 1, not {denoise}")
    return denoise > 0.9999


def schedule(flow: Flow, steps: int, scheduler: str = "simple", denoise: float = 1.0) -> Tensor:
    """Falling noise levels that end at 0: → [steps + 1] float32. denoise < 1 keeps the last part of a longer schedule.

    Where there are more steps than the model has noise levels, neighbours may be equal. Raises ValueError for an unknown scheduler, steps < 1 or denoise outside (0, 1].
    """
    if steps < 1:
        raise ValueError(f"steps is at least 1, not {steps}")
    if not all_steps(denoise):
        return schedule(flow, int(steps / denoise), scheduler)[-(steps + 1):]
    table = sigma_table(flow)
    low, high = table[0].item(), table[-1].item()
    end = torch.zeros(1)
    if scheduler == "simple":
        return torch.cat([torch.stack([table[-(1 + int(i * len(table) / steps))] for i in range(steps)]), end])
    if scheduler in ("normal", "sgm_uniform"):
        first, last = ((t * 1000 if not isinstance(flow, DDPM) else edge)
                       for t, edge in ((high, len(table) - 1), (low, 0)))
        times = torch.linspace(first, last, steps + (scheduler == "sgm_uniform"))[:steps]
        return torch.cat([flow.sigma_of(times), end])
    ramp = torch.linspace(0, 1, steps)
    if scheduler == "karras":  # Karras et al. 2022, equation 5, rho = 7
        return torch.cat([(high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7, end])
    if scheduler == "exponential":
        return torch.cat([torch.linspace(math.log(high), math.log(low), steps).exp(), end])
    if scheduler == "linear":
        return torch.linspace(high, 0, steps + 1)
    raise ValueError(f"scheduler is one of {', '.join(SCHEDULERS)}, not {scheduler!r}")
