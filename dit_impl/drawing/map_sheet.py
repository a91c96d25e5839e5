"""Pictures with maps over the token grid that know where in them the maps are, so that the editor can frame tokens on them."""

from collections.abc import Sequence
from dataclasses import dataclass
import math

import torch
from torch import Tensor


@dataclass(frozen=True)
class MapSheet:
    """image [1, H, W, 3]. grid: rows and columns of tokens in each map. size: width and height of each, in pixels. corners: x and y of each
    map's upper left, and the number of the token there, for a map of a video's frame; none where there are bars instead."""
    image: Tensor
    grid: tuple[int, int]
    size: tuple[int, int] = (0, 0)
    corners: Sequence[tuple[int, int, int]] = ()

    def facts(self, query: int | None = None) -> dict:
        """What the editor needs, for JSON: boxes as shares of the picture. query: the image token that was asked for, if one was."""
        (height, width), (wide, tall) = self.image.shape[1:3], self.size
        maps = [{"box": {"x": x / width, "y": y / height, "width": wide / width, "height": tall / height}, "first": first}
                for x, y, first in self.corners]
        return {"grid": list(self.grid), "maps": maps, "query": query}


def together(sheets: Sequence[MapSheet], gap: int = 12) -> MapSheet:
    """Sheets of one grid and one size as a single one, in rows that make it about as wide as high."""
    height, width = sheets[0].image.shape[1:3]
    columns = min(len(sheets), max(1, round(math.sqrt(len(sheets) * height / width))))
    rows = math.ceil(len(sheets) / columns)
    whole, corners = torch.ones(1, rows * (height + gap) - gap, columns * (width + gap) - gap, 3), []
    for i, sheet in enumerate(sheets):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        whole[:, top:top + height, left:left + width] = sheet.image
        corners += [(left + x, top + y, first) for x, y, first in sheet.corners]
    return MapSheet(whole, sheets[0].grid, sheets[0].size, corners)
