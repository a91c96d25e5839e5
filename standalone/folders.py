"""The folders of the run that is going on."""

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
import os
from pathlib import Path
import tempfile
from typing import Iterator


def _user() -> int:
    """Each user has previews of their own; Windows already has a temporary folder for each."""
    return os.getuid() if hasattr(os, "getuid") else 0


@dataclass(frozen=True)
class Folders:
    """Where pictures are read from and written to; `temp` is for previews; `models` has a folder for each kind of model, as in
    ComfyUI: diffusers, diffusion_models."""

    input: Path = Path("input")
    output: Path = Path("output")
    temp: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / f"dit-blocks-{_user()}")
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
