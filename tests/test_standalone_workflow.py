"""Reading workflows: what the official front end (1.49.6) made of the same graphs, overrides, and files that are none."""

import copy
from datetime import datetime
import json
from pathlib import Path
import random
import re
import runpy

import pytest

import dit_blocks
from dit_blocks.standalone import comfy_api_standin, pack
from dit_blocks.standalone.core_nodes import NODES as CORE
from dit_blocks.standalone.errors import WorkflowError
from dit_blocks.standalone.graph_to_prompt import convert
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.texts import choose_wording
from dit_blocks.standalone.validate import check
from dit_blocks.standalone.workflow import override, parse_workflow, read_workflow

ROOT = Path(dit_blocks.__file__).parent
comfy_api_standin.install()
DUMMIES = {cls.GET_SCHEMA().node_id: cls
           for cls in runpy.run_path(str(Path(__file__).with_name("standalone_nodes.py")))["NODES"]}
TYPES = {name: NodeType(name, cls) for name, cls in (CORE | DUMMIES).items()}
# Recorded in a browser: each graph as the front end saved it, and the prompt that it sent.
GOLDEN = json.loads(Path(__file__).with_name("standalone_golden.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_conversion_equals_the_front_ends(case):
    golden = GOLDEN["cases"][case]
    expected = json.loads(json.dumps(golden["output"]).replace("p_2026_", f"p_{datetime.now().year}_"))
    assert convert(golden["workflow"], GOLDEN["object_info"]).prompt == expected


def saved_node(id, type, values=(), inputs=(), outputs=(), **more):
    return {"id": id, "type": type, "widgets_values": list(values),
            "inputs": [{"name": name, "type": kind, "link": link} for name, kind, link in inputs],
            "outputs": [{"type": kind} for kind in outputs], **more}


def saved(*nodes, links, **more):
    return {"nodes": list(nodes), "links": [[id, *link, "*"] for id, link in links.items()], **more}


def promoted_workflow():
    """A subgraph inside a subgraph; its one widget is shown on the outermost instance."""
    def level(id, name, node):
        return {"id": id, "name": name, "inputs": [{"name": "amount", "type": "INT", "linkIds": [1]}],
                "outputs": [{"name": "out", "type": "INT", "linkIds": [2]}], "nodes": [node],
                "links": [{"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 7, "target_slot": 0, "type": "INT"},
                          {"id": 2, "origin_id": 7, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "INT"}]}

    number = saved_node(7, "T_Number", [5], [("value", "INT", 1)], ["INT"])
    number["inputs"][0]["widget"] = {"name": "value"}
    inner = level("inner-uuid", "Inner", number)
    outer = level("outer-uuid", "Outer", saved_node(7, "inner-uuid", [6], [("amount", "INT", 1)], ["INT"]))
    return saved(saved_node(1, "outer-uuid", [9], [("amount", "INT", None)], ["INT"], title="My group"),
                 saved_node(2, "T_Show", [], [("value", "*", 3)]), links={3: (1, 0, 2, 0)},
                 definitions={"subgraphs": [inner, outer]})


def test_a_promoted_widget_reaches_the_innermost_node():
    workflow = parse_workflow(promoted_workflow(), TYPES)
    assert workflow.prompt["1:7:7"]["inputs"] == {"value": 9}
    assert workflow.prompt["2"]["inputs"] == {"value": ["1:7:7", 0]}


def test_a_promoted_widget_is_overridden_by_its_instances_title():
    workflow = parse_workflow(promoted_workflow(), TYPES)
    override(workflow, "My group.amount=11", TYPES)
    assert workflow.prompt["1:7:7"]["inputs"] == {"value": 11}
    assert workflow.saved["nodes"][0]["widgets_values"] == [11]


def test_a_primitive_node_is_overridden_by_its_own_id():
    workflow = parse_workflow(saved(
        saved_node(1, "PrimitiveNode", [3, "fixed"], [], ["INT"]),
        saved_node(2, "T_Number", [4], [("value", "INT", 1)], ["INT"]),
        saved_node(3, "T_Show", [], [("value", "*", 2)]), links={1: (1, 0, 2, 0), 2: (2, 0, 3, 0)}), TYPES)
    assert workflow.prompt["2"]["inputs"] == {"value": 3}
    override(workflow, "1.value=8", TYPES)
    assert workflow.prompt["2"]["inputs"] == {"value": 8}
    assert workflow.saved["nodes"][0]["widgets_values"] == [8, "fixed"]


def test_wires_that_go_round_are_refused():
    with pytest.raises(WorkflowError, match="circle"):
        parse_workflow(saved(saved_node(1, "Reroute", [], [("", "*", 2)], ["*"]),
                             saved_node(2, "Reroute", [], [("", "*", 1)], ["*"]),
                             saved_node(3, "T_Show", [], [("value", "*", 3)]),
                             links={1: (1, 0, 2, 0), 2: (2, 0, 1, 0), 3: (1, 0, 3, 0)}), TYPES)


def test_old_files_hold_values_for_inputs_that_are_only_wired():
    forced = {"T_Old": {"input": {"required": {"a": ["INT", {"forceInput": True}], "b": ["INT", {}]}}}}
    graph = saved(saved_node(1, "T_Old", [77, 5]), links={})
    assert convert(graph, forced).prompt["1"]["inputs"] == {"b": 5}


@pytest.mark.parametrize("text, wordings", [
    ("a {red|green} cup", {"a red cup", "a green cup"}),
    ("{a|{b|c}}", {"a", "b", "c"}),
    (r"\{kept\|so\}", {"{kept|so}"}),
    ("one // gone\ntwo /* gone\ntoo */three", {"one \ntwo three"}),
    ("{unclosed|x", {"unclosed", "x"}),
])
def test_dynamic_prompts(text, wordings):
    assert {choose_wording(text, random.Random(seed)) for seed in range(40)} == wordings


# --- overrides ------------------------------------------------------------------------------------------------------

def api_workflow():
    return parse_workflow({
        "1": {"class_type": "T_Kitchen", "inputs": {"seed": 1, "dit": ["9", 0]}, "_meta": {"title": "My kitchen"}},
        "2": {"class_type": "T_Number", "inputs": {"value": 1}},
        "3": {"class_type": "T_Number", "inputs": {"value": 1}}}, TYPES)


@pytest.mark.parametrize("option, id, input, value", [
    ("1.seed=18446744073709551615", "1", "seed", 18446744073709551615),
    ("My kitchen.scale=0.25", "1", "scale", 0.25),
    ("my KITCHEN.flag=yes", "1", "flag", True),
    ("1.flag=False", "1", "flag", False),
    ("1.text=a = b.c, d", "1", "text", "a = b.c, d"),
    ("1.line=", "1", "line", ""),
    ("1.mode=b", "1", "mode", "b"),
    ("1.multi=2.5", "1", "multi", 2.5),
    ("1.multi=2", "1", "multi", 2),
    ("2.value=5", "2", "value", 5),
])
def test_override(option, id, input, value):
    workflow = api_workflow()
    override(workflow, option, TYPES)
    assert workflow.prompt[id]["inputs"][input] == value
    assert type(workflow.prompt[id]["inputs"][input]) is type(value)


@pytest.mark.parametrize("option, why", [
    ("seed=3", "not of the form"),
    ("1.seed", "not of the form"),
    ("7.seed=3", "no node '7'.*My kitchen"),
    ("Number.value=3", "title of nodes 2, 3"),
    ("1.sede=3", "'sede'.*does not exist.*seed"),
    ("1.dit=3", "a wire, not a widget"),
    ("1.seed=red", "'red' is not INT"),
    ("1.scale=x", "'x' is not FLOAT"),
    ("1.flag=perhaps", "'perhaps' is not BOOLEAN"),
])
def test_override_that_is_wrong(option, why):
    with pytest.raises(WorkflowError, match=why) as caught:
        override(api_workflow(), option, TYPES)
    assert "\n" not in str(caught.value)


def test_an_override_also_reaches_the_workflow_that_a_picture_carries():
    graph = json.loads(json.dumps(GOLDEN["cases"]["kitchen"]["workflow"]))
    workflow = parse_workflow(graph, TYPES)
    override(workflow, "1.n=8", TYPES)
    override(workflow, "1.flag=true", TYPES)
    values = workflow.saved["nodes"][0]["widgets_values"]
    assert values[2] == 8 and values[10] is True
    assert graph == GOLDEN["cases"]["kitchen"]["workflow"]


# --- files that are no workflow -------------------------------------------------------------------------------------

@pytest.mark.parametrize("content, why", [
    (b"", "not a workflow"),
    (b"{", "not a workflow: Expecting"),
    (b"\xff\xfe\x00", "not text"),
    (b"[]", "neither nodes and links"),
    (b"{}", "neither nodes and links"),
    (b'"hello"', "neither nodes and links"),
    (b'{"a": {"b": 1}}', "neither nodes and links"),
    (b'{"1": {"class_type": "X"}, "2": {}}', "node 2 has no class_type"),
    (b'{"1": {"class_type": "X", "inputs": [1]}}', "node 1: its inputs"),
    (b'{"nodes": [1, 2], "links": []}', "not a workflow that can be read: nodes[0] has an id and a type, this is 1"),
    (b'{"nodes": [{"id": 1}], "links": []}', 'not a workflow that can be read: nodes[0] has an id and a type, this is {"id": 1}'),
    (b'{"nodes": [], "links": [[1]]}', "not a workflow that can be read: links[0] is an id, a node and its output, a node and its input, this is [1]"),
    (b'{"nodes": [{"id": 1, "type": "X", "inputs": [3]}]}', "not a workflow that can be read: nodes[0].inputs holds sockets with a name, this is 3"),
    (b'{"1": {"class_type": "X", "_meta": "title"}}', 'node 1: its _meta is not names with values: "title"'),
    (b"[" * 100000, "not a workflow"),
])
def test_a_file_that_is_no_workflow(content, why, tmp_path):
    path = tmp_path / "w.json"
    path.write_bytes(content)
    with pytest.raises(WorkflowError, match=re.escape(why)) as caught:
        read_workflow(path, TYPES)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WorkflowError, match="No such file"):
        read_workflow(tmp_path / "none.json", TYPES)


def test_a_mutated_workflow_is_one_line_or_a_workflow():
    """Whatever is put in the place of any value of an example, in both forms: it is read, or refused as a WorkflowError of one line."""
    types = {name: NodeType(name, cls) for name, cls in pack.load().items()}
    saved = json.loads((ROOT / "example_workflows" / "exploded_step.json").read_text(encoding="utf-8"))
    rng = random.Random(0)

    def places(value, path=()):
        yield path
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            yield from places(inner, (*path, key))
    for form in (saved, parse_workflow(saved, types).prompt):
        paths = [path for path in places(form) if path]
        for path in rng.choices(paths, k=400):
            mutated = copy.deepcopy(form)
            holder = mutated
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = rng.choice([None, 3, -1, 1e30, "x", [], {}, [["1"], 0], ["1", 0], {"a": 1}, True])
            try:
                check(parse_workflow(mutated, types).prompt, types)
            except WorkflowError as error:
                assert "\n" not in str(error) and str(error), path
