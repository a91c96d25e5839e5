"""A workflow as the front end saves it → the prompt that it would send: nodes with inputs, nothing else.

Muted and bypassed nodes, reroutes, primitive nodes, notes and subgraphs are resolved the way front end 1.49 does it.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
import random
import re
from typing import Any, Iterator, Mapping

from .errors import WorkflowError
from .node_types import Socket, sockets

MUTED, BYPASSED = 2, 4
VIRTUAL = {"Reroute", "PrimitiveNode", "Note", "MarkdownNote"}
UPLOADS = ("image_upload", "video_upload", "animated_image_upload")
SUBGRAPH_INPUT = "-10"


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


@dataclass
class Outer:
    """A node that is not in the prompt but has widgets: a subgraph's instance or a primitive node."""

    title: str
    targets: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Converted:
    """The prompt, and what is needed to override widgets by the names that the user sees."""

    prompt: dict[str, dict] = field(default_factory=dict)
    places: dict[tuple[str, str], Place] = field(default_factory=dict)
    outers: dict[str, Outer] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    id: Any
    origin: str
    origin_slot: int
    target: str
    target_slot: int

    @classmethod
    def read(cls, saved: list | dict) -> "Link":
        if isinstance(saved, dict):
            saved = [saved[key] for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
        return cls(saved[0], str(saved[1]), saved[2], str(saved[3]), saved[4])


@dataclass(frozen=True)
class Constant:
    """A wire that ends at a widget of a subgraph's instance."""

    value: Any
    owner: str
    name: str
    place: Place


class Graph:
    """One level of a workflow: the root, or the inside of one subgraph instance."""

    def __init__(self, saved: dict, definitions: dict[str, dict], path: tuple[str, ...] = (),
                 outside: "Graph | None" = None, instance: dict | None = None):
        self.definitions, self.path, self.outside, self.instance = definitions, path, outside, instance
        self.definition = saved
        self.nodes = {str(node["id"]): node for node in saved["nodes"]}
        self.links = {link.id: link for link in map(Link.read, saved.get("links") or [])}
        if len(path) > 32:
            raise WorkflowError(f"subgraph {saved.get('name')!r} contains itself")
        self.inside = {key: Graph(definitions[node["type"]], definitions, (*path, key), self, node)
                       for key, node in self.nodes.items() if node["type"] in definitions}

    def id_of(self, key: str) -> str:
        return ":".join((*self.path, key))

    def walk(self) -> Iterator[tuple["Graph", str, dict]]:
        """All nodes with their level, those of muted and bypassed instances included."""
        for key, node in self.nodes.items():
            yield self, key, node
            if key in self.inside:
                yield from self.inside[key].walk()

    def executed(self) -> Iterator[tuple["Graph", str, dict]]:
        """The nodes that belong into the prompt."""
        for key, node in self.nodes.items():
            # An instance inside another subgraph emits its nodes whatever its own mode is: so does the front end.
            switched_off = node.get("mode", 0) in (MUTED, BYPASSED)
            if key in self.inside and not (switched_off and not self.path):
                yield from self.inside[key].executed()
            elif key not in self.inside and not switched_off and node["type"] not in VIRTUAL:
                yield self, key, node

    # --- following wires ---

    def source(self, node: dict, slot: int, kind: str | None = None) -> tuple[str, int] | Constant | None:
        """What an input is wired to: an output of a node in the prompt, a constant, or nothing."""
        socket = (node.get("inputs") or [])[slot]
        link = self.links.get(socket.get("link"))
        if link is None:
            return None
        if link.origin == SUBGRAPH_INPUT and self.outside is not None:
            return self._source_outside(link.origin_slot)
        if link.origin not in self.nodes:
            return None
        return self.output(link.origin, link.origin_slot, kind or socket["type"])

    def _source_outside(self, slot: int) -> tuple[str, int] | Constant | None:
        name = self.definition["inputs"][slot]["name"]
        outer = self.instance.get("inputs") or []
        index = next((i for i, socket in enumerate(outer) if socket["name"] == name), None)
        if index is not None and outer[index].get("link") is not None:
            return self.outside.source(self.instance, index)
        values = self.instance.get("widgets_values") or []
        promoted = self.promoted()
        if name in promoted and promoted.index(name) < len(values) and values[promoted.index(name)] is not None:
            at = promoted.index(name)
            return Constant(values[at], self.outside.id_of(self.path[-1]), name, Place(self.instance, at))
        return None

    def promoted(self) -> list[str]:
        """The inputs of this subgraph that are widgets of its instance, in their order."""
        return [socket["name"] for slot, socket in enumerate(self.definition["inputs"]) if self._is_widget(slot)]

    def _is_widget(self, slot: int) -> bool:
        for link in self.links.values():
            inputs = self.nodes.get(link.target, {}).get("inputs") or []
            if link.origin != SUBGRAPH_INPUT or link.origin_slot != slot or link.target_slot >= len(inputs):
                continue
            target = inputs[link.target_slot]
            if target.get("widget"):
                return True
            inner = self.inside.get(link.target)
            if inner is not None and target["name"] in inner.promoted():
                return True
        return False

    def output(self, key: str, slot: int, kind: str) -> tuple[str, int] | Constant | None:
        """The output of a node in the prompt that answers for output `slot` of node `key`."""
        node = self.nodes[key]
        mode = node.get("mode", 0)
        if mode == MUTED:
            return None
        if mode == BYPASSED:
            through = _bypass(node, slot, kind)
            return None if through is None else self.source(node, through)
        if key in self.inside:
            return self.inside[key]._output_from_inside(slot, kind)
        if node["type"] == "Reroute":
            return self.source(node, 0, kind)
        return None if node["type"] in VIRTUAL else (self.id_of(key), slot)

    def _output_from_inside(self, slot: int, kind: str) -> tuple[str, int] | Constant | None:
        # Stale links may be listed after the one that counts.
        links = [self.links[id] for id in self.definition["outputs"][slot].get("linkIds") or [] if id in self.links]
        if not links or links[0].origin not in self.nodes:
            return None
        return self.output(links[0].origin, links[0].origin_slot, kind)


def convert(saved: dict, infos: Mapping[str, dict], rng: random.Random | None = None) -> Converted:
    """The prompt of a saved workflow; `infos` is /object_info. Nodes of unknown type keep their type and wires."""
    root = Graph(saved, _definitions(saved))
    result = Converted()
    for graph, key, node in root.walk():
        if key in graph.inside or node["type"] == "PrimitiveNode":
            name = graph.definitions.get(node["type"], {}).get("name", node["type"])
            result.outers[graph.id_of(key)] = Outer(node.get("title") or name)
    for graph, key, node in root.executed():
        info = infos.get(node["type"])
        result.prompt[graph.id_of(key)] = {
            "inputs": _inputs(graph, key, node, info, result, rng or random.Random()),
            "class_type": node["type"],
            "_meta": {"title": node.get("title") or (info or {}).get("display_name") or node["type"]},
        }
    _replace_in_prefixes(root, result, infos)
    for node in result.prompt.values():
        node["inputs"] = {name: value for name, value in node["inputs"].items()
                          if not (isinstance(value, list) and value[0] not in result.prompt)}
    return result


def _definitions(saved: dict) -> dict[str, dict]:
    found = {}
    for subgraph in (saved.get("definitions") or {}).get("subgraphs") or []:
        found |= {subgraph["id"]: subgraph} | _definitions(subgraph)
    return found


def _inputs(graph: Graph, key: str, node: dict, info: dict | None, result: Converted, rng: random.Random) -> dict:
    """Widgets first, then wires by name."""
    id, inputs = graph.id_of(key), {}
    for name, value, place, socket in _widget_values(node, info):
        if isinstance(value, str) and socket.options.get("dynamicPrompts"):
            value = choose_wording(value, rng)
        result.places[id, name] = place
        if value is not None:
            inputs[name] = {"__value__": value} if isinstance(value, list) else value
    for slot, socket in enumerate(node.get("inputs") or []):
        name, link = socket["name"], graph.links.get(socket.get("link"))
        if link is None:
            continue
        primitive = graph.nodes.get(link.origin, {})
        if primitive.get("type") == "PrimitiveNode":
            if primitive.get("widgets_values"):
                inputs[name] = primitive["widgets_values"][0]
                result.outers[graph.id_of(link.origin)].targets["value"].append((id, name))
                result.places[id, name] = Place(primitive, 0)
            continue
        source = graph.source(node, slot)
        if isinstance(source, Constant):
            value = source.value
            inputs[name] = {"__value__": value} if isinstance(value, list) else value
            result.outers[source.owner].targets[source.name].append((id, name))
            result.places[id, name] = source.place
        elif source is not None:
            inputs[name] = list(source)
    return inputs


def _widget_values(node: dict, info: dict | None) -> Iterator[tuple[str, Any, Place, Socket]]:
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
            yield name, value, Place(node, index), declared[name]


def _chosen(declared: Mapping[str, Socket], values: list | dict) -> dict[str, Socket]:
    """The inputs less those of choices that are not made: such widgets are neither shown nor saved."""
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


def values_in_order(info: dict, named: dict) -> list:
    """What a node saves for its widgets, given some of them by name: defaults for the others."""
    declared = _chosen(sockets(info), named)
    return [named.get(name, _default(declared[name]) if name in declared else None) for name in _slots(declared)]


def _slots(declared: Mapping[str, Socket]) -> list[str]:
    """Names of the values that a node saves, in order; those that are no input never reach the prompt."""
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


def _bypass(node: dict, slot: int, kind: str) -> int | None:
    """Which input a bypassed node passes on as output `slot`, to a socket of type `kind`."""
    inputs = node.get("inputs") or []
    own = node["outputs"][slot]["type"]
    if not inputs:
        return None
    if kind in ("*", ""):
        return slot if slot < len(inputs) else 0
    fits = [_compatible(socket["type"], own) and _compatible(socket["type"], kind) for socket in inputs]
    if slot < len(inputs) and fits[slot]:
        return slot
    exact = [socket["type"] == kind for socket in inputs]
    return next((index for candidates in (exact, fits) for index, good in enumerate(candidates) if good), None)


def _compatible(a: Any, b: Any) -> bool:
    if a in ("*", "", 0) or b in ("*", "", 0):
        return True
    return bool(set(str(a).lower().split(",")) & set(str(b).lower().split(",")))


# --- texts ----------------------------------------------------------------------------------------------------------

def choose_wording(text: str, rng: random.Random) -> str:
    """Drop /* … */ and // comments and choose one of each {a|b}; a backslash keeps a brace or a bar."""
    chosen, _ = _choose(re.sub(r"/\*[\s\S]*?\*/|//.*", "", text), 0, rng, nested=False)
    return re.sub(r"\\([{}|])", r"\1", chosen)


def _choose(text: str, at: int, rng: random.Random, nested: bool) -> tuple[str, int]:
    options = [""]
    while at < len(text):
        char = text[at]
        at += 1
        if char == "\\":
            options[-1] += char + text[at:at + 1]
            at += 1
        elif char == "{":
            inner, at = _choose(text, at, rng, nested=True)
            options[-1] += inner
        elif nested and char == "}":
            break
        elif nested and char == "|":
            options.append("")
        else:
            options[-1] += char
    return rng.choice(options), at


def _replace_in_prefixes(root: Graph, result: Converted, infos: Mapping[str, dict]) -> None:
    """%date:yyyy-MM-dd% and %Node.widget% in the file names of nodes that save."""
    everything = list(root.walk())

    def replacement(match: re.Match) -> str:
        text = match[1]
        if text.startswith("date:"):
            return _format_date(text[5:], datetime.now())
        name, dot, widget = text.partition(".")
        if not dot or "." in widget:
            return match[0]
        named = [(graph, key, node) for graph, key, node in everything
                 if (node.get("properties") or {}).get("Node name for S&R") == name]
        titled = [(graph, key, node) for graph, key, node in everything
                  if (node.get("title") or (infos.get(node["type"]) or {}).get("display_name")) == name]
        for graph, key, node in (named or titled)[:1]:
            for other, value, _, _ in _widget_values(node, infos.get(node["type"])):
                if other == widget:
                    return re.sub(r'[/?<>\\:*|"\x00-\x1f\x7f]', "_", str("" if value is None else value))
        return match[0]

    for node in result.prompt.values():
        prefix = node["inputs"].get("filename_prefix")
        if node["class_type"].startswith("Save") and isinstance(prefix, str):
            node["inputs"]["filename_prefix"] = re.sub("%([^%]+)%", replacement, prefix)


def _format_date(pattern: str, now: datetime) -> str:
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match) -> str:
        word = match[0]
        if word[0] in parts:
            return str(parts[word[0]]).zfill(len(word))
        return {"yy": f"{now.year % 100:02}", "yyyy": str(now.year)}.get(word, word)

    return re.sub("dd?|MM?|hh?|mm?|ss?|yyy?y?", part, pattern)
