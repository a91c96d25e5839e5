"""The one validator of plain values from outside: questions in JSON, settings in TOML, metadata of a file.

A dataclass says what is allowed: `int`, `float`, `bool`, `str`, `dict`, `tuple[int, int]`, `tuple[int, ...]`, `X | None`, and narrower
`Annotated[int, Between(1, 64)]` or `Annotated[str, OneOf("a", "b")]`. It stands beside errors.py, below every room, because rooms from
sources to training read such values.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
import math
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a table of named values", tuple: "a list"}
SHOWN = 40  # characters of a wrong value in an error line


@dataclass(frozen=True)
class Between:
    """A number from `least` to `most`, both allowed."""
    least: float
    most: float = math.inf

    def allows(self, value: float) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"of at least {self.least}" if self.most == math.inf else f"from {self.least} to {self.most}"


@dataclass(frozen=True, init=False)
class OneOf:
    """One of these texts."""
    choices: tuple[str, ...]

    def __init__(self, *choices: str):
        object.__setattr__(self, "choices", choices)

    def allows(self, value: str) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(self.choices)}" if len(self.choices) > 1 else repr(self.choices[0])


def read(kind: type, values: Any, what: str, prefix: str = "", error: type[ValueError] = ValueError) -> Any:
    """An object's entries → a dataclass of this kind; lists become tuples.

    Raises `error` for an entry that is unknown, missing or not allowed. The line calls the object `what`, and an entry `prefix` + its name.
    """
    hints = get_type_hints(kind, include_extras=True)
    kinds = {field.name: hints[field.name] for field in fields(kind)}
    entries = check_entries(values, kinds, what, prefix, error)
    for field in fields(kind):
        if field.name not in entries and field.default is MISSING and field.default_factory is MISSING:
            raise error(f"{prefix}{field.name} is missing: it is {in_words(kinds[field.name])}")
    return kind(**entries)


def check_entries(values: Any, kinds: Mapping[str, Any], what: str, prefix: str = "",
                  error: type[ValueError] = ValueError) -> dict[str, Any]:
    """An object's entries, each of its kind; lists become tuples. Raises `error` as `read` does, but entries may be missing."""
    check_value(what, values, dict, error)
    for name in values:
        if name not in kinds:
            raise error(f"{what} has no setting {str(name)[:SHOWN]!r}; it has {', '.join(sorted(kinds))}")
    return {name: check_value(f"{prefix}{name}", value, kinds[name], error) for name, value in values.items()}


def check_value(what: str, value: Any, kind: Any, error: type[ValueError] = ValueError) -> Any:
    """A value, with tuples for lists, if its kind allows it. Raises `error` if not: `steps is a whole number from 1 to 99, not 'many'`."""
    if not allowed(value, kind):
        raise error(f"{what} is {in_words(kind)}, not {value!r:.{SHOWN}}")
    return _with_tuples(value)


def allowed(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind. A whole number is a number too; true and false are no numbers."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return allowed(value, inner[0]) and all(rule.allows(value) for rule in inner[1:])
    if origin in (Union, UnionType):
        return any(allowed(value, one) for one in inner)
    if kind is tuple or origin is tuple:
        return type(value) in (list, tuple) and _items_allowed(value, inner)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (kind if origin is None else origin)


def _items_allowed(items: list | tuple, kinds: tuple) -> bool:
    if not kinds:
        return True
    if kinds[-1] is Ellipsis:
        return all(allowed(item, kinds[0]) for item in items)
    return len(items) == len(kinds) and all(map(allowed, items, kinds))


def in_words(kind: Any) -> str:
    """What a kind allows, for an error line: "a whole number from 1 to 64", "a list of 2, each a number"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        kind, rule = inner
        return str(rule) if isinstance(rule, OneOf) else f"{in_words(kind)} {rule}"
    if origin in (Union, UnionType):
        return " or ".join(in_words(one) for one in inner if one is not NoneType)
    if origin is tuple:
        return f"a list{'' if inner[-1] is Ellipsis else f' of {len(inner)}'}, each {in_words(inner[0])}"
    kind = kind if origin is None else origin
    return WORDS.get(kind, f"a {kind.__name__}")


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
