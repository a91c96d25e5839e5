"""What a denoiser is trained on: times, targets and the squared error, for rectified flows and DDPMs."""

import torch
from torch import Tensor

from ..sampling.flow import DDPM, Flow, per_sample, shift_time
from ..sources.libraries import diffusers_part

TARGETS = ("own", "velocity", "epsilon", "x0", "v")
WEIGHTINGS = ("none", "sigma_sqrt", "cosmap")
TIMES = ("logit_normal", "uniform", "mode")
NEAREST = 0.05  # a division by σ counts it as at least this, as Li & He 2025, §4, do


def draw_sigmas(flow: Flow, count: int, generator: torch.Generator, times: str = "logit_normal") -> Tensor:
    """Random noise levels to train at: → [count] float32. Esser et al. 2024 (SD3), §3.1: logit-normal, mode or uniform times, shifted
    as the flow is; a DDPM's are uniform over its own (Ho et al. 2020, algorithm 1). Raises ValueError."""
    if isinstance(flow, DDPM):
        return flow.sigmas[torch.randint(flow.steps, (count,), generator=generator)].float()
    if times not in TIMES:
        raise ValueError(f"times are one of {', '.join(TIMES)}, not {times!r}")
    density = diffusers_part("compute_density_for_timestep_sampling", "training", "diffusers.training_utils")
    return shift_time(density(times, count, 0.0, 1.0, 1.29, generator=generator), flow.shift)


def own_target(flow: Flow, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """What a model of this flow should answer: [B, …], [B, …], [] or [B] → [B, …]."""
    s = per_sample(sigma, clean)
    if isinstance(flow, DDPM):
        return noise if flow.prediction == "epsilon" else (noise - s * clean) / (s ** 2 + 1) ** 0.5
    return clean if flow.prediction == "x0" else noise - clean


def x0_error(flow: Flow, target: str, sigma: Tensor) -> Tensor:
    """How far x0 is off for an error of 1 in `target`, at noise level σ: [B] → [B]. From x = (1 − σ)·x0 + σ·ε and v = ε − x0; of a DDPM,
    x = x0 + σ·ε and v = (ε − σ·x0)/√(σ² + 1). Raises ValueError for a target that the flow has not."""
    if target == "x0":
        return torch.ones_like(sigma)
    if isinstance(flow, DDPM) and target in ("epsilon", "v"):
        return sigma if target == "epsilon" else sigma / (sigma ** 2 + 1) ** 0.5
    if not isinstance(flow, DDPM) and target in ("velocity", "epsilon"):
        return sigma if target == "velocity" else sigma / (1 - sigma).clamp_min(NEAREST)
    raise ValueError(f"target {target!r} is not of {'a DDPM' if isinstance(flow, DDPM) else 'a rectified flow'}: "
                     f"{'epsilon, v' if isinstance(flow, DDPM) else 'velocity, epsilon'}, x0 and own are")


def squared_error(flow: Flow, prediction: Tensor, clean: Tensor, noise: Tensor, sigma: Tensor, target: str = "own",
                  weighting: str = "none") -> Tensor:
    """Squared error of a prediction, as an error in `target`, weighted by time: tokens [B, N, C·p·p], σ [] or [B] → [B, N, C·p·p].

    own: in what the model itself answers (Ho et al. 2020, equation 14; Esser et al. 2024, equation 5); another target is the same error
    times a factor of σ, which is counted as at least 0.05 where it divides. weighting: SD3's (diffusers). Raises ValueError."""
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting is one of {', '.join(WEIGHTINGS)}, not {weighting!r}")
    error = (prediction.float() - own_target(flow, clean, noise, sigma).float()).square()
    sigma = sigma.float()
    if target not in ("own", flow.prediction):
        error = error * per_sample((x0_error(flow, flow.prediction, sigma) / x0_error(flow, target, sigma.clamp_min(NEAREST))) ** 2, error)
    if weighting != "none":
        if isinstance(flow, DDPM):
            raise ValueError(f"weighting {weighting!r} is of rectified flows, this model is a DDPM: none")
        weigh = diffusers_part("compute_loss_weighting_for_sd3", "training", "diffusers.training_utils")
        error = error * per_sample(weigh(weighting, sigma.clamp_min(NEAREST)), error)
    return error
