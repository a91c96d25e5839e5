"""Where diffusers is missing, too old or broken, the pack loads and draws, and what needs it says in one line how to install it."""

from pathlib import Path
import re
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest
import torch

import dit_blocks
from dit_blocks.dit_impl.errors import LibraryError
from dit_blocks.dit_impl.libraries import OLDEST, diffusers_part, library
from dit_blocks.dit_impl.training.sets import from_latents
from dit_blocks.nodes.textbook import NoiseAtTime, Trainable
from dit_blocks.nodes.training import Train
from dit_blocks.standalone import pack
from dit_blocks.standalone.folders import Folders, use

ROOT = Path(dit_blocks.__file__).parent
INSTALL = re.escape(f'{sys.executable} -m pip install -U "diffusers>={OLDEST["diffusers"]}"')
FAULTS = {"missing": "it is not installed", "old": r"this is 0\.30\.3", "broken": r"it can't be imported \(needs huggingface-hub<1\.0\)"}


@pytest.fixture(params=FAULTS)
def fault(request, monkeypatch):
    """diffusers as a user may have it → what the line says of it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)
    if request.param == "missing":
        monkeypatch.setitem(sys.modules, "diffusers", None)
    elif request.param == "old":
        monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(__version__="0.30.3"))
    else:
        class Broken:
            def find_spec(self, name, path=None, target=None):
                if name == "diffusers":
                    raise RuntimeError("needs\nhuggingface-hub<1.0")
        monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    return FAULTS[request.param]


def test_the_oldest_is_the_one_that_is_installed_with_the_pack():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == [f"{name}>={version}" for name, version in OLDEST.items()]


def test_one_line_says_what_is_wrong_and_how_to_install_it(fault):
    with pytest.raises(LibraryError, match=rf"^this needs diffusers 0\.\d+ or newer, and {fault}: {INSTALL}$"):
        library("diffusers", "this")


def test_a_part_that_is_not_there():
    with pytest.raises(LibraryError, match=rf"^this needs diffusers .* its NoSuchModel can't be imported \(.*\): {INSTALL}$"):
        diffusers_part("NoSuchModel", "this")


def test_a_part_that_can_t_be_imported_by_what_the_library_needs(monkeypatch):
    """As diffusers says it where transformers is newer than it knows."""
    class Old(SimpleNamespace):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            raise RuntimeError(f"Failed to import {name} because of the following error:\nNo module named 'httpx'")
    monkeypatch.setitem(sys.modules, "diffusers", Old(__version__="1.0"))
    with pytest.raises(LibraryError, match=r"its FluxPipeline can't be imported \(Failed to .* 'httpx'\): ") as caught:
        diffusers_part("FluxPipeline", "this")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["0.36.0", "0.100.1", "1.0.0.dev0"])
def test_a_version_that_is_new_enough(version, monkeypatch):
    fake = SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, "diffusers", fake)
    assert library("diffusers", "this") is fake


def test_a_library_of_any_version(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(LibraryError, match=r"^this needs accelerate, and it is not installed: \S+ -m pip install -U accelerate$"):
        library("accelerate", "this")


def test_nodes_that_train_say_it_under_their_own_name(fault, backbone, positive, tmp_path):
    latents = torch.randn(2, 4, 8, 8)
    data = from_latents([{"samples": latents[i:i + 1]} for i in range(2)], [positive, positive])
    pack.load()  # which tells the nodes where files go
    with use(Folders(*(tmp_path / name for name in ("input", "output", "temp", "models")))), \
            pytest.raises(ValueError, match=rf"^Train DiT: training needs diffusers .*{fault}: {INSTALL}$"):
        Train.execute(dit=backbone, training_set=data, **defaults(Train))
    (learner,) = Trainable.execute(dit=backbone, **defaults(Trainable)).result
    tokens = backbone.fold({"samples": latents[:1]})
    with pytest.raises(ValueError, match=rf"^Add Noise at Time: training needs diffusers .*{fault}: {INSTALL}$"):
        NoiseAtTime.execute(dit=learner, tokens=tokens, **defaults(NoiseAtTime))


def defaults(cls) -> dict:
    return {one.id: one.default for one in cls.define_schema().inputs if getattr(one, "default", None) is not None}


def test_the_pack_loads_and_draws_without_it(tmp_path):
    """In a process of its own, that can import neither diffusers nor transformers nor accelerate."""
    code = f"""
import sys
for name in ("diffusers", "transformers", "accelerate"):
    sys.modules[name] = None
from dit_blocks.standalone.cli import main
sys.exit(main(["run", {str(ROOT / "example_workflows" / "text_to_image.json")!r}, "--out", {str(tmp_path)!r}, "--set", "DiT Denoise.end_step=1"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*.png"))
