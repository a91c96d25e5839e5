"""Start Loop and End Loop outside ComfyUI: what each iteration gets, what comes out, and loops that are wired wrong."""

import json
from pathlib import Path
import runpy

import pytest
import torch

import dit_blocks
from dit_blocks.standalone import comfy_api_standin, loops, pack
from dit_blocks.standalone import executor as executor_module
from dit_blocks.standalone.cli import main
from dit_blocks.standalone.core_nodes import NODES as CORE
from dit_blocks.standalone.errors import Interrupted, NodeError, WorkflowError
from dit_blocks.standalone.executor import Executor
from dit_blocks.standalone.loops import NODES as LOOPS
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.workflow import override, parse_workflow

comfy_api_standin.install()
from comfy_api.v0_0_2 import io  # noqa: E402  (importable once the stand-in is installed)

PACK = runpy.run_path(str(Path(__file__).with_name("standalone_nodes.py")))
node, CALLS = PACK["node"], PACK["CALLS"]
EXAMPLE = Path(dit_blocks.__file__).parent / "example_workflows" / "denoise_loop.json"


@node("T_Pass", is_output_node=True, inputs=[io.AnyType.Input("value")], outputs=[io.AnyType.Output()])
def Pass(cls, value):
    return io.NodeOutput(value)


@node("T_Letters", outputs=[io.String.Output(is_output_list=True)])
def Letters(cls):
    return io.NodeOutput(["a", "b", "c"])


CLASSES = CORE | LOOPS | {cls.GET_SCHEMA().node_id: cls for cls in [*PACK["NODES"], Pass, Letters]}
TYPES = {name: NodeType(name, cls) for name, cls in CLASSES.items()}


def start(initial=None, parent=None, cache=False, mode="simple", **options) -> dict:
    inputs = {"mode": mode, "cache_iterations": cache, **{f"mode.{name}": value for name, value in options.items()}}
    inputs |= {name: value for name, value in (("initial_iteration_value", initial), ("parent_iteration", parent)) if value is not None}
    return {"class_type": "StartLoop", "inputs": inputs}


def end(output=None, following=None, accumulate=False, *terminations) -> dict:
    inputs = {"accumulate": accumulate, **{f"terminations.termination{at}": one for at, one in enumerate(terminations)}}
    inputs |= {name: value for name, value in (("output_value", output), ("next_iteration_value", following)) if value is not None}
    return {"class_type": "EndLoop", "inputs": inputs}


def plain(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def counting(times=4, accumulate=False, first=10, **more) -> dict:
    """first, then each iteration adds its own number to it."""
    return {"n": plain("T_Number", value=first), "s": start(["n", 0], num_iterations=times, **more),
            "a": plain("T_Add", a=["s", 4], b=["s", 0]), "e": end(["a", 0], ["a", 0], accumulate), "out": plain("T_Show", value=["e", 0])}


def run(graph: dict, executor: Executor | None = None) -> list[str]:
    CALLS.clear()
    return (executor or Executor(CLASSES)).run(graph).ui["out"]["text"]


def calls(name: str) -> list[dict]:
    return [inputs for called, inputs in CALLS if called == name]


# --- what comes out -----------------------------------------------------------------------------------------------------------------

def test_the_value_goes_round():
    assert run(counting()) == [str(10 + 0 + 1 + 2 + 3)]
    assert [inputs["b"] for inputs in calls("T_Add")] == [0, 1, 2, 3]


def test_every_iterations_value_may_come_out():
    assert run(counting(accumulate=True)) == ["10", "11", "13", "16"]


def test_the_number_of_iterations_may_be_wired():
    graph = counting()
    graph |= {"t": plain("T_Number", value=3)}
    graph["s"]["inputs"]["mode.num_iterations"] = ["t", 0]
    assert run(graph) == ["13"]


def test_a_value_that_is_not_sent_on_stays_the_first():
    graph = counting(accumulate=True)
    del graph["e"]["inputs"]["next_iteration_value"]
    assert run(graph) == ["10", "11", "12", "13"]


def test_for_counts_from_one_number_to_another():
    graph = counting() | {"s": start(["n", 0], mode="For", start_iteration_index=3, max_iteration=10, step=3)}
    assert run(graph) == [str(10 + 3 + 6 + 9)]


def test_list_takes_item_by_item():
    graph = {"l": plain("T_Letters"), "s": start(mode="List", list=["l", 0]), "p": plain("T_Pass", value=["s", 3]),
             "e": end(["p", 0], None, True), "out": plain("T_Show", value=["e", 0])}
    assert run(graph) == ["a", "b", "c"]


def test_first_and_last_are_told():
    graph = {"s": start(num_iterations=3), "f": plain("T_Switch", flag=["s", 1], yes=["y", 0], no=["n", 0]), "y": plain("T_Number", value=1),
             "n": plain("T_Switch", flag=["s", 2], yes=["z", 0], no=["s", 0]), "z": plain("T_Number", value=9),
             "e": end(["f", 0], None, True), "out": plain("T_Show", value=["e", 0])}
    assert run(graph) == ["1", "1", "9"]


def test_lists_are_carried_whole():
    graph = {"r": plain("T_Range", count=3), "s": start(["r", 0], num_iterations=2), "a": plain("T_Add", a=["s", 4], b=1),
             "e": end(["a", 0], ["a", 0]), "out": plain("T_Show", value=["e", 0])}
    assert run(graph) == ["2", "3", "4"]


def test_output_nodes_inside_run_once_an_iteration_even_if_nothing_else_needs_the_loop():
    graph = {"s": start(num_iterations=3), "p": plain("T_Pass", value=["s", 0]), "e": end(None, None, False, ["p", 0])}
    CALLS.clear()
    Executor(CLASSES).run(graph)
    assert [inputs["value"] for inputs in calls("T_Pass")] == [0, 1, 2]


@pytest.mark.parametrize("accumulate,out", [(False, ["104"]), (True, ["101", "102", "103", "104"])])
def test_loops_in_loops(accumulate, out):
    """The body of the inner loop runs once for each pair of iterations, as in core's own test of nested loops."""
    graph = {"n": plain("T_Number", value=100), "outer": start(["n", 0], num_iterations=2),
             "inner": start(["outer", 4], ["outer", 0], num_iterations=2), "a": plain("T_Add", a=["inner", 4], b=1),
             "inner_end": end(["a", 0], ["a", 0], accumulate),
             "e": end(["inner_end", 0], ["a2", 0], accumulate), "a2": plain("T_Add", a=["outer", 4], b=2),
             "out": plain("T_Show", value=["e", 0])}
    assert run(graph) == out
    assert sorted(inputs["a"] for inputs in calls("T_Add") if inputs["b"] == 1) == [100, 101, 102, 103]


def test_a_loop_after_a_loop():
    graph = counting() | {"s2": start(["e", 0], num_iterations=2), "a2": plain("T_Add", a=["s2", 4], b=100), "e2": end(["a2", 0], ["a2", 0]),
                          "out": plain("T_Show", value=["e2", 0])}
    assert run(graph) == ["216"]


# --- what is kept, shown and told -----------------------------------------------------------------------------------------------

def test_a_loop_runs_every_time_unless_its_iterations_are_cached():
    for cache, again in ((False, 4), (True, 0)):
        executor = Executor(CLASSES)
        assert run(counting(cache=cache), executor) == run(counting(cache=cache), executor) == ["16"]
        assert len(calls("T_Add")) == again
        assert run(counting(cache=cache, times=5), executor) == ["20"]


def test_a_change_inside_the_loop_is_noticed():
    executor = Executor(CLASSES)
    for first, expected in ((10, "16"), (20, "26")):
        assert run(counting(cache=True, first=first), executor) == [expected]
    graph = counting(cache=True, first=20)
    graph["a"]["inputs"]["b"] = 1
    assert run(graph, executor) == ["24"]


def test_time_is_reported_by_the_nodes_of_the_workflow():
    report = Executor(CLASSES).run(counting())
    assert sorted(one.id for one in report.nodes) == ["a", "e", "n", "out", "s"]


def test_an_error_names_node_and_iteration():
    graph = counting()
    graph["f"] = plain("T_Fail", value=["a", 0])
    graph["e"] = end(["f", 0], ["a", 0], True)
    with pytest.raises(NodeError, match=r"^node f \(T_Fail\), iteration 0: value 10 is not good$") as caught:
        run(graph)
    assert caught.value.node_id == "f"


def without(graph: dict, id: str, name: str) -> dict:
    del graph[id]["inputs"][name]
    return graph


TWO = counting() | {"t": start(num_iterations=2), "b": plain("T_Add", a=["a", 0], b=["t", 0]), "u": end(["b", 0]), "e": end(["u", 0])}


@pytest.mark.parametrize("graph,why", [
    (counting() | {"out": plain("T_Show", value=["a", 0])}, r"node s \(StartLoop\) has no End Loop that anything needs"),
    (counting() | {"a": plain("T_Add", a=["n", 0])}, r"node e \(EndLoop\) has no Start Loop: nothing that is wired into it comes from one"),
    (counting() | {"x": plain("T_Show", value=["a", 0])}, r"node x \(T_Show\) takes a value from inside the loop of node s \(StartLoop\), but "
                                                          r"does not lead to node e \(EndLoop\); wire it into one of its terminations"),
    (counting() | {"e2": end(["a", 0]), "x": plain("T_Show", value=["e2", 0])}, r"node s \(StartLoop\) has two End Loops, node e"),
    (TWO, r"node b \(T_Add\) is inside two loops that are not one inside the other.*wire iteration_index of the outer into parent_iteration"),
    (counting(accumulate=["s", 1]), "input 'accumulate' comes from inside the loop"),
    (without(counting(), "s", "mode.num_iterations"), r"node s \(StartLoop\): input 'mode.num_iterations' is required, but missing"),
    (counting(times=-1), "mode.num_iterations = -1 is below its least value, 0"),
    (counting(mode="While"), "mode = 'While' is not one of: simple, For, List"),
    (counting() | {"n": plain("T_Picture")}, r"node a \(T_Add\): input 'a' takes INT, but is wired to IMAGE of node s \(StartLoop\)"),
    (counting() | {"x": plain("T_Picture", width=["a", 0], level=0), "e": end(["a", 0], ["x", 0])},
     r"node e \(EndLoop\): the loop carries INT, but input 'next_iteration_value' is wired to IMAGE of node x \(T_Picture\)"),
    (counting() | {"p": plain("T_Picture", width=["e", 0], level=0), "q": plain("T_Add", a=["p", 0]), "out": plain("T_Show", value=["q", 0])},
     r"node q \(T_Add\): input 'a' takes INT, but is wired to IMAGE of node p"),
])
def test_a_loop_that_is_wired_wrong_is_one_line(graph, why):
    with pytest.raises(WorkflowError, match=f"^{why}" if why.startswith("node") else why) as caught:
        run(graph)
    assert "\n" not in str(caught.value)


def test_no_iterations_give_an_empty_list():
    with pytest.raises(NodeError, match=r"node out \(T_Show\): input 'value' is an empty list"):
        run(counting(times=0))


# --- as core declares the nodes, and as the front end saves them -----------------------------------------------------------------

def test_sockets_are_cores():
    info = {name: TYPES[name].info() for name in ("StartLoop", "EndLoop")}
    begin, close = info["StartLoop"], info["EndLoop"]
    kind, options = begin["input"]["required"]["mode"]
    assert kind == "COMFY_DYNAMICCOMBO_V3"
    assert {option["key"]: list(option["inputs"]["required"]) for option in options["options"]} == {
        "simple": ["num_iterations"], "For": ["start_iteration_index", "max_iteration", "step"], "List": ["list"]}
    assert begin["input_order"] == {"required": ["mode", "cache_iterations"], "optional": ["parent_iteration", "initial_iteration_value"]}
    assert begin["output_name"] == ["iteration_index", "is_first", "is_last", "list_item", "current_iteration_value"]
    assert begin["output_matchtypes"] == [None, None, None, "list_item", "carried_value"] and begin["is_input_list"]
    assert close["input_order"]["optional"] == ["output_value", "next_iteration_value", "terminations"]
    assert (close["output_name"], close["output_is_list"], close["output_matchtypes"]) == (["outputs"], [True], ["output_value"])


def saved(widgets: list) -> dict:
    """A Start Loop as the front end saves it."""
    return {"nodes": [{"id": 1, "type": "StartLoop", "mode": 0, "inputs": [], "outputs": [], "widgets_values": widgets}], "links": []}


@pytest.mark.parametrize("widgets,inputs", [
    (["simple", 24, False], {"mode": "simple", "mode.num_iterations": 24, "cache_iterations": False}),
    (["For", 0, 12, 1, True], {"mode": "For", "mode.start_iteration_index": 0, "mode.max_iteration": 12, "mode.step": 1, "cache_iterations": True}),
    (["List", False], {"mode": "List", "cache_iterations": False}),
    ([], {"mode": "simple", "mode.num_iterations": 4, "cache_iterations": False}),
])
def test_widgets_of_the_chosen_mode_are_read_in_order(widgets, inputs):
    assert parse_workflow(saved(widgets), TYPES).prompt["1"]["inputs"] == inputs


def test_a_widget_with_a_dot_in_its_name_is_set():
    workflow = parse_workflow(saved(["simple", 24, False]), TYPES)
    override(workflow, "Start Loop.mode.num_iterations=7", TYPES)
    assert workflow.prompt["1"]["inputs"]["mode.num_iterations"] == 7 and workflow.saved["nodes"][0]["widgets_values"][1] == 7


# --- the example ----------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def classes() -> dict[str, type]:
    return pack.load()


def example(classes: dict[str, type], steps: int) -> dict:
    prompt = parse_workflow(json.loads(EXAMPLE.read_text(encoding="utf-8")), {name: NodeType(name, cls) for name, cls in classes.items()}).prompt
    for one in prompt.values():
        if one["class_type"] == "DiTBlocksSchedule":
            one["inputs"]["steps"] = steps
        elif one["class_type"] == "StartLoop":
            one["inputs"]["mode.num_iterations"] = steps
        elif one["class_type"] == "DiTBlocksEmptyLatent":
            one["inputs"] |= {"width": 64, "height": 64}
    return prompt


def only(prompt: dict, class_type: str) -> tuple[str, dict]:
    ((id, found),) = ((id, one) for id, one in prompt.items() if one["class_type"] == class_type)
    return id, found["inputs"]


def denoise(prompt: dict) -> dict:
    """A DiT Denoise over what the loop begins with."""
    sources = only(prompt, "DiTBlocksCondition")[1]
    return plain("DiTBlocksDenoise", start_step=0, end_step=10000, cfg=only(prompt, "DiTBlocksGuidance")[1]["cfg"], solver="euler",
                 tokens=only(prompt, "StartLoop")[1]["initial_iteration_value"],
                 **{name: sources[name] for name in ("dit", "sigmas", "positive", "negative")})


def test_the_example_is_denoise_bit_for_bit(classes):
    prompt, kept = example(classes, 20), []

    @node("T_Keep", is_output_node=True, inputs=[io.AnyType.Input("value")])
    def Keep(cls, value):
        kept.append(value["tokens"])
        return io.NodeOutput()

    prompt |= {"macro": denoise(prompt), "k1": plain("T_Keep", value=["macro", 0]), "k2": plain("T_Keep", value=[only(prompt, "EndLoop")[0], 0])}
    Executor(classes | {"T_Keep": Keep}).run({id: one for id, one in prompt.items() if one["class_type"] != "SaveImage"})
    assert len(kept) == 2 and torch.equal(*kept) and kept[0].std() > 0.1


def test_what_is_carried_must_be_tokens(classes):
    prompt = example(classes, 2)
    only(prompt, "StartLoop")[1]["initial_iteration_value"] = [only(prompt, "DiTBlocksEmptyLatent")[0], 0]
    with pytest.raises(WorkflowError, match=r"input '\w+' takes DIT_TOKENS.*, but is wired to LATENT of node \d+ \(StartLoop\)"):
        Executor(classes).run(prompt)
    del only(prompt, "StartLoop")[1]["initial_iteration_value"]
    with pytest.raises(NodeError, match=r"iteration 0: DiT Condition: x takes tokens or hidden states, this is nothing; in a loop, wire initial_it"):
        Executor(classes).run(prompt)


def test_more_iterations_than_steps_is_one_line(tmp_path, capsys):
    assert main(["run", str(EXAMPLE), "--out", str(tmp_path), "--set", "Sigma Schedule.steps=1", "--set", "Start Loop.mode.num_iterations=2"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "(DiTBlocksCondition), iteration 1: DiT Condition: step 1 is outside the schedule" in said


# --- long loops -----------------------------------------------------------------------------------------------------------------------

def test_a_long_loop_starts_at_once_and_can_be_stopped():
    asked = iter(range(10 ** 9))
    executor = Executor(CLASSES, interrupted=lambda: next(asked) > 100)
    for graph in (counting(10 ** 9), counting(mode="For", start_iteration_index=0, max_iteration=10 ** 18, step=3)):
        with pytest.raises(Interrupted):
            run(graph, executor)
        assert len(calls("T_Add")) < 100


@pytest.mark.parametrize("accumulate", [False, True])
def test_a_loop_that_is_copied_in_parts_gives_what_it_would_in_one(monkeypatch, accumulate):
    whole = run(counting(7, accumulate))
    monkeypatch.setattr(loops, "AT_ONCE", 3)
    assert run(counting(7, accumulate)) == whole
    assert [inputs["b"] for inputs in calls("T_Add")] == list(range(7))
    flags = {"s": start(num_iterations=7), "e": end(["s", 2], None, True), "out": plain("T_Show", value=["e", 0])}
    assert run(flags) == [str(at == 6) for at in range(7)]
    executor = Executor(CLASSES)
    assert run(counting(7, accumulate, cache=True), executor) == whole and calls("T_Add")
    assert run(counting(7, accumulate, cache=True), executor) == whole and not calls("T_Add")


def test_nested_loops_copied_in_parts(monkeypatch):
    def graph() -> dict:
        return {"n": plain("T_Number", value=0), "s": start(["n", 0], num_iterations=5),
                "t": start(["s", 4], parent=["s", 0], num_iterations=4), "a": plain("T_Add", a=["t", 4], b=["s", 0]),
                "f": end(["a", 0], ["a", 0]), "e": end(["f", 0], ["f", 0]), "out": plain("T_Show", value=["e", 0])}
    whole = run(graph())
    monkeypatch.setattr(loops, "AT_ONCE", 2)
    assert run(graph()) == whole == [str(4 * sum(range(5)))]


def test_the_work_grows_with_the_rounds_and_no_faster(monkeypatch):
    asked = []
    is_done = executor_module._Run._is_done
    monkeypatch.setattr(executor_module._Run, "_is_done", lambda self, id: asked.append(id) or is_done(self, id))
    counts = []
    for times in (400, 800):
        asked.clear()
        run(counting(times))
        counts.append(len(asked))
    assert counts[1] < 2.2 * counts[0]
    assert max(map(len, asked)) < 30  # ids do not grow with the rounds


def test_more_rounds_than_a_computer_counts_are_one_line():
    with pytest.raises(NodeError, match=r"node e \(EndLoop\).*a loop of 18446744073709551615 iterations can't be run"):
        run(counting(mode="For", start_iteration_index=0, max_iteration=0xFFFFFFFFFFFFFFFF, step=1))
