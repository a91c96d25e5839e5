"""One interface for node classes, written as V3 (a schema) or as V1 (class attributes)."""

from dataclasses import dataclass, replace
from functools import cached_property
import inspect
import json
from typing import Any, Callable, Iterator, Mapping

# Types of V3: a choice that brings inputs of its own, inputs that grow in number, and a wire of whatever type comes in.
DYNAMIC_COMBO, AUTOGROW, MATCH = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3", "COMFY_MATCHTYPE_V3"

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_V1_NAMES = {"fingerprint_inputs": "IS_CHANGED", "validate_inputs": "VALIDATE_INPUTS"}


@dataclass(frozen=True)
class Socket:
    """An input as its node declares it; the type of any list of choices is "COMBO".

    `only`: the dynamic combo and the choice that this input belongs to.
    """

    name: str
    type: str
    options: dict
    required: bool
    only: tuple[str, str] | None = None

    @property
    def choices(self) -> list | None:
        return self.options.get("options") if self.type == "COMBO" else None

    @property
    def is_widget(self) -> bool:
        kind = self.options.get("widgetType", self.type)
        return kind in WIDGETS and not self.options.get("forceInput")

    @property
    def takes_values(self) -> bool:
        """Whether an input can be a value in the workflow; all others are wires."""
        return self.is_widget or self.options.get("rawLink", False) or any(
            kind in (*WIDGETS, "*", MATCH) for kind in self.type.replace(" ", "").split(","))

    def is_chosen(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a node with these inputs has this one."""
        return self.only is None or inputs.get(self.only[0]) == self.only[1]


class NodeType:
    """A node class: what it says of itself, and how its methods are called."""

    def __init__(self, name: str, cls: type):
        self.name, self.cls = name, cls
        self.is_v3 = hasattr(cls, "define_schema")

    def info(self) -> dict:
        """The entry of this node in /object_info, as plain JSON values."""
        return json.loads(json.dumps(self.cls.GET_NODE_INFO_V1() if self.is_v3 else _v1_info(self.name, self.cls)))

    @cached_property
    def _info(self) -> dict:
        return self.info()

    @cached_property
    def sockets(self) -> dict[str, Socket]:
        """The inputs in the order of their widgets: required ones first."""
        return sockets(self._info)

    def chosen(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a node without those that belong to choices it has not made."""
        return {name: value for name, value in inputs.items() if name not in self.sockets or self.sockets[name].is_chosen(inputs)}

    @cached_property
    def hidden(self) -> dict[str, str]:
        """The hidden inputs by name: UNIQUE_ID, PROMPT, EXTRA_PNGINFO, DYNPROMPT."""
        wanted = self._info["input"].get("hidden", {})
        return {name: kind if isinstance(kind, str) else kind[0] for name, kind in wanted.items()}

    @property
    def display_name(self) -> str:
        return self._info["display_name"] or self.name

    @property
    def output_types(self) -> list[str]:
        return self._info["output"]

    @property
    def output_is_list(self) -> list[bool]:
        return self._info["output_is_list"]

    @property
    def output_templates(self) -> list[str | None]:
        """The template that each output shares with the inputs whose type it takes on."""
        return self._info.get("output_matchtypes") or [None] * len(self.output_types)

    @property
    def is_input_list(self) -> bool:
        return self._info["is_input_list"]

    @property
    def is_output_node(self) -> bool:
        return self._info["output_node"]

    @cached_property
    def needs_own_id(self) -> bool:
        """Whether two nodes of this type may give different answers for the same inputs."""
        flag = self.cls.GET_SCHEMA().not_idempotent if self.is_v3 else getattr(self.cls, "NOT_IDEMPOTENT", False)
        return flag or "UNIQUE_ID" in self.hidden.values()

    @cached_property
    def takes_any_input(self) -> bool:
        return self.is_v3 and self.cls.GET_SCHEMA().accept_all_inputs

    @cached_property
    def can_expand(self) -> bool:
        return not self.is_v3 or self.cls.GET_SCHEMA().enable_expand

    def method(self, name: str, hidden: dict[str, Any], instance: Any = None) -> Callable | None:
        """`execute` or an optional method, to be called with inputs by name; None if the class has none."""
        if not self.is_v3:
            name = self.cls.FUNCTION if name == "execute" else _V1_NAMES.get(name, name)
            return getattr(self.cls if instance is None else instance, name, None)
        if name != "execute" and not _overrides(self.cls, name):
            return None
        return getattr(self.cls.PREPARE_CLASS_CLONE({"hidden_inputs": hidden}), name)


def sockets(info: dict) -> dict[str, Socket]:
    """The inputs of an /object_info entry, in the order of their widgets: required ones first."""
    found: dict[str, Socket] = {}
    for group in ("required", "optional"):
        declared = info["input"].get(group, {})
        order = [name for name in info.get("input_order", {}).get(group, ()) if name in declared]
        for name in dict.fromkeys([*order, *declared]):
            found |= {socket.name: socket for socket in _flat(name, declared[name], group == "required")}
    return found


def _flat(name: str, declared: list, required: bool) -> Iterator[Socket]:
    """The sockets that an input declares: one, or for a dynamic input all that it may have, named as in a prompt."""
    kind, options = (*declared, {})[:2]
    if isinstance(kind, list):
        kind, options = "COMBO", {**options, "options": kind}
    if kind == DYNAMIC_COMBO:
        yield Socket(name, "COMBO", {**options, "options": [option["key"] for option in options["options"]]}, required)
        for option in options["options"]:
            for socket in sockets({"input": option["inputs"]}).values():
                yield replace(socket, name=f"{name}.{socket.name}", only=(name, option["key"]))
    elif kind == AUTOGROW:
        template = options["template"]
        (slot,) = sockets({"input": template["input"]}).values()
        for index in range(template["max"]):
            yield replace(slot, name=f"{name}.{template['prefix']}{index}", required=required and index < template["min"])
    else:
        yield Socket(name, kind, options, required)


def _overrides(cls: type, name: str) -> bool:
    """Whether a V3 class overrides a method of its base class."""
    base = getattr(cls.GET_BASE_CLASS(), name, None)
    own = inspect.getattr_static(cls, name, None)
    return own is not None and getattr(own, "__func__", own) is not getattr(base, "__func__", base)


def _v1_info(name: str, cls: type) -> dict:
    inputs = cls.INPUT_TYPES()
    info = {
        "input": inputs,
        "input_order": {group: list(sockets) for group, sockets in inputs.items()},
        "is_input_list": getattr(cls, "INPUT_IS_LIST", False),
        "output": cls.RETURN_TYPES,
        "output_is_list": getattr(cls, "OUTPUT_IS_LIST", [False] * len(cls.RETURN_TYPES)),
        "output_name": getattr(cls, "RETURN_NAMES", cls.RETURN_TYPES),
        "name": name,
        "display_name": getattr(cls, "DISPLAY_NAME", name),
        "description": getattr(cls, "DESCRIPTION", ""),
        "python_module": getattr(cls, "RELATIVE_PYTHON_MODULE", "nodes"),
        "category": getattr(cls, "CATEGORY", "sd"),
        "output_node": getattr(cls, "OUTPUT_NODE", False),
        "has_intermediate_output": getattr(cls, "HAS_INTERMEDIATE_OUTPUT", False),
    }
    optional = {"output_tooltips": "OUTPUT_TOOLTIPS", "output_matchtypes": "OUTPUT_MATCHTYPES", "search_aliases": "SEARCH_ALIASES",
                "essentials_category": "ESSENTIALS_CATEGORY"}
    return info | {key: getattr(cls, attribute) for key, attribute in optional.items() if hasattr(cls, attribute)}
