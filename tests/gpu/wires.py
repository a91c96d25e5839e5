"""What lies in what nodes hand on, and where."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from gpu import device
from torch import Tensor


def tensors(value, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a wire, by their places in it. A host's own options are its own."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, one in value.items():
            if key != "transformer_options":
                yield from tensors(one, f"{path}.{key}")
    elif isinstance(value, (tuple, list)):
        for i, one in enumerate(value):
            yield from tensors(one, f"{path}[{i}]")
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from tensors(getattr(value, one.name), f"{path}.{one.name}")


def away(value) -> list[str]:
    """The places of a wire that are on the device."""
    return [path for path, one in tensors(value) if one.device.type == device.GPU.type]


def size(value) -> int:
    """Bytes of a wire's tensors."""
    return sum(one.numel() * one.element_size() for one in {id(one): one for _, one in tensors(value)}.values())
