"""Writing files so that nobody ever sees half of one, and none is written over by mistake."""

from contextlib import suppress
from itertools import count
import os
from pathlib import Path
import time
from typing import Callable

from safetensors import SafetensorError
import torch

LOCKS = os.name == "nt"  # Windows: a file that a program has open or mapped can't be replaced
TRIES, PAUSE = 5, 0.2  # virus scanners and indexers hold a new file for a moment
LONGEST = 80  # letters of a file's name that its unfinished twin keeps
Write = Callable[[Path], None]

_number = count()


def replace_atomically(path: Path, write: Write) -> None:
    """Let `write` fill a file beside `path`, then rename it into place. Raises OSError in one line, and leaves what was there before."""
    aside = _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        _replace(aside, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own for a full disk
        raise OSError(f"{path} can't be written: {reason(error)}") from error
    finally:
        _remove(aside)


def write_new(path_of: Callable[[int], Path], number: int, write: Write) -> Path:
    """Let `write` fill a file, then give it the first name from `path_of(number)` on that is free: → its path. However many programs do
    this at once, each gets a name of its own. Raises OSError in one line."""
    path = path_of(number)
    aside = _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        for number in count(number):
            path = path_of(number)
            with suppress(FileExistsError):
                _claim(aside, path)
                return path
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(f"{path} can't be written: {reason(error)}") from error
    finally:
        _remove(aside)


def save_state(values: dict, path: Path) -> None:
    """Write tensors and numbers as `torch.load` reads them. Raises OSError, as `replace_atomically`."""
    def write(aside: Path) -> None:
        with aside.open("wb") as file:  # given a path, torch does not say why it can't be written
            torch.save(values, file)
    replace_atomically(path, write)


def _aside(path: Path) -> Path:
    """Where a file is written before it has its name: no other process or thread writes there."""
    return path.with_name(f".{path.name[:LONGEST]}.{os.getpid()}.{next(_number)}.part")


def _claim(aside: Path, path: Path) -> None:
    """Rename a file, but never over another one. Raises FileExistsError."""
    try:
        os.link(aside, path)  # unlike a rename, a link fails if the name is taken
    except FileExistsError:
        raise
    except OSError:  # a disk without links: take the name with an empty file first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            _replace(aside, path)
        except OSError:
            _remove(path)
            raise


def _replace(aside: Path, path: Path) -> None:
    for tried in range(TRIES):
        try:
            os.replace(aside, path)
            return
        except PermissionError as error:
            if not LOCKS:
                raise
            if tried == TRIES - 1:
                raise PermissionError(error.errno, "a program has it open, perhaps this one; save under another name") from error
            time.sleep(PAUSE)


def _remove(path: Path) -> None:
    """Remove what is left over. On a full or read-only disk this fails too, and says less than what failed before."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def reason(error: BaseException) -> str:
    """What the system said, if it said something."""
    cause: BaseException | None = error
    while cause and not getattr(cause, "strerror", None):
        cause = cause.__context__
    return getattr(cause, "strerror", None) or " ".join(str(error).split())[:200]
