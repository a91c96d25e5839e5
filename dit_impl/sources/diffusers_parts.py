"""The files of a diffusers folder: JSON, safetensors in one piece or in shards, and which library's class each part is."""

from collections.abc import Callable, Mapping
import json
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, StandInError
from .checkpoints import read_safetensors

VARIANTS = ("", ".fp16", ".bf16")
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


class Load(Protocol):
    """Brings models to the device that computes, with room for `memory` bytes beside them."""

    def __call__(self, modules: list[nn.Module], memory: float = 0) -> None: ...


class Unavailable:
    """Stands where a CLIP or a VAE can't be: whatever ComfyUI's nodes ask of it, it says why."""

    def __init__(self, reason: str):
        self.reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(name) if name.startswith("__") else StandInError(self.reason)


def _shown(path: Path) -> str:
    """`folder/part/file`, without where the models are kept."""
    return "/".join(path.parts[-2:] if path.name == "model_index.json" else path.parts[-3:])


def read_json(path: Path) -> dict:
    """A JSON object. Raises CheckpointError; one that asks for code of its own is refused."""
    try:
        values = json.loads(path.read_bytes())  # UTF-8, UTF-16 or UTF-32, with or without a byte order mark
    except FileNotFoundError:
        raise CheckpointError(f"{_shown(path)}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{_shown(path)}: not JSON ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{_shown(path)}: not a JSON object")
    if "auto_map" in values:
        raise CheckpointError(f"{_shown(path)}: auto_map asks to run code of the model's own (trust_remote_code), which is never done")
    return values


def part_of(folder: Path, index: Mapping, part: str, library: str) -> str | None:
    """The class that model_index.json gives a part, None where it gives none. Only these libraries' own classes are run."""
    entry = index.get(part)
    if entry is None or entry == [None, None]:
        if part.startswith("text_encoder") or part.startswith("tokenizer"):
            return None
        raise CheckpointError(f"{folder.name}/model_index.json names no {part}")
    if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(item, str) for item in entry):
        raise CheckpointError(f"{folder.name}/model_index.json: {part} is {str(entry)[:80]}, not [library, class]")
    if entry[0] != library:
        raise CheckpointError(f"{folder.name}: its {part} is from {entry[0][:80]!r}; only classes of {library} are run, "
                              "never code that comes with a model")
    return entry[1]


def check_count(name: str, key: str, told: Any, found: int) -> None:
    """Raise CheckpointError unless a config.json tells as many of something as the weights have: a library builds what it is told."""
    if type(told) is not int or told != found:
        raise CheckpointError(f"{name}: its config.json has {key} = {str(told)[:40]}, its weights have {found}")


def check_size(name: str, build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if a config.json describes a model of many more parameters than there are in the weights. `build` makes it,
    here without storage; what else is wrong with it is left to who builds it in earnest."""
    try:
        with torch.device("meta"):
            told = sum(parameter.numel() for parameter in build().parameters())
    except Exception as error:  # whatever a library makes of settings that do not fit it
        raise CheckpointError(f"{name}: its config.json describes no model ({' '.join(str(error).split())[:200]})") from None
    found = sum(tensor.numel() for tensor in tensors.values())
    if told > 2 * found:
        raise CheckpointError(f"{name}: its config.json describes {told:,} parameters, its weights have {found:,}")


def all_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """The tensors of all of a part's shards, mapped from their files."""
    tensors: dict[str, Tensor] = {}
    for shard in shards(folder, stem):
        tensors |= read_safetensors(shard)[0]
    return tensors


def index_of(folder: Path, stem: str, variant: str) -> Path | None:
    """The file that says which shard each weight is in; diffusers up to 0.30 named a variant's otherwise. None if there is none."""
    names = (".".join(filter(None, (stem, "safetensors.index", variant, "json"))), ".".join(filter(None, (stem, "safetensors", variant, "index.json"))))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def variant_of(folder: Path, stem: str) -> str:
    """Which of the variants of a part's weights are there: "", "fp16" or "bf16". Raises CheckpointError where there is none."""
    for variant in VARIANTS:
        if (folder / f"{stem}{variant}.safetensors").is_file() or index_of(folder, stem, variant.removeprefix(".")):
            return variant.removeprefix(".")
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    if pickles:
        raise CheckpointError(f"{'/'.join(folder.parts[-2:])} has only pickles ({pickles[0]}), which can run code and are never opened: "
                              "save it with safe_serialization=True")
    raise CheckpointError(f"{'/'.join(folder.parts[-2:])} has no {stem}.safetensors and no {stem}.safetensors.index.json")


def shards(folder: Path, stem: str) -> list[Path]:
    """The safetensors files that a part's weights are in. Raises CheckpointError, which names one that is missing."""
    variant = variant_of(folder, stem)
    whole = folder / ".".join(filter(None, (stem, variant, "safetensors")))
    if whole.is_file():
        return [whole]
    index = index_of(folder, stem, variant)
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{_shown(index)}: its weight_map does not say which file each weight is in")
    found = sorted(set(names.values()))
    for name in found:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{_shown(index)}: {name[:80]!r} is not the name of a safetensors file beside it")
        if not (folder / name).is_file():
            raise CheckpointError(f"{'/'.join(folder.parts[-2:])}: the shard {name} is missing ({len(found)} are named in {index.name})")
    return [folder / name for name in found]
