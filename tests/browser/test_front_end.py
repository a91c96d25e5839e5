"""Explode and Collapse in the official front end."""

import json

from browser.gestures import search, settle
from comfyui_host import ROOT
import numpy as np
from PIL import Image
import pytest

WORKFLOW = json.loads((ROOT / "tests" / "golden" / "0.1.0" / "one_step_at_a_time.json").read_text(encoding="utf-8"))
WORKFLOW["nodes"] = [node for node in WORKFLOW["nodes"] if node["type"] != "MarkdownNote"]
next(node for node in WORKFLOW["nodes"] if node["type"] == "DiTBlocksEmptyLatent")["widgets_values"] = [96, 64, 1]
EXPLODE, COLLAPSE = "Explode into stages", "Collapse into DiT Denoise Step"
BLUEPRINT = "DiT Denoise Step (exploded)"


@pytest.fixture
def page(page, load):
    """The front end with the example of eight Denoise Steps."""
    load(WORKFLOW)
    return page


def find(page, title: str) -> str:
    return page.evaluate("title => String(app.canvas.graph.nodes.find(node => node.title === title).id)", title)


def evaluate(page, title: str, expression: str):
    """An expression of `node`, the one of this title on the graph in view."""
    return page.evaluate(f"id => {{ const node = app.canvas.graph.getNodeById(id); return {expression}; }}", find(page, title))


def menu(page, title: str) -> dict[str, bool]:
    """What the pack adds to a node's menu: → label → whether it may be chosen."""
    items = evaluate(page, title, "app.canvas.getNodeMenuOptions(node).filter(Boolean).map(item => [item.content, !item.disabled])")
    return {label: enabled for label, enabled in items if label and label.startswith((EXPLODE, COLLAPSE))}


def choose(page, title: str, label: str) -> None:
    """Right-click on a node's title, click on the entry."""
    x, y = evaluate(page, title, """(() => {
        app.canvas.ds.scale = 0.8;
        app.canvas.centerOnNode(node);
        app.canvas.setDirty(true, true);
        const { left, top } = app.canvas.canvas.getBoundingClientRect();
        return [[left, 60], [top, -12]].map(([edge, at], i) => edge + (node.pos[i] + at + app.canvas.ds.offset[i]) * app.canvas.ds.scale);
    })()""")
    settle(page)
    page.mouse.click(x, y, button="right")
    page.get_by_text(label, exact=True).click()
    settle(page)


def prompt(page) -> dict:
    return page.evaluate("app.graphToPrompt().then(({ output }) => output)")


def draw(run, host) -> np.ndarray:
    """Run what is on the canvas: → the saved picture."""
    (image,) = [image for output in run()["outputs"].values() for image in output.get("images", ())]
    return np.asarray(Image.open(host.base / "output" / image["subfolder"] / image["filename"]))


def test_explode_runs_the_same_and_collapse_restores(page, host, run):
    evaluate(page, "Step 3", "node.widgets.find(({ name }) => name === 'cfg').value = 4.5")
    evaluate(page, "Step 3", "node.widgets.find(({ name }) => name === 'patch_method').value = 'native'")  # which the stages have not
    steps, before = draw(run, host), prompt(page)
    old, place = find(page, "Step 3"), evaluate(page, "Step 3", "[...node.pos]")

    choose(page, "Step 3", EXPLODE)
    exploded = prompt(page)
    new = find(page, "Step 3")
    stages = {id: node for id, node in exploded.items() if id.startswith(f"{new}:")}
    assert len(stages) == 7 and old not in exploded and len(exploded) == len(before) + 6
    assert evaluate(page, "Step 3", "[...node.pos]") == place
    by_type = {node["class_type"]: node["inputs"] for node in stages.values()}
    assert by_type["DiTBlocksGuidance"]["cfg"] == 4.5 and by_type["DiTBlocksCondition"]["step"] == by_type["DiTBlocksSamplerStep"]["step"] == 3
    assert np.array_equal(draw(run, host), steps)

    choose(page, "Step 3", COLLAPSE)
    back = find(page, "Step 3")
    assert json.loads(json.dumps(prompt(page)).replace(f'"{back}"', f'"{old}"')) == before
    assert evaluate(page, "Step 3", "[...node.pos]") == place


def test_unpacked_by_comfyui_it_runs_the_same(page, host, run):
    evaluate(page, "Step 3", "node.widgets.find(({ name }) => name === 'cfg').value = 2")
    steps = draw(run, host)
    choose(page, "Step 3", EXPLODE)
    evaluate(page, "Step 3", "app.graph.unpackSubgraph(node)")
    assert len(prompt(page)) == len(WORKFLOW["nodes"]) + 6 and all(":" not in id for id in prompt(page))
    assert np.array_equal(draw(run, host), steps)


def test_undo_takes_back_the_whole_swap(page):
    before = prompt(page)
    choose(page, "Step 3", EXPLODE)
    exploded = prompt(page)
    page.keyboard.press("Control+z")
    page.wait_for_function("app.graph.nodes.every(node => !node.isSubgraphNode())")
    assert prompt(page) == before
    page.keyboard.press("Control+y")
    page.wait_for_function("app.graph.nodes.some(node => node.isSubgraphNode())")
    assert prompt(page) == exploded


def test_wires_into_widgets_and_reroutes_are_kept(page, host):
    if "PrimitiveInt" not in host.get("/object_info"):
        pytest.skip("this host has no PrimitiveInt")
    page.evaluate("""() => {
        const step = app.graph.nodes.find(node => node.title === "Step 3");
        for (const [type, name, value] of [["PrimitiveInt", "step", 3], ["PrimitiveFloat", "cfg", 2.5]]) {
            const node = LiteGraph.createNode(type);
            node.pos = [step.pos[0] - 200, step.pos[1] - 200];
            app.graph.add(node);
            node.widgets[0].value = value;
            node.connect(0, step, step.inputs.findIndex(input => input.name === name));
        }
        for (const id of [step.inputs.find(input => input.name === "tokens").link, step.outputs[0].links[0]])
            app.graph.createReroute([step.pos[0], step.pos[1] - 60], app.graph.getLink(id));
    }""")
    reroutes = "[...app.graph.reroutes.values()].map(({ id, linkIds }) => [id, linkIds.size])"
    rerouted = page.evaluate(reroutes)
    before, old = prompt(page), find(page, "Step 3")
    wire = before[old]["inputs"]["step"]
    choose(page, "Step 3", EXPLODE)
    exploded = {node["class_type"]: node["inputs"] for id, node in prompt(page).items() if ":" in id}
    assert wire == exploded["DiTBlocksCondition"]["step"] == exploded["DiTBlocksSamplerStep"]["step"]
    assert before[old]["inputs"]["cfg"] == exploded["DiTBlocksGuidance"]["cfg"]
    assert page.evaluate(reroutes) == rerouted and [size for _, size in rerouted] == [1, 1]
    choose(page, "Step 3", COLLAPSE)
    assert json.loads(json.dumps(prompt(page)).replace(f'"{find(page, "Step 3")}"', f'"{old}"')) == before
    assert page.evaluate(reroutes) == rerouted


def test_inside_another_subgraph(page):
    before = prompt(page)
    page.evaluate("""() => {
        const { node } = app.graph.convertToSubgraph(new Set(app.graph.nodes.filter(node => /Step [34]/.test(node.title))));
        app.canvas.openSubgraph(node.subgraph, node);
    }""")
    settle(page)
    grouped = prompt(page)
    choose(page, "Step 3", EXPLODE)
    assert len(prompt(page)) == len(before) + 6
    choose(page, "Step 3", COLLAPSE)
    assert sorted(map(str, (node["inputs"].keys() for node in prompt(page).values()))) == sorted(
        map(str, (node["inputs"].keys() for node in grouped.values())))
    assert len(prompt(page)) == len(grouped)


def test_the_menu_offers_what_can_be_done(page):
    assert menu(page, "Prompt") == {} and menu(page, "Step 2") == {EXPLODE: True}
    evaluate(page, "Step 2", "node.widgets.find(({ name }) => name === 'solver').value = 'heun'")
    assert menu(page, "Step 2") == {f"{EXPLODE} (not with heun)": False}
    evaluate(page, "Step 2", "node.widgets.find(({ name }) => name === 'solver').value = 'euler'")
    evaluate(page, "Step 2", "node.widgets.find(({ name }) => name === 'patch_method').value = 'resample'")
    assert menu(page, "Step 2") == {f"{EXPLODE} (not with resample)": False}

    choose(page, "Step 3", EXPLODE)
    assert menu(page, "Step 3") == {COLLAPSE: True}
    evaluate(page, "Step 3", "node.widgets.find(({ name }) => name === 'mode').value = 'none'")
    assert menu(page, "Step 3") == {f"{COLLAPSE} (mode or blocks changed)": False}
    evaluate(page, "Step 3", "node.widgets.find(({ name }) => name === 'mode').value = 'model'")
    inner = "node.subgraph.nodes.find(({ type }) => type === 'DiTBlocksRunBlocks')"
    evaluate(page, "Step 3", f"{inner}.widgets.find(({{ name }}) => name === 'strength').value = 0.5")
    assert menu(page, "Step 3") == {f"{COLLAPSE} (changed inside)": False}
    evaluate(page, "Step 3", f"{inner}.widgets.find(({{ name }}) => name === 'strength').value = 1")
    assert menu(page, "Step 3") == {COLLAPSE: True}
    evaluate(page, "Step 3", f"{inner}.disconnectInput(1)")
    assert menu(page, "Step 3") == {f"{COLLAPSE} (changed inside)": False}


def test_an_exploded_step_of_a_loaded_file_can_be_collapsed(page):
    evaluate(page, "Step 3", "node.widgets.find(({ name }) => name === 'patch_method').value = 'native'")
    choose(page, "Step 3", EXPLODE)
    page.evaluate("app.loadGraphData(app.rootGraph.serialize())")
    settle(page)
    assert menu(page, "Step 3") == {COLLAPSE: True}
    choose(page, "Step 3", COLLAPSE)
    assert evaluate(page, "Step 3", "node.widgets.find(({ name }) => name === 'patch_method').value") == "native"


def test_the_blueprint_is_found_in_the_node_search(page):
    new = search(page, BLUEPRINT, 800, 850)
    assert find(page, BLUEPRINT) == new
    assert menu(page, BLUEPRINT) == {COLLAPSE: True}


# --- DiT Denoise ---

LOOP, FIRST_STEP = "Explode into a loop of stages", "Explode its first step into stages"
WHOLE = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
WHOLE["nodes"] = [node for node in WHOLE["nodes"] if node["type"] != "MarkdownNote"]
for _node in WHOLE["nodes"]:
    if _node["type"] == "DiTBlocksEmptyLatent":
        _node["widgets_values"] = [96, 64, 1]
    if _node["type"] == "DiTBlocksSchedule":
        _node["widgets_values"] = [5, "simple", 1.0]
    if _node["type"] in ("DiTBlocksAddNoise", "DiTBlocksDenoise"):
        _node["widgets_values"][0] = 1  # the first step of five is left out


def entries(page, title: str) -> list[str]:
    return evaluate(page, title, "app.canvas.getNodeMenuOptions(node).filter(item => item?.content?.startsWith('Explode')).map(item => item.content)")


def test_denoise_explodes_into_a_loop_or_its_first_step(page, host, run, load):
    load(WHOLE)
    evaluate(page, "DiT Denoise", "node.widgets.find(({ name }) => name === 'cfg').value = 2.5")
    whole, old = draw(run, host), find(page, "DiT Denoise")
    loops = "StartLoop" in host.get("/object_info")
    choose(page, "DiT Denoise", LOOP if loops else FIRST_STEP)
    exploded = prompt(page)
    kinds = [node["class_type"] for node in exploded.values()]
    assert kinds.count("DiTBlocksCondition") == 1 and ("DiTBlocksDenoise" in kinds) == (not loops)
    if loops:
        (start,) = [node["inputs"] for node in exploded.values() if node["class_type"] == "StartLoop"]
        assert start["mode"] == "For" and start["mode.start_iteration_index"] == 1 and start["mode.max_iteration"] == 5
    else:
        assert exploded[old]["inputs"]["start_step"] == 2
    assert np.array_equal(draw(run, host), whole)


def test_stages_of_one_step_stand_for_all(page, host, run, load):
    """The picture stays until they are changed; a second time, and with a reading that stages have not, the entry says why not."""
    label = "Wire its stages for every step"
    load(WHOLE)
    evaluate(page, "DiT Denoise", "node.widgets.find(({ name }) => name === 'cfg').value = 2.5")
    assert evaluate(page, "DiT Denoise", f"(app.canvas.getNodeMenuOptions(node).find(item => item?.content === '{label}') ?? {{disabled: true}}).disabled") is False
    whole = draw(run, host)
    choose(page, "DiT Denoise", label)
    stages = {node["class_type"]: node["inputs"] for node in prompt(page).values()}
    assert stages["DiTBlocksCondition"]["step"] == 1 and "negative" not in stages["DiTBlocksCondition"] and "DiTBlocksStagesSteps" in stages
    assert np.array_equal(draw(run, host), whole)
    evaluate(page, "DiT Blocks", "node.widgets.find(({ name }) => name === 'blocks').value = 'all but 2'")
    assert not np.array_equal(draw(run, host), whole)

    def why() -> list[str]:
        return evaluate(page, "DiT Denoise", f"app.canvas.getNodeMenuOptions(node).map(item => item?.content).filter(said => said?.startsWith('{label} ('))")
    assert why() == [f"{label} (it has them)"]
    load(WHOLE)
    evaluate(page, "DiT Denoise", "node.widgets.find(({ name }) => name === 'patch_method').value = 'resample'")
    assert why() == [f"{label} (not with resample)"]


def test_undo_takes_an_exploded_denoise_back(page, host, load):
    load(WHOLE)
    before = prompt(page)
    choose(page, "DiT Denoise", LOOP if "StartLoop" in host.get("/object_info") else FIRST_STEP)
    page.wait_for_function("app.graph.nodes.some(node => node.isSubgraphNode())")
    page.keyboard.press("Control+z")
    page.wait_for_function("app.graph.nodes.every(node => !node.isSubgraphNode())")
    assert prompt(page) == before


def test_a_denoise_that_stages_can_t_stand_for_says_why(page, host, load):
    load(WHOLE)
    label = LOOP if "StartLoop" in host.get("/object_info") else FIRST_STEP
    assert entries(page, "DiT Denoise") == [label]
    for name, value, says in (("solver", "heun", "not with heun"), ("solver", "dpmpp_2m_sde", "not with dpmpp_2m_sde"), ("patch_method", "resample", "not with resample")):
        own = evaluate(page, "DiT Denoise", f"node.widgets.find(({{ name }}) => name === '{name}').value")
        evaluate(page, "DiT Denoise", f"node.widgets.find(({{ name }}) => name === '{name}').value = '{value}'")
        assert entries(page, "DiT Denoise") == [f"{label} ({says})"]
        evaluate(page, "DiT Denoise", f"node.widgets.find(({{ name }}) => name === '{name}').value = '{own}'")
    evaluate(page, "Sigma Schedule", "node.widgets.find(({ name }) => name === 'scheduler').value = 'beta'")
    assert entries(page, "DiT Denoise") == ([f"{LOOP} (the number of steps is not known)"] if label == LOOP else [label])
