"""What a widget's own value makes impossible is told before anything runs."""

from comfyui_host import ROOT
import pytest

from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.dit_impl.handle.block_plan import BlockPlan
from dit_blocks.dit_impl.tokens.numbers import check_ranges, parse_ranges
from dit_blocks.nodes import NODES
from dit_blocks.standalone import pack
from dit_blocks.standalone.errors import WorkflowError
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.validate import check
from dit_blocks.standalone.workflow import read_workflow

WRONG = [
    ("DiTBlocksPatchSchedule", {"rows": "4 until noon"}, "noon"),
    ("DiTBlocksPatchScheduleModel", {"rows": "4 until 150%, then 2"}, "150"),
    ("DiTBlocksRunBlocks", {"blocks": "0-x"}, "blocks are numbers and ranges"),
    ("DiTBlocksBlocksModel", {"blocks": "0-6, 7*half"}, 'a factor is a number after *, as in "7*0.5", not \'7*half\''),
    ("DiTBlocksPatchify", {"selection": "first"}, "tokens are numbers and ranges"),
    ("DiTBlocksNewDiT", {"patch_sizes": "2, 2"}, "patch_sizes are different numbers"),
    ("DiTBlocksAttentionSteps", {"at_steps": "0;4"}, "steps are numbers and ranges"),
    ("DiTBlocksTrajectory", {"at_steps": "last"}, "steps are numbers and ranges"),
    ("DiTBlocksStepCache", {"threshold": 0.1, "start_percent": 0.6, "end_percent": 0.5}, "start_percent 0.6 is after end_percent 0.5"),
    ("DiTBlocksStepCacheModel", {"threshold": 0.1, "start_percent": 0.6, "end_percent": 0.5}, "start_percent 0.6 is after end_percent 0.5"),
    ("DiTBlocksStagesSteps", {"start_percent": 0.6, "end_percent": 0.5}, "start_percent 0.6 is after end_percent 0.5"),
    ("DiTBlocksStagesModel", {"start_percent": 0.6, "end_percent": 0.5}, "start_percent 0.6 is after end_percent 0.5"),
    ("DiTBlocksCompare", {"rows": "2\nturbo"}, "a way is patch sizes"),
    ("DiTBlocksDenoise", {"start_step": 8, "end_step": 8}, "end_step 8 is not after start_step 8"),
]
CLASSES = {cls.define_schema().node_id: cls for cls in NODES}


@pytest.mark.parametrize("node, inputs, line", WRONG, ids=[node for node, *_ in WRONG])
def test_a_value_that_no_run_can_follow_is_told_and_the_widgets_own_is_not(node, inputs, line):
    cls = CLASSES[node]
    assert line in cls.validate_inputs(**inputs)
    own = {one.id: one.default for one in cls.define_schema().inputs if one.id in inputs}
    assert cls.validate_inputs(**own) is True and cls.validate_inputs() is True  # what is wired is not known yet


def test_the_workflow_is_refused_before_it_runs():
    types = {name: NodeType(name, cls) for name, cls in pack.load().items()}
    prompt = read_workflow(ROOT / "example_workflows" / "text_to_image.json", types).prompt
    id, node = next((id, node) for id, node in prompt.items() if node["class_type"] == "DiTBlocksDenoise")
    node["inputs"] |= {"start_step": 4, "end_step": 2}
    with pytest.raises(WorkflowError, match=rf"^node {id} \(DiTBlocksDenoise.*: end_step 2 is not after start_step 4$"):
        check(prompt, types)


@pytest.mark.parametrize("text", ["", "all", "all but 7", "all but 0-2, 9", "3, 1-0,all", " 5 - 6 ", "999999999999"])
def test_what_some_model_can_follow_passes(text):
    assert check_ranges(text, "block") is None
    if "999" not in text:
        parse_ranges(text, 100, "block", "it")
    BlockPlan(text).check()


@pytest.mark.parametrize("text", ["al", "1-", "-1", "1..2", "all but x", "1 2"])
def test_what_none_can_follow_does_not(text):
    for ask in (lambda: check_ranges(text, "block"), lambda: parse_ranges(text, 100, "block", "it"), BlockPlan(text).check):
        with pytest.raises(ValueError, match="blocks are numbers and ranges"):
            ask()


def test_a_plan_of_blocks_reads_as_it_did():
    assert BlockPlan("0-1,3*0.5", 2.0).steps(4) == [(0, 2.0), (1, 2.0), (3, 1.0)]
    assert BlockPlan("all but 1").steps(3) == [(0, 1.0), (2, 1.0)]
    with pytest.raises(StagesError, match="there is no block 4"):
        BlockPlan("0-4").steps(4)
