"""Pictures of the editor for the README, in both renderers and both languages: `python tests/browser/screenshots.py [VIEW ...]`.

They need playwright, Chromium, and a font with Chinese letters (fonts-noto-cjk).
"""

import json
from pathlib import Path
import shutil
import sys
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))
from browser.gestures import later, turn  # noqa: E402
from comfyui_host import ROOT  # noqa: E402
from serve_host import Serve  # noqa: E402

FOLDER = ROOT / "screenshots"
SIZE = {"width": 1500, "height": 900}


def example(name: str) -> dict:
    return json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))


def run(page: Page, host: Serve) -> None:
    before = len(host.get("/history"))
    page.evaluate("app.queuePrompt(0)")
    later(page, lambda: len(host.get("/history")) > before, 600)
    page.wait_for_timeout(1500)


def frame(page: Page, titles: list[str] | None = None, most: float = 1) -> None:
    """Bring the nodes of these titles into view, or all of them; at most at this scale."""
    page.evaluate("""([titles, most]) => {
        const nodes = app.canvas.graph.nodes.filter((node) => !titles || titles.includes(node.title));
        const boxes = nodes.map(({ boundingRect }) => [...boundingRect]);
        const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])));
        const [width, height] = [0, 1].map((i) => Math.max(...boxes.map((box) => box[i] + box[i + 2])) - [left, top][i]);
        const view = app.canvas.canvas.getBoundingClientRect();
        const { ds } = app.canvas;
        ds.scale = Math.min((view.width - 100) / width, (view.height - 150) / height, most);
        ds.offset = [80 / ds.scale - left + ((view.width - 100) / ds.scale - width) / 2, 110 / ds.scale - top];
        app.canvas.setDirty(true, true);
    }""", [titles, most])


# --- the views ---

def editor(page: Page, host: Serve) -> None:
    """The pipeline after a change of patch size from 2 to 8, some tokens chosen, x0 as every block would leave it."""
    turn(page, "DiTBlocksDenoise", "capture_blocks", True)
    run(page, host)
    turn(page, "DiTBlocksPatchify", "patch_size", 8)
    turn(page, "DiTBlocksPatchify", "selection", "5-6,9-10")
    run(page, host)
    kinds = [f"DiTBlocks{name}" for name in ("Patchify", "Schedule", "AddNoise", "Denoise")]
    frame(page, page.evaluate("kinds => app.graph.nodes.filter((node) => kinds.includes(node.type)).map(({ title }) => title)", kinds), 0.74)


def stages(page: Page, host: Serve) -> None:
    """A Denoise Step, laid out as the subgraph of its stages, after a run."""
    page.evaluate("""() => {
        const node = app.graph.nodes.find(({ title }) => title === "Step 3");
        app.canvas.getNodeMenuOptions(node).find((item) => /Explode|展开/.test(item?.content)).callback();
    }""")
    run(page, host)
    page.evaluate("""() => {
        const node = app.graph.nodes.find((one) => one.isSubgraphNode());
        app.canvas.openSubgraph(node.subgraph, node);
    }""")
    page.wait_for_timeout(1500)
    frame(page)


def course(page: Page, host: Serve) -> None:
    """A lesson: what the patch embedding does."""
    run(page, host)
    frame(page)


def training(page: Page, host: Serve) -> None:
    """A lesson: a small model learns from random weights."""
    run(page, host)
    frame(page)


# What to do, on which example, and how much of the page is worth showing, in pixels from its top.
VIEWS = {"editor": (editor, "text_to_image", 900), "stages": (stages, "one_step_at_a_time", 330),
         "course": (course, "learn_03_patch_embedding", 900), "training": (training, "learn_08_training", 900)}


def shoot(browser, host: Serve, view: str, language: str, vue: bool) -> None:
    host.post("/settings/Comfy.VueNodes.Enabled", vue)
    host.post("/settings/Comfy.Locale", language)
    page = browser.new_page(viewport=SIZE)
    page.goto(f"{host.url}/?again")  # not as a new browser, which is sent to an example
    page.wait_for_function("window.app?.extensionManager?.workflow?.activeWorkflow && app.canvas", timeout=90_000)
    prepare, name, height = VIEWS[view]
    page.evaluate("workflow => app.loadGraphData(workflow)", example(name))
    page.evaluate("""language => {
        for (const node of app.graph.nodes)
            for (const widget of node.widgets ?? []) if (widget.name === "language") widget.value = language;
    }""", "中文" if language == "zh" else "English")
    page.wait_for_timeout(1500)
    prepare(page, host)
    page.wait_for_timeout(9000)  # until what the front end says of the queue has gone
    page.screenshot(path=FOLDER / f"{view}_{'nodes2' if vue else 'canvas'}_{language}.jpg", type="jpeg", quality=72,
                    clip={"x": 0, "y": 0, "width": SIZE["width"], "height": height})
    page.close()


def main(views: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as base, sync_playwright() as playwright:
        host = Serve(Path(base))
        for name, value in {"TutorialCompleted": True, "Minimap.Visible": False}.items():
            host.post(f"/settings/Comfy.{name}", value)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        for view in views or VIEWS:
            for language in ("en", "zh"):
                for vue in (False, True):
                    shoot(browser, host, view, language, vue)
        host.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
