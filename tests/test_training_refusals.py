"""What `dit-blocks train` refuses, in one line each and before it trains: TOML files, and states that are broken or in use."""

import math
import subprocess
import sys

import pytest
import torch

from dit_blocks.dit_impl.errors import TrainingError
from dit_blocks.dit_impl.training.state import held
from dit_blocks.standalone import cli

SMALL = '[model]\nwidth = 16\ndepth = 1\nheads = 1\nchannels = 0\nconditioning = "none"\npicture_size = 64\n'
SET = "[set]\nscenes = 4\nsize = 64\n"


def toml(model=SMALL, set=SET, train="steps = 2\nbatch = 2\n", top="") -> str:
    return f"{top}\n{model}{set}[train]\n{train}"


@pytest.fixture
def trained(tmp_path, capsys):
    """→ (status, the line that was printed) of a training by this text, or these bytes."""
    def run(text: str | bytes) -> tuple[int, str]:
        (tmp_path / "x.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        status = cli.main(["train", str(tmp_path / "x.toml")])
        out, err = capsys.readouterr()
        return status, err or out
    return run


@pytest.mark.parametrize("text", [
    *(toml(model=SMALL + line) for line in (
        "patch_sizes = []", "patch_sizes = [0]", "patch_sizes = [2, 2]", 'patch_sizes = ["a"]', "patch_sizes = [[2]]", "patch_sizes = [99999]",
        "seed = -1", "seed = 99999999999999999999999", "classes = -5")),
    *(toml(model=SMALL.replace(*pair)) for pair in (
        ("width = 16", "width = 0"), ("width = 16", "width = 1000000"), ("depth = 1", "depth = 1000000"), ("depth = 1", "depth = -1"),
        ("heads = 1", "heads = 0"), ("heads = 1", "heads = 7"), ("channels = 0", "channels = -1"), ("size = 64", "size = -64"),
        ('"none"', '"all"'), ('"none"', '5'))),
    *(toml(set=f"[set]\n{line}\n") for line in (
        "scenes = 0", "scenes = -1", "scenes = 1000000000", "scenes = 4\nsize = 0", "scenes = 4\nsize = -8", "scenes = 4\nsize = 7",
        "scenes = 4\nshapes = 0", "scenes = 4\nzoom = 0", "scenes = 4\nzoom = -3", 'folder = "none"', 'folder = "x.toml"', "folder = 5", 'scenes = "x"')),
    *(toml(train=line) for line in (
        "steps = 0", "steps = -1", "batch = 0", "batch = 1000000000", "accumulate = 0", "seed = -1", "seed = 99999999999999999999", "learning_rate = nan",
        "learning_rate = inf", "learning_rate = 0", "warmup = -1", "ema = 1.0", "ema = nan", "drop = 2", 'scheduler = "x"', 'precision = "int8"',
        'scope = "x"', 'target = "x"', 'weighting = "x"', 'times = "x"', "validation = 99", "clip = 0", 'optimizer = "x"', "rank = 3",
        'scope = "patch-size adapter"\npatch_size = 0', 'scope = "patch-size adapter"\npatch_size = -4', 'scope = "patch-size adapter"\nrank = -4\npatch_size = 4',
        "resume = true", "unknown = 1", "steps = 1.5")),
    toml(top='out = ""'), toml(top='out = "x"'), toml(top="out = 5"), toml(top='other = 1'), "train = 5", "model = []", "set = 1", "[", "\0", "a = " + "[" * 5000,
    b"\xff\xfe\x00", b"\xef\xbb\xbf[", '[model]\nfile = "none.safetensors"', '[model]\nfile = "."', '[model]\nfile = "x.toml"',
    '[model]\nembedded = true\nwidth = 5'])
def test_what_cannot_be_followed_is_one_line(trained, text):
    status, line = trained(text)
    assert status == 2 and line.startswith("dit-blocks: ") and len(line.splitlines()) == 1 and line.strip().isprintable() and len(line) < 500, line


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_as_editors_on_windows_save_them(trained, encoding):
    assert trained(toml().encode(encoding))[0] == 0


def no_optimizer(state):
    del state["optimizer"]


def nan_steps(state):
    for moments in state["optimizer"]["state"].values():
        moments["step"] = torch.tensor(math.nan)


def nan_step(state):
    state["step"] = math.nan


def far_ahead(state):
    state["step"] = 10 ** 9


def nan_weights(state):
    next(iter(state["parameters"].values())).fill_(math.nan)


def other_moments(state):
    state["optimizer"]["state"] = {99: {}}


def other_schedule(state):
    state["schedule"] = {"step": 5}


def no_log(state):
    state["log"] = {"losses": 5}


@pytest.mark.parametrize("spoil", [no_optimizer, nan_steps, nan_step, far_ahead, nan_weights, other_moments, other_schedule, no_log, dict.clear])
def test_a_state_that_is_broken_is_refused(trained, tmp_path, spoil):
    assert trained(toml())[0] == 0
    path = tmp_path / "taught" / "state.pt"
    state = torch.load(path, weights_only=True)
    spoil(state)
    torch.save(state, path)
    (tmp_path / "taught.safetensors").unlink()
    status, line = trained(toml(train="steps = 4\nbatch = 2\n"))
    assert status == 2 and len(line.splitlines()) == 1 and "state.pt is no state of" in line, line
    assert not (tmp_path / "taught.safetensors").exists()


def test_a_whole_state_is_gone_on_with(trained):
    assert trained(toml())[0] == 0 and trained(toml(train="steps = 4\nbatch = 2\n"))[0] == 0


HOLD = "import sys\nfrom pathlib import Path\nfrom dit_blocks.dit_impl.training.state import held\nwith held(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"


def test_a_state_that_another_training_writes_is_refused(trained, tmp_path):
    path = tmp_path / "taught" / "state.pt"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    status, line = trained(toml())
    assert status == 2 and "another training is writing" in line and "state.pt" in line
    other.kill()  # which leaves the state free
    other.communicate()
    assert trained(toml())[0] == 0


def test_two_trainings_in_one_program(tmp_path):
    with held(tmp_path / "state.pt"):
        with pytest.raises(TrainingError, match="another training is writing"):
            with held(tmp_path / "state.pt"):
                pass
        with held(tmp_path / "other.pt"):
            pass
    with held(tmp_path / "state.pt"), held(None):
        pass
