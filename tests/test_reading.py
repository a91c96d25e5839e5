"""Values from outside are read as a dataclass says, or refused in one line that names the entry, what is allowed and the value."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from dit_blocks.dit_impl.errors import RecipeError
from dit_blocks.dit_impl.reading import Between, OneOf, check_entries, read


@dataclass(frozen=True)
class Settings:
    steps: Annotated[int, Between(1, 9)]
    rate: float = 0.5
    size: tuple[Annotated[int, Between(1, 9)], int] = (1, 1)
    sizes: tuple[int, ...] = ()
    mode: Annotated[str, OneOf("slow", "fast")] = "slow"
    note: str | None = None
    on: bool = False
    rank: Annotated[int, Between(1)] = 1


def test_entries_become_fields_and_lists_tuples():
    assert read(Settings, {"steps": 9, "rate": 1, "size": [9, -5], "sizes": [2, 4], "mode": "fast", "on": True}, "a run") == Settings(
        9, 1, (9, -5), (2, 4), "fast", None, True)
    assert read(Settings, {"steps": 1, "note": None}, "a run") == Settings(1) and read(Settings, {"steps": 1, "note": "x"}, "a run").note == "x"
    assert check_entries({"grid": [[1, 2], [3, 4]]}, {"grid": tuple}, "[set]") == {"grid": ((1, 2), (3, 4))}


@pytest.mark.parametrize("values,says", [
    ([], "a run is a table of named values, not []"), ({}, "its steps is missing: it is a whole number from 1 to 9"),
    ({"steps": 1, "speed": 3}, "a run has no setting 'speed'; it has mode, note, on, rank, rate, size, sizes, steps"),
    ({"steps": 0}, "its steps is a whole number from 1 to 9, not 0"), ({"steps": 10}, "its steps is a whole number from 1 to 9, not 10"),
    ({"steps": True}, "its steps is a whole number from 1 to 9, not True"), ({"steps": 2.0}, "its steps is a whole number from 1 to 9, not 2.0"),
    ({"steps": float("nan")}, "its steps is a whole number from 1 to 9, not nan"),
    ({"steps": 1, "rate": "high"}, "its rate is a number, not 'high'"), ({"steps": 1, "rate": False}, "its rate is a number, not False"),
    ({"steps": 1, "size": [0, 1]}, "its size is a list of 2, each a whole number from 1 to 9, not [0, 1]"),
    ({"steps": 1, "size": [1]}, "its size is a list of 2, each a whole number from 1 to 9, not [1]"),
    ({"steps": 1, "size": 3}, "its size is a list of 2, each a whole number from 1 to 9, not 3"),
    ({"steps": 1, "sizes": [1, 2.5]}, "its sizes is a list, each a whole number, not [1, 2.5]"),
    ({"steps": 1, "mode": "best"}, "its mode is one of slow, fast, not 'best'"), ({"steps": 1, "mode": []}, "its mode is one of slow, fast, not []"),
    ({"steps": 1, "note": 3}, "its note is text, not 3"), ({"steps": 1, "on": 1}, "its on is true or false, not 1"),
    ({"steps": 1, "rank": 0}, "its rank is a whole number of at least 1, not 0"),
    ({"steps": "9" * 99}, f"its steps is a whole number from 1 to 9, not '{'9' * 39}")], ids=str)
def test_what_is_not_allowed_is_one_line(values, says):
    with pytest.raises(RecipeError) as error:
        read(Settings, values, "a run", "its ", RecipeError)
    assert str(error.value) == says
