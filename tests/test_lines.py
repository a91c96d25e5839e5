"""Messages: one printable line, whatever the values in it."""

import pytest

from dit_blocks.standalone.errors import LONGEST, SHOWN, NodeError, WorkflowError, one_line, plain, shown, visible


@pytest.mark.parametrize("text", ["a" * 1_000_000, "a\nb\r\n\tc", "\x1b[31mred\x1b]0;title\x07", "\u202e\u2028\ud800", "é → 猫"])
def test_a_message_is_one_printable_line(text):
    for made in (str(WorkflowError(text)), str(NodeError("7", text)), one_line(ValueError(text))):
        assert made.isprintable() and len(made) <= LONGEST


def test_a_message_keeps_where_and_why():
    made = plain("node 7: " + "x" * 5000 + " is not a size")
    assert made.startswith("node 7: x") and made.endswith("x is not a size") and " … " in made


def test_short_messages_stay_as_they_are():
    assert plain("node 7 (Patchify): 3 × 3 is no grid") == "node 7 (Patchify): 3 × 3 is no grid"
    assert visible("two\nlines") == "two\nlines" and visible("\x1b[2J") == "\\x1b[2J"


def test_values_in_messages_are_short():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10_000, list(range(10_000)), 10 ** 10_000, deep):
        assert len(shown(value)) <= SHOWN
    assert shown("cat") == "'cat'"
