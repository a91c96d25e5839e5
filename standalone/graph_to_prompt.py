"""A workflow as the front end saves it → the prompt that it would send: nodes with inputs, nothing else.

Muted and bypassed nodes, reroutes, primitive nodes, notes and subgraphs are resolved the way front end 1.49 does it.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
import random
import re
from typing import Any, Iterator, Mapping

from .errors import WorkflowError, shown
from .texts import as_javascript, choose_wording, format_date
from .widget_values import Place, place_of, widget_values

MUTED, BYPASSED = 2, 4
MOST_NODES = 20_000  # subgraphs that hold others twice, and these others twice, are soon more than any memory
VIRTUAL = {"Reroute", "PrimitiveNode", "Note", "MarkdownNote"}
SUBGRAPH_INPUT = "-10"
LOST = "link"  # of a node's id in place of which a broken link is named


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
    """A wire that ends at a widget: of a primitive node, or of a subgraph's instance."""

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
        self.inside = {key: Graph(definitions[node["type"]], definitions, (*path, key), self, node)
                       for key, node in self.nodes.items() if node["type"] in definitions}

    def id_of(self, key: str) -> str:
        return ":".join((*self.path, key))

    def walk(self) -> Iterator[tuple["Graph", str, dict]]:
        """All nodes with their level, also inside muted and bypassed subgraphs."""
        for key, node in self.nodes.items():
            yield self, key, node
            if key in self.inside:
                yield from self.inside[key].walk()

    def executed(self) -> Iterator[tuple["Graph", str, dict]]:
        """The nodes of the prompt, with their level."""
        for key, node in self.nodes.items():
            # An instance inside another subgraph emits its nodes whatever its own mode is: so does the front end.
            switched_off = node.get("mode", 0) in (MUTED, BYPASSED)
            if key in self.inside and not (switched_off and not self.path):
                yield from self.inside[key].executed()
            elif key not in self.inside and not switched_off and node["type"] not in VIRTUAL:
                yield self, key, node

    # --- following wires ---

    def source(self, node: dict, slot: int) -> "tuple[str, int] | Constant | None":
        """What an input is wired to, through reroutes, bypassed nodes and subgraphs: an output of a node in the prompt, a constant, or
        nothing. Raises WorkflowError for a circle."""
        at: Any = Input(self, node, slot)
        passed = set()
        while isinstance(at, (Input, Output)):
            here = (at.graph.path, type(at), id(at.node), at.slot)
            if here in passed:
                raise WorkflowError(f"its wires go round in a circle at node {shown(at.node['id'])}")
            passed.add(here)
            at = at.graph._before_input(at) if isinstance(at, Input) else at.graph._before_output(at)
        return at

    def _before_input(self, at: "Input") -> "Input | Output | Constant | None":
        socket = (at.node.get("inputs") or [])[at.slot]
        link = self.links.get(socket.get("link"))
        if link is None:
            return None
        if link.origin == SUBGRAPH_INPUT and self.outside is not None:
            return self._source_outside(link.origin_slot)
        return Output(self, self.nodes[link.origin], link.origin_slot, at.kind or socket["type"]) if link.origin in self.nodes else None

    def _before_output(self, at: "Output") -> "Input | Output | Constant | tuple[str, int] | None":
        key, mode = str(at.node["id"]), at.node.get("mode", 0)
        if at.node["type"] == "PrimitiveNode":
            values = at.node.get("widgets_values")
            return Constant(values[0], self.id_of(key), "value", place_of(at.node, 0)) if values else None
        if mode == MUTED:
            return None
        if mode == BYPASSED:
            through = _bypass(at.node, at.slot, at.kind)
            return None if through is None else Input(self, at.node, through)
        if key in self.inside:
            return self.inside[key]._output_from_inside(at.slot, at.kind)
        if at.node["type"] == "Reroute":
            return Input(self, at.node, 0, at.kind)
        return None if at.node["type"] in VIRTUAL else (self.id_of(key), at.slot)

    def _source_outside(self, slot: int) -> "Input | Constant | None":
        name = self.definition["inputs"][slot]["name"]
        outer = self.instance.get("inputs") or []
        index = next((i for i, socket in enumerate(outer) if socket["name"] == name), None)
        if index is not None and outer[index].get("link") is not None:
            return Input(self.outside, self.instance, index)
        values = self.instance.get("widgets_values") or []
        promoted = self.promoted
        if name in promoted and promoted.index(name) < len(values) and values[promoted.index(name)] is not None:
            at = promoted.index(name)
            return Constant(values[at], self.outside.id_of(self.path[-1]), name, Place(self.instance, at))
        return None

    @cached_property
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
            if inner is not None and target["name"] in inner.promoted:
                return True
        return False

    def _output_from_inside(self, slot: int, kind: str) -> "Output | None":
        # Stale links may be listed after the one that counts.
        links = [self.links[id] for id in self.definition["outputs"][slot].get("linkIds") or [] if id in self.links]
        if not links or links[0].origin not in self.nodes:
            return None
        return Output(self, self.nodes[links[0].origin], links[0].origin_slot, kind)


@dataclass(frozen=True)
class Input:
    """A place on the way along a wire: an input of a node; `kind`: the type that is looked for, None for the input's own."""

    graph: Graph
    node: dict
    slot: int
    kind: str | None = None


@dataclass(frozen=True)
class Output:
    """A place on the way along a wire: an output of a node."""

    graph: Graph
    node: dict
    slot: int
    kind: str


def convert(saved: dict, infos: Mapping[str, dict], rng: random.Random | None = None) -> Converted:
    """The prompt of a saved workflow; `infos` is /object_info. Nodes of unknown type keep their type and wires."""
    definitions = _definitions(saved)
    _check_size(saved, definitions)
    root = Graph(saved, definitions)
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
                          if not (isinstance(value, list) and value[0] not in result.prompt and not value[0].startswith(f"{LOST} "))}
    return result


def _definitions(saved: dict) -> dict[str, dict]:
    found = {}
    for subgraph in (saved.get("definitions") or {}).get("subgraphs") or []:
        found |= {subgraph["id"]: subgraph} | _definitions(subgraph)
    return found


def _check_size(saved: dict, definitions: dict[str, dict]) -> None:
    """Raise WorkflowError for a subgraph that holds itself, and for more nodes than can be meant."""
    sizes: dict[str, int] = {}

    def size(graph: dict, around: tuple[str, ...]) -> int:
        inner = [node["type"] for node in graph["nodes"] if node["type"] in definitions]
        for id in inner:
            if id in around:
                raise WorkflowError(f"subgraph {shown(definitions[id].get('name'))} contains itself")
            if id not in sizes:
                sizes[id] = size(definitions[id], (*around, id))
        return len(graph["nodes"]) + sum(sizes[id] for id in inner)

    if (nodes := size(saved, ())) > MOST_NODES:
        raise WorkflowError(f"it has {shown(nodes)} nodes, counting each subgraph as often as it is used; the most is {MOST_NODES}")


def _inputs(graph: Graph, key: str, node: dict, info: dict | None, result: Converted, rng: random.Random) -> dict:
    """Widgets first, then wires by name."""
    id, inputs = graph.id_of(key), {}
    for name, value, place, socket in widget_values(node, info):
        if isinstance(value, str) and socket.options.get("dynamicPrompts"):
            value = choose_wording(value, rng)
        result.places[id, name] = place
        if value is not None:
            inputs[name] = {"__value__": value} if isinstance(value, list) else value
    for slot, socket in enumerate(node.get("inputs") or []):
        name, link = socket["name"], graph.links.get(socket.get("link"))
        if link is None or link.origin not in graph.nodes and link.origin != SUBGRAPH_INPUT:
            if socket.get("link") is not None and info and name in info["input"].get("required", {}) and name not in inputs:
                inputs[name] = [f"{LOST} {socket['link']}", 0]  # said to be broken, if the node is run
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


# --- file names -----------------------------------------------------------------------------------------------------

# What the front end fills names in for, in the file names that these save under.
SAVERS = {"SaveImage", "SaveImageAdvanced", "SaveSVGNode", "SaveVideo", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio", "SaveAudioMP3",
          "SaveAudioOpus", "SaveAudioAdvanced", "SaveGLB", "Save3DAdvanced", "SaveGaussianSplat", "SavePointCloud", "SaveAnimatedPNG",
          "CLIPSave", "VAESave", "ModelSave", "LoraSave", "SaveLatent"}


def _replace_in_prefixes(root: Graph, result: Converted, infos: Mapping[str, dict]) -> None:
    """%date:yyyy-MM-dd% and %Node.widget% in the file names of nodes that save."""
    found: dict[str, str | None] = {}

    def replacement(match: re.Match) -> str:
        text = match[1]
        if text not in found:
            found[text] = _filled_in(text, root, infos)
        return match[0] if found[text] is None else found[text]

    for node in result.prompt.values():
        prefix = node["inputs"].get("filename_prefix")
        if node["class_type"] in SAVERS and isinstance(prefix, str):
            node["inputs"]["filename_prefix"] = re.sub("%([^%]+)%", replacement, prefix)


def _filled_in(text: str, root: Graph, infos: Mapping[str, dict]) -> str | None:
    """What a name between percent signs stands for, None if it stands for nothing. As the front end's searchAndReplace.ts."""
    name, *widget = text.split(".")
    if len(widget) != 1:
        return format_date(text.split(".")[0][5:], datetime.now()) if text.startswith("date:") else None
    nodes = [node for _, _, node in root.walk()]
    named = [node for node in nodes if (node.get("properties") or {}).get("Node name for S&R") == name]
    titled = [node for node in nodes if (node.get("title") or (infos.get(node["type"]) or {}).get("display_name")) == name]
    for node in (named or titled)[:1]:
        for other, value, _, _ in widget_values(node, infos.get(node["type"])):
            if other == widget[0]:
                return re.sub(r'[/?<>\\:*|"\x00-\x1f\x7f]', "_", as_javascript(value))
    return None
