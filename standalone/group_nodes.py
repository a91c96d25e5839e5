"""Group nodes, which ComfyUI had before subgraphs: old workflows that hold them are read as if each were a subgraph.

The front end (1.49) does the same when it loads such a workflow. A group's inner nodes are kept once, in `extra.groupNodes`; each
instance has a node of type `workflow>NAME` with values of its own for their widgets.
"""

from collections import Counter
from typing import Any, Iterator, Mapping

from .node_types import sockets
from .widget_values import PLACES, Place, slots_of

PREFIXES = ("workflow>", "workflow/")  # the second one in the oldest files
INPUT, OUTPUT = -10, -20  # what stands for the outside in a subgraph's links
VIRTUAL = ("Note", "MarkdownNote")


def inner_nodes(saved: dict) -> list[dict]:
    """The nodes inside a workflow's group nodes."""
    return [node for group in _groups(saved).values() for node in group["nodes"] if isinstance(node, dict)]


def unpacked(saved: dict, infos: Mapping[str, dict]) -> dict:
    """A workflow with a subgraph for each group node; `saved` is left as it is, and the nodes that stay are its own."""
    groups = _groups(saved)
    if not groups:
        return saved
    nodes, made = [], []
    for node in saved["nodes"]:
        name = _group_of(node)
        if name not in groups:
            nodes.append(node)
            continue
        group = _Group(groups[name], node, infos)
        made.append(group.definition(f"{node['type']} {node['id']}", name))
        nodes.append({**node, "type": made[-1]["id"], "inputs": group.renamed_inputs(), "widgets_values": []})
    definitions = saved.get("definitions") or {}
    return {**saved, "nodes": nodes, "definitions": {**definitions, "subgraphs": [*(definitions.get("subgraphs") or []), *made]}}


def _groups(saved: dict) -> dict[str, dict]:
    """The groups that nodes are instances of."""
    known = (saved.get("extra") or {}).get("groupNodes") if isinstance(saved.get("extra"), dict) else None
    used = {_group_of(node) for node in saved["nodes"]}
    return {name: group for name, group in (known if isinstance(known, dict) else {}).items()
            if name in used and isinstance(group, dict) and isinstance(group.get("nodes"), list)}


def _group_of(node: dict) -> str | None:
    return next((node["type"].removeprefix(prefix) for prefix in PREFIXES if node["type"].startswith(prefix)), None)


class _Group:
    """One instance of a group: its inner nodes, and which of their sockets and widgets are the instance's, in the instance's order."""

    def __init__(self, group: dict, instance: dict, infos: Mapping[str, dict]):
        self.group, self.instance, self.infos = group, instance, infos
        self.links = [[int(number) for number in link[:4]] for link in group.get("links") or [] if None not in link[:4]]
        self.external = {(int(place[0]), int(place[1])) for place in group.get("external") or [] if place[2] is not None}
        self.nodes = [{**node, "id": index, "inputs": [{**socket, "link": None} for socket in node.get("inputs") or []]}
                      for index, node in enumerate(group["nodes"])]
        for node in self.nodes:
            named = {socket["name"] for socket in node["inputs"]}
            node["inputs"] += [{"name": name, "type": kind, "link": None} for name, kind in self._declared(node) if name not in named]
        self._give_values()
        self.wires, self.widgets = list(self._wires()), dict(self._widgets())

    def definition(self, id: str, name: str) -> dict:
        """The subgraph that stands for this instance."""
        links = [{"id": at, "origin_id": link[0], "origin_slot": link[1], "target_id": link[2], "target_slot": self._slot(link[2], link[3])}
                 for at, link in enumerate(self.links, 1)]
        inputs = []
        for slot, (target, at, outer) in enumerate(self._inputs()):
            links.append({"id": len(links) + 1, "origin_id": INPUT, "origin_slot": slot, "target_id": target, "target_slot": at})
            inputs.append({"name": outer["name"], "type": outer.get("type", "*"), "linkIds": [len(links)]})
        outputs = []
        for slot, (origin, at, kind) in enumerate(self._outputs()):
            links.append({"id": len(links) + 1, "origin_id": origin, "origin_slot": at, "target_id": OUTPUT, "target_slot": slot})
            outputs.append({"name": str(slot), "type": kind, "linkIds": [len(links)]})
        for link in links:
            if link["target_id"] != OUTPUT:
                self.nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] = link["id"]
        return {"id": id, "name": name, "nodes": self.nodes, "links": links, "inputs": inputs, "outputs": outputs}

    def renamed_inputs(self) -> list[dict]:
        """The instance's inputs, each under a name of its own."""
        return [{**socket, "name": f"{at} {socket['name']}"} for at, socket in enumerate(self.instance.get("inputs") or [])]

    def _inputs(self) -> Iterator[tuple[int, int, dict]]:
        """(inner node, its input, the instance's input): those of widgets by their names, wires in their order."""
        wires = iter(self.wires)
        for socket, outer in zip(self.instance.get("inputs") or [], self.renamed_inputs()):
            found = self.widgets.get(socket["name"]) if socket.get("widget") else next(wires, None)
            if found is not None:
                yield *found, outer

    def _wires(self) -> Iterator[tuple[int, int]]:
        """The inner inputs that nothing inside is wired to, but for those of widgets."""
        for node in self.nodes:
            for name, _ in self._declared(node):
                at = self._index(node, name)
                if not self._is_linked(node["id"], at) and self._setting(node, "input", name).get("visible") is not False \
                        and node["type"] not in VIRTUAL:
                    yield node["id"], at

    def _widgets(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """The inner widgets that can be inputs, by the names that the instance has for them."""
        seen: Counter[str] = Counter()
        for node in self.nodes:
            info = self.infos.get(node["type"])
            for name, socket in (sockets(info) if info else {}).items():
                outer = key = self._setting(node, "input", name).get("name") or name
                if outer in seen:
                    key = f"{node.get('title') or node['type']} {name}"
                    outer = f"{node.get('title') or node['type']} {seen[key] + 1} {name}" if key in seen else key
                seen[key] += 1
                if socket.is_widget:
                    if not any(one["name"] == name for one in node["inputs"]):
                        node["inputs"].append({"name": name, "type": socket.type, "widget": {"name": name}, "link": None})
                    yield outer, (node["id"], self._index(node, name))

    def _outputs(self) -> Iterator[tuple[int, int, str]]:
        """The inner outputs that are the instance's: those that nothing inside takes, or that are taken outside too."""
        for node in self.nodes:
            info = self.infos.get(node["type"])
            kinds = info["output"] if info else [socket.get("type", "*") for socket in node.get("outputs") or []]
            for slot, kind in enumerate(() if node["type"] in (*VIRTUAL, "PrimitiveNode") else kinds):
                taken = any(link[:2] == [node["id"], slot] for link in self.links) and (node["id"], slot) not in self.external
                if self._setting(node, "output", str(slot)).get("visible", not taken):
                    yield node["id"], slot, kind

    def _give_values(self) -> None:
        """Put the instance's values into the inner nodes' widgets; each knows where its value is kept. Those of widgets that were made
        inputs come last, if they are kept at all."""
        given = self.instance.get("widgets_values")
        own, inputs = [], []
        for node in self.nodes:
            info, values = self.infos.get(node["type"]), node.get("widgets_values") or []
            names = slots_of(info, values) if info else ["value"] * len(values) if node["type"] == "PrimitiveNode" else []
            if not names or not isinstance(values, list):
                continue
            node["widgets_values"], node[PLACES] = values + [None] * (len(names) - len(values)), {}
            order = own
            for slot, name in enumerate(names):
                if not name.startswith(" "):  # what follows a seed goes with it
                    order = inputs if any(socket["name"] == name and socket.get("widget") for socket in node["inputs"]) else own
                order.append((node, slot))
        for at, (node, slot) in enumerate([*own, *inputs][:len(given)] if isinstance(given, list) else ()):
            node["widgets_values"][slot], node[PLACES][slot] = given[at], Place(self.instance, at)

    def _declared(self, node: dict) -> list[tuple[str, Any]]:
        """Name and type of the inputs that are wires, in the order of the node's type."""
        info = self.infos.get(node["type"])
        if info is None:
            return [(socket["name"], socket.get("type", "*")) for socket in node["inputs"] if not socket.get("widget")]
        return [(name, socket.type) for name, socket in sockets(info).items() if not socket.is_widget]

    def _index(self, node: dict, name: str) -> int:
        return next(at for at, socket in enumerate(node["inputs"]) if socket["name"] == name)

    def _slot(self, target: int, saved_slot: int) -> int:
        return min(saved_slot, len(self.nodes[target]["inputs"]) - 1)

    def _is_linked(self, target: int, slot: int) -> bool:
        return any(link[2:4] == [target, slot] for link in self.links)

    def _setting(self, node: dict, side: str, name: str) -> dict:
        """What the group's own settings say of an input or an output: another name, or that it is hidden."""
        found = (self.group.get("config") or {}).get(str(node["id"])) or {}
        return (found.get(side) or {}).get(name) or {}
