"""What a user's hands do in the front end, and what is to be read there: shared by the specs."""

import base64
from contextlib import contextmanager
import json

import numpy as np
from PIL import Image


def prompt(page) -> dict:
    return page.evaluate("app.graphToPrompt().then(({ output }) => output)")


def serialize(page) -> dict:
    """The graph as it is saved."""
    return json.loads(page.evaluate("JSON.stringify(app.rootGraph.serialize())"))


def on(page, kind: str, expression: str):
    """An expression of `node`, the one of this type on the graph in view."""
    return page.evaluate(f"kind => {{ const node = app.canvas.graph.nodes.find(({{ comfyClass }}) => comfyClass === kind); return {expression}; }}",
                         kind)


def value(page, kind: str, name: str):
    return on(page, kind, f"node.widgets.find(({{ name }}) => name === {json.dumps(name)}).value")


def turn(page, kind: str, name: str, to) -> None:
    """Give a widget a value as its own element does."""
    on(page, kind, f"""(() => {{
        const widget = node.widgets.find(({{ name }}) => name === {json.dumps(name)});
        widget.value = {json.dumps(to)};
        widget.callback?.(widget.value);
    }})()""")


def later(page, ask, seconds: float = 20):
    """What `ask` gives, once it is something."""
    for _ in range(round(seconds * 5)):
        if found := ask():
            return found
        page.wait_for_timeout(200)
    raise TimeoutError("it never came")


# From the start of a page: `asking` counts what the host has not answered yet.
COUNT_QUESTIONS = """(() => {
    window.asking = 0;
    const fetch = window.fetch;
    window.fetch = (what, ...more) => {
        const ours = new URL(what.url ?? what, location).origin === location.origin;
        window.asking += ours;
        return fetch(what, ...more).finally(() => (window.asking -= ours));
    };
})()"""

# The next frame, or a second where a busy machine draws none.
FRAME = "new Promise((done) => { requestAnimationFrame(done); setTimeout(done, 1000); })"

SETTLED = """async () => {
    const frame = () => FRAME;
    const seen = () => {
        const boxes = [...document.querySelectorAll("[data-node-id], [data-slot-key], [class*=dit-blocks-], .comfy-markdown")]
            .map((element) => Object.values(element.getBoundingClientRect().toJSON()).map(Math.round));
        const nodes = app.canvas.graph.nodes.map(({ id, pos, size, imgs }) => [id, ...pos, ...size, imgs?.length]);
        return JSON.stringify([app.canvas.ds.scale, [...app.canvas.ds.offset], nodes, boxes]);
    };
    const pictures = "[data-node-id] img, [class*=dit-blocks-] img";
    const busy = () => window.asking || document.fonts.status !== "loaded" || [...document.querySelectorAll(pictures)].some((one) => !one.complete)
        || LiteGraph.vueNodesMode && app.canvas.graph.nodes.some(({ id }) => !document.querySelector(`[data-node-id="${id}"]`));
    const began = performance.now();
    for (let before, still = 0, since = began; still < 6 || performance.now() - since < 400; still++) {
        await frame();
        await new Promise((done) => requestIdleCallback(done, { timeout: 1000 }));
        const now = seen();
        if (busy() || now !== before) [before, still, since] = [now, 0, performance.now()];
        if (performance.now() - began > 60_000) throw new Error("the page never came to rest: " + (busy() ? "it waits for an answer" : now));
    }
}""".replace("FRAME", FRAME)


def known_to(types, workflow: dict) -> bool:
    """Whether a host with these types of nodes knows all that a workflow has."""
    inside = workflow.get("definitions", {}).get("subgraphs", [])
    used = {node["type"] for graph in (workflow, *inside) for node in graph["nodes"]}
    return used <= {*types, "MarkdownNote", "Note", "Reroute", *(graph["id"] for graph in inside)}


@contextmanager
def complaints_of(page):
    """The errors on the page's console while it lasts."""
    told = []
    listen = lambda message: told.append(message.text) if message.type == "error" else None
    page.on("console", listen)
    try:
        yield told
    finally:
        page.remove_listener("console", listen)


def settle(page) -> None:
    """Wait until nodes, boxes and pictures stay as they are, over frames after which the page had nothing left to do."""
    page.evaluate(SETTLED)


def frames(page) -> None:
    """Let the page draw what it was told."""
    for _ in range(2):
        page.evaluate(FRAME)


def came(page, what: str, seconds: float = 3) -> bool:
    """Whether an expression came true in time."""
    for _ in range(round(seconds * 10)):
        if page.evaluate(what):
            return True
        page.wait_for_timeout(100)
    return False


def draw(run, host) -> np.ndarray:
    """Run what is on the canvas: → the saved picture."""
    (image,) = [image for output in run()["outputs"].values() for image in output.get("images", ()) if image["type"] == "output"]
    return np.asarray(Image.open(host.base / "output" / image["subfolder"] / image["filename"]))


def open_search(page, x: float, y: float) -> None:
    page.evaluate("app.canvas.deselectAll()")  # the tools of a chosen node would lie above its neighbours
    frames(page)
    for _ in range(5):  # on a busy machine the page takes some double-clicks for two clicks
        page.mouse.dblclick(x, y)
        if came(page, "document.activeElement?.tagName === 'INPUT'"):
            return
    raise TimeoutError("the search never opened")


def search(page, words: str, x: float, y: float) -> str:
    """Double-click, type, Enter, click where it is to lie: → the new node's id."""
    before = page.evaluate("app.graph.nodes.map(({ id }) => String(id))")
    open_search(page, x, y)
    page.keyboard.type(words)
    page.wait_for_function("words => document.querySelector('[role=option]')?.textContent.includes(words)", arg=words)
    frames(page)
    page.keyboard.press("Enter")
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(before) + 1)
    page.wait_for_function("!document.querySelector('[role=option]')")  # while the search goes away, it takes the clicks
    frames(page)
    for _ in range(5):  # the node follows the mouse until the page takes a click
        page.mouse.move(x + 6, y + 6)
        frames(page)
        page.mouse.click(x + 6, y + 6)
        if came(page, "app.canvas.state.ghostNodeId == null"):
            break
    else:
        raise TimeoutError(f"{words} still follows the mouse")
    frames(page)
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
        frames(page)
        page.mouse.up()
        if came(page, f"app.graph.getNodeById({json.dumps(target)}).inputs.find(({{ name }}) => name === {json.dumps(name)}).link !== null"):
            return
    raise TimeoutError(f"no wire from {output} to {name}")


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
