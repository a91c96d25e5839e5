"""Checks a prompt from the front end and makes a job of it, or answers in ComfyUI's form what is wrong and where."""

import re
import time
from typing import Any
import uuid

from .. import pack, replace
from ..errors import WorkflowError, plain, shown
from ..executor import Executor
from ..node_types import NodeType
from ..validate import own_title
from ..workflow import parse_workflow
from .jobs import Job, Jobs

# Keys to other people's services, which the front end may send along; nothing here needs them.
SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")

# What the front end calls our mistakes; it has texts of its own for some.
KINDS = {
    "is required, but missing": "required_input_missing",
    "is below its least value": "value_smaller_than_min",
    "is above its greatest value": "value_bigger_than_max",
    "is not one of": "value_not_in_list",
    "but is wired to": "return_type_mismatch",
    "is not a wire": "bad_linked_input",
    "go round in a circle": "dependency_cycle",
    "has no output node": "prompt_no_outputs",
}
NODE = re.compile(r"node (\S+) \(")
INPUT = re.compile(r"\): (?:input ')?(\w[\w.]*)")


class Refused(Exception):
    """A prompt that cannot be run. `answer`: the JSON that ComfyUI would send."""

    def __init__(self, kind: str, message: str, details: str = "", node_errors: dict | None = None, **extra_info: Any):
        super().__init__(message)
        error = {"type": kind, "message": message, "details": details, "extra_info": extra_info}
        self.answer = {"error": error, "node_errors": node_errors or {}}


def read_job(body: dict, executor: Executor, jobs: Jobs) -> Job:
    """The body of a POST to /prompt → a job; raises Refused."""
    if "prompt" not in body:
        raise Refused("no_prompt", "No prompt provided", "No prompt provided")
    id, extra_data = _id(body), _extra_data(body)
    prompt = _nodes(body["prompt"], executor)
    targets = body.get("partial_execution_targets")
    if isinstance(targets, list):
        prompt = _needed_by(targets, prompt)
    try:
        checked, _, _ = executor.check(prompt)
    except WorkflowError as error:
        raise _refused(str(error), prompt, executor) from error
    number = body.get("number")
    if type(number) not in (int, float):
        number = jobs.number(front=bool(body.get("front")))
    return Job(number, id, prompt, extra_data, checked.outputs)


def _id(body: dict) -> str:
    id = body.get("prompt_id")
    if id is None:
        return str(uuid.uuid4())
    try:
        if str(uuid.UUID(id)) == id:
            return id
    except (ValueError, AttributeError, TypeError):
        pass
    raise Refused("invalid_prompt_id", f"prompt_id {shown(id)} is not a UUID in lower case with hyphens")


def _extra_data(body: dict) -> dict:
    extra_data, client = body.get("extra_data") or {}, body.get("client_id")
    if not isinstance(extra_data, dict) or not isinstance(extra_data.get("extra_pnginfo") or {}, dict):
        raise Refused("invalid_prompt", "extra_data is not a JSON object, or the extra_pnginfo in it is none")
    kept = {name: value for name, value in extra_data.items() if name not in SECRETS}
    if isinstance(client, str) and client:
        kept["client_id"] = client
    return kept | {"create_time": int(time.time() * 1000)}


def _nodes(data: Any, executor: Executor) -> dict[str, dict]:
    """Node id → node. Raises Refused for a node type that is not installed."""
    try:
        prompt = replace.in_prompt(parse_workflow(data, {}).prompt, pack.renamed(), executor.classes) if data else {}
    except WorkflowError as error:
        raise Refused("invalid_prompt", str(error)) from error
    for id, node in prompt.items():
        if node["class_type"] not in executor.classes:
            title = own_title(node) or shown(node["class_type"])
            raise Refused("missing_node_type", f"Node {title} is not here: there is no node type {shown(node['class_type'])}",
                          f"Node ID '#{plain(id, 60)}'", node_id=id, class_type=node["class_type"], node_title=title)
    return prompt


def _needed_by(targets: list, prompt: dict[str, dict]) -> dict[str, dict]:
    """The nodes of a prompt that some of its nodes need, and these nodes."""
    found, waiting = set(), [id for id in map(str, targets) if id in prompt]
    while waiting:
        id = waiting.pop()
        if id in prompt and id not in found:
            found.add(id)
            waiting += [str(value[0]) for value in prompt[id]["inputs"].values() if isinstance(value, list) and value]
    return {id: node for id, node in prompt.items() if id in found}


def _refused(why: str, prompt: dict[str, dict], executor: Executor) -> Refused:
    """Attach an error line to the node and the input that it names."""
    kind = next((kind for words, kind in KINDS.items() if words in why), "custom_validation_failed")
    node, input = NODE.match(why), INPUT.search(why)
    if node is None or node[1] not in prompt:
        return Refused(kind, why)
    extra_info = {"input_name": input[1]} if input and input[1] in _inputs(prompt[node[1]], executor) else {}
    details = extra_info.get("input_name", "")
    if details and kind == "custom_validation_failed":
        details += f" - {why.partition('): ')[2]}"
    error = {"type": kind, "message": why, "details": details, "extra_info": extra_info}
    at = {"errors": [error], "dependent_outputs": [], "class_type": prompt[node[1]]["class_type"]}
    return Refused("prompt_outputs_failed_validation", "Prompt outputs failed validation", why, {node[1]: at})


def _inputs(node: dict, executor: Executor) -> set[str]:
    """The inputs that a node has or should have."""
    return set(node["inputs"]) | set(NodeType(node["class_type"], executor.classes[node["class_type"]]).sockets)
