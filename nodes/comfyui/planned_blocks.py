"""A MODEL that runs a plan of its blocks in the steps of a sampler. Imported only in ComfyUI.

Followed: BaseModel.apply_model of comfy/model_base.py and the wrappers of comfy/patcher_extension.py, ComfyUI 0.33. For the length of one
model call, and on the module that is called, the stages take the place of its forward.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...dit_impl.errors import StagesError
from ...dit_impl.handle.block_plan import BlockPlan, is_whole, runs, together
from ...dit_impl.model.stages import Stages
from ...dit_impl.tokens.numbers import MOST
from .riders import PLANS
from .stages import begun, stages_of

NODE = "DiT Blocks (MODEL)"


def with_block_plan(model, plan: BlockPlan):
    """→ ModelPatcher over the same weights, with one more plan. Raises StagesError."""
    stages = stages_of(model.model.diffusion_model)
    plan.steps(_count(stages) or MOST)
    clone = model.clone()
    plans = clone.model_options[PLANS] = (*clone.model_options.get(PLANS, ()), plan)

    def wrapper(executor, x: Tensor, t: Tensor, *args, **kwargs) -> Tensor:
        base = executor.class_obj  # hooks and several devices call a model of their own
        active = [plan for plan in plans if _covers(plan, base.model_sampling, t.max().item())]
        if not active:
            return executor(x, t, *args, **kwargs)
        with _in_place_of_forward(base.diffusion_model, lambda module, args, kwargs: _by_plans(module, active, args, kwargs)):
            return executor(x, t, *args, **kwargs)
    clone.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, PLANS)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, PLANS, wrapper)
    return clone


def _covers(plan: BlockPlan, model_sampling, sigma: float) -> bool:
    """Whether a plan holds at a noise level, as core's SkipLayerGuidanceDiT counts it."""
    return model_sampling.percent_to_sigma(plan.end) <= sigma <= model_sampling.percent_to_sigma(plan.start)


def _count(stages: Stages) -> int | None:
    """How many blocks there are; None where that is known only in a step."""
    try:
        return len(stages.kinds)
    except StagesError:
        return None


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


def _by_plans(module: nn.Module, plans: list[BlockPlan], args: tuple, kwargs: dict) -> Tensor:
    """A model call with the blocks that the plans say. Raises StagesError."""
    try:
        for key, wrappers in kwargs.get("transformer_options", {}).get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {}).items():
            if wrappers:
                raise StagesError(f"this MODEL carries a wrapper around the whole diffusion model ({key or 'unnamed'}), which a plan of blocks "
                                  "would leave out: take one of the two away")
        stages = stages_of(module)
        count = _count(stages)
        if count is not None and is_whole(together(plans, count), count):
            return module.forward(*args, **kwargs)
        hidden = begun(stages, args, kwargs)
        stages = stages.over(hidden)
        hidden = stages.position_embed(stages.patch_embed(hidden))
        for blocks, strength in runs(together(plans, len(stages.kinds))):
            hidden = stages.run_blocks(hidden, blocks, strength)
        return stages.head(hidden)
    except StagesError as error:
        raise StagesError(f"{NODE}: {error}") from error
