"""Code that runs on shapes: tensors without values, and a mode in which whatever such a tensor comes into gives another one.

Small tensors that do not come from one keep their values, so that code may ask masks and times what they hold. Knows no model and no ComfyUI.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu  # which torch's counter does not know
LARGEST = 2 ** 20  # values of a tensor that keeps them
META, HOME = torch.device("meta"), torch.device("cpu")


class Blank(Tensor):
    """A shape and a type. weight: made of weights alone. picture: something that it is made of is the picture's."""
    inner: Tensor  # on the meta device
    weight: bool
    picture: bool

    @staticmethod
    def __new__(cls, inner: Tensor, weight: bool = False, picture: bool = False):
        made = Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
                                             dtype=inner.dtype, device=HOME)
        made.inner, made.weight, made.picture = inner, weight, picture
        return made

    def __repr__(self) -> str:
        return f"Blank({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} can't run on a tensor without values")


def blank(*shape: int, dtype: torch.dtype = torch.float32, weight: bool = False, picture: bool = False) -> Blank:
    """To be made before the mode begins."""
    return Blank(torch.empty(shape, dtype=dtype, device=META), weight, picture)


def _tensors(value) -> list[Tensor]:
    """The tensors inside."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [leaf for part in parts for leaf in _tensors(part)]


def _mapped(of: Callable, value):
    """The same structure with of(tensor) for each tensor."""
    if isinstance(value, Tensor):
        return of(value)
    if isinstance(value, dict):
        return {name: _mapped(of, one) for name, one in value.items()}
    return type(value)(_mapped(of, one) for one in value) if type(value) in (tuple, list) else value


def _storage(value: Tensor):
    return (value.inner if isinstance(value, Blank) else value).untyped_storage()


def _on_meta(value: Tensor) -> Tensor:
    """A tensor's shape."""
    if isinstance(value, Blank):
        return value.inner
    strides = value.stride() if value.layout == torch.strided else torch.empty(value.shape, device=META).stride()
    return torch.empty_strided(value.shape, strides, dtype=value.dtype, device=META)


def of_weights(value: Tensor) -> bool:
    return value.weight if isinstance(value, Blank) else isinstance(value, nn.Parameter)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> int:
    """FLOPs of scores and mixing."""
    return 2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])


class Counting(TorchDispatchMode):
    """While it lasts, code runs on shapes, and its FLOPs are counted as torch's own counter counts them.

    products: those of `flops` in which no factor is a weight, as in attention. All tensors have the CPU for their device.
    """

    def __init__(self):
        super().__init__()
        self.flops = self.products = 0
        # storages: of tensors that had values, until something without was written into them; and of those that the picture was written into
        self._spoilt: dict[int, object] = {}
        self._pictured: dict[int, object] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = {name: value for name, value in (kwargs or {}).items() if name != "pin_memory"}, func._overloadpacket
        if packet not in flop_registry and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = self._run(func, args, kwargs)
        if packet in flop_registry or packet is ATTENTION:
            spent = _attention(*args[:3]) if packet is ATTENTION else flop_registry[packet](*args, **kwargs, out_val=out)
            self.flops += spent
            self.products += 0 if any(map(of_weights, _tensors(args))) else spent
        return out

    def of_picture(self, value) -> bool:
        """Whether a tensor in a structure is made of the picture."""
        return any(isinstance(leaf, Blank) and leaf.picture or leaf.layout == torch.strided and _storage(leaf)._cdata in self._pictured
                   for leaf in _tensors(value))

    def _keeps(self, value: Tensor) -> bool:
        """Whether a tensor's values are there and may be read: weights may lie elsewhere."""
        return (type(value) is Tensor and value.device == HOME and value.layout == torch.strided and value.numel() <= LARGEST
                and _storage(value)._cdata not in self._spoilt)

    def _run(self, func, args: tuple, kwargs: dict):
        if func in INDEXED:
            args = (args[0], self._by_number(args[1]), *args[2:])
        given = _tensors((args, kwargs))
        placed = any(one.name == "device" for one in func._schema.arguments)

        def run(of: Callable, device: torch.device):
            named = _mapped(of, kwargs)
            return func(*_mapped(of, args), **{**named, "device": device} if placed else named)
        if all(map(self._keeps, given)):
            try:
                shapes = run(_on_meta, META)
            except (NotImplementedError, RuntimeError):  # its shape goes by values, or they are wrong
                return run(lambda value: value, HOME)
            if all(one.numel() <= LARGEST for one in _tensors(shapes)):
                return run(lambda value: value, HOME)
        else:
            shapes = run(_on_meta, META)
        weight, picture = bool(given) and all(map(of_weights, given)), self.of_picture(given)
        written = [value for value, one in zip(args, func._schema.arguments) if one.alias_info and one.alias_info.is_write]
        if written:
            return self._written(func, written[0], weight, picture)
        return _mapped(lambda one: Blank(one, weight, picture), shapes)

    def _written(self, func, into: Tensor, weight: bool, picture: bool) -> Tensor:
        """A tensor that something without values was written into."""
        storage = _storage(into)
        if picture:
            self._pictured[storage._cdata] = storage
        if not isinstance(into, Blank):
            self._spoilt[storage._cdata] = storage
            return into
        into.weight &= weight
        if into.shape != into.inner.shape:
            raise RuntimeError(f"{func} changes the shape of a tensor without values")
        return into

    def _by_number(self, index: list) -> list:
        """An index whose masks have values, with the numbers of the rows that they choose instead."""
        if not any(isinstance(one, Tensor) and one.dtype == torch.bool and self._keeps(one) for one in index):
            return index
        masked = ([*one.nonzero().unbind(1)] if isinstance(one, Tensor) and one.dtype == torch.bool and self._keeps(one) else [one] for one in index)
        return [one for part in masked for one in part]
