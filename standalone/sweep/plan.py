"""What a sweep runs: a TOML file in, cells out. A cell is one value for each widget that is varied."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
import hashlib
from itertools import product
import json
from pathlib import Path
from typing import Annotated, Any

from ...dit_impl.errors import RecipeError
from ...dit_impl.reading import Between, check_entries, read
from ...dit_impl.training.toml import read_toml
from ..errors import WorkflowError, plain

Value = str | int | float | bool
Cell = dict[str, Value]  # "NODE.input": value
MOST_CELLS = 10 ** 7


@dataclass(frozen=True)
class Workers:
    """How cells are run. count: how many at a time, 0 for as many as there are devices; cpus, gpus: what each of them takes.

    address: of a Ray cluster to join; empty starts Ray on this machine. tries: how often a cell is begun whose worker dies.
    """
    count: Annotated[int, Between(0, 10_000)] = 0
    cpus: Annotated[float, Between(0.01, 10_000)] = 1.0
    gpus: Annotated[float, Between(0, 64)] = 0.0
    address: str = ""
    tries: Annotated[int, Between(1, 100)] = 3


@dataclass(frozen=True)
class Sheet:
    """What the contact sheet and the table show. rows, columns: widgets that are varied, empty for a choice of our own.

    value: the column of the results that the table averages. size: the longest side of a picture, in pixels.
    """
    rows: str = ""
    columns: str = ""
    value: str = "seconds"
    size: Annotated[int, Between(16, 1024)] = 128


@dataclass(frozen=True)
class Plan:
    """A sweep as its file says it. grid: all combinations; entries: values that go together. Both together: each entry with all of them."""
    workflow: Path
    out: Path
    grid: Mapping[str, tuple[Value, ...]]
    entries: tuple[Cell, ...]
    workers: Workers = field(default_factory=Workers)
    sheet: Sheet = field(default_factory=Sheet)

    @property
    def varied(self) -> list[str]:
        """The widgets that are varied, in the order of the file, those of the entries first."""
        return list(dict.fromkeys([*(name for entry in self.entries for name in entry), *self.grid]))

    def __len__(self) -> int:
        count = max(1, len(self.entries))
        for values in self.grid.values():
            count *= len(values)
        return count

    def cells(self) -> Iterator[Cell]:
        """All cells, the last widget of the grid varied first."""
        for entry in self.entries or ({},):
            for values in product(*self.grid.values()):
                yield {**entry, **dict(zip(self.grid, values))}


def key(cell: Mapping[str, Value]) -> str:
    """A short text that is the same for the same values, in whatever order."""
    return hashlib.sha256(json.dumps(cell, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:24]


def read_plan(path: Path, out: Path | None = None) -> Plan:
    """Read a sweep's TOML file. out: in place of the folder that the file names. Raises WorkflowError."""
    try:
        said = check_entries(read_toml(path), {"workflow": str, "out": str, "grid": dict, "entry": tuple, "workers": dict, "sheet": dict},
                             "a sweep", "", RecipeError)
        if "workflow" not in said:
            raise RecipeError('workflow is missing: it is the workflow\'s file, such as workflow = "text_to_image.json"')
        grid = {name: _values(name, values, path.parent) for name, values in said.get("grid", {}).items()}
        entries = tuple(_entry(number, entry) for number, entry in enumerate(said.get("entry", ()), 1))
        plan = Plan(path.parent / said["workflow"], out or path.parent / said.get("out", path.stem), grid, entries,
                    read(Workers, said.get("workers", {}), "[workers]", "[workers] ", RecipeError),
                    read(Sheet, said.get("sheet", {}), "[sheet]", "[sheet] ", RecipeError))
        _check(plan)
    except RecipeError as error:
        text = str(error)
        raise WorkflowError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    return plan


def _check(plan: Plan) -> None:
    if not plan.varied:
        raise RecipeError('there is nothing to vary: write [grid] with lines such as "Patchify.patch_size" = [2, 4]')
    for entry in plan.entries:
        if entry.keys() != plan.entries[0].keys():
            raise RecipeError(f"every [[entry]] names the same widgets: {', '.join(plan.entries[0])}, not {', '.join(entry)}")
        if plan.entries.count(entry) > 1:
            raise RecipeError(f"two [[entry]] have the same values: {plain(str(entry), 80)}")
        if both := sorted(entry.keys() & plan.grid.keys()):
            raise RecipeError(f"{both[0]} stands in [grid] and in [[entry]]: name it once")
    if len(plan) > MOST_CELLS:
        raise RecipeError(f"these are {len(plan):,} cells, the most is {MOST_CELLS:,}")
    for side in ("rows", "columns"):
        if (name := getattr(plan.sheet, side)) and name not in plan.varied:
            raise RecipeError(f"[sheet] {side} is a widget that is varied ({', '.join(plan.varied)}), not {name!r}")
    if plan.sheet.rows and plan.sheet.rows == plan.sheet.columns:
        raise RecipeError(f"[sheet] rows and columns are two widgets, not both {plan.sheet.rows!r}")


def _entry(number: int, entry: Any) -> Cell:
    if not isinstance(entry, dict) or not entry:
        raise RecipeError(f"[[entry]] {number} holds widgets and their values")
    for name, value in entry.items():
        _check_value(name, value)
    return dict(entry)


def _values(name: str, said: Any, base: Path) -> tuple[Value, ...]:
    """A list of values, or {file = "lines.txt"}, or {from = 0, to = 9} with both ends. Raises RecipeError."""
    if isinstance(said, dict) and said.keys() == {"file"} and isinstance(said["file"], str):
        try:
            lines = (base / said["file"]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise RecipeError(f"{name}: {said['file']}: {getattr(error, 'strerror', None) or 'it is not text in UTF-8'}") from None
        said = [line.strip() for line in lines if line.strip()]
    elif isinstance(said, dict) and said.keys() == {"from", "to"} and all(type(end) is int for end in said.values()):
        if said["to"] - said["from"] >= MOST_CELLS:
            raise RecipeError(f"{name}: from {said['from']} to {said['to']} are more than {MOST_CELLS:,} values")
        said = range(said["from"], said["to"] + 1)
    elif not isinstance(said, (list, tuple)):
        raise RecipeError(f'{name} is a list of values, {{file = "lines.txt"}}, or {{from = 0, to = 9}}, not {plain(repr(said), 60)}')
    if not said:
        raise RecipeError(f"{name} has no values")
    for value in said:
        _check_value(name, value)
    if len(values := tuple(dict.fromkeys((type(value), value) for value in said))) < len(said):
        raise RecipeError(f"{name} has the same value twice")
    return tuple(value for _, value in values)


def _check_value(name: str, value: Any) -> None:
    if "." not in name.strip("."):
        raise RecipeError(f'a widget is named as "NODE.input", not {plain(name, 60)!r}')
    if type(value) not in (str, int, float, bool):
        raise RecipeError(f"{name}: a value is text, a number, true or false, not {plain(repr(value), 60)}")
