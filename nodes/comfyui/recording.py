"""Gradients through a transformer that ComfyUI manages: its weights are left as they are. Imported only in ComfyUI."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import comfy.model_management
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


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
