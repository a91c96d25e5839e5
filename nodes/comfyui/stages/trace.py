"""Finds the slots of a model's forward, and what flows between them, by asking it: one forward counts its blocks, and replays in which they
are only answered for show what a NaN reaches. See `replay.py` for the words.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ....dit_impl.errors import StagesError
from .call import OPTIONS, WHOLE, Call, blank, children_of_lists, copied, filled, in_one_line, is_spoilt, leaves, with_leaves
from .replay import Layout, Replay, Slot, State, Trace, layout_of

KEPT = 16  # traces of a model
_known: WeakKeyDictionary[nn.Module, OrderedDict[tuple, Trace]] = WeakKeyDictionary()


def trace_of(call: Call, patch: tuple[int, int, int]) -> Trace:
    """A model's trace for calls of this form. patch: frames, rows and columns of cells to a token. Raises StagesError."""
    known, key = _known.setdefault(call.model, OrderedDict()), (signature((call.args, call.kwargs, call.memory)), patch)
    if key not in known:
        with torch.random.fork_rng([call.latent.device] if call.latent.is_cuda else []), in_one_line(f"{call.name} can't be taken apart, as it fails where its blocks only answer"):
            made = _made(call, patch)
        known[key] = made
        while len(known) > KEPT:
            known.popitem(last=False)
    return known[key]


def signature(value) -> object:
    """What of a call may change which blocks it runs: shapes, types, numbers that are no tensors, patches."""
    if torch.is_tensor(value):
        return tuple(value.shape), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((name, signature(one) if name != OPTIONS else _patches(one or {})) for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(signature, value))
    return value if isinstance(value, (int, float, str, bool, type(None))) else type(value)


def _patches(options: dict) -> tuple:
    """Which patches there are, by their names."""
    def named(patch: Callable) -> str:
        return getattr(patch, "__qualname__", type(patch).__qualname__)
    replaced = tuple((place, key, named(patch)) for place, found in options.get("patches_replace", {}).items() for key, patch in found.items())
    return tuple((place, *map(named, found)) for place, found in options.get("patches", {}).items()), replaced


def _made(call: Call, patch: tuple[int, int, int]) -> Trace:
    before = _random_state(call.latent.device)
    modules, called, _ = _counted(call)
    if any(not torch.equal(one, other) for one, other in zip(before, _random_state(call.latent.device))):
        raise StagesError(f"{call.name}, or a patch on it, draws random numbers while it runs, and stages would draw others; {WHOLE}")
    how_often = Counter(path for path, _ in called)
    lists = {path.rpartition(".")[0] for path, times in how_often.items() if times > 1}  # a list of which one is called twice
    single = [Slot(path, answer) for path, answer in called if path.rpartition(".")[0] not in lists]
    weighs = [any(True for _ in modules[slot.path].parameters()) for slot in single]
    reached = _probed(call, modules, single, spoilt=Spoilt(latent=spoilt_latent(call, [(0,) * len(call.latent.shape[2:])], whole=True)))[0]
    slots = [slot for slot, ours, reach in zip(single, weighs, reached) if ours and any(reach)]
    fixed = frozenset(slot.path for slot, ours, reach in zip(single, weighs, reached) if ours and not any(reach))
    if not slots:
        raise StagesError(f"{call.name} has no blocks that it calls once each for the picture, so that it can't be taken apart; {WHOLE}")
    _check_replaced(call, modules, slots)
    sources = _sources(call, modules, slots)
    slots = _with_streams(call, modules, slots, [reach for reach, ours in zip(reached, weighs) if ours and any(reach)])
    slots = [slot if slot.passes else replace(slot, unread=_unread(call, modules, slots, k)) for k, slot in enumerate(slots)]
    trace = Trace(call.latent.device, patch, tuple(slots), fixed, tuple(sources))
    trace = _with_layouts(call, trace)
    _check(call, trace)
    return trace


def _random_state(device: torch.device) -> list[Tensor]:
    """Of the generators that a model draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


class Spoilt:
    """What is NaN in a probe: the latent in the call's place, and leaves of slots' outputs, by (slot, leaf); None for a leaf is all."""

    def __init__(self, latent: Tensor | None = None, outs: Iterable[tuple[int, int | None]] = ()):
        self.latent, self.outs = latent, set(outs)


def spoilt_latent(call: Call, places: Iterable[tuple[int, ...]], whole: bool = False) -> Tensor:
    """The latent with NaN in cells. whole: in all of them."""
    latent = call.latent.clone()
    for place in places:
        latent[(..., *(() if whole else place))] = torch.nan
    return latent


def _counted(call: Call) -> tuple[dict[str, nn.Module], list[tuple[str, object]], object]:
    """Run the forward: → path → module of what may be a block, (path, structure of the output) of each that was called, the answer."""
    modules, called, depth = children_of_lists(call.model), [], [0]
    inner = {module: path for path, module in modules.items()}
    outer = [module for module in call.model.modules() if isinstance(module, nn.Sequential) and module not in inner]

    def change(path: str | None) -> Callable:
        def run(own, args, kwargs):
            depth[0] += 1
            try:
                if depth[0] > 1 or path is None:
                    return own(*args, **kwargs)
                place = len(called)
                called.append((path, None))
                out = own(*args, **kwargs)
                called[place] = path, blank(out)
                return out
            finally:
                depth[0] -= 1
        return run
    answer = call({**{module: change(path) for module, path in inner.items()}, **dict.fromkeys(outer, change(None))})
    return modules, called, answer


def _probed(call: Call, modules: dict[str, nn.Module], slots: list[Slot], spoilt: Spoilt) -> tuple[list[list[bool]], bool]:
    """Replay with all slots answered for: → which leaves of their inputs are NaN, and whether the answer is. Where the latent is spoilt, so
    is the answer of each slot that it reaches."""
    found = [[] for _ in slots]

    def change(k: int) -> Callable:
        def answer(own, args, kwargs):
            found[k] = [is_spoilt(leaf) for leaf in leaves((args, kwargs))]
            whole = (k, None) in spoilt.outs or spoilt.latent is not None and any(found[k])
            made = filled(slots[k].answer, call.latent.device, spoilt=whole)
            for number, leaf in enumerate(leaves(made)):
                if (k, number) in spoilt.outs and leaf is not None and leaf.is_floating_point():
                    leaf.fill_(torch.nan)
            return made
        return answer
    asked = call if spoilt.latent is None else call.with_latent(spoilt.latent)
    answer = asked({modules[slot.path]: change(k) for k, slot in enumerate(slots)})
    return found, any(map(is_spoilt, leaves(answer)))


def _check_replaced(call: Call, modules: dict[str, nn.Module], slots: list[Slot]) -> None:
    """Raise StagesError if patches have taken the place of some blocks, which would leave the others with wrong numbers."""
    if not (call.kwargs.get(OPTIONS) or {}).get("patches_replace", {}).get("dit"):
        return
    ran, lists = {slot.path for slot in slots}, {slot.list for slot in slots}
    left = [path for path in modules if path.rpartition(".")[0] in lists and path not in ran]
    if left:
        raise StagesError(f"a patch on this MODEL runs in the place of {left[0]}, so that the blocks of {call.name} can't be numbered; {WHOLE}")


def _sources(call: Call, modules: dict[str, nn.Module], slots: list[Slot]) -> list[frozenset[int]]:
    """For each slot and for the answer, the slots whose outputs it reads without another slot between them.

    Slots have numbers, and each digit of a number in turn says whose output is NaN: who reads one slot alone is found at once.
    """
    last = len(slots)
    candidates = [set(range(k)) for k in range(last + 1)]

    def readers(spoilt: Iterable[int]) -> list[bool]:
        reached, answer = _probed(call, modules, slots, Spoilt(outs=[(k, None) for k in spoilt]))
        return [*map(any, reached), answer]
    for digit in range(max(1, (last - 1).bit_length())):
        for value in (0, 1):
            chosen = {k for k in range(last) if k >> digit & 1 == value}
            for mine, reads in zip(candidates, readers(chosen)):
                if not reads:
                    mine -= chosen
    unclear = [k for k, mine in enumerate(candidates) if len(mine) > 1]
    for one in sorted(set().union(*(candidates[k] for k in unclear))):
        reads = readers([one])
        for k in unclear:
            if not reads[k]:
                candidates[k].discard(one)
    return list(map(frozenset, candidates))


def _with_streams(call: Call, modules: dict[str, nn.Module], slots: list[Slot], reached: list[list[bool]]) -> list[Slot]:
    """The slots with what flows through them: an output that the next block of the same list and class reads in the same shape; where there is
    no such block, inputs that the picture reaches and outputs of the same shape, in order."""
    known: dict[tuple[str, type], tuple] = {}
    inputs = _input_shapes(call, modules, slots)
    groups: dict[tuple[str, type], list[int]] = {}
    for k, slot in enumerate(slots):
        groups.setdefault((slot.list, type(modules[slot.path])), []).append(k)
    for group, numbers in groups.items():
        for k, following in pairwise(numbers):
            answers, taken = leaves(slots[k].answer), []
            for number, leaf in enumerate(answers):
                if leaf is None:
                    continue
                if not leaf.numel():  # nothing flows, such as the sound of a film that has none
                    taken += [(place, number) for place, shape in enumerate(inputs[following]) if shape == leaf.shape][:1]
                    continue
                found = _probed(call, modules, slots, Spoilt(outs=[(k, number)]))[0][following]
                places = [place for place, spoilt in enumerate(found) if spoilt and inputs[following][place] == leaf.shape
                          and place not in {one for one, _ in taken}]
                taken += [(places[0], number)] if places else []
            if taken:
                known[group] = tuple(taken)
                break
    made = []
    for k, slot in enumerate(slots):
        streams = known.get((slot.list, type(modules[slot.path])))
        made.append(replace(slot, streams=_by_shape(slot, inputs[k], reached[k]) if streams is None else streams))
    return made


def _unread(call: Call, modules: dict[str, nn.Module], slots: list[Slot], k: int) -> frozenset[int]:
    """Leaves of a slot's output that neither another slot nor the answer reads, beside those that flow on."""
    others = {number for number, leaf in enumerate(leaves(slots[k].answer)) if leaf is not None} - {out for _, out in slots[k].streams}
    probes = {number: _probed(call, modules, slots, Spoilt(outs=[(k, number)])) for number in others}
    return frozenset(number for number, (reached, answer) in probes.items() if not answer and not any(map(any, reached)))


def _by_shape(slot: Slot, inputs: list, reached: list[bool]) -> tuple[tuple[int, int], ...]:
    streams, left = [], [place for place, shape in enumerate(inputs) if shape is not None]
    left.sort(key=lambda place: not reached[place])  # the picture's first
    for number, leaf in enumerate(leaves(slot.answer)):
        place = next((place for place in left if leaf is not None and inputs[place] == leaf.shape), None)
        if place is not None:
            streams.append((place, number))
            left.remove(place)
    return tuple(streams)


def _input_shapes(call: Call, modules: dict[str, nn.Module], slots: list[Slot]) -> list[list]:
    """The shape of each leaf of each slot's inputs."""
    found: list[list] = [[] for _ in slots]

    def change(k: int) -> Callable:
        def answer(own, args, kwargs):
            found[k] = [leaf if leaf is None else leaf.shape for leaf in leaves((args, kwargs))]
            return filled(slots[k].answer, call.latent.device, spoilt=False)
        return answer
    call({modules[slot.path]: change(k) for k, slot in enumerate(slots)})
    return found


# --- where the tokens are ---------------------------------------------------------------------------------------------

def grid_of(call: Call, patch: tuple[int, int, int]) -> tuple[int, ...]:
    """The token grid of a call's latent."""
    size = tuple(call.latent.shape[2:])
    return tuple(-(-length // side) for length, side in zip(size, patch[3 - len(size):] if len(size) < 4 else ()))


def probed_tokens(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Two tokens of a grid, away from its beginning: a picture is padded with a copy of that."""
    return [tuple(side // 2 for side in grid), tuple(side - 1 for side in grid)]


def cells_of(place: tuple[int, ...], patch: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(at * side for at, side in zip(place, patch[3 - len(place):]))


def _with_layouts(call: Call, trace: Trace) -> Trace:
    """The trace with where the picture's tokens are: those are NaN whose cells are, if all blocks hand on what they get."""
    patch, grid, batch = trace.patch, grid_of(call, trace.patch), len(call.latent)
    if not grid:
        return trace
    places = probed_tokens(grid)
    marks = [handed_on(call.with_latent(spoilt_latent(call, [cells_of(place, patch)])), trace) for place in places]

    def layout(tensors: list[list[Tensor | None]], flowing: Iterable[int]) -> Layout | None:
        first = set(flowing)
        leaf_marks = sorted(enumerate(zip(*tensors, strict=True)), key=lambda one: one[0] not in first)
        found = (layout_of(leaf, each, places, grid, batch) for leaf, each in leaf_marks if all(one is not None for one in each))
        return next((one for one in found if one), None)
    slots = tuple(replace(slot, picture=layout([one[k + 1] for one in marks], (out for _, out in slot.streams)))
                  for k, slot in enumerate(trace.slots))
    return replace(trace, slots=slots, entering=layout([one[0] for one in marks], (place for place, _ in slots[0].streams)))


def handed_on(call: Call, trace: Trace, instead_of: dict[int, Callable] | None = None) -> list[list[Tensor | None]]:
    """Replay with all slots handing on what they get: → where the inputs of slot 0 are NaN, then the outputs of each slot. instead_of: called
    in the place of some of them."""
    replay, found = Replay(call, trace), [[] for _ in (None, *trace.slots)]

    def change(k: int) -> Callable:
        def hand_on(own, args, kwargs):
            if not k:
                found[0] = [spoilt_in(leaf) for leaf in leaves((args, kwargs))]
            if instead_of and k in instead_of:
                instead_of[k](own, *copied((args, kwargs)))
            out = _answer_like(trace.slots[k], replay._streams_in(k, args, kwargs), leaves((args, kwargs)), call.latent.device)
            found[k + 1] = [spoilt_in(leaf) for leaf in leaves(out)]
            return out
        return hand_on

    def fixed(own, args, kwargs):
        given, out = leaves((args, kwargs)), own(*args, **kwargs)
        alike = (next((one for one in given if one is not None and leaf is not None and one.shape == leaf.shape), leaf) for leaf in leaves(out))
        return with_leaves(out, alike)
    replay._replay(State(), {k: change(k) for k in range(len(trace.slots))}, fixed)
    return found


def spoilt_in(leaf: Tensor | None) -> Tensor | None:
    return None if leaf is None or not leaf.is_floating_point() else leaf.isnan()


def _answer_like(slot: Slot, streams: list, given: list, device: torch.device):
    """A slot's streams as its answer; another output is NaN where an input was that differs in its width alone."""
    made = filled(slot.answer, device, spoilt=False)
    outs = leaves(made)
    fed = dict((out, stream) for (_, out), stream in zip(slot.streams, streams))
    given = [one for one in given if is_spoilt(one)]
    for number, leaf in enumerate(outs):
        if leaf is None:
            continue
        if fed.get(number) is not None:
            leaf.copy_(fed[number])
            continue
        for one in given:
            other = [dim for dim in range(leaf.dim()) if one.dim() == leaf.dim() and one.shape[dim] != leaf.shape[dim]]
            if one.dim() == leaf.dim() and len(other) <= 1 and leaf.is_floating_point():
                spoilt = one.isnan() if not other else one.isnan().any(other[0], keepdim=True).expand(leaf.shape)
                leaf.masked_fill_(spoilt, torch.nan)
                break
    return made


# --- whether it holds -------------------------------------------------------------------------------------------------

def _check(call: Call, trace: Trace) -> None:
    """Raise StagesError unless the last stage gives what the model gives, from what the blocks of one forward answered."""
    replay, outs, kept, fixed = Replay(call, trace), {}, trace.kept(len(trace.slots)), {}

    def keep(k: int) -> Callable:
        def run(own, args, kwargs):
            out = own(*args, **kwargs)
            if k in kept:
                outs[k] = copied(out)
            return out
        return run
    whole = replay._replay(State(fixed=fixed), {k: keep(k) for k in range(len(trace.slots))})
    ours = replay.head(State(len(trace.slots), outs, None, fixed))
    if not all(torch.equal(one, other) for one, other in zip(leaves(whole), leaves(ours), strict=True)):
        raise StagesError(f"{call.name} gives something else when its blocks only answer what they answered before: they keep a memory of "
                          f"their own, so that it can't be taken apart; {WHOLE}")
