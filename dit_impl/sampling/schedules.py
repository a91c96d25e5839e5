"""Noise schedules: the sigmas that a sampler walks down. Formulas and results as ComfyUI's schedulers of the same names."""

import math

import torch
from torch import Tensor

from .flow import DDPM, Flow

SCHEDULERS = ("simple", "normal", "sgm_uniform", "karras", "exponential", "linear")


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Move times towards noise: α·t / (1 + (α − 1)·t). Esser et al. 2024 (SD3), equation 23."""
    return shift * t / (1 + (shift - 1) * t)


def sigma_table(flow: Flow) -> Tensor:
    """The thousand noise levels that discrete schedulers choose from, rising: [1000]."""
    if isinstance(flow, DDPM):
        return flow.sigmas.float()
    return shift_time(torch.arange(1, 1001) / 1000, flow.shift)


def _table_at(flow: Flow, t: Tensor) -> Tensor:
    """The noise level at training times 0..1000 that need not be whole."""
    if not isinstance(flow, DDPM):
        return shift_time(t / 1000, flow.shift)
    log = flow.sigmas.log()
    low = t.floor().long().clamp(0, len(log) - 1)
    high = t.ceil().long().clamp(0, len(log) - 1)
    return torch.lerp(log[low], log[high], (t - t.floor()).double()).exp().float()


def schedule(flow: Flow, steps: int, scheduler: str = "simple", denoise: float = 1.0) -> Tensor:
    """Falling noise levels that end at 0: → [steps + 1] float32. denoise < 1 keeps the last part of a longer schedule.

    Raises ValueError for an unknown scheduler, steps < 1 or denoise outside (0, 1].
    """
    if steps < 1:
        raise ValueError(f"steps is at least 1, not {steps}")
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise is above 0 and at most 1, not {denoise}")
    if denoise < 1:
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
        return torch.cat([_table_at(flow, times), end])
    ramp = torch.linspace(0, 1, steps)
    if scheduler == "karras":  # Karras et al. 2022, equation 5, rho = 7
        return torch.cat([(high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7, end])
    if scheduler == "exponential":
        return torch.cat([torch.linspace(math.log(high), math.log(low), steps).exp(), end])
    if scheduler == "linear":
        return torch.linspace(high, 0, steps + 1)
    raise ValueError(f"scheduler is one of {', '.join(SCHEDULERS)}, not {scheduler!r}")
