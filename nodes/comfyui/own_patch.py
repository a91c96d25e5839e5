"""Which cells of a latent share a token of a diffusion model. The model is asked: a NaN in a row of cells shows how many tokens it reaches.

Nothing is computed but what stands before the first layer that reads the latent, on a latent and a text of no meaning. Where a model
can't be asked so, its own word for it is taken.
"""

import inspect
from typing import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .memory import memory_of, remembering

SIDE, FRAMES, WORDS = 64, 4, 8  # of the latent and the text that it is asked with
NEEDED = {"num_tokens": WORDS, "guidance": torch.ones(1)}  # what some models can't be called without
ATTRIBUTES = ("patch_size", "patch_spatial", "patch")
_known: WeakKeyDictionary = WeakKeyDictionary()


class _Reached(Exception):
    """The first layer that reads the latent was about to be called."""


def own_patch(transformer: nn.Module, channels: int, dimensions: int) -> tuple[int, int, int]:
    """Frames, rows and columns of cells to a token: (1, 1, 1) for a UNet. channels, dimensions: of its latents."""
    if transformer not in _known:
        try:
            with torch.inference_mode():
                found = _asked(transformer, channels, dimensions)
        except Exception:  # models fail in as many ways as there are models
            found = None
        _known[transformer] = found or _said(transformer)
    return _known[transformer]


def _asked(transformer: nn.Module, channels: int, dimensions: int) -> tuple[int, int, int] | None:
    size = ((FRAMES,) if dimensions == 3 else ()) + (SIDE, SIDE)
    context, counts = None, []
    for side in range(len(size)):
        line = (0,) * side + (slice(None),) + (0,) * (len(size) - side - 1)
        layer, seen, context = _reach(transformer, channels, size, line, context)
        if hasattr(layer, "kernel_size"):
            steps = tuple(layer.stride)
            return (1,) * (3 - len(steps)) + steps if tuple(layer.kernel_size) == steps else (1, 1, 1)
        counts.append(int(seen.isnan().any(-1).sum()))
    sides = [length / count for length, count in zip(size, counts)]
    whole = all(side == int(side) for side in sides)
    return (1,) * (3 - len(sides)) + tuple(map(int, sides)) if whole else None


def _reach(transformer: nn.Module, channels: int, size: tuple[int, ...], line: tuple,
           context: Tensor | None) -> tuple[nn.Module, Tensor, Tensor | None]:
    """→ the first layer that a NaN in a line of cells reaches, what it is given, the text that the model took."""
    weight = next(transformer.parameters())
    x = torch.zeros(1, channels, *size, device=weight.device)
    x[(..., *line)] = torch.nan
    time, needed = torch.full((1,), 0.5, device=weight.device), inspect.signature(transformer.forward).parameters.values()
    more = {one.name: NEEDED.get(one.name) for one in needed if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD}
    more = {name: value for name, value in list(more.items())[2:] if name != "context"}
    failed: Exception = RuntimeError("no layer reads the latent")
    for text in [context] if context is not None else _texts(transformer):
        text = text if text is None else text.to(x)
        try:
            layer, seen = _first_to_see(transformer, x, time, text, more)
            return layer, seen, text
        except Exception as error:
            failed = error
    raise failed


def _texts(transformer: nn.Module) -> Iterator[Tensor | None]:
    """No text, then one of each width that the model has a layer for."""
    yield None
    for width in sorted({layer.in_features for layer in transformer.modules() if hasattr(layer, "in_features")}):
        yield torch.zeros(1, WORDS, width)


def _first_to_see(transformer: nn.Module, x: Tensor, time: Tensor, text: Tensor | None, more: dict) -> tuple[nn.Module, Tensor]:
    found = []

    def look(layer, args, kwargs):
        for value in (*args, *kwargs.values()):
            if torch.is_tensor(value) and value.is_floating_point() and value.isnan().any():
                found.append((layer, value))
                raise _Reached
    layers = [layer for layer in transformer.modules() if not any(layer.children()) and any(True for _ in layer.parameters(recurse=False))]
    hooks = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
    try:
        with remembering(transformer, memory_of(transformer)):
            transformer(x, time, context=text, transformer_options={}, **more)
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found[0]


def _said(transformer: nn.Module) -> tuple[int, int, int]:
    """What the model, or the first part of it that has a word for it, says of itself."""
    for part in transformer.modules():
        for name in ATTRIBUTES:
            size = getattr(part, name, None)
            if isinstance(size, int) and not isinstance(size, bool):
                return 1, size, size
            if isinstance(size, (tuple, list)) and all(isinstance(side, int) for side in size):
                return tuple((1, 1, *size)[-3:]) if len(size) != 1 else (1, size[0], size[0])
    return 1, 1, 1
