"""Core's Start Loop and End Loop: what lies between the two is run once for each iteration, with one value carried along.

As in ComfyUI since September 2026, End Loop is replaced by a chain of copies of the loop's nodes, so that each iteration is cached,
reported and stopped like any other nodes. The copies of a long loop are made as it goes, so that it starts at once and can be stopped.
"""

from dataclasses import dataclass
from typing import Any, Iterable, Mapping

from .comfy_api_standin import io
from .comfy_api_standin.graph_utils import GraphBuilder, is_link
from .errors import WorkflowError
from .node_types import AUTOGROW, DYNAMIC_COMBO, MATCH, NodeType
from .validate import Checked, describe, fits, offered_type

START, END = "StartLoop", "EndLoop"
MOST = 0xFFFFFFFFFFFFFFFF
AT_ONCE = 500  # iterations that are copied before the first of them runs


@dataclass
class Loop:
    """One loop of a prompt: its Start Loop and the nodes between that and its End Loop, sources first."""

    start: str
    body: list[str]


# --- which End Loop belongs to which Start Loop -----------------------------------------------------------------------------------

def ends(prompt: Mapping[str, dict], types: Mapping[str, NodeType]) -> list[str]:
    """The End Loops after output nodes. They run even if nothing needs their result, because the output nodes inside their loops must."""
    after: dict[str, list[str]] = {}
    for id, node in prompt.items():
        for value in node["inputs"].values():
            if is_link(value):
                after.setdefault(value[0], []).append(id)
    reached: dict[str, None] = {}
    waiting = [id for id, node in prompt.items() if node["class_type"] in types and types[node["class_type"]].is_output_node]
    while waiting:
        for id in after.get(waiting.pop(), ()):
            if id not in reached:
                reached[id] = None
                waiting.append(id)
    return [id for id in reached if prompt[id]["class_type"] == END]


def pair(checked: Checked, types: Mapping[str, NodeType]) -> dict[str, Loop]:
    """End Loop → its loop. Output nodes inside a loop are removed from the outputs, because the loop runs them. Raises WorkflowError if a
    loop is open or loops cross."""
    prompt = checked.prompt
    around: dict[str, tuple[str, ...]] = {}  # a node → the Start Loops that it is inside of, outermost first
    beyond: dict[str, tuple[str, ...]] = {}  # the same for what comes after it
    closed: dict[str, str] = {}

    def at(id: str) -> str:
        return describe(id, prompt, types)

    for id in checked.needed:
        node = prompt[id]
        sources = list(_sources(node, types))
        stack = max((beyond[source] for source in sources), key=len, default=())
        for source in sources:
            if beyond[source] != stack[:len(beyond[source])]:
                raise WorkflowError(f"{at(id)} is inside two loops that are not one inside the other, {at(stack[-1])} and "
                                    f"{at(beyond[source][-1])}; to nest them, wire iteration_index of the outer into parent_iteration")
        around[id] = beyond[id] = stack
        if node["class_type"] == START:
            beyond[id] = (*stack, id)
        elif node["class_type"] == END:
            if not stack:
                raise WorkflowError(f"{at(id)} has no Start Loop: nothing that is wired into it comes from one")
            if stack[-1] in closed:
                raise WorkflowError(f"{at(stack[-1])} has two End Loops, {at(closed[stack[-1]])} and {at(id)}")
            accumulate = node["inputs"].get("accumulate")
            if is_link(accumulate) and stack[-1] in beyond[accumulate[0]]:
                raise WorkflowError(f"{at(id)}: input 'accumulate' comes from inside the loop, and must be known before it runs")
            closed[stack[-1]] = id
            around[id] = beyond[id] = stack[:-1]
    loops = {}
    for start in (id for id in checked.needed if prompt[id]["class_type"] == START):
        if start not in closed:
            raise WorkflowError(f"{at(start)} has no End Loop that anything needs")
        body = [id for id in checked.needed if start in around[id]]
        leading = _leading_to(closed[start], prompt, types)
        stray = next((id for id in body if id not in leading), None)
        if stray is not None:
            raise WorkflowError(f"{at(stray)} takes a value from inside the loop of {at(start)}, but does not lead to {at(closed[start])}; "
                                "wire it into one of its terminations")
        _check_carried(start, closed[start], prompt, types)
        loops[closed[start]] = Loop(start, body)
    driven = {end for end, loop in loops.items() if set(loop.body) & set(checked.outputs)}
    checked.outputs = [id for id in checked.outputs if not around[id] and (prompt[id]["class_type"] != END or id in driven)]
    return loops


def _sources(node: dict, types: Mapping[str, NodeType]) -> Iterable[str]:
    sockets = types[node["class_type"]].sockets
    return (value[0] for name, value in node["inputs"].items() if is_link(value) and name in sockets)


def _leading_to(goal: str, prompt: Mapping[str, dict], types: Mapping[str, NodeType]) -> set[str]:
    found, waiting = {goal}, [goal]
    while waiting:
        new = set(_sources(prompt[waiting.pop()], types)) - found
        found |= new
        waiting += new
    return found


def _check_carried(start: str, end: str, prompt: Mapping[str, dict], types: Mapping[str, NodeType]) -> None:
    """Raise WorkflowError if the next iteration's value has another type than the first one's."""
    first, following = prompt[start]["inputs"].get("initial_iteration_value"), prompt[end]["inputs"].get("next_iteration_value")
    if is_link(first) and is_link(following):
        carried, coming = offered_type(*first, prompt, types), offered_type(*following, prompt, types)
        if not fits(coming, carried):
            raise WorkflowError(f"{describe(end, prompt, types)}: the loop carries {carried}, but input 'next_iteration_value' is wired "
                                f"to {coming} of {describe(following[0], prompt, types)}")


# --- the two nodes, as core declares them -----------------------------------------------------------------------------------------

def _match(template: str, tooltip: str, **options) -> tuple[str, dict]:
    return MATCH, {"tooltip": tooltip, "template": {"template_id": template, "allowed_types": "*"}, **options}


def _option(key: str, **inputs: tuple[str, dict]) -> dict:
    return {"key": key, "inputs": {"required": inputs}}


def _int(default: int, tooltip: str, **limits: int) -> tuple[str, dict]:
    return "INT", {"default": default, "tooltip": tooltip, **limits}


class StartLoop:
    """Where a loop begins. It is never run: its End Loop reads its inputs."""

    DISPLAY_NAME = "Start Loop"
    DESCRIPTION = "Runs the nodes up to End Loop several times, with one value carried from each iteration to the next."
    CATEGORY = "utilities/looping"
    INPUT_IS_LIST = True
    RETURN_TYPES = ("INT", "BOOLEAN", "BOOLEAN", MATCH, MATCH)
    RETURN_NAMES = ("iteration_index", "is_first", "is_last", "list_item", "current_iteration_value")
    OUTPUT_MATCHTYPES = (None, None, None, "list_item", "carried_value")
    OUTPUT_TOOLTIPS = ("Number of this iteration.", "Whether it is the first.", "Whether it is the last.",
                       "This iteration's item, in List mode.",
                       "initial_iteration_value, then what End Loop got as next_iteration_value.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls):
        modes = [
            _option("simple", num_iterations=_int(4, "How many iterations.", min=0)),
            _option("For", start_iteration_index=_int(0, "The first number."), max_iteration=_int(4, "The number to stop before.", max=MOST),
                    step=_int(1, "From one number to the next.", min=1)),
            _option("List", list=_match("list_item", "One iteration for each item.")),
        ]
        return {
            "required": {
                "mode": (DYNAMIC_COMBO, {"tooltip": "What decides how many iterations there are.", "options": modes}),
                "cache_iterations": ("BOOLEAN", {"default": False, "advanced": True,
                                                 "tooltip": "Keep the result while nothing in the loop changes; else it runs every time."}),
            },
            "optional": {
                "parent_iteration": ("INT", {"forceInput": True, "tooltip": "iteration_index of the loop around this one."}),
                "initial_iteration_value": _match("carried_value", "The carried value of the first iteration."),
            },
        }

    @classmethod
    def IS_CHANGED(cls, cache_iterations=(False,), **_):
        return None if cache_iterations[0] else float("nan")


class EndLoop:
    DISPLAY_NAME = "End Loop"
    DESCRIPTION = "Where a loop ends: passes on the last iteration's value, or all of them."
    CATEGORY = "utilities/looping"
    INPUT_IS_LIST = True
    RETURN_TYPES, RETURN_NAMES, OUTPUT_IS_LIST = (MATCH,), ("outputs",), (True,)
    OUTPUT_MATCHTYPES = ("output_value",)
    OUTPUT_TOOLTIPS = ("output_value of the last iteration, or of all.",)
    FUNCTION = "expand"

    @classmethod
    def INPUT_TYPES(cls):
        # rawLink: what is wired in here is the loop's body, which the copies run and not the originals.
        termination = ("*", {"tooltip": "Something that each iteration must run, such as a preview.", "rawLink": True})
        return {
            "required": {"accumulate": ("BOOLEAN", {"default": False, "tooltip": "Pass on output_value of every iteration."})},
            "optional": {
                "output_value": _match("output_value", "What the loop passes on.", rawLink=True),
                "next_iteration_value": _match("carried_value", "The carried value of the next iteration.", rawLink=True),
                "terminations": (AUTOGROW, {"tooltip": "What each iteration must run; its value goes nowhere.", "template": {
                    "input": {"required": {"termination": termination}}, "prefix": "termination", "min": 0, "max": 50}}),
            },
            "hidden": {"dynprompt": "DYNPROMPT", "unique_id": "UNIQUE_ID"},
        }

    def expand(self, accumulate, dynprompt, unique_id, **_):
        """Leave the copies to a node that gets Start Loop's inputs, because these may be wired."""
        graph = GraphBuilder()
        start = dynprompt[0].get_node(dynprompt[0].loops[unique_id[0]].start)
        run = graph.node("LoopExpansion", end=unique_id[0], accumulate=accumulate[0], **start["inputs"])
        return {"result": (run.out(0),), "expand": graph.finalize()}


# --- what a loop expands to ---------------------------------------------------------------------------------------------------

class _Inner(io.ComfyNode):
    """A node that only loops add. It takes inputs of any names, all as lists."""

    inputs: list = []
    outputs: list = []
    hidden_values: list = []

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id=cls.__name__, category="utilities/looping", is_input_list=True, is_dev_only=True, accept_all_inputs=True,
                         enable_expand=True, inputs=list(cls.inputs), outputs=list(cls.outputs), hidden=list(cls.hidden_values))


class LoopExpansion(_Inner):
    """The iterations from `begin` on. It is put in place of an End Loop, and then in place of itself for the next ones."""

    inputs = [io.AnyType.Input("initial_iteration_value", optional=True, raw_link=True)]
    outputs = [io.AnyType.Output(is_output_list=True)]
    hidden_values = [io.Hidden.dynprompt]

    @classmethod
    def execute(cls, end, accumulate, begin=(0,), prefix=(None,), cache_iterations=(False,), initial_iteration_value=(None,), **chosen):
        numbers, items = _numbers(chosen)
        graph, result = _copies(cls.hidden.dynprompt, end[0], numbers, items, begin[0], initial_iteration_value[0], accumulate[0],
                                cache_iterations[0], GraphBuilder(prefix[0]))
        return io.NodeOutput(result, expand=graph)

    @classmethod
    def fingerprint_inputs(cls, **_):
        # The body is no input of this node, so its inputs do not say whether it would make the same copies.
        return float("nan")


def _numbers(chosen: dict[str, list]) -> tuple[range, list | None]:
    """Start Loop's inputs → iteration_index of each iteration, and the items of List mode. Raises ValueError for more than can be run."""
    mode = chosen["mode"][0]
    if mode == "List":
        return range(len(chosen["mode.list"])), chosen["mode.list"]
    if mode == "For":
        numbers = range(*(chosen[f"mode.{name}"][0] for name in ("start_iteration_index", "max_iteration", "step")))
    else:
        numbers = range(chosen["mode.num_iterations"][0])
    try:
        len(numbers)
    except OverflowError:
        raise ValueError(f"a loop of {numbers.stop} iterations can't be run") from None
    return numbers, None


def _copies(dynprompt: Any, end: str, numbers: range, items: list | None, begin: int, initial: Any, accumulate: bool, cache: bool,
            graph: GraphBuilder) -> tuple[dict, list]:
    """→ the nodes of some iterations, each wired to the one before, and the link to what End Loop passes on."""
    loop, gates = dynprompt.loops[end], dynprompt.get_node(end)["inputs"]
    carried, collected, iteration_of = initial, {}, {}
    stop = min(begin + AT_ONCE, len(numbers))
    for position in range(begin, stop):
        iteration = graph.node("LoopIteration", f"{position}", iteration_index=numbers[position], is_first=position == 0,
                               is_last=position == len(numbers) - 1, cache_iterations=cache,
                               list_item={"__value__": items[position] if items is not None else None})
        iteration.set_input("current_iteration_value", carried)
        iteration.set_override_display_id(loop.start)
        copies = {loop.start: iteration}
        for id in loop.body:
            copies[id] = graph.node(dynprompt.get_node(id)["class_type"], f"{position}_{id}")
            copies[id].set_override_display_id(id)
            iteration_of[copies[id].id] = numbers[position]

        def copied(value: Any) -> Any:
            return copies[value[0]].out(value[1]) if is_link(value) and value[0] in copies else value

        for id in loop.body:
            for name, value in dynprompt.get_node(id)["inputs"].items():
                copies[id].set_input(name, copied(value))
            if id in dynprompt.loops:
                inner = dynprompt.loops[id]
                dynprompt.loops[copies[id].id] = Loop(copies[inner.start].id, [copies[one].id for one in inner.body])
        # Everything that is wired into End Loop runs in every iteration, passed on or not.
        passed_on = accumulate or position == len(numbers) - 1
        for name, value in gates.items():
            if is_link(value) and name != "accumulate":
                collected[f"{position} {'result' if name == 'output_value' and passed_on else name}"] = copied(value)
        if is_link(gates.get("next_iteration_value")):
            carried = copied(gates["next_iteration_value"])
    if stop < len(numbers):
        # Ids are numbered on under the same prefix: ids in ids in ids would soon be long.
        rest = graph.node("LoopExpansion", f"{stop} rest", end=end, accumulate=accumulate, begin=stop, prefix=graph.prefix,
                          **dynprompt.get_node(loop.start)["inputs"])
        rest.set_input("initial_iteration_value", carried)
        collected["rest result"] = rest.out(0)
    result = graph.node("LoopResult", f"{begin} result" if begin else "result", **collected)
    nodes = graph.finalize()
    for id, number in iteration_of.items():
        nodes[id]["iteration"] = number
    return nodes, result.out(0)


class LoopIteration(_Inner):
    inputs = [io.Boolean.Input("cache_iterations")]
    outputs = [io.Int.Output(), io.Boolean.Output(), io.Boolean.Output(), io.AnyType.Output(), io.AnyType.Output(is_output_list=True)]

    @classmethod
    def execute(cls, iteration_index, is_first, is_last, list_item, cache_iterations, current_iteration_value=(None,)):
        return io.NodeOutput(iteration_index[0], is_first[0], is_last[0], list_item[0], list(current_iteration_value))

    @classmethod
    def fingerprint_inputs(cls, cache_iterations=(False,), **_):
        return StartLoop.IS_CHANGED(cache_iterations)


class LoopResult(_Inner):
    outputs = [io.AnyType.Output(is_output_list=True)]

    @classmethod
    def execute(cls, **collected):
        return io.NodeOutput([value for name, values in collected.items() if name.endswith(" result") for value in values])


NODES = {node.__name__: node for node in (StartLoop, EndLoop, LoopExpansion, LoopIteration, LoopResult)}
