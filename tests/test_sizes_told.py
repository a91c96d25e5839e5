"""Sizes that a file or a widget tells are held against the tensors that are there, and the memory that is free, before anything is built."""

from dataclasses import replace
import json

from diffusers_models import flux, pixart, save
import pytest
from safetensors.torch import load_file, save_file
import torch

from dit_blocks.dit_impl.errors import BackboneError, CheckpointError, SetError
from dit_blocks.dit_impl.sources import adapters, checkpoints, dit_file
from dit_blocks.dit_impl.sources.adapter_layers import extended, new_parameters
from dit_blocks.dit_impl.sources.adapters import Adapter, apply_adapter, fingerprint, load_adapter, save_adapter
from dit_blocks.dit_impl.sources.diffusers_folder import load_folder
from dit_blocks.dit_impl.sources.dit_file import load_dit, save_dit
from dit_blocks.dit_impl.sources.new_dit import new_dit
from dit_blocks.dit_impl.training.sets import procedural

DEEP = "[" * 100_000


@pytest.fixture
def dit():
    return new_dit(32, 2, 2, (2,), 4, conditioning="none", picture_size=64)


def adapter_for(dit, patch_size=4, rank=2, wide_rank=0) -> Adapter:
    weights = {name: p.detach() for name, p in new_parameters(extended(dit.model, patch_size, 2, rank, wide_rank)).items()}
    return Adapter(patch_size, 2, rank, wide_rank, fingerprint(dit.model.state_dict()), "x", {}, {}, weights)


def rewritten(path, **metadata) -> None:
    """The same tensors under other metadata."""
    with checkpoints.safe_open(path, "pt") as file:
        told = file.metadata()
    save_file(load_file(path), path, {**told, **{name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}})


# --- adapters ---------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("wide_rank", [0, 3])
def test_an_adapter_that_fits(dit, tmp_path, wide_rank):
    save_adapter(adapter_for(dit, wide_rank=wide_rank), tmp_path / "a.safetensors")
    assert apply_adapter(dit, load_adapter(tmp_path / "a.safetensors")).patch_sizes == (2, 4)


@pytest.mark.parametrize("told", [{"rank": 300_000}, {"wide_rank": 300_000}, {"patch_size": 30_000}, {"rank": 3}, {"patch_size": 3}])
@pytest.mark.parametrize("wide_rank", [0, 3])
def test_what_an_adapter_says_of_its_size_is_held_against_its_tensors(dit, tmp_path, monkeypatch, told, wide_rank):
    made = adapter_for(dit, wide_rank=wide_rank)
    save_adapter(replace(made, **told), tmp_path / "a.safetensors")
    monkeypatch.setattr(adapters, "extended", lambda *_: pytest.fail("built"))
    if told == {"wide_rank": 300_000} and not wide_rank:  # it has no tensor of that rank: what the model would have is compared
        monkeypatch.undo()
        with pytest.raises(CheckpointError, match="does not fit its model: missing"):
            apply_adapter(dit, load_adapter(tmp_path / "a.safetensors"))
        return
    with pytest.raises(CheckpointError, match=rf"{next(iter(told))} is {next(iter(told.values()))}, "):
        load_adapter(tmp_path / "a.safetensors")


def test_nothing_of_an_adapter_is_built_before_its_shapes_are_known(dit, monkeypatch):
    """A file of two small tensors can have any rank; the model's other layers would be built for it."""
    made, built = adapter_for(dit), []
    key = next(name for name in made.weights if name.endswith(".qkv.a"))
    lying = replace(made, rank=50_000, weights={**made.weights, key: torch.zeros(50_000, 1)})
    real = adapters.extended
    monkeypatch.setattr(adapters, "extended", lambda model, *numbers: built.append(next(model.parameters()).device.type) or real(model, *numbers))
    with pytest.raises(CheckpointError, match="does not fit its model: wrong shape of"):
        apply_adapter(dit, lying)
    assert built == ["meta"]
    built.clear()
    with pytest.raises(CheckpointError, match="is for x"):
        apply_adapter(dit, replace(lying, base="0" * 32))
    assert built == []


# --- files of the library's own ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("told, why", [
    ({"depth": 10 ** 6}, "has 2 blocks where its architecture has 1000000"), ({"width": 2 ** 40}, "wrong shape|no model of width"),
    ({"width": 2 ** 64}, "no model of width"), ({"in_channels": 2 ** 62}, "no model of width"),
    ({"patch_sizes": list(range(1, 10 ** 5))}, "patch_sizes are"), ({"heads": 10 ** 9}, "does not divide"), ({"in_channels": 10 ** 9}, "wrong shape"),
    ({"classes": 10 ** 9}, "wrong shape|unexpected|missing")])
def test_the_architecture_of_a_file(dit, tmp_path, told, why):
    path = tmp_path / "x.safetensors"
    save_dit(dit, path)
    with checkpoints.safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    rewritten(path, config={**config, **told})
    with pytest.raises(CheckpointError, match=why):
        load_dit(path)


@pytest.mark.parametrize("told, why", [
    ({"picture_size": 10 ** 30}, "picture_size is"), ({"downscale": 0}, "downscale is a whole number of at least 1, not 0"), ({"latent_rgb": [[1.0]]}, "latent_rgb is"),
    ({"flow": {"kind": "ddpm", "steps": 10 ** 9}}, "steps is a number from 1 to 100000, not 1000000000"),
    ({"flow": {"kind": "rectified flow", "shift": "x"}}, "shift is a number"), ({"flow": {"kind": "ddpm", "beta_end": 2}}, "beta_end is a number")])
def test_the_account_of_a_file(dit, tmp_path, told, why):
    path = tmp_path / "x.safetensors"
    save_dit(dit, path)
    with checkpoints.safe_open(path, "pt") as file:
        account = json.loads(file.metadata()["dit"])
    rewritten(path, dit={**account, **told})
    with pytest.raises(CheckpointError, match=why) as error:
        load_dit(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("key", ["config", "dit"])
def test_lists_in_lists_in_metadata(dit, tmp_path, key):
    save_dit(dit, tmp_path / "x.safetensors")
    rewritten(tmp_path / "x.safetensors", **{key: DEEP})
    with pytest.raises(CheckpointError):
        dit_file.load_dit(tmp_path / "x.safetensors")


# --- folders of diffusers ----------------------------------------------------------------------------------------------------------------

def changed(folder, part: str, **told) -> None:
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | told))


@pytest.mark.parametrize("kind, part, told, why", [
    ("PixArt", "transformer", {"num_layers": 10 ** 6}, "PixArt/transformer: its config.json has num_layers = 1000000, its weights have 2"),
    ("Flux", "transformer", {"num_single_layers": 10 ** 6}, "num_single_layers = 1000000, its weights have"),
    ("PixArt", "transformer", {"num_attention_heads": 10 ** 6}, "PixArt/transformer: wrong shape"),
    ("Flux", "transformer", {"num_attention_heads": 10 ** 6}, "Flux/transformer: wrong shape|describes no"),
    ("PixArt", "transformer", {"caption_channels": 10 ** 9}, "PixArt/transformer: wrong shape"),
    ("PixArt", "transformer", {"sample_size": 10 ** 6}, "sample_size is a whole number from 1 to 2048, not 1000000"),
    ("PixArt", "vae", {"latent_channels": 10 ** 9}, "its vae has latents of 1000000000 channels, its transformer reads 4"),
    ("PixArt", "vae", {"layers_per_block": 10 ** 6}, "layers_per_block = 1000000, its weights have"),
    ("PixArt", "vae", {"block_out_channels": [8] * 10 ** 5}, "number of block_out_channels = 100000, its weights have 4"),
    ("PixArt", "vae", {"out_channels": 10 ** 8}, "PixArt/vae: its config.json describes"),
    ("PixArt", "scheduler", {"num_train_timesteps": 10 ** 9}, "1000000000")])
def test_the_config_of_a_folder(tmp_path, kind, part, told, why):
    folder = tmp_path / kind
    folder.mkdir()
    save(kind, folder, pixart() if kind == "PixArt" else flux())
    load_folder(folder)
    changed(folder, part, **told)
    with pytest.raises(CheckpointError, match=why):
        load_folder(folder)


# --- widgets -----------------------------------------------------------------------------------------------------------------------------

def test_a_new_model_larger_than_the_free_memory_is_refused():
    with pytest.raises(BackboneError, match=r"a model of width 8192 and depth 128 has [0-9,]+ M parameters, [0-9,.]+ GiB: 2.0 GiB of memory are free"):
        new_dit(8192, 128, 64, (2,), 4, conditioning="none", free=2 * 2 ** 30)


def test_more_pictures_than_the_free_memory_holds_are_refused():
    with pytest.raises(SetError, match=r"100000 pictures of 1024×1024 pixels take 1,269.5 GiB: 2.0 GiB of memory are free"):
        procedural(None, None, 100_000, 1024, 0, free=2 * 2 ** 30)
