"""What a user does in a day: build a graph, run it, stop it, save it, share it, get it back."""

import base64
import json

import pytest

from comfyui_host import ROOT, example_png

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
WORKFLOW = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
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


@pytest.fixture
def page(tab, tmp_path):
    yield tab
    tab.screenshot(path=tmp_path / "page.png")
    assert not tab.errors


def prompt(page) -> dict:
    return page.evaluate("app.graphToPrompt().then(({ output }) => output)")


def wires(prompt: dict) -> list:
    """A graph without the numbers of its nodes: what goes from which kind of node to which."""
    return sorted((node["class_type"], name, prompt[value[0]]["class_type"], value[1])
                  for node in prompt.values() for name, value in node["inputs"].items() if isinstance(value, list))


def of(page, kind: str, expression: str):
    """An expression of `node`, the one of this type."""
    return page.evaluate(f"kind => {{ const node = app.graph.nodes.find(({{ comfyClass }}) => comfyClass === kind); return {expression}; }}", kind)


def value(page, kind: str, name: str):
    return of(page, kind, f"node.widgets.find(({{ name }}) => name === {json.dumps(name)}).value")


def turn(page, kind: str, name: str, to) -> None:
    of(page, kind, f"""(() => {{
        const widget = node.widgets.find(({{ name }}) => name === {json.dumps(name)});
        widget.value = {json.dumps(to)};
        widget.callback?.(widget.value);
    }})()""")


def search(page, words: str, x: float, y: float) -> str:
    """Double-click, type, Enter, click where it is to lie: → the new node's id."""
    before = page.evaluate("app.graph.nodes.map(({ id }) => String(id))")
    page.evaluate("app.canvas.deselectAll()")  # the tools of a chosen node would lie above its neighbours
    page.wait_for_timeout(200)
    for _ in range(5):  # on a busy machine the page takes some double-clicks for two clicks
        page.mouse.dblclick(x, y)
        page.wait_for_timeout(700)
        if page.evaluate("document.activeElement?.tagName === 'INPUT'"):
            break
    page.keyboard.type(words)
    page.wait_for_timeout(400)
    page.keyboard.press("Enter")
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(before) + 1)
    page.wait_for_timeout(200)
    page.mouse.move(x + 6, y + 6)  # the node follows the mouse until a click
    page.wait_for_timeout(150)
    page.mouse.click(x + 6, y + 6)
    page.wait_for_timeout(700)  # while the search goes away, a double-click opens no other
    (new,) = set(page.evaluate("app.graph.nodes.map(({ id }) => String(id))")) - set(before)
    return new


def slot(page, id: str, way: str, name: str) -> tuple[float, float]:
    """Where a socket is on the page; way: in or out."""
    return page.evaluate("""([id, way, name]) => {
        const node = app.graph.nodes.find((one) => String(one.id) === id);
        const index = (way === "in" ? node.inputs : node.outputs).findIndex((one) => one.name === name);
        const dot = document.querySelector(`[data-slot-key="${id}-${way}-${index}"]`);
        if (dot) {
            const box = dot.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }
        const { left, top } = app.canvas.canvas.getBoundingClientRect();
        const { offset, scale } = app.canvas.ds;
        return node.getConnectionPos(way === "in", index).map((at, i) => [left, top][i] + (at + offset[i]) * scale);
    }""", [id, way, name])


def drag(page, source: str, output: str, target: str, name: str) -> None:
    """Draw a wire with the mouse."""
    for _ in range(3):  # nor does a busy page always follow a drag
        page.mouse.move(*slot(page, source, "out", output))
        page.mouse.down()
        page.mouse.move(*slot(page, target, "in", name), steps=6)
        page.wait_for_timeout(100)
        page.mouse.up()
        page.wait_for_timeout(100)
        if target in prompt(page) and name in prompt(page)[target]["inputs"]:
            return


def drop(page, name: str, kind: str, data: bytes) -> None:
    """Let a file fall on the canvas."""
    page.evaluate("""([name, type, data]) => {
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], name, { type }));
        const { left, top, width, height } = app.canvas.canvas.getBoundingClientRect();
        const event = { dataTransfer, bubbles: true, cancelable: true, clientX: left + width / 2, clientY: top + height - 40 };
        app.canvas.canvas.dispatchEvent(new DragEvent("dragover", event));
        app.canvas.canvas.dispatchEvent(new DragEvent("drop", event));
    }""", [name, kind, base64.b64encode(data).decode()])


def test_text_to_image_from_an_empty_canvas(page, load, run):
    load(WORKFLOW)
    example = prompt(page)
    page.evaluate(f"(app.graph.clear(), app.canvas.ds.scale = {SCALE}, app.canvas.ds.offset = [0, 0], app.canvas.setDirty(true, true))")
    page.wait_for_timeout(500)
    ids = {name: search(page, *where) for name, where in NODES.items()}
    for source, output, target, name in WIRES:
        drag(page, ids[source], output, ids[target], name)
    assert wires(prompt(page)) == wires(example)
    turn(page, "DiTBlocksSchedule", "steps", 2)
    outputs = run()["outputs"]
    assert outputs[ids["file"]]["images"][0]["type"] == "output"


def test_every_example_loads_without_a_complaint(page, load, host):
    known = host.get("/object_info").keys() | {"MarkdownNote", "Note", "Reroute"}
    complaints = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    loaded = 0
    for path in EXAMPLES:
        workflow = json.loads(path.read_text(encoding="utf-8"))
        if {node["type"] for node in workflow["nodes"]} <= known:
            load(workflow)
            loaded += 1
            assert not complaints, path.stem
    assert loaded >= len(EXAMPLES) - 4


def test_copies_keep_what_their_widgets_say_and_undo_takes_them_back(page, load):
    load(WORKFLOW)
    turn(page, "DiTBlocksPatchify", "patch_size", 4)
    turn(page, "DiTBlocksPatchify", "selection", "0-7")
    before = prompt(page)
    of(page, "DiTBlocksPatchify", "(app.canvas.selectNode(node), app.canvas.canvas.focus())")
    page.keyboard.press("Control+c")
    page.keyboard.press("Control+v")
    page.wait_for_function("app.graph.nodes.filter(({ comfyClass }) => comfyClass === 'DiTBlocksPatchify').length === 2")
    copies = [node["inputs"] for node in prompt(page).values() if node["class_type"] == "DiTBlocksPatchify"]
    assert [(one["patch_size"], one["selection"]) for one in copies] == [(4, "0-7")] * 2
    page.wait_for_timeout(300)
    page.keyboard.press("Control+z")
    page.wait_for_function("app.graph.nodes.filter(({ comfyClass }) => comfyClass === 'DiTBlocksPatchify').length === 1")
    assert prompt(page) == before


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
    (fresh,) = _later(page, lambda: host.get("/history").keys() - before)
    messages = host.wait(fresh)["status"]["messages"]
    assert "execution_interrupted" in [event for event, _ in messages]


def _later(page, ask, seconds: float = 20):
    """What `ask` gives, once it is something."""
    for _ in range(round(seconds * 5)):
        if found := ask():
            return found
        page.wait_for_timeout(200)
    raise TimeoutError("it never came")


def test_a_saved_picture_brings_its_workflow_back(page, load, run, host):
    load(WORKFLOW)
    turn(page, "DiTBlocksPatchify", "patch_size", 8)
    turn(page, "DiTBlocksSchedule", "steps", 2)
    known = prompt(page)
    (image,) = [image for output in run()["outputs"].values() for image in output.get("images", ())]
    page.evaluate("app.graph.clear()")
    drop(page, "shared.png", "image/png", (host.base / "output" / image["subfolder"] / image["filename"]).read_bytes())
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(WORKFLOW["nodes"]))
    assert prompt(page) == known


def test_a_picture_that_is_dropped_is_uploaded(page, host):
    page.evaluate("app.graph.clear()")
    page.wait_for_timeout(200)
    drop(page, "mine.png", "image/png", example_png())
    page.wait_for_function("app.graph.nodes.some(({ comfyClass }) => comfyClass === 'LoadImage')")
    _later(page, lambda: value(page, "LoadImage", "image") and value(page, "LoadImage", "image").startswith("mine"))
    stored = host.base / "input" / value(page, "LoadImage", "image").removeprefix("pasted/")
    _later(page, stored.is_file)  # the newest front end names the picture before it has sent it
    assert stored.read_bytes() == example_png()


def test_after_a_reload_the_graph_is_the_same(page, load, tmp_path):
    load(WORKFLOW)
    turn(page, "DiTBlocksPatchify", "patch_size", 4)
    turn(page, "DiTBlocksPatchify", "selection", "3")
    page.keyboard.press("Control+s")
    page.get_by_role("dialog").get_by_role("textbox").fill(tmp_path.name)
    page.keyboard.press("Enter")
    path = f"workflows/{tmp_path.name}.json"
    page.wait_for_function("path => app.extensionManager.workflow.activeWorkflow.path === path", arg=path)
    known = prompt(page)
    page.reload()
    page.wait_for_function("window.app?.extensionManager?.workflow?.activeWorkflow && app.canvas", timeout=90_000)
    page.wait_for_function("count => app.rootGraph.nodes.length === count", arg=len(WORKFLOW["nodes"]))
    assert prompt(page) == known
    assert page.evaluate("app.extensionManager.workflow.activeWorkflow.path") == path


def choose_mode(page, name: str) -> None:
    page.locator("button[aria-label='Run'] + button, [data-testid='queue-mode-menu-trigger']").last.click()
    page.get_by_role("menuitem", name=name, exact=True).click()


def test_run_on_change_draws_again_by_itself(page, load, host):
    load(WORKFLOW)
    turn(page, "DiTBlocksSchedule", "steps", 2)
    choose_mode(page, "Run (On Change)")
    before = host.get("/history").keys()
    try:
        look = of(page, "DiTBlocksPatchify", "node.id")
        turn(page, "DiTBlocksPatchify", "patch_size", 8)
        page.mouse.click(800, 900)  # the front end looks for changes when the mouse or a key is let go
        (fresh, *_) = _later(page, lambda: host.get("/history").keys() - before)
        assert host.wait(fresh)["prompt"][2][str(look)]["inputs"]["patch_size"] == 8
    finally:
        choose_mode(page, "Run")
