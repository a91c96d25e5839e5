"""Solvers: from one noise level to the next, given the data that the model sees behind x. One step each, so that a loop can
live in a graph; a multistep solver carries what it remembers in `Memory`."""

from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor

from .at import At, Memory, NoiseSpace, PredictX0
from .unipc import uni_pc


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
    """DPM-Solver++(2M) in ComfyUI's form: extrapolate x0 from this step and the last. Lu et al. 2022, algorithm 2. memory: of the step before."""
    def log_snr(s: Tensor) -> Tensor:
        return s.log().neg()
    h = log_snr(next_sigma) - log_snr(sigma)
    if memory is not None and next_sigma != 0:
        ratio = (log_snr(sigma) - log_snr(memory.sigma)) / h
        x0 = (1 + 1 / (2 * ratio)) * x0 - (1 / (2 * ratio)) * memory.x0
    return (log_snr(next_sigma).neg().exp() / log_snr(sigma).neg().exp()) * x - (-h).expm1() * x0


def res_multistep(x: Tensor, x0: Tensor, sigma: Tensor, next_sigma: Tensor, memory: Memory | None) -> Tensor:
    """Exponential integrator of second order over the last two x0. Zhang et al. 2023 (2308.02157), §3.3, in ComfyUI's form."""
    if memory is None or next_sigma == 0:
        return euler(x, x0, sigma, next_sigma)
    t, following, before = (s.log().neg() for s in (sigma, next_sigma, memory.sigma))
    h = following - t
    back = (before - t) / h
    phi1 = torch.expm1(-h) / -h
    phi2 = (phi1 - 1.0) / -h
    b1, b2 = (torch.nan_to_num(b, nan=0.0) for b in (phi1 - phi2 / back, phi2 / back))
    return h.neg().exp() * x + h * (b1 * x0 + b2 * memory.x0)


def euler_ancestral(x: Tensor, x0: Tensor, sigma: Tensor, next_sigma: Tensor, space: NoiseSpace, noise: Callable[[], Tensor]) -> Tensor:
    """Euler below the next noise level, then as much new noise as leads there. Song et al. 2020, equation 12 with η = 1, as in k-diffusion."""
    if next_sigma == 0:
        return x0
    if not space.rectified:
        up = min(next_sigma, (next_sigma ** 2 * (sigma ** 2 - next_sigma ** 2) / sigma ** 2) ** 0.5)
        down = (next_sigma ** 2 - up ** 2) ** 0.5
        return x0 if down == 0 else euler(x, x0, sigma, down) + noise() * up
    down = next_sigma * (1 + (next_sigma / sigma - 1))
    share, share_down = 1 - next_sigma, 1 - down
    up = (next_sigma ** 2 - down ** 2 * share ** 2 / share_down ** 2) ** 0.5
    ratio = down / sigma
    return (share / share_down) * (ratio * x + (1 - ratio) * x0) + noise() * space.scale * up


def dpmpp_2m_sde(x: Tensor, x0: Tensor, sigma: Tensor, next_sigma: Tensor, memory: Memory | None, space: NoiseSpace,
                 noise: Callable[[], Tensor]) -> Tensor:
    """DPM-Solver++(2M) as a stochastic equation, midpoint form. Lu et al. 2022, appendix; noise() is of unit variance."""
    if next_sigma == 0:
        return x0
    start, end = space.log_snr(sigma), space.log_snr(next_sigma)
    h = end - start
    share, twice = next_sigma * end.exp(), h * 2
    x = next_sigma / sigma * (-h).exp() * x + share * (-twice).expm1().neg() * x0
    if memory is not None:
        ratio = (start - space.log_snr(memory.sigma)) / h
        x = x + 0.5 * share * (-twice).expm1().neg() * (1 / ratio) * (x0 - memory.x0)
    return x + noise() * next_sigma * (-2 * h).expm1().neg().sqrt() * space.scale


def _sde(at: At, x: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor, Memory]:
    """`dpmpp_2m_sde`, with a level just below 1 in the place of a rectified flow's 1, where there is no signal to take the logarithm of."""
    def level(sigma: Tensor) -> Tensor:
        return torch.full_like(sigma, at.space.below_one) if at.space.rectified and sigma >= 1 else sigma

    def levels(i: int) -> tuple[Tensor, Tensor]:
        return level(at.sigmas[i]), at.sigmas[i + 1]
    x0 = at.predict_x0(x, level(at.sigma))
    kept = Memory(x0, at.sigma)
    if at.next_sigma == at.sigma:
        return x, x0, kept
    before = Memory(memory.x0, level(memory.sigma)) if memory is not None else None
    return dpmpp_2m_sde(x, x0, *levels(at.i), before, at.space, lambda: at.noise.brownian(at.i, levels)), x0, kept


@dataclass(frozen=True)
class Solver:
    """One way to step. move(at, x, x0, memory) → x at the next noise level, the memory being of the step before this one; whole(at, x, memory)
    → (x there, x0, what to remember), in place of `move`. calls: of the model in a step. ddpm_only: on a rectified flow it is another
    solver's step. adds_noise: whether it draws noise. elsewhere: whether it may ask the model at another noise level than the step's."""
    move: Callable[[At, Tensor, Tensor, Memory | None], Tensor] | None = None
    whole: Callable[[At, Tensor, Memory | None], tuple[Tensor, Tensor, Memory]] | None = None
    calls: int = 1
    ddpm_only: bool = False
    adds_noise: bool = False
    elsewhere: bool = False


SOLVERS = {
    "euler": Solver(lambda at, x, x0, memory: euler(x, x0, at.sigma, at.next_sigma)),
    "heun": Solver(lambda at, x, x0, memory: heun(at.predict_x0, x, x0, at.sigma, at.next_sigma), calls=2),
    "dpmpp_2m": Solver(lambda at, x, x0, memory: dpmpp_2m(x, x0, at.sigma, at.next_sigma, memory)),
    "ddim": Solver(lambda at, x, x0, memory: euler(x, x0, at.sigma, at.next_sigma), ddpm_only=True),
    "uni_pc": Solver(whole=uni_pc),
    "res_multistep": Solver(lambda at, x, x0, memory: res_multistep(x, x0, at.sigma, at.next_sigma, memory)),
    "euler_ancestral": Solver(lambda at, x, x0, memory: euler_ancestral(
        x, x0, at.sigma, at.next_sigma, at.space, lambda: at.noise.gaussian(at.i)), adds_noise=True),
    "dpmpp_2m_sde": Solver(whole=_sde, adds_noise=True, elsewhere=True),
}
# those that a prediction made beforehand is enough for
ONE_CALL = tuple(name for name, solver in SOLVERS.items() if solver.calls == 1 and not solver.elsewhere)


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


def step(name: str, at: At, x: Tensor, memory: Memory | None = None) -> tuple[Tensor, Tensor, Memory]:
    """One step: → (x at the next noise level, the x0 it steered by, what to remember for the next step).

    x: any shape; at.sigmas: float32. Raises ValueError for an unknown solver, and for one that adds noise where there is none to draw.
    """
    solver = check_solver(name)
    if solver.adds_noise and at.next_sigma > at.sigma:
        raise ValueError(f"{name} adds noise on its way, and can't find a picture's noise on a schedule that rises: use euler, heun or dpmpp_2m")
    if solver.adds_noise and at.noise is None and at.next_sigma != 0:
        raise ValueError(f"{name} draws noise by Add Noise's seed: use Add Noise before it")
    memory = memory if at.follows(memory) else None
    if solver.whole:
        return solver.whole(at, x, memory)
    x0 = at.x0(x)
    return solver.move(at, x, x0, memory), x0, Memory(x0, at.sigma)
