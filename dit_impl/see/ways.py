"""Ways to draw a picture for less: patch sizes, regions, fewer steps, a cache over the steps, blocks left out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
import re

import torch
from torch import Tensor

from ..errors import ScheduleError
from ..handle.backbone import DitHandle
from ..handle.block_plan import BlockPlan
from ..handle.patch_schedule import PatchSchedule, Row, finest, parse_schedule
from ..handle.step_cache import StepCache
from ..tokens.other_sizes import METHODS

FULL = "full run"
STEPS, _CACHE = re.compile(r"(\d+)\s+steps?"), re.compile(r"cache\s+(\d*\.?\d+)")
_REGIONS, _SKIP = re.compile(r"regions\s+(\d*\.?\d+)\s*%"), re.compile(r"skip\s+(?:blocks?\s+)?(.+)")
REGIONS_FROM = 0.3  # of the steps; before there is no detail to see


@dataclass(frozen=True)
class Way:
    """One way to draw. Where nothing is set, it is the full run: the model's own patch size, all steps, all blocks.

    patches: a patch schedule. regions: the share of coarse patches that are split. skip: blocks that do not run.
    """
    label: str
    patches: PatchSchedule | None = None
    regions: float | None = None
    steps: int | None = None
    cache: float | None = None
    skip: str | None = None

    def plan(self, dit: DitHandle) -> PatchSchedule:
        """The patch size of each step."""
        own = dit.patch_size
        if self.regions is not None:
            return parse_schedule(f"{2 * own} until {100 * REGIONS_FROM:g}%, then {2 * own} with {own} on {100 * self.regions:g}%", "native")
        return self.patches or PatchSchedule((Row(own),))

    def is_full(self, dit: DitHandle, steps: int) -> bool:
        """Whether it leaves nothing out of so many steps."""
        return self.plan(dit).rows == (Row(dit.patch_size),) and self.steps in (None, steps) and not (self.cache or self.skip)

    @property
    def only_steps(self) -> bool:
        """Whether it is fewer steps and nothing else."""
        return self.steps is not None and (self.patches, self.regions, self.cache, self.skip) == (None,) * 4

    def sigmas(self, whole: Tensor) -> Tensor:
        """A schedule with this way's number of steps: its levels are those at evenly spread places of the whole one."""
        if self.steps is None or self.steps == len(whole) - 1:
            return whole
        places = torch.linspace(0, len(whole) - 1, self.steps + 1, dtype=torch.float64)
        below = places.floor().long().clamp_max(len(whole) - 2)
        return torch.lerp(whole[below].double(), whole[below + 1].double(), places - below).to(whole)

    def handle(self, dit: DitHandle) -> DitHandle:
        """The model that draws so. Raises StagesError."""
        if self.skip:
            dit = dit.with_plan(BlockPlan(f"all but {self.skip}"))
        return dit.with_cache(StepCache(self.cache)) if self.cache else dit

    def first_patch(self, dit: DitHandle) -> int:
        """The patch size that its tokens begin with."""
        return finest(self.plan(dit).rows[0].sizes)


def _read(part: str) -> dict:
    """A part of a line, such as "cache 0.1" → what it sets. Raises ScheduleError."""
    kinds: list[tuple[re.Pattern, Callable[[str], dict]]] = [
        (STEPS, lambda said: {"steps": int(said)}), (_CACHE, lambda said: {"cache": float(said)}),
        (_REGIONS, lambda said: {"regions": float(said) / 100}), (_SKIP, lambda said: {"skip": said})]
    if part == FULL:
        return {}
    for pattern, made in kinds:
        if match := pattern.fullmatch(part):
            return made(match[1])
    if not part[:1].isdigit():
        raise ScheduleError("a way is patch sizes ('4 until 50%, then 2', '4 by resample'), '8 steps', 'regions 25%', 'cache 0.1', 'skip 3-4' "
                            f"or 'full run', joined by +, not {part[:60]!r}")
    schedule, _, method = part.partition(" by ")
    if method and method not in METHODS:
        raise ScheduleError(f"the word after 'by' is one of {', '.join(METHODS)}, not {method!r}")
    return {"patches": parse_schedule(schedule, method or "auto").of_one_model("Compare Patch Sizes")}


def parse_way(line: str) -> Way:
    """`8 steps + cache 0.1`, `4 until 50%, then 2 by resample` → Way. Raises ScheduleError."""
    found: dict = {}
    for part in map(str.strip, line.lower().split("+")):
        for name, value in _read(part).items():
            if name in found or {name, *found} >= {"patches", "regions"}:
                raise ScheduleError(f"{line!r} says twice what the {'patches' if name in ('patches', 'regions') else name} are: once is enough")
            found[name] = value
    way = Way(line, **found)
    if way.steps == 0:
        raise ScheduleError(f"{line!r} takes no step: 1 at least")
    if way.regions is not None and way.regions > 1:
        raise ScheduleError(f"a share is at most 100%, not {100 * way.regions:g}%")
    return way


def parse_ways(text: str) -> list[Way]:
    """A text with a line for each way. Raises ScheduleError."""
    ways = [parse_way(line) for line in filter(None, map(str.strip, text.splitlines()))]
    if not ways:
        raise ScheduleError("there is nothing to compare: write a line for each way, such as '8 steps' or '4 until 50%, then 2'")
    return ways


def control_of(way: Way, seconds: float, full_seconds: float, steps: int) -> Way | None:
    """Fewer steps at the same seconds, by the full run's seconds a step; None where the way is no faster, or is fewer steps itself."""
    count = max(1, round(steps * seconds / full_seconds))
    return None if way.only_steps or count >= steps else replace(Way(f"{count} steps"), steps=count)
