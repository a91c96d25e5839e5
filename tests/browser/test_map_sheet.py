"""Nodes that show maps over the token grid: the token under the mouse is framed in each map, on whichever panel the mouse is."""

import json

from browser.gestures import later, on, settle, turn, value
from comfyui_host import ROOT
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
WORKFLOW = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
WORKFLOW["nodes"] = [node for node in WORKFLOW["nodes"] if node["type"] != "MarkdownNote"]
PATCHIFY, ATTENTION, POSITIONS, STEPS, COMPONENTS, RESPONSES, CONTENT = (f"DiTBlocks{name}" for name in (
    "Patchify", "AttentionMap", "PositionSimilarity", "AttentionSteps", "TokenPCA", "ResponseMaps", "ContentAndPlace"))
ROWS, COLUMNS = 8, 16

# Instead of the denoising: one block's attention at the first step, and positions, beside Patchify, with space around them.
ADDED = """() => {
    const of = (kind) => app.graph.nodes.find(({ comfyClass }) => comfyClass === kind);
    const denoise = of("DiTBlocksDenoise");
    const feeds = Object.fromEntries(denoise.inputs.filter(({ link }) => link != null).map(({ name, link }) => {
        const { origin_id, origin_slot } = app.graph.getLink(link);
        return [name, [app.graph.getNodeById(origin_id), origin_slot]];
    }));
    const { pos: [x, y] } = of("DiTBlocksPatchify");
    const made = (kind, at, inputs) => {
        const node = LiteGraph.createNode(kind);
        app.graph.add(node);
        node.pos = [x + at[0], y + at[1]];
        node.setSize([400, node.size[1]]);
        for (const [name, [from, slot]] of Object.entries(inputs)) from.connect(slot, node, node.inputs.findIndex((one) => one.name === name));
        return node;
    };
    const begun = made("DiTBlocksCondition", [0, 2000], { dit: feeds.dit, x: feeds.tokens, positive: feeds.positive, sigmas: feeds.sigmas });
    const cut = made("DiTBlocksPatchEmbed", [450, 2000], { dit: feeds.dit, x: [begun, 0] });
    const placed = made("DiTBlocksPositionEmbed", [900, 2000], { dit: feeds.dit, hidden: [cut, 0] });
    of("DiTBlocksPatchify").pos = [x, y + 1000];
    made("DiTBlocksAttentionMap", [450, 1000], { dit: feeds.dit, hidden: [placed, 0] });
    made("DiTBlocksPositionSimilarity", [-450, 1000], { dit: feeds.dit, x: feeds.tokens });
    for (const one of app.graph.nodes.filter(({ comfyClass }) => ["DiTBlocksDenoise", "SaveImage"].includes(comfyClass))) app.graph.remove(one);
}"""

# In the place of DiT Denoise: the same with attention at every step.
IN_ITS_PLACE = """() => {
    const denoise = app.graph.nodes.find(({ comfyClass }) => comfyClass === "DiTBlocksDenoise");
    const steps = LiteGraph.createNode("DiTBlocksAttentionSteps");
    app.graph.add(steps);
    steps.pos = [denoise.pos[0], denoise.pos[1] + 1000];
    steps.setSize([400, steps.size[1]]);
    for (const { name, link } of denoise.inputs.filter(({ link }) => link != null)) {
        const { origin_id, origin_slot } = app.graph.getLink(link);
        const place = steps.inputs.findIndex((one) => one.name === name);
        if (place >= 0) app.graph.getNodeById(origin_id).connect(origin_slot, steps, place);
    }
    for (const { target_id, target_slot } of denoise.outputs[0].links.map((id) => app.graph.getLink(id)))
        steps.connect(2, app.graph.getNodeById(target_id), target_slot);
    app.graph.remove(denoise);
}"""


# Beside Patchify: its tokens as colours, as maps of single numbers, and as content and place, in the place of the denoising.
OF_TOKENS = """() => {
    const of = (kind) => app.graph.nodes.find(({ comfyClass }) => comfyClass === kind);
    const [denoise, patchify, decode] = ["DiTBlocksDenoise", "DiTBlocksPatchify", "DiTBlocksVAEDecode"].map(of);
    const into = (node, name) => {
        const { origin_id, origin_slot } = app.graph.getLink(node.inputs.find((input) => input.name === name).link);
        return [app.graph.getNodeById(origin_id), origin_slot];
    };
    const [dit, sigmas, positive] = ["dit", "sigmas", "positive"].map((name) => into(denoise, name));
    const cut = { dit, tokens: [patchify, 0], sigmas, positive, vae: into(decode, "vae") };
    const { pos: [x, y] } = patchify;
    for (const [kind, at, inputs] of [["TokenPCA", -450, { x: cut.tokens }], ["ResponseMaps", 450, { x: cut.tokens }], ["ContentAndPlace", 900, cut]]) {
        const node = LiteGraph.createNode(`DiTBlocks${kind}`);
        app.graph.add(node);
        const tall = kind === "ContentAndPlace"; // it ends above the editor's own buttons
        node.pos = [x + at, y + (tall ? 650 : 1000)];
        node.setSize([400, tall ? 700 : node.size[1]]);
        for (const [name, [from, slot]] of Object.entries(inputs)) from.connect(slot, node, node.inputs.findIndex((one) => one.name === name));
    }
    patchify.pos = [x, y + 1000];
    for (const one of app.graph.nodes.filter(({ comfyClass }) => ["DiTBlocksDenoise", "SaveImage"].includes(comfyClass))) app.graph.remove(one);
}"""


@pytest.fixture
def page(page, load):
    load(WORKFLOW)
    turn(page, "DiTBlocksEmptyLatent", "height", 128)
    return page


@pytest.fixture
def maps(page):
    page.evaluate(ADDED)
    settle(page)
    return page


def look(page, kind: str = PATCHIFY) -> None:
    """A node in the middle, in full size; beside Patchify are both nodes with maps."""
    on(page, kind, "(app.canvas.ds.scale = 1, app.canvas.centerOnNode(node), app.canvas.setDirty(true, true))")
    settle(page)


def panel(page, kind: str):
    on(page, kind, "node.widgets.find(({ name }) => name === 'maps').element.dataset.kind = node.comfyClass")
    return page.locator(f".dit-blocks-maps[data-kind={kind}]")


def maps_of(page, kind: str, entry: dict) -> list[tuple[float, float, float, float]]:
    """Left, top, width and height of each map on the page, by what the run told of it."""
    (facts,) = entry["outputs"][str(on(page, kind, "node.id"))]["dit_blocks"]
    assert facts["grid"] == [ROWS, COLUMNS]
    image = panel(page, kind).locator("img")
    wide, tall = image.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    box = image.bounding_box()
    scale = min(box["width"] / wide, box["height"] / tall)
    left, top = box["x"] + (box["width"] - wide * scale) / 2, box["y"] + (box["height"] - tall * scale) / 2
    return [(left + one["x"] * wide * scale, top + one["y"] * tall * scale, one["width"] * wide * scale, one["height"] * tall * scale)
            for one in (found["box"] for found in facts["maps"])]


def middle(of: tuple, row: int, column: int) -> tuple[float, float]:
    left, top, wide, tall = of
    return left + (column + 0.5) / COLUMNS * wide, top + (row + 0.5) / ROWS * tall


def framed(page, kind: str) -> list[tuple[float, float]]:
    """The middles of the frames that are shown."""
    boxes = [one.bounding_box() for one in panel(page, kind).locator(".dit-blocks-frame:visible").all()]
    return [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]


def expect_framed(page, kind: str, maps: list, row: int, column: int) -> None:
    expected = [pytest.approx(middle(one, row, column), abs=1) for one in maps]
    later(page, lambda: framed(page, kind) == expected)


def says(page, kind: str, words: str) -> None:
    sync_api.expect(panel(page, kind)).to_contain_text(words)


def test_the_token_under_the_mouse_is_framed_in_every_map(maps, run):
    page = maps
    says(page, ATTENTION, "run to see the maps")
    entry = run()
    look(page)
    attention, positions = maps_of(page, ATTENTION, entry), maps_of(page, POSITIONS, entry)
    assert (len(attention), len(positions)) == (1, 2)
    for kind in (ATTENTION, POSITIONS):  # ComfyUI's own preview does not show the picture a second time
        assert not on(page, kind, "node.widgets.some(({ name }) => name.startsWith('$$'))")
        assert page.locator(f"[data-node-id='{on(page, kind, 'node.id')}'] img").count() <= 1
    assert on(page, ATTENTION, "node.imgs.length") == 1  # for the node's menu

    grid = page.locator(".dit-blocks-grid canvas").bounding_box()
    wide = min(grid["width"], grid["height"] * COLUMNS / ROWS)
    left, top = grid["x"] + (grid["width"] - wide) / 2, grid["y"] + (grid["height"] - wide * ROWS / COLUMNS) / 2
    page.mouse.move(*middle((left, top, wide, wide * ROWS / COLUMNS), 2, 13))
    says(page, ATTENTION, "token 45: row 2, column 13")
    expect_framed(page, ATTENTION, attention, 2, 13)
    expect_framed(page, POSITIONS, positions, 2, 13)

    page.mouse.move(*middle(attention[0], 6, 3))
    says(page, ATTENTION, "token 99: row 6, column 3")
    says(page, ATTENTION, "click to choose it")
    sync_api.expect(page.locator(".dit-blocks-grid").first).to_contain_text("token 99: row 6, column 3")
    expect_framed(page, POSITIONS, positions, 6, 3)
    page.mouse.down()
    page.mouse.up()
    assert value(page, ATTENTION, "query") == 99 and value(page, POSITIONS, "query") == 0
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert value(page, ATTENTION, "query") == 83
    page.mouse.move(*middle(positions[1], 7, 15))
    says(page, POSITIONS, "token 127: row 7, column 15")
    expect_framed(page, ATTENTION, attention, 7, 15)
    page.mouse.move(5, 5)
    says(page, ATTENTION, "query is 83 now: run again for the outputs")
    assert not framed(page, ATTENTION) and not framed(page, POSITIONS)

    page.mouse.move(*middle(positions[1], 6, 3))
    turn(page, ATTENTION, "direction", "text to image")
    turn(page, ATTENTION, "query", 1)
    attention = maps_of(page, ATTENTION, run())
    expect_framed(page, ATTENTION, attention, 6, 3)  # the mouse rests while a run ends
    page.mouse.move(*middle(attention[0], 6, 3))
    says(page, ATTENTION, "token 99: row 6, column 3")
    sync_api.expect(panel(page, ATTENTION)).not_to_contain_text("click")
    page.mouse.down()
    page.mouse.up()
    assert value(page, ATTENTION, "query") == 1  # a text token


def test_maps_of_tokens_frame_the_token_under_the_mouse_too(page, run):
    page.evaluate(OF_TOKENS)
    settle(page)
    entry = run()
    look(page, RESPONSES)
    maps = {kind: maps_of(page, kind, entry) for kind in (COMPONENTS, RESPONSES, CONTENT)}
    assert [len(one) for one in maps.values()] == [2, 12, 9]
    for kind in maps:
        assert not on(page, kind, "node.widgets.some(({ name }) => name.startsWith('$$'))")
    page.mouse.move(*middle(maps[RESPONSES][7], 5, 14))
    for kind, boxes in maps.items():
        says(page, kind, "token 94: row 5, column 14")
        expect_framed(page, kind, boxes, 5, 14)
    says(page, CONTENT, "click to choose it")
    sync_api.expect(panel(page, RESPONSES)).not_to_contain_text("click")
    page.mouse.move(*middle(maps[CONTENT][8], 3, 2))  # on a picture that the model expects
    expect_framed(page, COMPONENTS, maps[COMPONENTS], 3, 2)
    page.mouse.down()
    page.mouse.up()
    assert value(page, CONTENT, "query") == 50
    page.mouse.move(5, 5)
    says(page, CONTENT, "query is 50 now: run again for the outputs")
    assert not framed(page, COMPONENTS)


def test_after_the_previews_of_a_run_comes_its_picture(page, run):
    turn(page, "DiTBlocksSchedule", "steps", 4)
    page.evaluate(IN_ITS_PLACE)
    settle(page)
    look(page, STEPS)
    for block in (0, 1):
        turn(page, STEPS, "block", block)
        entry = run()
        sync_api.expect(panel(page, STEPS).locator("img")).to_be_visible()
        settle(page)
        maps = maps_of(page, STEPS, entry)
        assert len(maps) == 4
        page.mouse.move(*middle(maps[2], 5, 11))
        says(page, STEPS, "token 91: row 5, column 11")
        expect_framed(page, STEPS, maps, 5, 11)
        sync_api.expect(panel(page, STEPS).locator("canvas")).to_be_hidden()
        page.mouse.move(5, 5)


def test_a_tab_that_is_opened_again_shows_what_its_last_run_told(maps, run):
    page = maps
    entry = run()
    look(page)
    before = maps_of(page, ATTENTION, entry)
    page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("!app.rootGraph.nodes.length")
    page.evaluate("app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    page.wait_for_function("app.rootGraph.nodes.length")
    settle(page)
    page.mouse.move(*middle(before[0], 4, 9))
    says(page, ATTENTION, "token 73: row 4, column 9")
    expect_framed(page, ATTENTION, before, 4, 9)
    expect_framed(page, POSITIONS, maps_of(page, POSITIONS, entry), 4, 9)
