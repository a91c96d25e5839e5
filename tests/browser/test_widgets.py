"""The pack's own boxes on nodes: the patch grid, the slider over steps, costs, and before beside now."""

import json

import pytest

from comfyui_host import ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
WORKFLOW = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
WORKFLOW["nodes"] = [node for node in WORKFLOW["nodes"] if node["type"] != "MarkdownNote"]


@pytest.fixture
def page(tab, load, tmp_path):
    load(WORKFLOW)
    yield tab
    tab.screenshot(path=tmp_path / "page.png")
    assert not tab.errors


def on(page, kind: str, expression: str):
    """An expression of the one node of this type."""
    return page.evaluate(f"kind => {{ const node = app.graph.nodes.find(({{ comfyClass }}) => comfyClass === kind); return {expression}; }}", kind)


def turn(page, kind: str, widget: str, value) -> None:
    """Give a widget a value as its own element does."""
    on(page, kind, f"""(() => {{
        const widget = node.widgets.find(({{ name }}) => name === {json.dumps(widget)});
        widget.value = {json.dumps(value)};
        widget.callback?.(widget.value);
    }})()""")


def value(page, kind: str, widget: str):
    return on(page, kind, f"node.widgets.find(({{ name }}) => name === {json.dumps(widget)}).value")


def look_at(page, kind: str) -> None:
    """Bring a node into view at full size."""
    on(page, kind, "(app.canvas.ds.scale = 1, app.canvas.centerOnNode(node), app.canvas.setDirty(true, true))")
    page.wait_for_timeout(600)


def tokens(page, *places):
    """Where tokens (row, column) of an 8×8 grid are on the page."""
    box = page.locator(".dit-blocks-grid canvas").bounding_box()
    side = min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    return [(left + (column + 0.5) / 8 * side, top + (row + 0.5) / 8 * side) for row, column in places]


def expect(page, box: str, text: str) -> None:
    sync_api.expect(page.locator(f".dit-blocks-{box}").first).to_contain_text(text)


def test_the_grid_tells_the_arithmetic_before_any_run(page):
    look_at(page, "DiTBlocksPatchify")
    expect(page, "grid", "256 tokens")
    expect(page, "grid", "p = 2 is the model's own")
    turn(page, "DiTBlocksPatchify", "patch_size", 4)
    expect(page, "grid", "64 tokens")
    expect(page, "grid", "27% of p = 2")
    turn(page, "DiTBlocksEmptyLatent", "width", 128)
    turn(page, "DiTBlocksPatchify", "patch_size", 8)
    expect(page, "grid", "8 tokens: 4×2")
    turn(page, "DiTBlocksPatchify", "patch_size", 17)
    expect(page, "grid", "patch_size 17 does not fit")


def test_tokens_are_chosen_by_mouse_and_keys(page):
    look_at(page, "DiTBlocksPatchify")
    turn(page, "DiTBlocksPatchify", "patch_size", 4)
    expect(page, "grid", "64 tokens")
    (start, end) = tokens(page, (1, 1), (2, 3))
    page.mouse.move(*start)
    expect(page, "grid", "token 9: row 1, column 1")
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()
    assert value(page, "DiTBlocksPatchify", "selection") == "9-11,17-19"
    page.mouse.click(*tokens(page, (2, 2))[0])
    assert value(page, "DiTBlocksPatchify", "selection") == "9-11,17,19"
    inputs = next(node["inputs"] for node in page.evaluate("app.graphToPrompt().then(({ output }) => output)").values()
                  if node["class_type"] == "DiTBlocksPatchify")
    assert inputs["selection"] == "9-11,17,19"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert value(page, "DiTBlocksPatchify", "selection") == "9-11,17,19,27"
    turn(page, "DiTBlocksPatchify", "patch_size", 8)
    assert value(page, "DiTBlocksPatchify", "selection") == "0-1,5"  # larger patches whose middle was chosen
    page.keyboard.press("Escape")
    turn(page, "DiTBlocksPatchify", "patch_size", 4)
    page.mouse.click(*tokens(page, (0, 0))[0])
    page.keyboard.press("Escape")
    assert value(page, "DiTBlocksPatchify", "selection") == ""


def test_tokens_are_chosen_by_touch(page):
    look_at(page, "DiTBlocksPatchify")
    turn(page, "DiTBlocksPatchify", "patch_size", 4)
    turn(page, "DiTBlocksPatchify", "selection", "")
    expect(page, "grid", "64 tokens")
    finger = page.context.new_cdp_session(page)

    def touch(kind, *places):
        points = [{"x": x, "y": y} for x, y in tokens(page, *places)]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    touch("touchStart", (1, 1))
    touch("touchMove", (2, 3))
    touch("touchEnd")
    page.wait_for_timeout(200)
    assert value(page, "DiTBlocksPatchify", "selection") == "9-11,17-19"
    turn(page, "DiTBlocksPatchify", "selection", "")


def test_blocks_are_told_before_any_run(page, load):
    load(json.loads((ROOT / "example_workflows" / "exploded_step.json").read_text(encoding="utf-8")))
    look_at(page, "DiTBlocksRunBlocks")
    expect(page, "blocks", "blocks 0–5 joint; runs 6: 0, 1, 2, 3, 4, 5")
    turn(page, "DiTBlocksRunBlocks", "blocks", "4,0-2")
    expect(page, "blocks", "runs 4: 4, 0, 1, 2")
    turn(page, "DiTBlocksRunBlocks", "blocks", "0-6")
    expect(page, "blocks", "this model has blocks 0 to 5, there is no block 6")
    on(page, "DiTBlocksRunBlocks", "node.disconnectInput(0)")
    expect(page, "blocks", "run once to see the model's blocks")


def test_the_boxes_speak_chinese(page):
    try:
        page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'zh')")
        turn(page, "DiTBlocksPatchify", "patch_size", 4)
        expect(page, "grid", "64 个 token")
        expect(page, "trajectory", "20 步")
        made = page.evaluate("""(() => {
            const node = LiteGraph.createNode("DiTBlocksTokenPCA");
            app.graph.add(node);
            return node.widgets.find(({ name }) => name === "language").value;
        })()""")
        assert made == "中文"
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")
    turn(page, "DiTBlocksPatchify", "patch_size", 2)
    expect(page, "grid", "256 tokens")


def test_a_selection_survives_saving_and_loading(page, load):
    turn(page, "DiTBlocksPatchify", "selection", "0-7")
    saved = page.evaluate("app.graph.serialize()")
    prompt = page.evaluate("app.graphToPrompt().then(({ output }) => output)")
    load(saved)
    assert value(page, "DiTBlocksPatchify", "selection") == "0-7"
    assert page.evaluate("app.graphToPrompt().then(({ output }) => output)") == prompt


def test_a_change_of_patch_size_shows_before_beside_now(page, run):
    run()
    panel = page.locator(".dit-blocks-side-by-side")
    sync_api.expect(panel).to_have_count(0)
    turn(page, "DiTBlocksPatchify", "patch_size", 8)
    run()
    sync_api.expect(panel).to_contain_text("before: p = 2")
    sync_api.expect(panel).to_contain_text("now: p = 8")
    sources = panel.locator("img").evaluate_all("images => images.map(image => image.src)")
    assert len(set(sources)) == 2
    page.wait_for_function("[...document.querySelectorAll('.dit-blocks-side-by-side img')].every(image => image.naturalWidth === 256)")
    panel.get_by_role("button", name="dismiss").click()
    sync_api.expect(panel).to_have_count(0)


def test_the_slider_walks_through_the_steps(page, run):
    look_at(page, "DiTBlocksDenoise")
    expect(page, "trajectory", "run to walk through x0")
    run()
    expect(page, "trajectory", "x0 at step 19")
    slider = page.get_by_role("slider", name="step")
    pixels = "document.querySelector('.dit-blocks-trajectory canvas').toDataURL()"
    last = page.evaluate(pixels)
    slider.focus()
    page.keyboard.press("Home")
    expect(page, "trajectory", "x0 at step 0, σ = 1.000")
    assert page.evaluate(pixels) != last
    page.keyboard.press("ArrowRight")
    expect(page, "trajectory", "x0 at step 1, σ = 0.9")


def test_a_second_slider_walks_through_the_blocks(page, run):
    look_at(page, "DiTBlocksDenoise")
    depth = page.get_by_role("slider", name="block")
    sync_api.expect(depth).to_be_hidden()
    turn(page, "DiTBlocksSchedule", "steps", 3)
    turn(page, "DiTBlocksDenoise", "capture_blocks", True)
    run()
    expect(page, "trajectory", "x0 at step 2")
    expect(page, "trajectory", "after block 5")
    pixels = "document.querySelector('.dit-blocks-trajectory canvas').toDataURL()"
    last = page.evaluate(pixels)
    depth.focus()
    page.keyboard.press("Home")
    expect(page, "trajectory", "after block 0")
    assert page.evaluate(pixels) != last
    turn(page, "DiTBlocksDenoise", "capture_blocks", False)
    run()
    sync_api.expect(depth).to_be_hidden()


def test_costs_are_of_the_steps_and_patches_chosen(page):
    expect(page, "cost", "20 steps")
    turn(page, "DiTBlocksSchedule", "steps", 10)
    expect(page, "cost", "10 steps")
    expect(page, "trajectory", "10 steps")
    turn(page, "DiTBlocksPatchify", "patch_size", 4)
    expect(page, "trajectory", "27% of p = 2 throughout")
    on(page, "DiTBlocksDenoise", """(() => {
        const schedule = LiteGraph.createNode("DiTBlocksPatchSchedule");
        app.graph.add(schedule);
        schedule.widgets.find(({ name }) => name === "rows").value = "4 until 50%, then 2";
        schedule.connect(0, node, node.inputs.findIndex(({ name }) => name === "patch_schedule"));
    })()""")
    expect(page, "trajectory", "64% of p = 2 throughout")


def test_a_fine_grid_is_drawn_at_once(page):
    turn(page, "DiTBlocksEmptyLatent", "width", 1024)
    turn(page, "DiTBlocksEmptyLatent", "height", 1024)
    look_at(page, "DiTBlocksPatchify")
    turn(page, "DiTBlocksPatchify", "patch_size", 1)
    expect(page, "grid", "16,384 tokens")
    times = on(page, "DiTBlocksPatchify", """(async () => {
        const times = [];
        const widget = node.widgets.find(({ name }) => name === "patch_size");
        for (let i = 0; i < 20; i++) {
            widget.value = 1 + i % 2;
            const began = performance.now();
            widget.callback(widget.value);
            await new Promise(requestAnimationFrame);
            times.push(performance.now() - began);
        }
        return times.sort((a, b) => a - b);
    })()""")
    print("redraw, ms: median", times[10], "longest", times[-1])
    frames = page.evaluate("""(async () => {
        const times = [];
        for (let i = 0; i < 20; i++) {
            const began = performance.now();
            await new Promise(requestAnimationFrame);
            times.push(performance.now() - began);
        }
        return times.sort((a, b) => a - b);
    })()""")
    print("a frame with nothing to do, ms: median", frames[10])
    assert times[10] < 50 + frames[10]


def test_wires_have_colours_of_their_own(page):
    colours = page.evaluate("""["DIT", "DIT_TOKENS", "DIT_HIDDEN", "LATENT", "IMAGE", "MODEL"].map(type => app.canvas.constructor.link_type_colors[type])""")
    assert len(set(colours)) == 6 and all(colours)
    dots = page.evaluate("""["DIT", "DIT_TOKENS", "DIT_HIDDEN"].map(type =>
        getComputedStyle(document.documentElement).getPropertyValue(`--color-datatype-${type}`).trim())""")
    assert dots == colours[:3]
