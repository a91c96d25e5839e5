"""The pack inside a real ComfyUI: it loads without a warning, says the same of its nodes, and draws the same pictures."""

import json
import time
import urllib.error

from comfyui_host import ROOT, Host, needs_comfyui
from example_pictures import BRIEFLY, beside_standalone
import numpy as np
import patch_swap
from PIL import Image
import pytest

from dit_blocks.standalone import pack
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.workflow import read_workflow

NEED_COMFYUI = ("sd3_5", "flux_dev", "steer_a_style", "ksampler_parity")  # test_host_workflows.py
EXAMPLES = [path for path in sorted((ROOT / "example_workflows").glob("*.json")) if path.stem not in NEED_COMFYUI]

pytestmark = needs_comfyui


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    running = Host(tmp_path_factory.mktemp("comfyui"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def types() -> dict[str, NodeType]:
    return {name: NodeType(name, cls) for name, cls in pack.load().items()}


def test_the_pack_loads_without_a_warning(host):
    lines = [line for line in host.log().splitlines() if "dit-blocks" in line or "dit_blocks" in line]
    assert any("seconds" in line for line in lines), host.log()
    assert not [line for line in lines if "FAILED" in line or "Cannot import" in line or "warning" in line.lower()]


def test_the_blueprint_is_served(host):
    ours = {id: entry["name"] for id, entry in host.get("/global_subgraphs").items() if entry["info"]["node_pack"] == "custom_nodes.dit-blocks"}
    assert sorted(ours.values()) == ["DiT Denoise Step (exploded)", "Text to image (DiT)"]
    for id in ours:
        (definition,) = json.loads(host.get(f"/global_subgraphs/{id}")["data"])["definitions"]["subgraphs"]
        assert {node["type"] for node in definition["nodes"]} <= host.get("/object_info").keys()


def test_both_say_the_same_of_every_node(host, types):
    there = host.get("/object_info")
    ours = [name for name in types if name.startswith("DiTBlocks")]
    assert sorted(ours) == sorted(name for name in there if name.startswith("DiTBlocks"))
    for name in ours:
        here = types[name].info()
        assert {**here, "python_module": ""} == {**there[name], "python_module": ""}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_draws_the_same_picture_in_both(host, types, path, tmp_path_factory):
    prompt = read_workflow(path, types).prompt
    if any(node["class_type"] == "StartLoop" for node in prompt.values()) and "StartLoop" not in host.get("/object_info"):
        pytest.skip("this ComfyUI has no Start Loop")
    for id, inputs in BRIEFLY.get(path.stem, {}).items():
        prompt[id]["inputs"] |= inputs
    entry = host.run(prompt)
    assert entry["status"]["status_str"] == "success", entry["status"]
    found = beside_standalone(path.stem, entry, host.base, tmp_path_factory)
    assert max(found.values()) <= 1, found


def test_core_nodes_and_ours_take_the_same_vae_and_text_encoder(host, types):
    prompt = read_workflow(ROOT / "example_workflows" / "image_round_trip.json", types).prompt
    swapped = json.loads(json.dumps(prompt).replace("DiTBlocksVAEEncode", "VAEEncode").replace("DiTBlocksVAEDecode", "VAEDecode"))
    for node in swapped.values():
        if node["class_type"] == "VAEDecode":
            node["inputs"]["samples"] = node["inputs"].pop("latent")
    entries = [host.run(graph) for graph in (prompt, swapped)]
    pictures = [next(image for output in entry["outputs"].values() for image in output.get("images", ())) for entry in entries]
    a, b = (np.asarray(Image.open(host.base / "output" / p["subfolder"] / p["filename"])) for p in pictures)
    assert np.array_equal(a, b)


def test_another_patch_size_runs_again_from_patchify_on(host):
    host.run(patch_swap.graph(2))
    entry = host.run(patch_swap.graph(4))
    cached = next(body["nodes"] for event, body in entry["status"]["messages"] if event == "execution_cached")
    assert entry["status"]["status_str"] == "success" and set(cached) == set(patch_swap.BEFORE)


def test_a_cancelled_run_stops_before_its_end_and_the_next_one_works(host, types):
    prompt = read_workflow(ROOT / "example_workflows" / "text_to_image.json", types).prompt
    for node in prompt.values():
        if node["class_type"] == "DiTBlocksSchedule":
            node["inputs"]["steps"] = 900
    prompt_id = host.post("/prompt", {"prompt": prompt})["prompt_id"]
    time.sleep(4)
    host.post("/interrupt", {})
    entry = host.wait(prompt_id)
    assert any(event == "execution_interrupted" for event, _ in entry["status"]["messages"])
    again = host.run(read_workflow(ROOT / "example_workflows" / "text_to_image.json", types).prompt)
    assert again["status"]["status_str"] == "success"


def test_what_is_wrong_in_itself_is_told_before_anything_runs(host, types):
    prompt = read_workflow(ROOT / "example_workflows" / "text_to_image.json", types).prompt
    id, node = next((id, node) for id, node in prompt.items() if node["class_type"] == "DiTBlocksDenoise")
    node["inputs"] |= {"start_step": 4, "end_step": 2}
    with pytest.raises(urllib.error.HTTPError) as caught:
        host.post("/prompt", {"prompt": prompt})
    told = json.load(caught.value)["node_errors"][id]["errors"]
    assert {error["details"] for error in told} == {f"{name} - end_step 2 is not after start_step 4" for name in ("start_step", "end_step")}


def test_a_wrong_input_is_one_line_that_names_the_node(host, types):
    prompt = read_workflow(ROOT / "example_workflows" / "text_to_image.json", types).prompt
    for node in prompt.values():
        if node["class_type"] == "DiTBlocksPatchify":
            node["inputs"]["patch_size"] = 3
        if node["class_type"] == "DiTBlocksDenoise":
            node["inputs"]["patch_method"] = "resample"
    entry = host.run(prompt)
    message = next(body["exception_message"] for event, body in entry["status"]["messages"] if event == "execution_error")
    assert message.strip() == \
        "DiT Denoise: resample takes multiples of the embedded DiT's own patch size 2, not 3: pi_resize takes any"
