"""Which blocks a model runs in the steps of a sampler, in which order, and how strong."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import StagesError
from ..model.stages import parse_blocks
from ..tokens.numbers import check_ranges

SigmaAt = Callable[[float], float]  # a share of sampling → its noise level
Steps = list[tuple[int, float]]  # a block's number and the factor on what it adds, in the order in which blocks run


@dataclass(frozen=True)
class BlockPlan:
    """blocks: as in DiT Blocks, and each part may end in its own factor, "0-6, 7*0.5, 8-18". strength: a factor on all of them. It holds from
    one share of sampling to another."""
    blocks: str = "all"
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def steps(self, count: int) -> Steps:
        """The plan for a model with so many blocks. Raises StagesError."""
        return [(block, self.strength * share) for named, share in self._parts() for block in parse_blocks(named, count)]

    def check(self) -> None:
        """Raise ValueError for words that no model can follow."""
        for named, _ in self._parts():
            check_ranges(named, "block")

    def _parts(self) -> Iterator[tuple[str, float]]:
        """Blocks in words, and their factor."""
        for part in [self.blocks] if self.blocks.split()[:2] == ["all", "but"] else self.blocks.split(","):
            named, at, factor = part.partition("*")
            try:
                share = float(factor) if at else 1.0
            except ValueError:
                raise StagesError(f'blocks: a factor is a number after *, as in "7*0.5", not {part.strip()[:40]!r}') from None
            yield named, share


def check_share(start: float, end: float) -> None:
    """Raise StagesError unless there is a part of sampling from one share to another."""
    if start > end:
        raise StagesError(f"start_percent {start:g} is after end_percent {end:g}")


def covers(start: float, end: float, sigma_at: SigmaAt, sigma: float) -> bool:
    """Whether what goes from one share of sampling to another holds at a noise level, as core's SkipLayerGuidanceDiT counts it."""
    return (end >= 1 or sigma_at(end) <= sigma) and (start <= 0 or sigma <= sigma_at(start))


def together(plans: list[BlockPlan], count: int) -> Steps:
    """Several plans for the same step: the order is the last one's, a block that any of them leaves out is left out, factors multiply."""
    *earlier, last = (plan.steps(count) for plan in plans)
    found = last
    for steps in earlier:
        factors = dict(steps)
        found = [(block, factor * factors[block]) for block, factor in found if block in factors]
    return found


def runs(steps: Steps) -> list[tuple[list[int], float]]:
    """Neighbours of equal strength together: → [(blocks, strength), …]."""
    found: list[tuple[list[int], float]] = []
    for block, factor in steps:
        if found and found[-1][1] == factor:
            found[-1][0].append(block)
        else:
            found.append(([block], factor))
    return found


def is_whole(steps: Steps, count: int) -> bool:
    """Whether it is what the model does by itself."""
    return steps == [(block, 1.0) for block in range(count)]
