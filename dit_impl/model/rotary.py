"""Rotary positions: where each token is, by how far its queries and keys are turned. Su et al. 2021 (RoFormer), §3.2, on several axes.

A token has a place on each axis, ids [B, N, axes], of which 1 and 2 are row and column. On an axis of width d, its pair i of numbers turns by
place · θ^(−2i/d). Pictures larger than the model was trained on need places or turns that it knows:

scaled  all turns divided by s, the grid's side as a share of the trained one. Chen et al. 2023 (2306.15595), equation 4.
NTK     θ·s^(d/(d−2)) in place of θ: fine turns stay, the coarsest is divided by s. bloc97 2023; Peng et al. 2023 (2309.00071), §3.1.
YaRN    turns that fit into the trained grid less than once divided by s, those that fit often as they are, and sharper attention. Peng et
        al., §3.2 and §3.4, with FINE in place of 32: a grid has 64 places a side, not thousands.
DyPE    NTK by s^κ, κ = 2·t² at time t: most in noise, where the layout is made, none at the end. Issachar et al. 2025 (2510.20766), §4.
"""

from dataclasses import dataclass
import math

import torch
from torch import Tensor

PLACED = ("none", "shuffled", "1-D", "shifted")
SCALED = ("scaled", "NTK", "YaRN", "DyPE")
COARSE, FINE = 1.0, 8.0  # turns over the trained grid: fewer are divided by s, more are left
AXES = (1, 2)  # row and column


@dataclass(frozen=True)
class Placing:
    """A mode of positions. shift: in patches; scale: s. trained: the side of the grid that the model was trained on; time: 1 is noise, 0 data."""
    mode: str
    seed: int = 0
    shift: float = 0.0
    scale: float = 1.0
    trained: int = 64
    time: float = 1.0

    @property
    def changes_turns(self) -> bool:
        return self.mode in SCALED and self.scale != 1


def moved(ids: Tensor, picture: slice, placing: Placing) -> Tensor:
    """The places of all tokens, with those of the picture's tokens as the mode has them: [B, N, axes] → same."""
    if placing.mode not in PLACED:
        return ids
    ids = ids.clone()
    own = ids[:, picture]
    count = own.shape[1]
    if placing.mode == "shuffled":
        ids[:, picture] = own[:, torch.randperm(count, generator=torch.Generator().manual_seed(placing.seed)).to(ids.device)]
    elif placing.mode == "shifted":
        ids[:, picture, AXES[0]:AXES[1] + 1] += placing.shift
    else:
        ids[:, picture, AXES[0]:AXES[1] + 1] = 0
        if (own[:, :, 0] != own[:, :1, 0]).any():  # the frames of a video
            ids[:, picture, 0] = 0
        if placing.mode == "1-D":
            ids[:, picture, AXES[1]] = torch.arange(count).to(ids)
    return ids


def turns(width: int, theta: float, placing: Placing) -> Tensor:
    """How far each pair of numbers turns from one place to the next: → [width / 2], float64."""
    exponent, s = torch.arange(0, width, 2, dtype=torch.float64) / width, placing.scale
    own = theta ** -exponent
    if placing.mode == "scaled":
        return own / s
    if placing.mode == "YaRN":
        over = placing.trained * own / math.tau
        kept = ((over - COARSE) / (FINE - COARSE)).clamp(0, 1)
        return own * (kept + (1 - kept) / s)
    power = 2 * placing.time ** 2 if placing.mode == "DyPE" else 1.0
    return (theta * s ** (power * width / (width - 2))) ** -exponent


def table(ids: Tensor, widths: list[int], theta: float, placing: Placing) -> Tensor:
    """Rotations for queries and keys, rows and columns by changed turns: [B, N, axes] → [B, 1, N, D / 2, 2, 2], float32."""
    parts = []
    for axis, width in enumerate(widths[:ids.shape[-1]]):
        rates = turns(width, theta, placing if axis in AXES else Placing("scaled"))
        angle = ids[..., axis].cpu().double()[..., None] * rates
        parts.append(torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).unflatten(-1, (2, 2)))
    sharper = 0.1 * math.log(placing.scale) + 1 if placing.mode == "YaRN" and placing.scale > 1 else 1.0
    return (torch.cat(parts, dim=-3) * sharper).float().to(ids.device).unsqueeze(1)
