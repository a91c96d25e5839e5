"""The pack's own boxes on the nodes of `text_to_image`, as the browser tests handle them."""

import json

from browser.gestures import on, settle, turn, value  # noqa: F401
from comfyui_host import ROOT
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
WORKFLOW = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
WORKFLOW["nodes"] = [node for node in WORKFLOW["nodes"] if node["type"] != "MarkdownNote"]


@pytest.fixture
def page(page, load):
    """The front end with the example."""
    load(WORKFLOW)
    return page


def capture(page) -> None:
    """Let the front end see what was changed, as it does after a click."""
    tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
    page.evaluate(f"({tracker}.captureCanvasState ?? {tracker}.checkState).call({tracker})")


def look_at(page, kind: str) -> None:
    """Bring a node into view at full size."""
    on(page, kind, "(app.canvas.ds.scale = 1, app.canvas.centerOnNode(node), app.canvas.setDirty(true, true))")
    settle(page)


def tokens(page, *places):
    """Where tokens (row, column) of an 8×8 grid are on the page."""
    box = page.locator(".dit-blocks-grid canvas").bounding_box()
    side = min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    return [(left + (column + 0.5) / 8 * side, top + (row + 0.5) / 8 * side) for row, column in places]


def expect(page, box: str, text: str) -> None:
    sync_api.expect(page.locator(f".dit-blocks-{box}").first).to_contain_text(text)


def ran(page, kind: str, **facts) -> None:
    """Tell a node what the pack's Python would tell after a run."""
    on(page, kind, f"node.onExecuted({{ dit_blocks: [{json.dumps(facts)}] }})")
