"""Runs a prompt: only what its outputs need, and only what has changed since the last run."""

import asyncio
from dataclasses import dataclass, field
import hashlib
import inspect
from itertools import count
import json
import time
from typing import Any, Callable, Mapping, Sequence

import torch

from . import loops
from .comfy_api_standin.graph_utils import ExecutionBlocker, is_link, set_default_prefix
from .errors import Interrupted, NodeError, one_line
from .folders import Folders, use
from .live_graph import LiveGraph
from .node_types import NodeType
from .validate import Checked, Circle, check, depth_first, describe, unwrap
from .watcher import Watcher

_UNIQUE = count()


@dataclass
class NodeReport:
    """How one node of the prompt was run."""

    id: str
    type: str
    seconds: float = 0.0
    cached: bool = False


@dataclass
class RunReport:
    """The result of a run: its nodes in the order in which they began, and what each of them shows."""

    seconds: float
    nodes: list[NodeReport]
    ui: dict[str, dict[str, list]]


@dataclass
class Answer:
    """The result of a node: each output as a list of values, and what the node shows."""

    outputs: list[list]
    ui: dict[str, list]


class Executor:
    """Runs prompts and caches the answers of nodes. The cache key is the class, its inputs, and everything before it."""

    def __init__(self, classes: Mapping[str, type], folders: Folders | None = None,
                 interrupted: Callable[[], bool] = lambda: False):
        self.classes = classes
        self.folders = folders or Folders()
        self.interrupted = interrupted
        self.answers: dict[str, Answer] = {}
        # Signatures of the nodes that an expanding node put in its place: they are kept as long as it is.
        self.inner: dict[str, set[str]] = {}
        self.instances: dict[tuple[str, str], Any] = {}

    def check(self, prompt: Mapping[str, dict]) -> tuple[Checked, dict[str, loops.Loop], dict[str, NodeType]]:
        """Check a prompt without running it: → the checked prompt, its loops, and all node types. Raises WorkflowError."""
        # Choices such as a folder's files may have changed since the last run.
        types = {name: NodeType(name, cls) for name, cls in self.classes.items()}
        with use(self.folders):
            checked = check(prompt, types, loops.ends(prompt, types))
            return checked, loops.pair(checked, types), types

    def run(self, prompt: Mapping[str, dict], extra_pnginfo: dict | None = None,
            on_start: Callable[[str], None] | None = None, watcher: Watcher | None = None) -> RunReport:
        """Check a prompt, then run it. `on_start`: called with the id of each node that has work to do. Raises WorkflowError, NodeError and
        Interrupted."""
        began = time.perf_counter()
        with use(self.folders), torch.inference_mode():
            checked, pairs, types = self.check(prompt)
            run = _Run(self, types, checked.prompt, pairs, extra_pnginfo or {}, on_start or (lambda id: None), watcher or Watcher())
            run.forget_unused(checked.needed)
            run.watcher.begin(run.graph, run.known(checked.needed))
            for output in checked.outputs:
                run.answer(output)
            for output in run.new_outputs:
                run.answer(output)
            run.report_untouched()
        return RunReport(time.perf_counter() - began, list(run.reports.values()), run.ui)


@dataclass
class _Call:
    """The result of one call: values, or links into the graph that the node expanded to."""

    values: tuple
    expand: dict | None


@dataclass
class _Run:
    executor: Executor
    types: dict[str, NodeType]
    prompt: dict[str, dict]
    loops: dict[str, loops.Loop]
    extra_pnginfo: dict
    on_start: Callable[[str], None]
    watcher: Watcher
    done: dict[str, Answer] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    fetched: dict[str, set[str]] = field(default_factory=dict)
    expanded: dict[str, tuple[list[_Call], dict]] = field(default_factory=dict)
    new_outputs: list[str] = field(default_factory=list)
    reports: dict[str, NodeReport] = field(default_factory=dict)
    ui: dict[str, dict[str, list]] = field(default_factory=dict)

    def __post_init__(self):
        self.graph = LiveGraph(self.prompt, self.loops)

    def type_of(self, id: str) -> NodeType:
        return self.types[self.graph.nodes[id]["class_type"]]

    # --- what to run ---

    def answer(self, goal: str) -> None:
        """Run a node and all that it needs."""
        try:
            depth_first(goal, self._is_done, self._sources, self._step)
        except Circle as error:
            raise NodeError(goal, f"the expanded graph's wires go round in a circle: {error}") from error

    def _is_done(self, id: str) -> bool:
        if id in self.done:
            return True
        if id in self.expanded:
            return False
        known = self.executor.answers.get(self.signature(id))
        if known is not None:
            self._finish(id, known)
            self._report(id).cached |= id in self.prompt
        return known is not None

    def _sources(self, id: str) -> list[str]:
        """The nodes whose answers the next step of this one needs."""
        if id in self.expanded:
            calls, _ = self.expanded[id]
            return [value[0] for call in calls if call.expand is not None for value in call.values if is_link(value)]
        return [value[0] for name, value in self._wires(id) if self._is_fetched(id, name)]

    def _wires(self, id: str, raw: bool = False) -> list[tuple[str, list]]:
        """The wires into a node: (input, [source, slot]). `raw`: also those that the node receives as wires instead of values."""
        kind = self.type_of(id)
        return [(name, value) for name, value in self.graph.nodes[id]["inputs"].items()
                if is_link(value) and (kind.takes_any_input or name in kind.sockets)
                and (raw or not (name in kind.sockets and kind.sockets[name].options.get("rawLink")))]

    def _is_fetched(self, id: str, name: str) -> bool:
        """Whether an input is fetched: always, or for a lazy one if the node has asked for it."""
        socket = self.type_of(id).sockets.get(name)
        return socket is None or not socket.options.get("lazy") or name in self.fetched.get(id, ())

    # --- running one node ---

    def _step(self, id: str) -> None:
        began = time.perf_counter()
        report = self._report(id)
        if not report.seconds:
            self.on_start(report.id)
        if id not in self.expanded:
            self.watcher.start(id)
        if self.executor.interrupted():
            raise Interrupted("interrupted")
        try:
            self._advance(id)
        except Exception as error:
            if self.executor.interrupted():
                raise Interrupted("interrupted") from error
            raise NodeError(report.id, f"{self._describe(id)}: {one_line(error)}") from error
        report.seconds += time.perf_counter() - began

    def _advance(self, id: str) -> None:
        """Take one step towards a node's answer: ask for lazy inputs, call the node, or collect the outputs of its expansion."""
        kind = self.type_of(id)
        if id in self.expanded:
            calls, ui = self.expanded.pop(id)
            self._finish(id, Answer(self._merge(kind, calls), ui))
            return
        inputs = self._inputs(id)
        missing = next((value for values in inputs.values() for value in values if isinstance(value, ExecutionBlocker)), None)
        if missing:
            raise ValueError(missing.message or "what it is wired to has no value this time")
        hidden = self._hidden(id)
        instance = self._instance(id)
        lazy = kind.method("check_lazy_status", hidden, instance)
        if lazy is not None:
            named = {name for names in self._map(id, lazy, inputs) if isinstance(names, list) for name in names}
            asked = {name for name, _ in self._wires(id) if name in named and not self._is_fetched(id, name)}
            if asked:
                self.fetched.setdefault(id, set()).update(asked)
                return
        if not kind.is_v3:
            inputs |= {name: [hidden[key]] for name, key in kind.hidden.items()}
        returned = self._map(id, kind.method("execute", hidden, instance), inputs)
        calls, uis = zip(*(_read(result, kind) for result in returned))
        uis = [ui for ui in uis if ui is not None]
        ui = {key: [item for one in uis for item in one[key]] for key in (uis[0] if uis else ())}
        if any(call.expand is not None for call in calls):
            self._expand(id, list(calls))
            self.expanded[id] = (list(calls), ui)
        else:
            self._finish(id, Answer(self._merge(kind, calls), ui))

    def _inputs(self, id: str) -> dict[str, Sequence]:
        """Every input as a list of values. A lazy input that was not asked for is None."""
        kind, inputs = self.type_of(id), {}
        wires = dict(self._wires(id))
        for name, value in self.graph.nodes[id]["inputs"].items():
            if name in wires:
                known = self._is_fetched(id, name)
                inputs[name] = self.done[value[0]].outputs[int(value[1])] if known else (None,)
            elif kind.takes_any_input or name in kind.sockets:
                inputs[name] = [unwrap(value)]
        return inputs

    def _hidden(self, id: str) -> dict[str, Any]:
        values = {"UNIQUE_ID": id, "PROMPT": self.prompt, "EXTRA_PNGINFO": self.extra_pnginfo, "DYNPROMPT": self.graph}
        return {key: values.get(key) for key in self.type_of(id).hidden.values()}

    def _instance(self, id: str) -> Any:
        kind = self.type_of(id)
        if kind.is_v3:
            return None
        instances = self.executor.instances
        if (id, kind.name) not in instances:
            instances[id, kind.name] = kind.cls()
        return instances[id, kind.name]

    def _map(self, id: str, method: Callable, inputs: dict[str, Sequence]) -> list:
        """Call a method once with the lists, or once for each element; shorter lists repeat their last."""
        if self.type_of(id).is_input_list or not inputs:
            batches = [inputs]
        else:
            for name, values in inputs.items():
                if not values:
                    raise ValueError(f"input {name!r} is an empty list")
            longest = max(map(len, inputs.values()))
            batches = [{name: values[min(index, len(values) - 1)] for name, values in inputs.items()}
                       for index in range(longest)]
        results = []
        for index, batch in enumerate(batches):
            set_default_prefix(id, index)
            result = method(**batch)
            results.append(asyncio.run(result) if inspect.iscoroutine(result) else result)
        return results

    def _merge(self, kind: NodeType, calls: list[_Call]) -> list[list]:
        """The outputs of all calls, each in one list."""
        outputs: list[list] = [[] for _ in kind.output_types]
        for call in calls:
            for slot, is_list in enumerate(kind.output_is_list):
                value = call.values[slot]
                if call.expand is not None and is_link(value):
                    outputs[slot].extend(self.done[value[0]].outputs[int(value[1])])
                elif is_list:
                    outputs[slot].extend(value)
                else:
                    outputs[slot].append(value)
        return outputs

    def _expand(self, id: str, calls: list[_Call]) -> None:
        for call in calls:
            for new_id, node in (call.expand or {}).items():
                if node["class_type"] not in self.types:
                    raise ValueError(f"it expands to a node that is not here: {node['class_type']}")
                self.graph.add(new_id, node, id)
                if self.types[node["class_type"]].is_output_node:
                    self.new_outputs.append(new_id)

    # --- keeping answers ---

    def _finish(self, id: str, answer: Answer) -> None:
        self.done[id] = answer
        signature = self.signature(id)
        self.executor.answers[signature] = answer
        if id in self.graph.parents:
            parent = self.signature(self.graph.parents[id])
            self.executor.inner.setdefault(parent, set()).add(signature)
        if answer.ui:
            shown = self.ui.setdefault(self.graph.get_display_node_id(id), {})
            for key, items in answer.ui.items():
                shown[key] = shown.get(key, []) + list(items)
        self.watcher.finish(id, answer.ui)

    def known(self, ids: list[str]) -> dict[str, dict]:
        """What the cached ones of these nodes show."""
        answers = {id: self.executor.answers.get(self.signature(id)) for id in ids}
        return {id: answer.ui for id, answer in answers.items() if answer is not None}

    def signature(self, id: str) -> str:
        """What a node's answer depends on, as a hash: its class, its constants, and its sources' signatures."""
        depth_first(id, self.signatures.__contains__, lambda here: [source for _, (source, _) in self._wires(here, raw=True)], self._sign)
        return self.signatures[id]

    def _sign(self, id: str) -> None:
        kind, wires = self.type_of(id), dict(self._wires(id, raw=True))
        parts = [kind.name, self._fingerprint(id), id if kind.needs_own_id else None]
        for name, value in sorted(self.graph.nodes[id]["inputs"].items()):
            if name in wires:
                parts.append([name, self.signatures[value[0]], value[1]])
            elif kind.takes_any_input or name in kind.sockets:
                parts.append([name, self._token(value)])
        self.signatures[id] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _fingerprint(self, id: str) -> Any:
        kind = self.type_of(id)
        method = kind.method("fingerprint_inputs", self._hidden(id))
        if method is None:
            return None
        wires = dict(self._wires(id))
        constants = {name: (None,) if name in wires else [unwrap(value)]
                     for name, value in self.graph.nodes[id]["inputs"].items() if name in kind.sockets}
        try:
            return self._token(self._map(id, method, constants))
        except Exception:
            # As in ComfyUI: a node whose fingerprint cannot be taken always runs.
            return self._token(float("nan"))

    def _token(self, value: Any) -> str:
        """A text that is equal for equal values. NaN, and what JSON cannot hold, get a text that equals nothing."""
        try:
            return json.dumps(value, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError):
            return f"unique {next(_UNIQUE)}"

    def forget_unused(self, needed: list[str]) -> None:
        """Drop cached answers that this prompt does not use."""
        keep, new = set(), {self.signature(id) for id in needed}
        while new:
            keep |= new
            new = set().union(*(self.executor.inner.get(signature, ()) for signature in new)) - keep
        self.executor.answers = {key: answer for key, answer in self.executor.answers.items() if key in keep}
        self.executor.inner = {key: inner for key, inner in self.executor.inner.items() if key in keep}

    # --- telling about it ---

    def _report(self, id: str) -> NodeReport:
        shown = self._shown(id)
        return self.reports.setdefault(shown, NodeReport(shown, self.prompt[shown]["class_type"]))

    def _shown(self, id: str) -> str:
        """The prompt's node that a node belongs to, which an expansion may have added."""
        shown = self.graph.get_display_node_id(id)
        return shown if shown in self.prompt else self.graph.get_real_node_id(id)

    def report_untouched(self) -> None:
        """Report nodes as cached that were skipped because everything after them was cached."""
        waiting = [id for id, report in self.reports.items() if report.cached]
        while waiting:
            for _, (source, _) in self._wires(waiting.pop()):
                if source not in self.reports and self.signature(source) in self.executor.answers:
                    self._report(source).cached = True
                    waiting.append(source)

    def _describe(self, id: str) -> str:
        shown, node = self._shown(id), self.graph.nodes[id]
        where = describe(shown, self.prompt, self.types)
        if "iteration" in node:
            return f"{where}, iteration {node['iteration']}"
        return where if shown == id else f"{where}, inside it {id} ({node['class_type']})"


def _read(result: Any, kind: NodeType) -> tuple[_Call, dict | None]:
    """What one call returned: its values and expansion, and what it shows."""
    if isinstance(result, dict):
        values, ui, expand = result.get("result"), result.get("ui"), result.get("expand")
    elif hasattr(result, "expand") and hasattr(result, "args"):
        if result.block_execution is not None:
            raise ValueError("it blocks what comes after it, which cannot be done outside ComfyUI")
        values, ui, expand = result.args, result.ui, result.expand
    else:
        values, ui, expand = result, None, None
    values = () if values is None else values
    if not isinstance(values, (tuple, list)):
        raise TypeError(f"it returned {type(values).__name__}, not a tuple of outputs")
    if len(values) < len(kind.output_types):
        raise ValueError(f"it returned {len(values)} values for {len(kind.output_types)} outputs")
    if expand is not None and not kind.can_expand:
        raise ValueError("it expands, but its schema does not say enable_expand")
    if ui is not None and not isinstance(ui, dict):
        ui = ui.as_dict()
    return _Call(tuple(values), expand), ui
