"""Which model an adapter is for: by its weights' values, or nearly so where it is kept in another number type."""

import base64
import binascii
from collections import Counter
from collections.abc import Mapping
import hashlib
import zlib

import torch
from torch import Tensor

from ..model.copies import plain

SAMPLED = 1024  # values of each weight that are looked at
LEAST = 16  # values that a weight has to be told apart by
APART = 0.5  # root mean square of differences. Of the same weights in 8 bits it is 0.03, in 4 bits 0.1, of another model's 1.4
SHARED = 0.8  # of the weights must be the same


def _samples(value: Tensor) -> Tensor:
    """Some 1,024 values from all over a weight, float32 on the CPU: → [M]."""
    values = plain(value).flatten()
    return values[::max(1, len(values) // SAMPLED)].float().cpu()


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """A name that a model's weights have and others do not, whatever type they are kept in, as long as it holds the same values: every
    weight's key and shape and some 1,024 of its values."""
    found = hashlib.sha256()
    for key, value in sorted(state.items()):
        found.update(f"{key} {list(value.shape)}".encode() + _samples(value).numpy().tobytes())
    return found.hexdigest()[:32]


def likeness(state: Mapping[str, Tensor]) -> str:
    """A name that is nearly the same for the same weights in another number type: the type of most of them, then for each matrix its key and
    shape, and where its values lie along a fixed direction, about a standard normal number."""
    found, kinds = [], Counter()
    for key, value in sorted(state.items()):
        if value.dim() > 1 and value.is_floating_point() and value.numel() >= LEAST:
            kinds["scaled" if hasattr(value, "_qdata") else str(value.dtype).removeprefix("torch.")] += value.numel()
            sample = _samples(value)
            direction = torch.sin(torch.arange(1, len(sample) + 1) * 12.9898)
            place = sample @ direction / (sample.norm() * direction.norm()).clamp_min(1e-20) * len(sample) ** 0.5
            found.append((zlib.crc32(f"{key} {list(value.shape)}".encode()), place))
    names = torch.tensor([name for name, _ in found], dtype=torch.int64).to(torch.uint32).numpy().tobytes()
    places = torch.tensor([float(place) for _, place in found], dtype=torch.float16).numpy().tobytes()
    return f"{max(kinds, key=kinds.get, default='')}:{base64.b64encode(names + places).decode()}"


def alike(one: str, other: str) -> bool:
    """Whether two likenesses are of the same weights in two number types. In one type the same weights have the same fingerprint."""
    try:
        (kind, first), (other_kind, second) = (one.split(":"), other.split(":"))
        if kind == other_kind:
            return False
        first, second = map(_read, (first, second))
    except (ValueError, binascii.Error):
        return False
    shared = first.keys() & second.keys()
    if not shared or len(shared) < SHARED * max(len(first), len(second)):
        return False
    return torch.tensor([first[name] - second[name] for name in shared]).square().mean().sqrt().item() < APART


def _read(text: str) -> dict[int, float]:
    data = base64.b64decode(text, validate=True)
    count = len(data) // 6
    if not count or len(data) != 6 * count:
        raise ValueError("no likeness")
    names = torch.frombuffer(bytearray(data[:4 * count]), dtype=torch.uint32).tolist()
    return dict(zip(names, torch.frombuffer(bytearray(data[4 * count:]), dtype=torch.float16).float().tolist()))
