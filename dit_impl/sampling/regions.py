"""Where and when each prompt of a CONDITIONING counts: its area, strength, mask and range of steps, and whether it is the default.

A prompt with an area is asked about that cut of the latent as about a picture of its own; the answers are averaged by weight. All is
done in the order of ComfyUI 0.33 (comfy/samplers.py: process_conds, get_area_and_mult, _calc_cond_batch), so that sums round alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import lcm
from typing import Callable

import torch
from torch import Tensor
import torch.nn.functional as F

from ..errors import BackboneError
from ..model.conditioning import OVER_TEXT, Arguments, join
from .flow import Flow

Area = tuple[int, int, int, int]  # height, width, top, left, in latent cells
# cuts [B, C, h, w], what the model is called with, the parts of the batch → x0 of each
Ask = Callable[[Tensor, Arguments, "list[Part]"], Tensor]

FUZZ = 8  # cells over which the weight of an area falls off towards its inner borders
LEAST_AREA = 8  # side of the area around a mask, at least
MOST_REPEATS = 4  # of the shorter text, so that two lengths share a batch
NEVER = 1e-37  # the weight of a place that no prompt covers
NOT_TAKEN = {
    "control": "a ControlNet, which {model} has no place for: leave it out",
    "gligen": "GLIGEN boxes, which {model} has no place for: leave them out",
    "hooks": "hooks, which change a MODEL: use DiT to MODEL, and sample that",
}


@dataclass(frozen=True)
class Prompt:
    """A prompt, made ready for latents of one size. mask: [B or 1, 1, H, W]. It counts at noise levels from `start` down to `end`."""
    arguments: Arguments
    area: Area | None = None
    mask: Tensor | None = None
    strength: float = 1.0
    start: float = float("inf")
    end: float = 0.0
    default: bool = False


@dataclass(frozen=True)
class Part:
    """A prompt's part in one step: the side it is on, 0 for positive and 1 for negative, and its weight [B or 1, 1, h, w]."""
    side: int
    prompt: Prompt
    weight: Tensor


def has_area(extras: Mapping) -> bool:
    """Whether a pair of a CONDITIONING is about an area of the picture, which the other side is then asked about too."""
    return "area" in extras or ("mask" in extras and bool(extras.get("set_area_to_bounds")))


def refuse_what_is_not_taken(extras: Mapping, what: str, model: str, but: tuple[str, ...] = ()) -> None:
    """Raise BackboneError where a pair of a CONDITIONING asks for what a model of this library can't do."""
    for name, said in NOT_TAKEN.items():
        if name not in but and extras.get(name) is not None:
            raise BackboneError(f"{what} carries {said.format(model=model)}")


def prompt(arguments: Arguments, extras: Mapping, size: tuple[int, int], flow: Flow, what: str, model: str, least: int = 1) -> Prompt:
    """One pair of a CONDITIONING for a latent of this size, whose areas are at least `least` cells a side. Raises BackboneError."""
    refuse_what_is_not_taken(extras, what, model)
    mask, area = extras.get("mask"), _area(extras, size, what)
    if mask is not None:
        mask = _resized(mask, size)
        if extras.get("set_area_to_bounds"):
            area = _bounds(mask)
        mask = mask[:, None] * extras.get("mask_strength", 1.0)
    start, end = extras.get("start_percent"), extras.get("end_percent")
    if "clip_start_percent" in extras:
        start = max(extras["clip_start_percent"], start or 0.0)
        end = min(extras["clip_end_percent"], 1.0 if end is None else end)
    made = Prompt(arguments, area, mask, extras.get("strength", 1.0), float("inf") if start is None else flow.sigma_at(start),
                  0.0 if end is None else flow.sigma_at(end), "default" in extras)
    if area is not None:
        if made.default:
            raise BackboneError(f"{what} is the default, which fills what others leave, and has an area too: take one of both away")
        height, width, _, _ = _cut(area, size)
        if min(height, width) < least:
            raise BackboneError(f"{what} has an area of {height}×{width} latent cells, patches are {least} a side: make it larger")
    return made


def _area(extras: Mapping, size: tuple[int, int], what: str) -> Area | None:
    """An area in cells, or in shares of the picture → in cells."""
    area = extras.get("area")
    if area is None:
        return None
    share, numbers = area[0] == "percentage", area[1:] if area[0] == "percentage" else area
    if len(numbers) != 4:
        raise BackboneError(f"{what} has an area with frames, of a video: this is a picture")
    if share:
        sides = [max(1, round(part * side)) for part, side in zip(numbers, size)]
        numbers = (*sides, *(round(part * side) for part, side in zip(numbers[2:], size)))
    if any(first >= side for first, side in zip(numbers[2:], size)):
        raise BackboneError(f"{what} has an area that begins at row {numbers[2]}, column {numbers[3]} of a latent of {size[0]}×{size[1]} cells")
    return tuple(numbers)


def _resized(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """MASK [B, H, W] or [H, W] → [B, h, w] of a latent."""
    mask = mask[None] if mask.dim() == 2 else mask
    return mask if tuple(mask.shape[1:]) == tuple(size) else F.interpolate(mask[:, None], size=tuple(size), mode="bilinear")[:, 0]


def _bounds(mask: Tensor) -> Area:
    """The least area, of at least 8×8 cells, that holds all of a mask [B, h, w] that is not 0."""
    rows, columns = mask.abs().amax(0).nonzero(as_tuple=True)
    if not len(rows):
        return (LEAST_AREA, LEAST_AREA, 0, 0)
    top, left = int(rows.min()), int(columns.min())
    return max(LEAST_AREA, int(rows.max()) - top + 1), max(LEAST_AREA, int(columns.max()) - left + 1), top, left


def _cut(area: Area, size: tuple[int, int]) -> Area:
    """The part of an area that a latent of this size has."""
    return min(size[0] - area[2], area[0]), min(size[1] - area[3], area[1]), area[2], area[3]


def with_opposites(positive: list[Prompt], negative: list[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Give every area on one side an equal one on the other, of the least prompt there that covers it."""
    sides = [list(positive), list(negative)]
    for side, other in ((0, 1), (1, 0)):
        for one in sides[side]:
            if one.area is not None and (opposite := _opposite(one, sides[other])):
                sides[other].append(opposite)
    return sides[0], sides[1]


def _opposite(one: Prompt, others: list[Prompt]) -> Prompt | None:
    smallest = None
    for other in others:
        if other.area is None:
            smallest = smallest or other
        elif _inside(one.area, other.area):
            if smallest is None or smallest.area is None or smallest.area[0] * smallest.area[1] > other.area[0] * other.area[1]:
                smallest = other
    return None if smallest is None or smallest.area == one.area else replace(one, arguments=smallest.arguments)


def _inside(a: Area, b: Area) -> bool:
    return all(b[i + 2] <= a[i + 2] and a[i] + a[i + 2] <= b[i] + b[i + 2] for i in (0, 1))


def parts_at(sides: list[list[Prompt]], sigma: Tensor, x: Tensor) -> list[Part]:
    """The prompts that count at a noise level [], in order, defaults last. x: the latent [B, C, H, W]."""
    parts, defaults, level = [], [], sigma.item()
    for side, prompts in enumerate(sides):
        for one in prompts:
            if not (level > one.start or level < one.end):
                (defaults if one.default else parts).append(Part(side, one, _weight(one, x)))
    for side in sorted({part.side for part in defaults}):
        left = x.new_ones(len(x), 1, *x.shape[-2:])
        for part in parts:
            if part.side == side:
                place(left, part.prompt.area).sub_(part.weight)
        left = left.relu()
        if left.max() > 0:
            parts += [replace(part, weight=left) for part in defaults if part.side == side]
    return parts


def _weight(one: Prompt, x: Tensor) -> Tensor:
    """How much a prompt counts at each cell of its area: → [B or 1, 1, h, w]."""
    size = tuple(x.shape[-2:])
    height, width, top, left = _cut(one.area, size) if one.area is not None else (*size, 0, 0)
    if one.mask is not None:
        mask = one.mask.to(x)[torch.arange(len(x)) % min(len(one.mask), len(x))]
        return place(mask, one.area) * one.strength
    weight = x.new_ones(1, 1, height, width) * one.strength
    if one.area is None:
        return weight
    for dim, first, length in ((2, top, height), (3, left, width)):
        fuzz = min(FUZZ, length // 4)
        for inner, at in ((first != 0, lambda i: i), (first + length < x.shape[dim], lambda i: length - 1 - i)):
            for i in range(fuzz if inner else 0):
                weight.narrow(dim, at(i), 1).mul_((1.0 / fuzz) * (i + 1))
    return weight


def place(latent: Tensor, area: Area | None) -> Tensor:
    """A view of what an area is of a latent [B, C, H, W]."""
    return latent if area is None else latent[..., *slices(area, tuple(latent.shape[-2:]))]


def slices(area: Area, size: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of an area in a latent of this size."""
    height, width, top, left = _cut(area, size)
    return slice(top, top + height), slice(left, left + width)


def together(parts: list[Part], size: tuple[int, int]) -> list[list[Part]]:
    """Parts in batches of one model call each: those whose cuts and arguments have the same shapes."""
    left, calls = list(parts), []
    while left:
        call = [part for part in left if _may_join(part.prompt, left[0].prompt, size)][::-1]
        left = [part for part in left if not any(part is taken for taken in call)]
        calls.append(call)
    return calls


def _may_join(a: Prompt, b: Prompt, size: tuple[int, int]) -> bool:
    shapes = [size if one.area is None else _cut(one.area, size)[:2] for one in (a, b)]
    if shapes[0] != shapes[1] or a.arguments.keys() != b.arguments.keys():
        return False
    for name, value in a.arguments.items():
        lengths = value.shape[1:2] + b.arguments[name].shape[1:2]
        if value.shape != b.arguments[name].shape and not (name == OVER_TEXT[0] and lcm(*lengths) // min(lengths) <= MOST_REPEATS):
            return False
    return True


def average(ask: Ask, x: Tensor, sigma: Tensor, sides: list[list[Prompt]]) -> list[Tensor]:
    """x0 of each side at a noise level, by as many model calls as it takes: latent [B, C, H, W] → one of the same for each side."""
    sums, weights = [torch.zeros_like(x) for _ in sides], [x.new_full((len(x), 1, *x.shape[-2:]), NEVER) for _ in sides]
    for call in together(parts_at(sides, sigma, x), tuple(x.shape[-2:])):
        answer = ask(torch.cat([place(x, part.prompt.area) for part in call]), join([part.prompt.arguments for part in call]), call)
        for part, x0 in zip(call, answer.chunk(len(call))):
            place(sums[part.side], part.prompt.area).add_(x0 * part.weight)
            place(weights[part.side], part.prompt.area).add_(part.weight)
    return [total / weight for total, weight in zip(sums, weights)]
