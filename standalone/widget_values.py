"""Matches the values that a node saved with its widgets."""

from dataclasses import dataclass
from typing import Any, Iterator, Mapping

from .node_types import Socket, sockets

UPLOADS = ("image_upload", "video_upload", "animated_image_upload")
PLACES = "dit-blocks places"  # in a node that stands inside a group node: where its widgets' values are kept


@dataclass
class Place:
    """Where a widget's value is kept in the saved workflow, so that it can be overridden there too."""

    node: dict
    index: int

    def write(self, value: Any) -> None:
        values = self.node.get("widgets_values")
        if isinstance(values, list) and self.index < len(values):
            values[self.index] = value
            self.node.pop("widgets_values_named", None)


def widget_values(node: dict, info: dict | None) -> Iterator[tuple[str, Any, Place, Socket]]:
    """(name, value, place, socket) of each widget whose value goes into the prompt."""
    if info is None:
        return
    declared = sockets(info)
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        values = [values.get(name) for name in _slots(_chosen(declared, values))]
    declared = _chosen(declared, values)
    values = _without_wired(declared, values)
    for index, name in enumerate(_slots(declared)):
        if name in declared:
            value = values[index] if index < len(values) else _default(declared[name])
            yield name, value, place_of(node, index), declared[name]


def place_of(node: dict, index: int) -> Place:
    return node.get(PLACES, {}).get(index) or Place(node, index)


def _chosen(declared: Mapping[str, Socket], values: list | dict) -> dict[str, Socket]:
    """The inputs without those of choices that are not made: their widgets are not saved."""
    found: dict[str, Socket] = {}
    for name, socket in declared.items():
        if socket.only is not None:
            combo = socket.only[0]
            at = combo if isinstance(values, dict) else _slots(found).index(combo)
            has = at in values if isinstance(values, dict) else at < len(values)
            if not socket.is_chosen({combo: values[at] if has else _default(found[combo])}):
                continue
        found[name] = socket
    return found


def slots_of(info: dict, values: list) -> list[str]:
    """Names of the values that a node of this type saves, given these values."""
    return _slots(_chosen(sockets(info), values))


def values_in_order(info: dict, named: dict) -> list:
    """The list of values that a node saves, from some values by name and defaults for the others."""
    declared = _chosen(sockets(info), named)
    return [named.get(name, _default(declared[name]) if name in declared else None) for name in _slots(declared)]


def _slots(declared: Mapping[str, Socket]) -> list[str]:
    """Names of the values that a node saves, in order. Names that begin with a space are not inputs and never reach the prompt."""
    names, upload = [], []
    for name, socket in declared.items():
        if not socket.is_widget:
            continue
        names.append(name)
        control = socket.options.get("control_after_generate")
        if socket.type == "INT" and (name in ("seed", "noise_seed") if control is None else control):
            names.append(" control")
        elif socket.type == "COMBO" and control:
            names += [" control", " filter"]
        if socket.type == "COMBO" and socket.required and any(socket.options.get(key) for key in UPLOADS):
            upload = [" upload"]
    return names + upload


def _without_wired(declared: Mapping[str, Socket], values: list) -> list:
    """Front ends before 1.16 also saved a value for inputs that can only be wired: drop those."""
    wired = []
    for socket in declared.values():
        if socket.is_widget or socket.options.get("forceInput"):
            control = bool(socket.options.get("control_after_generate"))
            wired += [bool(socket.options.get("forceInput"))] + [False] * control
    old = len(wired) == len(values) != len(_slots(declared))
    return [value for value, drop in zip(values, wired) if not drop] if old else values


def _default(socket: Socket) -> Any:
    empty = {"INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False}.get(socket.type)
    return socket.options.get("default", socket.choices[0] if socket.choices else empty)
