"""What Step Cache did in the steps of a run, in numbers and in words."""

from collections.abc import Sequence

from torch import Tensor

from ..handle.patch_schedule import step_at
from ..handle.step_cache import Told

RAN, PARTLY, REUSED = "●", "◐", "○"


def by_step(told: Sequence[Told], sigmas: Tensor) -> list[float]:
    """For each step that was told of, the share of its model calls in which blocks were left out."""
    steps: dict[int, list[bool]] = {}
    for one in told:
        steps.setdefault(step_at(one.sigma, sigmas), []).append(one.reused)
    return [sum(reused) / len(reused) for _, reused in sorted(steps.items())]


def in_words(hits: Sequence[float]) -> str:
    """In how many steps all model calls left blocks out, with a sign for each step."""
    chart = "".join(RAN if hit == 0 else REUSED if hit == 1 else PARTLY for hit in hits)
    return f"blocks left out in {sum(hit == 1 for hit in hits)} of {len(hits)} steps: {chart}"
