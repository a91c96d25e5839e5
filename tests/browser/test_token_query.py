"""Token Similarity's map in the front end: it follows the mouse, and a click moves the real widget."""

import json

from browser.gestures import settle
from comfyui_host import ROOT
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
KIND = "DiTBlocksTokenSimilarity"
WORKFLOW = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
WORKFLOW["nodes"] = [node for node in WORKFLOW["nodes"] if node["type"] != "MarkdownNote"]


def widget(page, kind: str, name: str, act: str):
    """An expression of `widget`, the one of this name on the one node of this type."""
    return page.evaluate(f"""() => {{
        const node = app.graph.nodes.find(({{ comfyClass }}) => comfyClass === "{kind}");
        const widget = node.widgets.find(({{ name }}) => name === "{name}");
        return {act};
    }}""")


def query(page) -> int:
    return widget(page, KIND, "query", "widget.value")


def look(page) -> None:
    """Bring the node into view at full size."""
    widget(page, KIND, "query", "(app.canvas.ds.scale = 1, app.canvas.centerOnNode(node), app.canvas.setDirty(true, true))")
    settle(page)


def expect(page, text: str) -> None:
    sync_api.expect(page.locator(".dit-blocks-similarity").first).to_contain_text(text)


@pytest.fixture
def page(page, load):
    """The workflow with the node behind Patchify, whose latent is made noise by Add Noise."""
    load(WORKFLOW)
    page.evaluate(f"""() => {{
        const noise = app.graph.nodes.find(({{ comfyClass }}) => comfyClass === "DiTBlocksAddNoise");
        const node = LiteGraph.createNode("{KIND}");
        node.pos = [noise.pos[0], noise.pos[1] + 900];
        app.graph.add(node);
        noise.connect(0, node, 0);
        const cut = app.graph.nodes.filter(({{ comfyClass }}) => ["DiTBlocksDenoise", "SaveImage"].includes(comfyClass));
        for (const one of cut) app.graph.remove(one);
    }}""")
    widget(page, "DiTBlocksPatchify", "patch_size", "(widget.value = 4, widget.callback?.(4))")
    return page


def place(page, row: int, column: int) -> tuple[float, float]:
    """Where a token of the 8×8 grid is on the page."""
    box = page.locator(".dit-blocks-similarity canvas").bounding_box()
    side = min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    return left + (column + 0.5) / 8 * side, top + (row + 0.5) / 8 * side


def test_the_map_follows_the_mouse_and_a_click_chooses(page, run):
    look(page)
    expect(page, "run to see which tokens are alike")
    run()
    look(page)
    expect(page, "like token 0: row 0, column 0")
    page.mouse.move(*place(page, 2, 5))
    expect(page, "like token 21: row 2, column 5")
    expect(page, "click to choose it")
    sync_api.expect(page.locator(".dit-blocks-grid").first).to_contain_text("row 2, column 5")  # the grid frames the same place
    assert query(page) == 0
    page.mouse.down()
    page.mouse.up()
    assert query(page) == 21
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert query(page) == 30
    page.mouse.move(5, 5)
    expect(page, "query is 30 now: run again for the outputs")
    run()
    expect(page, "like token 30: row 3, column 6")
    prompt = page.evaluate("app.graphToPrompt().then(({ output }) => output)")
    assert next(node["inputs"] for node in prompt.values() if node["class_type"] == KIND)["query"] == 30
    sync_api.expect(page.locator(".dit-blocks-similarity")).not_to_contain_text("run again")
