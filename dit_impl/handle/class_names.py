"""Classes by number or by name."""

from collections.abc import Mapping
from difflib import get_close_matches

from ..errors import BackboneError


def _spelled(name: str) -> str:
    return " ".join(name.split()).lower()


def find_class(label: str, classes: int, names: Mapping[int, str], model: str) -> int:
    """The number of a class: "207", or one of the comma-separated synonyms in `names`, or all of them. Raises BackboneError."""
    wanted, last = _spelled(label), classes - 1
    if wanted.removeprefix("-").isdecimal():
        number = int(wanted)
        if not 0 <= number <= last:
            raise BackboneError(f"label {number} is outside the classes of {model}, 0 to {last}")
        return number
    if not names:
        raise BackboneError(f"{model} has no class names: label is a number from 0 to {last}, not {label!r}")
    numbers: dict[str, set[int]] = {}
    for number, synonyms in names.items():
        for name in (synonyms, *synonyms.split(",")):
            numbers.setdefault(_spelled(name), set()).add(number)
    found = sorted(numbers.get(wanted, ()))
    if not found:
        close = get_close_matches(wanted, numbers, n=1) or [names[min(names)]]
        raise BackboneError(f"label {label[:80]!r} is no class of {model}: give a number from 0 to {last}, or a name such as {close[0]!r}")
    if len(found) > 1:
        raise BackboneError(f"label {label!r} names the classes {', '.join(map(str, found))} of {model}: give the number")
    return found[0]
