"""What a model keeps from one call to the next, such as keys and values of a prompt: calls that only ask it something leave none behind."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

from torch import Tensor, nn

_of_modules = vars(nn.Module()).keys()


def memory_of(model: nn.Module) -> dict[str, Any]:
    """The attributes of a model that may hold such things."""
    return {name: copy(value) for name, value in vars(model).items()
            if isinstance(value, (list, dict, set, tuple, Tensor, type(None))) and name not in _of_modules}


@contextmanager
def remembering(model: nn.Module, memory: Mapping[str, Any]) -> Iterator[None]:
    """While it lasts, a model remembers this; afterwards what it did before."""
    before = memory_of(model)
    vars(model).update({name: copy(value) for name, value in memory.items()})
    try:
        yield
    finally:
        for name in memory_of(model):
            if name not in before:
                del vars(model)[name]
        vars(model).update(before)
