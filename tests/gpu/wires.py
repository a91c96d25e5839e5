"""Where in what nodes hand on tensors of the device are."""

from dataclasses import fields, is_dataclass

from gpu import device
from torch import Tensor


def away(value, path: str = "") -> list[str]:
    """The places of a wire that are on the device. A host's own options are its own."""
    if isinstance(value, Tensor):
        return [path] if value.device.type == device.GPU.type else []
    if isinstance(value, dict):
        return [found for key, one in value.items() if key != "transformer_options" for found in away(one, f"{path}.{key}")]
    if isinstance(value, (tuple, list)):
        return [found for i, one in enumerate(value) for found in away(one, f"{path}[{i}]")]
    if is_dataclass(value) and not isinstance(value, type):
        return [found for one in fields(value) for found in away(getattr(value, one.name), f"{path}.{one.name}")]
    return []
