"""Solvers: from one noise level to the next, given the data that the model sees behind x. One step each, so that a loop can
live in a graph; a multistep solver carries what it remembers in `Memory`."""

from dataclasses import dataclass
from typing import Callable

from torch import Tensor

PredictX0 = Callable[[Tensor, Tensor], Tensor]  # (x, sigma []) → x0, shaped as x
SOLVERS = ("euler", "heun", "dpmpp_2m", "ddim")


@dataclass(frozen=True)
class Memory:
    """What a multistep solver keeps from the step before: its x0 and its noise level."""
    x0: Tensor
    sigma: Tensor


def euler(x: Tensor, x0: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """Follow the line from x to x0 as far as the next noise level. Karras et al. 2022, equation 3.

    For a rectified flow the slope (x − x0)/σ is its velocity; for a DDPM in ComfyUI's terms it is ε, and the step is DDIM
    with η = 0 (Song et al. 2020, equation 12).
    """
    return x + (x - x0) / sigma * (next_sigma - sigma)


def heun(predict_x0: PredictX0, x: Tensor, x0: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """Euler, then average its slope with the slope found there. Karras et al. 2022, algorithm 1; two model calls a step."""
    slope = (x - x0) / sigma
    there = x + slope * (next_sigma - sigma)
    if next_sigma == 0:
        return there
    slope_there = (there - predict_x0(there, next_sigma)) / next_sigma
    return x + (slope + slope_there) / 2 * (next_sigma - sigma)


def dpmpp_2m(x: Tensor, x0: Tensor, sigma: Tensor, next_sigma: Tensor, memory: Memory | None) -> Tensor:
    """DPM-Solver++(2M) in ComfyUI's form: extrapolate x0 from this step and the last. Lu et al. 2022, algorithm 2."""
    def log_snr(s: Tensor) -> Tensor:
        return s.log().neg()
    h = log_snr(next_sigma) - log_snr(sigma)
    if memory is not None and next_sigma != 0:
        ratio = (log_snr(sigma) - log_snr(memory.sigma)) / h
        x0 = (1 + 1 / (2 * ratio)) * x0 - (1 / (2 * ratio)) * memory.x0
    return (log_snr(next_sigma).neg().exp() / log_snr(sigma).neg().exp()) * x - (-h).expm1() * x0


def model_calls(solver: str, sigmas: Tensor, start: int, stop: int) -> int:
    """How often steps start … stop − 1 of a schedule call the model: heun twice, but once where it lands on 0."""
    return stop - start + (int(sigmas[start + 1:stop + 1].count_nonzero()) if solver == "heun" else 0)


def step(solver: str, predict_x0: PredictX0, x: Tensor, sigma: Tensor, next_sigma: Tensor,
         memory: Memory | None = None) -> tuple[Tensor, Tensor, Memory]:
    """One step from sigma to next_sigma: → (x there, the x0 it steered by, what to remember for the next step).

    x: any shape; sigma, next_sigma: [], float32. Raises ValueError for an unknown solver.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver is one of {', '.join(SOLVERS)}, not {solver!r}")
    x0 = predict_x0(x, sigma)
    if solver == "heun":
        x = heun(predict_x0, x, x0, sigma, next_sigma)
    elif solver == "dpmpp_2m":
        x = dpmpp_2m(x, x0, sigma, next_sigma, memory)
    else:
        x = euler(x, x0, sigma, next_sigma)
    return x, x0, Memory(x0, sigma)
