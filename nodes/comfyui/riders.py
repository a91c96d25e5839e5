"""What rides along with a MODEL and cares where a run of sampling is cut: functions that remember, caches, windows, schedules of hooks.

Followed: comfy/samplers.py, comfy/hooks.py, comfy_extras/nodes_easycache.py and nodes_apg.py of ComfyUI 0.33.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import dis
from types import CellType, CodeType, FunctionType

from comfy.patcher_extension import WrappersMP
import comfy.sampler_helpers
import torch
from torch import Tensor

from ...dit_impl.errors import BackboneError, StagesError
from ...dit_impl.handle.backbone import Conditioning
from ...dit_impl.handle.step_cache import IN_STAGES

CFG_FUNCTIONS = ("sampler_pre_cfg_function", "sampler_cfg_function", "sampler_post_cfg_function")
WHOLE = "use DiT Denoise over all steps, from Add Noise to the schedule's end"
PLANS = "dit_blocks_plans"  # in model_options, and the key of the wrapper that runs plans of blocks
CACHE = "dit_blocks_step_cache"  # in model_options, and the key of the wrapper that begins a run of it
CACHE_RUN = "dit_blocks_cache_run"  # in transformer_options of a run: what it remembers
TURNS = "dit_blocks_turns"  # in model_options, and the key of the wrapper that begins a run of them
REGIONS = "dit_blocks_regions"  # in transformer_options of a run: what patches of several sizes go by; the key of the wrapper that begins it
# around a whole run, and the same around each step of it
HARMLESS = ("infinite_talk_outer_sample", "triposplat_sampling_preview", CACHE, TURNS, REGIONS)


# --- functions that remember ------------------------------------------------------------------------------------------

def functions(model) -> Iterator[tuple[tuple, Callable]]:
    """Everything that a MODEL calls while it samples: → where it stands, the function."""
    def within(place: tuple, value: object) -> Iterator[tuple[tuple, Callable]]:
        if isinstance(value, dict):
            for key, one in value.items():
                yield from within((*place, key), one)
        elif isinstance(value, (list, tuple)):
            for number, one in enumerate(value):
                yield from within((*place, number), one)
        elif callable(value):
            yield place, value
    options = model.model_options
    yield from within((), {key: options[key] for key in options if key.startswith(("sampler_", "model_function", "denoise_"))})
    riding = model.model_options.get("transformer_options", {})
    yield from within(("transformer",), {key: riding[key] for key in ("patches", "patches_replace", "wrappers") if key in riding})
    yield from within(("wrappers",), model.wrappers)


def _rebound(code: CodeType) -> set[str]:
    """Names of an outer function that this one, or one within it, gives new values (nonlocal)."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_DEREF"}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= _rebound(inner)
    return found & set(code.co_freevars)


def memories(model) -> dict[tuple, CellType]:
    """What the MODEL's functions keep from one call to the next: where it stands → the cell that holds it."""
    found = {}
    for place, function in functions(model):
        function = getattr(function, "__func__", function)
        if isinstance(function, FunctionType) and function.__closure__:
            names = _rebound(function.__code__)
            found |= {(*place, name): cell for name, cell in zip(function.__code__.co_freevars, function.__closure__) if name in names}
    return found


def _taken(cell: CellType) -> object:
    try:
        value = cell.cell_contents
    except ValueError:  # it has none yet
        return cell
    return value.clone() if torch.is_tensor(value) else value


def _given(cell: CellType, value: object) -> None:
    if value is not cell:
        cell.cell_contents = value.clone() if torch.is_tensor(value) else value


def snapshot(cells: dict[tuple, CellType]) -> dict[tuple, object]:
    """What they hold now."""
    return {place: _taken(cell) for place, cell in cells.items()}


@contextmanager
def remembering(model, remembered: dict | None) -> Iterator[Callable[[], dict]]:
    """Its functions remember what a step's wire carries, and afterwards what they did before: yields what they remember by now."""
    cells = memories(model)
    before = snapshot(cells)
    try:
        for place, value in (remembered or {}).items():
            if place in cells:
                _given(cells[place], value)
        yield lambda: snapshot(cells)
    finally:
        for place, value in before.items():
            _given(cells[place], value)


# --- what can't be cut ------------------------------------------------------------------------------------------------

def wrappers_of(model, kind: str) -> dict[str, list]:
    """The MODEL's wrappers of a kind, by their keys."""
    riding = model.model_options.get("transformer_options", {}).get("wrappers", {})
    return {key: found for source in (riding, model.wrappers) for key, found in source.get(kind, {}).items() if found}


def around_a_run(model) -> str:
    """What on a MODEL needs one run without a cut, in words; "" where nothing does."""
    cache = model.model_options.get("transformer_options", {}).get("easycache")
    if cache is not None:
        return f"{getattr(cache, 'name', type(cache).__name__)}, which remembers the steps of one run"
    unknown = [str(key or "unnamed") for key in wrappers_of(model, WrappersMP.OUTER_SAMPLE) if key not in HARMLESS]
    return f"a wrapper around a whole run ({unknown[0]})" if unknown else ""


def check_uncut(model, cut: bool) -> None:
    """Raise BackboneError where a run is cut and something on the MODEL must not be."""
    what = around_a_run(model) if cut else ""
    if what:
        raise BackboneError(f"this MODEL carries {what}: in a part of the steps it would do another thing than in KSampler; {WHOLE}, "
                            "with one patch size and without capture_blocks")


def left_out_by_stages(model) -> str:
    """What on a MODEL changes how fast it runs whole and does nothing in stages, in words; "" where there is nothing."""
    said = {IN_STAGES: CACHE in model.model_options,
            "stages run without this MODEL's torch.compile: only DiT Denoise and DiT Denoise Step use it":
                "torch.compile" in wrappers_of(model, WrappersMP.APPLY_MODEL),
            "stages run on the first GPU: only DiT Denoise, DiT Denoise Step and KSampler divide a step among this MODEL's GPUs":
                model.get_additional_models_with_key("multigpu")}
    return "; ".join(line for line, holds in said.items() if holds)


def check_stages(model, size: tuple[int, ...], *conditionings: Conditioning) -> None:
    """Raise StagesError for what can't be done in stages."""
    if any(comfy.sampler_helpers.cond_has_hooks(conditioning) for conditioning in conditionings):
        raise StagesError("the conditioning carries hooks, which hold for one model call only; use DiT Denoise Step")
    what = around_a_run(model)
    if what:
        raise StagesError(f"this MODEL carries {what}; {WHOLE}")
    if PLANS in model.model_options:
        raise StagesError("this MODEL carries DiT Blocks (MODEL), whose plan stages would leave out: take it away, and use DiT Blocks, or use "
                          "DiT Denoise")
    handler = model.model_options.get("context_handler")
    if handler is not None:
        frames = size[handler.dim - 2] if hasattr(handler, "dim") and 2 <= handler.dim < 2 + len(size) else None
        if frames is None or frames > handler.context_length:
            raise StagesError("this MODEL carries context windows, which read the video in overlapping pieces; use DiT Denoise")
    for key in CFG_FUNCTIONS:
        found = model.model_options.get(key, ())
        for function in found if isinstance(found, (list, tuple)) else [found]:
            if _asks(getattr(function, "__code__", None)):
                name = function.__qualname__.partition(".")[0]
                raise StagesError(f"this MODEL carries {name}, which asks the model once more after the stages; "
                                  "use DiT Denoise or DiT Denoise Step")


def _asks(code: CodeType | None) -> bool:
    """Whether a function calls the model by itself."""
    return code is not None and bool({"calc_cond_batch", "sampling_function", "apply_model"} & {*code.co_names}
                                     or any(_asks(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


# --- schedules of hooks -----------------------------------------------------------------------------------------------

def walk_keyframes(guider, sigmas: Tensor, model_options: dict) -> None:
    """Lead the conditionings' hooks through the steps that were taken before: the strength of a step depends on those before it."""
    for sigma in sigmas:
        for conditioning in guider.conds.values():
            for one in conditioning or ():
                if "hooks" in one and one.get("timestep_end", -torch.inf) <= sigma <= one.get("timestep_start", torch.inf):
                    guider.model_patcher.prepare_hook_patches_current_keyframe(sigma.view(1), one["hooks"], model_options)


# --- random numbers ---------------------------------------------------------------------------------------------------

def random_state(device: torch.device) -> tuple[Tensor, ...]:
    """Of the generators that models draw from where they ask for none of their own."""
    return (torch.get_rng_state(), *((torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()))


def set_random_state(state: tuple[Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0].cpu())
    if len(state) > 1 and device.type == "cuda":
        torch.cuda.set_rng_state(state[1].cpu(), device)
