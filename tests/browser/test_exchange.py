"""Workflows and pictures that go from one to another: files, drops, exports, other hosts, other versions."""

import json

from browser.gestures import drop, later, prompt, serialize, settle, turn, value
from comfyui_host import ROOT, example_png
import pytest
from renamed_pack import ENTRY, NEW, OLD, then, today
from serve_host import TYPES, Serve

from dit_blocks.standalone.workflow import parse_workflow

WORKFLOW = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
PATCHIFY = "DiTBlocksPatchify"
LOADED = "window.app?.extensionManager?.workflow?.activeWorkflow && app.canvas"


def messages(page) -> list[str]:
    """What the front end tells its user; the newest one does so in elements of its own."""
    return page.locator(".p-toast-message, [data-testid='toast']").all_inner_texts()


def clear_messages(page) -> None:
    page.evaluate("document.querySelectorAll(\".p-toast-close-button, [data-testid='toast-close']\").forEach((button) => button.click())")
    later(page, lambda: not messages(page))


def test_a_saved_picture_brings_its_workflow_back(page, load, run, host):
    load(WORKFLOW)
    turn(page, PATCHIFY, "patch_size", 8)
    turn(page, "DiTBlocksSchedule", "steps", 2)
    known = prompt(page)
    (image,) = [image for output in run()["outputs"].values() for image in output.get("images", ())]
    page.evaluate("app.graph.clear()")
    drop(page, "shared.png", "image/png", (host.base / "output" / image["subfolder"] / image["filename"]).read_bytes())
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(WORKFLOW["nodes"]))
    assert prompt(page) == known


def test_a_picture_that_is_dropped_is_uploaded(page, host):
    page.evaluate("app.graph.clear()")
    settle(page)
    drop(page, "mine.png", "image/png", example_png())
    page.wait_for_function("app.graph.nodes.some(({ comfyClass }) => comfyClass === 'LoadImage')")
    later(page, lambda: value(page, "LoadImage", "image") and value(page, "LoadImage", "image").startswith("mine"))
    stored = host.base / "input" / value(page, "LoadImage", "image").removeprefix("pasted/")
    later(page, stored.is_file)  # the newest front end names the picture before it has sent it
    assert stored.read_bytes() == example_png()


@pytest.mark.parametrize("name, kind, data, why", [
    ("broken.json", "application/json", b'{"nodes": [', "broken.json"), ("notes.txt", "text/plain", b"no workflow", "notes.txt")])
def test_a_file_that_is_no_workflow_is_one_message(page, load, name, kind, data, why):
    load(WORKFLOW)
    clear_messages(page)
    before = prompt(page)
    drop(page, name, kind, data)
    (told,) = later(page, lambda: messages(page))
    page.wait_for_timeout(1000)
    assert messages(page) == [told] and why in told and prompt(page) == before
    clear_messages(page)


def test_a_picture_that_is_too_large_is_one_message(page, load, host):
    page.evaluate("app.graph.clear()")
    clear_messages(page)
    most = host.get("/features")["max_upload_size"]
    page.evaluate("""size => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([new Uint8Array(size)], "large.png", { type: "image/png" }));
        const { left, top, width, height } = app.canvas.canvas.getBoundingClientRect();
        const event = { dataTransfer, bubbles: true, cancelable: true, clientX: left + width / 2, clientY: top + height - 40 };
        app.canvas.canvas.dispatchEvent(new DragEvent("drop", event));
    }""", most + 1_000_000)
    (told,) = later(page, lambda: messages(page))
    page.wait_for_timeout(1000)
    assert messages(page) == [told] and ("413" in told or "too large" in told)  # the newest front end does not even ask
    if isinstance(host, Serve):
        assert "50 MB" in told
    assert not list((host.base / "input").glob("large*")) and host.get("/queue")["queue_running"] == []
    clear_messages(page)


def test_after_a_reload_the_graph_is_the_same(page, load, tmp_path):
    load(WORKFLOW)
    turn(page, PATCHIFY, "patch_size", 4)
    turn(page, PATCHIFY, "selection", "3")
    page.keyboard.press("Control+s")
    page.get_by_role("dialog").get_by_role("textbox").fill(tmp_path.name)
    page.keyboard.press("Enter")
    path = f"workflows/{tmp_path.name}.json"
    page.wait_for_function("path => app.extensionManager.workflow.activeWorkflow.path === path", arg=path)
    known = prompt(page)
    page.reload()
    page.wait_for_function(LOADED, timeout=90_000)
    page.wait_for_function("count => app.rootGraph.nodes.length === count", arg=len(WORKFLOW["nodes"]))
    assert prompt(page) == known
    assert page.evaluate("app.extensionManager.workflow.activeWorkflow.path") == path


def test_the_api_form_keeps_what_widgets_say(page, load):
    load(WORKFLOW)
    turn(page, PATCHIFY, "patch_size", 4)
    turn(page, PATCHIFY, "selection", "0-7,9")
    known = prompt(page)
    with page.expect_download() as exported:
        page.evaluate("void app.extensionManager.command.execute('Comfy.ExportWorkflowAPI')")
        page.get_by_role("dialog").get_by_role("textbox").fill("exported")
        page.keyboard.press("Enter")
    data = exported.value.path().read_bytes()
    assert json.loads(data) == known
    assert parse_workflow(json.loads(data), TYPES).prompt == known
    page.evaluate("app.graph.clear()")
    drop(page, "exported.json", "application/json", data)
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(known))
    assert {id: (node["class_type"], node["inputs"]) for id, node in prompt(page).items()} == {
        id: (node["class_type"], node["inputs"]) for id, node in known.items()}


# --- other versions ---

@pytest.mark.parametrize("language, line", [
    ("en", "Saved with DiT Blocks 99.0; this is {own}. It may look or draw otherwise until the pack is updated."),
    ("zh", "由 DiT Blocks 99.0 保存；这里是 {own}。更新节点包之前，外观或结果可能不同。")])
def test_a_workflow_of_a_newer_pack_is_told(page, load, host, language, line):
    line = line.format(own=host.get("/dit_blocks/version")["version"])
    try:
        page.evaluate("language => app.extensionManager.setting.set('Comfy.Locale', language)", language)
        settle(page)
        clear_messages(page)
        load(WORKFLOW | {"extra": {"dit_blocks": {"version": "99.0"}}})
        later(page, lambda: any(line in told for told in messages(page)))
        clear_messages(page)
        load(WORKFLOW | {"extra": {"dit_blocks": {"version": "0.0.1"}}})
        settle(page)
        assert messages(page) == []
        assert serialize(page)["extra"]["dit_blocks"]["version"] in line
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")


def test_a_renamed_node_is_replaced(tab, browser, host):
    """The host's list of renamed nodes is another one here; the tab only for its renderer."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.route("**/api/node_replacements", lambda route: route.fulfill(json={OLD: [ENTRY]}))
    page.goto(f"{host.url}/?again")
    page.wait_for_function(LOADED, timeout=90_000)
    page.evaluate("workflow => app.loadGraphData(workflow)", today())
    settle(page)
    wanted = prompt(page)
    page.evaluate("workflow => app.loadGraphData(workflow)", then())
    page.get_by_role("button", name="View details").first.click()
    page.get_by_role("button", name="Replace Node").click()
    page.wait_for_function("kind => app.graph.nodes.some(({ comfyClass }) => comfyClass === kind)", arg=NEW)
    assert prompt(page) == wanted
    page.close()


# --- other hosts ---

def written(page, workflow: dict) -> dict:
    """A workflow, loaded and saved again."""
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    page.wait_for_function("count => app.rootGraph.nodes.length === count", arg=len(workflow["nodes"]))
    settle(page)
    return serialize(page)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """`dit-blocks serve`, beside ComfyUI."""
    running = Serve(tmp_path_factory.mktemp("other"))
    running.post("/settings/Comfy.TutorialCompleted", True)
    yield running
    running.stop()


def test_from_standalone_to_comfyui_and_back_nothing_changes(tab, browser, host, request):
    if isinstance(host, Serve):
        pytest.skip("it needs both hosts: it runs where the host is ComfyUI")
    other = request.getfixturevalue("other")
    other.post("/settings/Comfy.VueNodes.Enabled", host.get("/settings/Comfy.VueNodes.Enabled"))
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.goto(f"{other.url}/?again")
    page.wait_for_function(LOADED, timeout=90_000)
    for name in ("text_to_image", "exploded_step", "patch_schedule", "train_from_scratch", "learn_05_time_and_text"):
        here = written(page, json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8")))
        known = prompt(page)
        there = written(tab, here)
        assert prompt(tab) == known, name
        back = written(page, there)
        assert there == here and back == here and prompt(page) == known, name
    page.close()
