"""Gradients through a transformer that ComfyUI manages: its weights are left as they are. Imported only in ComfyUI."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import NamedTuple

import comfy.model_management
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from .stages.call import instead, leaves, with_leaves


class Recorded(TorchFunctionMode):
    """While it lasts, what is computed with a host's weights is recorded as with constants: they are of inference mode, or would learn.

    What of them is saved for the backward pass shares their memory."""

    def __init__(self, learns: Iterable[nn.Parameter]):
        super().__init__()
        self.learns = {id(parameter) for parameter in learns}

    def constant(self, value: object) -> object:
        if type(value) in (tuple, list):
            return type(value)(map(self.constant, value))
        if not isinstance(value, Tensor) or id(value) in self.learns:
            return value
        if type(value) in (Tensor, nn.Parameter) and value.is_inference() and value.layout == torch.strided:
            return torch.empty(0, dtype=value.dtype, device=value.device).set_(value.untyped_storage(), value.storage_offset(), value.shape, value.stride())
        if value.is_inference() and not hasattr(value, "_qdata"):  # of a kind that can't share its memory; scaled weights are unpacked anew anyway
            return value.clone()
        return value.detach() if isinstance(value, nn.Parameter) and value.requires_grad else value

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__", "requires_grad_") or func in (Tensor.is_inference, Tensor.detach):
            return func(*args, **(kwargs or {}))
        changed = 1 if name == "__setitem__" or name.endswith("_") and not name.endswith("__") else 0  # the first argument, in place
        return func(*args[:changed], *map(self.constant, args[changed:]), **{key: self.constant(value) for key, value in (kwargs or {}).items()})


class Opened(NamedTuple):
    """A dataclass as one of those containers that `leaves` looks into, such as Flux 2's ModulationOut."""
    kind: type
    values: list


def opened(value: object) -> object:
    """The same with every dataclass opened."""
    if is_dataclass(value) and not isinstance(value, type):
        return Opened(type(value), [opened(getattr(value, one.name)) for one in fields(value)])
    if isinstance(value, dict):
        return {key: opened(one) for key, one in value.items()}
    return type(value)(map(opened, value)) if type(value) in (tuple, list) else value


def closed(value: object) -> object:
    """The inverse of `opened`."""
    if isinstance(value, Opened):
        return value.kind(*map(closed, value.values))
    if isinstance(value, dict):
        return {key: closed(one) for key, one in value.items()}
    return type(value)(map(closed, value)) if type(value) in (tuple, list) else value


@contextmanager
def run_again(blocks: Iterable[nn.Module], during: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """While it lasts, these blocks keep nothing for the backward pass but what they are given: they run again in it. during: what holds then,
    as the forward pass is over by that time. Chen et al. 2016, §4."""
    def change(own: Callable, args: tuple, kwargs: dict):
        given = opened((args, kwargs))

        def run(*tensors: Tensor | None):
            args, kwargs = closed(with_leaves(given, iter([leaf if leaf is None else leaf.clone() for leaf in tensors])))  # blocks write into them
            with during() if torch.is_grad_enabled() else nullcontext():
                return own(*args, **kwargs)
        return checkpoint(run, *leaves(given), use_reentrant=True)
    with instead(dict.fromkeys(blocks, change)):
        yield


@contextmanager
def training(learns: Iterable[nn.Parameter]) -> Iterator[None]:
    """While it lasts, ComfyUI computes what has a gradient, as for its own training nodes; these parameters learn."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    # its blocks change their tokens in place after they were saved for the backward pass
    kept = torch.autograd.graph.saved_tensors_hooks(lambda t: t if t.grad_fn is None else t.clone(), lambda t: t)
    try:
        with kept, Recorded(learns):
            yield
    finally:
        comfy.model_management.in_training = before
