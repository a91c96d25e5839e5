"""Editing tokens: the raw patches of DIT_TOKENS [B, N, C·p·p], or the image tokens of DIT_HIDDEN [B, N, D].

When tokens move, the solver's memory and the clean tokens, noise and noise mask of inpainting move with them. When token values change,
the solver's memory is dropped, because it describes the old values; a multistep solver then starts again.
In hidden states and predictions only the tokens change: rotary positions and the tokens that the step started from stay.
"""

import math
from typing import Callable

import torch
from torch import Tensor

from ..errors import TokensError
from .model_calls import hiddens_of, image_tokens, with_calls
from .recipe import repeatable
from .select import mask_tokens, rectangle, rows_beside, token_mask
from .wire import map_memory, same_format, to_latent, to_tokens
from .wire_types import AnyWire, DitHidden, DitTokens, NoiseStart, without

FILLS = ("same place", "one token", "mean", "zeros")


# --- either wire ----------------------------------------------------------------------------------------------------

def values(wire: AnyWire) -> Tensor:
    """The picture's tokens: → raw tokens [B, N, C·p·p], or hidden states [parts·B, N, D]. Raises TokensError."""
    return image_tokens(wire)[:, _span(wire)] if "hidden" in wire else wire["tokens"]


def with_values(wire: AnyWire, tokens: Tensor) -> AnyWire:
    """A copy of the wire with other values for its tokens."""
    changed = _replaced(wire, tokens)
    return changed if "hidden" in changed else without(changed, "memory")


def _replaced(wire: AnyWire, tokens: Tensor) -> AnyWire:
    if "hidden" not in wire:
        return {**wire, "tokens": tokens}
    x, span, hiddens = image_tokens(wire), _span(wire), hiddens_of(wire)
    x = torch.cat([x[:, :span.start], tokens.to(x), x[:, span.stop:]], dim=1).split([len(hidden.x) for hidden in hiddens])
    return with_calls(wire, [hidden.but(x=part) for hidden, part in zip(hiddens, x)])


def _span(wire: DitHidden) -> slice:
    """Where the picture's tokens are among the hidden states. Some models put reference pictures before them, some after."""
    if "patches" not in wire["done"]:
        raise TokensError("the hidden states have no embedded tokens yet: put Patch Embed before this node")
    first = wire["hidden"].extra.get("img_offset", 0)
    return slice(first, first + math.prod(token_grid_of(wire)))


def token_grid_of(wire: AnyWire) -> tuple[int, ...]:
    """The token grid of DIT_TOKENS or DIT_HIDDEN: (h, w), or (t, h, w) with frames."""
    return (wire["tokens"] if "hidden" in wire else wire)["grid"]


def layout_of(wire: AnyWire) -> tuple[str, ...]:
    """The parts of the batch: ("uncond", "cond") between DiT Condition and DiT Guidance, ("cond",) elsewhere."""
    return wire["call"].layout if wire.get("call") and not wire.get("guided") else ("cond",)


def samples_of(wire: AnyWire) -> int:
    """The number of pictures. Each of them is in every part of the batch."""
    return len(image_tokens(wire) if "hidden" in wire else wire["tokens"]) // len(layout_of(wire))


def _like(source: AnyWire, wire: AnyWire) -> Tensor:
    """The tokens of `source`, row by row for `wire`. Uncond is matched with uncond; a batch with fewer pictures repeats."""
    rows = rows_beside(layout_of(source), samples_of(source), layout_of(wire), samples_of(wire))
    return values(source)[rows].to(values(wire))


def check_pair(a: AnyWire, b: AnyWire, first: str, second: str) -> None:
    """Raise TokensError unless two wires hold the same kind of tokens, of the same model and grid."""
    kinds = ["hidden states" if "hidden" in wire else "raw tokens" for wire in (a, b)]
    if kinds[0] != kinds[1]:
        raise TokensError(f"{first} holds {kinds[0]}, {second} holds {kinds[1]}: both must be the same kind")
    shapes = [f"a {'×'.join(map(str, token_grid_of(wire)))} grid of tokens of {values(wire).shape[-1]} values" for wire in (a, b)]
    if "hidden" in a and "hidden" in b and a["model"] != b["model"]:
        raise TokensError(f"{first} comes from {a['model']}, {second} from {b['model']}")
    if "hidden" not in a and "hidden" not in b:
        if not same_format(a["latent_format"], b["latent_format"]):
            raise TokensError(f"{first} and {second} are in different latent spaces: wire the same dit into both Patchify nodes")
        shapes = [f"{shape}, patches {wire['patch_size']} wide" for shape, wire in zip(shapes, (a, b))]
    if shapes[0] != shapes[1]:
        raise TokensError(f"{first} has {shapes[0]}, {second} has {shapes[1]}")


# --- which tokens ---------------------------------------------------------------------------------------------------

def select(wire: AnyWire, column: int, row: int, width: int, height: int, mask: Tensor | None = None) -> Tensor:
    """The tokens in a rectangle, as a MASK [1 or B, h, w] of 0 and 1. With `mask`, only those that it covers for the most part."""
    h, w = token_grid_of(wire)[-2:]
    chosen = torch.zeros(1, h, w)
    chosen[:, *rectangle((h, w), column, row, width, height)] = 1
    return chosen if mask is None else chosen * token_mask(mask.cpu(), wire, samples_of(wire)).view(-1, h, w)


def _where(mask: Tensor | None, wire: AnyWire, changed: Tensor) -> AnyWire:
    """A copy of the wire with `changed` values where the mask is, everywhere without a mask."""
    if mask is None:
        return with_values(wire, changed)
    chosen = token_mask(mask, wire, samples_of(wire)).bool().repeat(len(layout_of(wire)), 1, 1)
    return with_values(wire, torch.where(chosen.to(changed.device), changed, values(wire)))


# --- other values ---------------------------------------------------------------------------------------------------

@repeatable
def mix(a: AnyWire, b: AnyWire, amount: float, mask: Tensor | None = None) -> AnyWire:
    """a + (b − a)·amount where the mask is, everywhere without one. Raises TokensError."""
    check_pair(a, b, "a", "b")
    return _where(mask, a, torch.lerp(values(a), _like(b, a), amount))


@repeatable
def scale(wire: AnyWire, factor: float, mask: Tensor | None = None) -> AnyWire:
    """Tokens times a factor where the mask is, everywhere without one."""
    return _where(mask, wire, values(wire) * factor)


@repeatable
def replace(wire: AnyWire, fill: str, row: int = 0, column: int = 0, source: AnyWire | None = None, mask: Tensor | None = None) -> AnyWire:
    """Replace tokens where the mask is, everywhere without one. Raises TokensError.

    The new tokens come from `source`, or from the wire itself without one. fill: "same place" takes each from its own place; "one token"
    takes the one at (row, column) for all; "mean" takes the mean of all tokens; "zeros" takes zeros.
    """
    if source is None and fill == "same place":
        raise TokensError('"same place" takes the tokens of another wire: wire one into source')
    if source is not None:
        check_pair(wire, source, "x", "source")
    tokens = values(wire) if source is None else _like(source, wire)
    if fill == "one token":
        rows, columns = rectangle(token_grid_of(wire), column, row, 1, 1)
        tokens = tokens.unflatten(1, token_grid_of(wire))[..., rows, columns, :].flatten(1, -2)[:, :1]
    elif fill == "mean":
        tokens = tokens.mean(dim=1, keepdim=True)
    elif fill == "zeros":
        tokens = torch.zeros_like(tokens)
    elif fill != "same place":
        raise TokensError(f"fill is one of {', '.join(FILLS)}, not {fill!r}")
    return _where(mask, wire, tokens.expand_as(values(wire)))


# --- other places ---------------------------------------------------------------------------------------------------

@repeatable
def roll(wire: AnyWire, rows: int, columns: int) -> AnyWire:
    """Shift tokens down and to the right. Tokens that leave the grid come in on the other side."""
    return permute(wire, _places(wire).roll((rows, columns), (-2, -1)).flatten())


@repeatable
def swap(wire: AnyWire, column: int, row: int, to_column: int, to_row: int, width: int, height: int) -> AnyWire:
    """Exchange two rectangles of tokens, in every frame of a video. Raises TokensError."""
    first, second = (rectangle(token_grid_of(wire), *corner, width, height) for corner in ((column, row), (to_column, to_row)))
    if abs(to_column - column) < width and abs(to_row - row) < height:
        raise TokensError(f"the {width}×{height} rectangles at column {column}, row {row} and at column {to_column}, row {to_row} overlap")
    places = _places(wire)
    order = places.clone()
    order[..., *first], order[..., *second] = places[..., *second], places[..., *first]
    return permute(wire, order.flatten())


@repeatable
def shuffle(wire: AnyWire, seed: int, mask: Tensor | None = None) -> AnyWire:
    """Shuffle tokens: all of them, or with a mask only those inside it. Every part of the batch is shuffled in the same way."""
    places = _places(wire).flatten()
    if mask is None:
        return permute(wire, places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))])
    order = places.repeat(samples_of(wire), 1)
    for row, chosen in zip(order, token_mask(mask.cpu(), wire, len(order))[..., 0].bool()):
        among = places[chosen]
        row[among] = among[torch.randperm(len(among), generator=torch.Generator().manual_seed(seed))]
    return permute(wire, order)


def _places(wire: AnyWire) -> Tensor:
    """The numbers of the tokens, in the shape of the grid."""
    return torch.arange(math.prod(token_grid_of(wire))).view(token_grid_of(wire))


def permute(wire: AnyWire, order: Tensor) -> AnyWire:
    """Move the token at place order[i] to place i: order [N], or [B, N] with an order for each sample. Raises TokensError."""
    order = order.view(-1, order.shape[-1])

    def move(x: Tensor) -> Tensor:
        places = order.to(x.device).repeat(len(x) // len(order), 1)
        return x[torch.arange(len(x), device=x.device)[:, None], places]
    if "hidden" in wire or wire.get("call"):
        return _replaced(wire, move(values(wire)))
    moved: DitTokens = {**wire, "tokens": move(wire["tokens"])}
    if "memory" in wire:
        moved["memory"] = map_memory(wire["memory"], move)
    if "start" in wire:
        moved["start"] = _moved_start(wire, move)
    if wire.get("noise_mask") is not None:
        if len(wire["grid"]) == 3:
            raise TokensError("tokens of a video with a noise mask cannot be moved")
        moved["noise_mask"] = to_latent(move(mask_tokens(wire)), wire)[:, :1]
    return moved


def _moved_start(wire: DitTokens, move: Callable[[Tensor], Tensor]) -> NoiseStart:
    start: NoiseStart = {**wire["start"], "clean": move(wire["start"]["clean"]), "noise": move(wire["start"]["noise"])}
    if "latent" in start:  # the clean tokens again, in the form that a MODEL's own sampling takes
        start["latent"] = to_latent(move(to_tokens(start["latent"], wire)), wire)
    return start
