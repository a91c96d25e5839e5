"""The `dit-blocks` command: what it prints, where, and how it ends."""

import asyncio
import json
from pathlib import Path
import runpy
import subprocess
import sys

from PIL import Image
import pytest

from dit_blocks.standalone import cli, comfy_api_standin, pack
from dit_blocks.standalone.core_nodes import NODES as CORE

comfy_api_standin.install()
DUMMIES = {cls.GET_SCHEMA().node_id: cls
           for cls in runpy.run_path(str(Path(__file__).with_name("standalone_nodes.py")))["NODES"]}


@pytest.fixture
def dummies(monkeypatch, tmp_path):
    """The command over small nodes, in an empty folder."""
    monkeypatch.setattr(pack, "load", lambda: CORE | DUMMIES)
    monkeypatch.setattr(pack, "listen", lambda progress: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


GRAPH = {"1": {"class_type": "T_Picture", "inputs": {"width": 6, "level": 0.5}, "_meta": {"title": "Source"}},
         "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "p"}},
         "3": {"class_type": "T_Number", "inputs": {"value": 5}},
         "4": {"class_type": "T_Show", "inputs": {"value": ["3", 0]}, "_meta": {"title": "Five"}}}


def write(folder, graph=GRAPH):
    path = folder / "w.json"
    path.write_text(json.dumps(graph))
    return str(path)


def test_run_prints_texts_and_paths(dummies, capsys):
    assert cli.main(["run", write(dummies), "--out", "made"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["Five: 5", str(dummies / "made" / "p_00001_.png")] and err == ""


def test_a_workflow_of_a_newer_pack_is_told_and_run(dummies, capsys):
    own = pack.own_version()
    graph = {"nodes": [{"id": 1, "type": "T_Number", "widgets_values": [5]},
                       {"id": 2, "type": "T_Show", "inputs": [{"name": "value", "type": "INT", "link": 1}]}], "links": [[1, 1, 0, 2, 0, "INT"]]}
    signed = {"99.10": "99.10", own: "", "0.0.99": "", None: "", 7: ""}
    for version, told in signed.items():
        path = write(dummies, graph | {"extra": {"dit_blocks": {"version": version}}})
        assert cli.main(["run", path]) == 0
        line = f"dit-blocks: {path}: saved with DiT Blocks 99.10; this is {own}. It may draw otherwise until the pack is updated\n"
        assert capsys.readouterr().err == (line if told else "")
    for extra in (None, [7], {"dit_blocks": []}, {}):
        assert cli.main(["run", write(dummies, graph | {"extra": extra})]) == 0
        assert capsys.readouterr().err == ""


def test_run_prints_one_json_object(dummies, capsys):
    assert cli.main(["run", write(dummies), "--json", "--set", "Source.width=9"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report) == {"images", "seconds", "device", "nodes"}
    assert report["images"] == [str(dummies / "output" / "p_00001_.png")]
    assert {(node["id"], node["type"], node["cached"]) for node in report["nodes"]} == {
        ("1", "T_Picture", False), ("2", "SaveImage", False), ("3", "T_Number", False), ("4", "T_Show", False)}
    assert all(set(node) == {"id", "type", "seconds", "cached"} and node["seconds"] >= 0 for node in report["nodes"])
    saved = Image.open(report["images"][0])
    assert saved.width == 9 and json.loads(saved.text["prompt"])["1"]["inputs"]["width"] == 9


def test_run_reads_from_the_input_folder(dummies, capsys):
    (dummies / "mine").mkdir()
    Image.new("RGB", (7, 5)).save(dummies / "mine" / "x.png")
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
             "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "p"}}}
    assert cli.main(["run", write(dummies, graph), "--input", "mine"]) == 0
    assert Image.open(capsys.readouterr().out.strip()).size == (7, 5)


@pytest.mark.parametrize("arguments, why", [
    (["run", "none.json"], "none.json: there is no such file"),
    (["run", "w.json", "--set", "9.x=1"], "--set 9.x=1: no node '9'"),
    (["run", "w.json", "--set", "3.value=101"], "value = 101 is above"),
    (["run", "w.json", "--out", "w.json"], "is a file, not a folder"),
    (["run", "w.json", "--speed", "9"], "unrecognized arguments: --speed 9"),
    (["run"], "the following arguments are required"),
    (["walk"], "invalid choice: 'walk'"),
    ([], "required"),
    (["train", "none.toml"], "none.toml: there is no such file"),
    (["eval", "embedded", "--prompts", "none.txt"], "none.txt: there is no such file"),
    (["eval", "other"], "invalid choice: 'other'"),
])
def test_what_is_wrong_is_one_line_and_status_2(dummies, capsys, arguments, why):
    write(dummies)
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("dit-blocks: ") and why in err
    assert not (dummies / "output").exists()


def test_nodes_that_are_not_here_are_named(dummies, capsys):
    graph = GRAPH | {"5": {"class_type": "KSampler", "inputs": {}}, "6": {"class_type": "FooBar", "inputs": {}}}
    assert cli.main(["run", write(dummies, graph)]) == 2
    assert "nodes that are not here: FooBar, KSampler" in capsys.readouterr().err


def test_a_failing_node_is_status_1(dummies, capsys):
    graph = GRAPH | {"3": {"class_type": "T_Fail", "inputs": {"value": 1}}}
    assert cli.main(["run", write(dummies, graph)]) == 1
    assert capsys.readouterr().err == "dit-blocks: node 3 (T_Fail): value 1 is not good\n"


def test_ctrl_c_is_status_130(dummies, capsys, monkeypatch):
    def stopped(cls, **inputs):
        raise KeyboardInterrupt
    monkeypatch.setattr(DUMMIES["T_Number"], "execute", classmethod(stopped))
    assert cli.main(["run", write(dummies)]) == 130
    assert capsys.readouterr().err == "dit-blocks: interrupted\n"


def test_nodes_lists_everything(dummies, capsys):
    assert cli.main(["nodes"]) == 0
    assert "T_Number" in capsys.readouterr().out
    assert cli.main(["nodes", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(CORE) | set(DUMMIES)


def test_the_real_pack_loads():
    classes = pack.load()
    assert set(CORE) <= set(classes) and "DiTBlocksPatchify" in classes
    assert classes["DiTBlocksPatchify"].GET_NODE_INFO_V1()["python_module"] == pack.PYTHON_MODULE


def test_a_mistyped_command_is_told_before_torch_is_loaded():
    code = "import sys, dit_blocks.standalone.cli as cli; cli.main([]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_real_packs_nodes_run_here(monkeypatch, tmp_path, capsys):
    classes = pack.load()
    monkeypatch.setattr(pack, "load", lambda: classes | DUMMIES)
    monkeypatch.chdir(tmp_path)
    graph = {"1": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
             "2": {"class_type": "DiTBlocksPatchify", "inputs": {"latent": ["1", 0], "patch_size": 2}},
             "3": {"class_type": "T_Show", "inputs": {"value": ["2", 0]}}}
    assert cli.main(["run", write(tmp_path, graph)]) == 0
    assert "Patchify: 1024 tokens of 16 values" in capsys.readouterr().out
    assert cli.main(["run", write(tmp_path, graph), "--set", "Patchify.patch_size=0"]) == 1
    assert "node 2 (DiTBlocksPatchify): Patchify: " in capsys.readouterr().err


def test_a_dummy_pack_is_an_extension_like_any_other():
    namespace = runpy.run_path(str(Path(__file__).with_name("standalone_nodes.py")))
    extension = asyncio.run(namespace["comfy_entrypoint"]())
    assert len(asyncio.run(extension.get_node_list())) == len(DUMMIES)
