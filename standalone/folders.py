"""The folders of the run that is going on."""

from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
import os
from pathlib import Path
import shutil
import stat
import tempfile
import time
from typing import Iterator

KEPT = 3 * 24 * 3600  # seconds that previews are kept


def _temp() -> Path:
    """Each user has previews of their own; Windows already has a temporary folder for each."""
    return Path(tempfile.gettempdir()) / f"dit-blocks-{os.getuid() if hasattr(os, 'getuid') else 0}"


def private_temp() -> Path:
    """A folder for previews that only this user can write to, without what is older than three days."""
    folder = _temp()
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or hasattr(os, "getuid") and found.st_uid != os.getuid():
        # Whoever put a link or a folder there could read the previews, or have them written over other files.
        return Path(tempfile.mkdtemp(prefix="dit-blocks-"))
    folder.chmod(0o700)
    for entry in folder.iterdir():
        with suppress(OSError):
            if entry.lstat().st_mtime < time.time() - KEPT:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    return folder


@dataclass(frozen=True)
class Folders:
    """Where pictures are read from and written to; `temp` is for previews; `models` has a folder for each kind of model, as in
    ComfyUI: diffusers, diffusion_models."""

    input: Path = Path("input")
    output: Path = Path("output")
    temp: Path = field(default_factory=_temp)
    models: Path = Path("models")

    def of(self, kind: str) -> Path:
        return getattr(self, kind)


_current: ContextVar[Folders | None] = ContextVar("folders", default=None)


def current() -> Folders:
    return _current.get() or Folders()


@contextmanager
def use(folders: Folders) -> Iterator[None]:
    """Let the nodes that run inside the block see `folders`."""
    token = _current.set(folders)
    try:
        yield
    finally:
        _current.reset(token)
