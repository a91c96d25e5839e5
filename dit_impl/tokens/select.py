"""Selecting tokens by a rectangle of the grid, by number or by a mask, and matching the rows of two batches."""

import torch
from torch import Tensor
import torch.nn.functional as F

from ..errors import TokensError
from .numbers import parse_ranges
from .wire import to_tokens
from .wire_types import AnyWire, DitTokens


def rectangle(grid: tuple[int, ...], column: int, row: int, width: int, height: int) -> tuple[slice, slice]:
    """A rectangle of tokens as slices of rows and columns. width or height 0 reaches to the edge of the grid. Raises TokensError."""
    h, w = grid[-2:]
    width, height = width or max(1, w - column), height or max(1, h - row)
    if not (0 <= column < column + width <= w and 0 <= row < row + height <= h):
        raise TokensError(f"{width}×{height} tokens from column {column}, row {row} are not all inside the grid of {w} columns and {h} rows")
    return slice(row, row + height), slice(column, column + width)


def token_mask(mask: Tensor, wire: AnyWire, batch: int) -> Tensor:
    """A MASK [B, H, W], over the picture or with a cell for each token, as 0 or 1 for each token: → [batch, N, 1].

    A token is 1 if the mask covers more than half of it. Only the part of a token inside the picture counts.
    """
    cut = wire["tokens"] if "hidden" in wire else wire
    grid, p, share = cut["grid"], cut["patch_size"], mask.reshape(-1, 1, *mask.shape[-2:]).float()
    if share.shape[-2:] != grid[-2:]:
        cells = F.adaptive_avg_pool2d(share, cut["size"][-2:])
        edges = (0, -cells.shape[-1] % p, 0, -cells.shape[-2] % p)
        share, inside = (F.avg_pool2d(F.pad(one, edges), p) for one in (cells, torch.ones_like(cells)))
        share = share / inside
    frames = grid[0] if len(grid) == 3 else 1
    chosen = (share > 0.5).float().flatten(2).movedim(1, 2).repeat(1, frames, 1)
    return chosen[torch.arange(batch) % len(chosen)]


def mask_tokens(wire: DitTokens) -> Tensor | None:
    """The noise mask for every value of every token, 1 where the picture may change: → [B, N, C·p·p] in 0..1. None if there is none."""
    mask = wire.get("noise_mask")
    if mask is None:
        return None
    mask = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]).float(), size=wire["size"][-2:], mode="bilinear")
    mask = mask[torch.arange(len(wire["tokens"])) % len(mask)].expand(-1, wire["channels"], -1, -1)
    return to_tokens(mask, wire)


def selection(wire: DitTokens, text: str) -> Tensor:
    """Tokens selected by number in reading order, such as "0-3,16-19": → MASK [1, h, w] of 0 and 1. Raises TokensError.

    An empty text selects all tokens.
    """
    *_, h, w = wire["grid"]
    try:
        numbers = parse_ranges(text, h * w, "token", "the grid")
    except ValueError as error:
        raise TokensError(f"selection: {error}") from None
    mask = torch.zeros(h * w) if numbers else torch.ones(h * w)
    mask[numbers] = 1
    return mask.view(1, h, w)


def rows_beside(theirs: tuple[str, ...], count: int, ours: tuple[str, ...], samples: int) -> list[int]:
    """For each row of our batch, the matching row of their batch. theirs, ours: the parts of each; count, samples: pictures in a part.

    Uncond is matched with uncond. A batch with fewer pictures repeats.
    """
    parts = range(len(ours)) if theirs == ours else [theirs.index(part) if part in theirs else len(theirs) - 1 for part in ours]
    return [part * count + sample % count for part in parts for sample in range(samples)]
