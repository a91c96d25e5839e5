"""Pictures of the editor for the README, in both renderers and both languages: `python tests/browser/screenshots.py`.

They need playwright, Chromium, and a font with Chinese letters (fonts-noto-cjk).
"""

import json
from pathlib import Path
import shutil
import sys
from tempfile import TemporaryDirectory
import time

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))
from comfyui_host import ROOT  # noqa: E402
from serve_host import Serve  # noqa: E402

FOLDER = ROOT / "screenshots"
WORKFLOW = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))


def queue(page: Page, host: Serve) -> None:
    before = len(host.get("/history"))
    page.evaluate("app.queuePrompt(0)")
    while len(host.get("/history")) == before:
        time.sleep(0.2)
    page.wait_for_timeout(800)


def turn(page: Page, widget: str, value) -> None:
    page.evaluate("""([name, value]) => {
        const node = app.graph.nodes.find(({ comfyClass }) => comfyClass === "DiTBlocksPatchify");
        const widget = node.widgets.find((one) => one.name === name);
        widget.value = value;
        widget.callback?.(value);
    }""", [widget, value])


def shoot(browser, host: Serve, language: str, vue: bool) -> None:
    """The pipeline after a change of patch size from 2 to 8, some tokens chosen."""
    host.post("/settings/Comfy.VueNodes.Enabled", vue)
    host.post("/settings/Comfy.Locale", language)
    page = browser.new_page(viewport={"width": 1640, "height": 980})
    page.goto(host.url)
    page.wait_for_function("window.app?.extensionManager?.workflow?.activeWorkflow && app.canvas", timeout=90_000)
    page.evaluate("workflow => app.loadGraphData(workflow)", WORKFLOW)
    page.wait_for_timeout(1500)
    queue(page, host)
    turn(page, "patch_size", 8)
    turn(page, "selection", "5-6,9-10")
    queue(page, host)
    page.evaluate("""() => {
        const find = (kind) => app.graph.nodes.find(({ comfyClass }) => comfyClass === kind);
        const [first, last] = [find("DiTBlocksPatchify"), find("DiTBlocksDenoise")];
        app.canvas.ds.scale = 0.9;
        app.canvas.ds.offset = [-first.pos[0] + 420, -last.pos[1] + 100];
        app.canvas.setDirty(true, true);
    }""")
    page.wait_for_timeout(9000)  # until what the front end says of the queue has gone
    page.screenshot(path=FOLDER / f"editor_{'nodes2' if vue else 'canvas'}_{language}.jpg", type="jpeg", quality=80)
    page.close()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as base, sync_playwright() as playwright:
        host = Serve(Path(base))
        host.post("/settings/Comfy.TutorialCompleted", True)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        for language in ("en", "zh"):
            for vue in (False, True):
                shoot(browser, host, language, vue)
        host.stop()


if __name__ == "__main__":
    main()
