"""Twenty steps as a loop of stages against DiT Denoise, on the default model.

    python -m benchmarks.loop                        outside ComfyUI
    python -m benchmarks.loop COMFYUI [PYTHON]       inside the ComfyUI of that folder, under its .venv or that Python

The example `denoise_loop`: 256 × 256, p = 2, with guidance; all of them over the same tokens, turn and turn about, median of 10. "loop of
stages" is the example; "loop of DiT Denoise Step" leaves out what the stages cost. Processor time is all threads', in ComfyUI all of its
process': with one thread (OMP_NUM_THREADS=1) it is what an idle core would take, however busy the machine is.
"""

import json
import os
from pathlib import Path
import statistics
import sys
import tempfile
import time
from typing import Callable

import torch

import dit_blocks
from dit_blocks.standalone import pack
from dit_blocks.standalone.executor import Executor
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.workflow import parse_workflow

ROOT = Path(dit_blocks.__file__).parent
EXAMPLE = ROOT / "example_workflows" / "denoise_loop.json"
WARM_UP, ROUNDS, STEPS = 2, 10, 20


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def variants(last: Callable[[str], dict]) -> dict[str, dict]:
    """The same steps in three ways: name → prompt. last(id): what to do with that node's tokens, nodes by id."""
    types = {name: NodeType(name, cls) for name, cls in pack.load().items()}
    prompt = parse_workflow(json.loads(EXAMPLE.read_text(encoding="utf-8")), types).prompt
    ids = {one["class_type"]: id for id, one in prompt.items()}
    condition, start, end = (prompt[ids[name]]["inputs"] for name in ("DiTBlocksCondition", "StartLoop", "EndLoop"))
    shared = {name: condition[name] for name in ("dit", "sigmas", "positive", "negative")} | {"cfg": 3.0, "solver": "euler"}
    prompt |= {
        "macro": node("DiTBlocksDenoise", tokens=start["initial_iteration_value"], start_step=0, end_step=10000, **shared),
        "around": node("StartLoop", **start), "step": node("DiTBlocksDenoiseStep", tokens=["around", 4], step=["around", 0], **shared),
        "close": node("EndLoop", **{**end, "output_value": ["step", 0], "next_iteration_value": ["step", 0]})}
    ends = {"DiT Denoise": "macro", "loop of stages": ids["EndLoop"], "loop of DiT Denoise Step": "close"}
    return {name: needed(prompt | last(id), list(last(id))) for name, id in ends.items()}


def needed(prompt: dict, waiting: list[str]) -> dict:
    """Of a prompt, what these nodes need."""
    found: dict[str, dict] = {}
    while waiting:
        id = waiting.pop()
        found[id] = prompt[id]
        waiting += [value[0] for value in prompt[id]["inputs"].values() if isinstance(value, list) and value[0] not in found]
    return found


def fresh(prompt: dict, round: int) -> dict:
    """With a cfg of its own in each round, so that all before the steps is known already and no step is."""
    changed = json.loads(json.dumps(prompt))
    for one in changed.values():
        if "cfg" in one["inputs"]:
            one["inputs"]["cfg"] = 3 + round / 1000
    return changed


Timed = Callable[[int], tuple[float, float]]  # a round → seconds by the clock, and of processor time


def standalone() -> dict[str, Timed]:
    """Each variant, by the pack's own executor."""
    taken: list[torch.Tensor] = []

    class Sink:
        """Ends each variant, so that no picture is decoded and saved."""

        RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "take", True

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"tokens": ("DIT_TOKENS",)}}

        def take(self, tokens):
            taken.append(tokens["tokens"])
            assert torch.equal(taken[-1], taken[(len(taken) - 1) // 3 * 3])  # the first variant's of this round
            return ()

    def timed(prompt: dict) -> Timed:
        executor = Executor(pack.load() | {"Sink": Sink})

        def seconds(round: int) -> tuple[float, float]:
            graph, began, used = fresh(prompt, round), time.perf_counter(), time.process_time()
            executor.run(graph)
            return time.perf_counter() - began, time.process_time() - used
        return seconds
    return {name: timed(prompt) for name, prompt in variants(lambda id: {"sink": node("Sink", tokens=[id, 0])}).items()}


def used_by(pid: int) -> float:
    """Processor seconds of a process so far; Linux only."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def inside_comfyui(folder: str, python: str | None, base: Path) -> tuple[dict[str, Timed], Callable[[], None]]:
    """Each variant, by a ComfyUI, by the clock from its execution_start to its execution_success. And how to stop it."""
    os.environ |= {"COMFYUI_DIR": folder} | ({"COMFYUI_PYTHON": python} if python else {})
    sys.path.insert(0, str(ROOT / "tests"))
    from comfyui_host import Host
    host = Host(base / "comfyui")
    if "StartLoop" not in host.get("/object_info"):
        host.stop()
        sys.exit(f"the ComfyUI in {folder} has no Start Loop: it is older than September 2026")

    def timed(prompt: dict) -> Timed:
        def seconds(round: int) -> tuple[float, float]:
            used = used_by(host.process.pid)
            id = host.post("/prompt", {"prompt": fresh(prompt, round)})["prompt_id"]
            while not (found := host.get(f"/history/{id}")):
                time.sleep(1)  # a question costs the host time too
            status = found[id]["status"]
            assert status["status_str"] == "success", status
            at = {event: data["timestamp"] for event, data in status["messages"]}
            return (at["execution_success"] - at["execution_start"]) / 1000, used_by(host.process.pid) - used
        return seconds
    shown = variants(lambda id: {"map": node("DiTBlocksTokenMap", x=[id, 0], show="norm", scale=1), "last": node("PreviewImage", images=["map", 0])})
    return {name: timed(prompt) for name, prompt in shown.items()}, host.stop


def main() -> None:
    with tempfile.TemporaryDirectory() as base:
        if sys.argv[1:]:
            timed, stop = inside_comfyui(sys.argv[1], sys.argv[2] if sys.argv[2:] else None, Path(base))
        else:
            timed, stop = standalone(), lambda: None
        try:
            rounds = [{name: seconds(round) for name, seconds in timed.items()} for round in range(WARM_UP + ROUNDS)][WARM_UP:]
        finally:
            stop()
    for kind, at in (("by the clock", 0), ("processor time", 1)):
        middle = {name: statistics.median(one[name][at] for one in rounds) for name in timed}
        whole = middle["DiT Denoise"]
        for name, seconds in middle.items():
            print(f"{kind}: {name:26} {seconds / STEPS * 1000:6.2f} ms a step, {(seconds - whole) / STEPS * 1000:+6.2f} ms ({seconds / whole - 1:+.1%})")
    print(f"median of {ROUNDS}, {STEPS} steps, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
