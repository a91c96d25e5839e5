"""Save DiT and Load DiT through the nodes: the same pictures bit for bit, and what is refused."""

import json
import os

import pytest
from safetensors.torch import save_file
import torch

from dit_blocks.dit_impl.handle.backbone import Backbone, DitHandle
from dit_blocks.dit_impl.model.dit import DiT, DiTConfig
from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
from dit_blocks.dit_impl.model.position import sincos_2d
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.sources.checkpoints import read_safetensors, save_model
from dit_blocks.dit_impl.sources.embedded import FOLDER, load_embedded
from dit_blocks.dit_impl.tokens.wire import latent_format, same_format
from dit_blocks.nodes.comfyui import host
from dit_blocks.nodes.denoise import AddNoise, Denoise, Schedule
from dit_blocks.nodes.load import LoadCheckpoint, SaveCheckpoint
from dit_blocks.nodes.patch import Patchify
from dit_blocks.nodes.vae import EmptyLatent
from dit_blocks.standalone import pack
from dit_blocks.standalone.folders import Folders, use


def out(node, **inputs):
    return node.execute(**inputs).result


@pytest.fixture
def folders(tmp_path):
    """Standalone's folders, as a run has them."""
    pack.load()
    made = Folders(*(tmp_path / name for name in ("input", "output", "temp", "models")))
    (made.models / "diffusion_models").mkdir(parents=True)
    with use(made):
        yield made


@pytest.fixture
def class_conditional():
    torch.manual_seed(0)
    model = DiT(DiTConfig(in_channels=4, width=32, depth=2, heads=4, classes=5, position_base=4))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Backbone(model.eval().requires_grad_(False).bfloat16(), latent_format(torch.full((4,), 0.18215), torch.zeros(4)),
                    DDPM("v", beta_schedule="scaled_linear"), "a small DiT", picture_size=64, class_names={0: "tench, Tinca", 3: "鲨"})


def save_and_load(dit, folders, prefix="dit_blocks/dit"):
    said = SaveCheckpoint.execute(dit=dit, filename_prefix=prefix).ui.as_dict()["text"][0]
    saved = folders.output / "dit_blocks" / "dit_00001_.safetensors"
    assert said == f"saved as {saved}"
    (folders.models / "diffusion_models" / "mine").mkdir()
    saved.rename(folders.models / "diffusion_models" / "mine" / "x.safetensors")
    (loaded,) = out(LoadCheckpoint, file=os.path.join("mine", "x.safetensors"))
    return loaded


def tokens_of(dit, positive, **settings):
    (empty,) = out(EmptyLatent, dit=dit, width=64, height=64, batch_size=1)
    (sigmas,) = out(Schedule, dit=dit, steps=3, scheduler="simple", denoise=1.0)
    tokens, _ = out(Patchify, latent=empty, patch_size=0, dit=dit)
    noisy, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=1)
    done, *_ = out(Denoise, dit=dit, tokens=noisy, sigmas=sigmas, start_step=0, end_step=3, solver="euler", positive=positive,
                  **{"cfg": 1.0, **settings})
    return done["tokens"]


def test_a_saved_dit_comes_back_and_draws_the_same(backbone, positive, negative, folders):
    backbone.latent_format = latent_format(torch.rand(4), torch.randn(4), torch.rand(4))
    backbone.flow, backbone.latent_rgb, backbone.picture_size = RectifiedFlow("x0", 1.75), torch.randn(5, 3), 96
    loaded = save_and_load(backbone, folders)
    assert (loaded.name, loaded.flow, loaded.downscale, loaded.picture_size) == ("a small DiT", backbone.flow, 8, 96)
    assert same_format(loaded.latent_format, backbone.latent_format) and torch.equal(loaded.latent_rgb, backbone.latent_rgb)
    assert loaded.patch_sizes == (2, 4) and loaded.class_names == {}
    of = [tokens_of(dit, positive, negative=negative, cfg=3.0) for dit in (backbone, loaded)]
    assert torch.equal(*of)


def test_a_class_conditional_one_keeps_its_classes_and_its_type(class_conditional, folders):
    loaded = save_and_load(class_conditional, folders)
    assert loaded.class_names == class_conditional.class_names and loaded.flow == class_conditional.flow
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    of = [tokens_of(dit, dit.class_conditioning("鲨"), cfg=2.0) for dit in (class_conditional, loaded)]
    assert torch.equal(*of)


@pytest.mark.parametrize("change,computed", [
    (lambda value: value.to(torch.float8_e4m3fn), torch.bfloat16), (lambda value: value.to(torch.float8_e5m2), torch.bfloat16),
    (lambda value: value.bfloat16() if value.dim() > 1 else value, torch.float32), (lambda value: value.half(), torch.float16),
    (lambda value: value.half() if value.dim() > 1 else value.bfloat16(), torch.float32),
], ids=["float8_e4m3fn", "float8_e5m2", "bfloat16 and float32", "float16", "float16 and bfloat16"])
def test_weights_of_any_floating_type_are_computed_with_whole(backbone, positive, folders, change, computed):
    """Layers that do not cast get the least type that holds every bit of them; what comes out is the same weights' answer in float32."""
    loaded = save_and_load(backbone, folders)
    path = folders.models / "diffusion_models" / "mine" / "x.safetensors"
    tensors, metadata = read_safetensors(path)
    save_file(tensors := {key: change(value.clone()) for key, value in tensors.items()}, path, metadata=metadata)
    (dit,) = out(LoadCheckpoint, file=os.path.join("mine", "x.safetensors"))
    assert {value.dtype for value in dit.model.parameters()} == {computed} == {dit.like().dtype}
    assert all(torch.equal(value.float(), tensors[key].float()) for key, value in dit.model.state_dict().items())
    loaded.model.load_state_dict({key: value.float() for key, value in tensors.items()})
    of = [tokens_of(one, positive) for one in (dit, loaded)]
    torch.testing.assert_close(*of, atol=0.1 if computed == torch.bfloat16 else 1e-2, rtol=0.05)


def test_the_default_model_s_own_file_is_what_load_embedded_gives(folders):
    (folders.models / "diffusion_models" / "dit.safetensors").write_bytes((FOLDER / "dit.safetensors").read_bytes())
    (dit,), (known, clip, _) = out(LoadCheckpoint, file="dit.safetensors"), load_embedded()
    assert (dit.name, dit.flow, dit.downscale, dit.picture_size) == (known.name, known.flow, known.downscale, known.picture_size)
    assert same_format(dit.latent_format, known.latent_format)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a large red circle on a navy background"))
    assert torch.equal(tokens_of(dit, positive), tokens_of(known, positive))


def test_a_file_of_this_library_that_says_nothing_of_its_latents_is_not_taken_for_a_published_one(folders):
    model = MMDiT(MMDiTConfig(in_channels=16, width=64, depth=1, heads=1, context_width=32, pooled_width=16))
    save_model(model, folders.models / "diffusion_models" / "x.safetensors")
    with pytest.raises(ValueError, match=r"x.safetensors: no 'dit' in its metadata says how it reads latents of 16 channels$"):
        out(LoadCheckpoint, file="x.safetensors")


def test_files_are_numbered_and_never_written_over(backbone, folders):
    for _ in range(2):
        SaveCheckpoint.execute(dit=backbone, filename_prefix="a/b")
    assert sorted(os.listdir(folders.output / "a")) == ["b_00001_.safetensors", "b_00002_.safetensors"]


def test_a_failed_save_leaves_nothing(backbone, folders, monkeypatch):
    monkeypatch.setattr("dit_blocks.dit_impl.sources.checkpoints.save_file", lambda tensors, path, metadata: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        SaveCheckpoint.execute(dit=backbone, filename_prefix="a/b")
    assert os.listdir(folders.output / "a") == []


@pytest.mark.parametrize("prefix", ["../x", "/tmp/x", "a/../../x"])
def test_a_prefix_that_leaves_the_output_folder(backbone, folders, prefix):
    with pytest.raises(ValueError, match=f"^Save DiT: filename_prefix '{prefix}' leaves the output folder$"):
        SaveCheckpoint.execute(dit=backbone, filename_prefix=prefix)


def test_a_dit_that_is_not_ours(folders):
    class Other(DitHandle):
        name = "SD3 (MODEL)"
    with pytest.raises(ValueError, match=r"^Save DiT: SD3 \(MODEL\) is not of this library: save the MODEL it came from"):
        SaveCheckpoint.execute(dit=Other(), filename_prefix="x")


def test_only_listed_safetensors_can_be_named(backbone, folders, tmp_path):
    models = folders.models / "diffusion_models"
    for name in ("a.ckpt", "b.pt", "c.bin"):
        (models / name).write_bytes(b"")
    SaveCheckpoint.execute(dit=backbone, filename_prefix="x")
    (folders.output / "x_00001_.safetensors").rename(tmp_path / "outside.safetensors")
    assert list(host.dit_files()) == [] and LoadCheckpoint.define_schema().inputs[0].options == []
    for name in ("a.ckpt", "../../outside.safetensors", str(tmp_path / "outside.safetensors")):
        with pytest.raises(ValueError, match=r"^Load DiT: file is one of those in models/diffusion_models \(empty\), not '"):
            out(LoadCheckpoint, file=name)


def rewrite(path, change):
    tensors, metadata = read_safetensors(path)
    tensors = {key: value.clone() for key, value in tensors.items()}
    account = json.loads(metadata.pop("dit"))
    change(account)
    save_file(tensors, path, metadata=metadata | ({"dit": json.dumps(account)} if account else {}))


@pytest.mark.parametrize("change,message", [
    (lambda a: a.clear(), "no 'dit' in its metadata says how it reads latents of 4 channels"),
    (lambda a: a.pop("flow"), "its metadata 'dit' does not describe a DiT: 'flow' is missing"),
    (lambda a: a.update(flow={"kind": "edm"}), "its metadata 'dit' does not describe a DiT: flow is 'edm', not one of rectified flow, ddpm"),
    (lambda a: a["flow"].update(prediction="y"), "its metadata 'dit' does not describe a DiT: RectifiedFlow: prediction is one of"),
    (lambda a: a["flow"].update(sigma=1), "its metadata 'dit' does not describe a DiT: .*unexpected keyword argument 'sigma'"),
    (lambda a: a["latent_format"].update(scale="x"), "its metadata 'dit' does not describe a DiT: "),
    (lambda a: a["latent_format"].update(scale=[1.0]), "its latent_format is not of the 4 channels of its model"),
    (lambda a: a.update(class_names=[1]), "its metadata 'dit' does not describe a DiT: class_names is a table of named values, not "),
    (lambda a: a.update(downscale=0), "its metadata 'dit' does not describe a DiT: downscale is a whole number of at least 1, not 0"),
    (lambda a: a.update(picture_size="big"), "its metadata 'dit' does not describe a DiT: picture_size is a whole number of at least 1, not 'big'"),
    (lambda a: a["latent_format"].update(std=[{}] * 4), "its metadata 'dit' does not describe a DiT: std is a list, each a number, not "),
    (lambda a: a["latent_format"].update(shift=[10 ** 400] * 4), "its metadata 'dit' does not describe a DiT: "),
    (lambda a: a.update(latent_rgb=3), "its metadata 'dit' does not describe a DiT: latent_rgb is a list, each a list, each a number, not 3"),
    (lambda a: a.update(latent_rgb=[[{}] * 3] * 5), "its metadata 'dit' does not describe a DiT: latent_rgb is a list, each "),
    (lambda a: a.update(latent_rgb=[[1.0] * 3, [1.0]]), "its metadata 'dit' does not describe a DiT: "),
])
def test_a_file_that_is_no_saved_dit(backbone, folders, change, message):
    SaveCheckpoint.execute(dit=backbone, filename_prefix="x")
    path = folders.models / "diffusion_models" / "x.safetensors"
    (folders.output / "x_00001_.safetensors").rename(path)
    rewrite(path, change)
    with pytest.raises(ValueError, match=f"^Load DiT: {path}: {message}") as caught:
        out(LoadCheckpoint, file="x.safetensors")
    assert "\n" not in str(caught.value)


def test_a_broken_file(folders):
    (folders.models / "diffusion_models" / "x.safetensors").write_bytes(b"not that")
    with pytest.raises(ValueError, match="^Load DiT: .*x.safetensors: not a whole safetensors file"):
        out(LoadCheckpoint, file="x.safetensors")


def test_a_published_dit_needs_no_account(folders):
    """facebookresearch/DiT's own layout: DDPM, SD 1's latents, 256 pixels."""
    state = DiT(DiTConfig(width=384, depth=1, heads=6, classes=5)).state_dict()
    state["x_embedder.proj.weight"] = state.pop("x_embedder.2.weight").view(384, 4, 2, 2)
    state["x_embedder.proj.bias"] = state.pop("x_embedder.2.bias")
    state["y_embedder.embedding_table.weight"] = state.pop("y_embedder.weight")
    for end in ("weight", "bias"):
        state[f"final_layer.linear.{end}"] = state.pop(f"final_layer.linear.2.{end}")
    state["pos_embed"] = sincos_2d(384, torch.arange(16), torch.arange(16))[None]
    save_file(state, folders.models / "diffusion_models" / "DiT-S.safetensors")
    (loaded,) = out(LoadCheckpoint, file="DiT-S.safetensors")
    assert (loaded.name, loaded.flow, loaded.picture_size) == ("DiT-S", DDPM(), 256)
    assert loaded.latent_format["scale"].tolist() == pytest.approx([0.18215] * 4)
