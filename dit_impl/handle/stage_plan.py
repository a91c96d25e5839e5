"""The stages that were wired for one step, run in every step of a sampler. See `tokens.recipe`."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
import math
from typing import cast

import torch

from ..errors import StagesError
from ..model.stages import Call, Hidden, Shape, Stages
from ..tokens.recipe import Made, again, check_repeatable, in_order, is_for_all, values_of
from ..tokens.wire_types import DitHidden, DitTokens
from .block_plan import check_share

TITLES = "Stages Every Step or Stages (MODEL)"


@dataclass(frozen=True, eq=False)
class StagePlan:
    """What a wire of hidden states went through, from one share of sampling to another. It stands among a model's turns, without any other
    that holds at the same time."""
    made: Made
    shape: Shape
    start: float = 0.0
    end: float = 1.0

    @classmethod
    def of(cls, wire: DitHidden, start: float = 0.0, end: float = 1.0) -> "StagePlan":
        """Raises StagesError for hidden states that can't be made again in another step."""
        check_share(start, end)
        return cls(check_repeatable(wire), wire["shape"].of_blocks, start, end)

    does_nothing = False  # even a plan of all that the model does is a plan

    @property
    def is_everywhere(self) -> bool:
        return is_for_all(self.made)

    @property
    def mask(self) -> object:
        return None if self.is_everywhere else self

    @property
    def rows(self) -> str:
        return "positive" if "positive" in [value for value in values_of(self.made) if isinstance(value, str)] else "both"

    def check(self, stages: Stages, name: str) -> None:
        """Raise StagesError unless a model has the shape of the one that the wire came from."""
        ours = stages.shape.of_blocks
        if ours != self.shape:
            raise StagesError(f"hidden comes from a model of another shape: {self.shape}; {name} is {ours}")


def _meet(plan: StagePlan, other) -> bool:
    """Whether two hold at the same noise level. Where one plan ends and another begins, the later one holds."""
    if isinstance(other, StagePlan):
        return plan.start < other.end and other.start < plan.end or (plan.start, plan.end) == (other.start, other.end)
    return plan.start <= other.end and other.start <= plan.end


def check_alone(turns: Sequence, beside: str = "") -> None:
    """Raise StagesError where a stage plan holds at the same time as another turn. beside: what else a model has, in words."""
    for plan in (one for one in turns if isinstance(one, StagePlan)):
        others = [one for one in turns if one is not plan and _meet(plan, one)]
        if others:
            beside = "another one" if isinstance(others[0], StagePlan) else "Steer Every Step or Steer (MODEL)"
        if beside:
            raise StagesError(f"{TITLES} runs the whole of a step, so that {beside} can't hold at the same time: take one of the two away, or wire "
                              "both into one step")


@dataclass
class _InACall:
    """What the functions of stages ask of a dit, in the middle of a model call."""
    stages: Stages
    name: str
    compute_device: torch.device
    picture_size: float
    downscale: int = 1
    latent_format: None = None
    answers: str = ""
    running = staticmethod(nullcontext)

    def check_stages(self) -> None:
        pass


@dataclass
class PlannedStages:
    """Stages of one model call, whose blocks are all that a stage plan has, from the patch embedding on. sides, cut, name, sigma: as
    `steering_plan.Steering` has them."""
    stages: Stages
    plan: StagePlan
    sides: tuple[str, ...]
    cut: Mapping
    name: str
    sigma: float

    def __post_init__(self):
        self.plan.check(self.stages, self.name)

    def __getattr__(self, name: str):
        return getattr(self.stages, name)

    def patch_embed(self, hidden: Hidden) -> Hidden:
        return hidden

    position_embed = patch_embed

    def run_blocks(self, hidden: Hidden, indices: Iterable[int], strength: float = 1.0) -> Hidden:
        rows, count = len(hidden.x) // len(self.sides), math.prod(self.cut["grid"])
        tokens = cast(DitTokens, {**self.cut, "tokens": hidden.x.new_empty(1, 1, 1).expand(rows, count, 1)})
        dit = _InACall(self.stages, self.name, hidden.x.device, max(one.side for one in in_order(self.plan.made)))
        call = Call(self.sides, tokens["tokens"], torch.tensor(self.sigma), lambda *_: hidden.x, tokens)
        begun: DitHidden = {"hidden": hidden, "tokens": tokens, "done": frozenset({"condition"}), "call": call, "model": self.name,
                            "shape": self.stages.shape, "trace": ()}
        return again(self.plan.made, begun, dit)["hidden"]
