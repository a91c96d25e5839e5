"""A steering vector that is added in every step of a sampler, where among the blocks it was taken. See `tokens.steering`."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import inf

from torch import Tensor

from ..errors import StagesError
from ..model.stages import Call, Hidden, Stages
from ..tokens.steering import SteeringVector, check_rows, check_vector, steer
from .block_plan import SigmaAt, check_share, covers
from .stage_plan import PlannedStages, StagePlan


@dataclass(frozen=True, eq=False)
class Turn:
    """strength, rows, mask: as `steer` takes them. It holds from one share of sampling to another."""
    vector: SteeringVector
    strength: float = 1.0
    rows: str = "both"
    mask: Tensor | None = None
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        check_rows(self.rows)
        check_share(self.start, self.end)

    @property
    def does_nothing(self) -> bool:
        return not self.strength or self.mask is not None and not (self.mask > 0.5).any()

    @property
    def is_everywhere(self) -> bool:
        """Whether it is one for all rows and tokens."""
        return self.rows == "both" and self.mask is None

    def check(self, stages: Stages, name: str) -> None:
        """Raise StagesError, TokensError unless it fits a model's blocks and width, where those are known."""
        width, count = stages.shape.width, count_of(stages)
        if width:
            check_vector(self.vector, width, name)
        if count is not None and self.vector.block > count:
            raise StagesError(f"the vector was taken before block {self.vector.block}, of {self.vector.model}; {name} has {count} blocks")


def count_of(stages: Stages) -> int | None:
    """How many blocks there are; None where that is known only in a step."""
    try:
        return len(stages.kinds)
    except StagesError:
        return None


@dataclass(frozen=True, eq=False)
class Steering:
    """The turns of one model call. sides: "uncond" or "cond" for each part of its batch; cut: grid, patch_size and size of what its tokens are
    of, as on DIT_TOKENS; name: of the model; sigma: the sampler's."""
    turns: tuple[Turn | StagePlan, ...]
    sides: tuple[str, ...]
    cut: Mapping
    name: str
    sigma: float

    def over(self, stages: Stages) -> "SteeredStages | PlannedStages":
        """Stages that turn, or that a stage plan leads; to be put in their place before the patch embedding."""
        plan = max((one for one in self.turns if isinstance(one, StagePlan)), key=lambda one: (one.start, one.end), default=None)
        return SteeredStages(stages, self) if plan is None else PlannedStages(stages, plan, self.sides, self.cut, self.name, self.sigma)

    @property
    def key(self) -> Hashable:
        """What is the same in the steps that turn alike."""
        return self.turns, self.sides

    def turned(self, hidden: Hidden, first: float, last: float) -> Hidden:
        """Hidden states after the turns whose place is before one of these blocks. Raises StagesError, TokensError."""
        for turn in self.turns:
            if first <= turn.vector.block <= last:
                call = Call(self.sides, hidden.x, hidden.x.new_zeros(()), lambda *_: hidden.x, self.cut)
                wire = {"hidden": hidden, "tokens": self.cut, "done": frozenset({"patches"}), "call": call, "model": self.name, "trace": ()}
                hidden = steer(wire, turn.vector, turn.strength, turn.mask, turn.rows)["hidden"]
        return hidden

    def comes(self, first: float, last: float) -> bool:
        return any(first <= turn.vector.block <= last for turn in self.turns)


class SteeredStages:
    """Stages whose tokens turn each time a run comes to the place before a turn's block: before that block, or where it is left out, before
    the next one that runs or the head."""

    def __init__(self, stages: Stages, steering: Steering):
        self.stages, self.steering = stages, steering
        for turn in steering.turns:
            turn.check(stages, steering.name)

    def __getattr__(self, name: str):
        return getattr(self.stages, name)

    def run_blocks(self, hidden: Hidden, indices: Iterable[int], strength: float = 1.0) -> Hidden:
        indices, begun, at = list(indices), 0, hidden.index
        for place, block in enumerate(indices):
            if self.steering.comes(at, block):
                hidden = self.steering.turned(self.stages.run_blocks(hidden, indices[begun:place], strength), at, block)
                begun = place
            at = block + 1
        return self.stages.run_blocks(hidden, indices[begun:], strength)

    def head(self, hidden: Hidden) -> Tensor:
        return self.stages.head(self.steering.turned(hidden, hidden.index, inf))


def holding(turns: Iterable[Turn], sigma_at: SigmaAt, sigma: float) -> tuple[Turn, ...]:
    """The turns that hold at a noise level."""
    return tuple(turn for turn in turns if covers(turn.start, turn.end, sigma_at, sigma))


def check_areas(turns: Iterable[Turn], areas: bool) -> None:
    """Raise StagesError where prompts have areas, which the model reads as pictures of their own, and a turn is not for all of their tokens."""
    if areas and not all(turn.is_everywhere for turn in turns):
        raise StagesError("a mask, rows \"positive\" and edited tokens are for prompts of the whole picture: leave Conditioning (Set Area) out, or "
                          "use Conditioning (Set Mask)")
