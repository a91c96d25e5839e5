"""What a newcomer finds: the first graph, the templates, nodes by other names, help."""

import json
import re

from browser.gestures import on, open_search, settle
from comfyui_host import ROOT
import pytest
from serve_host import Serve

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
WORKFLOW = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
FIRST = json.loads((ROOT / "example_workflows" / "start_here.json").read_text(encoding="utf-8"))
KINDS = "app.rootGraph.nodes.map(({ type }) => type).sort()"


def test_the_first_start_shows_start_here_also_in_a_second_browser(browser, tmp_path):
    host = Serve(tmp_path)
    try:
        for told in (False, True):  # the first browser leaves settings behind
            host.post("/settings/Comfy.TutorialCompleted", told)
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            page.goto(host.url)
            page.wait_for_function("count => window.app?.rootGraph?.nodes.length === count", arg=len(FIRST["nodes"]), timeout=90_000)
            assert page.evaluate(KINDS) == sorted(node["type"] for node in FIRST["nodes"])
            page.wait_for_timeout(1000)
            assert page.get_by_role("dialog").count() == 0
            page.close()
    finally:
        host.stop()


def test_the_templates_are_our_examples(page, host):
    here = set(host.get("/workflow_templates")["dit-blocks"])  # those that the host can run
    page.evaluate("(app.graph.clear(), void app.extensionManager.command.execute('Comfy.BrowseTemplates'))")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(re.compile("^dit-blocks$")).click()
    cards = dialog.get_by_test_id(re.compile("^template-workflow-"))
    sync_api.expect(cards.first).to_be_visible()
    for _ in range(40):  # more of them come when the last is in view
        if cards.count() >= len(here):
            break
        cards.last.scroll_into_view_if_needed()
        page.wait_for_timeout(250)
    for path in (path for path in EXAMPLES if path.stem in here):
        card = dialog.get_by_test_id(f"template-workflow-{path.stem}")
        card.scroll_into_view_if_needed()
        picture = card.locator("img").first
        sync_api.expect(picture).to_be_visible()
        page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture.element_handle())
    assert cards.count() == len(here)
    dialog.get_by_test_id("template-workflow-text_to_image").click()
    page.wait_for_function("count => app.rootGraph.nodes.length === count", arg=len(WORKFLOW["nodes"]))
    assert page.evaluate(KINDS) == sorted(node["type"] for node in WORKFLOW["nodes"])


@pytest.mark.parametrize("words, names", [
    ("patch embedding", ["Patch Embed", "Patchify"]), ("块嵌入", ["Patch Embed", "Patchify"]), ("KSampler steps", ["DiT Denoise Step"])])
def test_nodes_are_found_by_other_names(page, words, names):
    page.evaluate("app.graph.clear()")
    settle(page)
    open_search(page, 800, 500)
    page.keyboard.type(words)
    for name in names:
        sync_api.expect(page.get_by_role("option", name=name).first).to_be_visible()
    page.keyboard.press("Escape")


@pytest.mark.parametrize("language, page_of", [("en", "DiTBlocksPatchify.md"), ("zh", "DiTBlocksPatchify/zh.md")])
def test_help_opens(page, load, language, page_of):
    text = (ROOT / "web" / "docs" / page_of).read_text(encoding="utf-8")
    heading = re.search("^#+ (.+)$", text, re.MULTILINE)[1]
    try:
        page.evaluate("language => app.extensionManager.setting.set('Comfy.Locale', language)", language)
        load(WORKFLOW)
        on(page, "DiTBlocksPatchify", "(app.canvas.ds.scale = 1, app.canvas.centerOnNode(node), app.canvas.selectNode(node))")
        page.get_by_test_id("info-button").click()
        sync_api.expect(page.get_by_role("heading", name=heading, exact=True, level=1)).to_be_visible()
        page.wait_for_function("[...document.querySelectorAll('img[src*=\"patches.jpg\"]')].some((picture) => picture.naturalWidth > 0)")
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")
