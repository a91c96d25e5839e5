"""The denoising loop over tokens on the wire."""

from typing import Callable

import torch
from torch import Tensor

from ..errors import ScheduleError
from ..tokens.select import mask_tokens
from ..tokens.wire import map_memory, noise_like, to_latent, to_tokens, with_tokens
from ..tokens.wire_types import DitTokens, SolverMemory, without
from .at import At, Memory, NoiseSpace, PredictX0
from .flow import Flow
from .level import clean, is_walked
from .noise import StepNoise
from .solvers import step as solver_step

Report = Callable[[int, int, Tensor], None]  # (done, of, x0)


def check_sigmas(sigmas: Tensor) -> None:
    """Raise ScheduleError unless sigmas are two or more finite noise levels ≥ 0 that fall, or that rise from above 0. Neighbours may be equal."""
    if sigmas is None or sigmas.dim() != 1 or len(sigmas) < 2:
        shape = None if sigmas is None else list(sigmas.shape)
        raise ScheduleError(f"sigmas are a list of at least 2 noise levels, not {shape}: wire a Sigma Schedule")
    if not torch.isfinite(sigmas).all():
        raise ScheduleError("sigmas hold a value that is NaN or infinite")
    if (sigmas < 0).any():
        raise ScheduleError(f"sigmas are 0 or more, one is {sigmas.min().item():.4g}")
    if rises(sigmas):
        if sigmas[0] == 0:
            raise ScheduleError("sigmas that rise, from a picture to its noise, begin above 0: core's Flip Sigmas makes the first 0.0001")
        sigmas = sigmas.flip(0)
    if (bad := (sigmas.diff() > 0).nonzero()).numel():
        step = int(bad[0])
        raise ScheduleError("sigmas fall from step to step, or rise from step to step to bring a picture to its noise; these do both: "
                            f"{sigmas[0]:.4g} … {sigmas[step]:.4g}, {sigmas[step + 1]:.4g} … {sigmas[-1]:.4g}")


def rises(sigmas: Tensor) -> bool:
    """Whether a schedule goes from a picture to its noise."""
    return bool(sigmas[-1] > sigmas[0])


def check_step(step: int, sigmas: Tensor) -> None:
    """Raise ScheduleError unless the schedule has a step of this number."""
    check_sigmas(sigmas)
    if not 0 <= step < len(sigmas) - 1:
        raise ScheduleError(f"step {step} is outside the schedule, whose steps are 0 to {len(sigmas) - 2}")


def last_step(start_step: int, end_step: int | None, sigmas: Tensor) -> int:
    """The step to stop before; past the schedule means its end. Raises ScheduleError."""
    check_step(start_step, sigmas)
    end_step = len(sigmas) - 1 if end_step is None else min(end_step, len(sigmas) - 1)
    if end_step <= start_step:
        raise ScheduleError(f"end_step {end_step} is not after start_step {start_step}")
    return end_step


def with_noise(wire: DitTokens, seed: int, scale: Callable[[Tensor, Tensor], Tensor]) -> tuple[DitTokens, DitTokens]:
    """Clean tokens to noisy ones by `scale(clean, noise)`: → (noisy tokens, which remember their start; the noise) on the wire."""
    wire, noise = clean(wire), noise_like(wire, seed).to(wire["tokens"])
    noisy = with_tokens(wire, scale(wire["tokens"], noise))
    return {**noisy, "start": {"clean": wire["tokens"], "noise": noise, "seed": seed}}, with_tokens(wire, noise)


class Inpainting:
    """Where the wire has a noise mask, what lies outside it is held to the clean tokens at every noise level, as KSampler does.

    anew: with the noise of the next seed rather than the picture's own, as KSampler's ddim does. Raises ValueError for tokens whose
    start is unknown.
    """

    def __init__(self, wire: DitTokens, flow: Flow, device: torch.device, anew: bool = False):
        self.flow, self.mask = flow, mask_tokens(wire)
        if self.mask is None:
            return
        check_start(wire)
        start = wire["start"]
        noise = noise_like(without(wire, "batch_index"), start["seed"] + 1) if anew else start["noise"]
        self.mask, self.clean, self.noise = (t.to(device) for t in (self.mask, start["clean"], noise))

    def enter(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What the model is to see: [B, N, C·p·p] → same."""
        if self.mask is None:
            return x
        return x * self.mask + self.flow.add_noise(self.clean, self.noise, sigma) * (1 - self.mask)

    def leave(self, x0: Tensor) -> Tensor:
        """What counts of its x0: [B, N, C·p·p] → same."""
        return x0 if self.mask is None else x0 * self.mask + self.clean * (1 - self.mask)


def check_start(wire: DitTokens) -> None:
    """Raise ValueError for tokens with a noise mask and no clean tokens to hold what lies outside it to."""
    if wire.get("noise_mask") is not None and "start" not in wire:
        raise ValueError("the tokens have a noise mask, but not the clean tokens and the noise it needs: use Add Noise")


def first_step(wire: DitTokens, sigmas: Tensor, step: int) -> int:
    """The step at which the run began that this one goes on with."""
    begun = wire.get("start", {}).get("sigma")
    if not is_walked(wire) or begun is None:
        return step
    places = (sigmas[:step].float().cpu() == begun).nonzero().flatten().tolist()
    return places[0] if places else step


def walk(predict_x0: PredictX0, wire: DitTokens, sigmas: Tensor, solver: str, start_step: int, end_step: int, device: torch.device,
         report: Report = lambda *_: None, space: NoiseSpace = NoiseSpace()) -> tuple[DitTokens, DitTokens]:
    """Steps start_step … end_step − 1 of a schedule: → (tokens at sigmas[end_step], the last x0) on the wire.

    `report` is called after every step. A chain of shorter walks equals one long walk bit for bit, since what a multistep
    solver carries travels on the wire, and noise is drawn by the step's number. Raises ValueError for an unknown solver.
    """
    memory = _read(wire.get("memory"), device)
    x, first = wire["tokens"].to(device), first_step(wire, sigmas, start_step)
    run = sigmas[first:].float().to(device)
    noise = StepNoise(wire, run, device) if "seed" in wire.get("start", {}) else None

    def by_cells(function: Callable[..., Tensor], *tokens: Tensor) -> Tensor:
        return to_tokens(function(*(to_latent(one, wire) for one in tokens)), wire)
    for i in range(start_step, end_step):
        x, x0, memory = solver_step(solver, At(predict_x0, run, i - first, space, noise, by_cells), x, memory)
        report(i + 1 - start_step, end_step - start_step, x0)
    home = wire["tokens"].device
    return with_tokens(wire, x.to(home), _written(memory, home)), clean(with_tokens(wire, x0.to(home)))


def _read(carried: SolverMemory | None, device: torch.device) -> Memory | None:
    """What a solver remembers, from the wire."""
    return Memory(**map_memory(carried, lambda tensor: tensor.to(device), all_of_it=True)) if carried else None


def _written(memory: Memory, device: torch.device) -> SolverMemory:
    """What a solver remembers, for the wire: only what it uses."""
    kept: SolverMemory = {"x0": memory.x0, "sigma": memory.sigma}
    if memory.x is not None:
        kept |= {"x": memory.x, "earlier": memory.earlier, "count": memory.count}
    return map_memory(kept, lambda tensor: tensor.to(device), all_of_it=True)
