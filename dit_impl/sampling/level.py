"""Where on a schedule tokens stand, so that core's samplers and the wires can take over from each other.

Between two of its runs KSampler hands on x divided by what is left of the data in it, x / (1 − σ) for a rectified flow, and takes it so:
comfy/model_sampling.py, `inverse_noise_scaling` and `noise_scaling` with no noise. On the wire x is as the model sees it.
"""

import torch
from torch import Tensor

from ..errors import ScheduleError
from ..tokens.wire_types import DitTokens, without

SAME = 1e-3  # noise levels that differ by less than this share of themselves count as one


def standing(wire: DitTokens, sigma: Tensor, share: Tensor, walked: bool = True) -> DitTokens:
    """The wire with where its tokens stand: at noise level sigma [], `share` [] being the factor on the data in them. walked: whether a
    step was taken since their noise was added. Clean tokens stand nowhere."""
    sigma, share = (torch.as_tensor(value).detach().float().cpu() for value in (sigma, share))
    wire = without(wire, "level")
    return {**wire, "level": {"sigma": sigma, "share": share, "walked": walked}} if sigma > 0 else wire


def clean(wire: DitTokens) -> DitTokens:
    """The wire of clean tokens, without what speaks of a step under way."""
    return without(wire, "level", "remembered", "random", "hits")


def is_walked(wire: DitTokens) -> bool:
    """Whether a step was taken since noise was added."""
    return "level" in wire and wire["level"]["walked"]


def astray(wire: DitTokens, sigmas: Tensor, step: int) -> str:
    """Why this step is not for these tokens: it begins at another noise level than they stand at. Empty where it does not."""
    if "level" not in wire:
        return ""
    stands, begins = wire["level"]["sigma"], sigmas.detach().float().cpu()
    far = (begins - stands).abs() > SAME * stands
    if not far[step]:
        return ""
    fitting = [i for i in range(len(begins) - 1) if not far[i]]
    advice = f"set step to {fitting[0]}" if fitting else "use the schedule that they were made with"
    return f"step {step} begins at noise level {begins[step]:.4g}, the tokens stand at {stands:.4g}: {advice}"


def check_level(wire: DitTokens, sigmas: Tensor, step: int) -> None:
    """Raise ScheduleError if the tokens stand at another noise level than the step begins with: the picture would be wrong."""
    if reason := astray(wire, sigmas, step):
        raise ScheduleError(reason)


def entered(wire: DitTokens, sigma: Tensor, share: Tensor) -> DitTokens:
    """Tokens of a latent, to which no noise was added here, at a noise level: as KSampler (Advanced) takes them. Others stay as they are,
    and so does what would be multiplied by 0."""
    if "level" in wire or not sigma > 0:
        return wire
    scaled = wire["tokens"] * share.to(wire["tokens"]) if 0 < share < 1 else wire["tokens"]
    return standing({**wire, "tokens": scaled}, sigma, share, walked=False)


def handed_on(wire: DitTokens) -> DitTokens:
    """Tokens as KSampler hands them on to another run. All noise and no data stays as it is."""
    share = wire["level"]["share"] if "level" in wire else torch.ones(())
    return {**wire, "tokens": wire["tokens"] / share.to(wire["tokens"])} if 0 < share < 1 else wire
