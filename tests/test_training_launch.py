"""`dit-blocks train` by two processes on CPUs, under DDP and under FSDP: what one process does, resumed or not."""

import csv
import os
from pathlib import Path
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from dit_blocks.dit_impl.errors import TrainingError
from dit_blocks.dit_impl.sources.adapters import load_adapter
from dit_blocks.dit_impl.sources.dit_file import load_dit
from dit_blocks.dit_impl.training.launch import Launched
from dit_blocks.dit_impl.training.optimizers import optimizers_of
from dit_blocks.standalone.cli import main

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")
pytest.importorskip("accelerate", reason="no accelerate (pip install accelerate)")
COMMAND = {"DDP": ["-m", "dit_blocks.standalone.cli", "train"], "FSDP": [str(Path(__file__).with_name("sharded_train.py"))]}
# accelerate's --cpu starts one process, however many are asked for
KIND = {"DDP": ["--multi_gpu"], "FSDP": ["--use_fsdp", "--fsdp_version", "2"]}
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
          "--dynamo_backend", "no", "--main_process_port", "0"]
CONFIG = """
[model]
width = 32
depth = 2
heads = 2
patch_sizes = [2, 4]
prediction = "x0"
picture_size = 64
[set]
scenes = 11
size = 64
[train]
steps = {steps}
batch = 4
accumulate = 2
warmup = 1
ema = 0.5
validation = 5
scheduler = "constant"
"""
ADAPTER = """
[model]
file = "../one/taught.safetensors"
[set]
scenes = 9
size = 64
[train]
scope = "patch-size adapter"
patch_size = 8
rank = 2
steps = 3
batch = 4
learning_rate = 1e-2
warmup = 0
"""


def train(folder: Path, text: str, how: str = "") -> Path:
    """Train by a file, alone or by two processes: → the file of weights."""
    folder.mkdir(exist_ok=True)
    config = folder / "train.toml"
    config.write_text(text)
    if not how:
        assert main(["train", str(config)]) == 0
    else:
        done = subprocess.run([*LAUNCH, *KIND[how], *COMMAND[how], str(config)], capture_output=True, text=True,
                              env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert all(f"process {number} of 2" in done.stderr for number in (1, 2))
    return folder / "taught.safetensors"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_dit(path).model.state_dict()


def table(path: Path) -> list[list[float]]:
    with (path.with_suffix("") / "log.csv").open(newline="", encoding="utf-8") as file:
        return [[float(value or "nan") for value in row] for row in list(csv.reader(file))[1:]]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with what one process makes of four steps."""
    folder = tmp_path_factory.mktemp("launch")
    train(folder / "one", CONFIG.format(steps=4))
    return folder


@pytest.mark.parametrize("how", COMMAND)
def test_two_processes_train_what_one_does_and_resume_to_the_very_same(root, how):
    one, two = root / "one" / "taught.safetensors", train(root / how, CONFIG.format(steps=4), how)
    assert all(torch.allclose(value, weights(two)[name], atol=1e-5) for name, value in weights(one).items())
    assert torch.allclose(torch.tensor(table(one)), torch.tensor(table(two)), rtol=1e-4, equal_nan=True) and len(table(two)) == 5
    broken, alone = root / f"{how} broken", root / f"{how} then alone"
    train(broken, CONFIG.format(steps=2), how)
    shutil.copytree(broken, alone)
    again = train(broken, CONFIG.format(steps=4), how)
    assert weights(again).keys() == weights(two).keys() and all(torch.equal(value, weights(two)[name]) for name, value in weights(again).items())
    assert load_dit(again).facts == load_dit(two).facts
    by_one = weights(train(alone, CONFIG.format(steps=4)))  # from the state of two
    assert all(torch.allclose(value, by_one[name], atol=1e-5) for name, value in weights(one).items())


@pytest.mark.parametrize("how", COMMAND)
def test_two_processes_teach_a_patch_size(root, how):
    text = ADAPTER + ('optimizer = "muon"' if how == "DDP" else "")
    one, two = (load_adapter(train(root / f"adapter {kind}{how}", text, kind)).weights for kind in ("", how))
    assert one.keys() == two.keys() and all(torch.allclose(value, two[name], atol=1e-4) for name, value in one.items())


def test_the_older_fsdp_is_refused():
    runner = Launched.__new__(Launched)
    runner.sharded, runner.accelerator = True, SimpleNamespace(state=SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=1)))
    with pytest.raises(TrainingError, match="fsdp_version must be 2, not 1: accelerate launch --fsdp_version 2"):
        runner.prepare(None, [])


def test_muon_is_refused_where_no_process_has_a_matrix_whole():
    runner, matrix = Launched.__new__(Launched), torch.nn.Parameter(torch.zeros(2, 2))
    runner.sharded = True
    with pytest.raises(TrainingError, match="optimizer muon needs whole matrices, but FSDP splits them: use optimizer adamw, or DDP"):
        runner.prepare(None, optimizers_of({"x_embedder.2.weight": matrix}, 1e-3))
