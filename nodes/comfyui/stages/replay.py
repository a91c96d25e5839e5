"""A model's own forward, run again with some of its blocks left out, repeated or answered for. Knows no model and no ComfyUI.

A slot is a block where the forward calls it: a child of a ModuleList, ModuleDict or uncalled Sequential that the picture reaches, called
once. `Trace` says which slots there are and what flows between them; `State` says where a run stands; `run` and `head` go on from there.
Slots before that place answer what they answered, or NaN if nobody reads it again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
import math
from typing import Any

import torch
from torch import Tensor

from ....dit_impl.errors import StagesError
from .call import WHOLE, Call, copied, filled, in_one_line, leaves, run_block, with_leaves


class _Stop(BaseException):
    """The last block that was asked for has run."""


# --- what a trace knows -----------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Layout:
    """Where the tokens of a picture stand in one of the tensors that a block takes or gives.

    order: of the tensor's dimensions, so that batch comes first, then those over tokens, then the width. start, count: of the tokens' rows.
    """
    leaf: int
    order: tuple[int, ...]
    start: int
    count: int

    def of(self, leaf: Tensor) -> Tensor:
        """The tensor → its tokens [B, N, D]."""
        rows = leaf.permute(self.order)
        return rows.reshape(len(rows), -1, rows.shape[-1])[:, self.start:self.start + self.count]

    def put(self, leaf: Tensor, tokens: Tensor) -> Tensor:
        """A copy of the tensor with other tokens."""
        rows = leaf.permute(self.order)
        made = rows.reshape(len(rows), -1, rows.shape[-1]).clone()
        made[:, self.start:self.start + self.count] = tokens
        back = [self.order.index(dim) for dim in range(leaf.dim())]
        return made.reshape(rows.shape).permute(back)


def layout_of(leaf: int, marks: Sequence[Tensor], places: Sequence[tuple[int, ...]], grid: tuple[int, ...], batch: int) -> Layout | None:
    """Where tokens of a grid stand, if known where some do. marks: for each of them, True in its row of the tensor. None if it is unclear."""
    shape = marks[0].shape
    over = [dim for dim in range(len(shape)) if any(not torch.equal(mark, mark.select(dim, 0).unsqueeze(dim).expand(shape)) for mark in marks)]
    rest = [dim for dim in range(len(shape)) if dim not in over]
    if len(rest) < 2 or any(not mark.any() for mark in marks):
        return None
    *others, width = rest
    first = next((dim for dim in others if shape[dim] == batch), None)
    if first is None or any(shape[dim] != 1 for dim in others if dim != first):
        return None
    order = (first, *(dim for dim in others if dim != first), *over, width)
    rows = [mark.permute(order).reshape(batch, -1, shape[width])[0, :, 0].nonzero().flatten().tolist() for mark in marks]
    if any(len(row) != 1 for row in rows):
        return None
    total, count = math.prod(shape[dim] for dim in over), math.prod(grid)
    starts = {row - _number(place, grid) for (row,), place in zip(rows, places)}
    start = starts.pop()
    return None if starts or start < 0 or start + count > total else Layout(leaf, order, start, count)


def _number(place: tuple[int, ...], grid: tuple[int, ...]) -> int:
    """A place in a grid → its number, row by row."""
    number = 0
    for at, side in zip(place, grid):
        number = number * side + at
    return number


@dataclass(frozen=True, eq=False)
class Slot:
    """A block as the forward calls it. answer: the structure of its output. streams: (input leaf, output leaf) of what flows through it.
    picture: where the picture's tokens are in its output, if that is known. unread: output leaves that nobody reads."""
    path: str
    answer: Any
    streams: tuple[tuple[int, int], ...] = ()
    picture: Layout | None = None
    unread: frozenset[int] = frozenset()

    @property
    def list(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def passes(self) -> bool:
        """Whether its inputs can stand for its outputs."""
        streamed = {out for _, out in self.streams} | self.unread
        return all(leaf is None or number in streamed for number, leaf in enumerate(leaves(self.answer)))


@dataclass(frozen=True, eq=False)
class Trace:
    """What a model does in a call. device: where it computes. patch: frames, rows and columns of cells to a token. slots: in the order of the calls. fixed: blocks that the picture does not reach, such as the text's own.

    sources: for each slot, and last for the answer, the slots whose outputs it reads, other blocks not counted between them. entering: where
    the picture's tokens are in the inputs of slot 0, if that is known.
    """
    device: torch.device
    patch: tuple[int, int, int]
    slots: tuple[Slot, ...]
    fixed: frozenset[str]
    sources: tuple[frozenset[int], ...]
    entering: Layout | None = None

    def kept(self, at: int) -> set[int]:
        """The slots before a place whose outputs are read from there on."""
        return {k for reads in self.sources[at:] for k in reads if k < at} | ({at - 1} if at else set())


@dataclass(frozen=True)
class State:
    """Where a run stands: before slot `at`. outs: what earlier slots answered, those that are read again. entering: tokens that come into
    slot 0 in the place of the model's own. fixed: the answers of blocks that the picture does not reach."""
    at: int = 0
    outs: Mapping[int, Any] = field(default_factory=dict)
    entering: Tensor | None = None
    fixed: dict[str, Any] = field(default_factory=dict)


# --- going on from a state --------------------------------------------------------------------------------------------

class Replay:
    """One model call, by its slots. `run` and `head` go on from a state and leave it as it is."""

    def __init__(self, call: Call, trace: Trace):
        self.call, self.trace = call, trace
        self.modules = [call.model.get_submodule(slot.path) for slot in trace.slots]

    def layout(self, state: State) -> Layout | None:
        """Where the picture's tokens are where a run stands."""
        return self.trace.slots[state.at - 1].picture if state.at else self.trace.entering

    def tokens(self, state: State) -> Tensor:
        """The picture's tokens where a run stands, [B, N, D]; where it is not known which they are, the first tensor there, as rows."""
        if state.entering is not None:
            return state.entering
        found = leaves(state.outs[state.at - 1]) if state.at else []

        def look(own, args, kwargs):
            found.extend(leaves((args, kwargs)))
            raise _Stop
        if not state.at:
            self._replay(state, {0: look})
        layout, first = self.layout(state), next(leaf for leaf in found if leaf is not None)
        return layout.of(found[layout.leaf]) if layout else first.reshape(len(self.call.latent), -1, first.shape[-1])

    def with_tokens(self, state: State, tokens: Tensor) -> State:
        """The state with other tokens of the picture. Raises StagesError."""
        layout = self.layout(state)
        if layout is None:
            place = f"after block {state.at - 1} ({self.trace.slots[state.at - 1].path})" if state.at else "before the first block"
            raise StagesError(f"it is not known which are the picture's tokens {place} of {self.call.name}, so they can't be changed there")
        if not state.at:
            return replace(state, entering=tokens)
        found = leaves(state.outs[state.at - 1])
        found[layout.leaf] = layout.put(found[layout.leaf], tokens)
        return replace(state, outs={**state.outs, state.at - 1: with_leaves(state.outs[state.at - 1], iter(found))})

    def run(self, state: State, blocks: Sequence[int], strength: float = 1.0) -> State:
        """Run slots in this order. Those between that are not named hand their inputs on. Raises StagesError."""
        blocks = list(blocks)
        while blocks:
            onward = blocks[0] >= state.at
            end = next((i for i in range(1, len(blocks)) if (blocks[i] < blocks[i - 1] if onward else blocks[i] >= state.at)), len(blocks))
            state = (self._onward if onward else self._again)(state, blocks[:end], strength)
            blocks = blocks[end:]
        return state

    def head(self, state: State):
        """The model's answer if no further slot runs. Raises StagesError."""
        return self._replay(state, {k: self._handed_on(k, state) for k in range(state.at, len(self.modules))})

    def _onward(self, state: State, blocks: list[int], strength: float) -> State:
        """Slots in rising order, none of them before the place where the run stands."""
        last, outs, kept = blocks[-1], {}, self.trace.kept(blocks[-1] + 1)

        def change(k: int) -> Callable:
            def run(own, args, kwargs):
                args, kwargs = self._entered(k, state, args, kwargs)
                out = self._run(k, own, args, kwargs, blocks.count(k), strength)
                if k == last:
                    outs[k] = out
                    raise _Stop
                if k in kept:
                    outs[k] = copied(out)
                return out
            return run
        self._replay(state, {k: change(k) for k in range(state.at, last + 1)})
        return State(last + 1, {k: out for k, out in {**state.outs, **outs}.items() if k in kept}, None, state.fixed)

    def _again(self, state: State, blocks: list[int], strength: float) -> State:
        """Slots that lie behind: their blocks run on what the last slot answered, which is then that slot's answer."""
        last, seen = state.at - 1, {}
        for k in blocks:
            self._check_again(k, last)

        def look(k: int) -> Callable:
            def keep(own, args, kwargs):
                seen[k] = own, args, kwargs
                if k == last:
                    raise _Stop
                return self._answer(k, state)
            return keep
        self._replay(state, {k: look(k) for k in {*blocks, last}})
        streams = self._streams_out(last, state.outs[last])
        for k in blocks:
            own, args, kwargs = seen[k][0], *copied(seen[k][1:])
            args, kwargs = self._with_streams_in(k, args, kwargs, [one if one is None else one.clone() for one in streams])
            streams = self._streams_out(k, self._run(k, own, args, kwargs, 1, strength))
        return replace(state, outs={**state.outs, last: self._answered(last, streams, state.outs[last])})

    def _check_again(self, k: int, last: int) -> None:
        """Raise StagesError unless slot k's block can run once more, after slot `last`."""
        slot, after = self.trace.slots[k], self.trace.slots[last]
        if slot.list != after.list or len(self.trace.sources[k]) > 1 or not (slot.passes and after.passes) and k != last:
            raise StagesError(f"block {k} of {self.call.name} ({slot.path}) can't run after block {last} ({after.path}): "
                              + ("it reads what other blocks answered" if slot.list == after.list else "it takes other tokens"))

    def _run(self, k: int, own: Callable, args: tuple, kwargs: dict, times: int, strength: float):
        """A slot's block, so many times in a row, on the inputs of the slot."""
        if not times:
            return self._passed(k, args, kwargs)
        for left in reversed(range(times)):
            before = [] if strength == 1 else [one if one is None else one.clone() for one in self._streams_in(k, args, kwargs)]
            again = copied((args, kwargs)) if left else None  # the block may change its inputs
            out = run_block(self.modules[k], own, args, kwargs)
            if strength != 1:
                out = self._answered(k, [new if new is None or old is None else old + strength * (new - old)
                                         for old, new in zip(before, self._streams_out(k, out))], out)
            if again:
                args, kwargs = self._with_streams_in(k, *again, self._streams_out(k, out))
        return out

    def _replay(self, state: State, changes: dict[int, Callable], fixed: Callable | None = None):
        """The model's answer, with changes at some slots. Those before the place where the run stands answer as they did. fixed: called in the
        place of blocks that the picture does not reach, which otherwise run once."""
        due = count()

        def counted(k: int, change: Callable) -> Callable:
            def called(own, args, kwargs):
                if next(due) != k:
                    raise StagesError(f"{self.call.name} runs its blocks in another order than when they were counted ({self.trace.slots[k].path})"
                                      f", so that stages would be wrong; {WHOLE}")
                return change(own, args, kwargs)
            return called

        def remembered(path: str) -> Callable:
            def answer(own, args, kwargs):
                if path not in state.fixed:
                    state.fixed[path] = copied(own(*args, **kwargs))
                return copied(state.fixed[path])
            return answer
        stubs = {k: (lambda k: lambda own, args, kwargs: self._answer(k, state))(k) for k in range(state.at)}
        slots = {self.modules[k]: counted(k, change) for k, change in {**stubs, **changes}.items()}
        try:
            with in_one_line(f"{self.call.name} fails with its blocks so"):
                return self.call({**slots, **{self.call.model.get_submodule(path): fixed or remembered(path) for path in self.trace.fixed}})
        except _Stop:
            return None

    def _answer(self, k: int, state: State):
        """What a slot before the place where the run stands has answered; NaN where nobody reads it again."""
        return copied(state.outs[k]) if k in state.outs else filled(self.trace.slots[k].answer, self.call.latent.device)

    def _entered(self, k: int, state: State, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """A slot's inputs, with the tokens that a node has changed."""
        if k or state.entering is None:
            return args, kwargs
        given, layout = leaves((args, kwargs)), self.trace.entering
        given[layout.leaf] = layout.put(given[layout.leaf], state.entering)
        return with_leaves((args, kwargs), iter(given))

    def _handed_on(self, k: int, state: State) -> Callable:
        return lambda own, args, kwargs: self._passed(k, *self._entered(k, state, args, kwargs))

    def _passed(self, k: int, args: tuple, kwargs: dict):
        """A slot's inputs as its output."""
        if not self.trace.slots[k].passes:
            raise StagesError(f"block {k} of {self.call.name} ({self.trace.slots[k].path}) gives what it was not given, so it can't be left out")
        return self._answered(k, self._streams_in(k, args, kwargs))

    def _streams_in(self, k: int, args: tuple, kwargs: dict) -> list[Tensor | None]:
        given = leaves((args, kwargs))
        return [given[place] for place, _ in self.trace.slots[k].streams]

    def _with_streams_in(self, k: int, args: tuple, kwargs: dict, streams: Sequence[Tensor | None]) -> tuple[tuple, dict]:
        given = leaves((args, kwargs))
        for (place, _), stream in zip(self.trace.slots[k].streams, streams, strict=True):
            if stream is None:
                raise StagesError(f"block {k} of {self.call.name} ({self.trace.slots[k].path}) needs tokens that the block before drops: "
                                  "run that one last")
            given[place] = stream
        return with_leaves((args, kwargs), iter(given))

    def _streams_out(self, k: int, out) -> tuple[Tensor | None, ...]:
        found = leaves(out)
        return tuple(found[place] for _, place in self.trace.slots[k].streams)

    def _answered(self, k: int, streams: Sequence[Tensor | None], like=None):
        """A slot's output with these streams. like: where it has more than streams."""
        slot = self.trace.slots[k]
        found = leaves(filled(slot.answer, self.call.latent.device) if like is None and slot.unread else slot.answer if like is None else like)
        for (_, place), stream in zip(slot.streams, streams, strict=True):
            if found[place] is not None:
                found[place] = stream
        return with_leaves(slot.answer if like is None else like, iter(found))
