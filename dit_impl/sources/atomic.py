"""Writing files so that a reader never sees half of one."""

import os
from pathlib import Path
from typing import Callable

from safetensors import SafetensorError
import torch


def replace_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then rename it into place. Raises OSError in one line, and leaves what was there before."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        os.replace(aside, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own for a full disk
        raise OSError(f"{path} can't be written: {_reason(error)}") from error
    finally:
        aside.unlink(missing_ok=True)


def save_state(values: dict, path: Path) -> None:
    """Write tensors and numbers as `torch.load` reads them. Raises OSError, as `replace_atomically`."""
    def write(aside: Path) -> None:
        with aside.open("wb") as file:  # of a path torch does not say why it can't be written
            torch.save(values, file)
    replace_atomically(path, write)


def _reason(error: BaseException) -> str:
    """What the system said, where it said something."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, OSError):
        cause = cause.__context__
    return getattr(cause, "strerror", None) or " ".join(str(error).split())[:200]
