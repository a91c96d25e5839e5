"""Twenty steps as a loop of stages against DiT Denoise, on the default model: `python benchmarks/loop.py`.

The example `denoise_loop`, run outside ComfyUI with both over the same tokens; turn and turn about, median of 10; 256 × 256, p = 2, with
guidance. "loop of stages" is the example; "loop of DiT Denoise Step" leaves out what the stages cost.
"""

import json
from pathlib import Path
import statistics
import time

import torch

import dit_blocks
from dit_blocks.standalone import pack
from dit_blocks.standalone.executor import Executor
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.workflow import parse_workflow

EXAMPLE = Path(dit_blocks.__file__).parent / "example_workflows" / "denoise_loop.json"
WARM_UP, ROUNDS, STEPS = 2, 10, 20


def main() -> None:
    classes = pack.load()
    prompt = parse_workflow(json.loads(EXAMPLE.read_text(encoding="utf-8")), {name: NodeType(name, cls) for name, cls in classes.items()}).prompt
    ids = {node["class_type"]: id for id, node in prompt.items()}
    condition, start = (prompt[ids[name]]["inputs"] for name in ("DiTBlocksCondition", "StartLoop"))
    shared = {name: condition[name] for name in ("dit", "sigmas", "positive", "negative")} | {"cfg": 3.0, "solver": "euler"}

    class Sink:
        """Ends each variant, so that no picture is decoded and saved."""

        RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "take", True

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"tokens": ("DIT_TOKENS",)}}

        def take(self, tokens):
            taken.append(tokens["tokens"])
            return ()

    def variant(source: str, **nodes: dict) -> dict:
        graph = {id: node for id, node in prompt.items() if node["class_type"] != "SaveImage"} | nodes
        return graph | {"sink": {"class_type": "Sink", "inputs": {"tokens": [source, 0]}}}

    def one(class_type: str, **inputs) -> dict:
        return {"class_type": class_type, "inputs": {**shared, **inputs}}

    step = one("DiTBlocksDenoiseStep", tokens=["around", 4], step=["around", 0])
    variants = {
        "DiT Denoise": variant("macro", macro=one("DiTBlocksDenoise", tokens=start["initial_iteration_value"], start_step=0, end_step=10000)),
        "loop of stages": variant(ids["EndLoop"]),
        "loop of DiT Denoise Step": variant("close", around={"class_type": "StartLoop", "inputs": dict(start)}, step=step, close={
            "class_type": "EndLoop", "inputs": {"accumulate": False, "output_value": ["step", 0], "next_iteration_value": ["step", 0]}}),
    }
    taken: list[torch.Tensor] = []
    executors = {name: Executor(classes | {"Sink": Sink}) for name in variants}

    def seconds(name: str, round: int) -> float:
        """One run in which all before the steps is known already."""
        # A new cfg in each round, so that no step is.
        graph = json.loads(json.dumps(variants[name]))
        for node in graph.values():
            if "cfg" in node["inputs"]:
                node["inputs"]["cfg"] = 3 + round / 1000
        began = time.perf_counter()
        executors[name].run(graph)
        return time.perf_counter() - began

    rounds = {name: [] for name in variants}
    for round in range(WARM_UP + ROUNDS):
        for name in variants:
            rounds[name].append(seconds(name, round))
        assert torch.equal(taken[-3], taken[-2]) and torch.equal(taken[-3], taken[-1])
    whole = statistics.median(rounds["DiT Denoise"][WARM_UP:])
    for name, times in rounds.items():
        middle = statistics.median(times[WARM_UP:])
        print(f"{name:26} {middle / STEPS * 1000:6.2f} ms a step, {(middle - whole) / STEPS * 1000:+5.2f} ms ({middle / whole - 1:+.1%})")
    print(f"median of {ROUNDS}, {STEPS} steps, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
