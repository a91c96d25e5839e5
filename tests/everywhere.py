"""How much of a sweep is run: a part of it, or all with EVERYWHERE=1."""

from collections.abc import Iterable
import os

EVERYWHERE = bool(os.environ.get("EVERYWHERE"))


def some(names: Iterable[str], first: int = 0, always: tuple[str, ...] = (), every: int = 3) -> list[str]:
    """Every third from the first-th on, and those of `always`: sweeps that begin elsewhere go over the others."""
    return [name for i, name in enumerate(names) if EVERYWHERE or i % every == first % every or name in always]
