"""A MODEL that runs a plan of its blocks in the steps of a sampler, leaves blocks out by a cache, turns between them by steering vectors, or runs
the stages that were wired for one step. Imported only in ComfyUI.

Followed: BaseModel.apply_model of comfy/model_base.py, CFGGuider of comfy/samplers.py and the wrappers of comfy/patcher_extension.py, ComfyUI
0.33. For the length of one model call, and on the module that is called, the stages take the place of its forward. What the cache keeps is in
the guider's options of one run, so that nothing of it stays on a MODEL.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP
import torch
from torch import Tensor, nn

from ...dit_impl.errors import StagesError, TokensError
from ...dit_impl.handle.block_plan import BlockPlan, covers, is_whole, runs, together
from ...dit_impl.handle.stage_plan import StagePlan, check_alone
from ...dit_impl.handle.steering_plan import Steering, Turn, count_of, holding
from ...dit_impl.handle.step_cache import CacheRun, StepCache, Told, cached_run, mark_of
from ...dit_impl.sampling.walk import rises
from ...dit_impl.tokens.numbers import MOST
from .model_calls import APPLY_MODEL
from .patched_model import patch_sizes_of
from .riders import CACHE, CACHE_RUN, PLANS, TURNS
from .stages import begun, stages_of
from .turns import begins_a_run, node_of, steering_of

NODE, CACHE_NODE = "DiT Blocks (MODEL)", "Step Cache"
PROMPTS = ("context", "y")  # among what a transformer is called with
Tell = Callable[[list[Told], Tensor], None]


def with_block_plan(model, plan: BlockPlan):
    """→ ModelPatcher over the same weights, with one more plan. Raises StagesError."""
    plan.steps(count_of(stages_of(model.model.diffusion_model)) or MOST)
    clone = model.clone()
    clone.model_options[PLANS] = (*clone.model_options.get(PLANS, ()), plan)
    return _by_blocks(clone)


def with_turn(model, turn: Turn | StagePlan):
    """→ ModelPatcher over the same weights, with one more turn or a stage plan; itself where that does nothing. Raises StagesError, TokensError."""
    turn.check(stages_of(model.model.diffusion_model), type(model.model).__name__)
    if turn.does_nothing:
        return model
    clone = model.clone()
    clone.model_options[TURNS] = (*clone.model_options.get(TURNS, ()), turn)
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, TURNS)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, TURNS, begins_a_run(clone.model_options[TURNS]))
    return _by_blocks(clone)


def with_step_cache(model, cache: StepCache, tell: Tell = lambda *_: None):
    """→ ModelPatcher over the same weights, with a cache in the place of an earlier one; itself at threshold 0. tell: called after each run of
    a sampler with what the cache did and the run's noise levels. Raises StagesError."""
    if not cache.threshold:
        return model
    if count_of(stages_of(model.model.diffusion_model)) == 1:
        raise StagesError(f"{type(model.model).__name__} has one block, and the first always runs: there is nothing to leave out")
    if patches := _patches(model.model_options.get("transformer_options", {})):
        raise StagesError(_refusal(patches))
    clone = model.clone()
    clone.model_options[CACHE] = cache

    def around_a_run(executor, noise: Tensor, latent: Tensor, sampler, sigmas: Tensor, *args, **kwargs):
        guider = executor.class_obj
        options = guider.model_options.setdefault("transformer_options", {})
        if patches := _patches(options):
            raise StagesError(f"{CACHE_NODE}: {_refusal(patches)}")
        if len(kwargs.get("latent_shapes") or ()) > 1:
            raise StagesError(f"{CACHE_NODE}: a latent of several tensors, such as a film with its sound, can't be cached: leave it out")
        if CACHE_RUN in options:  # DiT Denoise leads it through a part of a run
            return executor(noise, latent, sampler, sigmas, *args, **kwargs)
        run = options[CACHE_RUN] = cached_run(cache, _sigma_at(guider.model_patcher), rises(sigmas))  # these options are of this run alone
        done = executor(noise, latent, sampler, sigmas, *args, **kwargs)
        if run.told:
            tell(run.told, sigmas)
        return done
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, CACHE)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, CACHE, around_a_run)
    return _by_blocks(clone)


def in_a_run(guider, wire: dict, sigmas: Tensor) -> CacheRun | None:
    """Have a guider go on with the run that a wire stands in, where its MODEL has a cache: → that run."""
    cache = guider.model_options.get(CACHE)
    if cache is None:
        return None
    run = cached_run(cache, _sigma_at(guider.model_patcher), rises(sigmas), wire)
    guider.model_options = create_model_options_clone(guider.model_options)  # which were the MODEL's own
    guider.model_options.setdefault("transformer_options", {})[CACHE_RUN] = run
    return run


def _sigma_at(model) -> Callable[[float], float]:
    sampling = model.get_model_object("model_sampling")
    return lambda percent: float(sampling.percent_to_sigma(percent))


def _refusal(patches: str) -> str:
    return (f"this MODEL carries patches inside its blocks ({patches}), which do nothing where blocks are left out: take those patches or Step "
            "Cache away")


def _patches(options: dict) -> str:
    """What is called inside blocks, in words; "" where nothing is."""
    found = [f"patches_replace of {name}" for name, one in options.get("patches_replace", {}).items() if one]
    found += [name for name, one in options.get("patches", {}).items() if one and name != "post_input"]
    return ", ".join(found)


def _by_blocks(clone):
    """A clone whose steps run by its plans, by its turns and by its cache."""
    plans, turns, caches = clone.model_options.get(PLANS, ()), clone.model_options.get(TURNS, ()), CACHE in clone.model_options
    check_alone(turns, CACHE_NODE if caches else NODE if plans else "")
    own = patch_sizes_of(clone)[0][0] if turns else 0

    def wrapper(executor, x: Tensor, t: Tensor, *args, **kwargs) -> Tensor:
        base = executor.class_obj  # hooks and several devices call a model of their own
        options = {**dict(zip(APPLY_MODEL, args)), **kwargs}.get("transformer_options") or {}
        sigma = options.get("sigmas", t).max().item()  # the sampler's: coarse patches are read at another
        sigma_at = base.model_sampling.percent_to_sigma
        active = [plan for plan in plans if covers(plan.start, plan.end, sigma_at, sigma)]
        held = holding(turns, sigma_at, sigma)
        run = options.get(CACHE_RUN) if caches else None
        if run is not None:
            run.at(sigma)
            if not run.takes_part(may=not _patches(options)):  # those of this call alone, such as core's SkipLayerGuidanceDiT
                run = None
        if not active and not held and run is None:
            return executor(x, t, *args, **kwargs)
        asked = (*(options.get("cond_or_uncond") or ()), getattr(base, "current_weight_patches_uuid", None))  # clones share a module, not a LoRA
        steering = steering_of(held, x, own, options, type(base).__name__, sigma) if held else None
        with _in_place_of_forward(base.diffusion_model, lambda module, args, kwargs: _call(module, active, steering, run, asked, args, kwargs)):
            return executor(x, t, *args, **kwargs)
    clone.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, PLANS)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, PLANS, wrapper)
    return clone


@contextmanager
def _in_place_of_forward(module: nn.Module, run: Callable[[nn.Module, tuple, dict], Tensor]) -> Iterator[None]:
    """While it lasts, calling the module calls run(module, args, kwargs), in which it is what it was."""
    own = vars(module).pop("forward", None)

    def restore() -> None:
        vars(module).pop("forward", None)
        if own is not None:
            vars(module)["forward"] = own

    def forward(*args, **kwargs) -> Tensor:
        restore()
        try:
            return run(module, args, kwargs)
        finally:
            vars(module)["forward"] = forward
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        restore()


def _call(module: nn.Module, plans: list[BlockPlan], steering: Steering | None, run: CacheRun | None, asked: tuple, args: tuple,
          kwargs: dict) -> Tensor:
    """A model call with the blocks that the plans say, steered between them, and without those that the cache stands for. Raises
    StagesError."""
    what = "steering" if steering else "a plan of blocks"
    try:
        for key, wrappers in kwargs.get("transformer_options", {}).get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {}).items():
            if wrappers:
                raise StagesError(f"this MODEL carries a wrapper around the whole diffusion model ({key or 'unnamed'}), which {what} "
                                  "would leave out: take one of the two away")
        stages = stages_of(module)
        count = count_of(stages)
        if run is None and steering is None and count is not None and is_whole(together(plans, count), count):
            return module.forward(*args, **kwargs)
        hidden = begun(stages, args, kwargs)
        stages = stages.over(hidden)
        if steering is not None:
            stages = steering.over(stages)
        hidden = stages.position_embed(stages.patch_embed(hidden))
        parts = runs(together(plans, len(stages.kinds))) if plans else [(list(range(len(stages.kinds))), 1.0)]
        if run is not None and parts:
            texts = mark_of({name: kwargs[name] for name in PROMPTS if torch.is_tensor(kwargs.get(name))})
            return stages.head(run.run_blocks(stages, hidden, (asked, texts, steering and steering.key), parts))
        for blocks, strength in parts:
            hidden = stages.run_blocks(hidden, blocks, strength)
        return stages.head(hidden)
    except (StagesError, TokensError) as error:
        raise StagesError(f"{CACHE_NODE if run is not None else node_of(steering.turns) if steering else NODE}: {error}") from error
