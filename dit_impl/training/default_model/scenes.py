"""Captioned scenes: one or two shapes on a plain background, drawn from signed distances so that edges are smooth at any size."""

from dataclasses import dataclass
import math
import random

import torch
from torch import Tensor

COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 90, 235), "yellow": (250, 220, 50),
    "purple": (140, 60, 180), "orange": (250, 140, 30), "white": (250, 250, 250), "black": (15, 15, 15),
}
BACKGROUNDS = {"gray": (128, 128, 128), "beige": (222, 205, 170), "navy": (25, 35, 100), "teal": (0, 110, 115)}
SIZES = {"small": 0.075, "large": 0.135}  # half extent, as a share of the picture
PLACES = {
    f"{row} {column}".strip() or "center": (x, y)
    for row, y in (("top", 0.19), ("", 0.5), ("bottom", 0.81))
    for column, x in (("left", 0.19), ("", 0.5), ("right", 0.81))
}
JITTER = 0.012  # how far an object may stand off its place, as a share of the picture
PAIR_DISTANCE = 0.4  # two objects stand at least this far apart, so that they never touch


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.9


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(y - 0.85, (2 * x.abs() - y - 0.95) / math.sqrt(5))


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.74).abs() - 0.26


def _cross(x: Tensor, y: Tensor) -> Tensor:
    long, short = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return torch.maximum(long - 1, short - 0.3)


SHAPES = {"circle": _circle, "square": _square, "triangle": _triangle, "ring": _ring, "cross": _cross}


@dataclass(frozen=True)
class Thing:
    """One object of a scene, in the words of its caption."""
    size: str
    colour: str
    shape: str
    place: str


@dataclass(frozen=True)
class Scene:
    """One or two things on a background."""
    things: tuple[Thing, ...]
    background: str

    def swapped(self) -> "Scene":
        """The same picture, its things told in the other order."""
        return Scene(self.things[::-1], self.background)


def caption(scene: Scene) -> str:
    """The scene in words: `a large red circle at the top left on a navy background`."""
    return partial_caption(scene, random.Random(0), 0)


def partial_caption(scene: Scene, rng: random.Random, drop: float) -> str:
    """The scene in words, each size, place and background left unsaid with probability `drop`."""
    def thing(t: Thing) -> str:
        size = "" if rng.random() < drop else f"{t.size} "
        place = "" if rng.random() < drop else f" {_at(t.place)}"
        article = "an" if not size and t.colour == "orange" else "a"
        return f"{article} {size}{t.colour} {t.shape}{place}"
    background = "" if rng.random() < drop else f" on a {scene.background} background"
    return " and ".join(map(thing, scene.things)) + background


def _at(place: str) -> str:
    return "in the center" if place == "center" else f"at the {place}"


def random_scene(rng: random.Random, things: int) -> Scene:
    """A scene with one or two things; two never share a colour, and never stand close enough to touch."""
    places, colours = list(PLACES), list(COLOURS)
    while True:
        spots = rng.sample(places, things)
        if things == 1 or math.dist(PLACES[spots[0]], PLACES[spots[1]]) >= PAIR_DISTANCE:
            break
    paints = rng.sample(colours, things)
    return Scene(tuple(Thing(rng.choice(list(SIZES)), paint, rng.choice(list(SHAPES)), spot)
                       for paint, spot in zip(paints, spots)), rng.choice(list(BACKGROUNDS)))


def held_out(singles: int = 300, pairs: int = 100, seed: int = 2024) -> tuple[list[Scene], list[Scene]]:
    """Scenes kept out of training, for measuring: (single-object, two-object), all different."""
    rng = random.Random(seed)

    def distinct(count: int, things: int) -> list[Scene]:
        found: dict[Scene, None] = {}
        while len(found) < count:
            found[random_scene(rng, things)] = None
        return list(found)
    return distinct(singles, 1), distinct(pairs, 2)


def coverage(shape: str, centre: tuple[float, float], half_extent: float, size: int) -> Tensor:
    """How much of each pixel a shape covers: → [size, size] in 0..1. Centre and half extent are shares of the picture."""
    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid((axis - centre[1]) / half_extent, (axis - centre[0]) / half_extent, indexing="ij")
    return (0.5 - SHAPES[shape](x, y) * half_extent * size).clamp(0, 1)


def draw(scene: Scene, size: int, rng: random.Random | None = None) -> Tensor:
    """Paint a scene: → [3, size, size] in 0..1. With `rng`, places and extents vary a little, as in training."""
    picture = (torch.tensor(BACKGROUNDS[scene.background]) / 255).view(3, 1, 1).expand(3, size, size)
    for thing in scene.things:
        x, y = PLACES[thing.place]
        half = SIZES[thing.size]
        if rng is not None:
            x, y = x + rng.uniform(-JITTER, JITTER), y + rng.uniform(-JITTER, JITTER)
            half *= rng.uniform(0.95, 1.05)
        alpha = coverage(thing.shape, (x, y), half, size)
        paint = (torch.tensor(COLOURS[thing.colour]) / 255).view(3, 1, 1)
        picture = picture + (paint - picture) * alpha
    return picture
