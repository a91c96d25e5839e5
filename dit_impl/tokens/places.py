"""Where the tensors of a wire lie: at home between nodes, on the device that computes inside them."""

from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")
# a host's own, which must be where it put them, and numbers that go with no tensor
LEFT = ("transformer_options", "remembered", "random", "latent_format", "made")


def moved(value: Value, device: torch.device) -> Value:
    """The same wire, or anything that holds tensors, with them on this device. What lies there already is handed on as it is, and so are
    single numbers in main memory, which go with tensors of any device, and what records gradients."""
    if isinstance(value, Tensor):
        stays = value.device == device or value.requires_grad or value.dim() == 0 and value.device.type == "cpu"
        return value if stays else value.to(device)
    if isinstance(value, dict):
        changed = {key: one if key in LEFT else moved(one, device) for key, one in value.items()}
        return changed if any(changed[key] is not one for key, one in value.items()) else value
    if type(value) in (tuple, list):
        items = [moved(one, device) for one in value]
        return type(value)(items) if any(new is not old for new, old in zip(items, value)) else value
    if is_dataclass(value) and not isinstance(value, type) and type(value).__module__.startswith(__package__.partition(".dit_impl")[0]):
        parts = {one.name: moved(getattr(value, one.name), device) for one in fields(value) if one.init}
        return replace(value, **parts) if any(getattr(value, name) is not part for name, part in parts.items()) else value
    return value
