"""The turns of a MODEL in a run of a sampler: which rows of a model call are the positive prompt's, and where its tokens stand in the picture.

Followed: CFGGuider of comfy/samplers.py and its heirs in comfy_extras/nodes_custom_sampler.py, ComfyUI 0.33. Imported only in ComfyUI.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...dit_impl.errors import StagesError
from ...dit_impl.handle.stage_plan import StagePlan
from ...dit_impl.handle.steering_plan import Steering, Turn, check_areas
from ...dit_impl.sampling.regions import has_area
from ...dit_impl.tokens.patch import token_grid
from .patched_model import COARSE, PATCH_SIZE
from .riders import TURNS


def node_of(turns: Sequence[Turn | StagePlan]) -> str:
    """The node whose errors these are."""
    return "Stages (MODEL)" if any(isinstance(one, StagePlan) for one in turns) else "Steer (MODEL)"


@dataclass(frozen=True)
class Run:
    """A run of a sampler, in its transformer_options. batch, size: of its latent; positive: which conditionings are the positive prompt's."""
    batch: int
    size: tuple[int, ...]
    positive: frozenset[Any]


def begins_a_run(turns: Sequence[Turn | StagePlan]) -> Callable:
    """→ a wrapper around a run of a sampler, which tells its model calls of it."""
    def around_a_run(executor, noise: Tensor, latent: Tensor, sampler, sigmas: Tensor, *args, **kwargs):
        guider = executor.class_obj
        try:
            if len(kwargs.get("latent_shapes") or ()) > 1:
                raise StagesError("it is not known which tokens of a latent of several tensors, such as a film with its sound, are the picture's")
            check_areas(turns, any(has_area(one) for conditioning in guider.conds.values() for one in conditioning or ()))
            if "positive" not in guider.conds and any(turn.rows == "positive" for turn in turns):
                raise StagesError(f'rows "positive": {type(guider).__name__} has no positive prompt')
        except StagesError as error:
            raise StagesError(f"{node_of(turns)}: {error}") from error
        positive = frozenset(one["uuid"] for one in guider.conds.get("positive") or ())
        options = guider.model_options.setdefault("transformer_options", {})  # of this run alone
        options[TURNS] = Run(len(noise), _picture(noise), positive)
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)
    return around_a_run


def steering_of(turns: tuple[Turn | StagePlan, ...], x: Tensor, own: int, options: dict, name: str,
                sigma: float) -> Steering:
    """The turns of a model call that is asked about a latent [B, C, …]. own: the model's patch size. Raises StagesError."""
    run, p, size = options.get(TURNS), options.get(PATCH_SIZE, own), _picture(x)
    parts = options.get("uuids") or (None,)
    grid = token_grid(*size[-2:], p)
    cut = {"size": size, "grid": (*size[:-2], *grid), "patch_size": p}
    if not all(turn.is_everywhere for turn in turns):
        if run is None or len(x) != run.batch * len(parts):
            raise StagesError(f"{node_of(turns)}: this model call is not one of KSampler's, so that its rows and tokens are not known: take the mask "
                              'away, and set rows to "both"')
        cut |= {"size": run.size, "patch_size": options.get(COARSE, p)}
        inside = COARSE not in options and any(side < whole for side, whole in zip(size[-2:], run.size[-2:]))
        if any(turn.mask is not None for turn in turns) and (inside or token_grid(*run.size[-2:], cut["patch_size"]) != grid):
            shown = ["×".join(map(str, sides[-2:])) for sides in (size, run.size)]
            raise StagesError(f"{node_of(turns)}: this model call reads {shown[0]} of {shown[1]} latent cells, so that it is not known where the mask is "
                              "in it: take the mask away")
    positive = run.positive if run is not None else ()
    return Steering(turns, tuple("cond" if part in positive else "uncond" for part in parts), cut, name, sigma)


def _picture(latent: Tensor) -> tuple[int, ...]:
    """The size of a latent [B, C, …], of sound as one row."""
    return tuple(latent.shape[2:]) if latent.dim() > 3 else (1, latent.shape[2])
