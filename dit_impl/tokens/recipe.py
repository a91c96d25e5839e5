"""How hidden states came to be since DiT Condition, so that the same stages can run again in another step.

Each function of a stage node leaves on its wire what it was called with, and of the wires it was given only how those came to be. What changes
hidden states in any other way takes it off (`with_calls`), so that a wire never tells of less than was done.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
import inspect
from typing import Any, TypeVar, cast
from weakref import ref

from torch import Tensor

from ..errors import StagesError
from .wire_types import DitHidden

Stage = TypeVar("Stage", bound=Callable)


@dataclass(frozen=True, eq=False)
class Made:
    """A stage, and what it was given by name: a `Made` for each wire. stage: None for DiT Condition. model: a reference to the model it ran on;
    side: of the pictures which that learnt from, in latent cells."""
    stage: Callable | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    model: ref | None = None
    side: float = 0.0

    @property
    def before(self) -> list["Made"]:
        return [value for value in self.given.values() if isinstance(value, Made)]


def begins(wire: DitHidden) -> DitHidden:
    """A step's hidden states as DiT Condition gives them."""
    return {**wire, "made": Made()}


def repeatable(stage: Stage) -> Stage:
    """Decorator for a function of wires, and first of a dit where a model runs: its hidden states tell how they came to be."""
    signature = inspect.signature(stage)

    @wraps(stage)
    def recorded(*args, **kwargs):
        wire = stage(*args, **kwargs)
        if "hidden" not in wire or any(wire is value for value in (*args, *kwargs.values())):
            return wire
        given = dict(signature.bind(*args, **kwargs).arguments)
        dit = given.pop("dit", None)
        for name, value in given.items():
            if isinstance(value, dict):
                if "made" not in value:
                    return wire
                given[name] = value["made"]
        ran_on = () if dit is None else (ref(dit.stages.model), dit.picture_size / dit.downscale)
        return {**wire, "made": Made(recorded, given, *ran_on)}
    return cast(Stage, recorded)


def in_order(made: Made) -> list[Made]:
    """What hidden states came from, themselves last, each once and after all that it needs."""
    found: dict[int, Made] = {}

    def visit(one: Made) -> None:
        if id(one) not in found:
            for earlier in one.before:
                visit(earlier)
            found[id(one)] = one
    visit(made)
    return list(found.values())


def values_of(made: Made) -> Iterator[Any]:
    """Whatever the stages were given beside wires."""
    for one in in_order(made):
        yield from (value for value in one.given.values() if not isinstance(value, Made))


def check_repeatable(wire: DitHidden) -> Made:
    """How a wire came to be. Raises StagesError unless all of it can run again in another step."""
    if "condition" not in wire["done"] or "patches" not in wire["done"]:
        raise StagesError("hidden has not been through DiT Condition and Patch Embed, in this order")
    if "made" not in wire:
        raise StagesError("hidden has been through a node that can't run again in every step: wire Patch Embed, Position Embed, DiT Blocks, Steer "
                          "and the nodes that edit tokens, after DiT Condition")
    stages = in_order(wire["made"])
    if sum(one.stage is None for one in stages) > 1:
        raise StagesError("hidden comes from two DiT Condition nodes; in every step there is one, the sampler's own")
    if len({one.model for one in stages if one.model is not None}) > 1:
        raise StagesError("hidden has been through the blocks of two models; in every step there is one")
    return wire["made"]


def again(made: Made, begun: DitHidden, dit: Any) -> DitHidden:
    """Run the same stages on hidden states that have just begun. A wire is let go once nothing more reads it."""
    order = in_order(made)
    reads, wires = Counter(id(earlier) for one in order for earlier in one.before), {}
    for one in order:
        if one.stage is None:
            wires[id(one)] = begun
            continue
        given = {name: wires[id(value)] if isinstance(value, Made) else value for name, value in one.given.items()}
        wires[id(one)] = one.stage(**({"dit": dit} if one.model is not None else {}), **given)
        for earlier in one.before:
            reads[id(earlier)] -= 1
            if not reads[id(earlier)]:
                del wires[id(earlier)]
    return wires[id(made)]


def is_for_all(made: Made) -> bool:
    """Whether every stage does the same to all rows and tokens, wherever they stand in a picture."""
    return all(one.model is not None or one.stage is None for one in in_order(made)) and not any(
        isinstance(value, Tensor) for value in values_of(made))
