"""A call of a model that runs again with other things in the place of some of its modules. Knows no model and no ComfyUI."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
import inspect
from threading import local
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ....dit_impl.errors import StagesError
from ..memory import remembering

MARK = "dit_blocks_replay"  # in the options that a replay hands to the model: by it they are known among a block's inputs
OPTIONS = "transformer_options"
WHOLE = "use DiT Denoise Step"
_missing = object()
_running = local()  # depth: of replays that run in this thread; several GPUs have a thread each
watched: WeakKeyDictionary[nn.Module, list[Callable]] = WeakKeyDictionary()  # block → (args, kwargs) → the same with an observer in them


# --- values -----------------------------------------------------------------------------------------------------------

def leaves(value) -> list[Tensor | None]:
    """The tensors inside, in order, and None where there is none. The model's options are left out."""
    if value is None or torch.is_tensor(value):
        return [value]
    if isinstance(value, dict):
        return [] if MARK in value else [leaf for one in value.values() for leaf in leaves(one)]
    return [leaf for one in value for leaf in leaves(one)] if isinstance(value, (tuple, list)) else []


def with_leaves(value, new: Iterator):
    """The same structure with other leaves."""
    if value is None or torch.is_tensor(value):
        return next(new)
    if isinstance(value, dict):
        return value if MARK in value else {name: with_leaves(one, new) for name, one in value.items()}
    if isinstance(value, (tuple, list)):
        made = [with_leaves(one, new) for one in value]
        return made if isinstance(value, list) else type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    return value


def copied(value):
    """The same with copies of its tensors, lists and dicts, which may be written to."""
    return with_leaves(value, iter([leaf if leaf is None else leaf.clone() for leaf in leaves(value)]))


def blank(value):
    """The same with tensors that have a shape and no content."""
    return with_leaves(value, iter([leaf if leaf is None else torch.empty_like(leaf, device="meta") for leaf in leaves(value)]))


def filled(template, device: torch.device, spoilt: bool = True):
    """The structure of a template, with NaN in its tensors or else with numbers of no meaning."""
    def made(leaf: Tensor | None) -> Tensor | None:
        if leaf is None:
            return None
        if not leaf.is_floating_point():
            return torch.zeros(leaf.shape, dtype=leaf.dtype, device=device)
        if spoilt:
            return torch.full(leaf.shape, torch.nan, dtype=leaf.dtype, device=device)
        return torch.linspace(-1, 1, leaf.numel(), device=device).to(leaf.dtype).reshape(leaf.shape)
    return with_leaves(template, iter([made(leaf) for leaf in leaves(template)]))


def is_spoilt(leaf: Tensor | None) -> bool:
    return leaf is not None and leaf.is_floating_point() and bool(leaf.isnan().any())


# --- modules ----------------------------------------------------------------------------------------------------------

def children_of_lists(model: nn.Module) -> dict[str, nn.Module]:
    """Path → module, for each child of a container."""
    return {f"{path}.{name}" if path else name: child for path, module in model.named_modules()
            if isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.Sequential)) for name, child in module.named_children()}


@contextmanager
def in_one_line(what: str, advice: str = f"; {WHOLE}") -> Iterator[None]:
    """Turn what goes wrong in a model's own code into StagesError, which begins with `what`. Errors of too little memory are left to ComfyUI."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, StagesError):
        raise
    except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, AssertionError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StagesError(f"{what}: {said[:160]}{advice}") from error


@contextmanager
def instead(changes: Mapping[nn.Module, Callable]) -> Iterator[None]:
    """While it lasts, a module's forward is change(its own forward, args, kwargs)."""
    before = {module: vars(module).get("forward", _missing) for module in changes}
    _running.depth = getattr(_running, "depth", 0) + 1
    try:
        for module, change in changes.items():
            vars(module)["forward"] = partial(lambda change, own, *args, **kwargs: change(own, args, kwargs), change, module.forward)
        yield
    finally:
        _running.depth -= 1
        for module, forward in before.items():
            if forward is _missing:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward


def is_replayed() -> bool:
    """Whether the forward that runs is a replay's."""
    return getattr(_running, "depth", 0) > 0


def with_options(module: nn.Module, args: tuple, kwargs: dict, change: Callable[[dict], dict]) -> tuple[tuple, dict]:
    """A block's inputs with other options; the same where it takes none."""
    if OPTIONS in kwargs:
        return args, {**kwargs, OPTIONS: change(kwargs[OPTIONS] or {})}
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    place = names.index(OPTIONS) if OPTIONS in names else len(names)
    if place < len(args):
        return (*args[:place], change(args[place] or {}), *args[place + 1:]), kwargs
    return args, {**kwargs, OPTIONS: change({})} if place < len(names) else kwargs


def run_block(module: nn.Module, own: Callable, args: tuple, kwargs: dict):
    """Run a block's own forward, with those who watch it."""
    for watch in watched.get(module, ()):
        args, kwargs = watch(args, kwargs)
    return own(*args, **kwargs)


# --- a call ------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Call:
    """A call of a model, to be replayed. memory: what the model remembers then."""
    model: nn.Module
    args: tuple
    kwargs: dict
    name: str
    memory: Mapping[str, Any]

    def __call__(self, changes: Mapping[nn.Module, Callable], **others):
        """The model's answer with some of its modules changed, and with other arguments."""
        kwargs = {**self.kwargs, **others}
        options = {**(kwargs.get(OPTIONS) or {}), MARK: True, "prefetch_dynamic_vbars": False}
        args, kwargs = copied((self.args, {**kwargs, OPTIONS: options}))
        with instead(changes), remembering(self.model, self.memory):
            return self.model(*args, **{**kwargs, OPTIONS: dict(options)})

    @property
    def latent(self) -> Tensor:
        """The picture's [B, C, …], which is the first of several."""
        return self.args[0] if torch.is_tensor(self.args[0]) else self.args[0][0]

    def with_context(self, text: Tensor) -> "Call":
        return replace(self, kwargs={**self.kwargs, "context": text})

    def with_latent(self, latent: Tensor) -> "Call":
        first = latent if torch.is_tensor(self.args[0]) else [latent, *self.args[0][1:]]
        return replace(self, args=(first, *self.args[1:]))
