"""TOML files that say what to train: entries by name, each of the type of its default."""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping
from pathlib import Path
import tomllib
from typing import Any

from ..errors import RecipeError
from ..reading import check_entries, check_value


def read_toml(path: Path) -> dict[str, Any]:
    """The entries of a file in UTF-8 or, as editors on Windows save it, with a byte order mark or in UTF-16. Raises RecipeError."""
    try:
        data = path.read_bytes()
        return tomllib.loads(data.decode("utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"))
    except RecursionError:
        raise RecipeError(f"{path}: not a recipe: its values are nested too deeply") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: not a recipe: {error}") from None


def checked(values: Any, defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Entries with tuples for lists. where: begins an error line, such as "[train]". Raises RecipeError for a name that `defaults` does not
    have, and for a value of another type than its default."""
    kinds = {name: tuple[type(default[0]), ...] if isinstance(default, tuple) and default else type(default) for name, default in defaults.items()}
    return check_entries(values, kinds, where, f"{where} ", RecipeError)


def check_kind(what: str, value: Any, wanted: type) -> None:
    """Raise RecipeError if a value is of another type; a whole number is allowed for a number."""
    check_value(what, value, wanted, RecipeError)
