"""Pixel space: a VAE that changes nothing, and models that read pixels."""

import pytest
import torch

from dit_blocks.dit_impl.errors import BackboneError
from dit_blocks.dit_impl.sources.dit_file import load_dit, save_dit
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.sources.new_dit import new_dit
from dit_blocks.dit_impl.training.config import set_of
from dit_blocks.nodes.denoise import AddNoise, Denoise, Schedule
from dit_blocks.nodes.patch import Patchify, Unpatchify
from dit_blocks.nodes.training import NewDiT, Train, TrainingScenes, TrainingSet
from dit_blocks.nodes.vae import EmptyLatent, PixelSpace, VAEDecode, VAEEncode
from dit_blocks.standalone.folders import Folders, use


def out(node, **inputs):
    return node.execute(**inputs).result


@pytest.fixture
def vae():
    return out(PixelSpace)[0]


@pytest.mark.parametrize("shape", [(2, 7, 5, 3), (1, 9, 8, 4), (1, 4, 4, 1)])
def test_a_picture_comes_back_as_it_was(vae, shape):
    pixels = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    (latent,) = out(VAEEncode, pixels=pixels, vae=vae)
    samples = latent["samples"]
    assert samples.shape == (shape[0], 3, *shape[1:3]) and samples.min() >= -1 and samples.max() > 0.5
    (back,) = out(VAEDecode, latent=latent, vae=vae)
    torch.testing.assert_close(back, pixels[..., :3].expand(-1, -1, -1, 3), atol=1e-6, rtol=0)
    assert torch.equal(vae.decode_tiled(vae.encode_tiled(pixels)), back)


def test_what_is_no_picture_is_refused(vae):
    for wrong, line in ((lambda: vae.decode(torch.zeros(1, 16, 4, 4)), r"pixel space has pictures of 3 channels, not \[1, 16, 4, 4\]"),
                        (lambda: vae.encode(torch.full((1, 4, 4, 3), torch.nan)), "the picture holds 48 values that are NaN"),
                        (lambda: vae.get_sd(), "no weights to save"), (lambda: vae.first_stage_model, "the VAE of pixel space takes pictures as they are")):
        with pytest.raises((ValueError, AttributeError), match=line):
            wrong()


def new(**more):
    return new_dit(**{"width": 64, "depth": 2, "heads": 2, "patch_sizes": (8,), "channels": 3, "conditioning": "none", "prediction": "x0",
                      "picture_size": 64, "downscale": 1, **more})


def test_a_model_of_pixels_sizes_draws_and_previews_them(vae, tmp_path):
    dit = new()
    (empty,) = out(EmptyLatent, dit=dit, width=64, height=48, batch_size=2)
    assert empty["samples"].shape == (2, 3, 48, 64) and dit.model.config.position_base == 8
    (sigmas,) = out(Schedule, dit=dit, steps=3, scheduler="simple", denoise=1.0)
    tokens, _ = out(Patchify, latent=empty, patch_size=0, dit=dit)
    assert tokens["tokens"].shape == (2, 48, 192)
    noisy, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=1)
    tokens, x0, trajectory, _ = out(Denoise, dit=dit, tokens=noisy, sigmas=sigmas, positive=dit.unconditional, cfg=1.0, solver="euler",
                                    start_step=0, end_step=3)
    latent, _ = out(Unpatchify, tokens=tokens)
    assert out(VAEDecode, latent=latent, vae=vae)[0].shape == (2, 48, 64, 3)
    grey = torch.full((1, 3, 64, 64), 0.5)
    assert torch.allclose(dit.picture(dit.fold({"samples": grey}), dit.fold({"samples": grey})["tokens"]), torch.tensor(0.75))
    save_dit(dit, tmp_path / "pixels.safetensors")
    again = load_dit(tmp_path / "pixels.safetensors")
    assert again.downscale == 1 and torch.equal(again.latent_rgb, dit.latent_rgb) and trajectory.shape[-1] == 3


def test_cells_of_another_size_than_the_model_it_is_like_are_refused():
    embedded = load_embedded()[0]
    assert new(channels=16, like=embedded, downscale=0).downscale == embedded.downscale == 8 and new(channels=4, downscale=0).downscale == 8
    with pytest.raises(BackboneError, match="pixels_to_cell 1 are not the 8 of"):
        new(channels=0, like=embedded)
    with pytest.raises(BackboneError, match="pixels_to_cell is 0 to 64, not 65"):
        new(downscale=65)


def test_it_learns_from_pixels(vae, tmp_path):
    (drawn, *_) = out(TrainingScenes, vae=vae, count=8, size=32, shapes=1, seed=0, zoom=2)
    assert drawn.latents.shape == (8, 3, 32, 32) and drawn.latents.min() >= -1
    (pictures,) = out(TrainingSet, images=[torch.rand(2, 16, 16, 3)], vae=[vae])
    assert pictures.latents.shape == (2, 3, 16, 16)
    (dit,) = out(NewDiT, width=64, depth=2, heads=2, patch_sizes="8", latent_channels=3, position="sincos", conditioning="none", classes=10,
                 prediction="x0", picture_size=32, seed=0, pixels_to_cell=1)
    settings = {name: one.default for name, one in ((one.id, one) for one in Train.define_schema().inputs) if getattr(one, "default", None) is not None}
    with use(Folders(*(tmp_path / name for name in ("input", "output", "temp", "models")))):
        trained = Train.execute(**{**settings, "dit": dit, "training_set": drawn, "steps": 30, "batch": 8, "learning_rate": 3e-3}).result[0]
    assert trained.downscale == 1 and not torch.equal(trained.model.final_layer.linear["8"].weight, dit.model.final_layer.linear["8"].weight)


def test_a_training_file_of_a_model_of_pixels_encodes_nothing(tmp_path):
    assert set_of({"scenes": 3, "size": 64}, tmp_path, None, new()).latents.shape == (3, 3, 64, 64)
