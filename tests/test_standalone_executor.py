"""What runs, in which shape its inputs come, what is kept between runs, and how mistakes are told."""

from pathlib import Path
import runpy

import pytest
import torch

from dit_blocks.standalone import comfy_api_standin
from dit_blocks.standalone.core_nodes import NODES as CORE
from dit_blocks.standalone.errors import Interrupted, NodeError, WorkflowError
from dit_blocks.standalone.executor import Executor

comfy_api_standin.install()
PACK = runpy.run_path(str(Path(__file__).with_name("standalone_nodes.py")))
CLASSES = CORE | {cls.GET_SCHEMA().node_id: cls for cls in PACK["NODES"]}
CALLS, STAMP = PACK["CALLS"], PACK["STAMP"]


def prompt(**nodes):
    """n1=("T_Add", dict(a=["2", 0])) → node "1"."""
    return {id.removeprefix("n"): {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in nodes.items()}


@pytest.fixture
def executor():
    CALLS.clear()
    return Executor(CLASSES)


def ran():
    names = [name for name, _ in CALLS]
    CALLS.clear()
    return names


def texts(report, id="9"):
    return report.ui[id]["text"]


def show(source, **nodes):
    return prompt(**nodes, n9=("T_Show", {"value": source}))


# --- what runs ------------------------------------------------------------------------------------------------------

def test_only_what_outputs_need_runs(executor):
    report = executor.run(show(["1", 0], n1=("T_Number", {"value": 4}), n2=("T_Fail", {})))
    assert texts(report) == ["4"] and ran() == ["T_Number", "T_Show"]
    assert [(node.id, node.type, node.cached) for node in report.nodes] == [("1", "T_Number", False), ("9", "T_Show", False)]


def test_absent_optional_inputs_are_not_passed(executor):
    assert texts(executor.run(show(["1", 0], n1=("T_Add", {"a": 1})))) == ["1001"]
    assert CALLS[0] == ("T_Add", {"a": 1})


def test_inputs_that_the_node_does_not_have_are_dropped(executor):
    assert texts(executor.run(show(["1", 0], n1=("T_Number", {"value": 1, "old": 5})))) == ["1"]


def test_values_are_cast_as_comfyui_does(executor):
    executor.run(show(["1", 0], n1=("T_Number", {"value": "3"})))
    assert CALLS[0] == ("T_Number", {"value": 3})


def test_nodes_run_in_inference_mode(executor):
    executor.run(show(["1", 0], n1=("T_Picture", {"width": 4, "level": 0})))
    assert CALLS[-1][1]["value"].is_inference()


def test_hidden_values(executor):
    report = executor.run(prompt(n3=("T_Hidden", {}), n1=("T_Number", {})))
    assert report.ui["3"]["text"] == ["3 ['1', '3'] None"]


def test_async_nodes(executor):
    assert texts(executor.run(show(["1", 0], n1=("T_Async", {})))) == ["5"]


def test_a_node_cannot_write_to_its_class(executor):
    with pytest.raises(NodeError, match="cannot be written to"):
        executor.run(show(["1", 0], n1=("T_Writes", {})))


def test_the_callers_prompt_is_left_alone(executor):
    original = show(["1", 0], n1=("T_Number", {"value": "3"}))
    executor.run(original)
    assert original["1"]["inputs"] == {"value": "3"}


def test_long_chains(executor):
    nodes = {"0": {"class_type": "T_Number", "inputs": {"value": 0}}}
    nodes |= {str(i): {"class_type": "T_Add", "inputs": {"a": [str(i - 1), 0], "b": 1}} for i in range(1, 3000)}
    report = executor.run(nodes | {"show": {"class_type": "T_Show", "inputs": {"value": ["2999", 0]}}})
    assert texts(report, "show") == ["2999"]


# --- lists ----------------------------------------------------------------------------------------------------------

def test_a_node_runs_for_each_element_and_shorter_lists_repeat_their_last(executor):
    report = executor.run(show(["2", 0], n1=("T_Range", {"count": 3}), n2=("T_Add", {"a": ["1", 0], "b": ["1", 1]})))
    assert texts(report) == ["100", "201", "202"]


def test_a_node_that_wants_lists_gets_all_inputs_as_lists(executor):
    report = executor.run(show(["2", 0], n1=("T_Range", {"count": 3}), n2=("T_Whole", {"values": ["1", 0], "widget": 9})))
    assert texts(report) == ["[0, 1, 2] [9]"]


def test_lists_of_all_calls_are_joined(executor):
    report = executor.run(show(["2", 0], n1=("T_Range", {"count": 3}), n2=("T_Range", {"count": ["1", 0]})))
    assert texts(report) == ["0", "0", "1"]


def test_an_empty_list_is_told(executor):
    with pytest.raises(NodeError, match=r"node 9 \(T_Show\): input 'value' is an empty list"):
        executor.run(show(["1", 0], n1=("T_Range", {"count": 0})))


# --- lazy inputs and expansion --------------------------------------------------------------------------------------

@pytest.mark.parametrize("flag, value, skipped", [(True, "1", "2"), (False, "2", "1")])
def test_a_lazy_input_runs_only_when_it_is_asked_for(executor, flag, value, skipped):
    report = executor.run(show(["3", 0], n1=("T_Number", {"value": 1}), n2=("T_Number", {"value": 2}),
                               n3=("T_Switch", {"flag": flag, "yes": ["1", 0], "no": ["2", 0]})))
    assert texts(report) == [value] and skipped not in [node.id for node in report.nodes]


def test_expansion(executor):
    graph = show(["1", 0], n1=("T_Repeat", {"value": 10, "times": 4}))
    report = executor.run(graph)
    assert texts(report) == ["14"] and ran() == ["T_Repeat", "T_Number"] + ["T_Add"] * 4 + ["T_Show"]
    assert [node.id for node in report.nodes] == ["1", "9"]
    assert all(node.cached for node in executor.run(graph).nodes) and ran() == []


def test_a_longer_expansion_goes_on_where_the_shorter_one_ended(executor):
    executor.run(show(["1", 0], n1=("T_Repeat", {"value": 10, "times": 4})))
    ran()
    executor.run(show(["1", 0], n1=("T_Repeat", {"value": 10, "times": 4}), n2=("T_Repeat", {"value": 10, "times": 5}),
                      n8=("T_Show", {"value": ["2", 0]})))
    assert ran() == ["T_Repeat", "T_Add", "T_Show"]


def test_expansion_over_lists(executor):
    report = executor.run(show(["2", 0], n1=("T_Range", {"count": 3}), n2=("T_Repeat", {"value": ["1", 0], "times": 2})))
    assert texts(report) == ["2", "3", "4"]


# --- what is kept ---------------------------------------------------------------------------------------------------

def three(value=2):
    return show(["2", 0], n1=("T_Number", {"value": 5}), n2=("T_Add", {"a": ["1", 0], "b": value}))


def test_a_second_run_does_nothing_and_says_so(executor):
    executor.run(three())
    ran()
    report = executor.run(three())
    assert ran() == [] and texts(report) == ["7"]
    assert {node.id: node.cached for node in report.nodes} == {"1": True, "2": True, "9": True}


def test_only_what_changed_runs_again(executor):
    executor.run(three())
    ran()
    report = executor.run(three(value=3))
    assert ran() == ["T_Add", "T_Show"] and texts(report) == ["8"]
    assert {node.id: node.cached for node in report.nodes} == {"1": True, "2": False, "9": False}


def test_content_counts_and_not_the_nodes_id(executor):
    executor.run(three())
    ran()
    renamed = {id + "0": {**node, "inputs": {name: [value[0] + "0", 0] if isinstance(value, list) else value
                                             for name, value in node["inputs"].items()}}
               for id, node in three().items()}
    executor.run(renamed)
    assert ran() == []


def test_what_a_failed_run_has_done_is_kept(executor):
    broken = show(["2", 0], n1=("T_Number", {"value": 5}), n2=("T_Fail", {"value": ["1", 0]}))
    for expected in (["T_Number", "T_Fail"], ["T_Fail"]):
        with pytest.raises(NodeError):
            executor.run(broken)
        assert ran() == expected


def test_fingerprints_decide(executor):
    graph = show(["1", 0], n1=("T_Stamp", {"value": 0}))
    for now, expected in ((1, ["T_Stamp", "T_Show"]), (1, []), (2, ["T_Stamp", "T_Show"]),
                          (float("nan"), ["T_Stamp", "T_Show"]), (float("nan"), ["T_Stamp", "T_Show"])):
        STAMP["now"] = now
        executor.run(graph)
        assert ran() == expected


def test_a_node_that_knows_its_id_is_kept_for_that_id_only(executor):
    executor.run(prompt(n1=("T_Hidden", {})))
    executor.run(prompt(n2=("T_Hidden", {})))
    assert ran() == ["T_Hidden", "T_Hidden"]


def test_answers_of_another_workflow_are_dropped(executor):
    executor.run(three())
    executor.run(show(["1", 0], n1=("T_Number", {"value": 60})))
    assert len(executor.answers) == 2


# --- mistakes -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("nodes, why", [
    (dict(n1=("Unknown_B", {}), n2=("Unknown_A", {}), n3=("T_Show", {})), "not here: Unknown_A, Unknown_B$"),
    (dict(n1=("T_Number", {})), "no output node"),
    (dict(n9=("T_Show", {})), r"node 9 \(T_Show\): input 'value' is required, but missing"),
    (dict(n9=("T_Show", {"value": ["7", 0]})), "wired to node 7, which does not exist"),
    (dict(n1=("T_Number", {}), n9=("T_Show", {"value": ["1", 1]})), r"output 1 of node 1 \(T_Number\), which has 1"),
    (dict(n9=("T_Show", {"value": [1, 2, 3]})), "is not a wire"),
    (dict(n1=("T_Picture", {"width": 5, "level": 0.5}), n2=("T_Add", {"a": ["1", 0]}), n9=("T_Show", {"value": ["2", 0]})),
     "'a' takes INT, but is wired to IMAGE of node 1"),
    (dict(n1=("T_Number", {"value": 101}), n9=("T_Show", {"value": ["1", 0]})), "value = 101 is above .* 100"),
    (dict(n1=("T_Number", {"value": -1}), n9=("T_Show", {"value": ["1", 0]})), "value = -1 is below .* 0"),
    (dict(n1=("T_Number", {"value": "red"}), n9=("T_Show", {"value": ["1", 0]})), "'red' is not INT"),
    (dict(n1=("T_Picture", {"width": 5, "level": "nan"}), n9=("T_Show", {"value": ["1", 0]})), "not a number"),
    (dict(n1=("T_Kitchen", {"mode": "c"}), n9=("T_Show", {"value": ["1", 0]})), r"\(and \d+ more\)$"),
    (dict(n1=("T_Add", {"a": ["2", 0]}), n2=("T_Add", {"a": ["1", 0]}), n9=("T_Show", {"value": ["1", 0]})),
     "circle: 1 → 2 → 1"),
    (dict(n1=("T_Strict", {"value": 13})), "thirteen is bad"),
])
def test_a_workflow_that_cannot_be_run(executor, nodes, why):
    with pytest.raises(WorkflowError, match=why) as caught:
        executor.run(prompt(**nodes))
    assert ran() == [] and "\n" not in str(caught.value)


def test_a_choice_that_is_none_names_them(executor):
    inputs = {"seed": 0, "n": 0, "scale": 1, "mode": "c", "seedmode": "x", "text": "", "line": "", "flag": True}
    with pytest.raises(WorkflowError, match=r"mode = 'c' is not one of: a, b$"):
        executor.run(show(["1", 2], n1=("T_Kitchen", inputs)))


def test_a_node_that_checks_an_input_itself_has_the_last_word(executor):
    assert texts(executor.run(prompt(n9=("T_Strict", {"value": 9})))) == ["9"]


def test_a_failing_node_is_named(executor):
    graph = show(["1", 0], n1=("T_Fail", {"value": 3}))
    graph["1"]["_meta"] = {"title": "My node"}
    with pytest.raises(NodeError) as caught:
        executor.run(graph)
    assert str(caught.value) == 'node 1 (T_Fail "My node"): value 3 is not good' and caught.value.node_id == "1"


def test_a_run_can_be_stopped():
    CALLS.clear()
    executor = Executor(CLASSES, interrupted=lambda: len(CALLS) == 1)
    with pytest.raises(Interrupted):
        executor.run(three())
    assert ran() == ["T_Number"]


def test_wrapped_lists_are_values_and_no_wires(executor):
    assert texts(executor.run(show({"__value__": ["1", 0]}, n1=("T_Number", {})))) == ["['1', 0]"]


def test_core_nodes_make_tensors(executor):
    executor.run(show(["1", 0], n1=("EmptyLatentImage", {"width": 64, "height": 32, "batch_size": 2})))
    latent = CALLS[-1][1]["value"]
    assert torch.equal(latent["samples"], torch.zeros(2, 4, 4, 8)) and latent["downscale_ratio_spacial"] == 8
