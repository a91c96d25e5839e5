"""What a sweep leaves: `cells.jsonl`, a line for each cell that is done, and its pictures; at the end tables of them. One process writes."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
import json
import os
from pathlib import Path
from typing import Any

from ...dit_impl.sources.atomic import replace_atomically
from ...dit_impl.training.state import held
from ..errors import WorkflowError, one_line
from .plan import Cell, key

ROWS, SWEEP, PICTURES = "cells.jsonl", "sweep.json", "pictures"
Row = dict[str, Any]  # "cell", the varied widgets, "seconds", "error", "pictures", and "Title.key" for each text that a node shows
BATCH = 1000


class Record:
    """A sweep's folder. A cell is done if its line is whole; a line that was cut by a kill is written again."""

    def __init__(self, folder: Path, account: Mapping[str, Any]):
        """account: what must be the same for the results to be of one sweep. Raises WorkflowError for a folder of another."""
        self.folder, self.done, self.failed, self.last = folder, set(), 0, 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / PICTURES).mkdir(exist_ok=True)
            self._check(account)
            self._drop_a_cut_line()
        except OSError as error:
            raise WorkflowError(f"{folder} can't be written: {error.strerror or one_line(error)}") from error
        for row in self.rows():
            self._count(row)

    def _count(self, row: Row) -> None:
        self.done.add(key(row["cell"]))
        self.failed += bool(row["error"])
        self.last = max(self.last, row["number"])

    def _check(self, account: Mapping[str, Any]) -> None:
        file = self.folder / SWEEP
        text = json.dumps(account, indent=1, ensure_ascii=False)
        if file.exists() and file.read_text(encoding="utf-8") != text:
            raise WorkflowError(f"{self.folder} holds the results of another workflow: name another folder with --out, or remove it")
        if not file.exists():
            replace_atomically(file, lambda aside: aside.write_text(text, encoding="utf-8"))

    def _drop_a_cut_line(self) -> None:
        file = self.folder / ROWS
        if file.exists() and (size := file.stat().st_size):
            with file.open("rb+") as rows:
                rows.seek(max(0, size - 2 ** 20))
                tail = rows.read()
                if not tail.endswith(b"\n"):
                    rows.truncate(size - len(tail) + tail.rfind(b"\n") + 1)

    def rows(self) -> Iterator[Row]:
        """The rows so far, in the order in which the cells were done. Raises WorkflowError."""
        file = self.folder / ROWS
        if file.exists():
            with file.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        row = json.loads(line)
                        key(row["cell"]), row["number"], row["error"], row["texts"]  # noqa: B018  a line of something else ends here
                        yield row
                    except (ValueError, KeyError, TypeError) as error:
                        raise WorkflowError(f"{file}, line {number}: it is no row of a sweep") from error

    def is_done(self, cell: Cell) -> bool:
        return key(cell) in self.done

    def add(self, cell: Cell, seconds: float, error: str, texts: Mapping[str, str], pictures: Mapping[str, bytes]) -> None:
        """Keep a cell's results: pictures first, then its line. Raises WorkflowError where that can't be written."""
        try:
            names = [self._write(name, data) for name, data in pictures.items()]
            row = {"number": self.last + 1, "cell": cell, "seconds": round(seconds, 4), "error": error, "texts": dict(texts), "pictures": names}
            with (self.folder / ROWS).open("a", encoding="utf-8") as rows:
                rows.write(json.dumps(row, ensure_ascii=False) + "\n")
                rows.flush()
                os.fsync(rows.fileno())
        except OSError as failure:
            raise WorkflowError(f"{self.folder} can't be written: {failure.strerror or one_line(failure)}") from failure
        self._count(row)

    def _write(self, name: str, data: bytes) -> str:
        path = self.folder / PICTURES / f"{self.last + 1:06d}_{Path(name).name}"
        replace_atomically(path, lambda aside: aside.write_bytes(data))
        return f"{PICTURES}/{path.name}"

    def forget_failures(self) -> int:
        """Take the rows of failed cells out, so that these cells run again: → how many they were."""
        gone = self.failed
        if gone:
            def write(aside: Path) -> None:
                with aside.open("w", encoding="utf-8") as file:
                    for row in self.rows():
                        if not row["error"]:
                            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            replace_atomically(self.folder / ROWS, write)
            self.failed, self.done = 0, {key(row["cell"]) for row in self.rows()}
        return gone

    def tables(self) -> tuple[Path, Path]:
        """Write all rows as CSV and as Parquet: → both paths. A batch of rows is in memory at a time."""
        import pyarrow
        from pyarrow import parquet

        kinds: dict[str, set[type]] = {"number": {int}}
        for row in self.rows():
            for name, value in flat(row).items():
                kinds.setdefault(name, set()).add(type(value))
        kind_of = {name: _common(found) for name, found in kinds.items()}
        arrow = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
        schema = pyarrow.schema([(name, arrow[kind]) for name, kind in kind_of.items()])

        def write_csv(aside: Path) -> None:
            with aside.open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, list(kind_of))
                table.writeheader()
                for row in self.rows():
                    table.writerow(flat(row))

        def write_parquet(aside: Path) -> None:
            with parquet.ParquetWriter(aside, schema) as file:
                for batch in batched(map(flat, self.rows()), BATCH):
                    columns = [[_as(kind, row.get(name)) for row in batch] for name, kind in kind_of.items()]
                    file.write_table(pyarrow.table(columns, schema=schema))
        paths = self.folder / "cells.csv", self.folder / "cells.parquet"
        for path, write in zip(paths, (write_csv, write_parquet)):
            replace_atomically(path, write)
        return paths


def batched(items: Iterable, count: int) -> Iterator[list]:
    """Lists of so many items, the last one shorter."""
    items = iter(items)
    while batch := list(islice(items, count)):
        yield batch


def flat(row: Row) -> Row:
    """A row of one level: the widgets' values, what nodes showed, seconds, error, and the pictures' names in one text."""
    return {"number": row["number"], **row["cell"], **row["texts"], "seconds": row["seconds"], "error": row["error"], "pictures": " ".join(row["pictures"])}


def _common(kinds: set[type]) -> type:
    """One type for a column: text where its values are of several."""
    return next((kind for found, kind in (({bool}, bool), ({int}, int), ({int, float}, float)) if kinds <= found), str)


def _as(kind: type, value: Any) -> Any:
    return None if value is None else kind(value)


def held_by_this(folder: Path):
    """While it lasts, no other sweep writes into this folder. Raises TrainingError."""
    folder.mkdir(parents=True, exist_ok=True)
    return held(folder / ROWS)
