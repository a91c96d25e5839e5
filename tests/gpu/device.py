"""A GPU where there is none: tensors on a device of their own that compute on the CPU, with real numbers, and refuse what a GPU refuses.

    with device.on() as counts:
        x = torch.zeros(3, device=GPU)        # a Simulated
        x + torch.zeros(3)                    # RuntimeError: two devices
        x.sum().item()                        # counts.syncs: one more

There are two of them, GPU and SECOND. Refused: an operation over tensors of two devices (a CPU number of no dimension may mix, as on CUDA),
numpy() of its tensors, random numbers by a CPU generator, more memory than it has, and float64 where `on(float64=False)`, as on Apple MPS, Intel XPU and DirectML.
Counted: what makes the CPU wait for the device, by the line of the pack that does it; bytes brought there and back; bytes that live there.
Not simulated: kernels, their speed and rounding, streams, a native allocator.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
import os
from pathlib import Path
import sys
import threading
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

# PyTorch's backward pass asks for a device that its build knows: without a GPU no build knows CUDA's, every one knows "lazy"
GPU, SECOND = (torch.device(os.environ.get("SIMULATED_DEVICE", "lazy"), number) for number in (0, 1))
PACK, HERE = str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])
aten = torch.ops.aten
WAITS = {aten._local_scalar_dense.default: "item", aten.item.default: "item", aten.is_nonzero.default: "bool", aten.equal.default: "equal",
         aten.nonzero.default: "nonzero", aten.masked_select.default: "masked_select", aten._unique2.default: "unique"}
MOVES = (aten._to_copy.default, aten.to.dtype_layout, aten.to.device, aten.to.dtype, aten.to.other)
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default, aten._unsafe_index.Tensor)


class DeviceError(RuntimeError):
    """What a GPU refuses."""


@dataclass
class Counts:
    """syncs: (line of the pack, what) → how often the CPU waited. live, peak: bytes on the device. short(missing): frees bytes there."""
    syncs: Counter = field(default_factory=Counter)
    up: int = 0
    down: int = 0
    live: int = 0
    peak: int = 0
    total: int = 1 << 40
    float64: bool = True
    short: Callable[[int], int] | None = None

    def restart(self) -> None:
        """Count anew; what lives there goes on living."""
        self.syncs, self.up, self.down, self.peak = Counter(), 0, 0, self.live

    @property
    def waits(self) -> int:
        return sum(self.syncs.values())


counts = Counts()
_known: dict[int, int] = {}
_lock, _thread = threading.RLock(), threading.local()


def current() -> torch.device:
    """Where a device of no number is, in this thread."""
    return getattr(_thread, "device", GPU)


def _set_current(place) -> None:
    _thread.device = torch.device(GPU.type, place) if isinstance(place, int) else _numbered(place)


def _numbered(place) -> torch.device:
    place = torch.device(place)
    return current() if place.type == GPU.type and place.index is None else place


def site() -> str:
    """The line of the pack that is being run, or the first line outside torch."""
    frame, first = sys._getframe(1), None
    while frame:
        name = frame.f_code.co_filename
        if "/dit_blocks/" in name or name.startswith(PACK + "/") and not name.startswith(HERE):
            return f"{name.rpartition('dit_blocks/')[2].removeprefix(PACK + '/')}:{frame.f_lineno}"
        if first is None and "/torch/" not in name and not name.startswith(HERE + "/gpu/device"):
            first = f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return first or "?"


def _held(values: torch.Tensor) -> None:
    """Count the bytes of a storage for as long as it lives."""
    storage = values.untyped_storage()
    key, size = storage._cdata, storage.nbytes()
    with _lock:
        if key in _known:
            return
        if counts.live + size > counts.total and counts.short:
            counts.short(counts.live + size - counts.total)
        if counts.live + size > counts.total:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {size} bytes more than {counts.live} of {counts.total} [{site()}]")
        _known[key] = size
        counts.live += size
        counts.peak = max(counts.peak, counts.live)

    def gone() -> None:
        with _lock:
            counts.live -= _known.pop(key, 0)
    weakref.finalize(storage, gone)


def forget(values: "Simulated") -> int:
    """Count the bytes of a tensor's storage no longer, although it lives: → how many."""
    with _lock:
        size = _known.pop(values.values.untyped_storage()._cdata, 0)
        counts.live -= size
    return size


def _check_type(dtype: torch.dtype | None) -> None:
    if dtype == torch.float64 and not counts.float64:
        raise TypeError(f"Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. [{site()}]")


class Simulated(torch.Tensor):
    """A tensor on the device. Its numbers are `values`, on the CPU."""

    @staticmethod
    def __new__(cls, values: torch.Tensor, place: torch.device = GPU):
        _check_type(values.dtype)
        made = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype, layout=values.layout,
            device=place, requires_grad=False)
        made.values = values
        _held(values)
        return made
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def data_ptr(self):
        return self.values.data_ptr()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert the device device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")

    __array__ = numpy

    def __repr__(self, **kwargs):
        return f"Simulated({tuple(self.shape)}, {self.dtype}, {self.device})"

    def is_pinned(self, *args):
        return False

    def tolist(self):
        waited("tolist")
        return self.values.tolist()

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = Simulated(self.values.detach().clone(), self.device)
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if getattr(self, "_is_param", False) else copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        return self.values.detach().clone().__reduce_ex__(protocol)


def waited(what: str) -> None:
    counts.syncs[(site(), what)] += 1


def _bare(value):
    return value.values if isinstance(value, Simulated) else value


def _moved(source: torch.Tensor, back: bool, what: str) -> None:
    """Count what crosses over."""
    size = source.numel() * source.element_size()
    if back:
        counts.down += size
        waited(what)
    else:
        counts.up += size


def _move(func, args, kwargs):
    source, place, dtype = args[0], kwargs.get("device"), kwargs.get("dtype")
    if func is aten.to.device:
        place, dtype = args[1:3]
    elif func is aten.to.dtype:
        dtype = args[1]
    elif func is aten.to.other:
        place, dtype = args[1].device, args[1].dtype
    target = _numbered(place) if place is not None else source.device
    there = target.type == GPU.type
    crosses = target != source.device
    if there != isinstance(source, Simulated):
        _moved(source, not there, "to the CPU")
    if there:
        _check_type(dtype)
    values = _bare(source)
    made = values.to(dtype=dtype or values.dtype, copy=func is aten._to_copy.default or kwargs.get("copy", False) or crosses)
    if target.type == "meta":
        return made.to("meta")
    if not there:
        return made
    return source if made is values and not crosses else _wrapped(made, [], target)


def _refuse_two_devices(func, args, flat) -> None:
    place = next(value.device for value in flat if isinstance(value, Simulated))

    def elsewhere(value) -> bool:
        return isinstance(value, torch.Tensor) and value.device != place and (value.dim() > 0 or isinstance(value, Simulated))
    if func in INDEXING:
        given, indices = args[:2]
        if given.device != place or any(isinstance(index, Simulated) and index.device != place for index in indices):
            raise DeviceError(f"indices should be either on cpu or on the same device as the indexed tensor ({given.device}) [{site()}]")
        if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
            waited("index by a mask")
        if len(args) > 2 and elsewhere(args[2]):
            raise DeviceError(f"values on {args[2].device} are put into a tensor on {place} [{site()}]")
        return
    if any(map(elsewhere, flat)):
        other = next(value.device for value in flat if elsewhere(value))
        raise DeviceError(f"Expected all tensors to be on the same device, but found at least two devices, {place} and {other}! ({func}) [{site()}]")
    first = func._schema.arguments[0] if func._schema.arguments else None
    if first is not None and first.alias_info is not None and first.alias_info.is_write and isinstance(args[0], torch.Tensor) \
            and not isinstance(args[0], Simulated):
        raise DeviceError(f"a tensor on the CPU is changed by ones on the device ({func}) [{site()}]")


def _wrapped(answer, given: list[Simulated], place: torch.device, view: bool = False):
    """Numbers → tensors of a device; what an operation gave back of its inputs stays the same object."""
    known = {id(one.values): one for one in given}

    def wrap(value):
        if not isinstance(value, torch.Tensor) or isinstance(value, Simulated):
            return value
        if id(value) in known:
            return known[id(value)]
        normal = not value.is_inference() or (view and given and not given[0].is_inference())
        if torch.is_inference_mode_enabled() and normal:  # a view of a normal tensor is none of inference mode's
            with torch.inference_mode(False):
                return Simulated(value, place)
        return Simulated(value, place)
    return tree_map(wrap, answer)


def run(func, args: tuple, kwargs: dict):
    """One operation, where at least one tensor is the device's or the mode is on."""
    if func is aten._has_compatible_shallow_copy_type.default:
        return False
    if func in MOVES:
        return _move(func, args, kwargs)
    flat, spec = tree_flatten((args, kwargs))
    given = [value for value in flat if isinstance(value, Simulated)]
    place = kwargs.get("device")
    if func is aten.copy_.default:
        target, source = args[:2]
        if isinstance(target, Simulated) != isinstance(source, Simulated):
            _moved(source, isinstance(source, Simulated), "copy_")
        _bare(target).copy_(_bare(source))
        return target
    if place is not None and _numbered(place).type == GPU.type:
        if kwargs.get("generator") is not None:
            raise DeviceError(f"Expected a device type of the device for generator but found 'cpu' [{site()}]")
        _check_type(kwargs.get("dtype"))
        named = {**tree_map(_bare, kwargs), "device": torch.device("cpu")}
        named.pop("pin_memory", None)
        return _wrapped(func(*tree_map(_bare, args), **named), [], _numbered(place))
    if not given:
        return func(*args, **kwargs)
    if place is not None:  # zeros_like of a tensor there, made elsewhere
        return func(*tree_map(_bare, args), **tree_map(_bare, kwargs))
    if func is aten._fused_sdp_choice.default:
        return 0
    if func is aten.detach_.default:
        return args[0]
    _refuse_two_devices(func, args, flat)
    if func in WAITS or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
        waited(WAITS.get(func, "repeat_interleave"))
    if torch.Tag.inplace_view in func.tags:
        raise NotImplementedError(f"{func} changes a tensor's shape in place, which is not simulated [{site()}]")
    _check_type(kwargs.get("dtype"))
    plain_args, plain_kwargs = tree_unflatten([_bare(value) for value in flat], spec)
    answer = func(*plain_args, **plain_kwargs)
    return _wrapped(answer, given, given[0].device, getattr(func, "is_view", False) or func is aten.detach.default)


@contextmanager
def in_thread() -> Iterator[None]:
    """Both devices are there in a thread of its own, while `on` lasts in another."""
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor([…], device="cuda") is made here, then moved
    try:
        with _Mode(), torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)


class _Mode(TorchDispatchMode):
    """While it lasts, `device=GPU` is there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


@contextmanager
def on(total: int = 1 << 40, float64: bool = True) -> Iterator[Counts]:
    """The device is there, with so many bytes. Yields what it counts."""
    if GPU.type == "cuda" and not torch.cuda.is_available():
        torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing
    kept, autocast = {name: getattr(torch.cuda, name) for name in PATCHED}, torch.autocast
    counts.restart()
    counts.total, counts.float64 = total, float64
    try:
        for name, instead in PATCHED.items():
            setattr(torch.cuda, name, instead)
        torch.autocast = lambda kind, *args, **how: nullcontext() if kind == "lazy" else autocast(kind, *args, **how)
        with in_thread():
            yield counts
    finally:
        torch.autocast = autocast
        for name, value in kept.items():
            setattr(torch.cuda, name, value)
        counts.total, counts.float64 = 1 << 40, True


PATCHED = {
    "_lazy_init": lambda: None, "synchronize": lambda *_: None, "current_device": lambda: current().index, "set_device": _set_current,
    "get_rng_state": lambda *_: torch.get_rng_state(), "set_rng_state": lambda state, *_: torch.set_rng_state(state),
}
