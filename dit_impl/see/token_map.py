"""Tokens as a picture."""

import torch
from torch import Tensor

from ..errors import TokensError
from ..tokens.edit import token_grid_of, values
from ..tokens.wire_types import AnyWire

MAPS = ("norm", "principal components")


def token_map(wire: AnyWire, show: str, size: int) -> Tensor:
    """Tokens as a picture with a square of `size` pixels each: → IMAGE [B, h·size, w·size, 3], for every part of the batch and every frame.

    show: "norm" shows the length of each token as grey; "principal components" shows the first three as red, green and blue. The scale is
    from the smallest to the largest value in the whole batch, so that pictures can be compared. Raises TokensError.
    """
    tokens = values(wire).float().cpu()
    if not torch.isfinite(tokens).all():
        raise TokensError("the tokens hold values that are NaN or infinite")
    if show == "norm":
        shades = tokens.norm(dim=-1, keepdim=True).expand(-1, -1, 3)
    elif show == "principal components":
        shades = principal_components(tokens.flatten(0, 1), 3).view(*tokens.shape[:2], 3)
    else:
        raise TokensError(f"show is one of {', '.join(MAPS)}, not {show!r}")
    least, greatest = shades.amin(dim=(0, 1)), shades.amax(dim=(0, 1))
    shades = (shades - least) / (greatest - least).clamp_min(torch.finfo(torch.float32).tiny)
    h, w = token_grid_of(wire)[-2:]
    return shades.reshape(-1, h, w, 3).repeat_interleave(size, dim=1).repeat_interleave(size, dim=2)


def principal_components(x: Tensor, count: int) -> Tensor:
    """Coordinates along the directions of largest variance: [M, D] → [M, count], with zeros beyond D. Pearson 1901.

    The sign of a direction is arbitrary; here its largest entry is positive.
    """
    centred = x - x.mean(dim=0)
    if len(x) < x.shape[1]:  # the same directions from the smaller of the two products; D may be tens of thousands
        directions = torch.linalg.eigh(centred @ centred.T).eigenvectors.flip(1)[:, :min(count, len(x) - 1)]  # [M, count]
        directions = torch.nn.functional.normalize(centred.T @ directions, dim=0)  # [D, count]
    else:
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :count]  # [D, count]
    directions = directions * directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()
    return torch.nn.functional.pad(centred @ directions, (0, count - directions.shape[1]))
