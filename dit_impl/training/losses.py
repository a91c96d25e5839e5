"""Random times, targets and the squared error for training, for rectified flows and DDPMs."""

import torch
from torch import Tensor

from ..libraries import diffusers_part
from ..sampling.flow import DDPM, Flow, per_sample, shift_time

TARGETS = ("own", "velocity", "epsilon", "x0", "v")
WEIGHTINGS = ("none", "sigma_sqrt", "cosmap")
TIMES = ("logit_normal", "uniform", "mode")
NEAREST = 0.05  # the smallest σ or 1 − σ to divide by, as in Li & He 2025, §4


def draw_sigmas(flow: Flow, count: int, generator: torch.Generator, times: str = "logit_normal") -> Tensor:
    """Random noise levels for training: → [count] float32. Raises ValueError.

    Rectified flow: logit-normal, mode or uniform times, with the flow's shift (Esser et al. 2024, SD3, §3.1). DDPM: uniform over its own
    noise levels (Ho et al. 2020, algorithm 1).
    """
    if isinstance(flow, DDPM):
        return flow.sigmas[torch.randint(flow.steps, (count,), generator=generator)].float()
    if times not in TIMES:
        raise ValueError(f"times is one of {', '.join(TIMES)}, not {times!r}")
    density = diffusers_part("compute_density_for_timestep_sampling", "training", "diffusers.training_utils")
    return shift_time(density(times, count, 0.0, 1.0, 1.29, generator=generator), flow.shift)


def own_target(flow: Flow, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """What a model of this flow should predict: clean [B, …], noise [B, …], sigma [] or [B] → [B, …]."""
    s = per_sample(sigma, clean)
    if isinstance(flow, DDPM):
        return noise if flow.prediction == "epsilon" else (noise - s * clean) / (s ** 2 + 1) ** 0.5
    return clean if flow.prediction == "x0" else noise - clean


def x0_error(flow: Flow, target: str, sigma: Tensor) -> Tensor:
    """The error of x0 that an error of 1 in `target` causes, at noise level σ: [B] → [B]. Raises ValueError for a target of another flow.

    From x = (1 − σ)·x0 + σ·ε and v = ε − x0; for a DDPM from x = x0 + σ·ε and v = (ε − σ·x0)/√(σ² + 1).
    """
    if target == "x0":
        return torch.ones_like(sigma)
    if isinstance(flow, DDPM) and target in ("epsilon", "v"):
        return sigma if target == "epsilon" else sigma / (sigma ** 2 + 1) ** 0.5
    if not isinstance(flow, DDPM) and target in ("velocity", "epsilon"):
        return sigma if target == "velocity" else sigma / (1 - sigma).clamp_min(NEAREST)
    kind, targets = ("a DDPM", "epsilon, v") if isinstance(flow, DDPM) else ("a rectified flow", "velocity, epsilon")
    raise ValueError(f"target of {kind} is one of {targets}, x0, own, not {target!r}")


def squared_error(flow: Flow, prediction: Tensor, clean: Tensor, noise: Tensor, sigma: Tensor, target: str = "own",
                  weighting: str = "none") -> Tensor:
    """The squared error of a prediction, for each value: tokens [B, N, C·p·p], sigma [] or [B] → [B, N, C·p·p]. Raises ValueError.

    target: what the error is measured in. "own" is what the model itself predicts (Ho et al. 2020, equation 14; Esser et al. 2024, equation
    5). Another target is the same error times a factor that depends on σ; where σ is a divisor it counts as at least 0.05. weighting: by
    σ, as in SD3 (from diffusers).
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting is one of {', '.join(WEIGHTINGS)}, not {weighting!r}")
    error = (prediction.float() - own_target(flow, clean, noise, sigma).float()).square()
    sigma = sigma.float()
    if target not in ("own", flow.prediction):
        error = error * per_sample((x0_error(flow, flow.prediction, sigma) / x0_error(flow, target, sigma.clamp_min(NEAREST))) ** 2, error)
    if weighting != "none":
        if isinstance(flow, DDPM):
            raise ValueError(f"weighting {weighting!r} is for rectified flows, but this model is a DDPM: use none")
        weigh = diffusers_part("compute_loss_weighting_for_sd3", "training", "diffusers.training_utils")
        error = error * per_sample(weigh(weighting, sigma.clamp_min(NEAREST)), error)
    return error
