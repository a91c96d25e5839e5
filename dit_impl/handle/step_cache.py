"""A cache over the steps: where the first block's answer has hardly changed since all blocks ran, what the others added is added again.

First-block cache, as in ParaAttention (Cheng 2024). That the cheap part of a step tells how much the rest changes: TeaCache (Liu et al. 2024,
2411.19108, §3.3) and EasyCache (Zhou et al. 2025, 2507.02860). Every change is measured from the last step that ran all blocks, so that small
ones add up by themselves.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from threading import Lock
from types import MappingProxyType
from typing import Any, Hashable

import torch
from torch import Tensor

from ..errors import StagesError
from ..model.stages import Hidden, Stages
from ..tokens.wire_types import DitTokens, without
from .block_plan import SigmaAt, check_share

Parts = Sequence[tuple[Sequence[int], float]]  # (blocks, the factor on what they add), in the order in which they run
REMEMBERED = "step_cache"  # its place in what a wire remembers
IN_STAGES = "stages run all blocks: only DiT Denoise, DiT Denoise Step and KSampler leave them out by Step Cache"
SMALL = 1e-12


@dataclass(frozen=True)
class StepCache:
    """threshold: what counts as hardly changed, as a share; at 0 the cache does nothing. It holds from one share of sampling to another."""
    threshold: float
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        if not 0 <= self.threshold < inf:
            raise StagesError(f"threshold is 0 or more, not {self.threshold:g}")
        check_share(self.start, self.end)


@dataclass(frozen=True)
class Kept:
    """Of a model call in which all blocks ran. first: what the first block added; rest: what the others did, in the stages' own form."""
    first: Tensor
    rest: Any


@dataclass(frozen=True)
class Told:
    """Of a model call: its noise level, whether blocks were left out, and how much the first block's answer had changed, if that is known."""
    sigma: float
    reused: bool
    change: float | None = None


@dataclass(frozen=True)
class Remembered:
    """What goes on to the next step of a chain. asked: how often each batch of prompts was asked about at the noise level `sigma`."""
    kept: Mapping[Hashable, Kept] = field(default_factory=dict)
    told: tuple[Told, ...] = ()
    sigma: float | None = None
    asked: Mapping[Hashable, int] = field(default_factory=dict)


class CacheRun:
    """The cache of one run of sampling. What it keeps is kept for each batch of prompts apart, and never written to."""

    def __init__(self, cache: StepCache, rises: bool = False, remembered: Remembered | None = None, levels: tuple[float, float] = (inf, 0.0)):
        """rises: whether the run goes from a picture to noise. levels: the noise levels, from high to low, between which blocks may be left
        out."""
        self.cache, self.rises, self.levels = cache, rises, levels
        before = remembered or Remembered()
        self.kept, self.told, self.sigma, self.asked = dict(before.kept), list(before.told), before.sigma, Counter(before.asked)
        self.open, self._one = False, Lock()

    def at(self, sigma: float) -> None:
        """The model is asked about this noise level now. A run that goes back begins anew. Several GPUs ask in threads of their own."""
        with self._one:
            if self.sigma is not None and sigma != self.sigma:
                self.asked.clear()
                if (sigma > self.sigma) != self.rises:
                    self.kept.clear()
            self.sigma = sigma
            high, low = self.levels
            self.open = low <= sigma <= high
            if not self.open:
                self.kept.clear()

    def run_blocks(self, stages: Stages, hidden: Hidden, prompts: Hashable, parts: Parts | None = None) -> Hidden:
        """A model call's blocks: the first, then the others or what they added before. prompts: what the batch is made of. Raises StagesError."""
        parts = [(range(len(stages.kinds)), 1.0)] if parts is None else parts
        (blocks, strength), *others = parts
        first, others = blocks[:1], [(blocks[1:], strength), *others]
        begun = stages.run_blocks(hidden, first, strength)
        added = begun.x - hidden.x if begun.x.shape == hidden.x.shape else begun.x
        key = self._key((id(getattr(stages, "model", None)), prompts), added, parts)
        known = self.kept.get(key)
        change = None if known is None else changed(added, known.first)
        if change is not None and change < self.cache.threshold:
            self.told.append(Told(self.sigma, True, change))
            return stages.as_before(begun, known.rest)
        done = begun
        for blocks, strength in others:
            done = stages.run_blocks(done, blocks, strength)
        self.kept[key] = Kept(added, stages.what_was_added(begun, done))
        self.told.append(Told(self.sigma, False, change))
        return done

    def takes_part(self, may: bool = True) -> bool:
        """Whether the next model call is one for `run_blocks`; others are told of as calls in which all blocks ran."""
        if not (may and self.open):
            self.told.append(Told(self.sigma, False))
        return may and self.open

    def _key(self, prompts: Hashable, x: Tensor, parts: Parts) -> Hashable:
        """By which a model call of one step is known in the next; the same prompts may be asked about several times in a step."""
        asked = prompts, tuple(x.shape), x.device, x.dtype, tuple((tuple(blocks), strength) for blocks, strength in parts)
        self.asked[asked] += 1
        return asked, self.asked[asked]

    def handed_on(self, wire: DitTokens) -> DitTokens:
        """The wire after steps of this run, with what the next one needs; clean tokens need nothing."""
        wire = {**wire, "hits": tuple(self.told)}
        if "level" not in wire:
            return without(wire, "remembered")
        kept = Remembered(dict(self.kept), tuple(self.told), self.sigma, dict(self.asked))
        return {**wire, "remembered": {**wire.get("remembered", {}), REMEMBERED: kept}}


def cached_run(cache: StepCache, sigma_at: SigmaAt, rises: bool, wire: Mapping = MappingProxyType({})) -> CacheRun:
    """The cache of the run that a wire stands in, or of a new one. sigma_at: the noise level at a share of sampling."""
    levels = sigma_at(cache.start) if cache.start > 0 else inf, sigma_at(cache.end) if cache.end < 1 else 0.0
    return CacheRun(cache, rises, wire.get("remembered", {}).get(REMEMBERED), levels)


def told_between(before: DitTokens, after: DitTokens) -> tuple[Told, ...]:
    """What the cache told of the steps from one wire to the other."""
    known = before.get("remembered", {}).get(REMEMBERED, Remembered())
    return after.get("hits", ())[len(known.told):]


def changed(now: Tensor, before: Tensor) -> float:
    """The mean change as a share of the mean value, of the picture in the batch that has changed most: [B, …] twice → number."""
    now, before = now.float().flatten(1), before.float().flatten(1)
    return ((now - before).abs().mean(1) / before.abs().mean(1).clamp_min(SMALL)).max().item()


def mark_of(values: Mapping[str, Any]) -> Hashable:
    """What is the same for the same prompts and almost never for others."""
    def mark(value: Any) -> Hashable:
        if not torch.is_tensor(value):
            return value if isinstance(value, Hashable) else None
        flat = value.detach().float().flatten()
        weights = torch.sin(torch.arange(1, len(flat) + 1, device=flat.device, dtype=torch.float32) * 12.9898)
        return tuple(value.shape), (flat @ weights).item()
    return tuple((name, mark(value)) for name, value in sorted(values.items()))
