"""The example workflows that need ComfyUI: over its MODELs, or with nodes that standalone does not have."""

import json
from types import SimpleNamespace

from comfyui_host import HERE, ROOT, Host, needs_comfyui
import numpy as np
from PIL import Image
import pytest

from dit_blocks.standalone.cli import main
from dit_blocks.standalone.workflow import parse_workflow

pytestmark = needs_comfyui
EXAMPLES = ROOT / "example_workflows"


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    running = Host(tmp_path_factory.mktemp("comfyui"), **{"small_models.py": HERE / "host_small_pack.py"})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def types(host) -> dict:
    """Every node of the host, as the reader of workflows asks for it."""
    return {name: SimpleNamespace(info=lambda info=info: info) for name, info in host.get("/object_info").items()}


def prompt_of(name: str, types: dict) -> dict:
    return parse_workflow(json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8")), types).prompt


def pictures(host, prompt: dict) -> dict[str, np.ndarray]:
    """Run: → prefix → picture."""
    entry = host.run(prompt)
    assert entry["status"]["status_str"] == "success", entry["status"]
    saved = [image for output in entry["outputs"].values() for image in output.get("images", ())]
    return {image["filename"].rsplit("_", 2)[0]: np.asarray(Image.open(host.base / "output" / image["subfolder"] / image["filename"]))
            for image in saved}


def test_ksampler_and_the_wires_draw_the_same(host, types):
    drawn = pictures(host, prompt_of("ksampler_parity", types))
    assert np.array_equal(drawn["parity_ksampler"], drawn["parity_wires"]) and drawn["parity_wires"].std() > 5
    assert not drawn["parity_difference"].any()


@pytest.mark.parametrize("name,architecture,files", [
    ("sd3_5", "sd3", {"ckpt_name": "sd3.5_large_fp8_scaled.safetensors"}),
    ("flux_dev", "flux_dev", {"unet_name": "flux1-dev.safetensors", "clip_name1": "clip_l.safetensors",
                              "clip_name2": "t5xxl_fp16.safetensors", "vae_name": "ae.safetensors"})])
def test_a_workflow_over_a_model_runs(host, types, name, architecture, files):
    prompt = prompt_of(name, types)
    inputs = {key: value for node in prompt.values() for key, value in node["inputs"].items()}
    assert files.items() <= inputs.items()
    for node in prompt.values():
        if f"Small{node['class_type']}" in types:
            node |= {"class_type": f"Small{node['class_type']}", "inputs": {"architecture": architecture}}
        elif node["class_type"] == "EmptySD3LatentImage":
            node["inputs"] |= {"width": 64, "height": 48}
        elif node["class_type"] == "DiTBlocksSchedule":
            node["inputs"]["steps"] = 3
    (picture,) = pictures(host, prompt).values()
    assert picture.shape == (48, 64, 3) and picture.std() > 1


def test_a_style_turns_ksamplers_picture(host, types):
    """Over a small SD3: the steered picture is another one, and at strength 0 the same."""
    prompt = prompt_of("steer_a_style", types)
    for node in prompt.values():
        kind, inputs = node["class_type"], node["inputs"]
        if f"Small{kind}" in types:
            node |= {"class_type": f"Small{kind}", "inputs": {"architecture": "sd3"}}
        inputs |= {"EmptySD3LatentImage": {"width": 64, "height": 48}, "DiTBlocksSchedule": {"steps": 9}, "KSampler": {"steps": 2},
                   "DiTBlocksRunBlocks": {"blocks": "0"}}.get(kind, {})
    (steer,) = (node for node in prompt.values() if node["class_type"] == "DiTBlocksSteerModel")
    steer["inputs"]["strength"] = 20.0  # its random blocks hardly read the text
    drawn = pictures(host, prompt)
    steer["inputs"]["strength"] = 0.0
    same = pictures(host, prompt)
    assert not np.array_equal(drawn["style_1_as_asked"], drawn["style_2_steered"]) and drawn["style_2_steered"].std() > 1
    assert np.array_equal(same["style_1_as_asked"], same["style_2_steered"])


@pytest.mark.parametrize("name", ["sd3_5", "flux_dev", "steer_a_style", "ksampler_parity"])
def test_standalone_says_which_nodes_it_lacks(name, tmp_path, capsys):
    assert main(["run", str(EXAMPLES / f"{name}.json"), "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "\n" not in said.strip() and ("KSampler" if name == "ksampler_parity" else "Loader") in said


def test_a_sweep_queues_its_cells_in_a_running_comfyui(host, tmp_path):
    """KSampler over DiT to MODEL and the wires, in ComfyUI: a front-end workflow, a good value and one that ComfyUI refuses."""
    file = tmp_path / "sweep.toml"
    file.write_text(f'workflow = "{(EXAMPLES / "ksampler_parity.json").as_posix()}"\n[grid]\n"KSampler.seed" = [1, 2]\n"KSampler.steps" = [2, 0]\n')
    assert main(["sweep", str(file), "--comfyui", host.url]) == 1
    rows = [json.loads(line) for line in (tmp_path / "sweep" / "cells.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4
    for row in rows:
        right = row["cell"]["KSampler.steps"] == 2
        assert bool(row["pictures"]) == right and ("steps" in row["error"]) != right, row
    assert (tmp_path / "sweep" / "sheet.png").is_file() and (tmp_path / "sweep" / "cells.parquet").is_file()
