"""Which attentions the blocks of a replayed model compute, and where picture and text are in them.

The block runs on tokens of which one is NaN: so are the queries and keys of that token, and by them it is known where all are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ....dit_impl.errors import StagesError
from ....dit_impl.model.stages import Attention
from .base import OVERRIDE, queries_and_keys
from .call import Call, run_block, with_options
from .replay import Replay, Trace
from .trace import cells_of, grid_of, handed_on, probed_tokens, spoilt_latent

_known: WeakKeyDictionary[Trace, dict[int, "Attentions"]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Attentions:
    """Of a block: the number of heads of the first, and those that can be observed."""
    heads: int
    seen: list[Attention]


def known(trace: Trace) -> dict[int, Attentions]:
    """What has been seen of a model's blocks."""
    return _known.setdefault(trace, {})


def attention_of(replay: Replay, block: int) -> Attentions:
    """What attentions a block computes. Raises StagesError if none shows itself."""
    found = known(replay.trace)
    if block not in found:
        found[block] = _asked(replay, block)
    if not found[block].seen:
        slot = replay.trace.slots[block]
        raise StagesError(f"the attention of block {block} of {replay.call.name} ({slot.path}) can't be seen: it has none, or does not hand "
                          "its options on to it")
    return found[block]


def _asked(replay: Replay, block: int) -> Attentions:
    call, grid = replay.call, grid_of(replay.call, replay.trace.patch)
    places = probed_tokens(grid) if grid else []
    picture = [_rows(replay, call.with_latent(spoilt_latent(call, [cells_of(place, replay.trace.patch)])), block) for place in places]
    text, length = call.kwargs.get("context"), 0
    if torch.is_tensor(text) and text.dim() == 3:
        length = text.shape[1]
        spoken = [_rows(replay, call.with_context(_spoilt_row(text, row)), block) for row in (length // 2, length - 1)]
    else:
        spoken = []
    plain = (picture or spoken or [_rows(replay, call, block)])[0]
    numbers = [sum(at * size for at, size in zip(place, _sizes(grid))) for place in places]
    total, seen = _product(grid), []
    for number, (heads, lengths, _) in enumerate(plain):
        sides = []
        for side in (0, 1):
            found = {kind: _range([one[number][2][side] for one in probes if number < len(one)], known, count, lengths[side])
                     for kind, probes, known, count in (("image", picture, numbers, total), ("text", spoken, [length // 2, length - 1], length))}
            sides.append({kind: span for kind, span in found.items() if span})
        seen.append(Attention(*sides, lengths[1]))
    return Attentions(plain[0][0] if plain else 0, seen)


def _sizes(grid: Sequence[int]) -> list[int]:
    """How many tokens lie between neighbours along each side of a grid."""
    return [_product(grid[side + 1:]) for side in range(len(grid))]


def _product(grid: Sequence[int]) -> int:
    total = 1
    for side in grid:
        total *= side
    return total


def _spoilt_row(text: Tensor, row: int) -> Tensor:
    text = text.clone()
    text[:, row] = torch.nan
    return text


def _range(rows: list[list[int]], numbers: list[int], total: int, length: int) -> range | None:
    """Where `total` tokens stand among so many, given in which rows NaN stand for the tokens with these numbers. None if that is unclear."""
    if rows and total == length and all(len(row) == length for row in rows):  # a norm over all tokens has spread them
        return range(total)
    if not rows or any(len(row) != 1 for row in rows):
        return None
    starts = {row[0] - number for row, number in zip(rows, numbers)}
    start = starts.pop()
    return None if starts or start < 0 else range(start, start + total)


def _rows(replay: Replay, call: Call, block: int) -> list[tuple[int, tuple[int, int], tuple[list[int], list[int]]]]:
    """For each attention of a block: heads, numbers of queries and keys, which rows of them are NaN."""
    found = []

    def override(attend, *given, **how):
        q, k, *_ = queries_and_keys(*given, **how)
        found.append((q.shape[1], (q.shape[2], k.shape[2]), tuple(one[0].isnan().any(0).any(-1).nonzero().flatten().tolist() for one in (q, k))))
        clean = [one.nan_to_num() if torch.is_tensor(one) and one.is_floating_point() else one for one in given]
        return attend(*clean, **how)

    def look(own, args, kwargs):
        module = replay.modules[block]
        run_block(module, own, *with_options(module, args, kwargs, lambda options: {**options, OVERRIDE: override}))
    handed_on(call, replay.trace, {block: look})
    return found
