"""Whether a prompt can be run: known nodes, wires of fitting types, values within their limits, no circles."""

from dataclasses import dataclass
import inspect
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

from .comfy_api_standin.graph_utils import is_link
from .errors import WorkflowError, one_line, plain, shown
from .node_types import MATCH, NodeType, Socket

_CASTS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


class Circle(Exception):
    """Wires that form a circle; the message lists its nodes."""


@dataclass
class Checked:
    """A prompt with its values cast to their types; its output nodes; and the nodes that these need, sources first."""

    prompt: dict[str, dict]
    outputs: list[str]
    needed: list[str]


def check(prompt: Mapping[str, dict], types: Mapping[str, NodeType], more_goals: Sequence[str] = ()) -> Checked:
    """Check a prompt before it runs. Raises WorkflowError for the first mistake."""
    unknown = sorted({node["class_type"] for node in prompt.values() if node["class_type"] not in types})
    if unknown:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise WorkflowError(f"the workflow needs nodes that are not here: {', '.join(unknown[:8])}{more}")
    outputs = [id for id, node in prompt.items() if types[node["class_type"]].is_output_node]
    if not outputs:
        raise WorkflowError("nothing to run: the workflow has no output node, such as SaveImage")
    outputs += more_goals
    own = {id: {**node, "inputs": types[node["class_type"]].chosen(node["inputs"])} for id, node in prompt.items()}
    checked = Checked(own, outputs, [])
    needed: dict[str, None] = {}

    def sources(id: str) -> Iterator[str]:
        node = checked.prompt[id]
        declared = types[node["class_type"]].sockets
        for name, value in node["inputs"].items():
            if isinstance(value, list) and name in declared:
                _check_wire(id, declared[name], value, checked.prompt, types)
                yield value[0]

    for output in outputs:
        try:
            depth_first(output, needed.__contains__, sources, needed.setdefault)
        except Circle as error:
            raise WorkflowError(f"the wires go round in a circle: {error}") from error
    checked.needed = list(needed)
    mistakes = [mistake for id in needed for mistake in _mistakes(id, checked.prompt, types)]
    if mistakes:
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        raise WorkflowError(mistakes[0] + more)
    return checked


def depth_first(goal: str, is_done: Callable[[str], bool], sources: Callable[[str], Iterable[str]], finish: Callable[[str], Any]) -> None:
    """Finish `goal` after all that it needs. Each node's sources are gone through once; a node that is not done when it was finished, such
    as one that has expanded, is asked for its sources again. Raises Circle."""
    path: dict[str, Iterator[str]] = {}
    if not is_done(goal):
        path[goal] = iter(sources(goal))
    while path:
        here = next(reversed(path))
        for source in path[here]:
            if source in path:
                around = list(path)[list(path).index(source):]
                raise Circle(" → ".join([*around, source]))
            if not is_done(source):
                path[source] = iter(sources(source))
                break
        else:
            finish(here)
            if is_done(here):
                del path[here]
            else:
                path[here] = iter(sources(here))


def describe(id: str, prompt: Mapping[str, dict], types: Mapping[str, NodeType]) -> str:
    """`node 7 (DiTBlocksPatchify "my title")`; the title only if the user gave one."""
    node, id = prompt[id], plain(id, 60)
    class_type = plain(node["class_type"], 80)
    own = own_title(node)
    usual = (class_type, types[class_type].display_name if class_type in types else class_type)
    return f'node {id} ({class_type} "{own}")' if own and own not in usual else f"node {id} ({class_type})"


def own_title(node: Mapping) -> str:
    """The title that the user gave a node, empty if there is none."""
    title = (node.get("_meta") or {}).get("title")
    return plain(title, 80) if isinstance(title, str) else ""


def unwrap(value: Any) -> Any:
    """A widget's value; one that is a list is wrapped in a prompt, where lists are wires."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def _check_wire(id: str, socket: Socket, value: list, prompt: Mapping[str, dict],
                types: Mapping[str, NodeType]) -> None:
    at = f"{describe(id, prompt, types)}: input {socket.name!r}"
    if not is_link(value):
        raise WorkflowError(f"{at}: {shown(value)} is not a wire, which is a node's id and an output's number")
    source, slot = value
    if source not in prompt:
        raise WorkflowError(f"{at} is wired to {source if ' ' in source else f'node {source}'}, which does not exist")
    count = len(types[prompt[source]["class_type"]].output_types)
    if not 0 <= slot < count or slot != int(slot):
        raise WorkflowError(f"{at} is wired to output {slot} of {describe(source, prompt, types)}, which has {count}")
    offered = offered_type(source, slot, prompt, types)
    if not fits(offered, socket.type):
        raise WorkflowError(f"{at} takes {socket.type}, but is wired to {offered} of {describe(source, prompt, types)}")


def offered_type(id: str, slot: float, prompt: Mapping[str, dict], types: Mapping[str, NodeType]) -> Any:
    """The type of an output. An output that takes the type of an input has that of its wire, or "*" without one."""
    seen: set[str] = set()
    while id in prompt and id not in seen:
        kind = types[prompt[id]["class_type"]]
        if not 0 <= slot < len(kind.output_types) or kind.output_types[int(slot)] != MATCH:
            return kind.output_types[int(slot)] if 0 <= slot < len(kind.output_types) else "*"
        seen.add(id)
        template = kind.output_templates[int(slot)]
        wires = [value for name, value in prompt[id]["inputs"].items() if name in kind.sockets and is_link(value)
                 and kind.sockets[name].options.get("template", {}).get("template_id") == template]
        if wires:
            id, slot = wires[0]
    return "*"


def fits(offered: Any, taken: str) -> bool:
    if isinstance(offered, list):
        return taken in ("COMBO", "*", MATCH)
    a, b = ({word.strip() for word in kinds.split(",")} for kinds in (offered, taken))
    return bool(a & b) or bool({"*", MATCH} & (a | b))


def _mistakes(id: str, prompt: Mapping[str, dict], types: Mapping[str, NodeType]) -> Iterator[str]:
    node = prompt[id]
    kind = types[node["class_type"]]
    inputs = node["inputs"]
    at = describe(id, prompt, types)
    own_check = kind.method("validate_inputs", {})
    parameters = inspect.signature(own_check).parameters if own_check else {}
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    sound = True
    for name, socket in kind.sockets.items():
        if name in inputs and inputs[name] is None and not socket.takes_values:
            del inputs[name]
        if name not in inputs:
            if socket.required and socket.is_chosen(inputs):
                sound = False
                yield f"{at}: input {name!r} is required, but missing"
        elif not is_link(inputs[name]):
            try:
                value = unwrap(inputs[name])
                if not socket.takes_values:
                    raise ValueError(f"takes a wire of {socket.type}, not the value {shown(value)}")
                value = _cast(value, socket)
                # A node that checks an input itself has the last word on it.
                if name not in parameters and not takes_all:
                    _check_limits(value, socket)
                inputs[name] = {"__value__": value} if isinstance(value, list) else value
            except ValueError as error:
                sound = False
                yield f"{at}: {name} {error}"
    if own_check and sound:
        given = {name: None if is_link(inputs[name]) else unwrap(inputs[name]) for name in kind.sockets
                 if name in inputs and (name in parameters or takes_all)}
        if "input_types" in parameters:
            given["input_types"] = {name: types[prompt[value[0]]["class_type"]].output_types[int(value[1])]
                                    for name, value in inputs.items() if is_link(value) and name in kind.sockets}
        yield from _own_mistake(own_check, given, kind, at)


def _own_mistake(own_check: Callable, given: dict, kind: NodeType, at: str) -> Iterator[str]:
    if kind.is_input_list:
        given = {name: [value] for name, value in given.items()}
    try:
        answer = own_check(**given)
    except Exception as error:
        answer = one_line(error)
    if answer is not True:
        yield f"{at}: {answer if isinstance(answer, str) else 'its inputs are not valid'}"


def _cast(value: Any, socket: Socket) -> Any:
    cast = _CASTS.get(socket.type)
    if cast is None:
        return value
    try:
        return cast(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"= {shown(value)} is not {socket.type}") from error


def _check_limits(value: Any, socket: Socket) -> None:
    least, most = socket.options.get("min"), socket.options.get("max")
    if isinstance(value, (int, float)):
        if value != value:
            raise ValueError("is not a number (NaN)")
        if least is not None and value < least:
            raise ValueError(f"= {shown(value)} is below its least value, {least}")
        if most is not None and value > most:
            raise ValueError(f"= {shown(value)} is above its greatest value, {most}")
    if socket.choices is not None:
        chosen = value if socket.options.get("multiselect") and isinstance(value, list) else [value]
        for choice in chosen:
            if choice not in socket.choices:
                some = ", ".join(map(str, socket.choices[:20])) + (", …" if len(socket.choices) > 20 else "")
                raise ValueError(f"= {shown(choice)} is not one of: {some or 'nothing'}")
