"""What a user's hands do in the front end, and what is to be read there: shared by the specs."""

import base64
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


def draw(run, host) -> np.ndarray:
    """Run what is on the canvas: → the saved picture."""
    (image,) = [image for output in run()["outputs"].values() for image in output.get("images", ()) if image["type"] == "output"]
    return np.asarray(Image.open(host.base / "output" / image["subfolder"] / image["filename"]))


def open_search(page, x: float, y: float) -> None:
    page.evaluate("app.canvas.deselectAll()")  # the tools of a chosen node would lie above its neighbours
    page.wait_for_timeout(200)
    for _ in range(5):  # on a busy machine the page takes some double-clicks for two clicks
        page.mouse.dblclick(x, y)
        page.wait_for_timeout(700)
        if page.evaluate("document.activeElement?.tagName === 'INPUT'"):
            break


def search(page, words: str, x: float, y: float) -> str:
    """Double-click, type, Enter, click where it is to lie: → the new node's id."""
    before = page.evaluate("app.graph.nodes.map(({ id }) => String(id))")
    open_search(page, x, y)
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
