"""Steering vectors as small safetensors files."""

from dataclasses import asdict
import json
from pathlib import Path
from typing import Annotated

from safetensors.torch import save_file

from ..errors import CheckpointError
from ..reading import Between, check_entries
from ..tokens.steering import SteeringVector
from .atomic import replace_atomically
from .checkpoints import read_safetensors

KEY = "steering_vector"  # in a file's metadata
_KINDS = {"model": str, "block": Annotated[int, Between(0, 10_000)], "tokens": Annotated[float, Between(0)], "pairs": Annotated[int, Between(1)]}


def save_vector(vector: SteeringVector, path: Path) -> None:
    """Write a vector; `path` is there whole or not at all. Raises OSError."""
    account = {name: value for name, value in asdict(vector).items() if name in _KINDS}
    tensors = {"direction": vector.direction.detach().float().cpu().contiguous()}
    replace_atomically(path, lambda aside: save_file(tensors, aside, metadata={"format": "pt", KEY: json.dumps(account)}))


def load_vector(path: Path) -> SteeringVector:
    """Read what `save_vector` wrote. Raises CheckpointError."""
    tensors, metadata = read_safetensors(path)
    if KEY not in metadata:
        raise CheckpointError(f"{path}: no steering vector; its metadata has no {KEY!r}")
    try:
        account = check_entries(json.loads(metadata[KEY]), _KINDS, f"its metadata {KEY!r}")
        vector = SteeringVector(tensors["direction"].float().clone(), **account)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: its metadata {KEY!r} does not describe a vector: {' '.join(reason.split())[:200]}") from None
    if vector.direction.dim() != 1 or not vector.direction.isfinite().all():
        raise CheckpointError(f"{path}: its direction is {list(vector.direction.shape)}, not a list of finite numbers")
    return vector
