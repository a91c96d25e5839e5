"""The pack as it is once a node has had another id: what it was called, where its values lay, and the workflows of that time."""

import copy
import json
from pathlib import Path
import shutil

from comfyui_host import ROOT

from dit_blocks.nodes.replacements import renamed

OLD, NEW = "DiTBlocksCutUp", "DiTBlocksPatchify"
# The old node had its widgets in another order, one more of them, other names, and another output before the tokens.
ENTRY = renamed(OLD, NEW, ["chosen", "gone", "size"], {"latent": "picture", "dit": "dit", "patch_size": "size", "selection": "chosen"}, {0: 1})
NAMES = {pair["new_id"]: pair["old_id"] for pair in ENTRY["input_mapping"]}
SIZE, CHOSEN = 4, "0-2"


def pack_at(folder: Path) -> Path:
    """The pack, in `folder`, with ENTRY among its renamed nodes."""
    folder.mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name not in ("nodes", ".git", ".venv", "node_modules"):
            (folder / path.name).symlink_to(path, target_is_directory=path.is_dir())
    shutil.copytree(ROOT / "nodes", folder / "nodes", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "nodes" / "replacements.py").open("a", encoding="utf-8") as file:
        file.write(f"\nRENAMED.append({ENTRY!r})\n")
    return folder


def today() -> dict:
    """text_to_image, small, with patches of SIZE and CHOSEN ones, as the front end saves it."""
    workflow = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
    workflow["nodes"] = [node for node in workflow["nodes"] if node["type"] != "MarkdownNote"]
    values = {NEW: [SIZE, CHOSEN], "DiTBlocksSchedule": [2, "simple", 1.0], "DiTBlocksEmptyLatent": [64, 64, 1]}
    for node in workflow["nodes"]:
        node["widgets_values"] = values.get(node["type"], node["widgets_values"])
    return workflow


def then() -> dict:
    """The same as it was saved when the node had its old id."""
    workflow = today()
    node = next(node for node in workflow["nodes"] if node["type"] == NEW)
    node |= {"type": OLD, "widgets_values": [CHOSEN, True, SIZE], "properties": {"Node name for S&R": OLD},
             "outputs": [{"name": "grid", "type": "INT", "links": []}, *node["outputs"]]}
    for socket in node["inputs"]:
        socket["name"] = NAMES[socket["name"]]
    for link in workflow["links"]:
        if link[1] == node["id"]:
            link[2] = 1
    return workflow


def prompt_then(prompt: dict) -> dict:
    """A prompt of today as it was sent then."""
    prompt = copy.deepcopy(prompt)
    (old,) = [id for id, node in prompt.items() if node["class_type"] == NEW]
    inputs = prompt[old]["inputs"]
    prompt[old] |= {"class_type": OLD, "inputs": {NAMES[name]: value for name, value in inputs.items()} | {"gone": True}}
    for node in prompt.values():
        node["inputs"] = {name: [old, 1] if value == [old, 0] else value for name, value in node["inputs"].items()}
    return prompt
