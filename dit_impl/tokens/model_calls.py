"""DIT_HIDDEN of a step that calls the model several times: `hidden` and `tokens` belong to the first call, `others` to the rest."""

from dataclasses import replace
import math
from typing import Sequence

import torch
from torch import Tensor

from ..errors import StagesError
from .wire_types import DitHidden, ModelCall, without


def model_calls(wire: DitHidden) -> tuple[ModelCall, ...]:
    """DIT_HIDDEN → {"hidden", "tokens"} of each of its model calls."""
    return ({"hidden": wire["hidden"], "tokens": wire["tokens"]}, *wire.get("others", ()))


def hiddens_of(wire: DitHidden) -> list:
    """The hidden states of each model call."""
    return [call["hidden"] for call in model_calls(wire)]


def with_calls(wire: DitHidden, hiddens: Sequence) -> DitHidden:
    """A copy of DIT_HIDDEN with other hidden states, one for each model call."""
    calls: list[ModelCall] = [{**call, "hidden": hidden} for call, hidden in zip(model_calls(wire), hiddens, strict=True)]
    changed: DitHidden = {**without(wire, "made"), "hidden": calls[0]["hidden"]}
    if len(calls) > 1:
        changed["others"] = tuple(calls[1:])
    return changed


def apart(wire: DitHidden) -> list[DitHidden]:
    """A DIT_HIDDEN for each model call alone."""
    layout = wire["call"].layout if wire["call"] else ("cond",)
    wires: list[DitHidden] = []
    alone = without(wire, "others", "made")
    for call in model_calls(wire):
        parts = len(call["hidden"].x) // len(call["tokens"]["tokens"]) if wire["call"] else 1
        own, layout = layout[:parts], layout[parts:]
        step = replace(wire["call"], layout=own, areas=()) if wire["call"] else None
        wires.append({**alone, "hidden": call["hidden"], "tokens": call["tokens"], "call": step})
    return wires


def image_tokens(wire: DitHidden, what: str = "the hidden states") -> Tensor:
    """Image tokens of all model calls of a step: → [rows, N, D]. Raises StagesError if the calls are for different areas of the picture."""
    hiddens = hiddens_of(wire)
    for call in model_calls(wire):
        known = call["hidden"].extra.get("picture_tokens")
        if known is not None and known != math.prod(call["tokens"]["grid"]):
            raise StagesError(f"it is not known which tokens of {wire['model']} are the picture's where {what} come from"
                              + (f": it has {known} of them there, the grid has {math.prod(call['tokens']['grid'])}" if known else ""))
    if len({hidden.x.shape[1:] for hidden in hiddens}) > 1 or any(wire["call"].areas if wire["call"] else ()):
        sizes = ", ".join("×".join(map(str, call["tokens"]["grid"])) for call in model_calls(wire))
        raise StagesError(f"{what} are of several areas of the picture, of {sizes} tokens, but this node needs all tokens on one grid: "
                          "leave Conditioning (Set Area) out, or use Conditioning (Set Mask)")
    return torch.cat([hidden.x for hidden in hiddens]) if len(hiddens) > 1 else hiddens[0].x
