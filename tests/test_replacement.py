"""A node that has had another id: workflows and prompts that name the old one run as before, without ComfyUI, served, and in it."""

import copy

from comfyui_host import Host, needs_comfyui
import numpy as np
from PIL import Image
import pytest
from renamed_pack import CHOSEN, ENTRY, NEW, OLD, SIZE, pack_at, prompt_then, then, today

from dit_blocks.nodes import replacements
from dit_blocks.standalone import pack
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.replace import in_prompt
from dit_blocks.standalone.workflow import parse_workflow

pytest.importorskip("aiohttp", reason="no aiohttp (pip install 'dit-blocks[standalone]')")
from serve_host import Serve  # noqa: E402

TYPES = {name: NodeType(name, cls) for name, cls in pack.load().items()}
PROMPT = parse_workflow(today(), TYPES).prompt


@pytest.fixture
def renamed(monkeypatch):
    monkeypatch.setattr(replacements, "RENAMED", [ENTRY])


def test_a_workflow_of_then_gives_the_prompt_of_today(renamed):
    (node,) = [node for node in PROMPT.values() if node["class_type"] == NEW]
    assert (node["inputs"]["patch_size"], node["inputs"]["selection"]) == (SIZE, CHOSEN)
    workflow = then()
    kept = copy.deepcopy(workflow)
    assert parse_workflow(workflow, TYPES).prompt == PROMPT and workflow == kept


def test_so_does_one_inside_a_subgraph(renamed):
    def grouped(workflow: dict) -> dict:
        names = "id", "origin_id", "origin_slot", "target_id", "target_slot", "type"
        inside = {"id": "all", "name": "All", "inputs": [], "outputs": [], "nodes": workflow["nodes"],
                  "links": [dict(zip(names, link)) for link in workflow["links"]]}
        return {"nodes": [{"id": 1, "type": "all", "inputs": [], "outputs": []}], "links": [], "definitions": {"subgraphs": [inside]}}
    prompt = parse_workflow(grouped(then()), TYPES).prompt
    assert prompt == parse_workflow(grouped(today()), TYPES).prompt and len(prompt) == len(PROMPT)


def test_a_prompt_of_then_becomes_the_one_of_today(renamed):
    old = prompt_then(PROMPT)
    assert any(node["class_type"] == OLD for node in old.values())
    assert parse_workflow(old, TYPES).prompt == PROMPT


def test_a_node_that_is_here_is_not_replaced_nor_one_by_a_node_that_is_not():
    old = prompt_then(PROMPT)
    assert in_prompt(old, [ENTRY], TYPES | {OLD: TYPES[NEW]}) == old
    assert in_prompt(old, [ENTRY], {name: kind for name, kind in TYPES.items() if name != NEW}) == old


# --- served, and in ComfyUI ---

@pytest.fixture(scope="module", params=["standalone", pytest.param("comfyui", marks=needs_comfyui)])
def host(request, tmp_path_factory):
    base = tmp_path_factory.mktemp(f"renamed_{request.param}")
    folder = pack_at(base / "pack" / "dit_blocks")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "standalone":
            patch.setenv("PYTHONPATH", str(folder.parent))
        running = Serve(base / "served") if request.param == "standalone" else Host(base / "comfyui", **{"dit-blocks": folder})
    yield running
    running.stop()


def draw(host, prompt: dict) -> np.ndarray:
    entry = host.run(prompt)
    assert entry["status"]["status_str"] == "success", entry["status"]
    (image,) = [image for output in entry["outputs"].values() for image in output.get("images", ()) if image["type"] == "output"]
    return np.asarray(Image.open(host.base / "output" / image["subfolder"] / image["filename"]))


def test_a_host_tells_of_it_and_runs_a_prompt_of_then(host):
    assert host.get("/node_replacements")[OLD] == host.get("/api/node_replacements")[OLD] == [ENTRY]
    assert OLD not in host.get("/object_info")
    titled = {id: {"_meta": {"title": id}} | node for id, node in PROMPT.items()}  # ComfyUI's replacement asks for titles
    assert np.array_equal(draw(host, prompt_then(titled)), draw(host, titled))
