"""Costs as plain values, for the editor to show beside a node before anything has run. The arithmetic is budget.py's."""

from dataclasses import asdict, fields
from functools import cache

import torch

from .backbone import BackboneError, Dit
from .budget import Architecture, architecture, budget
from .patch_schedule import PatchSchedule, parse_schedule

LARGEST_PATCH = 64


def shape_of(dit: Dit) -> dict | None:
    """A DIT's shape as plain values; None where it is not known."""
    try:
        return asdict(architecture(dit))
    except BackboneError:
        return None


@cache
def embedded_shape() -> dict:
    """The default model's shape as plain values."""
    from .embedded import load_embedded
    return asdict(architecture(load_embedded()[0]))


def read_shape(given: object) -> Architecture:
    """What `shape_of` gave, or "embedded" → an Architecture. Raises ValueError."""
    if given == "embedded":
        given = embedded_shape()
    known = {field.name: field.type for field in fields(Architecture)}
    if not isinstance(given, dict) or not given.keys() <= known.keys() or not {"name", "kind", "width", "blocks"} <= given.keys():
        raise ValueError(f"a shape is \"embedded\" or the fields of an architecture, not {given!r:.80}")
    for name, value in given.items():
        number = name not in ("name", "kind", "guided")
        if number and (type(value) is not int or not 0 <= value < 10 ** 15):
            raise ValueError(f"a shape's {name} is a whole number, not {value!r:.40}")
    return Architecture(**given)


def by_patch_size(shape: Architecture, size: tuple[int, int]) -> dict[int, dict]:
    """What a step costs at every patch size that fits into a latent of (H, W) cells: p → grid, tokens, values, flops, share of the
    model's own. One picture; two passes a step where the model is guided as usual."""
    height, width = (length * shape.downscale for length in size)
    own = budget(shape, width, height, min(shape.patch_size, *size)).macs
    costs = {}
    for p in range(1, min(*size, LARGEST_PATCH) + 1):
        step = budget(shape, width, height, p)
        costs[p] = {"grid": step.grid, "tokens": step.tokens, "values": step.values, "flops": 2 * step.macs, "share": step.macs / own}
    return costs


def of_steps(shape: Architecture, size: tuple[int, int], plan: PatchSchedule, steps: int) -> dict:
    """What a denoising costs: → steps, flops, share of the same steps at the model's own patch size. Ends by noise level count as of an
    even schedule."""
    costs, sigmas = by_patch_size(shape, size), torch.linspace(1, 0, steps + 1)
    own = costs[min(shape.patch_size, *size)]["flops"]
    flops = 0
    for p, start, stop in plan.stretches(sigmas, 0, steps):
        if p not in costs:
            raise ValueError(f"patch_size {p} does not fit into a latent of {size[0]}×{size[1]} cells")
        flops += costs[p]["flops"] * (stop - start)
    return {"steps": steps, "flops": flops, "share": flops / (own * steps)}


def answer(question: dict) -> dict:
    """{"shape", "size": [H, W], "steps" and "schedule" if wanted} → {"own", "sizes", "denoising" if asked}. Raises ValueError."""
    if not isinstance(question, dict):
        raise ValueError("a question is an object with shape and size")
    shape, size = read_shape(question.get("shape")), question.get("size")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and 1 <= n <= 4096 for n in size)):
        raise ValueError(f"size is a latent's [height, width], 1 to 4096 cells each, not {size!r:.40}")
    told = {"own": shape.patch_size, "sizes": by_patch_size(shape, tuple(size))}
    if "steps" in question:
        steps = question["steps"]
        if type(steps) is not int or not 1 <= steps <= 10000:
            raise ValueError(f"steps is a number from 1 to 10000, not {steps!r:.40}")
        plan = parse_schedule(str(question.get("schedule") or shape.patch_size))
        told["denoising"] = of_steps(shape, tuple(size), plan, steps)
    return told
