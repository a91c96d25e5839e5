"""What a user does in a day: build a graph, change it, run it, watch it, stop it."""

import json
import time

from browser.gestures import drag, draw, later, on, prompt, search, serialize, settle, turn
from comfyui_host import ROOT
import numpy as np
import pytest
from serve_host import TYPES

from dit_blocks.standalone.workflow import parse_workflow

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
WORKFLOW = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
PATCHIFY, DENOISE = "DiTBlocksPatchify", "DiTBlocksDenoise"
SCALE = 0.5
# The nodes of text_to_image, by what they are called here: what is typed into the search, and where on the page they go.
NODES = {
    "model": ("Load Embedded DiT", 170, 150), "latent": ("Empty Latent (DiT)", 170, 420),
    "positive": ("CLIP Text Encode", 390, 150), "negative": ("CLIP Text Encode", 390, 420),
    "patches": ("Patchify", 600, 150), "sigmas": ("Sigma Schedule", 600, 480), "noisy": ("Add Noise (DiT)", 800, 150),
    "clean": ("DiT Denoise", 1000, 150), "whole": ("Unpatchify", 1200, 150), "picture": ("VAE Decode (DiT)", 1200, 330),
    "file": ("Save Image", 1200, 500),
}
WIRES = [
    ("model", "dit", "latent", "dit"), ("model", "clip", "positive", "clip"), ("model", "clip", "negative", "clip"),
    ("model", "dit", "patches", "dit"), ("latent", "latent", "patches", "latent"), ("model", "dit", "sigmas", "dit"),
    ("model", "dit", "noisy", "dit"), ("patches", "tokens", "noisy", "tokens"), ("sigmas", "sigmas", "noisy", "sigmas"),
    ("model", "dit", "clean", "dit"), ("noisy", "tokens", "clean", "tokens"), ("sigmas", "sigmas", "clean", "sigmas"),
    ("positive", "CONDITIONING", "clean", "positive"), ("negative", "CONDITIONING", "clean", "negative"),
    ("clean", "tokens", "whole", "tokens"), ("whole", "latent", "picture", "latent"), ("model", "vae", "picture", "vae"),
    ("picture", "image", "file", "images"),
]


def wires(prompt: dict) -> list:
    """A graph without the numbers of its nodes: what goes from which kind of node to which."""
    return sorted((node["class_type"], name, prompt[value[0]]["class_type"], value[1])
                  for node in prompt.values() for name, value in node["inputs"].items() if isinstance(value, list))


def test_text_to_image_from_an_empty_canvas(page, load, run):
    load(WORKFLOW)
    example = prompt(page)
    page.evaluate(f"(app.graph.clear(), app.canvas.ds.scale = {SCALE}, app.canvas.ds.offset = [0, 0], app.canvas.setDirty(true, true))")
    settle(page)
    ids = {name: search(page, *where) for name, where in NODES.items()}
    for source, output, target, name in WIRES:
        drag(page, ids[source], output, ids[target], name)
    assert wires(prompt(page)) == wires(example)
    turn(page, "DiTBlocksSchedule", "steps", 2)
    outputs = run()["outputs"]
    assert outputs[ids["file"]]["images"][0]["type"] == "output"


def test_copies_keep_what_their_widgets_say_and_undo_takes_them_back(page, load):
    load(WORKFLOW)
    turn(page, PATCHIFY, "patch_size", 4)
    turn(page, PATCHIFY, "selection", "0-7")
    before = prompt(page)
    on(page, PATCHIFY, "(app.canvas.selectNode(node), app.canvas.canvas.focus())")
    page.keyboard.press("Control+c")
    page.keyboard.press("Control+v")
    page.wait_for_function("app.graph.nodes.filter(({ comfyClass }) => comfyClass === 'DiTBlocksPatchify').length === 2")
    copies = [node["inputs"] for node in prompt(page).values() if node["class_type"] == PATCHIFY]
    assert [(one["patch_size"], one["selection"]) for one in copies] == [(4, "0-7")] * 2
    settle(page)
    page.keyboard.press("Control+z")
    page.wait_for_function("app.graph.nodes.filter(({ comfyClass }) => comfyClass === 'DiTBlocksPatchify').length === 1")
    assert prompt(page) == before


def test_undo_and_redo_go_through_patch_size_and_selection(page, load):
    load(WORKFLOW)
    on(page, PATCHIFY, "(app.canvas.ds.scale = 1, app.canvas.centerOnNode(node), app.canvas.setDirty(true, true))")
    grid = page.locator(".dit-blocks-grid")

    def shown(size: int, selection: str, tokens: str) -> None:
        page.wait_for_function("""([kind, ...wanted]) => {
            const node = app.graph.nodes.find(({ comfyClass }) => comfyClass === kind);
            return ["patch_size", "selection"].every((name, i) => node?.widgets.find((one) => one.name === name).value === wanted[i]);
        }""", arg=[PATCHIFY, size, selection])
        sync_api.expect(grid).to_contain_text(tokens)

    def remembered(act) -> None:
        """Change something, and wait until it can be undone: the front end looks for changes when the mouse or a key is let go."""
        queue = "app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
        before = page.evaluate(queue)
        act()
        page.wait_for_function(f"before => {queue} > before", arg=before)
    shown(2, "", "256 tokens")
    turn(page, PATCHIFY, "patch_size", 8)
    remembered(lambda: page.mouse.click(800, 950))
    shown(8, "", "16 tokens")
    box = grid.locator("canvas").bounding_box()
    remembered(lambda: page.mouse.click(box["x"] + box["width"] / 2 + 4, box["y"] + box["height"] / 2 + 4))
    page.mouse.move(800, 950)
    shown(8, "10", "1 selected")
    for keys, *state in (("Control+z", 8, "", "16 tokens"), ("Control+z", 2, "", "256 tokens"),
                         ("Control+y", 8, "", "16 tokens"), ("Control+y", 8, "10", "1 selected")):
        page.keyboard.press(keys)
        shown(*state)
        settle(page)


def test_in_a_subgraph_they_draw_the_same(page, load, run, host):
    load(WORKFLOW)
    for kind, name, to in (("DiTBlocksSchedule", "steps", 2), (PATCHIFY, "patch_size", 4), (PATCHIFY, "selection", "0-7"),
                           ("DiTBlocksAddNoise", "seed", 20)):
        turn(page, kind, name, to)
    flat, picture = prompt(page), draw(run, host)
    page.evaluate("""() => app.canvas.selectItems(app.graph.nodes.filter(({ comfyClass }) =>
        ["Patchify", "AddNoise", "Denoise", "Unpatchify"].some((name) => comfyClass === `DiTBlocks${name}`)))""")
    page.keyboard.press("Control+Shift+E")
    page.wait_for_function("app.graph.nodes.some((node) => node.isSubgraphNode())")
    grouped = prompt(page)
    assert sum(":" in id for id in grouped) == 4 and sorted(map(settings, grouped.values())) == sorted(map(settings, flat.values()))
    assert np.array_equal(draw(run, host), picture)
    saved = serialize(page)
    assert bare(parse_workflow(saved, TYPES).prompt) == bare(grouped)
    load(saved)
    assert prompt(page) == grouped


def settings(node: dict) -> str:
    """A node's class and what its widgets say."""
    return json.dumps([node["class_type"], {name: value for name, value in node["inputs"].items() if not isinstance(value, list)}])


def bare(prompt: dict) -> dict:
    return {id: (node["class_type"], node["inputs"]) for id, node in prompt.items()}


def test_progress_and_pictures_are_seen_while_it_runs(page, load, run):
    load(WORKFLOW)
    turn(page, "DiTBlocksSchedule", "steps", 60)
    turn(page, "DiTBlocksAddNoise", "seed", time.monotonic_ns() % 2 ** 31)  # no other run, nor this one anew, has it in the cache
    page.evaluate("""kind => {
        const node = app.graph.nodes.find(({ comfyClass }) => comfyClass === kind);
        window.seen = { progress: new Set(), titles: new Set(), pictures: new Set() };
        window.looking = setInterval(() => {
            if (node.progress > 0 && node.progress < 1) seen.progress.add(node.progress);
            if (/\\d%/.test(document.title)) seen.titles.add(document.title);
            const canvas = node.widgets.map(({ element }) => element?.querySelector("canvas")).find(Boolean);  // where the slider shows x0
            if (canvas?.width) seen.pictures.add(canvas.toDataURL());
        }, 20);
    }""", DENOISE)
    run()
    seen = page.evaluate("(clearInterval(looking), Object.fromEntries(Object.entries(seen).map(([name, found]) => [name, [...found]])))")
    assert len(seen["progress"]) > 3 and seen["progress"] == sorted(seen["progress"])
    assert len(seen["titles"]) > 1 and len(seen["pictures"]) > 3


def test_a_run_stops_when_it_is_cancelled(page, load, host):
    load(WORKFLOW)
    turn(page, "DiTBlocksEmptyLatent", "width", 512)
    turn(page, "DiTBlocksEmptyLatent", "height", 512)
    turn(page, "DiTBlocksSchedule", "steps", 1000)
    before = host.get("/history").keys()
    page.evaluate("app.queuePrompt(0)")
    button = page.get_by_role("button", name="Cancel current run")
    sync_api.expect(button).to_be_enabled(timeout=20_000)
    page.wait_for_timeout(1500)
    button.click()
    (fresh,) = later(page, lambda: host.get("/history").keys() - before)
    messages = host.wait(fresh)["status"]["messages"]
    assert "execution_interrupted" in [event for event, _ in messages]


def choose_mode(page, name: str) -> None:
    page.locator("button[aria-label='Run'] + button, [data-testid='queue-mode-menu-trigger']").last.click()
    by_name = {"name": name, "exact": True}  # of a menu's entries, or of one of its choices
    page.get_by_role("menuitem", **by_name).or_(page.get_by_role("menuitemradio", **by_name)).click()
    page.keyboard.press("Escape")  # which one front end closes by itself and another does not


def test_run_on_change_draws_again_by_itself(page, load, host):
    load(WORKFLOW)
    turn(page, "DiTBlocksSchedule", "steps", 2)
    choose_mode(page, "Run (On Change)")
    before = host.get("/history").keys()
    try:
        look = on(page, PATCHIFY, "node.id")
        turn(page, PATCHIFY, "patch_size", 8)
        page.mouse.click(800, 900)  # the front end looks for changes when the mouse or a key is let go
        (fresh, *_) = later(page, lambda: host.get("/history").keys() - before)
        assert host.wait(fresh)["prompt"][2][str(look)]["inputs"]["patch_size"] == 8
    finally:
        choose_mode(page, "Run")
