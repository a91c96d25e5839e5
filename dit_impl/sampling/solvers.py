"""Solvers: from one noise level to the next, given the data that the model sees behind x. One step each, so that a loop can
live in a graph; a multistep solver carries what it remembers in `Memory`."""

from dataclasses import dataclass
from typing import Callable

from torch import Tensor

PredictX0 = Callable[[Tensor, Tensor], Tensor]  # (x, sigma []) → x0, shaped as x


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
    """DPM-Solver++(2M) in ComfyUI's form: extrapolate x0 from this step and the last. Lu et al. 2022, algorithm 2.

    A memory that is not of a step before this one, such as after going back a step, counts for nothing.
    """
    def log_snr(s: Tensor) -> Tensor:
        return s.log().neg()
    h = log_snr(next_sigma) - log_snr(sigma)
    if memory is not None and next_sigma != 0 and (memory.sigma - sigma) * (sigma - next_sigma) > 0:
        ratio = (log_snr(sigma) - log_snr(memory.sigma)) / h
        x0 = (1 + 1 / (2 * ratio)) * x0 - (1 / (2 * ratio)) * memory.x0
    return (log_snr(next_sigma).neg().exp() / log_snr(sigma).neg().exp()) * x - (-h).expm1() * x0


@dataclass(frozen=True)
class Solver:
    """One way to step. move(predict_x0, x, x0, sigma, next_sigma, memory) → x at next_sigma; calls: of the model in a step, one of
    which is made before `move`; ddpm_only: on a rectified flow it is another solver's step."""
    move: Callable[[PredictX0, Tensor, Tensor, Tensor, Tensor, Memory | None], Tensor]
    calls: int = 1
    ddpm_only: bool = False


SOLVERS = {
    "euler": Solver(lambda predict_x0, x, x0, sigma, next_sigma, memory: euler(x, x0, sigma, next_sigma)),
    "heun": Solver(lambda predict_x0, x, x0, sigma, next_sigma, memory: heun(predict_x0, x, x0, sigma, next_sigma), calls=2),
    "dpmpp_2m": Solver(lambda predict_x0, x, x0, sigma, next_sigma, memory: dpmpp_2m(x, x0, sigma, next_sigma, memory)),
    "ddim": Solver(lambda predict_x0, x, x0, sigma, next_sigma, memory: euler(x, x0, sigma, next_sigma), ddpm_only=True),
}
ONE_CALL = tuple(name for name, solver in SOLVERS.items() if solver.calls == 1)  # those that a prediction made beforehand is enough for


def check_solver(name: str, rectified: bool = False) -> Solver:
    """The solver of this name. Raises ValueError for an unknown one, and for one that makes no sense on a rectified flow."""
    if name not in SOLVERS:
        raise ValueError(f"solver is one of {', '.join(SOLVERS)}, not {name!r:.40}")
    if SOLVERS[name].ddpm_only and rectified:
        raise ValueError(f"{name} is for DDPM models; for a rectified flow the same step is euler")
    return SOLVERS[name]


def model_calls(solver: str, sigmas: Tensor, start: int, stop: int) -> int:
    """How often steps start … stop − 1 of a schedule call the model. A step that lands on 0 calls it once, whatever the solver."""
    return stop - start + (check_solver(solver).calls - 1) * int(sigmas[start + 1:stop + 1].count_nonzero())


def step(solver: str, predict_x0: PredictX0, x: Tensor, sigma: Tensor, next_sigma: Tensor,
         memory: Memory | None = None) -> tuple[Tensor, Tensor, Memory]:
    """One step from sigma to next_sigma: → (x there, the x0 it steered by, what to remember for the next step).

    x: any shape; sigma, next_sigma: [], float32. Raises ValueError for an unknown solver.
    """
    move = check_solver(solver).move
    x0 = predict_x0(x, sigma)
    return move(predict_x0, x, x0, sigma, next_sigma, memory), x0, Memory(x0, sigma)
