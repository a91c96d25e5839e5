"""Read a picture of the whole default world back into words: everything that could have been drawn is drawn, and the nearest is taken.

`reader` knows shapes alone and measures them; this one matches shapes and pictures of things alike, on plain backgrounds and gradients.
"""

from functools import lru_cache
import math

import torch
from torch import Tensor
import torch.nn.functional as F

from . import scenes, things
from .reader import LEAST_AREA
from .scenes import PLACES, Scene, Thing

SIDE = 128      # pixels of a picture while it is read
REACH = 22      # pixels from a place's middle to its window's edge: the largest thing, moved as far as it may be
SHIFTS = 2      # pixels that a thing may stand off its place
STRETCH = (0.95, 1.0, 1.05)
CONTRAST = 0.12  # how far a pixel must be from the background to belong to an object, in RGB 0..1
EXPLAINED = 0.55  # of what a window shows besides its background, at least, by the thing that is read: more than half, and no blot gets there


@lru_cache(maxsize=2)
def _drawn(pictured: bool, giant: bool) -> tuple[list[tuple[str, str, str]], Tensor, Tensor]:
    """Everything that can stand at a place: → (size, colour, shape) of each, colours [n, 3, w, w] and coverage [n, 1, w, w] of its window."""
    reach = round(SIDE * scenes.GIANT * 1.05) + 2 if giant else REACH
    kinds = [(colour, shape) for colour in scenes.COLOURS for shape in scenes.SHAPES]
    kinds += [things.parts(name) for name in things.PICTURES] if pictured else []
    named, on_black, on_white = [], [], []
    for size in ("giant",) if giant else scenes.SIZES:
        for colour, shape in kinds:
            half = scenes.half_extent(Thing(size, colour, shape, "center"))
            for stretch in STRETCH:
                named.append((size, colour, shape))
                for ground, drawn in ((0.0, on_black), (1.0, on_white)):
                    share = half * stretch * SIDE / (2 * reach)
                    drawn.append(scenes.lay(torch.full((3, 2 * reach, 2 * reach), ground), colour, shape, (0.5, 0.5), share))
    black, white = torch.stack(on_black), torch.stack(on_white)
    covered = (1 - (white - black)).mean(1, keepdim=True)
    return named, black, covered


def read_ground(picture: Tensor) -> tuple[str, Tensor]:
    """The background [3, S, S] as its name and as it is, smooth: → (name, [3, S, S]). It is read at the edges, where nothing else stands."""
    side = picture.shape[-1]
    edge = max(1, round(0.023 * side))
    rows = torch.cat([picture[:, :, :edge], picture[:, :, -edge:]], dim=2).median(dim=2).values  # [3, S]
    share = (torch.arange(side) + 0.5) / side
    basis = torch.stack([1 - share, share], dim=1)  # [S, 2]
    ends = torch.linalg.lstsq(basis, rows.T).solution  # [2, 3], top and bottom
    names = {name: (colour, colour) for name, colour in scenes.PLAIN.items()} | scenes.GRADIENTS
    nearest = min(names, key=lambda name: (basis @ (ends - torch.tensor(names[name]) / 255)).square().sum().item())
    return nearest, (basis @ ends).T[:, :, None].expand(3, side, side)


def _nearest(picture: Tensor, ground: Tensor, place: str, giant: bool, pictured: bool) -> Thing:
    """What stands at a place."""
    named, colours, covered = _drawn(pictured, giant)
    width = colours.shape[-1]
    left, top = (round(c * SIDE) - width // 2 for c in PLACES[place])
    pad = SHIFTS + max(0, -min(left, top, SIDE - width - max(left, top)))
    padded, under = (F.pad(p[None], (pad,) * 4, mode="replicate")[0] for p in (picture, ground))
    window = under[:, top + pad:top + pad + width, left + pad:left + pad + width]
    candidates = (colours + (1 - covered) * window).flatten(1)  # [n, 3·w·w]
    around = range(-SHIFTS, SHIFTS + 1)
    seen = torch.stack([padded[:, top + pad + y:top + pad + y + width, left + pad + x:left + pad + x + width].flatten()
                        for y in around for x in around])
    error = (candidates.square().sum(1)[:, None] - 2 * candidates @ seen.T + seen.square().sum(1)).min(dim=1).values
    best = int(error.argmin())
    shown = (seen[len(seen) // 2] - window.flatten()).square().sum()
    if error[best] > (1 - EXPLAINED) * shown:
        return Thing("", "", "nothing known", place)
    return Thing(*named[best], place)


def read_scene(picture: Tensor) -> Scene:
    """What a picture [3, H, W] in 0..1 shows; "nothing known" where something is like nothing that could be drawn there."""
    if picture.shape[-1] != SIDE:
        picture = F.interpolate(picture[None], size=(SIDE, SIDE), mode="area")[0]
    pictured = things.font_path() is not None
    background, ground = read_ground(picture)
    mask = (picture - ground).square().sum(0).sqrt() > CONTRAST
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return Scene((), background)
    edges = [edge.item() / SIDE for edge in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)]
    reach = max(abs(edge - 0.5) for edge in edges)
    if 0.2 < reach < 0.33 and math.dist((edges[0] + edges[1], edges[2] + edges[3]), (1, 1)) < 0.2:
        return Scene((_nearest(picture, ground, "center", True, pictured),), background)
    near = round(0.155 * SIDE)

    def shown(place: str) -> float:
        x, y = (round(c * SIDE) for c in PLACES[place])
        return mask[max(0, y - near):y + near, max(0, x - near):x + near].sum().item()
    return Scene(tuple(_nearest(picture, ground, place, False, pictured) for place in PLACES if shown(place) >= LEAST_AREA * SIDE ** 2), background)
