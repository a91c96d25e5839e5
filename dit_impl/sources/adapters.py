"""Patch-size adapters: a patch size that a frozen model was taught later, as one small file, and a model that has one.

The model's own sizes are read by its own weights, bit for bit as before. A taught size is read by a copy of the model whose attention and
MLP have the adapter merged into them; all other weights are shared. FlexiDiT (Anagnostidis et al. 2025), §3.2.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
import json
from pathlib import Path
from typing import Annotated

from safetensors.torch import save_file
import torch
from torch import Tensor, nn

from ..errors import BackboneError, CheckpointError, LayoutError
from ..handle.backbone import Backbone, DitHandle
from ..model.copies import hollow_copy, shared_copy
from ..model.dit import DiT
from ..model.mmdit import MMDiT, Streams
from ..reading import Between, check_value
from .adapter_layers import extended, merge, new_parameters
from .atomic import replace_atomically
from .checkpoints import METADATA_KEY, check, listed, read_safetensors
from .fingerprints import alike, fingerprint, likeness

KEY = "patch_size_adapter"  # in a file's metadata
_Positive = Annotated[int, Between(1)]
_KINDS = {"patch_size": _Positive, "start": _Positive, "rank": _Positive, "wide_rank": Annotated[int, Between(0)], "base": str, "name": str,
          "architecture": dict, "facts": dict}


@dataclass(frozen=True)
class Adapter:
    """What was taught. start: the model's size that it began from; rank: of the low-rank additions, wide_rank: of those to embedding and
    head, 0 where all their weights were learnt. base: `fingerprint` of the model it is for; name, architecture: that model's. facts: of the
    training, for people to read. weights: by the names they have in an `extended` model. likeness: of the model's weights, which also knows
    them in another number type; "" in older files."""
    patch_size: int
    start: int
    rank: int
    wide_rank: int
    base: str
    name: str
    architecture: Mapping
    facts: Mapping
    weights: Mapping[str, Tensor]
    likeness: str = ""

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return sum(weight.numel() for weight in self.weights.values())

    def __str__(self) -> str:
        whole = self.facts.get("base_parameters")
        share = f", {self.size / whole:.1%} of the model's" if whole else ""
        told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.facts.items() if key != "base_parameters")
        return f"patch size {self.patch_size} for {self.name}: {self.size:,} parameters{share}" + (f"; {told}" if told else "")


def base_state(model: nn.Module) -> Mapping[str, Tensor]:
    """The weights that a model's fingerprint is of."""
    return model.base_state() if hasattr(model, "base_state") else model.state_dict()


def check_adapter(adapter: Adapter, state: Mapping[str, Tensor], sizes: tuple[int, ...], shapes: Callable[[], Mapping[str, tuple[int, ...]]],
                  name: str) -> None:
    """Raise CheckpointError unless an adapter is for the model of these weights and patch sizes, and its weights have the shapes that are
    wanted. `shapes` is asked last, when the rest of the adapter is known to fit."""
    p, found = adapter.patch_size, fingerprint(state)
    if found != adapter.base and not (adapter.likeness and alike(adapter.likeness, likeness(state))):
        raise CheckpointError(f"the adapter for patch size {p} is for {adapter.name or 'another model'} ({adapter.base[:8]}), "
                              f"not for {name} ({found[:8]})")
    if p in sizes or adapter.start not in sizes:
        raise CheckpointError(f"the adapter is for patch size {p} from {adapter.start}, {name} has {', '.join(map(str, sizes))}")
    try:
        check(shapes(), adapter.weights)
    except LayoutError as error:
        raise CheckpointError(f"the adapter for patch size {p} does not fit its model: {error}") from None


class _Adapted:
    """A model that chooses by patch size between its own weights and copies of itself that were taught a size. Put before MMDiT or DiT."""
    adapters: tuple[Adapter, ...]
    taught: nn.ModuleDict

    def _by_size(self, name: str, patch_size: int):
        """A stage of the model that reads this size."""
        taught = self.taught[str(patch_size)] if str(patch_size) in self.taught else None
        return getattr(super(), name) if taught is None else getattr(taught, name)

    def patch_embed(self, tokens: Tensor, patch_size: int) -> Tensor:
        return self._by_size("patch_embed", patch_size)(tokens, patch_size)

    def position_embedding(self, grid: tuple[int, int], patch_size: int) -> Tensor:
        return self._by_size("position_embedding", patch_size)(grid, patch_size)

    def condition(self, t: Tensor, given: Tensor, patch_size: int) -> Tensor:
        return self._by_size("condition", patch_size)(t, given, patch_size)

    def run_blocks(self, hidden: Streams, start: int = 0, stop: int | None = None) -> Streams:
        return self._by_size("run_blocks", hidden.patch_size)(hidden, start, stop)

    def head(self, hidden: Streams) -> Tensor:
        return self._by_size("head", hidden.patch_size)(hidden)


class AdaptedMMDiT(_Adapted, MMDiT):
    """An MM-DiT with adapters."""


class AdaptedDiT(_Adapted, DiT):
    """A class-conditional DiT with adapters."""


def adapters_of(dit: DitHandle) -> tuple[Adapter, ...]:
    """The adapters that a DIT carries."""
    return getattr(dit, "adapters", None) or getattr(getattr(dit, "model", None), "adapters", ())


def adapter_of(dit: DitHandle, patch_size: int = 0) -> Adapter:
    """The adapter for a patch size that a DIT carries, 0 for the last. Raises BackboneError."""
    carried = {adapter.patch_size: adapter for adapter in adapters_of(dit)}
    if not carried:
        raise BackboneError(f"{dit.name} carries no adapter: teach it a patch size with Train DiT, or load an adapter")
    if patch_size and patch_size not in carried:
        raise BackboneError(f"{dit.name} carries adapters for patch sizes {', '.join(map(str, carried))}, not {patch_size}")
    return carried[patch_size or list(carried)[-1]]


def apply_adapter(dit: DitHandle, adapter: Adapter) -> DitHandle:
    """→ a DIT that reads one more patch size, over the same weights; `dit` is left as it is. An adapter of the same size takes the place of
    one that was there. Raises CheckpointError for an adapter of another model, BackboneError for a model that can have none."""
    if hasattr(dit, "with_adapter"):  # a MODEL, which the host knows how to change
        return dit.with_adapter(adapter)
    model = base_of(dit)
    p, sizes = adapter.patch_size, model.config.patch_sizes
    taught = _taught(model, adapter, dit.name)
    others = {str(other.patch_size): dit.model.taught[str(other.patch_size)] for other in adapters_of(dit) if other.patch_size != p}
    made = shared_copy(model)
    # the copy's layers may be a host's own, so it can't be built anew from its configuration
    made.__class__ = AdaptedMMDiT if isinstance(model, MMDiT) else AdaptedDiT
    made.adapters = (*(other for other in adapters_of(dit) if other.patch_size != p), adapter)
    made.config = replace(model.config, patch_sizes=(*sizes, *(one.patch_size for one in made.adapters)))
    made.taught = nn.ModuleDict({**others, str(p): taught})
    _tie(made)
    return replace(dit, model=made.eval())


def _tie(model: nn.Module) -> None:
    """Let the taught copies hold the very parameters that they share with the model: a host that moves them to a device moves them once."""
    own = {(p.data_ptr(), p.shape): p for name, p in model.named_parameters() if not name.startswith("taught.")}
    for module in model.taught.modules():
        for name, p in module.named_parameters(recurse=False):
            module.register_parameter(name, own.get((p.data_ptr(), p.shape), p))


def base_of(dit: DitHandle) -> MMDiT | DiT:
    """A DIT's model without its adapters. Raises BackboneError for one that can have none."""
    if not isinstance(dit, Backbone):
        raise BackboneError(f"{dit.name} is a MODEL that can have no patch-size adapter")
    if hasattr(dit.model, "extended"):  # a host's model, which is taught in its own way
        return dit.model
    if not isinstance(dit.model, (MMDiT, DiT)):
        raise BackboneError(f"{dit.name} runs whole, by diffusers: a patch-size adapter is for models with stages")
    if not isinstance(dit.model, _Adapted):
        return dit.model
    model = shared_copy(dit.model)
    model.__class__ = MMDiT if isinstance(model, MMDiT) else DiT
    model.config = replace(model.config, patch_sizes=tuple(p for p in model.config.patch_sizes if str(p) not in model.taught))
    del model.taught, model.adapters
    return model


def _taught(model: MMDiT | DiT, adapter: Adapter, name: str) -> nn.Module:
    """The copy of a model that reads the adapter's size. Raises CheckpointError where the adapter is not for this model."""
    state, sizes = model.state_dict(), model.config.patch_sizes
    numbers = adapter.patch_size, adapter.start, adapter.rank, adapter.wide_rank

    def shapes() -> dict[str, tuple[int, ...]]:
        # of a model without numbers in it: what a file says of its size is not to be believed, nor paid for
        return {name: tuple(p.shape) for name, p in new_parameters(extended(hollow_copy(model), *numbers)).items()}
    check_adapter(adapter, state, sizes, shapes, name)
    made = extended(model, *numbers)
    fresh = new_parameters(made)
    with torch.no_grad():
        for key, parameter in fresh.items():
            parameter.copy_(adapter.weights[key])
    return merge(made).eval()


def save_adapter(adapter: Adapter, path: Path) -> None:
    """Write an adapter as one safetensors file; `path` is there whole or not at all."""
    account = {key: value for key, value in asdict(replace(adapter, weights={})).items() if key != "weights"}
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in adapter.weights.items()}
    metadata = {"format": "pt", KEY: json.dumps(account)}
    replace_atomically(path, lambda aside: save_file(tensors, aside, metadata=metadata))


def _check_numbers(adapter: Adapter) -> None:
    """Raise ValueError unless the adapter's weights have the ranks and the patch size that it tells of."""
    for key, weight in adapter.weights.items():
        name, _, last = key.rpartition(".")
        wide = name.startswith(("x_embedder.", "final_layer.linear."))
        rank = (adapter.wide_rank if wide else adapter.rank) or adapter.rank
        if last in ("a", "b") and rank not in weight.shape:
            raise ValueError(f"{'wide_rank' if wide and adapter.wide_rank else 'rank'} is {rank}, {key} has shape {list(weight.shape)}")
    embed = next((weight for name in ("weight", "a") if (weight := adapter.weights.get(f"x_embedder.{adapter.patch_size}.{name}")) is not None), None)
    if embed is None or embed.dim() != 2 or embed.shape[1] % adapter.patch_size ** 2:
        raise ValueError(f"patch_size is {adapter.patch_size}, but it has no embedding of such patches")


def load_adapter(path: Path) -> Adapter:
    """Read what `save_adapter` wrote. Raises CheckpointError."""
    tensors, metadata = read_safetensors(path)
    if KEY not in metadata:
        what = " (it is a model: use Load DiT)" if METADATA_KEY in metadata else ""
        raise CheckpointError(f"{path}: no patch-size adapter{what}; its metadata has no {KEY!r}")
    try:
        account = dict(json.loads(metadata[KEY]))
        adapter = Adapter(**{name: check_value(name, account[name], kind) for name, kind in _KINDS.items()}, weights=tensors,
                          likeness=check_value("likeness", account.get("likeness", ""), str))
        _check_numbers(adapter)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: its metadata {KEY!r} does not describe an adapter: {' '.join(reason.split())[:200]}") from None
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken or not tensors:
        raise CheckpointError(f"{path}: {f'{listed(broken)} holds values that are NaN or infinite' if broken else 'it holds no weights'}")
    # what is mapped from a file would change with it
    return replace(adapter, weights={name: value.clone() for name, value in tensors.items()})
