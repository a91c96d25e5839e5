"""Captioned scenes: shapes, and pictures of things, on a plain background or a gradient.

Shapes are drawn from signed distances, so that their edges are smooth at any size. Pictures of things come from `things`.
`random_scene` gives shapes on the first four backgrounds; `any_scene` gives all that the default model knows.
"""

from dataclasses import dataclass
from itertools import combinations, permutations
import math
import random

import torch
from torch import Tensor

from . import things

COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 90, 235), "yellow": (250, 220, 50),
    "purple": (140, 60, 180), "orange": (250, 140, 30), "white": (250, 250, 250), "black": (15, 15, 15),
}
BACKGROUNDS = {"gray": (128, 128, 128), "beige": (222, 205, 170), "navy": (25, 35, 100), "teal": (0, 110, 115)}
PLAIN = BACKGROUNDS | {"sky": (150, 200, 240), "pink": (245, 190, 205)}
GRADIENTS = {f"{top} to {bottom}": (PLAIN[top], PLAIN[bottom]) for top in PLAIN for bottom in PLAIN if top != bottom}  # from top to bottom
SIZES = {"small": 0.075, "large": 0.135}  # half extent, as a share of the picture
THING_SIZES = {"small": 0.1, "large": 0.145}  # of pictures of things, which have more to show
GIANT = 0.27  # of one alone in the center, shape or thing
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
    """One object of a scene, in the words of its caption. shape: a shape, or what the picture shows. colour: "" where there is but one."""
    size: str
    colour: str
    shape: str
    place: str

    @property
    def pictured(self) -> bool:
        """Whether it is a little picture rather than a shape."""
        return self.shape not in SHAPES


@dataclass(frozen=True)
class Scene:
    """One to three things on a background: a plain one, or a gradient, "navy to pink"."""
    things: tuple[Thing, ...]
    background: str

    def swapped(self) -> "Scene":
        """The same picture, its things told in the other order."""
        return Scene(self.things[::-1], self.background)

    def orders(self) -> list["Scene"]:
        """The same picture, its things told in every order."""
        return [Scene(order, self.background) for order in permutations(self.things)]


def caption(scene: Scene) -> str:
    """The scene in words: `a large red circle at the top left on a navy background`."""
    return partial_caption(scene, random.Random(0), 0)


def partial_caption(scene: Scene, rng: random.Random, drop: float, size_drop: float | None = None) -> str:
    """The scene in words, each size, place and background left unsaid with probability `drop`; sizes of pictures with `size_drop`."""
    def thing(t: Thing) -> str:
        size = "" if rng.random() < (drop if size_drop is None or not t.pictured else size_drop) else t.size
        place = "" if rng.random() < drop else _at(t.place)
        words = " ".join(filter(None, (size, t.colour, t.shape, place)))
        return f"{'an' if words[0] in 'aeio' or words.startswith('umbrella') else 'a'} {words}"
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


def any_scene(rng: random.Random, count: int, pictured: float = 0.55, giant: float = 0.0) -> Scene:
    """A scene with one to three things of all kinds, no two alike, that don't touch. pictured: the share of little pictures among them.
    giant: how often a single one fills the middle."""
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count:
        colour, shape = (things.parts(rng.choice(list(things.PICTURES))) if rng.random() < pictured
                         else (rng.choice(list(COLOURS)), rng.choice(list(SHAPES))))
        if all(shape != other or colour != paint for paint, other in chosen):
            chosen.append((colour, shape))
    while True:
        spots = rng.sample(list(PLACES), count)
        if all(math.dist(PLACES[a], PLACES[b]) >= PAIR_DISTANCE for a, b in combinations(spots, 2)):
            break
    sizes = [rng.choice(list(SIZES)) for _ in chosen]
    if count == 1 and rng.random() < giant:
        sizes, spots = ["giant"], ["center"]
    background = rng.choice(list(PLAIN) if rng.random() < 0.6 else list(GRADIENTS))
    return Scene(tuple(Thing(size, *kind, spot) for size, kind, spot in zip(sizes, chosen, spots)), background)


def held_out(singles: int = 300, pairs: int = 100, seed: int = 2024) -> tuple[list[Scene], list[Scene]]:
    """Scenes kept out of training, for measuring: (single-object, two-object), all different."""
    rng = random.Random(seed)

    def distinct(count: int, things: int) -> list[Scene]:
        found: dict[Scene, None] = {}
        while len(found) < count:
            found[random_scene(rng, things)] = None
        return list(found)
    return distinct(singles, 1), distinct(pairs, 2)


def held_out_things(singles: int = 200, pairs: int = 100, triples: int = 50, seed: int = 2025) -> tuple[list[Scene], ...]:
    """Scenes of little pictures, kept out of training too: (with one, with two, with three), all different."""
    rng = random.Random(seed)
    return tuple(list(dict.fromkeys(any_scene(rng, things, pictured=1.0) for _ in range(2 * count)))[:count]
                 for things, count in ((1, singles), (2, pairs), (3, triples)))


def excluded() -> set[Scene]:
    """What training must not see: every held-out scene, told in any order."""
    return {order for kind in (*held_out(), *held_out_things()) for scene in kind for order in scene.orders()}


def coverage(shape: str, centre: tuple[float, float], half_extent: float, size: int) -> Tensor:
    """How much of each pixel a shape covers: → [size, size] in 0..1. Centre and half extent are shares of the picture."""
    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid((axis - centre[1]) / half_extent, (axis - centre[0]) / half_extent, indexing="ij")
    return (0.5 - SHAPES[shape](x, y) * half_extent * size).clamp(0, 1)


def half_extent(thing: Thing) -> float:
    """Half its longer side, as a share of the picture."""
    return GIANT if thing.size == "giant" else (THING_SIZES if thing.pictured else SIZES)[thing.size]


def ground(background: str, size: int) -> Tensor:
    """A background: → [3, size, size] in 0..1."""
    top, bottom = (torch.tensor(colour) / 255 for colour in GRADIENTS.get(background) or [PLAIN[background]] * 2)
    share = (torch.arange(size) + 0.5) / size
    return (top[:, None] + (bottom - top)[:, None] * share)[:, :, None].expand(3, size, size)


def lay(picture: Tensor, colour: str, shape: str, centre: tuple[float, float], half: float) -> Tensor:
    """Lay a shape, or the picture of a thing, over a picture [3, S, S]: → a new one. Centre and half extent are shares of S."""
    if shape not in SHAPES:
        return things.paste(picture, things.full_name(colour, shape), centre, half)
    paint = (torch.tensor(COLOURS[colour]) / 255).view(3, 1, 1)
    return picture + (paint - picture) * coverage(shape, centre, half, picture.shape[-1])


def draw(scene: Scene, size: int, rng: random.Random | None = None) -> Tensor:
    """Paint a scene: → [3, size, size] in 0..1. With `rng`, places and extents vary a little, as in training."""
    picture = ground(scene.background, size)
    for thing in scene.things:
        x, y = PLACES[thing.place]
        half = half_extent(thing)
        if rng is not None:
            x, y = x + rng.uniform(-JITTER, JITTER), y + rng.uniform(-JITTER, JITTER)
            half *= rng.uniform(0.95, 1.05)
        picture = lay(picture, thing.colour, thing.shape, (x, y), half)
    return picture
