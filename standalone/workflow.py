"""Reads a workflow from a file, in any of the forms that people share it in, and overrides its widgets."""

import copy
from dataclasses import dataclass, field
import json
from pathlib import Path
from typing import Any, Mapping

from . import group_nodes, pack, replace
from .errors import WorkflowError, one_line, plain, shown
from .graph_to_prompt import Outer, convert
from .images import texts_of
from .node_types import NodeType, Socket
from .validate import own_title
from .widget_values import Place

LINK_KEYS = {"id", "origin_id", "origin_slot", "target_id", "target_slot"}


@dataclass
class Workflow:
    """A prompt (node id → class and inputs), and the graph that the front end saved if it came from one."""

    prompt: dict[str, dict]
    saved: dict | None = None
    places: dict[tuple[str, str], Place] = field(default_factory=dict)
    outers: dict[str, Outer] = field(default_factory=dict)

    @property
    def extra_pnginfo(self) -> dict:
        return {} if self.saved is None else {"workflow": self.saved}


def read_workflow(path: Path, types: Mapping[str, NodeType]) -> Workflow:
    """A workflow file: JSON as the API takes it or as the front end saves it, or a picture that carries one. Raises WorkflowError."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise WorkflowError(f"{path}: {getattr(error, 'strerror', None) or one_line(error)}") from error
    try:
        texts = texts_of(data)
        if texts is None:
            return parse_workflow(parse_json(data), types)
        # As in the front end: the graph that the user saw comes before the prompt that was made of it.
        carried = next((texts[name] for name in ("workflow", "prompt") if name in texts), None)
        if carried is None:
            raise WorkflowError("this picture carries no workflow")
        return parse_workflow(parse_json(carried.encode()), types)
    except WorkflowError as error:
        raise WorkflowError(f"{path}: {error}") from error


def parse_json(data: bytes) -> Any:
    """The values of a JSON text in UTF-8, UTF-16 or UTF-32, with or without a byte order mark. Raises WorkflowError."""
    try:
        return json.loads(data, object_pairs_hook=_each_node_once)
    except UnicodeDecodeError as error:
        raise WorkflowError("not a workflow: it is not text") from error
    except RecursionError as error:
        raise WorkflowError("not a workflow: its values are nested too deeply") from error
    except ValueError as error:
        raise WorkflowError(f"not a workflow: {one_line(error)}") from error


def _each_node_once(pairs: list[tuple[str, Any]]) -> dict:
    """An object's entries; a node whose id another node has would be lost without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        nodes = [id for id, value in pairs if isinstance(value, dict) and "class_type" in value]
        twice = next((id for id in nodes if nodes.count(id) > 1), None)
        if twice is not None:
            raise WorkflowError(f"not a workflow: two nodes have the id {shown(twice)}")
    return found


def parse_workflow(data: Any, types: Mapping[str, NodeType]) -> Workflow:
    """A workflow from JSON values, which are left as they are. Raises WorkflowError."""
    try:
        return _parse_workflow(data, types)
    except RecursionError as error:
        raise WorkflowError("not a workflow: its values are nested too deeply") from error


def _parse_workflow(data: Any, types: Mapping[str, NodeType]) -> Workflow:
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict) and "class_type" not in data["prompt"]:
        data = data["prompt"]  # what is posted to /prompt
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        _check_graph(data, "")
        saved = copy.deepcopy(data)
        renamed = pack.renamed()
        try:
            names = _node_types_in(saved) | {entry["new_node_id"] for entry in renamed}
            infos = {name: types[name].info() for name in names if name in types}
            replace.in_saved(saved, renamed, infos)
            converted = convert(group_nodes.unpacked(saved, infos), infos)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            why = f"{type(error).__name__}: {one_line(error)}"
            raise WorkflowError(f"not a workflow that can be read: {why}") from error
        return Workflow(converted.prompt, saved, converted.places, converted.outers)
    if isinstance(data, dict) and any(isinstance(node, dict) and "class_type" in node for node in data.values()):
        prompt = {str(id): _api_node(id, node) for id, node in data.items()}
        return Workflow(replace.in_prompt(prompt, pack.renamed(), types))
    raise WorkflowError("not a workflow: neither nodes and links as the front end saves them, "
                        "nor node ids with a class_type as the API takes them")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_graph(graph: Any, inside: str) -> None:
    """Raise WorkflowError unless nodes, sockets and links have the form in which the front end saves them."""
    def complain(what: str, rule: str, value: Any) -> None:
        raise WorkflowError(f"not a workflow that can be read: {inside}{what} {rule}, this is {_short(value)}")
    if not isinstance(graph, dict) or not isinstance(graph.get("nodes"), list):
        complain("a graph", "has a list of nodes", graph)
    ids = set()
    for place, node in enumerate(graph["nodes"]):
        at = f"nodes[{place}]"
        if not isinstance(node, dict) or not isinstance(node.get("type"), str) or not isinstance(node.get("id"), (int, str)):
            complain(at, "has an id and a type", node)
        if str(node["id"]) in ids:
            complain(at, "has an id of its own", node["id"])
        ids.add(str(node["id"]))
        for side in ("inputs", "outputs"):
            for socket in _list_of(node, side, f"{at}.{side}", complain):
                if not isinstance(socket, dict) or side == "inputs" and not isinstance(socket.get("name"), str):
                    complain(f"{at}.{side}", "holds sockets with a name", socket)
        if not isinstance(node.get("widgets_values") or [], (list, dict)):
            complain(f"{at}.widgets_values", "is a list of values", node["widgets_values"])
    for place, link in enumerate(_list_of(graph, "links", "links", complain)):
        if not (isinstance(link, list) and len(link) >= 5 or isinstance(link, dict) and LINK_KEYS <= link.keys()):
            complain(f"links[{place}]", "is an id, a node and its output, a node and its input", link)
    definitions = graph.get("definitions") or {}
    if not isinstance(definitions, dict):
        complain("definitions", "is a table", definitions)
    for subgraph in _list_of(definitions, "subgraphs", "definitions.subgraphs", complain):
        _check_graph(subgraph, f"subgraph {_short(subgraph.get('name'))}: " if isinstance(subgraph, dict) else inside)


def _list_of(holder: dict, name: str, what: str, complain) -> list:
    found = holder.get(name) or []
    if not isinstance(found, list):
        complain(what, "is a list", found)
    return found


def _node_types_in(saved: dict) -> set[str]:
    nodes = [*saved["nodes"], *group_nodes.inner_nodes(saved)]
    for subgraph in (saved.get("definitions") or {}).get("subgraphs") or []:
        nodes += [{"type": name} for name in _node_types_in(subgraph)]
    return {node["type"] for node in nodes if isinstance(node, dict) and isinstance(node.get("type"), str)}


def _api_node(id: str, node: Any) -> dict:
    if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
        raise WorkflowError(f"node {id} has no class_type")
    if not isinstance(node.get("inputs", {}), dict):
        raise WorkflowError(f"node {id}: its inputs are not names with values")
    if not isinstance(node.get("_meta") or {}, dict):
        raise WorkflowError(f"node {id}: its _meta is not names with values: {_short(node['_meta'])}")
    node = {"inputs": {}} | copy.deepcopy(node)
    for name, value in node["inputs"].items():
        # Ids may be written as numbers; everywhere else they are texts.
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], int):
            node["inputs"][name] = [str(value[0]), value[1]]
    return node


# --- overriding widgets ---------------------------------------------------------------------------------------------

def override(workflow: Workflow, option: str, types: Mapping[str, NodeType]) -> None:
    """Apply one `NODE.input=VALUE`: NODE is a node's id or its title."""
    where, equals, text = option.partition("=")
    # Titles and inputs may hold dots themselves.
    splits = [(where[:at], where[at + 1:]) for at, letter in enumerate(where) if letter == "." and 0 < at < len(where) - 1]
    if not equals or not splits:
        raise WorkflowError(f"--set {_cut(option)}: not of the form NODE.input=VALUE")
    name, input = next((split for split in reversed(splits) if _named(workflow, split[0], types)), splits[-1])
    for id, target in _targets(workflow, name, input, option, types):
        socket = _widget(id, target, workflow, option, types)
        value = _parse(text, socket, option)
        workflow.prompt[id]["inputs"][target] = value
        place = workflow.places.get((id, target))
        if place is not None:
            place.write(value)


def _cut(option: str) -> str:
    return plain(option, 100)


def _listed(names: list[str], most: int = 10) -> str:
    """A few of the names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def title(id: str, prompt: Mapping[str, dict], types: Mapping[str, NodeType]) -> str:
    """A node's title: the user's own, else the name of its type."""
    node = prompt[id]
    return own_title(node) or (types[node["class_type"]].display_name if node["class_type"] in types else node["class_type"])


def _titles(workflow: Workflow, types: Mapping[str, NodeType]) -> dict[str, str]:
    titles = {id: title(id, workflow.prompt, types) for id in workflow.prompt}
    return titles | {id: outer.title for id, outer in workflow.outers.items()}


def _named(workflow: Workflow, name: str, types: Mapping[str, NodeType]) -> list[str]:
    """The nodes with this id, or else with this title, ignoring case."""
    titles = _titles(workflow, types)
    named = [name] if name in titles else [id for id in titles if titles[id] == name]
    return named or [id for id in titles if titles[id].lower() == name.lower()]


def _targets(workflow: Workflow, name: str, input: str, option: str,
             types: Mapping[str, NodeType]) -> list[tuple[str, str]]:
    titles, named = _titles(workflow, types), _named(workflow, name, types)
    if not named:
        known = _listed([f"{id} ({titles[id]})" for id in titles])
        raise WorkflowError(f"--set {_cut(option)}: no node {shown(name)}; there are {known}")
    if len(named) > 1:
        raise WorkflowError(f"--set {_cut(option)}: {shown(name)} is the title of nodes {_listed(named)}; name one by its id")
    if named[0] in workflow.prompt:
        return [(named[0], input)]
    targets = workflow.outers[named[0]].targets
    if input not in targets:
        raise WorkflowError(f"--set {_cut(option)}: {shown(name)} has no widget {shown(input)}; "
                            f"it has {_listed(list(targets)) or 'none'}")
    return targets[input]


def _widget(id: str, input: str, workflow: Workflow, option: str, types: Mapping[str, NodeType]) -> Socket:
    class_type = workflow.prompt[id]["class_type"]
    if class_type not in types:
        raise WorkflowError(f"--set {_cut(option)}: node {id} is of unknown type {class_type}")
    declared = types[class_type].sockets
    widgets = [name for name, socket in declared.items()
               if socket.is_widget or any(kind in _PARSERS for kind in socket.type.split(","))]
    if input not in widgets:
        what = "is a wire, not a widget" if input in declared else "does not exist"
        raise WorkflowError(f"--set {_cut(option)}: input {shown(input)} of node {id} ({class_type}) {what}; "
                            f"its widgets are {_listed(widgets) or 'none'}")
    return declared[input]


def _boolean(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    return words[text.strip().lower()]


_PARSERS = {"INT": int, "FLOAT": float, "BOOLEAN": _boolean, "STRING": str}


def _parse(text: str, socket: Socket, option: str) -> Any:
    """The text of an option as the type of its input."""
    if socket.choices is not None:
        # Choices may be numbers; a name outside the list is judged with all other inputs.
        return next((choice for choice in socket.choices if str(choice) == text), text)
    kinds = [kind for kind in socket.options.get("widgetType", socket.type).split(",") if kind in _PARSERS]
    for kind in kinds:
        try:
            return _PARSERS[kind](text)
        except (ValueError, KeyError):
            continue
    if not kinds:
        return text
    raise WorkflowError(f"--set {_cut(option)}: {shown(text)} is not {' or '.join(kinds)}")
