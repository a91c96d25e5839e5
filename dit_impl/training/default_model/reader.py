"""Read a picture back into words: colour, shape, size and place of every object, and the background."""

import math

import torch
from torch import Tensor
import torch.nn.functional as F

from .scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, Thing, coverage

CONTRAST = 0.2  # how far a pixel must be from the background to belong to an object, in RGB 0..1
LEAST_AREA = 0.002  # of the picture; smaller specks are no objects
TEMPLATE = 32


def _nearest(colour: Tensor, names: dict[str, tuple[int, int, int]]) -> str:
    return min(names, key=lambda name: (colour - torch.tensor(names[name]) / 255).square().sum().item())


def components(mask: Tensor) -> list[Tensor]:
    """8-connected parts of a mask [H, W], each as a mask [H, W], largest first."""
    labels = torch.arange(1, mask.numel() + 1, dtype=torch.float64).view_as(mask) * mask
    while True:
        spread = F.max_pool2d(labels[None, None], 3, stride=1, padding=1)[0, 0] * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    parts = [labels == value for value in labels.unique() if value > 0]
    return sorted(parts, key=lambda part: -part.sum().item())


def _box(mask: Tensor) -> tuple[int, int, int, int]:
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return rows[0].item(), rows[-1].item() + 1, columns[0].item(), columns[-1].item() + 1


def _fill_box(mask: Tensor) -> Tensor:
    top, bottom, left, right = _box(mask)
    cut = mask[top:bottom, left:right].float()[None, None]
    return F.interpolate(cut, size=(TEMPLATE, TEMPLATE), mode="bilinear", antialias=True)[0, 0]


def _templates() -> dict[str, Tensor]:
    return {name: _fill_box(coverage(name, (0.5, 0.5), 0.4, 128) > 0.5) for name in SHAPES}


def read_thing(picture: Tensor, part: Tensor) -> Thing:
    """One object of a picture [3, H, W], given the mask [H, W] of its pixels."""
    side = part.shape[0]
    top, bottom, left, right = _box(part)
    centre = ((left + right) / 2 / side, (top + bottom) / 2 / side)
    half_extent = max(bottom - top, right - left) / 2 / side / 0.97
    filled = _fill_box(part)
    overlap = {name: (torch.minimum(filled, t).sum() / torch.maximum(filled, t).sum()).item()
               for name, t in _templates().items()}
    inner = F.avg_pool2d(part.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0.99
    return Thing(
        size=min(SIZES, key=lambda size: abs(math.log(SIZES[size] / half_extent))),
        colour=_nearest(picture[:, inner if inner.any() else part].median(dim=1).values, COLOURS),
        shape=max(overlap, key=overlap.get),
        place=min(PLACES, key=lambda place: math.dist(PLACES[place], centre)))


def read_scene(picture: Tensor) -> Scene:
    """What a picture [3, H, W] in 0..1 shows. Things come in no particular order; compare with `same_scene`."""
    if picture.shape[-1] > 128:
        picture = F.interpolate(picture[None], size=(128, 128), mode="area")[0]
    background = picture.flatten(1).median(dim=1).values
    mask = (picture - background[:, None, None]).square().sum(0).sqrt() > CONTRAST
    parts = [part for part in components(mask) if part.float().mean() >= LEAST_AREA]
    return Scene(tuple(read_thing(picture, part) for part in parts), _nearest(background, BACKGROUNDS))


def same_scene(a: Scene, b: Scene) -> bool:
    """Whether two scenes hold the same things, in any order, on the same background."""
    return set(a.things) == set(b.things) and len(a.things) == len(b.things) and a.background == b.background
