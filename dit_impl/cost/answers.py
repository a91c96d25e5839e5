"""Costs as plain values, for the editor to show beside a node before anything has run. The formulas stand in arithmetic.py."""

from dataclasses import asdict, fields
from functools import cache
import math

import torch
from torch import Tensor

from ..errors import BackboneError
from ..handle.backbone import DitHandle
from ..handle.patch_schedule import PatchSchedule, parse_schedule
from ..sampling.guidance import is_guided
from ..sampling.solvers import check_solver, model_calls
from ..sampling.walk import last_step
from ..sources.embedded import load_embedded
from ..step.by_block import BLOCKS
from ..tokens.patch import token_grid
from .arithmetic import Architecture, Budget, architecture, budget

LARGEST_PATCH = 64
KINDS = ("dit", "vit", "pixart", "mmdit", "flux", "counted")
MAY_BE_ZERO = {field.name for field in fields(Architecture) if field.default == 0}


def shape_of(dit: DitHandle) -> dict | None:
    """A DIT's shape as plain values; None where it is not known."""
    try:
        return asdict(architecture(dit))
    except BackboneError:
        return None


@cache
def embedded_shape() -> dict:
    """The default model's shape as plain values."""
    return asdict(architecture(load_embedded()[0]))


def _whole(value: object, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is a whole number from {least} to {most}, not {value!r:.40}")
    return value


def _number(value: object, name: str, least: float, most: float) -> float:
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError(f"{name} is a number from {least:g} to {most:g}, not {value!r:.40}")
    return value


def read_shape(given: object) -> Architecture:
    """What `shape_of` gave, or "embedded" → an Architecture. Raises ValueError."""
    if given == "embedded":
        given = embedded_shape()
    known = {field.name for field in fields(Architecture)}
    if not isinstance(given, dict) or not given.keys() <= known or not {"name", "kind", "width", "blocks"} <= given.keys():
        raise ValueError(f"a shape is \"embedded\" or the fields of an architecture, not {given!r:.80}")
    if given["kind"] not in KINDS:
        raise ValueError(f"a shape's kind is one of {', '.join(KINDS)}, not {given['kind']!r:.40}")
    for name in given.keys() - {"name", "kind", "guided"}:
        _whole(given[name], f"a shape's {name}", 0 if name in MAY_BE_ZERO else 1, 10 ** 15)
    return Architecture(**given)


def of_step(shape: Architecture, size: tuple[int, int], patch_size: int, batch: int = 1, guided: bool | None = None) -> Budget:
    """What a model call costs for a latent of (H, W) cells. guided: None is as usual for the model."""
    return budget(shape, size[1] * shape.downscale, size[0] * shape.downscale, patch_size, batch, guided=guided)


def patch_sizes(size: tuple[int, int]) -> range:
    """Those that are told of."""
    return range(1, min(*size, LARGEST_PATCH) + 1)


def by_patch_size(shape: Architecture, size: tuple[int, int], batch: int = 1, guided: bool | None = None) -> dict[int, dict]:
    """What a step costs at every patch size that fits into a latent of (H, W) cells: p → grid, tokens, values, flops, share of the
    model's own."""
    own, costs = of_step(shape, size, min(shape.patch_size, *size), batch, guided).macs, {}
    for p in patch_sizes(size):
        step = of_step(shape, size, p, batch, guided)
        costs[p] = {"grid": step.grid, "tokens": step.tokens, "values": step.values, "flops": 2 * step.macs, "share": step.macs / own}
    return costs


def without_model(channels: int, size: tuple[int, int]) -> dict[int, dict]:
    """What is known of tokens where the model's shape is not: p → grid, tokens, values."""
    grids = {p: token_grid(*size, p) for p in patch_sizes(size)}
    return {p: {"grid": grid, "tokens": grid[0] * grid[1], "values": channels * p * p} for p, grid in grids.items()}


def of_walk(shape: Architecture, size: tuple[int, int], plan: PatchSchedule, sigmas: Tensor, cfg: float, batch: int = 1,
            start_step: int = 0, end_step: int | None = None, solver: str = "euler", capture_blocks: bool = False) -> dict:
    """What a Denoise node spends: → steps, flops, share of the same steps at the model's own patch size, and stretches of one patch size
    with its tokens a picture and flops a step. Raises ValueError."""
    end_step = last_step(start_step, end_step, sigmas)

    def flops(p: int, start: int, stop: int, guidance: float) -> int:
        if p > min(size):
            raise ValueError(f"patch_size {p} does not fit into a latent of {size[0]}×{size[1]} cells")
        step = of_step(shape, size, p, batch, is_guided(guidance))
        # each step once more, and the final layer after every block that is shown
        captured = step.macs + step.head * (min(shape.blocks + shape.single, BLOCKS) - 1) if capture_blocks else 0
        return 2 * (model_calls(solver, sigmas, start, stop) * step.macs + (stop - start) * captured)

    total, stretches = 0, []
    for p, start, stop in plan.stretches(sigmas, start_step, end_step):
        guidance = plan.guidance(p, cfg)
        total += flops(p, start, stop, guidance)
        tokens = math.prod(token_grid(*size, p))
        stretches.append({"patch_size": p, "steps": stop - start, "tokens": tokens, "flops": flops(p, start, start + 1, guidance)})
    own = flops(min(shape.patch_size, *size), start_step, end_step, cfg)
    return {"steps": end_step - start_step, "flops": total, "share": total / own, "batch": batch, "stretches": stretches}


def read_walk(given: object, shape: Architecture, default: bool) -> dict:
    """What the widgets of Sigma Schedule, Patch Schedule and Denoise say → arguments of `of_walk`. Noise levels are the default model's
    own; of others, whose flow is not known before a run, they are even. Raises ValueError."""
    if not isinstance(given, dict):
        raise ValueError(f"a walk is an object with steps, not {given!r:.40}")
    steps, solver = _whole(given.get("steps"), "steps", 1, 10000), given.get("solver", "euler")
    check_solver(solver)
    scheduler, denoise = given.get("scheduler", "simple"), _number(given.get("denoise", 1), "denoise", 0.01, 1)
    sigmas = load_embedded()[0].schedule(steps, scheduler, denoise) if default else torch.linspace(1, 0, steps + 1)
    rows = given.get("rows", str(_whole(given.get("patch_size", 0), "patch_size", 0, 4096) or shape.patch_size))
    if not isinstance(rows, str):
        raise ValueError(f"rows is text, not {rows!r:.40}")
    plan = parse_schedule(rows, coarse_cfg=_number(given.get("coarse_cfg", 1), "coarse_cfg", 0, 100))
    return {"plan": plan, "sigmas": sigmas, "solver": solver,
            "start_step": _whole(given.get("start_step", 0), "start_step", 0, 10000),
            "end_step": _whole(given.get("end_step", 10000), "end_step", 1, 10000),
            "capture_blocks": given.get("capture_blocks") is True}


def cost_answer(question: object) -> dict:
    """{"shape" or "channels", "size": [H, W], "batch", "cfg", "walk"} → {"own", "sizes", "walk" if asked}. Raises ValueError.

    size: of the latent in cells; cfg: None is guided as usual for the model; walk: see `read_walk`."""
    if not isinstance(question, dict):
        raise ValueError("a question is an object with shape and size")
    given = question.get("size")
    if not (isinstance(given, list) and len(given) == 2 and all(type(n) is int and 1 <= n <= 4096 for n in given)):
        raise ValueError(f"size is a latent's [height, width], 1 to 4096 cells each, not {given!r:.40}")
    size, batch, cfg = tuple(given), _whole(question.get("batch", 1), "batch", 1, 4096), question.get("cfg")
    if question.get("shape") is None and "channels" in question:
        return {"own": 0, "sizes": without_model(_whole(question["channels"], "channels", 1, 10 ** 6), size)}
    shape = read_shape(question.get("shape"))
    guided = None if cfg is None else is_guided(_number(cfg, "cfg", 0, 1000))
    told = {"own": shape.patch_size, "sizes": by_patch_size(shape, size, batch, guided)}
    if question.get("walk") is not None:
        walk = read_walk(question["walk"], shape, question["shape"] == "embedded")
        cfg = (2 if shape.guided else 1) if cfg is None else cfg
        told["walk"] = of_walk(shape, size, cfg=cfg, batch=batch, **walk)
    return told
