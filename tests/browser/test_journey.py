"""Token Journey's panel follows the token that is pointed at and clicked on another panel."""

import json

from browser.gestures import on, settle, turn, value
from comfyui_host import ROOT
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
WORKFLOW = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
JOURNEY, PATCHIFY = "DiTBlocksTokenJourney", "DiTBlocksPatchify"

# Condition on the noise of the first step, and the journey through it, beside the rest.
ADDED = """() => {
    const of = (kind) => app.graph.nodes.find(({ comfyClass }) => comfyClass === kind);
    const made = (kind, at) => {
        const node = LiteGraph.createNode(kind);
        app.graph.add(node);
        node.pos = at;
        return node;
    };
    const wire = (from, name, to, input) =>
        from.connect(from.outputs.findIndex((one) => one.name === name), to, to.inputs.findIndex((one) => one.name === input));
    const begun = made("DiTBlocksCondition", [1500, 40]);
    const journey = made("DiTBlocksTokenJourney", [1780, 40]);
    journey.setSize([380, journey.size[1]]);
    const denoise = of("DiTBlocksDenoise");
    for (const [input, there] of [["dit", "dit"], ["tokens", "x"], ["positive", "positive"], ["sigmas", "sigmas"]]) {
        const link = app.graph.getLink(denoise.inputs.find(({ name }) => name === input).link);
        app.graph.getNodeById(link.origin_id).connect(link.origin_slot, begun, begun.inputs.findIndex(({ name }) => name === there));
    }
    const link = app.graph.getLink(denoise.inputs[0].link);
    app.graph.getNodeById(link.origin_id).connect(link.origin_slot, journey, 0);
    wire(begun, begun.outputs[0].name, journey, "hidden");
}"""


def test_the_panel_follows_what_is_pointed_at_and_clicked(page, load, run):
    load(WORKFLOW)
    turn(page, "DiTBlocksSchedule", "steps", 2)
    page.evaluate(ADDED)
    settle(page)
    panel = page.locator(".dit-blocks-journey")
    sync_api.expect(panel).to_contain_text("run to follow a token")
    run()
    sync_api.expect(panel).to_contain_text("token 0: row 0, column 0")
    for words in ("its patch: 64 values", "number 0 of 192 is", "its place adds", "words it reads most", "cat", "the head answers 64 values"):
        sync_api.expect(panel).to_contain_text(words)
    on(page, PATCHIFY, "(app.canvas.ds.scale = 1, app.canvas.centerOnNode(node), app.canvas.setDirty(true, true))")
    settle(page)
    box = page.locator(".dit-blocks-grid canvas").bounding_box()
    side = min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    at = left + side * 5.5 / 16, top + side * 2.5 / 16
    page.mouse.move(*at)
    sync_api.expect(panel).to_contain_text("token 37: row 2, column 5")
    page.mouse.click(*at)
    page.mouse.move(800, 950)
    sync_api.expect(panel).to_contain_text("token 37: row 2, column 5")
    assert value(page, JOURNEY, "token") == 37
    on(page, JOURNEY, "(app.canvas.ds.scale = 1, app.canvas.centerOnNode(node), app.canvas.setDirty(true, true))")
    settle(page)
    bottom, end = (panel.locator("> div").evaluate(f"one => {what}") for what in ("one.scrollHeight", "one.clientHeight"))
    assert bottom <= end + 1  # all of it is seen
