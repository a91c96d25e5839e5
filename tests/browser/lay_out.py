"""Lay out the example workflows anew: `python tests/browser/lay_out.py [--wires] [EXAMPLE ...]`.

Nodes get the sizes that they really need, as measured in the browser in both renderers, in the columns of layouts.py; wires that would
pass behind nodes or over titles get reroutes (with --wires, only these are made anew). Playwright and Chromium are needed.
"""

import json
import math
from pathlib import Path
import shutil
import sys
from tempfile import TemporaryDirectory
import uuid

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))
from browser.gestures import COUNT_QUESTIONS, settle  # noqa: E402
from browser.layouts import LAYOUTS, MAPS, PICTURES, parts  # noqa: E402
from browser.wires import TITLES, Box, Ways, behind, curve, route  # noqa: E402
from comfyui_host import ROOT  # noqa: E402
from serve_host import TYPES, Serve  # noqa: E402

EXAMPLES = ROOT / "example_workflows"
LAID_OUT = Path(__file__).with_name("laid_out.json")  # example → the parts that its nodes had
WIDTH, HEIGHT, INNER = 1460, 896, 260  # of all nodes with their titles; of a node in a subgraph. The front end opens it at four fifths
# of its width, what grows over its least height; pictures 1.15
TALLEST = dict.fromkeys((*MAPS, "DiTBlocksTrajectory"), 1.85) | {"DiTBlocksConceptMap": 2.9, "MarkdownNote": 2}
TITLE, GAP, GUTTER, EDGE, PICTURE = 30, 24, 52, 14, 232  # of a node and of a group; below a node; beside it; from a group to its nodes; of a picture


# --- subgraphs ---

def fold(graph: dict, title: str, ids: list[int], shown: list[tuple[int, str]]) -> None:
    """Put nodes of a graph into a subgraph of its own; `shown`: the widgets inside that its node shows."""
    inside = [node for node in graph["nodes"] if node["id"] in ids]
    new = max([graph["last_node_id"], *(node["id"] for node in graph["nodes"])]) + 1
    name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{graph['id']}/{title}"))
    inputs, outputs, inner, outer = [], [], [], []
    by_id = {node["id"]: node for node in graph["nodes"]}

    def entry(found: list, key, socket: str, type_: str) -> int:
        """The place of a socket of the subgraph, made where it is not there yet."""
        for i, one in enumerate(found):
            if one["key"] == key:
                return i
        taken = {one["name"] for one in found}
        base, count = socket, 2
        while socket in taken:
            socket, count = f"{base} {count}", count + 1
        found.append({"key": key, "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{len(inputs)}/{len(outputs)}/{socket}")), "name": socket,
                      "type": type_, "linkIds": []})
        return len(found) - 1

    last = graph["last_link_id"]
    for link in graph["links"]:
        id_, origin, slot, target, place, type_ = link
        if origin in ids and target in ids:
            inner.append({"id": id_, "origin_id": origin, "origin_slot": slot, "target_id": target, "target_slot": place, "type": type_})
        elif target in ids:
            at = entry(inputs, (origin, slot), by_id[target]["inputs"][place]["name"], by_id[origin]["outputs"][slot]["type"])
            inputs[at]["linkIds"].append(id_)
            inner.append({"id": id_, "origin_id": -10, "origin_slot": at, "target_id": target, "target_slot": place, "type": type_})
            if len(inputs[at]["linkIds"]) == 1:
                last += 1
                inputs[at]["outer"] = last
                outer.append([last, origin, slot, new, at, type_])
        elif origin in ids:
            out = by_id[origin]["outputs"][slot]
            at = entry(outputs, (origin, slot), out.get("label") or out["name"], type_)
            if not outputs[at]["linkIds"]:
                last += 1
                outputs[at]["linkIds"].append(last)
                inner.append({"id": last, "origin_id": origin, "origin_slot": slot, "target_id": -20, "target_slot": at, "type": type_})
            outer.append([id_, new, at, target, place, type_])
        else:
            outer.append(link)
    values = []
    for id_, widget in shown:
        node = by_id[id_]
        socket = WIDGETS[node["type"]][widget]
        at = entry(inputs, (id_, widget), widget, socket)
        last += 1
        inputs[at]["linkIds"].append(last)
        inputs[at]["widget"] = widget
        spot = next((i for i, one in enumerate(node["inputs"]) if one["name"] == widget), None)
        if spot is None:
            spot = len(node["inputs"])
            node["inputs"].append({"name": widget, "type": socket, "widget": {"name": widget}, "link": None})
        node["inputs"][spot]["link"] = last
        inner.append({"id": last, "origin_id": -10, "origin_slot": at, "target_id": id_, "target_slot": spot, "type": socket})
        values.append(node["widgets_values"][ORDER[node["type"]].index(widget)])
    for node in inside:
        for i, one in enumerate(node.get("outputs", ())):
            one["links"] = [link["id"] for link in inner if link["origin_id"] == node["id"] and link["origin_slot"] == i]
    sockets = [{"name": one["name"], "type": one["type"], "link": one.get("outer")} | ({"widget": {"name": one["name"]}} if "widget" in one else {})
               for one in inputs]
    graph["nodes"] = [node for node in graph["nodes"] if node["id"] not in ids] + [{
        "id": new, "type": name, "pos": [0, 0], "size": [270, 100], "flags": {}, "order": min(node["order"] for node in inside), "mode": 0,
        "inputs": sockets, "outputs": [{"name": one["name"], "type": one["type"], "links": []} for one in outputs],
        "title": title, "properties": {}, "widgets_values": values}]
    graph["links"], graph["last_link_id"], graph["last_node_id"] = outer, last, new
    for node in graph["nodes"]:
        for i, one in enumerate(node.get("outputs", ())):
            one["links"] = [link[0] for link in outer if link[1] == node["id"] and link[2] == i]
    plain = [{key: one[key] for key in ("id", "name", "type", "linkIds")} for one in inputs], \
        [{key: one[key] for key in ("id", "name", "type", "linkIds")} for one in outputs]
    graph.setdefault("definitions", {}).setdefault("subgraphs", []).append({
        "id": name, "version": 1, "state": {"lastGroupId": 0, "lastNodeId": new, "lastLinkId": last, "lastRerouteId": 0}, "revision": 0,
        "config": {}, "name": title, "inputNode": {"id": -10, "bounding": [0, 0, 120, 40]}, "outputNode": {"id": -20, "bounding": [0, 0, 120, 40]},
        "inputs": plain[0], "outputs": plain[1], "widgets": [], "nodes": inside, "groups": [], "links": inner, "extra": {}})


# --- sizes ---

MEASURE = """() => {
    const { ds, graph } = app.canvas;
    return Object.fromEntries(graph.nodes.map((node) => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        const markdown = (node.widgets ?? []).map(({ element }) => element).find((one) => one?.classList?.contains("comfy-markdown"));
        const inner = markdown?.querySelector(".comfy-markdown-content") ?? markdown;
        if (node.flags.collapsed) return [node.id, [0, 88]]; // its size counts when the view is fitted
        let height = element ? element.getBoundingClientRect().height / ds.scale : node.size[1] + (node.type === "Reroute" ? 0 : 30);
        const scrolled = [...(element ?? document.createElement("div")).querySelectorAll("*")]
            .reduce((most, one) => Math.max(most, one.scrollHeight - one.clientHeight), 0);
        if (node.type === "MarkdownNote") height += element ? scrolled : Math.max(0, (inner?.scrollHeight ?? 0) - (inner?.clientHeight ?? 0));
        const width = Math.max(node.size[0], element ? element.getBoundingClientRect().width / ds.scale : 0);
        return [node.id, [width, height]];
    }));
}"""

SOCKETS = """() => {
    const { ds, graph, canvas } = app.canvas;
    const { left, top } = canvas.getBoundingClientRect();
    const spot = (node, way, index) => {
        const dot = document.querySelector(`[data-slot-key="${node.id}-${way}-${index}"]`);
        if (!dot) return [...node.getConnectionPos(way === "in", index)];
        const box = dot.getBoundingClientRect();
        return [(box.x + box.width / 2 - left) / ds.scale - ds.offset[0], (box.y + box.height / 2 - top) / ds.scale - ds.offset[1]];
    };
    const ends = {};
    for (const link of graph.links.values()) {
        const [from, to] = [graph.getNodeById(link.origin_id), graph.getNodeById(link.target_id)];
        if (from && to) ends[link.id] = [spot(from, "out", link.origin_slot), spot(to, "in", link.target_slot)];
    }
    return ends;
}"""


class Browser:
    """The front end in both renderers."""

    def __init__(self, browser, host: Serve):
        self.pages = []
        for vue in (False, True):
            host.post("/settings/Comfy.VueNodes.Enabled", vue)
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            page.add_init_script(COUNT_QUESTIONS)
            page.goto(f"{host.url}/?again")  # not as a new browser, which is sent to an example
            page.wait_for_function("window.app?.extensionManager?.workflow?.activeWorkflow && app.canvas", timeout=90_000)
            self.pages.append(page)

    def ask(self, graph: dict, question: str) -> list:
        """What both renderers answer of a graph."""
        answers = []
        for page in self.pages:
            page.evaluate("graph => app.loadGraphData(graph)", graph)
            settle(page)
            answers.append(page.evaluate(question))
        return answers


def measured(browser: Browser, graph: dict, widths: dict[int, float]) -> dict[int, tuple[float, float]]:
    """The least size of each node at its width, those inside subgraphs too: the larger one of both renderers; with the picture that it
    shows."""
    trial, collapsed = json.loads(json.dumps(graph)), {node["id"] for node in graph["nodes"] if node["flags"].get("collapsed")}
    for node in (node for one in trial.get("definitions", {}).get("subgraphs", ()) for node in one["nodes"]):
        trial["nodes"].append(json.loads(json.dumps(node)) | {
            key: [one | none for one in node.get(key, ())] for key, none in (("inputs", {"link": None}), ("outputs", {"links": []}))})
    for i, node in enumerate(trial["nodes"]):
        node["size"], node["pos"] = [widths.get(node["id"], INNER), 10], [(i % 6) * 500, (i // 6) * 900]
    trial["groups"] = []
    trial["extra"].pop("reroutes", 0), trial["extra"].pop("linkExtensions", 0)
    answers = browser.ask(trial, MEASURE)
    found = {}
    for node in trial["nodes"]:
        wide, tall = (max(one[str(node["id"])][i] for one in answers) for i in (0, 1))
        found[node["id"]] = wide, math.ceil((tall + (PICTURE if node["type"] in PICTURES and node["id"] not in collapsed else 0)) / 8) * 8
    return found


# --- places ---

def place(graph: dict, columns: list[tuple[str, int, list[int]]], sizes: dict, height: float) -> float:
    """Columns beside each other, nodes below each other; pictures and notes take what height is left. → the height that it takes."""
    by_id, x, tallest = {node["id"]: node for node in graph["nodes"]}, 0.0, 0.0
    graph["groups"] = []
    for i, (title, width, ids) in enumerate(columns):
        least = sum(sizes[id_][1] for id_ in ids) + GAP * (len(ids) - 1)
        growing = [id_ for id_ in ids if by_id[id_]["type"] in PICTURES | MAPS | {"MarkdownNote"} and not by_id[id_]["flags"].get("collapsed")]
        more = max(0.0, height - least) / max(1, len(growing))
        y = 0.0
        for id_ in ids:
            node, tall = by_id[id_], sizes[id_][1]
            if id_ in growing:
                tall = 8 * (min(tall + more, max(tall, width * TALLEST.get(node["type"], 1.15))) // 8)
            node["pos"], node["size"] = [round(x), round(y + TITLE)], [width, round(tall - TITLE)]
            y += tall + GAP
        tallest = max(tallest, y - GAP)
        if title:
            graph["groups"].append({"id": len(graph["groups"]) + 1, "title": title, "bounding": [round(x - EDGE), -TITLE - EDGE, width + 2 * EDGE, round(y - GAP + TITLE + 2 * EDGE)], "color": COLOURS[i % len(COLOURS)],
                                    "font_size": 22, "flags": {}})
        x += width + GUTTER
    return tallest


COLOURS = ["#8ab6d6", "#c79fc9", "#d8b978", "#8fcfa3", "#e0a37c", "#a6a6d8"]


def boxes(graph: dict) -> dict[int, Box]:
    return {node["id"]: (node["pos"][0], node["pos"][1] - TITLE, node["size"][0], TITLE + (0 if node["flags"].get("collapsed") else node["size"][1]))
            for node in graph["nodes"]}


def wire(graph: dict, seen: list[dict]) -> float:
    """Reroutes for wires that would pass behind nodes or over the titles of groups: → how long wires still do, in pixels."""
    sockets, titles = [ends for ends, _ in seen], [tuple(box) for _, box in seen[0][1]]
    around, reroutes, extensions, known, left = boxes(graph), [], [], {}, 0.0
    bounds = min(b[0] for b in around.values()), min(b[1] for b in around.values())
    size = max(b[0] + b[2] for b in around.values()) - bounds[0], max(b[1] + b[3] for b in around.values()) - bounds[1]
    bars = [(x, y, w - EDGE, TITLE + EDGE) for x, y, w, _ in (group["bounding"] for group in graph["groups"])]
    ways = Ways(list(around.values()), bars, (*bounds, *size))
    pairs = {link[0]: (link[1], link[2], link[3]) for link in graph["links"]}

    def length(id_):
        source, target = sockets[0][str(id_)]
        return abs(target[0] - source[0]) + abs(target[1] - source[1])
    for id_ in sorted(pairs, key=length):
        origin, slot, target = pairs[id_]
        others = [box for key, box in around.items() if key not in (origin, target)] + titles
        ends = [(tuple(one[str(id_)][0]), tuple(one[str(id_)][1])) for one in sockets]
        mine = [around[origin], around[target]]
        inset = [(x + 20, y + 6, w - 40, h - 12) for x, y, w, h in mine]
        stops = route((origin, slot), ends, others + inset, ways)
        left += max(behind(curve(*both, stops), others) for both in ends)
        parent = None
        for i, stop in enumerate(stops):
            key = (origin, slot, tuple((round(x), round(y)) for x, y in stops[:i + 1]))
            if key not in known:
                known[key] = {"id": len(reroutes) + 1, "pos": [round(stop[0]), round(stop[1])], "linkIds": []} | (
                    {"parentId": parent} if parent else {})
                reroutes.append(known[key])
            known[key]["linkIds"].append(id_)
            parent = known[key]["id"]
        if parent:
            extensions.append({"id": id_, "parentId": parent})
    for key in ("reroutes", "linkExtensions"):
        graph["extra"].pop(key, None)
    if reroutes:
        graph["extra"] |= {"reroutes": reroutes, "linkExtensions": extensions}
    return left


# --- a workflow ---

def inside(subgraph: dict, sizes: dict) -> None:
    """A subgraph's nodes in columns, in the order of their wires."""
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for link in subgraph["links"]:
            if link["origin_id"] in nodes and link["target_id"] in nodes:
                depth[link["target_id"]] = max(depth[link["target_id"]], depth[link["origin_id"]] + 1)
    columns: list[list[int]] = []
    for level in range(max(depth.values()) + 1):
        here = [id_ for id_ in nodes if depth[id_] == level]
        tall = sum(sizes[id_][1] + GAP for id_ in here)
        if columns and len(here) == 1 and sum(sizes[id_][1] + GAP for id_ in columns[-1]) + tall < HEIGHT * 0.8 and max(depth.values()) > 5:
            columns[-1] += here
        else:
            columns.append(here)
    place(subgraph, [("", INNER, ids) for ids in columns], sizes, 0)
    subgraph["groups"] = []
    right = len(columns) * (INNER + GUTTER)
    for key, x, ends in (("inputNode", -200, "inputs"), ("outputNode", right + 20, "outputs")):
        subgraph[key]["bounding"] = [x, -30, 140, 40 + 20 * len(subgraph[ends])]


def wire_anew(browser: Browser, path: Path) -> None:
    """Only the wires."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    left = wire(graph, browser.ask(graph, f"() => [({SOCKETS})(), ({TITLES})()]"))
    path.write_text(json.dumps(graph, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{path.stem}: {len(graph['extra'].get('reroutes', ()))} reroutes, {round(left)} px behind nodes", flush=True)


def lay_out(browser: Browser, path: Path) -> None:
    graph = json.loads(path.read_text(encoding="utf-8"))
    layout = LAYOUTS[path.stem]
    for title, (ids, shown) in layout.get("subgraphs", {}).items():
        if not any(one["name"] == title for one in graph.get("definitions", {}).get("subgraphs", ())):
            named = {node.get("title"): node["id"] for node in graph["nodes"]}
            fold(graph, title, [named.get(one, one) for one in ids], shown)
    for node in graph["nodes"]:
        node["flags"] = {**node.get("flags", {}), "collapsed": True} if node["id"] in layout.get("collapsed", ()) else node.get("flags", {})
    named = {node.get("title"): node["id"] for node in graph["nodes"]}
    columns = [(title, width, [named.get(one, one) for one in ids]) for title, width, ids in layout["columns"]]
    listed = sorted(id_ for _, _, ids in columns for id_ in ids)
    there = sorted(node["id"] for node in graph["nodes"])
    assert listed == there, f"{path.stem}: laid out {listed}, there are {there}"
    widths = {id_: width for _, width, ids in columns for id_ in ids}
    sizes = measured(browser, graph, widths)
    for subgraph in graph.get("definitions", {}).get("subgraphs", ()):
        inside(subgraph, sizes)
    tall = place(graph, columns, sizes, HEIGHT)
    wide = sum(width for _, width, _ in columns) + GUTTER * (len(columns) - 1)
    left = wire(graph, browser.ask(graph, f"() => [({SOCKETS})(), ({TITLES})()]"))
    path.write_text(json.dumps(graph, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    known = json.loads(LAID_OUT.read_text(encoding="utf-8")) | {path.stem: parts(graph, TYPES)}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(known[name])}" for name in LAYOUTS if name in known)
    LAID_OUT.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    if tall > HEIGHT:
        print([(title, [(id_, round(sizes[id_][1])) for id_ in ids]) for title, _, ids in columns])
    over = {id_: round(sizes[id_][0]) for id_ in widths if sizes[id_][0] > widths[id_] + 1}
    print(f"{path.stem}: {wide} × {round(tall)}, {len(graph['extra'].get('reroutes', ()))} reroutes, {round(left)} px behind nodes", over or "", flush=True)


WIDGETS: dict[str, dict[str, str]] = {}
ORDER: dict[str, list[str]] = {}


def read_nodes(info: dict) -> None:
    """Of each type of node: its widgets' types, and the order in which a workflow keeps their values."""
    for name, node in info.items():
        both = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        names = [one for group in ("required", "optional") for one in node.get("input_order", {}).get(group, ())] or list(both)
        kinds = {one: "COMBO" if isinstance(both[one][0], list) else both[one][0] for one in names}
        WIDGETS[name] = {one: kind for one, kind in kinds.items() if kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")}
        ORDER[name] = []
        for one in WIDGETS[name]:
            options = both[one][1] if len(both[one]) > 1 else {}
            ORDER[name] += [one, f"{one} control"] if options.get("control_after_generate") else [one]


def main(names: list[str]) -> None:
    with TemporaryDirectory() as base, sync_playwright() as playwright:
        host = Serve(Path(base))
        for name, value in {"TutorialCompleted": True, "Minimap.Visible": False}.items():
            host.post(f"/settings/Comfy.{name}", value)
        read_nodes(host.get("/object_info"))
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        browser = Browser(chromium, host)
        act = wire_anew if "--wires" in names else lay_out
        for name in [name for name in names if name != "--wires"] or LAYOUTS:
            act(browser, EXAMPLES / f"{name}.json")
        chromium.close()
        host.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
