"""What runs one cell: the pack in this process, or a ComfyUI over HTTP."""

from collections.abc import Mapping
import copy
from dataclasses import dataclass, field
import os
from pathlib import Path
import re
import shutil
import tempfile
import time

from .. import pack
from ..errors import Interrupted, NodeError, WorkflowError, plain
from ..executor import Executor
from ..folders import Folders, use
from ..node_types import NodeType
from ..workflow import Workflow, override, read_workflow, title
from .plan import Cell


@dataclass
class Result:
    """What a cell gave. error: one line, empty if it was drawn; texts: what nodes show, by "Title.text"; pictures: files by name."""
    seconds: float = 0.0
    error: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def add_text(self, title: str, text: object) -> None:
        before = self.texts.get(f"{title}.text")
        self.texts[f"{title}.text"] = str(text) if before is None else f"{before}\n{text}"

    def add_picture(self, name: str, data: bytes) -> None:
        """name: of the file, whose running number says nothing here."""
        stem = re.sub(r"_\d+_?$", "", Path(name).stem)
        number = sum(known.startswith(stem) for known in self.pictures) + 1
        self.pictures[f"{stem}{f'_{number}' if number > 1 else ''}{Path(name).suffix}"] = data


def with_values(workflow: Workflow, cell: Mapping, types: Mapping[str, NodeType]) -> Workflow:
    """A copy of the workflow with a cell's values in its widgets. Raises WorkflowError."""
    changed = copy.deepcopy(workflow)
    for name, value in cell.items():
        try:
            override(changed, f"{name}={str(value).lower() if isinstance(value, bool) else value}", types)
        except WorkflowError as error:
            raise WorkflowError(str(error).removeprefix("--set ")) from None
    return changed


class Worker:
    """Runs cells in this process. What cells have in common, such as the models, is loaded once and kept."""

    def __init__(self, path: Path, folders: tuple[Path, Path], threads: int = 0):
        """folders: of inputs and models. threads: of torch, 0 as torch has them. Raises WorkflowError."""
        if threads:
            import torch
            torch.set_num_threads(threads)
        self.output = Path(tempfile.mkdtemp(prefix="dit-blocks-sweep-"))
        self.folders = Folders(folders[0], self.output / "output", self.output / "temp", folders[1])
        self.classes = pack.load()
        self.types = {name: NodeType(name, cls) for name, cls in self.classes.items()}
        with use(self.folders):
            self.workflow = read_workflow(path, self.types)
        self.executor = Executor(self.classes, self.folders)

    def check(self, cell: Cell) -> None:
        """Raise WorkflowError if the workflow can't run with these values."""
        with use(self.folders):
            self.executor.check(with_values(self.workflow, cell, self.types).prompt)

    def run(self, cell: Cell) -> Result:
        """Draw one cell. A node that fails is told in the result."""
        began, result = time.perf_counter(), Result()
        try:
            workflow = with_values(self.workflow, cell, self.types)
            report = self.executor.run(workflow.prompt, workflow.extra_pnginfo)
        except (NodeError, WorkflowError, Interrupted) as error:
            return Result(time.perf_counter() - began, plain(str(error)))
        result.seconds = time.perf_counter() - began
        kept = set()
        for id, shown in report.ui.items():
            name = title(id, workflow.prompt, self.types)
            for text in shown.get("text", ()):
                result.add_text(name, text)
            for image in shown.get("images", ()):
                path = self.folders.of(image["type"]) / image["subfolder"] / image["filename"]
                kept.add(path)
                if image["type"] == "output":
                    result.add_picture(path.name, path.read_bytes())
        self._forget(kept)
        return result

    def _forget(self, kept: set[Path]) -> None:
        """Remove the files of earlier cells; nodes that were not run again still show theirs."""
        for folder, _, names in os.walk(self.output):
            for name in names:
                if (path := Path(folder, name)) not in kept:
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)
