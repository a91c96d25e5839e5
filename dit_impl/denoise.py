"""The denoising loop over tokens on the wire."""

from typing import Callable

import torch
from torch import Tensor

from .backbone import Backbone, Conditioning
from .flow import DDPM
from .sampling import Memory, step as solver_step
from .tokens import noise_like, with_tokens


class ScheduleError(ValueError):
    """A schedule, or a place in it, that can't be used: one line that names the rule and the value."""


def check_sigmas(sigmas: Tensor) -> None:
    """Raise ScheduleError unless sigmas are two or more finite, falling noise levels ≥ 0."""
    if sigmas is None or sigmas.dim() != 1 or len(sigmas) < 2:
        shape = None if sigmas is None else list(sigmas.shape)
        raise ScheduleError(f"sigmas are a list of at least 2 noise levels, not {shape}: wire a Sigma Schedule")
    if not torch.isfinite(sigmas).all():
        raise ScheduleError("sigmas hold a value that is NaN or infinite")
    if (sigmas < 0).any() or (sigmas.diff() >= 0).any():
        raise ScheduleError(f"sigmas fall from step to step and end at 0 or above, these are {[round(s, 4) for s in sigmas.tolist()]}")


def check_step(step: int, sigmas: Tensor) -> None:
    """Raise ScheduleError unless the schedule has a step of this number."""
    check_sigmas(sigmas)
    if not 0 <= step < len(sigmas) - 1:
        raise ScheduleError(f"step {step} is outside the schedule, whose steps are 0 to {len(sigmas) - 2}")


def add_noise(backbone: Backbone, wire: dict, sigmas: Tensor, step: int, seed: int) -> tuple[dict, dict]:
    """Bring clean tokens to the noise level of a step: → (noisy tokens, the noise) on the wire. Raises ScheduleError."""
    check_step(step, sigmas)
    noise = noise_like(wire, seed).to(wire["tokens"])
    noisy = backbone.flow.add_noise(wire["tokens"], noise, sigmas[step].to(noise))
    return with_tokens(wire, noisy), with_tokens(wire, noise)


def denoise(backbone: Backbone, wire: dict, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None = None,
            cfg: float = 1.0, solver: str = "euler", start_step: int = 0, end_step: int | None = None,
            report: Callable[[int, int, Tensor], None] = lambda *_: None) -> tuple[dict, dict]:
    """Steps start_step … end_step − 1 of a schedule: → (tokens at sigmas[end_step], the last x0) on the wire.

    `report(done, of, x0)` is called after every step. A chain of shorter calls equals one long call bit for bit, since what a
    multistep solver carries travels on the wire. Raises ScheduleError, BackboneError, ValueError.
    """
    check_step(start_step, sigmas)
    end_step = len(sigmas) - 1 if end_step is None else min(end_step, len(sigmas) - 1)
    if end_step <= start_step:
        raise ScheduleError(f"end_step {end_step} is not after start_step {start_step}")
    if solver == "ddim" and not isinstance(backbone.flow, DDPM):
        raise ValueError("ddim is for DDPM models; for a rectified flow the same step is euler")
    predict_x0 = backbone.denoiser(wire, positive, negative, cfg)
    device = next(backbone.model.parameters()).device
    carried = wire.get("memory")
    memory = Memory(carried["x0"].to(device), carried["sigma"].to(device)) if carried else None
    x, levels = wire["tokens"].to(device), sigmas.float().to(device)
    for i in range(start_step, end_step):
        x, x0, memory = solver_step(solver, predict_x0, x, levels[i], levels[i + 1], memory)
        report(i + 1 - start_step, end_step - start_step, x0)
    home = wire["tokens"].device
    kept = {"x0": memory.x0.to(home), "sigma": memory.sigma.to(home)}
    return with_tokens(wire, x.to(home), kept), with_tokens(wire, x0.to(home))
