"""Costs as plain JSON, which the editor shows beside a node before anything has run. The formulas are in arithmetic.py."""

from dataclasses import asdict, dataclass, fields, replace
from functools import cache
import math
from typing import Annotated

import torch
from torch import Tensor

from ..errors import BackboneError
from ..handle.backbone import Backbone, Conditioning, DitHandle
from ..handle.patch_schedule import PatchSchedule, parse_schedule
from ..reading import Between, OneOf, check_value, read
from ..sampling.guidance import is_guided
from ..sampling.solvers import check_solver, model_calls
from ..sampling.walk import last_step
from ..sources.embedded import load_embedded
from ..step.by_block import BLOCKS
from ..tokens.mixed import Mixture, counts_of
from ..tokens.other_sizes import METHODS, choose_method
from ..tokens.patch import token_grid
from ..tokens.wire_types import DitTokens
from .arithmetic import Architecture, Budget, architecture, budget, budget_of_mix, check_whole
from .fitted import KINDS, CountedNow, fitted

LARGEST_PATCH = 64
LARGEST_SIDE = 4096  # of a latent, in cells
MOST_STEPS = 10000
ONLY_TEXT = {"pooled_output", "guidance"}  # what rides on a prompt that is no more than text


@dataclass(frozen=True)
class WalkWidgets:
    """The widgets of Sigma Schedule, Patch Schedule and DiT Denoise. patch_size is used if there are no rows; 0 is the model's own. other: the
    shape of the model that Patch Schedule has as other."""
    steps: Annotated[int, Between(1, MOST_STEPS)]
    scheduler: str = "simple"
    denoise: Annotated[float, Between(0.01, 1)] = 1
    patch_size: Annotated[int, Between(0, 4096)] = 0
    rows: str | None = None
    coarse_cfg: Annotated[float, Between(0, 100)] = 1
    start_step: Annotated[int, Between(0, MOST_STEPS)] = 0
    end_step: Annotated[int, Between(1, MOST_STEPS)] = MOST_STEPS
    solver: str = "euler"
    capture_blocks: bool = False
    other: str | dict | None = None


@dataclass(frozen=True)
class Question:
    """What the editor asks.

    size: (height, width) of the latent in cells. shape: "embedded", JSON from `plain`, or null if only the latent's channels are known.
    cfg: null is guided as usual for the model. native: the patch sizes that the model has weights for, null where only its own is known.
    method: the patch_method of the node that denoises. walk: see `WalkWidgets`.
    """
    size: tuple[Annotated[int, Between(1, LARGEST_SIDE)], Annotated[int, Between(1, LARGEST_SIDE)]]
    shape: str | dict | None = None
    channels: Annotated[int, Between(1, 10 ** 6)] | None = None
    batch: Annotated[int, Between(1, 4096)] = 1
    cfg: Annotated[float, Between(0, 1000)] | None = None
    native: tuple[Annotated[int, Between(1, 4096)], ...] | None = None
    method: Annotated[str, OneOf(*METHODS)] = "auto"
    walk: dict | None = None


def plain(shape: Architecture) -> dict:
    """An architecture as JSON: its kind and its fields."""
    return {"kind": shape.kind, **asdict(shape)}


def _by_formulas(dit: DitHandle, frames: int, positive: Conditioning | None) -> Architecture | None:
    """By formulas, which take no time, where there are some and the prompt is no more than text."""
    if positive is not None and (not set(positive[0][1]) <= ONLY_TEXT or positive[0][0] is None):
        return None
    try:
        check_whole(dit)
        found = architecture(dit) if isinstance(dit, Backbone) else DitHandle.counted(dit, frames)
    except BackboneError:
        return None
    if positive is None or isinstance(dit, Backbone) or "text" not in {one.name for one in fields(found)}:
        return found
    return replace(found, text=max(positive[0][0].shape[1], getattr(dit.stages, "least_text", 0)))


def known_shape(dit: DitHandle, size: tuple[int, ...] | None = None, positive: Conditioning | None = None) -> Architecture | None:
    """A handle's architecture, for latents of a size in cells and a prompt: by formulas, or counted. None if it is not known."""
    size = size or ()
    try:
        frames = size[0] if len(size) == 3 else 1
        found = _by_formulas(dit, frames, positive) or architecture(dit, frames, positive)
        return fitted(found, size[-2:] or None) if isinstance(found, CountedNow) else found
    except ValueError:  # whatever it is that can't be counted, a run goes on
        return None


def shape_of(dit: DitHandle, wire: DitTokens | None = None, positive: Conditioning | None = None) -> dict | None:
    """A handle's architecture as JSON, for these tokens; None if it is not known. Without a prompt nothing is counted, since
    that takes time."""
    if wire is not None and "nested" in wire:
        return None
    if positive is None and _by_formulas(dit, 1, None) is None:
        return None
    found = known_shape(dit, tuple(wire["size"]) if wire is not None else (), positive)
    return None if found is None else plain(found)


@cache
def embedded_shape() -> Architecture:
    """The default model's architecture."""
    return architecture(load_embedded()[0])


def read_shape(given: object) -> Architecture:
    """JSON from `plain`, or "embedded" for the default model → an architecture. Raises ValueError."""
    if given == "embedded":
        return embedded_shape()
    if not isinstance(given, dict) or "kind" not in given:
        raise ValueError(f"a shape is \"embedded\" or an object with a kind and its fields, not {given!r:.80}")
    kind = check_value("a shape's kind", given["kind"], Annotated[str, OneOf(*KINDS)])
    return read(KINDS[kind], {name: value for name, value in given.items() if name != "kind"}, f"a {kind} shape", "a shape's ")


def of_step(shape: Architecture, size: tuple[int, int], patch_size: int | Mixture, batch: int = 1, guided: bool | None = None,
            mask: Tensor | None = None) -> Budget:
    """The cost of a model call for a latent of (H, W) cells. guided: None is as usual for the model. mask: where patches are fine."""
    if isinstance(patch_size, Mixture):
        return budget_of_mix(shape, counts_of(patch_size, size, mask), batch, guided=guided)
    return budget(shape, size[1] * shape.downscale, size[0] * shape.downscale, patch_size, batch, guided=guided)


def coarsest(sizes: int | Mixture) -> int:
    return sizes.patch_size if isinstance(sizes, Mixture) else sizes


def tokens_of(sizes: int | Mixture, size: tuple[int, int], mask: Tensor | None = None) -> int:
    """Image tokens of a latent of (H, W) cells."""
    return sum(counts_of(sizes, size, mask).values()) if isinstance(sizes, Mixture) else math.prod(token_grid(*size, sizes))


def patch_sizes(size: tuple[int, int]) -> range:
    """The patch sizes that an answer lists: those that fit into a latent of (H, W) cells, up to LARGEST_PATCH."""
    return range(1, min(*size, LARGEST_PATCH) + 1)


def by_patch_size(shape: Architecture, size: tuple[int, int], batch: int = 1, guided: bool | None = None) -> dict[int, dict]:
    """What a step costs at every patch size that fits into a latent of (H, W) cells: p → grid, tokens, values, flops, share.

    share: of what a step costs at the model's own patch size. What is not known is left out.
    """
    def macs(p: int) -> int | None:
        try:
            return of_step(shape, size, p, batch, guided).macs
        except ValueError:
            return None
    own, costs = macs(min(shape.patch_size, *size)), {}
    for p, known in without_model(shape.channels, size, shape.frames).items():
        spent = macs(p)
        costs[p] = known | ({} if spent is None else {"flops": 2 * spent}) | ({} if spent is None or own is None else {"share": spent / own})
    return costs


def how_read(native: tuple[int, ...], patch_size: int, method: str) -> dict:
    """By which method a model reads patches of a size: → {"method"}, or {"refused": why}."""
    try:
        return {"method": choose_method(native, patch_size, method)}
    except BackboneError as error:
        return {"refused": str(error)}


def without_model(channels: int, size: tuple[int, int], frames: int = 1) -> dict[int, dict]:
    """What is known without the model's architecture: p → grid, tokens, values."""
    grids = {p: token_grid(*size, p) for p in patch_sizes(size)}
    return {p: {"grid": grid, "tokens": frames * grid[0] * grid[1], "values": channels * p * p} for p, grid in grids.items()}


def of_walk(shape: Architecture, size: tuple[int, int], plan: PatchSchedule, sigmas: Tensor, cfg: float, batch: int = 1,
            start_step: int = 0, end_step: int | None = None, solver: str = "euler", capture_blocks: bool = False,
            other: Architecture | None = None) -> dict:
    """What a Denoise node costs: → steps, flops, share and stretches. Raises ValueError.

    share: of what the same steps cost at the model's own patch size. stretches: steps in a row at one patch size, with the tokens in a
    picture and the flops of a step. other: takes the steps of rows that say 'of other'.
    """
    end_step = last_step(start_step, end_step, sigmas)
    if plan.names_other and other is None:
        raise ValueError("the rows say 'of other', and no other model is wired")
    if capture_blocks and not shape.captures:
        raise ValueError(f"what capture_blocks costs with {shape.name} is not known")

    def flops(shape: Architecture, p: int | Mixture, start: int, stop: int, guidance: float) -> int:
        if coarsest(p) > min(size):
            raise ValueError(f"patch_size {coarsest(p)} does not fit into a latent of {size[0]}×{size[1]} cells")
        step = of_step(shape, size, p, batch, is_guided(guidance), plan.mask)
        # capturing runs each step once more, with a final layer after every block that is shown
        captured = step.macs + step.head * (min(shape.depth, BLOCKS) - 1) if capture_blocks else 0
        return 2 * (model_calls(solver, sigmas, start, stop) * step.macs + (stop - start) * captured)

    total, stretches = 0, []
    for p, start, stop in plan.stretches(sigmas, start_step, end_step):
        guidance, of_other = plan.guidance(p, cfg), plan.of_other(sigmas, start)
        model = other if of_other else shape
        total += flops(model, p, start, stop, guidance)
        said = f"{p} of other" if of_other else p if isinstance(p, int) else str(p)
        stretches.append({"patch_size": said, "steps": stop - start, "tokens": model.frames * tokens_of(p, size, plan.mask),
                          "flops": flops(model, p, start, start + 1, guidance)})
    own = flops(shape, min(shape.patch_size, *size), start_step, end_step, cfg)
    return {"steps": end_step - start_step, "flops": total, "share": total / own, "batch": batch, "stretches": stretches}


def read_walk(given: object, shape: Architecture, default: bool) -> dict:
    """JSON of `WalkWidgets` → arguments of `of_walk`. Raises ValueError.

    default: whether the model is the default one, whose noise levels are known. Other models get even ones, because theirs are known only
    after a run.
    """
    widgets = read(WalkWidgets, given, "a walk")
    check_solver(widgets.solver)
    sigmas = torch.linspace(1, 0, widgets.steps + 1)
    if default:
        sigmas = load_embedded()[0].schedule(widgets.steps, widgets.scheduler, widgets.denoise)
    rows = str(widgets.patch_size or shape.patch_size) if widgets.rows is None else widgets.rows
    return {"plan": parse_schedule(rows, coarse_cfg=widgets.coarse_cfg), "sigmas": sigmas, "solver": widgets.solver,
            "start_step": widgets.start_step, "end_step": widgets.end_step, "capture_blocks": widgets.capture_blocks,
            "other": None if widgets.other is None else read_shape(widgets.other)}


def cost_answer(given: object) -> dict:
    """JSON of a `Question` → {"own", "native", "sizes", "walk" if asked}. Raises ValueError.

    own: the model's patch size. native: those that it has weights for. sizes: see `by_patch_size` and `how_read`. walk: see `of_walk`.
    """
    question = read(Question, given, "a question")
    size, batch, cfg = question.size, question.batch, question.cfg
    if question.shape is None and question.channels is not None:
        return {"own": 0, "native": [], "sizes": without_model(question.channels, size)}
    shape = read_shape(question.shape)
    native = load_embedded()[0].patch_sizes if question.shape == "embedded" else question.native or (shape.patch_size,)
    costs = by_patch_size(shape, size, batch, None if cfg is None else is_guided(cfg))
    sizes = {p: cost | how_read(native, p, question.method) for p, cost in costs.items()}
    answer = {"own": shape.patch_size, "native": list(native), "sizes": sizes}
    if question.walk is not None:
        walk = read_walk(question.walk, shape, question.shape == "embedded")
        cfg = (2 if shape.guided else 1) if cfg is None else cfg
        answer["walk"] = of_walk(shape, size, cfg=cfg, batch=batch, **walk)
    return answer
