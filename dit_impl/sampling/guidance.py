"""Classifier-free guidance: the arithmetic, and when there is any."""

import math

from torch import Tensor


def is_guided(cfg: float) -> bool:
    """Whether a guidance strength changes anything. 1 up to rounding does not, as in ComfyUI's `sampling_function`."""
    return not math.isclose(cfg, 1.0)


def guided(cond: Tensor, uncond: Tensor, cfg: float) -> Tensor:
    """From the unconditional prediction towards the conditional one, and past it: u + (c − u)·cfg. Ho & Salimans 2022, equation 6."""
    return uncond + (cond - uncond) * cfg
