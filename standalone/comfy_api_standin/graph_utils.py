"""Builds the graph that replaces an expanding node."""

from contextvars import ContextVar
from itertools import count
from typing import Iterator

_prefixes: ContextVar[Iterator[str] | None] = ContextVar("prefixes", default=None)


def set_default_prefix(node_id: str, call: int) -> None:
    """Set the prefix of ids in graphs built from now on, so that the same call of the same node makes the same ids every time."""
    _prefixes.set(f"{node_id}.{call}.{graph}." for graph in count())


def is_link(value: object) -> bool:
    """Whether an input's value is a wire: [node id, output slot]."""
    return (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
            and isinstance(value[1], (int, float)) and not isinstance(value[1], bool))


class ExecutionBlocker:
    """An output without a value. Using it is an error with this message."""

    def __init__(self, message: str | None):
        self.message = message


class Node:
    """One node of a graph under construction."""

    def __init__(self, id: str, class_type: str, inputs: dict):
        self.id, self.class_type, self.inputs = id, class_type, inputs
        self.override_display_id = None

    def out(self, index: int) -> list:
        return [self.id, index]

    def set_input(self, key: str, value: object) -> None:
        if value is None:
            self.inputs.pop(key, None)
        else:
            self.inputs[key] = value

    def set_override_display_id(self, id: str) -> None:
        self.override_display_id = id

    def serialize(self) -> dict:
        display = {"override_display_id": self.override_display_id} if self.override_display_id else {}
        return {"class_type": self.class_type, "inputs": self.inputs} | display


class GraphBuilder:
    """Collects nodes under one id prefix; `finalize()` is what goes into `NodeOutput(expand=…)`."""

    def __init__(self, prefix: str | None = None):
        if prefix is None:
            if _prefixes.get() is None:
                set_default_prefix("", 0)
            prefix = next(_prefixes.get())
        self.prefix = prefix
        self.nodes: dict[str, Node] = {}
        self._ids = count(1)

    def node(self, class_type: str, id: str | None = None, **inputs) -> Node:
        id = self.prefix + (str(next(self._ids)) if id is None else id)
        return self.nodes.setdefault(id, Node(id, class_type, inputs))

    def finalize(self) -> dict:
        return {id: node.serialize() for id, node in self.nodes.items()}
