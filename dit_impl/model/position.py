"""Position embeddings: fixed 2-D sine-cosine tables, cropped from a larger one (SD3) or stretched over the picture (DiT, PixArt)."""

import math

import torch
from torch import Tensor
import torch.nn.functional as F


def sincos_1d(width: int, positions: Tensor) -> Tensor:
    """Sines and cosines of positions at width/2 frequencies: [M] → [M, width]. Vaswani et al. 2017, §3.5."""
    frequency = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angle = positions.double()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def sincos_2d(width: int, rows: Tensor, columns: Tensor) -> Tensor:
    """A table for a grid of coordinates, row-major: [h], [w] → [h·w, width]. The half for columns comes first, as in DiT and MAE."""
    by_row, by_column = sincos_1d(width // 2, rows), sincos_1d(width // 2, columns)
    h, w = len(rows), len(columns)
    table = torch.cat([by_column[None].expand(h, w, -1), by_row[:, None].expand(h, w, -1)], dim=-1)
    return table.reshape(h * w, width).float()


def grid_positions(grid: tuple[int, int], base: float) -> tuple[Tensor, Tensor]:
    """The patch centres of a grid, measured in patches of a base×base grid over the same picture: → rows [h], columns [w].

    For the base grid itself: 0, 1, 2 …, as in DiT. For half as many tokens a side: 0.5, 2.5, 4.5 …, the centres of the merged patches.
    """
    return tuple((torch.arange(n, dtype=torch.float64) + 0.5) * base / n - 0.5 for n in grid)


def cropped_positions(grid: tuple[int, int], scale: float, table: int, unit: float,
                      start: float = 0.0) -> tuple[Tensor, Tensor]:
    """The patch centres of a grid in the middle of SD3's position table: → rows [h], columns [w]. Esser et al. 2024, §5.3.2.

    table: its side; start: its first coordinate; unit: the step between its entries, all at the base patch size. scale: p divided by the
    base patch size; at scale 1 the result is the same as cropping the table.
    """
    def centres(n: int) -> Tensor:
        covered = n * scale
        first = (table - covered) // 2 if covered <= table else (table - covered) / 2
        # float32, because the published tables were computed from float32 coordinates
        return ((first + (torch.arange(n, dtype=torch.float64) + 0.5) * scale - 0.5) * unit + start).float()
    return tuple(centres(n) for n in grid)


def resized(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a learned table to a grid, bilinear: [side², D], (h, w) → [1, h·w, D]. Dosovitskiy et al. 2020 (ViT), §3.2."""
    side = math.isqrt(len(table))
    if grid == (side, side):
        return table[None]
    on_grid = table.T.reshape(1, -1, side, side)
    return F.interpolate(on_grid, size=grid, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)


def table_coordinates(table: Tensor) -> tuple[int, float, float]:
    """The inverse of `sincos_2d` for a square table [side², D]: → side, first coordinate, step between coordinates.

    Raises ValueError if no evenly spaced grid gives this table.
    """
    side, width, table = math.isqrt(len(table)), table.shape[1], table.cpu()  # float64, which some devices lack
    if side < 1 or side ** 2 != len(table) or width < 4 or width % 4:
        raise ValueError(f"{len(table)} positions of width {width} are not a square 2-D sine-cosine table")
    entries = table.reshape(side, side, width)
    sines, cosines = entries[0, :, :width // 2].double().chunk(2, dim=1)
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    # the lowest frequency gives a coordinate without ambiguity; each higher frequency makes it more exact
    coordinates = torch.zeros(side, dtype=torch.float64)
    for sine, cosine, frequency in zip(sines.T.flip(0), cosines.T.flip(0), frequencies.flip(0)):
        angle = torch.atan2(sine, cosine)
        turns = ((coordinates * frequency - angle) / math.tau).round()
        coordinates = (angle + math.tau * turns) / frequency
    if not coordinates.isfinite().all():
        raise ValueError("the position table has values that are NaN or infinite")
    centred = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    unit = (coordinates @ centred / centred.square().sum()).item() if side > 1 else 1.0
    start = coordinates.mean().item() - unit * (side - 1) / 2
    # whatever it is kept in now, its file may have kept it in bfloat16
    tolerance = 2 * max(torch.finfo(one).eps for one in (table.dtype, torch.bfloat16))
    # tables are often stored in half precision: round to the whole numbers that they were made from
    base, start = (round(x) if abs(x - round(x)) < tolerance / 2 else x for x in (unit * side, start))
    unit = base / side
    axis = (torch.arange(side, dtype=torch.float64) * unit + start).float()
    expected = sincos_1d(width // 2, axis).float()
    for row, of_row in zip(entries, expected):
        remade = torch.cat([expected, of_row.expand(side, -1)], dim=1)
        error = (row.float() - remade).abs().max().item()
        if not error <= tolerance:
            raise ValueError(f"no evenly spaced grid gives this position table (it differs by {error:.2g})")
    return side, float(start), unit
