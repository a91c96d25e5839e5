"""The pack's own boxes on nodes: the patch grid and the slider over steps."""

import json

from browser.gestures import later, serialize, settle
from browser.widgets import capture, expect, look_at, on, page, ran, sync_api, tokens, turn, value  # noqa: F401
from comfyui_host import ROOT


def test_the_grid_tells_the_arithmetic_before_any_run(page):
    look_at(page, "DiTBlocksPatchify")
    expect(page, "grid", "256 tokens of 64 values: 16×16 patches of 2×2")
    expect(page, "grid", "p = 2 is the model's own")
    turn(page, "DiTBlocksPatchify", "patch_size", 4)
    expect(page, "grid", "64 tokens of 256 values: 8×8 patches of 4×4")
    expect(page, "grid", "26% of p = 2")
    turn(page, "DiTBlocksEmptyLatent", "width", 128)
    turn(page, "DiTBlocksPatchify", "patch_size", 8)
    expect(page, "grid", "8 tokens of 1024 values: 4×2")
    turn(page, "DiTBlocksPatchify", "patch_size", 17)
    expect(page, "grid", "patch_size 17 does not fit")


def test_the_size_of_a_cell_is_the_one_that_a_run_measured(page):
    look_at(page, "DiTBlocksPatchify")
    ran(page, "DiTBlocksPatchify", size=[16, 16], channels=32, patch_size=1, batch=1, shape=None)
    expect(page, "grid", "64 tokens")  # 16 pixels a cell, and p = 2
    turn(page, "DiTBlocksEmptyLatent", "width", 512)
    capture(page)
    expect(page, "grid", "128 tokens")


def test_a_selection_beyond_a_smaller_grid_is_told_and_taken_back(page):
    look_at(page, "DiTBlocksPatchify")
    turn(page, "DiTBlocksPatchify", "selection", "0-255")
    expect(page, "grid", "256 selected")
    turn(page, "DiTBlocksEmptyLatent", "height", 128)
    capture(page)
    expect(page, "grid", "the grid has tokens 0 to 127, the selection goes on to 255: Escape takes it back")
    page.locator(".dit-blocks-grid canvas").focus()
    page.keyboard.press("Escape")
    assert value(page, "DiTBlocksPatchify", "selection") == ""
    sync_api.expect(page.locator(".dit-blocks-grid")).not_to_contain_text("Escape")


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
    assert later(page, lambda: value(page, "DiTBlocksPatchify", "selection")) == "9-11,17-19"
    turn(page, "DiTBlocksPatchify", "selection", "")


def test_blocks_are_told_before_any_run(page, load):
    load(json.loads((ROOT / "example_workflows" / "exploded_step.json").read_text(encoding="utf-8")))
    look_at(page, "DiTBlocksRunBlocks")
    expect(page, "plan", "blocks 0–5 joint; runs 3: 0, 1, 2")
    turn(page, "DiTBlocksRunBlocks", "blocks", "4,0-2")
    expect(page, "plan", "runs 4: 4, 0, 1, 2")
    turn(page, "DiTBlocksRunBlocks", "blocks", "0-6")
    expect(page, "plan", "this model has blocks 0 to 5, there is no block 6")
    on(page, "DiTBlocksRunBlocks", "node.disconnectInput(0)")
    expect(page, "plan", "run once to see the model's blocks")
    turn(page, "DiTBlocksRunBlocks", "blocks", "2,0")
    on(page, "DiTBlocksRunBlocks", "node.onExecuted({ dit_blocks: [{ kinds: ['double', 'double', 'single'] }] })")
    expect(page, "plan", "blocks 0–1 double, 2 single; runs 2: 2, 0")


def test_the_boxes_speak_chinese(page):
    turn(page, "DiTBlocksPatchify", "patch_size", 4)
    capture(page)
    try:
        page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'zh')")  # which loads the workflow again
        expect(page, "grid", "64 个 token，每个 256 个值")
        expect(page, "trajectory", "20 步")
        turn(page, "DiTBlocksDenoise", "start_step", 30)
        expect(page, "trajectory", "第 30 步在日程之外，日程的步是 0 到 19")
        turn(page, "DiTBlocksDenoise", "start_step", 0)
        made = page.evaluate("""(async () => {
            const node = LiteGraph.createNode("DiTBlocksTokenPCA");
            app.graph.add(node);
            const { output } = await app.graphToPrompt();
            return [node.widgets.find(({ name }) => name === "language").value, output[node.id].inputs.language];
        })()""")
        assert made == ["auto", "中文"]
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")
        expect(page, "grid", "64 tokens of 256 values")


def test_titles_of_an_example_speak_chinese(page, load):
    load(json.loads((ROOT / "example_workflows" / "learn_05_time_and_text.json").read_text(encoding="utf-8")))
    page.evaluate("app.rootGraph.nodes.find(({ title }) => title === 'Prompt').title = 'mine'")
    capture(page)

    def titles() -> list[str]:
        return page.evaluate("""[...[...app.rootGraph.nodes, ...app.rootGraph.groups].map(({ title }) => title),
            ...app.rootGraph.nodes.filter((node) => node.isSubgraphNode()).map(({ subgraph }) => `in ${subgraph.name}`)]""")
    try:
        page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'zh')")
        assert later(page, lambda: {"第九步", "in 第九步", "2 文本", "mine"} <= set(titles()))
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")
    assert later(page, lambda: {"The ninth step", "in The ninth step", "2 Text", "mine"} <= set(titles()))


def test_sockets_and_widgets_of_a_subgraph_speak_chinese(page, load):
    """As those of the nodes inside do; the names themselves stay, and nothing of it is saved."""
    load(json.loads((ROOT / "example_workflows" / "learn_08_training.json").read_text(encoding="utf-8")))
    page.evaluate("""(() => {
        const { subgraph } = app.rootGraph.nodes.find(({ title }) => title === "Train");
        subgraph.renameInput(subgraph.inputs.find(({ name }) => name === "batch"), "mine");
    })()""")
    capture(page)

    def shown() -> list[str]:
        return page.evaluate("""app.rootGraph.nodes.filter((node) => node.isSubgraphNode()).flatMap(({ inputs, outputs, widgets, subgraph }) =>
            [...[...inputs, ...outputs, ...subgraph.inputs].map(({ name, label, localized_name }) => label || localized_name || name),
             ...widgets.map(({ name, label }) => label || name)])""")

    def sockets() -> list:
        graph = serialize(page)
        subgraphs = graph["definitions"]["subgraphs"]
        types = {one["id"] for one in subgraphs}
        return [[(socket["name"], socket.get("label"), socket.get("localized_name")) for socket in (*one["inputs"], *one["outputs"])]
                for one in [*subgraphs, *(node for node in graph["nodes"] if node["type"] in types)]]

    def speak(language: str, words: set[str]) -> None:
        """The front end loads the workflow again by itself, at times before it has the words: then its own nodes keep the former language."""
        page.evaluate("language => app.extensionManager.setting.set('Comfy.Locale', language)", language)
        settle(page)
        for _ in range(5):
            if words <= set(shown()):
                break
            page.evaluate("app.loadGraphData(app.rootGraph.serialize())")
            settle(page)
        assert words <= set(shown())
    english, saved = shown(), sockets()
    assert {"steps", "learning_rate", "training_set", "mine", "text", "image"} <= set(english)
    try:
        speak("zh", {"步数", "学习率", "训练集", "mine", "文本", "图像"})
        assert not {"steps", "learning_rate", "training_set", "batch", "text", "image"} & set(shown())
        assert sockets() == saved
        copied = page.evaluate("""(() => {
            const copy = app.rootGraph.nodes.find((node) => node.isSubgraphNode()).clone();
            app.rootGraph.add(copy);
            return copy.id;
        })()""")
        later(page, lambda: page.evaluate("id => app.rootGraph.getNodeById(id).widgets.map(({ label }) => label)", copied) == ["名称", "步数", "mine", "学习率"])
        page.evaluate("id => app.rootGraph.remove(app.rootGraph.getNodeById(id))", copied)
        capture(page)
    finally:
        speak("en", set(english))
    assert shown() == english and sockets() == saved


def test_a_selection_survives_saving_and_loading(page, load):
    turn(page, "DiTBlocksPatchify", "selection", "0-7")
    saved = page.evaluate("app.graph.serialize()")
    prompt = page.evaluate("app.graphToPrompt().then(({ output }) => output)")
    load(saved)
    assert value(page, "DiTBlocksPatchify", "selection") == "0-7"
    assert page.evaluate("app.graphToPrompt().then(({ output }) => output)") == prompt


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


FINE = """async (widget, canvas, says) => {
    const frame = () => new Promise(requestAnimationFrame);
    const pixels = () => new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    const sum = () => {
        let sum = 0;
        for (const one of pixels()) sum = (sum * 31 + one) | 0;
        return sum;
    };
    const turn = async (p) => {
        widget.value = p;
        widget.callback(p);
        while (!says.textContent.includes(`patches of ${p}×${p}`)) await new Promise(setTimeout);
        pixels();  // which waits until all of it is drawn
    };
    const times = [];
    const pictures = new Set();
    for (let i = 0; i < 20; i++) {
        await turn(2);
        const coarse = sum();
        await frame();
        const began = performance.now();
        await turn(1);
        times.push(performance.now() - began);
        pictures.add(sum());
        if (pictures.has(coarse)) throw new Error("nothing was drawn");
        await frame();
        await frame();
    }
    return { times: times.sort((a, b) => a - b), pictures: pictures.size };
}"""


def watched(page, act) -> tuple[object, dict[str, float]]:
    """What `act` gives, and the longest task of the page's main thread meanwhile in ms: by the clock, and of its own CPU time, which on a
    busy machine leaves out what others took."""
    browser = page.context.browser
    browser.start_tracing(page=page, categories=["toplevel"])
    try:
        given = act()
        page.evaluate("new Promise((done) => setTimeout(done, 50))")  # a task is told of when it has ended
    finally:
        events = json.loads(browser.stop_tracing())["traceEvents"]
    main = {(event["pid"], event["tid"]) for event in events
            if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"}
    tasks = [event for event in events if event["ph"] == "X" and (event["pid"], event["tid"]) in main]
    return given, {kind: max(task[key] for task in tasks if key in task) / 1000 for kind, key in (("clock", "dur"), ("cpu", "tdur"))}


def test_a_fine_grid_is_drawn_at_once(page):
    """Each of 20 changes to p = 1 on 128×128 cells is drawn, the quickest in a moment, and none blocks the page."""
    turn(page, "DiTBlocksEmptyLatent", "width", 1024)
    turn(page, "DiTBlocksEmptyLatent", "height", 1024)
    look_at(page, "DiTBlocksPatchify")
    turn(page, "DiTBlocksPatchify", "patch_size", 1)
    expect(page, "grid", "16,384 tokens of 16 values")
    block = "(async () => { await new Promise(requestAnimationFrame); const began = performance.now(); while (performance.now() - began < 150); })()"
    _, seen = watched(page, lambda: page.evaluate(block))
    assert seen["clock"] >= 150  # a page that is blocked is seen
    measured, longest = watched(page, lambda: on(page, "DiTBlocksPatchify", f"""({FINE})(
        node.widgets.find(({{ name }}) => name === "patch_size"),
        document.querySelector(".dit-blocks-grid canvas"), document.querySelector(".dit-blocks-grid [aria-live]"))"""))
    print("redraw, ms: median", measured["times"][10], "longest", measured["times"][-1], "longest task", longest)
    assert measured["pictures"] == 1 and len(measured["times"]) == 20
    assert measured["times"][0] < 50  # the others may have waited for their turn on a busy machine
    assert 0 < longest["cpu"] < 100


def test_wires_have_colours_of_their_own(page):
    colours = page.evaluate("""["DIT", "DIT_TOKENS", "DIT_HIDDEN", "LATENT", "IMAGE", "MODEL"].map(type => app.canvas.constructor.link_type_colors[type])""")
    assert len(set(colours)) == 6 and all(colours)
    dots = page.evaluate("""["DIT", "DIT_TOKENS", "DIT_HIDDEN"].map(type =>
        getComputedStyle(document.documentElement).getPropertyValue(`--color-datatype-${type}`).trim())""")
    assert dots == colours[:3]


def test_an_error_is_told_on_its_node_and_in_comfyui_s_message(page, host, run):
    message = page.get_by_test_id("error-overlay-messages")
    turn(page, "DiTBlocksDenoise", "start_step", 30)
    page.evaluate("app.queuePrompt(0)")
    expect(page, "error", "DiT Denoise: ")
    told = page.locator(".dit-blocks-trajectory .dit-blocks-error").inner_text()
    sync_api.expect(message).to_have_text(told)
    assert "\n" not in told
    turn(page, "DiTBlocksDenoise", "end_step", 20)  # refused before the run, at both widgets
    page.evaluate("app.queuePrompt(0)")
    sync_api.expect(message).to_have_text("DiT Denoise: end_step 20 is not after start_step 30")
    sync_api.expect(page.locator(".p-toast-message").filter(has_text="start_step 30")).to_have_count(0)
    turn(page, "DiTBlocksDenoise", "start_step", 0)
    run()
    sync_api.expect(message).to_have_count(0)
    sync_api.expect(page.locator(".dit-blocks-error")).to_have_count(0)


def test_an_error_is_told_in_a_toast_where_comfyui_has_a_dialog(page):
    turn(page, "DiTBlocksDenoise", "start_step", 30)
    setting = "Comfy.RightSidePanel.ShowErrorsTab"
    try:
        page.evaluate("name => app.extensionManager.setting.set(name, false)", setting)
        page.evaluate("app.queuePrompt(0)")
        expect(page, "error", "DiT Denoise: ")
        told = page.locator(".dit-blocks-trajectory .dit-blocks-error").inner_text()
        sync_api.expect(page.locator(".p-toast-message").filter(has_text=told).first).to_be_visible()
    finally:
        page.evaluate("name => app.extensionManager.setting.set(name, true)", setting)
        page.keyboard.press("Escape")


def test_guidance_with_nothing_to_move_away_from_is_told_before_a_run(page):
    """On DiT Denoise's own panel, and on one that DiT Guidance gets only for it."""
    refused = page.locator(".dit-blocks-trajectory .dit-blocks-warning-line")
    sync_api.expect(refused).to_have_count(0)
    on(page, "DiTBlocksDenoise", "node.disconnectInput(node.inputs.findIndex(({ name }) => name === 'negative'))")
    sync_api.expect(refused).to_have_text("cfg 2 needs a negative: wire one, or set cfg to 1")
    turn(page, "DiTBlocksDenoise", "cfg", 1)
    sync_api.expect(refused).to_have_count(0)

    page.evaluate("""() => {
        const denoise = app.graph.nodes.find(({ comfyClass }) => comfyClass === "DiTBlocksDenoise");
        const origin = (name) => app.graph.getLink(denoise.inputs.find((input) => input.name === name).link).origin_id;
        const made = (kind, y, inputs) => {
            const node = LiteGraph.createNode(kind);
            app.graph.add(node);
            node.pos = [denoise.pos[0], denoise.pos[1] + 1000 + y];
            for (const [name, id] of Object.entries(inputs))
                app.graph.getNodeById(id).connect(0, node, node.inputs.findIndex((input) => input.name === name));
            return node.id;
        };
        const begun = made("DiTBlocksCondition", 0, { dit: origin("dit"), x: origin("tokens"), positive: origin("positive"), sigmas: origin("sigmas") });
        const last = made("DiTBlocksFinalLayer", 300, { dit: origin("dit"), hidden: begun });
        made("DiTBlocksGuidance", 500, { prediction: last });
    }""")
    look_at(page, "DiTBlocksGuidance")
    expect(page, "warning", "cfg 3 needs a negative: wire one into DiT Condition, or a prediction into negative")
    warned = on(page, "DiTBlocksGuidance", "node.size[1]")
    on(page, "DiTBlocksDenoise", """(() => {
        const condition = app.graph.nodes.find(({ comfyClass }) => comfyClass === "DiTBlocksCondition");
        const positive = app.graph.getLink(node.inputs.find(({ name }) => name === "positive").link).origin_id;
        app.graph.getNodeById(positive).connect(0, condition, condition.inputs.findIndex(({ name }) => name === "negative"));
    })()""")
    capture(page)
    sync_api.expect(page.locator(".dit-blocks-warning")).to_have_count(0)
    settle(page)
    assert on(page, "DiTBlocksGuidance", "node.size[1]") < warned - 20
    assert not on(page, "DiTBlocksGuidance", "node.widgets.some(({ name }) => name === 'warning')")
