"""What single numbers of the tokens say of the picture: one number of every token, as a map over the grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..drawing import charts
from ..drawing.charts import in_language
from ..drawing.map_sheet import MapSheet
from ..errors import TokensError
from ..tokens.wire_types import AnyWire
from .similarity import conditional, grid_of, stage_name

SIDE, COLUMNS, FARTHEST = 80, 4, 3.0  # of a map in pixels; beside each other; standard deviations at the ends of the colours
WORDS = {
    "title": {"en": "{count} of {width} numbers, {stage}", "zh": "{width} 个数中的 {count} 个，{stage}"},
    "number": {"en": "no. {i}", "zh": "第 {i} 个"},
    "note": {"en": "orange: above the mean of all tokens, blue: below, up to {most:g} standard deviations; smoothest first",
             "zh": "橙：高于全部 token 的平均，蓝：低于，最多 {most:g} 个标准差；最平滑的在前"},
}


@dataclass(frozen=True)
class Responses:
    """sheet: the maps with labels; maps [count, h, w], standardised; chosen: which numbers they are."""
    sheet: MapSheet
    maps: Tensor
    chosen: list[int]


def standardised(tokens: Tensor) -> Tensor:
    """Each number less its mean over the tokens, in standard deviations: [N, D] → [N, D]; 0 where all tokens have the same."""
    centred = tokens - tokens.mean(0)
    spread = centred.square().mean(0).sqrt()
    return torch.where(spread > 1e-6 * tokens.abs().amax(0).clamp_min(1e-12), centred / spread.clamp_min(1e-12), torch.zeros_like(centred))


def roughness(maps: Tensor) -> Tensor:
    """How much a map changes from a token to the next, to its variance: [D, h, w] → [D]. 2 is white noise, 0 is flat. Geary 1954."""
    steps = [maps.diff(dim=axis).square().flatten(1) for axis in (1, 2) if maps.shape[axis] > 1]
    if not steps:
        return maps.new_zeros(len(maps))
    variance = maps.square().flatten(1).mean(1)
    changes = torch.cat(steps, 1).mean(1)
    return torch.where(variance > 0, changes / variance.clamp_min(1e-12), torch.full_like(variance, float("inf")))


@charts.drawn
def response_maps(wire: AnyWire, count: int = 12, language: str = "English") -> Responses:
    """Some numbers of the tokens, from the smoothest map to the roughest, for the first picture and frame of the last positive conditioning.

    Raises TokensError.
    """
    if count < 1:
        raise TokensError(f"count is at least 1, not {count}")
    grid, tokens = grid_of(wire), conditional(wire)[0]
    maps = standardised(tokens).T.reshape(-1, grid.t, grid.h, grid.w)[:, 0]
    ranked = roughness(maps).argsort(stable=True)
    chosen = ranked[torch.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().long()]
    maps = maps[chosen]
    cells = [charts.heat(one, SIDE, -FARTHEST, FARTHEST, signed=True) for one in maps]
    labels = [in_language(WORDS["number"], language).format(i=i) for i in chosen.tolist()]
    title = in_language(WORDS["title"], language).format(count=len(chosen), width=tokens.shape[-1], stage=stage_name(wire, language))
    note = in_language(WORDS["note"], language).format(most=FARTHEST)
    drawn, corners = charts.sheet_and_corners(cells, labels, min(COLUMNS, len(cells)), title, note, language, 1)
    sheet = MapSheet(drawn[None], (grid.h, grid.w), (cells[0].shape[1], len(cells[0])), [(x, y, 0) for x, y in corners])
    return Responses(sheet, maps, chosen.tolist())
