"""What nodes say that a run costs, and the picture before a change beside the one now; in subgraphs too."""

from browser.gestures import settle
from browser.widgets import WORKFLOW, capture, expect, look_at, on, page, sync_api, tokens, turn  # noqa: F401
import pytest

from dit_blocks.dit_impl.cost import answers


def short(number: float) -> str:
    """1234567890 → "1.23 G"."""
    scale, prefix = next((scale, prefix) for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")) if number >= scale)
    return f"{number / scale:#.3g}".rstrip(".") + f" {prefix}"


def expect_cost(page, cfg: float = 2.0, batch: int = 1, **walk) -> None:
    """Denoise and Sigma Schedule say what the pack's Python counts for this walk."""
    told = answers.cost_answer({"shape": "embedded", "size": [32, 32], "cfg": cfg, "batch": batch, "walk": {"steps": 20} | walk})["walk"]
    each = " → ".join(f"{one['tokens']:,}" for one in told["stretches"]), " → ".join(short(one["flops"]) for one in told["stretches"])
    pictures = f" in each of {batch} pictures" if batch > 1 else ""
    for box in ("trajectory", "cost"):
        expect(page, box, f"{each[0]} tokens{pictures}, {each[1]}FLOPs a step")
        expect(page, box, f"{told['steps']} steps: {short(told['flops'])}FLOPs")


def test_costs_are_those_that_python_counts(page):
    expect_cost(page)
    turn(page, "DiTBlocksSchedule", "steps", 10)
    expect_cost(page, steps=10)
    turn(page, "DiTBlocksPatchify", "patch_size", 4)
    expect_cost(page, steps=10, patch_size=4)
    expect(page, "trajectory", "26% of p = 2 throughout")
    for widget, turned in {"start_step": 2, "end_step": 8, "cfg": 1.0, "solver": "heun", "capture_blocks": True}.items():
        turn(page, "DiTBlocksDenoise", widget, turned)
    expect_cost(page, steps=10, patch_size=4, start_step=2, end_step=8, cfg=1.0, solver="heun", capture_blocks=True)
    turn(page, "DiTBlocksEmptyLatent", "batch_size", 3)
    capture(page)
    expect_cost(page, steps=10, patch_size=4, start_step=2, end_step=8, cfg=1.0, solver="heun", capture_blocks=True, batch=3)
    step = answers.cost_answer({"shape": "embedded", "size": [32, 32], "cfg": 1.0, "batch": 3})["sizes"][4]["flops"]
    expect(page, "grid", f"{short(step)}FLOPs a step")
    turn(page, "DiTBlocksDenoise", "end_step", 1)
    expect(page, "trajectory", "end_step 1 is not after start_step 2")


def test_costs_follow_a_patch_schedule(page):
    on(page, "DiTBlocksDenoise", """(() => {
        const schedule = LiteGraph.createNode("DiTBlocksPatchSchedule");
        app.graph.add(schedule);
        schedule.widgets.find(({ name }) => name === "rows").value = "4 until sigma 0.8, then 2";
        schedule.connect(0, node, node.inputs.findIndex(({ name }) => name === "patch_schedule"));
    })()""")
    expect_cost(page, rows="4 until sigma 0.8, then 2")
    expect(page, "cost", "64 → 256 tokens")
    turn(page, "DiTBlocksPatchSchedule", "rows", "4 until")
    capture(page)
    expect(page, "cost", "a row is a patch size and where it ends")


def test_patches_of_several_sizes_are_painted_on_the_grid(page):
    """Patchify shows those that the steps after it have, and the costs follow its selection."""
    on(page, "DiTBlocksDenoise", """(() => {
        const plan = LiteGraph.createNode("DiTBlocksPatchRegions");
        const patchify = app.graph.nodes.find(({ comfyClass }) => comfyClass === "DiTBlocksPatchify");
        app.graph.add(plan);
        patchify.connect(1, plan, plan.inputs.findIndex(({ name }) => name === "mask"));
        plan.connect(0, node, node.inputs.findIndex(({ name }) => name === "patch_schedule"));
    })()""")
    expect(page, "grid", "in the steps: patches of 4, 2, where a run puts them")
    turn(page, "DiTBlocksPatchRegions", "where", "mask")
    capture(page)
    expect(page, "grid", "in the steps: 256 of 2×2 patches")  # an empty selection is all tokens
    turn(page, "DiTBlocksPatchify", "patch_size", 4)
    turn(page, "DiTBlocksPatchify", "selection", "0-3")
    expect(page, "grid", "in the steps: 60 of 4×4 + 16 of 2×2 patches")
    expect_cost(page, rows="4 until 30%, then 4 with 2 on 6.25%")
    page.mouse.click(*tokens(page, (7, 7))[0])
    expect(page, "grid", "in the steps: 59 of 4×4 + 20 of 2×2 patches")
    expect_cost(page, rows="4 until 30%, then 4 with 2 on 7.8125%")


def test_costs_follow_a_second_model(page):
    on(page, "DiTBlocksDenoise", """(() => {
        const schedule = LiteGraph.createNode("DiTBlocksPatchSchedule");
        app.graph.add(schedule);
        schedule.widgets.find(({ name }) => name === "rows").value = "8 of other until 50%, then 2";
        schedule.connect(0, node, node.inputs.findIndex(({ name }) => name === "patch_schedule"));
    })()""")
    expect(page, "cost", "the rows say 'of other', and no other model is wired")
    on(page, "DiTBlocksPatchSchedule", """(() => {
        const loader = app.graph.nodes.find(({ type }) => type === "DiTBlocksLoadEmbedded");
        loader.connect(0, node, node.inputs.findIndex(({ name }) => name === "other"));
    })()""")
    capture(page)
    expect_cost(page, rows="8 of other until 50%, then 2", other="embedded")
    expect(page, "cost", "16 → 256 tokens")


def test_costs_follow_patch_regions(page):
    on(page, "DiTBlocksDenoise", """(() => {
        const regions = LiteGraph.createNode("DiTBlocksPatchRegions");
        app.graph.add(regions);
        regions.connect(0, node, node.inputs.findIndex(({ name }) => name === "patch_schedule"));
    })()""")
    expect_cost(page, rows="4 until 30%, then 4 with 2 on 25%")
    expect(page, "cost", "64 → 112 tokens")
    turn(page, "DiTBlocksPatchRegions", "start_percent", 0.0)
    turn(page, "DiTBlocksPatchRegions", "share", 0.07)
    capture(page)
    expect_cost(page, rows="4 with 2 on 7%")
    turn(page, "DiTBlocksPatchRegions", "where", "mask")
    capture(page)
    capture(page)
    sync_api.expect(page.locator(".dit-blocks-cost").first).not_to_contain_text("FLOPs")


def test_costs_of_another_model_are_known_after_a_run(page, run):
    """Of one whose shape the pack's Python knows, on Denoise and on the schedule that it walks down."""
    on(page, "DiTBlocksLoadEmbedded", """(() => {
        const trainable = LiteGraph.createNode("DiTBlocksTrainable");
        app.graph.add(trainable);
        const denoise = app.graph.nodes.find(({ comfyClass }) => comfyClass === "DiTBlocksDenoise");
        node.connect(0, trainable, 0);
        trainable.connect(0, denoise, denoise.inputs.findIndex(({ name }) => name === "dit"));
    })()""")
    expect(page, "cost", "of the Denoise that takes these sigmas")
    expect(page, "trajectory", "known after a run")
    turn(page, "DiTBlocksSchedule", "steps", 2)
    run()
    expect_cost(page, steps=2)


def test_denoise_shows_in_which_steps_a_cache_left_blocks_out(page, run):
    on(page, "DiTBlocksLoadEmbedded", """(() => {
        const cache = LiteGraph.createNode("DiTBlocksStepCache");
        app.graph.add(cache);
        cache.widgets.find(({ name }) => name === "threshold").value = 10;
        const denoise = app.graph.nodes.find(({ comfyClass }) => comfyClass === "DiTBlocksDenoise");
        node.connect(0, cache, 0);
        cache.connect(0, denoise, denoise.inputs.findIndex(({ name }) => name === "dit"));
    })()""")
    turn(page, "DiTBlocksSchedule", "steps", 4)
    expect_cost(page, steps=4)  # of all blocks, as before the run nobody knows which steps are alike
    run()
    expect(page, "trajectory", "Step Cache: blocks left out in 3 of 4 steps: ●○○○")
    heights = page.locator(".dit-blocks-trajectory [title='blocks left out in 3 of 4 steps'] div").evaluate_all("bars => bars.map(bar => bar.style.height)")
    assert heights == ["14px", "2px", "2px", "2px"]


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


@pytest.mark.parametrize("kind, name, to", [("DiTBlocksAddNoise", "seed", 12), ("DiTBlocksSchedule", "steps", 6), ("CLIPTextEncode", "text", "a ring")])
def test_pictures_of_another_seed_schedule_or_prompt_are_not_compared(page, run, kind, name, to):
    run()
    turn(page, "DiTBlocksPatchify", "patch_size", 8)
    turn(page, kind, name, to)
    run()
    settle(page)
    sync_api.expect(page.locator(".dit-blocks-side-by-side")).to_have_count(0)


def test_undo_keeps_the_comparison_and_what_was_run(page, run):
    run()
    capture(page)
    turn(page, "DiTBlocksPatchify", "patch_size", 8)
    capture(page)
    run()
    panel = page.locator(".dit-blocks-side-by-side")
    sync_api.expect(panel).to_contain_text("now: p = 8")
    page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    page.wait_for_function("app.graph.nodes.find(({ comfyClass }) => comfyClass === 'DiTBlocksPatchify').widgets[0].value !== 8")
    sync_api.expect(panel).to_contain_text("now: p = 8")
    look_at(page, "DiTBlocksDenoise")
    expect(page, "trajectory", "x0 at step 19")
    run()
    sync_api.expect(panel).to_contain_text("before: p = 8")
    sync_api.expect(panel).to_contain_text("now: p = 2")


def test_another_workflow_is_not_compared_with_this_one(page, run, load):
    run()
    load(WORKFLOW)
    turn(page, "DiTBlocksPatchify", "patch_size", 8)
    run()
    settle(page)
    sync_api.expect(page.locator(".dit-blocks-side-by-side")).to_have_count(0)


@pytest.mark.parametrize("inside", [["DiTBlocksPatchify", "DiTBlocksSchedule", "DiTBlocksAddNoise", "DiTBlocksDenoise", "DiTBlocksUnpatchify"],
                                    ["DiTBlocksPatchify", "DiTBlocksSchedule", "DiTBlocksAddNoise", "DiTBlocksDenoise", "DiTBlocksUnpatchify",
                                     "DiTBlocksVAEDecode", "SaveImage"]], ids=["picture outside", "picture inside"])
def test_boxes_know_what_is_outside_a_subgraph_and_pictures_what_is_inside(page, run, inside):
    page.evaluate("""kinds => {
        app.graph.convertToSubgraph(new Set(app.graph.nodes.filter(({ comfyClass }) => kinds.includes(comfyClass))));
    }""", inside)
    settle(page)
    page.evaluate("app.canvas.setGraph(app.graph.nodes.find((node) => node.isSubgraphNode()).subgraph)")
    look_at(page, "DiTBlocksPatchify")
    expect(page, "grid", "256 tokens of 64 values")
    expect_cost(page)
    run()
    turn(page, "DiTBlocksPatchify", "patch_size", 8)
    expect(page, "grid", "16 tokens of 1024 values")
    run()
    panel = page.locator(".dit-blocks-side-by-side")
    sync_api.expect(panel).to_contain_text("before: p = 2")
    sync_api.expect(panel).to_contain_text("now: p = 8")
    page.evaluate("app.canvas.setGraph(app.rootGraph)")
