"""The `sweep` command: from a TOML file to a folder of results."""

import hashlib
from pathlib import Path
import sys
from typing import Any

from ..errors import WorkflowError, visible
from . import drive
from .comfyui import ComfyUI
from .plan import Plan, read_plan
from .record import Record, held_by_this
from .sheet import write_sheets, write_table
from .worker import Worker


def sweep(file: Path, out: Path | None, inputs: Path, models: Path, urls: list[str], again: bool) -> int:
    """Run what is not done yet, then write the tables and the sheet: → how many cells failed. Raises WorkflowError.

    urls: of running ComfyUIs, in place of Ray's workers on this machine or cluster. again: run the cells that failed once more.
    """
    plan = read_plan(file, out)
    judges: list[Any] = [ComfyUI(url, plan.workflow) for url in urls] or [Worker(plan.workflow, (inputs, models))]
    try:
        check(plan, judges[0])
        with held_by_this(plan.out):
            record = Record(plan.out, account(plan))
            if again and (count := record.forget_failures()):
                print(f"{count} cells that failed run again", file=sys.stderr)
            if len(record.done):
                print(f"{len(record.done)} of {len(plan)} cells are done already", file=sys.stderr)
            if any(not record.is_done(cell) for cell in plan.cells()):
                with progress(len(plan), len(record.done)) as tell:
                    if urls:
                        drive.by_comfyui(plan, record, judges, tell)
                    else:
                        drive.by_ray(plan, record, (inputs, models), tell)
            finish(plan, record)
            return record.failed
    finally:
        for judge in judges:
            judge.close()


def check(plan: Plan, judge: Worker | ComfyUI) -> None:
    """Raise WorkflowError if a widget or a value is wrong, before anything is drawn: each value once, beside the first of the others."""
    first = next(iter(plan.cells()))
    judge.check(first)
    for name, values in plan.grid.items():
        for value in values[1:]:
            judge.check({**first, name: value})
    for entry in plan.entries[1:]:
        judge.check({**first, **entry})


def account(plan: Plan) -> dict[str, str]:
    """What tells this sweep from another one: its workflow. Values may be added later; cells that are done are not run again."""
    return {"workflow": plan.workflow.name, "sha256": hashlib.sha256(plan.workflow.read_bytes()).hexdigest()}


def finish(plan: Plan, record: Record) -> None:
    """Write and name what the sweep found."""
    paths = [*record.tables()]
    table, text = write_table(plan, record)
    print(visible(text))
    for path in [record.folder / "cells.jsonl", *paths, table, *write_sheets(plan, record)]:
        print(visible(str(path)))
    if record.failed:
        print(visible(f"{record.failed} of {len(record.done)} cells failed: their rows say why; --again runs them once more"), file=sys.stderr)


class progress:
    """A bar on the terminal with the time left; a line now and then where there is no terminal."""

    def __init__(self, cells: int, done: int):
        from tqdm import tqdm
        self.bar = tqdm(total=cells, initial=done, unit="cell", file=sys.stderr, mininterval=0.2 if sys.stderr.isatty() else 30, smoothing=0.05)

    def __enter__(self):
        return self.tell

    def tell(self, done: int, cells: int, failed: int) -> None:
        if failed:
            self.bar.set_postfix_str(f"{failed} failed", refresh=False)
        self.bar.update(done - self.bar.n)

    def __exit__(self, *_):
        self.bar.close()


def needs(error: ImportError) -> WorkflowError:
    """The line for a library that is not there."""
    return WorkflowError(f"{drive.INSTALL} ({error.name} is missing)")
