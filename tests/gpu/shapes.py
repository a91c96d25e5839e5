"""Models of real size on the simulated device: tensors with a shape and a type and no values. The memory that they would hold is counted.

    with shapes.on(), device.on(total=16 << 30) as counts:       # after comfyui.install
        weight = torch.empty(1 << 17, 1 << 15)                   # a FakeTensor of the CPU
        (weight.to(GPU) @ x).sum().item()                        # 0.5, whatever it is; 1 where it is no fraction; True of yes and no

Tensors of the CPU that do not come of one without values keep theirs, there and on the device. Attention is one kernel, as on NVIDIA
cards: it makes its output, and no scores of all pairs.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

from gpu import device
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

aten = torch.ops.aten
READ = (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default, aten.equal.default)
mode = FakeTensorMode(allow_non_fake_inputs=True)


def is_blank(value) -> bool:
    """Whether a tensor has no values."""
    return isinstance(value.values if isinstance(value, device.Simulated) else value, FakeTensor)


def _attention(q, k, v, *_, **__):
    """[B, heads, N, D], which lies in memory as [B, N, heads, D], as FlashAttention's output does."""
    return torch.empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3], dtype=q.dtype, device=q.device).transpose(1, 2)


def _apply(self, change, recurse=True):
    """nn.Module's, which can't put a new tensor in the place of one without values."""
    for child in self.children() if recurse else ():
        child._apply(change)
    for name, weight in self._parameters.items():
        if weight is not None and (new := change(weight)) is not weight:
            self._parameters[name] = nn.Parameter(new, weight.requires_grad)
    for name, value in self._buffers.items():
        if value is not None:
            self._buffers[name] = change(value)
    return self


@contextmanager
def on() -> Iterator[None]:
    """While it lasts, the device makes tensors without values, and so does `mode` on the CPU."""
    run = device.run

    def without_values(func, args, kwargs):
        if func in READ and (blank := next(filter(is_blank, args), None)) is not None:
            if any(isinstance(value, device.Simulated) for value in args):
                device.waited(device.WAITS[func])
            return True if func in READ[2:] else 0.5 if blank.dtype.is_floating_point else 1
        if kwargs.get("device") is not None and not any(isinstance(value, torch.Tensor) for value in args):
            with mode if torch.device(kwargs["device"]).type == device.GPU.type else nullcontext():
                return run(func, args, kwargs)
        return run(func, args, kwargs)
    with (patch.object(device, "run", without_values), patch.object(nn.Module, "_apply", _apply),
          patch.object(FakeTensor, "numpy", lambda self: torch.zeros(self.shape, dtype=self.dtype).numpy(), create=True),
          patch.object(nn.functional, "scaled_dot_product_attention", _attention)):
        yield
