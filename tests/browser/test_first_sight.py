"""A workflow as it opens: legible, nothing over anything else, wires in front of empty space; and the same after a run."""

import json
import random

from browser.gestures import complaints_of, known_to, settle, turn
from browser.wires import TITLES, behind, curve
from comfyui_host import ROOT
from everywhere import EVERYWHERE
import pytest
from serve_host import TYPES, Serve

BOTH_RENDERERS = True  # conftest.py: they lay nodes out in ways of their own
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
FAST = ("start_here", "learn_01_pixels_to_latents", "learn_03_patch_embedding")  # those that ComfyUI opens too
WITH_MAPS = ("learn_02_latents_to_patches", "learn_04_positions", "learn_05_time_and_text", "learn_10_see_and_steer", "concept_mask")
LEAST_SCALE, LEAST_LETTERS, BEHIND = 0.8, 9, 24  # the last: pixels of a wire that may lie behind a node or over a title

# Boxes of nodes and groups, wires with their reroutes, and the least letters, all as they are on the graph in view. Letters on sheets of maps
# are 18 pixels high, and higher on one that is wider than 720 (charts.sheet_and_corners).
SEEN = """() => {
    const { ds, graph, canvas } = app.canvas;
    const { left, top } = canvas.getBoundingClientRect();
    const within = ({ x, y, width, height }) => [(x - left) / ds.scale - ds.offset[0], (y - top) / ds.scale - ds.offset[1],
        width / ds.scale, height / ds.scale];
    const box = (node) => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        const height = node.flags.collapsed ? 0 : node.size[1];
        return element ? within(element.getBoundingClientRect()) : [node.pos[0], node.pos[1] - 30, node.size[0], height + 30];
    };
    const spot = (node, way, index) => {
        const dot = document.querySelector(`[data-slot-key="${node.id}-${way}-${index}"]`);
        if (!dot) return [...node.getConnectionPos(way === "in", index)];
        const [x, y, width, height] = within(dot.getBoundingClientRect());
        return [x + width / 2, y + height / 2];
    };
    const wires = [...graph.links.values()].map((link) => {
        const stops = [];
        for (let stop = graph.reroutes.get(link.parentId); stop; stop = graph.reroutes.get(stop.parentId)) stops.unshift([...stop.pos]);
        const [from, to] = [graph.getNodeById(link.origin_id), graph.getNodeById(link.target_id)];
        return { from: from.id, to: to.id, ends: [spot(from, "out", link.origin_slot), spot(to, "in", link.target_slot)], stops };
    });
    const letters = [...document.querySelectorAll("[class*=dit-blocks-], .comfy-markdown .tiptap, .comfy-markdown-content")]
        .flatMap((element) => [element, ...element.querySelectorAll("p, li, div, button, span")])
        .filter((element) => [...element.childNodes].some(({ nodeType, data }) => nodeType === 3 && data.trim()) && element.offsetParent)
        .map((element) => [parseFloat(getComputedStyle(element).fontSize) * ds.scale, element.textContent.slice(0, 40)]);
    for (const sheet of document.querySelectorAll(".dit-blocks-maps img")) {
        const { naturalWidth: wide, naturalHeight: tall } = sheet, { width, height } = sheet.getBoundingClientRect();
        if (wide && width) letters.push([Math.max(18, wide / 40) * Math.min(width / wide, height / tall), sheet.src.slice(-80)]);
    }
    return { scale: ds.scale, nodes: graph.nodes.map((node) => [node.id, node.title, box(node)]), wires,
        known: graph.nodes.filter(({ type }) => type in LiteGraph.registered_node_types).map(({ id }) => id),
        groups: graph.groups.map(({ title, pos, size }) => [title, [...pos, ...size]]),
        least: letters.sort(([a], [b]) => a - b)[0] ?? [99, ""] };
}"""


def look(page) -> None:
    """Hold what is in view against what a newcomer can read."""
    seen, titles = page.evaluate(SEEN), [box for _, box in page.evaluate(TITLES)]
    boxes = {id: box for id, _, box in seen["nodes"]}
    covered = [(one, other) for i, (_, one, (x, y, w, h)) in enumerate(seen["nodes"]) for _, other, (a, b, c, d) in seen["nodes"][i + 1:]
               if min(x + w, a + c) - max(x, a) > 1 and min(y + h, b + d) - max(y, b) > 1]
    outside = [(node, group) for id, node, (x, y, w, h) in seen["nodes"] for group, (a, b, c, d) in seen["groups"]
               if id in seen["known"] and x < a + c and a < x + w and (x < a - 1 or y < b - 1 or x + w > a + c + 1 or y + h > b + d + 1)]
    hidden = {f"{wire['from']} → {wire['to']}": round(length) for wire in seen["wires"]
              if (length := behind(curve(*wire["ends"], wire["stops"]),
                                   [box for id, box in boxes.items() if id not in (wire["from"], wire["to"])] + titles)) > BEHIND}
    assert seen["scale"] >= LEAST_SCALE
    assert not covered
    assert not outside
    assert not hidden
    assert seen["least"][0] >= LEAST_LETTERS, seen["least"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_legible_as_it_opens(page, load, host, path, run):
    """Without a complaint, where the host knows all of its nodes. Over ComfyUI, which sends the same front end the same nodes, those examples
    that have nodes of its own: EVERYWHERE=1 for the others."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    if not (EVERYWHERE or isinstance(host, Serve) or path.stem in FAST or not known_to(TYPES, workflow)):
        pytest.skip("an example that standalone opens, over ComfyUI: set EVERYWHERE=1")
    with complaints_of(page) as complaints:
        load(workflow)
    assert not complaints or not known_to(host.get("/object_info"), workflow)
    look(page)
    if path.stem in FAST + WITH_MAPS and isinstance(host, Serve):
        run()
        settle(page)
        look(page)


def test_after_its_run_a_node_shows_its_own_picture(page, load, run):
    """Not the preview of the last step, which ComfyUI would go on showing."""
    load(json.loads((ROOT / "example_workflows" / "learn_07_the_loop.json").read_text(encoding="utf-8")))
    turn(page, "DiTBlocksTrajectory", "cfg", round(random.uniform(2, 4), 2))  # or a second try would find all of it done
    run()
    settle(page)
    shown = page.evaluate("""() => {
        const node = app.graph.nodes.find(({ comfyClass }) => comfyClass === "DiTBlocksTrajectory");
        const drawn = document.querySelectorAll(`[data-node-id="${node.id}"] img`);
        return [...(drawn.length ? drawn : node.imgs)].map(({ naturalWidth, naturalHeight }) => [naturalWidth, naturalHeight]);
    }""")
    assert shown == [[684, 908]]
