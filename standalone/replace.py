"""Replaces old node ids in workflows by new ones, as ComfyUI and its front end do."""

from typing import Any, Iterator, Mapping

from .widget_values import values_in_order


def in_prompt(prompt: dict[str, dict], renamed: list[dict], known: Mapping[str, Any]) -> dict[str, dict]:
    """A prompt with new ids for old ones. An old id that is installed stays."""
    found = {id: entry for id, node in prompt.items() if (entry := _entry(node["class_type"], renamed, known))}
    numbers = {id: {pair["old_idx"]: pair["new_idx"] for pair in entry["output_mapping"]} for id, entry in found.items()}

    def rewired(value: Any) -> Any:
        ours = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in numbers
        return [value[0], numbers[value[0]].get(value[1], value[1])] if ours else value

    replaced = {}
    for id, node in prompt.items():
        inputs, entry = {name: rewired(value) for name, value in node["inputs"].items()}, found.get(id)
        if entry:
            inputs = {new: inputs[old] for new, old in _names(entry).items() if old in inputs}
        replaced[id] = {**node, "class_type": entry["new_node_id"] if entry else node["class_type"], "inputs": inputs}
    return replaced


def in_saved(saved: dict, renamed: list[dict], infos: Mapping[str, dict]) -> None:
    """The same for a workflow as the front end saves it, in place, also inside subgraphs."""
    for graph in _graphs(saved):
        for node in graph["nodes"]:
            entry = _entry(node.get("type"), renamed, infos)
            if entry:
                _replace(node, graph.get("links") or [], entry, infos[entry["new_node_id"]])


def _replace(node: dict, links: list, entry: dict, info: dict) -> None:
    values, widgets = node.get("widgets_values") or [], entry["old_widget_ids"]
    named = values if isinstance(values, dict) else dict(zip(widgets, values))
    names = {old: new for new, old in _names(entry).items()}
    node["type"] = entry["new_node_id"]
    node["widgets_values"] = values_in_order(info, {new: named[old] for old, new in names.items() if old in named})
    node.pop("widgets_values_named", None)
    for socket in node.get("inputs") or []:
        new = names.get(socket["name"])
        if new is None:
            socket["link"] = None
        else:
            socket["name"] = new
            if socket.get("widget"):
                socket["widget"] = {**socket["widget"], "name": new}
    numbers = {pair["old_idx"]: pair["new_idx"] for pair in entry["output_mapping"]}
    outputs = node.get("outputs") or []
    kept = {numbers[old]: socket for old, socket in enumerate(outputs) if old in numbers}
    blank = {"name": "", "type": "*", "links": None}
    node["outputs"] = [kept.get(new, blank) for new in range(max(kept, default=-1) + 1)]
    for link in links:
        origin, slot = ("origin_id", "origin_slot") if isinstance(link, dict) else (1, 2)
        if str(link[origin]) == str(node["id"]):
            link[slot] = numbers.get(link[slot], link[slot])


def _names(entry: dict) -> dict[str, str]:
    """New name → old name of the inputs that are kept."""
    return {pair["new_id"]: pair["old_id"] for pair in entry["input_mapping"]}


def _entry(kind: Any, renamed: list[dict], known: Mapping[str, Any]) -> dict | None:
    fits = (entry for entry in renamed if entry["old_node_id"] == kind and entry["new_node_id"] in known)
    return None if kind in known else next(fits, None)


def _graphs(saved: dict) -> Iterator[dict]:
    yield saved
    for subgraph in (saved.get("definitions") or {}).get("subgraphs") or []:
        yield from _graphs(subgraph)
