"""Captures some rows of a block's attention while the block runs as usual.

A row is softmax(q·kᵀ/√d) of one query over all keys (Vaswani et al. 2017, equation 1). Only the rows asked for are computed, a second time,
from the block's queries and keys, so the whole N² matrix is never stored. Of each row only the columns asked for are kept, in float32.
"""

from dataclasses import dataclass
from itertools import count
from typing import Callable, Sequence

import torch
from torch import Tensor

from ..errors import StagesError
from ..handle.backbone import DitHandle
from ..model.stages import Attention, Look
from ..step import stages as step_stages
from ..tokens.model_calls import apart
from ..tokens.wire_types import DitHidden

MEAN = -1  # as a head: the mean of all heads
CHUNK = 2 ** 24  # bytes of scores computed at a time


@dataclass(frozen=True)
class Plan:
    """What to capture, and how much memory it takes.

    number: which of the block's attentions. rows, columns: positions among its queries and its keys. every: whether all rows also become
    maps, which are a copy.
    """
    block: int
    head: int
    number: int
    rows: Sequence[int]
    columns: Sequence[int]
    keys: int       # how many the attention has in all
    heads: int      # how many are read: all for a mean, else 1
    head_dim: int
    copies: bool    # whether keys are copied, to make them float32
    every: bool = False

    @property
    def chunk(self) -> int:
        """How many rows are computed at a time."""
        return max(1, min(len(self.rows), CHUNK // (4 * self.keys)))

    @property
    def row_bytes(self) -> int:
        """Memory that a row keeps: its columns and its sum."""
        return 4 * (len(self.columns) + 1)

    @property
    def work_bytes(self) -> int:
        """Scratch memory: rows that are summed over heads, scores of one head and their softmax, with queries or picked columns beside them, and
        copied keys."""
        picked = 0 if isinstance(self.columns, range) else len(self.columns)
        scores = self.keys + max(self.keys, self.head_dim, picked)
        return self.chunk * self.row_bytes + 4 * (self.chunk * scores + self.copies * self.heads * self.keys * self.head_dim)

    @property
    def map_bytes(self) -> int:
        """Memory that the maps of a row take at the end."""
        return 4 * len(self.columns) * self.every

    @property
    def bytes(self) -> int:
        """The largest amount of memory in use at a time."""
        return len(self.rows) * self.row_bytes + max(self.work_bytes, len(self.rows) * self.map_bytes)

    def check(self, free: float, steps: int = 1) -> None:
        """Raise StagesError if `free` bytes are not enough. The error line says how many rows, or steps, would fit."""
        kept = len(self.rows) * self.row_bytes
        needed = self.bytes + (steps - 1) * kept
        if needed > free:
            asked = f"{len(self.rows)} rows of attention over {len(self.columns)} columns" + (f" at {steps} steps" if steps > 1 else "")
            room = free - self.work_bytes
            fit = room // kept if steps > 1 else min(room // self.row_bytes, free // (self.row_bytes + self.map_bytes))
            raise StagesError(f"{asked} take {in_bytes(needed)}, {in_bytes(free)} are free: {max(0, int(fit))} {'steps' if steps > 1 else 'rows'} "
                              "would fit")


@dataclass(frozen=True)
class Rows:
    """weights [rows, columns]: each query's attention to each chosen key, 0..1. sums [rows]: its sum over all keys."""
    weights: Tensor
    sums: Tensor


def in_bytes(count: float) -> str:
    """A number of bytes for people: "3.2 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000


def picture_tokens(wire: DitHidden) -> int:
    """The number of image tokens, N."""
    return wire["tokens"]["tokens"].shape[1]


def find(dit: DitHandle, wire: DitHidden, block: int, queries: str, keys: str) -> tuple[int, Attention]:
    """The attention in this block with these kinds of queries and keys ("text", "image"): → its number, the attention. Raises StagesError."""
    stages = dit.stages.over(wire["hidden"])
    if not 0 <= block < len(stages.kinds):
        raise StagesError(f"{dit.name} has blocks 0 to {len(stages.kinds) - 1}, there is no block {block}")
    attentions = stages.attentions(wire["hidden"], picture_tokens(wire), block)
    for number, attention in enumerate(attentions):
        if attention.queries.get(queries) and attention.keys.get(keys):
            return number, attention
    if any(attention.keys.get("text") for attention in attentions):
        raise StagesError(f"in {dit.name} text does not attend to the picture: its blocks have cross-attention from image to text only")
    raise StagesError(f"{dit.name} has no text tokens here, so there is no {queries} to {keys} attention")


def plan(dit: DitHandle, wire: DitHidden, block: int, head: int, queries: str, keys: str, rows: Sequence[int] | None = None,
         columns: Sequence[int] | None = None) -> Plan:
    """Plan a capture in one block. rows, columns: numbers among the tokens of their kind; None is all of them. Raises StagesError."""
    hidden = wire["hidden"]
    stages = dit.stages.over(hidden)
    number, attention = find(dit, wire, block, queries, keys)
    heads = stages.heads_of(block)
    if not MEAN <= head < heads:
        raise StagesError(f"{dit.name} has heads 0 to {heads - 1}, and {MEAN} for their mean, there is no head {head}")
    chosen = [within(numbers, side[kind], kind, wire["tokens"]["grid"]) for numbers, side, kind in (
        (rows, attention.queries, queries), (columns, attention.keys, keys))]
    return Plan(block, head, number, *chosen, attention.length, heads if head == MEAN else 1, hidden.x.shape[-1] // heads,
                hidden.x.dtype != torch.float32)


def within(numbers: Sequence[int] | None, span: range, kind: str, grid: tuple[int, ...]) -> Sequence[int]:
    """Numbers of tokens among those of a kind → their positions in the sequence. Raises StagesError."""
    for number in numbers or ():
        if not 0 <= number < len(span):
            whole = (f"the grid, whose {'×'.join(map(str, grid))} tokens" if kind == "image" else "the text, whose tokens")
            raise StagesError(f"token {number} is outside {whole} are 0 to {len(span) - 1}")
    return span if numbers is None else [span[number] for number in numbers]


def shown(wire: DitHidden) -> tuple[int, DitHidden]:
    """The model call of a step that has the first positive conditioning: → its number, a wire with this call alone."""
    calls = apart(wire)
    return next(((place, one) for place, one in enumerate(calls) if "cond" in one["call"].layout), (0, calls[0]))


def sample_of(wire: DitHidden) -> int:
    """The sample of a model call's batch that is captured: the first picture of the first positive conditioning."""
    layout = wire["call"].layout
    return (layout.index("cond") if "cond" in layout else 0) * (len(wire["hidden"].x) // len(layout))


def take(plan: Plan, q: Tensor, k: Tensor, factor: float, mask: Tensor | None) -> Rows:
    """The planned rows of softmax(q·kᵀ·factor + mask) for one sample: q [heads, N, d], k [heads, M, d], mask [heads or 1, N or 1, M]."""
    if plan.head != MEAN:
        q, k = q[plan.head:plan.head + 1], k[plan.head:plan.head + 1]
        mask = mask if mask is None or len(mask) == 1 else mask[plan.head:plan.head + 1]
    k = k.float().transpose(-1, -2)
    columns = plan.columns if not isinstance(plan.columns, range) else slice(plan.columns.start, plan.columns.stop)
    weights, sums = torch.zeros(len(plan.rows), len(plan.columns)), torch.zeros(len(plan.rows))
    for start in range(0, len(plan.rows), plan.chunk):
        rows = plan.rows[start:start + plan.chunk]
        kept = slice(start, start + len(rows))
        total, of_rows = k.new_zeros(len(rows), len(plan.columns)), k.new_zeros(len(rows))
        rows = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        for head in range(len(q)):  # one at a time, so that its scores stay in the cache
            scores = torch.mm(q[head, rows].float().mul(factor), k[head])
            if mask is not None:
                part = mask[min(head, len(mask) - 1)]
                part = part if len(part) == 1 else part[rows]
                scores = scores.masked_fill_(~part, -torch.inf) if part.dtype == torch.bool else scores.add_(part)
            scores = scores.softmax(-1)
            total.add_(scores[:, columns], alpha=1 / len(q))
            of_rows.add_(scores.sum(-1), alpha=1 / len(q))
            del scores  # before the next are computed
        weights[kept], sums[kept] = total.cpu(), of_rows.cpu()  # once for all heads: the CPU waits for it
    return Rows(weights, sums)


def onlooker_of(plan: Plan, sample: int, batch: int, keep: Callable[[Rows], None], name: str, others: bool = False) -> Look:
    """→ an observer of a block that captures one of its attentions and passes the rows to `keep`.

    others: whether it also sees other model calls, which it ignores.
    """
    def look(number: int, q: Tensor, k: Tensor, factor: float, mask: Tensor | None) -> None:
        if number != plan.number:
            return
        if len(q) != batch or k.shape[2] != plan.keys:
            if others:
                return
            raise StagesError(f"block {plan.block} of {name} attends in a batch of {len(q)} to {k.shape[2]} keys, where {batch} and "
                              f"{plan.keys} were expected: a patch on the MODEL changes what it sees, or memory is short")
        if mask is not None:
            mask = mask[(None,) * (4 - mask.dim())] if mask.dim() < 3 else mask.unsqueeze(1) if mask.dim() == 3 else mask
            mask = mask[min(sample, len(mask) - 1)]
        with torch.no_grad():
            keep(take(plan, q[sample], k[sample], factor, mask))
    return look


def capture(dit: DitHandle, wire: DitHidden, plans: Sequence[Plan]) -> tuple[DitHidden, list[Rows]]:
    """Run the blocks of the plans in order and capture them: → (DIT_HIDDEN after the blocks, rows for each plan). Raises StagesError."""
    place, alone = shown(wire)
    batch, sample, captured = len(alone["hidden"].x), sample_of(alone), []
    for one in plans:
        seen: list[Rows] = []
        look, runs = onlooker_of(one, sample, batch, seen.append, dit.name), count()

        def of_one_call(number: int, *attention) -> None:
            if number == 0:
                of_one_call.run = next(runs)
            return look(number, *attention) if of_one_call.run == place else None
        with dit.stages.over(wire["hidden"]).observe(one.block, of_one_call):
            wire = step_stages.run_blocks(dit, wire, str(one.block))
        captured += seen or [unseen(dit, one)]
    return wire, captured


def unseen(dit: DitHandle, plan: Plan):
    """Raise StagesError because a block's attention could not be observed."""
    raise StagesError(f"block {plan.block} of {dit.name} showed no attention: it is replaced or compiled by a patch on the MODEL")
