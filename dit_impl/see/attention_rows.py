"""Who attends to whom: chosen rows of a block's attention, seen while the block computes what it always computes.

A row is softmax(q·kᵀ/√d) of one query over all keys (Vaswani et al. 2017, equation 1), made again from the queries and keys of that
attention alone, so the others' N² is never laid out. What is kept of a row are the columns asked for, in float32.
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

MEAN = -1  # in the place of a head
CHUNK = 2 ** 24  # bytes of scores that are worked on at a time


@dataclass(frozen=True)
class Plan:
    """What is watched and what it takes. rows, columns: places among the queries and keys of the block's attention of this number.
    every: whether all rows are made into maps as well, which are a copy."""
    block: int
    head: int
    number: int
    rows: Sequence[int]
    columns: Sequence[int]
    keys: int       # of the attention, all
    heads: int      # that are worked on: all for a mean
    head_dim: int
    copies: bool    # whether keys are copied to float32
    every: bool = False

    @property
    def chunk(self) -> int:
        """Rows that are worked on at a time."""
        return max(1, min(len(self.rows), CHUNK // (4 * self.keys)))

    @property
    def row_bytes(self) -> int:
        """What a row keeps: its columns, and its sum."""
        return 4 * (len(self.columns) + 1)

    @property
    def work_bytes(self) -> int:
        """What is needed for a while beside it: one head's scores and what softmax makes of them; with the scores queries, with the latter the
        columns where they are picked; keys where they are copied."""
        picked = 0 if isinstance(self.columns, range) else len(self.columns)
        scores = self.keys + max(self.keys, self.head_dim, picked)
        return 4 * (self.chunk * scores + self.copies * self.heads * self.keys * self.head_dim)

    @property
    def map_bytes(self) -> int:
        """What a row's maps take beside it, once all rows are there."""
        return 4 * len(self.columns) * self.every

    @property
    def bytes(self) -> int:
        """What is needed at most at a time."""
        return len(self.rows) * self.row_bytes + max(self.work_bytes, len(self.rows) * self.map_bytes)

    def check(self, free: float, steps: int = 1) -> None:
        """Raise StagesError where `free` bytes are not enough: how many rows, or steps, would fit is said before anything runs."""
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
    """weights [rows, columns]: each query's share of attention to each chosen key, 0..1. sums [rows]: over all its keys."""
    weights: Tensor
    sums: Tensor


def in_bytes(count: float) -> str:
    """A number of bytes in words: "3.2 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000


def picture_tokens(wire: dict) -> int:
    """Tokens of the picture: N."""
    return wire["tokens"]["tokens"].shape[1]


def find(dit: DitHandle, wire: dict, queries: str, keys: str) -> tuple[int, Attention]:
    """Which of a block's attentions joins these kinds of token: → its number and itself. Raises StagesError."""
    found = dit.stages.attentions(wire["hidden"], picture_tokens(wire))
    for number, attention in enumerate(found):
        if attention.queries.get(queries) and attention.keys.get(keys):
            return number, attention
    if any(attention.keys.get("text") for attention in found):
        raise StagesError(f"in {dit.name} text asks nothing of the picture: its blocks have cross-attention, from image to text alone")
    raise StagesError(f"{dit.name} has no text tokens here, so there is no {queries} to {keys} attention")


def plan(dit: DitHandle, wire: dict, block: int, head: int, queries: str, keys: str, rows: Sequence[int] | None = None,
         columns: Sequence[int] | None = None) -> Plan:
    """What to watch in a block of the hidden states' step. rows, columns: among those of their kind, all for None. Raises StagesError."""
    stages, hidden = dit.stages, wire["hidden"]
    if not 0 <= block < len(stages.kinds):
        raise StagesError(f"{dit.name} has blocks 0 to {len(stages.kinds) - 1}, there is no block {block}")
    if not MEAN <= head < stages.heads:
        raise StagesError(f"{dit.name} has heads 0 to {stages.heads - 1}, and {MEAN} for their mean, there is no head {head}")
    number, attention = find(dit, wire, queries, keys)
    chosen = [within(numbers, side[kind], kind, wire) for numbers, side, kind in (
        (rows, attention.queries, queries), (columns, attention.keys, keys))]
    return Plan(block, head, number, *chosen, attention.length, stages.heads if head == MEAN else 1, hidden.x.shape[-1] // stages.heads,
                hidden.x.dtype != torch.float32)


def within(numbers: Sequence[int] | None, span: range, kind: str, wire: dict) -> Sequence[int]:
    """Numbers of tokens among those of a kind → their places in the sequence. Raises StagesError."""
    for number in numbers or ():
        if not 0 <= number < len(span):
            *frames, h, w = wire["tokens"]["grid"]
            whole = (f"the grid, whose {'×'.join(map(str, (*frames, h, w)))} tokens" if kind == "image" else "the text, whose tokens")
            raise StagesError(f"token {number} is outside {whole} are 0 to {len(span) - 1}")
    return span if numbers is None else [span[number] for number in numbers]


def shown(wire: dict) -> tuple[int, dict]:
    """Of a step's model calls the one with the first positive conditioning: → its number, the wire of it alone."""
    calls = apart(wire)
    return next(((place, one) for place, one in enumerate(calls) if "cond" in one["call"].layout), (0, calls[0]))


def sample_of(wire: dict) -> int:
    """Which of one model call's batch is shown: the first picture of the first positive conditioning."""
    layout = wire["call"].layout
    return (layout.index("cond") if "cond" in layout else 0) * (len(wire["hidden"].x) // len(layout))


def take(plan: Plan, q: Tensor, k: Tensor, factor: float, mask: Tensor | None) -> Rows:
    """Chosen rows of softmax(q·kᵀ·factor + mask) of one sample: q [heads, N, d], k [heads, M, d], mask [heads or 1, N or 1, M]."""
    if plan.head != MEAN:
        q, k = q[plan.head:plan.head + 1], k[plan.head:plan.head + 1]
        mask = mask if mask is None or len(mask) == 1 else mask[plan.head:plan.head + 1]
    k = k.float().transpose(-1, -2)
    columns = plan.columns if not isinstance(plan.columns, range) else slice(plan.columns.start, plan.columns.stop)
    weights, sums = torch.zeros(len(plan.rows), len(plan.columns)), torch.zeros(len(plan.rows))
    for start in range(0, len(plan.rows), plan.chunk):
        rows = plan.rows[start:start + plan.chunk]
        kept = slice(start, start + len(rows))
        rows = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        for head in range(len(q)):  # one at a time, so that its scores stay where they are fast to reach
            scores = torch.mm(q[head, rows].float().mul(factor), k[head])
            if mask is not None:
                part = mask[min(head, len(mask) - 1)]
                part = part if len(part) == 1 else part[rows]
                scores = scores.masked_fill_(~part, -torch.inf) if part.dtype == torch.bool else scores.add_(part)
            scores = scores.softmax(-1)
            weights[kept].add_(scores[:, columns].cpu(), alpha=1 / len(q))
            sums[kept].add_(scores.sum(-1).cpu(), alpha=1 / len(q))
            del scores  # before the next are made
    return Rows(weights, sums)


def onlooker_of(plan: Plan, sample: int, batch: int, keep: Callable[[Rows], None], name: str, others: bool = False) -> Look:
    """→ what is shown a block's attentions, and keeps the rows of one of them. others: whether it is shown other model calls too."""
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


def capture(dit: DitHandle, wire: dict, plans: Sequence[Plan]) -> tuple[dict, list[Rows]]:
    """Run the blocks of plans in their order, watched: → the hidden states, as DiT Blocks gives them, and each plan's rows."""
    place, alone = shown(wire)
    batch, sample, found = len(alone["hidden"].x), sample_of(alone), []
    for one in plans:
        seen: list[Rows] = []
        look, runs = onlooker_of(one, sample, batch, seen.append, dit.name), count()

        def of_one_call(number: int, *attention) -> None:
            if number == 0:
                of_one_call.run = next(runs)
            return look(number, *attention) if of_one_call.run == place else None
        with dit.stages.observe(one.block, of_one_call):
            wire = step_stages.run_blocks(dit, wire, str(one.block))
        found += seen or [unseen(dit, one)]
    return wire, found


def unseen(dit: DitHandle, plan: Plan):
    """Raise StagesError for attention that was not seen."""
    raise StagesError(f"block {plan.block} of {dit.name} showed no attention: it is replaced or compiled by a patch on the MODEL")
