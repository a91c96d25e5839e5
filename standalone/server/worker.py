"""Runs jobs one after the other in a thread, and sends progress to their browsers."""

import threading
import time
from typing import Any

from .. import pack
from ..errors import Interrupted, NodeError, one_line
from ..executor import Executor
from ..live_graph import LiveGraph
from ..node_types import NodeType
from ..watcher import Watcher
from .jobs import Job, Jobs
from .sockets import Sockets


class Worker(threading.Thread):
    def __init__(self, executor: Executor, jobs: Jobs, sockets: Sockets):
        super().__init__(name="jobs", daemon=True)
        self.executor, self.jobs, self.sockets = executor, jobs, sockets

    def run(self) -> None:
        while not self.jobs.is_closed():
            job = self.jobs.take()
            if job is not None:
                telling = Telling(job, self.executor, self.sockets)
                pack.listen(telling.progress, self.jobs.is_interrupted)
                telling.run()
                self.jobs.finish(job)
                telling.send("executing", node=None)
            elif self.jobs.must_free():
                self.executor.answers.clear()
                self.executor.instances.clear()


class Telling(Watcher):
    """Runs one job and sends ComfyUI's messages about it, in ComfyUI's order."""

    def __init__(self, job: Job, executor: Executor, sockets: Sockets):
        self.job, self.executor, self.sockets = job, executor, sockets
        self.states: dict[str, dict] = {}  # by the node that shows it
        self.called: dict[str, None] = {}
        self.known: dict[str, dict] = {}
        self.graph = LiveGraph(job.prompt)

    def run(self) -> None:
        self._record("execution_start")
        try:
            self.executor.run(self.job.prompt, self.job.extra_data.get("extra_pnginfo"), watcher=self)
        except Interrupted:
            self._record("execution_interrupted", **self._where(self._real(self.job.at)))
        except NodeError as error:
            self._failed(error.node_id, error.__cause__ or error)
        except Exception as error:
            # Whatever a job does, the next one is run.
            self._failed(self._real(self.job.at), error)
        else:
            self._show_kept()
            self._record("execution_success")
            self.job.succeeded = True
        self.job.at = None

    # --- what the executor says ---

    def begin(self, graph: LiveGraph, known: dict[str, dict]) -> None:
        self.graph, self.known = graph, known
        self._record("execution_cached", nodes=[id for id in self.job.prompt if id in known])

    def start(self, id: str) -> None:
        self.called[id] = None
        self.job.at = id
        self._tell_state(id, "running", 0.0, 1.0)
        self.send("executing", node=id, display_node=self.graph.get_display_node_id(id))

    def progress(self, value: int, total: int, picture: Any = None) -> None:
        """A step of the node that is running."""
        id = self.job.at
        if id is None:
            return
        self._tell_state(id, "running", value, total)
        if picture is not None and self.job.client:
            self.sockets.send_preview(picture, {"node_id": id, "prompt_id": self.job.id, **self._family(id)}, self.job.client)
        self.send("progress", value=value, max=total, node=id)

    def finish(self, id: str, ui: dict[str, list]) -> None:
        if id in self.called:
            if ui:
                self._show(id, ui)
        elif self._says(id, "output_node"):
            self._show(id, ui)
        else:
            return
        self._tell_state(id, "finished")

    def _show_kept(self) -> None:
        """Show what cached nodes have to show: those that were skipped because everything after them was cached."""
        for id, ui in self.known.items():
            if id not in self.called and self._says(id, "has_intermediate_output"):
                self._show(id, ui)

    # --- messages ---

    def send(self, kind: str, **data: Any) -> None:
        if self.job.client:
            self.sockets.send(kind, {**data, "prompt_id": self.job.id}, self.job.client)

    def _record(self, kind: str, **data: Any) -> None:
        """Send a message, and keep it in the history."""
        data |= {"prompt_id": self.job.id, "timestamp": int(time.time() * 1000)}
        self.job.messages.append((kind, data))
        if self.job.client or kind == "execution_interrupted":
            self.sockets.send(kind, data, self.job.client)

    def _show(self, id: str, ui: dict[str, list]) -> None:
        display = self.graph.get_display_node_id(id)
        if ui:
            self.job.ui[id] = ui
            self.job.meta[id] = {"node_id": id, "display_node": display, "parent_node": self.graph.get_parent_node_id(id),
                                 "real_node_id": self.graph.get_real_node_id(id)}
        self.send("executed", node=id, display_node=display, output=ui or None)

    def _tell_state(self, id: str, state: str, value: float | None = None, total: float | None = None) -> None:
        """Send the states of all nodes, after changing this one's; a finished node is at its maximum. The browser shows one state per
        node of the prompt, so only the latest of a loop's copies is sent: else every message would list all rounds so far."""
        shown = self.graph.get_display_node_id(id)
        entry = self.states.get(shown)
        if entry is None or entry["node_id"] != id:
            entry = self.states[shown] = {"value": 1, "max": 1, "state": state, "node_id": id, "prompt_id": self.job.id, **self._family(id)}
        greatest = entry["max"] if total is None else total
        entry |= {"state": state, "value": greatest if value is None else value, "max": greatest}
        self.send("progress_state", nodes={one["node_id"]: one for one in self.states.values()})

    def _failed(self, id: str, error: BaseException) -> None:
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        self._record("execution_error", **self._where(id), exception_message=one_line(error), exception_type=name, traceback=[],
                     current_inputs={}, current_outputs=[])

    def _where(self, id: str) -> dict:
        return {"node_id": id, "node_type": self.job.prompt[id]["class_type"], "executed": list(self.called)[:-1]}

    def _family(self, id: str) -> dict:
        return {"display_node_id": self.graph.get_display_node_id(id), "parent_node_id": self.graph.get_parent_node_id(id),
                "real_node_id": self.graph.get_real_node_id(id)}

    def _real(self, id: str | None) -> str:
        """The prompt's node that `id` belongs to; an output node if none has run yet."""
        return self.job.outputs[0] if id is None else self.graph.get_real_node_id(id)

    def _says(self, id: str, flag: str) -> bool:
        name = self.graph.get_node(id)["class_type"]
        return bool(NodeType(name, self.executor.classes[name]).info().get(flag))
