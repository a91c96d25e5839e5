"""TOML files that say what to train: entries by name, each of the kind that its default has."""

from collections.abc import Mapping
from pathlib import Path
import tomllib
from typing import Any

from ..errors import RecipeError


def read_toml(path: Path) -> dict[str, Any]:
    """The entries of a file. Raises RecipeError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a recipe: {error}") from None


def checked(values: Any, defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Entries as a function takes them, tuples for lists. where: what is put before a complaint. Raises RecipeError for a name that
    `defaults` has not, and for a value of another kind than its default."""
    check_kind(where, values, dict)
    for name, value in values.items():
        if name not in defaults:
            raise RecipeError(f"{where} has no setting {name!r}; it has {', '.join(sorted(defaults))}")
        check_kind(f"{where} {name}", value, type(defaults[name]))
    return {name: _tuples(value) for name, value in values.items()}


def check_kind(what: str, value: Any, wanted: type) -> None:
    """Raise RecipeError for a value of another kind; a whole number is a number too."""
    if type(value) is not {tuple: list}.get(wanted, wanted) and not (wanted is float and type(value) is int):
        raise RecipeError(f"{what} is a {wanted.__name__}, not {value!r}")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
