"""The training nodes as a user meets them: a new model, sets, a run with its log, cancel and resume, and the command line."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image
import pytest
import torch

from dit_blocks.dit_impl.see.filters import spectrum_statistic
from dit_blocks.dit_impl.sources.adapters import adapter_of, apply_adapter, load_adapter
from dit_blocks.dit_impl.sources.dit_file import load_dit, save_dit
from dit_blocks.dit_impl.sources.embedded import FOLDER, load_embedded
from dit_blocks.dit_impl.sources.new_dit import new_dit, text_widths
from dit_blocks.dit_impl.tokens.wire import unfold
from dit_blocks.dit_impl.training import run
from dit_blocks.nodes.comfyui import host
from dit_blocks.nodes.denoise import AddNoise, Denoise
from dit_blocks.nodes.training import NewDiT, Train, TrainingScenes, TrainingSet
from dit_blocks.standalone import pack
from dit_blocks.standalone.cli import main
from dit_blocks.standalone.dataset_nodes import LoadImageTextDataSetFromFolder
from dit_blocks.standalone.folders import Folders, use

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")
EXAMPLE = FOLDER.parent.parent / "example_workflows" / "train_from_scratch.json"
NEW = {"width": 32, "depth": 2, "heads": 2, "patch_sizes": "2", "latent_channels": 0, "position": "sincos", "conditioning": "text", "classes": 3,
       "prediction": "x0", "picture_size": 64, "seed": 0}
TRAIN = {"scope": "everything", "steps": 6, "batch": 4, "learning_rate": 1e-3, "scheduler": "cosine", "warmup": 2, "precision": "float32",
         "accumulate": 1, "checkpointing": False, "ema": 0.0, "seed": 0, "resume": False, "drop": 0.1, "validation": 2, "target": "own",
         "weighting": "none", "times": "logit_normal", "patch_size": 16, "rank": 4, "sample_every": 0}


def out(node, **inputs) -> tuple:
    with torch.inference_mode():
        return node.execute(**inputs).result


@pytest.fixture
def folders(tmp_path):
    pack.load()  # which tells the nodes where files go
    made = Folders(input=tmp_path / "input", output=tmp_path / "output", models=tmp_path / "models")
    made.input.mkdir()
    with use(made):
        yield made


@pytest.fixture
def scenes() -> tuple:
    dit, clip, vae = load_embedded()
    training_set, pictures, captions = out(TrainingScenes, vae=vae, clip=clip, count=10, size=64, shapes=1, seed=0)
    assert captions == list(training_set.captions)
    return dit, clip, vae, training_set, pictures


def rows(path: str) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_new_model_learns_and_draws(folders, scenes):
    dit, clip, vae, training_set, pictures = scenes
    (new,) = out(NewDiT, **NEW, like=dit, clip=clip)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a red circle"))
    taught, loss_map, filters, samples, chart, log = out(Train, dit=new, training_set=training_set, name="mine", **TRAIN | {"sample_every": 3},
                                                         positive=positive, vae=vae)
    assert len(loss_map["loss"]) == 6 and [float(row["loss"]) for row in rows(log)[1:]] == loss_map["loss"]
    assert float(rows(log)[-1]["validation_loss"]) < float(rows(log)[0]["validation_loss"])
    assert Path(log).is_relative_to(folders.output) and filters.shape[0] == 7 and samples.shape == (3, 64, 64, 3)
    assert all(0 <= picture.min() and picture.max() <= 1 for picture in (filters, samples, chart, pictures))
    assert not torch.equal(filters[0], filters[-1])
    sigmas = taught.schedule(2)
    noisy, _ = out(AddNoise, dit=taught, tokens=taught.fold({"samples": torch.zeros(1, 16, 8, 8)}), sigmas=sigmas, step=0, seed=0)
    tokens, *_ = out(Denoise, dit=taught, tokens=noisy, sigmas=sigmas, start_step=0, end_step=9, positive=positive, cfg=1.0, solver="euler")
    assert tokens["tokens"].isfinite().all()


@pytest.mark.parametrize("conditioning, prediction, position", [("class", "epsilon", "learned"), ("none", "v", "none")])
def test_models_without_text_learn_too(folders, scenes, conditioning, prediction, position):
    dit, _, vae, _, pictures = scenes
    (new,) = out(NewDiT, **NEW | {"conditioning": conditioning, "prediction": prediction, "position": position}, like=dit)
    (plain,) = out(TrainingSet, images=[pictures], vae=[vae])
    taught, loss_map, *_ = out(Train, dit=new, training_set=plain, name=conditioning, **TRAIN)
    assert np.isfinite(loss_map["loss"]).all() and taught.model.config.position == position


def test_cancel_keeps_the_state_and_resume_goes_on_to_the_same_weights(folders, scenes, caplog):
    _, _, _, training_set, _ = scenes
    dit = load_embedded()[0]
    (whole, *_) = out(Train, dit=dit, training_set=training_set, name="whole", **TRAIN)
    seen = []
    host.listen(progress=lambda done, *_: seen.append(done), interrupted=lambda: bool(seen) and seen[-1] == 3)
    try:
        with pytest.raises(host.Interrupted):
            out(Train, dit=dit, training_set=training_set, name="broken", **TRAIN)
    finally:
        host.listen()
    state = folders.output / "dit_blocks" / "training" / "broken" / "state.pt"
    assert f"training stopped at step 3 of 6; its state of step 3 is in {state}" in caplog.text and len(rows(state.with_name("log.csv"))) == 4
    (again, *_) = out(Train, dit=dit, training_set=training_set, name="broken", **TRAIN | {"resume": True})
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters()))


def test_an_adapter_learns_and_is_seen_at_its_own_size(folders, scenes):
    dit, clip, vae, training_set, _ = scenes
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a red circle"))
    how = TRAIN | {"scope": "patch-size adapter", "patch_size": 3, "sample_every": 3, "learning_rate": 0.01}
    taught, loss_map, filters, samples, _, log = out(Train, dit=dit, training_set=training_set, name="adapter", positive=positive, vae=vae, **how)
    assert taught.patch_sizes == (2, 4, 8, 3) and dit.patch_sizes == (2, 4, 8) and len(rows(log)) == 7 and len(loss_map["loss"]) == 6
    assert samples.shape == (3, 64, 64, 3) and not torch.equal(filters[0], filters[-1])
    for size, same in ((3, True), (2, False)):
        noisy, _ = taught.add_noise(taught.fold({"samples": torch.zeros(1, 16, 8, 8)}, size), taught.schedule(12), 0, TRAIN["seed"])
        picture = vae.decode(unfold(taught.denoise(noisy, taught.schedule(12), positive)[0]))[0]
        assert torch.allclose(picture, samples[-1], atol=0.01) == same
    facts = adapter_of(taught).facts
    assert facts["steps"] == 6 and facts["pictures"] == 8 and facts["loss"] == pytest.approx(loss_map["loss"][-1], abs=1e-6)


def test_a_saved_model_tells_how_it_was_trained(folders, scenes):
    dit, clip, vae, training_set, _ = scenes
    (new,) = out(NewDiT, **NEW, like=dit, clip=clip)
    taught, loss_map, *_ = out(Train, dit=new, training_set=training_set, name="mine", **TRAIN)
    save_dit(taught, folders.output / "x.safetensors")
    facts = load_dit(folders.output / "x.safetensors").facts
    assert {name: facts[name] for name in ("steps", "batch", "learning_rate", "pictures", "seed", "scope", "target", "times")} == {
        "steps": 6, "batch": 4, "learning_rate": 1e-3, "pictures": 8, "seed": 0, "scope": "everything", "target": "own", "times": "logit_normal"}
    assert facts["loss"] == pytest.approx(loss_map["loss"][-1], abs=1e-6) and facts["validation_loss"] > 0


def test_a_full_disk_is_told_on_the_node_that_still_gives_the_model(folders, scenes, monkeypatch):
    _, clip, vae, training_set, _ = scenes
    (new,) = out(NewDiT, **NEW, like=scenes[0], clip=clip)
    whole, *_ = out(Train, dit=new, training_set=training_set, name="mine", **TRAIN)

    def full(path, write):
        raise OSError(f"{path} can't be written: No space left on device")
    monkeypatch.setattr(run, "replace_atomically", full)
    with torch.inference_mode():
        answer = Train.execute(dit=new, training_set=training_set, name="mine", **TRAIN)
    said = answer.ui["text"][0] if isinstance(answer.ui, dict) else answer.ui.as_dict()["text"][0]
    assert said.endswith(f"{folders.output / 'dit_blocks' / 'training' / 'mine' / 'log.csv'} can't be written: No space left on device")
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), answer.result[0].model.parameters()))


def test_a_folder_of_captioned_pictures_becomes_a_set(folders, scenes, caplog):
    dit, clip, vae, *_ = scenes
    folder = folders.input / "shapes"
    (folder / "2_twice").mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("2_twice/b.jpg", "blue")):
        Image.new("RGB", (64, 64), colour).save(folder / name)
    (folder / "a.txt").write_text("a red square\n")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "3").mkdir()  # as core's node: the number says how often
    Image.new("RGB", (64, 64), "white").save(folder / "3" / "c.png")
    images, texts = LoadImageTextDataSetFromFolder().execute("shapes")
    assert texts == ["a red square", "", "", "", "", ""] and [tuple(image.shape) for image in images] == [(1, 64, 64, 3)] * 6
    assert "skipped 1 of 7 pictures: broken.png: it is not a picture that can be read" in caplog.text
    (training_set,) = out(TrainingSet, images=images, captions=texts, vae=[vae], clip=[clip], cache=["shapes"])
    assert training_set.latents.shape == (6, 16, 8, 8) and str(training_set).endswith("; 5 of 6 captions are empty") and list((folders.output / "dit_blocks" / "sets" / "shapes").glob("*.safetensors"))
    (lines,) = out(TrainingSet, images=[torch.cat(images)], captions=["1\n2\n3\n4\n5\n6"], vae=[vae], clip=[clip])
    assert lines.captions == ("1", "2", "3", "4", "5", "6") and torch.equal(lines.latents, training_set.latents)
    (folder / "a.txt").write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match="^a.txt: a caption is UTF-8 text, this is not$"):
        LoadImageTextDataSetFromFolder().execute("shapes")
    (folders.input / "none").mkdir()
    with pytest.raises(ValueError, match="^No valid images found in input$"):
        LoadImageTextDataSetFromFolder().execute("none")


def test_core_s_training_sets_are_taken(scenes):
    _, clip, vae, _, pictures = scenes
    latents = [{"samples": vae.encode(picture[None])} for picture in pictures]
    conditioning = [clip.encode_from_tokens_scheduled(clip.tokenize("a circle"))] * len(latents)
    (training_set,) = out(TrainingSet, latents=latents, conditioning=conditioning)
    assert training_set.latents.shape == (10, 16, 8, 8) and len(training_set.conditionings) == 10


@pytest.mark.parametrize("node, inputs, message", [
    (NewDiT, {**NEW, "latent_channels": 4}, "New DiT: a model that reads text needs a clip"),
    (NewDiT, {**NEW, "conditioning": "none", "heads": 3, "latent_channels": 4}, "New DiT: width 32 does not divide into 3 heads"),
    (NewDiT, {**NEW, "conditioning": "none"}, "New DiT: latent_channels is 0, which takes those of another model"),
    (NewDiT, {**NEW, "conditioning": "none", "latent_channels": 4, "patch_sizes": "two"}, "New DiT: patch_sizes are whole numbers"),
    (NewDiT, {**NEW, "conditioning": "none", "latent_channels": 4, "patch_sizes": "16"}, "New DiT: picture_size 64 is smaller than a patch of 16"),
    (TrainingSet, {}, "Training Set: wire either images or latents"),
    (TrainingSet, {"images": [torch.zeros(1, 8, 8, 3)]}, "Training Set: images need a vae")])
def test_bad_input_is_one_line_that_names_the_node(node, inputs, message):
    with pytest.raises(ValueError, match=message) as raised:
        out(node, **inputs)
    assert "\n" not in str(raised.value)


def test_a_name_that_leaves_the_output_folder_is_refused(folders, scenes):
    for name in ("../elsewhere", "", "/etc"):
        with pytest.raises(ValueError, match="Train DiT: name '.*' is no folder inside"):
            out(Train, dit=scenes[0], training_set=scenes[3], name=name, **TRAIN)


def test_train_from_scratch_learns_what_it_says(tmp_path, capsys):
    """The example: validation loss at most 60% of its first, and a patch embedding that has left white noise (`spectrum_statistic`)."""
    assert main(["run", str(EXAMPLE), "--out", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(Image.open(image).size[0] >= 256 for image in (*report["images"], EXAMPLE.with_suffix(".jpg")))
    folder = tmp_path / "dit_blocks" / "training" / "from_scratch"
    validation = [float(row["validation_loss"]) for row in rows(folder / "log.csv") if row["validation_loss"]]
    assert len(validation) == 7 and validation[-1] <= 0.6 * validation[0]
    dit, clip, _ = load_embedded()
    before = new_dit(128, 4, 4, (4,), position="sincos", prediction="x0", like=dit, widths=text_widths(clip), picture_size=128)
    learnt = torch.load(folder / "state.pt", weights_only=True)["parameters"]["x_embedder.4.weight"]
    assert learnt.shape == before.model.x_embedder["4"].weight.shape
    low, first = (spectrum_statistic(weight.view(128, 16, 4, 4)).low for weight in (learnt, before.model.x_embedder["4"].weight))
    assert first == pytest.approx(1, abs=0.1) and low > 1.5


def test_new_patch_size_adapter_learns_in_a_few_of_its_steps(tmp_path, capsys):
    """The example, by 40 steps of its 300, half as many pictures each: the loss of its last ten is at most two thirds of the first ten's."""
    example = EXAMPLE.with_name("new_patch_size_adapter.json")
    few = [f"--set={one}" for one in ("5.count=24", "16:6.steps=40", "16:6.batch=8", "16:6.validation=4", "17:9.steps=4")]
    assert main(["run", str(example), "--out", str(tmp_path), "--json", *few]) == 0
    losses = [float(row["loss"]) for row in rows(tmp_path / "dit_blocks" / "training" / "patch_size_3" / "log.csv") if row["loss"]]
    assert len(losses) == 40 and sum(losses[-10:]) <= 2 / 3 * sum(losses[:10])


def test_pixels_without_vae_learns_in_a_few_of_its_steps(tmp_path, capsys):
    """The example, by 60 steps of its 400: the loss of its last ten is at most a third of the first ten's, and it draws without a VAE."""
    example = EXAMPLE.with_name("pixels_without_vae.json")
    few = [f"--set=23:6.{one}" for one in ("steps=60", "batch=8", "validation=8")]
    assert main(["run", str(example), "--out", str(tmp_path), "--json", "--set", "5.count=64", *few]) == 0
    training, picture, pixels, latents = (Path(one) for one in json.loads(capsys.readouterr().out.splitlines()[-1])["images"][-4:])
    assert picture.name.startswith("pixels_2_picture") and Image.open(picture).size == (32, 32) and Image.open(training).size[0] > 512
    assert Image.open(pixels).size[1] < Image.open(latents).size[1]  # two rows, four rows
    losses = [float(row["loss"]) for row in rows(tmp_path / "dit_blocks" / "training" / "pixels" / "log.csv") if row["loss"]]
    assert len(losses) == 60 and sum(losses[-10:]) <= sum(losses[:10]) / 3
    assert Image.open(example.with_suffix(".jpg")).size[0] >= 256


CONFIG = """
out = "taught.safetensors"
[model]
width = 32
depth = 1
heads = 2
patch_sizes = [2]
prediction = "x0"
picture_size = 64
[set]
scenes = 9
size = 64
[train]
steps = {steps}
batch = 4
warmup = 1
validation = 1
scheduler = "constant"
"""


def test_the_command_trains_goes_on_and_says_what_is_wrong(tmp_path, capsys):
    config = tmp_path / "train.toml"
    config.write_text(CONFIG.format(steps=2))
    assert main(["train", str(config)]) == 0 and capsys.readouterr().out.strip() == str(tmp_path / "taught.safetensors")
    config.write_text(CONFIG.format(steps=4))
    assert main(["train", str(config)]) == 0 and len(rows(tmp_path / "taught" / "log.csv")) == 5
    assert load_dit(tmp_path / "taught.safetensors").model.config.width == 32
    for text, message in (("[set]\nsceness = 3", "[set] has no setting 'sceness'"), ("[train]\nsteps = 0", "steps is at least 1, not 0"),
                          ("[model]\nwide = 3", "[model] has no setting 'wide'"), ("[train]\nspeed = 3", "[train] has no setting 'speed'"),
                          ("[train]\nsteps = 'many'", "[train] steps is a whole number, not 'many'"), ("train = 3", "[train] is a table of named values, not 3"),
                          ("[model]\npatch_sizes = 2", "[model] patch_sizes is a list, each a whole number, not 2"), ("out = 3\n[set]", "out is text, not 3"),
                          ("[model]\nembedded = true\nwidth = 3", "[model] of a model that is there takes no 'width'"),
                          ("[train]\nrank = 3", "[train] rank is not of scope 'everything'"),
                          ("[train]\nscope = 'patch-size adapter'\ntarget = 'x0'", "[train] target is not of scope 'patch-size adapter'"),
                          ("[train]\nvalidation = -3", "validation is at least 0, not -3")):
        config.write_text(text)
        assert main(["train", str(config)]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


def test_the_command_teaches_a_patch_size(tmp_path):
    config = tmp_path / "train.toml"
    config.write_text(CONFIG.format(steps=2))
    assert main(["train", str(config)]) == 0
    config.write_text("out = 'p4.safetensors'\n[model]\nfile = 'taught.safetensors'\n[set]\nscenes = 9\nsize = 64\n"
                      "[train]\nscope = 'patch-size adapter'\npatch_size = 4\nrank = 2\nsteps = 2\nbatch = 4")
    assert main(["train", str(config)]) == 0
    adapted = apply_adapter(load_dit(tmp_path / "taught.safetensors"), load_adapter(tmp_path / "p4.safetensors"))
    assert adapted.patch_sizes == (2, 4) and len(rows(tmp_path / "p4" / "log.csv")) == 2
