"""Plans of blocks for all steps: what their words mean, and what several of them do together."""

import pytest

from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.dit_impl.handle.block_plan import BlockPlan, is_whole, runs, together
from dit_blocks.dit_impl.model.stages import parse_blocks


@pytest.mark.parametrize("words,expected", [
    ("all", [(0, 1), (1, 1), (2, 1), (3, 1)]), ("all but 1", [(0, 1), (2, 1), (3, 1)]), (" all  but 0,2-3", [(1, 1)]), ("", []),
    ("0-1,2*0.5,3", [(0, 1), (1, 1), (2, 0.5), (3, 1)]), ("3-2*-1", [(3, -1), (2, -1)]), ("1,1", [(1, 1), (1, 1)]), ("all*2", [(i, 2) for i in range(4)])])
def test_the_words_of_a_plan(words, expected):
    assert BlockPlan(words).steps(4) == expected
    assert BlockPlan(words, 0.5).steps(4) == [(block, factor / 2) for block, factor in expected]


@pytest.mark.parametrize("words,says", [
    ("4", "this model has blocks 0 to 3, there is no block 4"), ("all but 9", "this model has blocks 0 to 3, there is no block 9"),
    ("0*", 'blocks: a factor is a number after *, as in "7*0.5", not \'0*\''), ("1*x", "blocks: a factor is a number after *"),
    ("first", "blocks are numbers and ranges such as")])
def test_what_is_no_plan_says_why(words, says):
    with pytest.raises(StagesError) as caught:
        BlockPlan(words).steps(4)
    assert str(caught.value).startswith(says)


def test_all_but_some_for_dit_blocks_too():
    assert parse_blocks("all but 2", 4) == [0, 1, 3] and parse_blocks("all but 0-3", 4) == [] and parse_blocks("all but", 2) == [0, 1]


def test_several_plans_leave_out_what_any_leaves_out():
    plans = [BlockPlan("all but 1", 0.5), BlockPlan("3-0", 3.0), BlockPlan("0,1,2*2")]
    assert together(plans, 4) == [(0, 1.5), (2, 3.0)]
    assert together(plans[:1], 4) == [(0, 0.5), (2, 0.5), (3, 0.5)]
    assert is_whole(together([BlockPlan("all", 0.5), BlockPlan("all", 2.0)], 4), 4) and not is_whole(together(plans, 4), 4)
    assert not is_whole([(1, 1.0), (0, 1.0)], 2)


def test_neighbours_of_equal_strength_run_together():
    assert runs(BlockPlan("0-1,2*0.5,3,1").steps(4)) == [([0, 1], 1.0), ([2], 0.5), ([3, 1], 1.0)] and runs([]) == []
