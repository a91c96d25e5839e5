"""Noise schedules: the sigmas that a sampler walks down. Formulas and results as ComfyUI's schedulers of the same names."""

import math
from typing import Callable

import torch
from torch import Tensor

from .flow import DDPM, Flow, shift_time

SCHEDULERS = ("simple", "normal", "sgm_uniform", "karras", "exponential", "linear", "ddim_uniform", "beta", "linear_quadratic", "kl_optimal")
BETA = 0.6  # both parameters of the distribution that `beta` spaces its levels by. Lee et al. 2024 (2407.12173)


def sigma_table(flow: Flow) -> Tensor:
    """The thousand noise levels that discrete schedulers choose from, rising: [1000]."""
    if isinstance(flow, DDPM):
        return flow.sigmas.float()
    return shift_time(torch.arange(1, 1001) / 1000, flow.shift)


def _linear_quadratic(steps: int, threshold: float = 0.025) -> list[float]:
    """From 1 to 0: falling by equal steps at first, by growing ones from half of them on."""
    if steps == 1:
        return [1.0, 0.0]
    straight = steps // 2
    rest, over = steps - straight, straight - threshold * steps
    square = over / (straight * rest ** 2)
    slope, offset = threshold / straight - 2 * over / (rest ** 2), square * (straight ** 2)
    fallen = [i * threshold / straight for i in range(straight)] + [square * (i ** 2) + slope * i + offset for i in range(straight, steps)] + [1.0]
    return [1.0 - x for x in fallen]


def _beta_share(x: float, a: float) -> float:
    """The regularized incomplete beta function I_x(a, a) for 0 < x ≤ 1/2, by its continued fraction. Press et al., Numerical Recipes, §6.4."""
    front = math.exp(math.lgamma(2 * a) - 2 * math.lgamma(a) + a * math.log(x) + a * math.log1p(-x)) / a
    fraction = 0.0
    for i in range(60, 0, -1):  # from the inside out; at x ≤ 1/2 far fewer terms are exact
        m, odd = divmod(i, 2)
        factor = (-(a + m) * (2 * a + m) * x / ((a + 2 * m) * (a + 2 * m + 1)) if odd else m * (a - m) * x / ((a + 2 * m - 1) * (a + 2 * m)))
        fraction = factor / (1 + fraction)
    return front / (1 + fraction)


def beta_quantile(share: float, a: float) -> float:
    """Where a symmetric beta distribution has this share below it, by halving."""
    if share == 0.5:
        return 0.5
    if share > 0.5:
        return 1 - beta_quantile(1 - share, a)
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beta_share(middle, a) < share else (low, middle)
    return high if share > 0 else 0.0


def all_steps(denoise: float) -> bool:
    """Whether a share of the schedule is all of it, as KSampler takes it: from 0.9999 on. Raises ValueError outside (0, 1]."""
    if not 0 < denoise <= 1 + 1e-6:
        raise ValueError(f"denoise is above 0 and at most 1, not {denoise}")
    return denoise > 0.9999


def part_of(whole: Callable[[int], Tensor], steps: int, denoise: float, skip_penultimate: bool) -> Tensor:
    """The part of a schedule, `whole`(steps), that is walked, as KSampler takes it: → [steps + 1].

    skip_penultimate: without its last level above 0, of one step more, as KSampler's for uni_pc and dpm_2. Raises ValueError.
    """
    if steps < 1:
        raise ValueError(f"steps is at least 1, not {steps}")
    every = all_steps(denoise)
    levels = whole((steps if every else int(steps / denoise)) + skip_penultimate)
    if skip_penultimate:
        levels = torch.cat([levels[:-2], levels[-1:]])
    return levels if every else levels[-(steps + 1):]


def schedule(flow: Flow, steps: int, scheduler: str = "simple", denoise: float = 1.0, skip_penultimate: bool = False) -> Tensor:
    """Falling noise levels that end at 0: → [steps + 1] float32. denoise < 1 keeps the last part of a longer schedule.

    Where there are more steps than the model has noise levels, neighbours may be equal; `ddim_uniform` and `beta` may have some steps more or
    less than asked. Raises ValueError for an unknown scheduler, steps < 1 or denoise outside (0, 1].
    """
    return part_of(lambda count: _whole(flow, count, scheduler), steps, denoise, skip_penultimate)


def _whole(flow: Flow, steps: int, scheduler: str) -> Tensor:
    """All levels from the model's highest to 0."""
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
    if scheduler == "ddim_uniform":
        near_zero = math.isclose(table[1].item(), 0, abs_tol=1e-5)
        levels = table[1::max(len(table) // (steps + near_zero), 1)].flip(0)
        return levels if near_zero else torch.cat([levels, end])
    if scheduler == "beta":
        places = [round(beta_quantile(1 - i / steps, BETA) * (len(table) - 1)) for i in range(steps)]
        return torch.cat([table[list(dict.fromkeys(places))], end])
    if scheduler == "linear_quadratic":  # Mochi's: slow at first, so that few steps begin as many would
        return torch.tensor(_linear_quadratic(steps)) * table[-1]
    if scheduler == "kl_optimal":  # Sabour et al. 2024 (2404.14507), §5
        share = torch.arange(steps, dtype=torch.float32).div_(max(1, steps - 1))
        return torch.cat([(share * math.atan(low) + (1 - share) * math.atan(high)).tan_(), end])
    raise ValueError(f"scheduler is one of {', '.join(SCHEDULERS)}, not {scheduler!r}")
