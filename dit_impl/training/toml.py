"""TOML files that say what to train: entries by name, each of the type of its default."""

from collections.abc import Mapping
from pathlib import Path
import tomllib
from typing import Any

from ..errors import RecipeError
from ..reading import check_entries, check_value


def read_toml(path: Path) -> dict[str, Any]:
    """The entries of a file. Raises RecipeError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a recipe: {error}") from None


def checked(values: Any, defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Entries with tuples for lists. where: begins an error line, such as "[train]". Raises RecipeError for a name that `defaults` does not
    have, and for a value of another type than its default."""
    return check_entries(values, {name: type(default) for name, default in defaults.items()}, where, f"{where} ", RecipeError)


def check_kind(what: str, value: Any, wanted: type) -> None:
    """Raise RecipeError if a value is of another type; a whole number is allowed for a number."""
    check_value(what, value, wanted, RecipeError)
