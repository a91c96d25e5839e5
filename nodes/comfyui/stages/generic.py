"""The stages of any transformer, by replaying its own forward (`replay.py`): for models without a stage adapter of their own.

Its blocks are the children of its lists that the picture passes. Patch and position embedding are not told apart: Patch Embed gives the
tokens as they come into the first block.
"""

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ....dit_impl.errors import StagesError
from ....dit_impl.model.stages import Attention, Hear, Hidden, Look, Shape, Stages, unseen
from ....dit_impl.tokens.places import moved
from ..memory import memory_of
from ..own_patch import own_patch
from .base import observed, own_options
from .call import OPTIONS, Call, children_of_lists, is_replayed, watched, with_options
from .replay import Replay, Slot, State, Trace
from .seen import attention_of, known
from .trace import trace_of


class GenericStages(Stages):
    """A MODEL's diffusion model by stages, of any architecture. The blocks are known once a step has begun: see `over`."""

    positions = "inside"  # its forward

    def __init__(self, model: nn.Module, trace: Trace | None = None):
        self.model, self.name, self.trace = model, type(model).__name__, trace

    @property
    def _slots(self) -> tuple[Slot, ...]:
        if self.trace is None:
            raise StagesError(f"the blocks of {self.name} are known after DiT Condition only")
        return self.trace.slots

    def _replay(self, hidden: Hidden) -> Replay:
        trace = hidden.extra["stages"].trace
        return Replay(moved(hidden.extra["call"], trace.device), trace)

    @property
    def shape(self) -> Shape:
        return Shape(self.name, len(children_of_lists(self.model)), 0, 0)

    @property
    def kinds(self) -> list[str]:
        return [slot.list for slot in self._slots]

    def can_leave_out(self, block: int) -> bool:
        return self._slots[block].passes

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return [self.model.get_submodule(slot.path) for slot in self._slots]

    @property
    def patch_size(self) -> int:
        _, rows, columns = own_patch(self.model, 0, 2)
        return columns if rows == columns else 1

    @property
    def context_width(self) -> int:
        raise StagesError(f"the width of the text that {self.name} reads is not known")

    @property
    def heads(self) -> int:
        return self.heads_of(0)

    def heads_of(self, block: int) -> int:
        if self.trace is None or block not in known(self.trace):
            raise StagesError(f"the heads of {self.name} are known once its attention was seen")
        return known(self.trace)[block].heads

    def attentions(self, hidden: Hidden, tokens: int, block: int = 0) -> list[Attention]:
        seen = attention_of(self._replay(hidden), block).seen
        spans = [span for one in seen for span in (one.queries.get("image"), one.keys.get("image")) if span]
        if not spans or any(len(span) != tokens for span in spans):
            path = hidden.extra["stages"].trace.slots[block].path
            raise StagesError(f"it is not known where the picture's tokens are in the attention of block {block} of {self.name} ({path})")
        return seen

    @contextmanager
    def observe(self, i: int, look: Look = unseen, hear: Hear = unseen):
        block = self.blocks[i]

        def watch(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return with_options(block, args, kwargs, lambda options: observed(options, look, hear))
        # a replay calls what watches where it runs a block; the model's own forward does not
        hook = block.register_forward_pre_hook(lambda _, args, kwargs: None if is_replayed() else watch(args, kwargs), with_kwargs=True)
        watched.setdefault(block, []).append(watch)
        try:
            yield
        finally:
            watched[block].remove(watch)
            hook.remove()

    def condition(self, *args, **kwargs) -> Hidden:
        kwargs = {**kwargs, OPTIONS: own_options(kwargs.get(OPTIONS) or {})}
        call = Call(self.model, args, kwargs, self.name, memory_of(self.model))
        trace = trace_of(call, own_patch(self.model, call.latent.shape[1], call.latent.dim() - 2))
        return Hidden(call.latent, None, None, None, 0, {
            "stages": GenericStages(self.model, trace), "call": call, "state": State(), OPTIONS: kwargs[OPTIONS]})

    def check_apart(self, what: str) -> None:
        raise StagesError(f"the {what} of {self.name} can't be told apart from the rest of its forward, which it has no stage adapter for")

    def patch_embed(self, hidden: Hidden) -> Hidden:
        return self._shown(hidden, hidden.extra["state"])

    def position_embed(self, hidden: Hidden) -> Hidden:
        return hidden

    def run_blocks(self, hidden: Hidden, indices: Iterable[int], strength: float = 1.0, device: torch.device | None = None) -> Hidden:
        indices, hidden = list(indices), moved(hidden, device or hidden.x.device)
        self.over(hidden).check_blocks(indices)
        if not indices:
            return hidden
        return self._shown(hidden.but(index=indices[-1] + 1), self._replay(hidden).run(self._state(hidden), indices, strength))

    def what_was_added(self, before, after):
        last = self._state(after)
        known = self._replay(after).layout(last) is not None and before.x.shape == after.x.shape
        return last, after.x - before.x if known else None

    def as_before(self, hidden, added):
        """What is no token of the picture, and the picture where it is not known which tokens are its own, is as it was."""
        last, rest = added
        state = replace(last, fixed=self._state(hidden).fixed)  # what goes by the time is of this step
        if rest is not None:
            state = self._replay(hidden).with_tokens(state, hidden.x + rest)
        return self._shown(hidden.but(index=state.at), state)

    def head(self, hidden: Hidden) -> Tensor:
        return self._replay(hidden).head(self._state(hidden))

    def _shown(self, hidden: Hidden, state: State) -> Hidden:
        """The hidden states at a state, with the picture's tokens where they are known."""
        replay = self._replay(hidden)
        x, layout = replay.tokens(state), replay.layout(state)
        return hidden.but(x=x, extra={"state": state, "shown": None if state.at and layout else x, "picture_tokens": layout.count if layout else 0})

    def _state(self, hidden: Hidden) -> State:
        """The state that hidden states stand for: where a node has changed the picture's tokens, with those."""
        state, replay = hidden.extra["state"], self._replay(hidden)
        shown = replay.tokens(state) if state.at and replay.layout(state) else hidden.extra.get("shown")
        if shown is None or hidden.x is shown or torch.equal(hidden.x, shown.to(hidden.x)):
            return state
        return replay.with_tokens(state, hidden.x)
