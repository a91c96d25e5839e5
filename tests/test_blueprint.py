"""The exploded step as a subgraph blueprint: in the place of DiT Denoise Steps it draws their picture."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
import pytest

import dit_blocks
from dit_blocks.nodes.denoise import DenoiseStep
from dit_blocks.nodes.transformer import PositionEmbed, RunBlocks
from dit_blocks.standalone.cli import main

ROOT = Path(dit_blocks.__file__).parent
BLUEPRINT = json.loads((ROOT / "subgraphs" / "DiT Denoise Step (exploded).json").read_text(encoding="utf-8"))
(INSTANCE,), (DEFINITION,) = BLUEPRINT["nodes"], BLUEPRINT["definitions"]["subgraphs"]


def step_by_step(*exploded: str) -> dict:
    """The example of eight Denoise Steps, smaller, with the steps of these titles as instances of the blueprint."""
    workflow = json.loads((ROOT / "tests" / "golden" / "0.1.0" / "one_step_at_a_time.json").read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        if node["type"] == "DiTBlocksEmptyLatent":
            node["widgets_values"] = [128, 96, 1]
        if node.get("title") in exploded:
            node |= {"type": DEFINITION["id"], "widgets_values": [*node["widgets_values"], "model", "all"]}
    return workflow | {"definitions": BLUEPRINT["definitions"]}


def draw(workflow: dict, folder, *options: str) -> np.ndarray:
    folder.mkdir()
    (folder / "workflow.json").write_text(json.dumps(workflow))
    assert main(["run", str(folder / "workflow.json"), "--out", str(folder), *options]) == 0
    (picture,) = folder.rglob("*.png")
    return np.asarray(Image.open(picture))


def test_it_has_the_sockets_of_the_step_in_its_order():
    sockets = [socket["name"] for socket in DEFINITION["inputs"]]
    assert sockets == [socket["name"] for socket in INSTANCE["inputs"]]
    # stages have native patch sizes only, so there is no patch_method to choose
    assert sockets == [socket.id for socket in DenoiseStep.define_schema().inputs if socket.id != "patch_method"] + ["mode", "blocks"]
    assert [socket["name"] for socket in DEFINITION["outputs"]] == ["tokens", "denoised"]


def test_its_values_are_the_nodes_defaults():
    defaults = {socket.id: getattr(socket, "default", None)
                for node in (DenoiseStep, PositionEmbed, RunBlocks) for socket in node.define_schema().inputs}
    widgets = [socket["name"] for socket in INSTANCE["inputs"] if "widget" in socket]
    assert dict(zip(widgets, INSTANCE["widgets_values"], strict=True)) == {name: defaults[name] for name in widgets}


@pytest.mark.parametrize("titles", [("Step 3",), tuple(f"Step {i}" for i in range(8))], ids=["one step", "every step"])
def test_it_draws_the_picture_of_the_step(tmp_path, titles):
    steps, stages = draw(step_by_step(), tmp_path / "steps"), draw(step_by_step(*titles), tmp_path / "stages")
    assert np.array_equal(steps, stages) and stages.std() > 5


def test_its_widgets_reach_the_stages(tmp_path):
    def settings(title: str) -> list[str]:
        return [word for name, value in {"cfg": 5, "solver": "dpmpp_2m"}.items() for word in ("--set", f"{title}.{name}={value}")]
    steps = draw(step_by_step(), tmp_path / "steps", *settings("Step 3"))
    stages = draw(step_by_step("Step 3"), tmp_path / "stages", *settings("Step 3"))
    bag = draw(step_by_step("Step 3"), tmp_path / "bag", *settings("Step 3"), "--set", "Step 3.mode=none")
    assert np.array_equal(steps, stages) and not np.array_equal(stages, bag)


def test_the_whole_pipeline_as_one_node_draws_the_picture_of_the_example(tmp_path):
    blueprint = json.loads((ROOT / "subgraphs" / "Text to image (DiT).json").read_text(encoding="utf-8"))
    (node,) = blueprint["nodes"]
    assert [one["name"] for one in node["inputs"]] == ["prompt", "negative", "width", "height", "patch_size", "steps", "seed", "cfg"]
    node["outputs"][0]["links"] = [1]
    save = {"id": 90, "type": "SaveImage", "pos": [0, 0], "size": [300, 300], "flags": {}, "order": 1, "mode": 0, "properties": {},
            "inputs": [{"name": "images", "type": "IMAGE", "link": 1}], "outputs": [], "widgets_values": ["picture"]}
    whole = draw({**blueprint, "nodes": [node, save], "links": [[1, node["id"], 0, 90, 0, "IMAGE"]]}, tmp_path / "whole")
    example = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
    assert np.array_equal(whole, draw(example, tmp_path / "wires"))
