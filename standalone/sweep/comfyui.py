"""A running ComfyUI as a worker: cells are queued there, with the models and nodes that it has."""

import json
from pathlib import Path
import time
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen
import uuid

from ..errors import WorkflowError, one_line, plain
from ..node_types import NodeType
from ..workflow import read_workflow, title
from .plan import Cell
from .worker import Result, with_values

SECONDS, PAUSE = 60, 0.2  # for an answer; between two looks at what is done


class Gone(Exception):
    """This ComfyUI does not answer any more."""


class TypeOf(NodeType):
    """A node that is known by its /object_info entry alone."""

    def __init__(self, name: str, info: dict):
        self.name, self._said = name, info

    def info(self) -> dict:
        return self._said


class ComfyUI:
    """Runs cells in a ComfyUI at an address."""

    def __init__(self, url: str, path: Path):
        """Raises WorkflowError if nobody answers there, or the workflow can't be read."""
        self.url = url.rstrip("/")
        try:
            infos = self._json("object_info")
        except Gone as error:
            raise WorkflowError(f"--comfyui {url}: {error}") from None
        self.types = {name: TypeOf(name, info) for name, info in infos.items()}
        self.workflow = read_workflow(path, self.types)
        self.client = uuid.uuid4().hex

    def check(self, cell: Cell) -> None:
        """Raise WorkflowError if a widget of these names is not there. ComfyUI judges the values when it gets them."""
        with_values(self.workflow, cell, self.types)

    def run(self, cell: Cell) -> Result:
        """Draw one cell. A cell that ComfyUI refuses, or that fails there, is told in the result. Raises Gone."""
        began = time.perf_counter()
        try:
            workflow = with_values(self.workflow, cell, self.types)
            queued = self._json("prompt", {"prompt": workflow.prompt, "client_id": self.client,
                                           "extra_data": {"extra_pnginfo": workflow.extra_pnginfo}})
            done = self._done(queued["prompt_id"])
        except WorkflowError as error:
            return Result(error=plain(str(error)))
        # ComfyUI runs what it can: the outputs that nothing is wrong with. Half a cell is no cell.
        result = Result(time.perf_counter() - began, _refusal(queued) or _failure(done))
        for id, shown in done.get("outputs", {}).items():
            shown_by = title(id.split(":")[0], workflow.prompt, self.types) if id.split(":")[0] in workflow.prompt else id
            for text in shown.get("text") or ():
                result.add_text(shown_by, text)
            for image in () if result.error else shown.get("images") or ():
                if image.get("type") == "output":
                    result.add_picture(image["filename"], self._ask(f"view?{urlencode(image)}"))
        return result

    def _done(self, id: str) -> dict:
        """Wait until a prompt has run: → its history. Raises WorkflowError if somebody takes it from the queue."""
        while not (done := self._json(f"history/{id}").get(id)):
            waiting = [entry[1] for entries in self._json("queue").values() for entry in entries]
            if id not in waiting and not self._json(f"history/{id}").get(id):
                raise WorkflowError("it was taken from ComfyUI's queue")
            time.sleep(PAUSE)
        return done

    def close(self) -> None:
        pass

    def _json(self, path: str, body: Any = None) -> dict:
        try:
            return json.loads(self._ask(path, body))
        except ValueError as error:
            raise Gone("its answer is not ComfyUI's") from error

    def _ask(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=SECONDS) as answer:
                return answer.read()
        except HTTPError as error:
            raise WorkflowError(_refusal(_read(error.read())) or f"{self.url}/{path.split('?')[0]}: {error.code} {error.reason}") from error
        except (URLError, OSError, ValueError) as error:
            raise Gone(one_line(getattr(error, "reason", None) if isinstance(getattr(error, "reason", None), Exception) else error)) from error


def _read(body: bytes) -> dict:
    try:
        return json.loads(body)
    except ValueError:
        return {}


def _refusal(said: dict) -> str:
    """Why ComfyUI refused a prompt or a part of it, in one line; empty where it did not, or does not say."""
    try:
        nodes = [f"node {id} ({node.get('class_type')}): {fault.get('message')} {fault.get('details', '')}".strip()
                 for id, node in (said.get("node_errors") or {}).items() for fault in node.get("errors", ())]
        error = said.get("error", "")
        return plain(nodes[0] if nodes else error["message"] if isinstance(error, dict) else str(error))
    except (KeyError, TypeError, AttributeError):
        return ""


def _failure(done: dict) -> str:
    """Why a run failed, in one line; empty if it did not."""
    status = done.get("status") or {}
    if status.get("status_str") != "error":
        return ""
    for kind, fault in status.get("messages", ()):
        if kind == "execution_error":
            return plain(f"node {fault.get('node_id')} ({fault.get('node_type')}): {fault.get('exception_message', '').strip()}")
    return "it was interrupted"
