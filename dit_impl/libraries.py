"""Libraries that only some nodes need, diffusers above all: imported where they are used, so that the pack loads and the rest works
where one is missing, too old or broken."""

import importlib
import re
import sys
from types import ModuleType
from typing import Any

from .errors import LibraryError

OLDEST = {"diffusers": "0.36"}  # as in pyproject.toml


def library(name: str, user: str) -> ModuleType:
    """Import a library. `user` is what needs it. Raises LibraryError: one line that says why it can't be used and how to install it."""
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        fault = "it is not installed" if error.name == name else f"it can't be imported ({error})"
        raise _refusal(name, user, fault) from None
    except Exception as error:  # whatever a library makes of its own requirements
        raise _refusal(name, user, f"it can't be imported ({error})") from None
    version = str(getattr(found, "__version__", ""))
    if _numbers(version) < _numbers(OLDEST.get(name, "")):
        raise _refusal(name, user, f"this is {version}")
    return found


def diffusers_part(name: str, user: str, module: str = "diffusers") -> Any:
    """A class or function of the diffusers library. Raises LibraryError as `library` does."""
    library("diffusers", user)
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # diffusers imports its parts when they are asked for
        raise _refusal("diffusers", user, f"its {name} can't be imported ({error})") from None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _refusal(name: str, user: str, fault: str) -> LibraryError:
    oldest = OLDEST.get(name)
    wanted, bound = (f"{name} {oldest} or newer", f'"{name}>={oldest}"') if oldest else (name, name)
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    fault = " ".join(fault.split())
    return LibraryError(f"{user} needs {wanted}, and {fault[:200]}: {python} -m pip install -U {bound}")
