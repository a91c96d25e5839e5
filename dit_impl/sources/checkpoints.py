"""Models from and to safetensors: the architecture is read off the file, every key is accounted for, and nothing is guessed."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import reduce
import json
from pathlib import Path
import re
from typing import Annotated

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import CheckpointError, LayoutError
from ..model.blocks import COMPUTED
from ..model.dit import DiT, DiTConfig
from ..model.mmdit import MMDiT, MMDiTConfig
from ..reading import OneOf, check_value, read
from .atomic import replace_atomically
from .layouts import Config, Layout, Shapes, Source, recognise

# Our own format: our keys, the architecture as JSON in the metadata, and tensors that travel with the weights.
OWN_KEY, METADATA_KEY, EXTRA = r"x_embedder\.\d+\..*", "config", "extra."
PREFIX = "model.diffusion_model."  # of the transformer in checkpoints that hold a text encoder and a VAE too
CHOICES = {"position": ("cropped", "picture", "learned", "none"), "prediction": ("velocity", "x0", "epsilon", "v")}
AT_LEAST_1 = ("in_channels", "width", "depth", "heads", "context_width", "pooled_width", "position_table")
SHOWN = 3
MOST_BLOCKS, MOST_SIZES = 1000, 64  # past these a file does not mean what it says


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by key, mapped from the file rather than read, and the metadata. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).removeprefix("Error while deserializing header: ").split())[:200]
        raise CheckpointError(f"{path}: not a whole safetensors file ({reason})") from None


def load_model(source: str | Path | Mapping[str, Tensor], config: Config | Mapping | None = None, *,
               dtype: torch.dtype | None = torch.float32, ops=nn, name: str = "checkpoint") -> MMDiT | DiT:
    """A model from a safetensors file or a state dict: our own format, SD3's, DiT's, or diffusers' of either.

    `config` is a diffusers config.json, for what shapes do not tell (heads, sample_size), or our own architecture where
    the tensors carry none. dtype None keeps what is stored. `name` is what messages call a state dict. Raises CheckpointError.
    """
    if isinstance(source, Mapping):
        tensors, metadata = dict(source), {}
    else:
        name, (tensors, metadata) = str(source), read_safetensors(source)
    try:
        if isinstance(config, Config) or any(re.fullmatch(OWN_KEY, key) for key in tensors):
            tensors = {key: value for key, value in tensors.items() if not key.startswith(EXTRA)}
            if not isinstance(config, Config):
                config = parse_config(metadata.get(METADATA_KEY), tensors)
            return assemble(config, tensors, dtype, ops)
        if any(key.startswith(PREFIX) for key in tensors):
            tensors = {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}
        layout = recognise(set(tensors))
        if layout is None:
            raise LayoutError(f"not a transformer that is known here (SD3, SD3.5 or DiT, original or diffusers); "
                              f"its keys are {listed(tensors) or 'none'}")
        return assemble(*translate(layout, tensors, config or {}), dtype, ops)
    except LayoutError as error:
        raise CheckpointError(f"{name}: {error}") from None


def save_model(model: MMDiT | DiT, path: str | Path, *, dtype: torch.dtype | None = None,
               extra_tensors: Mapping[str, Tensor] | None = None, extra_metadata: Mapping[str, str] | None = None) -> None:
    """Write our own format: weights (as dtype), architecture as JSON, and tensors that load_model leaves alone."""
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in model.state_dict().items()}
    tensors |= {EXTRA + key: value.detach().cpu().clone() for key, value in (extra_tensors or {}).items()}
    metadata = {**(extra_metadata or {}), "format": "pt", METADATA_KEY: json.dumps(asdict(model.config))}
    replace_atomically(Path(path), lambda aside: save_file(tensors, aside, metadata=metadata))


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], name: str,
                  dtype: torch.dtype | None = torch.float32) -> nn.Module:
    """Give a module exactly these tensors, as copies of type dtype. Raises CheckpointError before anything is changed."""
    try:
        check(shapes_of(module), tensors)
    except LayoutError as error:
        raise CheckpointError(f"{name}: {error}") from None
    return fill(module, tensors, dtype)


def listed(keys: Iterable[str]) -> str:
    """A few of the keys: "a, b, c and 4 more"."""
    keys = sorted(key if key.isprintable() else ascii(key) for key in keys)
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(key[:100] for key in keys[:SHOWN]) + more


def check(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    """Raise LayoutError unless the tensors are exactly those expected, of these shapes, in floating point."""
    faults = []
    if missing := expected.keys() - tensors.keys():
        faults.append(f"missing {listed(missing)}")
    if unexpected := tensors.keys() - expected.keys():
        faults.append(f"unexpected {listed(unexpected)}")
    both = expected.keys() & tensors.keys()
    if wrong := {key for key in both if tuple(tensors[key].shape) != expected[key]}:
        first = min(wrong)
        faults.append(f"wrong shape of {listed(wrong)} ({list(tensors[first].shape)} where {list(expected[first])} fits)")
    if wrong := {key for key in both if not tensors[key].is_floating_point()}:
        faults.append(f"not floating point: {listed(wrong)}")
    if faults:
        raise LayoutError("; ".join(faults))


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Key → shape of every parameter."""
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def fill(module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> nn.Module:
    """Give a module copies of these tensors: what is mapped from a file would change with it."""
    if dtype is None and not any(hasattr(layer, "comfy_cast_weights") for layer in module.modules()):
        dtype = common_type(value.dtype for value in tensors.values())
    module.load_state_dict({key: value.to(dtype or value.dtype, copy=True) for key, value in tensors.items()}, assign=True)
    return module


def common_type(types: Iterable[torch.dtype]) -> torch.dtype:
    """The least type to compute in that holds weights of all these: for layers that do not cast them. All of float8 is in bfloat16."""
    return reduce(torch.promote_types, {one if one in COMPUTED else torch.bfloat16 for one in types})


class _Unfilled(TorchFunctionMode):
    """Draws no random numbers: on no storage they change nothing, but torch takes a second to import its compiler for them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **(kwargs or {}))


@contextmanager
def without_storage() -> Iterator[None]:
    """Modules that are made here have weights of shapes and types alone, for `fill`."""
    with torch.device("meta"), _Unfilled():
        yield


def skeleton(config: Config, ops=nn) -> MMDiT | DiT:
    """The model that a config describes, its weights without storage. Raises LayoutError where it describes none."""
    for name in AT_LEAST_1:
        if getattr(config, name, 1) < 1:
            raise LayoutError(f"{name} is {getattr(config, name)}, not at least 1")
    if not config.patch_sizes or min(config.patch_sizes) < 1 or len(config.patch_sizes) > MOST_SIZES:
        raise LayoutError(f"patch_sizes are {list(config.patch_sizes)[:8]}, not 1 to {MOST_SIZES} numbers from 1")
    if config.depth > MOST_BLOCKS:
        raise LayoutError(f"depth is {config.depth}, the most is {MOST_BLOCKS}")
    if not config.position_base > 0:
        raise LayoutError(f"position_base is {config.position_base}, not more than 0")
    for divisor, what in ((config.heads, "heads"), (4, "parts of a 2-D position")):
        if config.width % divisor:
            raise LayoutError(f"width {config.width} does not divide into {divisor} {what}")
    try:
        with without_storage():
            return (MMDiT if isinstance(config, MMDiTConfig) else DiT)(config, ops)
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes past what a tensor, or torch's numbers, can have
        raise LayoutError(f"no model of width {config.width}: {' '.join(str(error).split())[:100]}") from None


def assemble(config: Config, tensors: Mapping[str, Tensor], dtype: torch.dtype | None, ops) -> MMDiT | DiT:
    """The model of this architecture with exactly these tensors, named as ours."""
    depth = Shapes(tensors).depth("joint_blocks" if isinstance(config, MMDiTConfig) else "blocks")
    if depth != config.depth:
        raise LayoutError(f"has {depth} blocks where its architecture has {config.depth}")
    # checked on plain layers: ComfyUI's may have no parameters until they are loaded
    check(shapes_of(skeleton(config)), tensors)
    return fill(skeleton(config, ops), tensors, dtype)


def translate(layout: Layout, tensors: Mapping[str, Tensor], settings: Mapping) -> tuple[Config, dict[str, Tensor]]:
    """Architecture and our tensors from another project's. Raises LayoutError naming its keys."""
    config = layout.read(Shapes(tensors), settings)
    ours = shapes_of(skeleton(config))
    sources: dict[str, Source] = {key: layout.source(key, config) for key in ours}
    expected = {theirs: source.shape(ours[key], config.patch_size)
                for key, source in sources.items() for theirs in source.keys}
    try:
        check(expected, {key: value for key, value in tensors.items() if key not in layout.ignored})
    except LayoutError as error:
        raise LayoutError(f"does not fit {layout.name} of width {config.width} and depth {config.depth}: {error}") from None
    return config, {key: source.make(tensors, config.patch_size) for key, source in sources.items()}


def parse_config(text: str | None, tensors: Mapping[str, Tensor]) -> Config:
    """The architecture that our own metadata describes. Raises LayoutError."""
    if text is None:
        raise LayoutError(f"has no {METADATA_KEY!r} in its metadata to tell its architecture")
    kind = MMDiTConfig if any(key.startswith("joint_blocks.") for key in tensors) else DiTConfig
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise LayoutError(f"metadata {METADATA_KEY!r} is not JSON: {text[:80]!r}") from None
    config = read(kind, values, f"metadata {METADATA_KEY!r}", f"metadata {METADATA_KEY!r}: ", LayoutError)
    for key, choices in CHOICES.items():
        check_value(f"metadata {METADATA_KEY!r}: {key}", getattr(config, key), Annotated[str, OneOf(*choices)], LayoutError)
    return config
