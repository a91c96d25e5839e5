"""Training inside a real ComfyUI, which runs nodes in inference mode: from core's folder of captioned pictures to core's Plot Loss Graph."""

import time

from comfyui_host import Host, needs_comfyui
from PIL import Image
import pytest

from dit_blocks.dit_impl.sources.dit_file import load_dit

pytestmark = needs_comfyui
COLOURS = ("red", "green", "blue", "white", "yellow", "purple")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    running = Host(tmp_path_factory.mktemp("comfyui"))
    for folder in ("shapes", "mixed"):
        (running.base / "input" / folder).mkdir()
        for i, colour in enumerate(COLOURS):
            Image.new("RGB", (64, 64 if folder == "shapes" or i else 32), colour).save(running.base / "input" / folder / f"{colour}.png")
            (running.base / "input" / folder / f"{colour}.txt").write_text(f"a large {colour} square")
    yield running
    running.stop()


def graph(name: str, folder: str = "shapes", **train) -> dict:
    """A small DiT with random weights learns a folder of pictures."""
    node = lambda kind, **inputs: {"class_type": kind, "inputs": inputs}
    how = {"scope": "everything", "steps": 8, "batch": 2, "learning_rate": 1e-3, "scheduler": "cosine", "warmup": 1, "precision": "float32",
           "accumulate": 1, "checkpointing": False, "ema": 0.0, "seed": 0, "resume": False, "drop": 0.1, "validation": 2, "target": "own",
           "weighting": "none", "times": "logit_normal", "patch_size": 16, "rank": 4, "sample_every": 4, **train}
    return {
        "model": node("DiTBlocksLoadEmbedded"),
        "new": node("DiTBlocksNewDiT", width=32, depth=2, heads=2, patch_sizes="2", latent_channels=0, position="sincos", conditioning="text",
                    classes=3, prediction="x0", picture_size=64, seed=0, like=["model", 0], clip=["model", 1]),
        "folder": node("LoadImageTextDataSetFromFolder", folder=folder),
        "set": node("DiTBlocksTrainingSet", images=["folder", 0], captions=["folder", 1], vae=["model", 2], clip=["model", 1], cache="shapes"),
        "prompt": node("CLIPTextEncode", clip=["model", 1], text="a large red square"),
        "train": node("DiTBlocksTrain", dit=["new", 0], training_set=["set", 0], name=name, positive=["prompt", 0], vae=["model", 2], **how),
        "plot": node("LossGraphNode", loss=["train", 1], filename_prefix="loss"),
        "save": node("DiTBlocksSaveCheckpoint", dit=["train", 0], filename_prefix="dit_blocks/taught"),
        "samples": node("SaveImage", images=["train", 3], filename_prefix="samples")}


def error_of(entry: dict) -> str:
    return next(body["exception_message"].strip() for event, body in entry["status"]["messages"] if event == "execution_error")


def test_a_folder_of_pictures_is_learnt_and_its_losses_plotted(host):
    entry = host.run(graph("mine"))
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert len(entry["outputs"]["plot"]["images"]) == 1 and len(entry["outputs"]["samples"]["images"]) == 3
    assert "6 latents of 16×8×8" in entry["outputs"]["set"]["text"][0] and "captions: 6" in entry["outputs"]["set"]["text"][0]
    folder = host.base / "output" / "dit_blocks" / "training" / "mine"
    assert (folder / "state.pt").exists() and len((folder / "log.csv").read_text().splitlines()) == 10
    assert load_dit(host.base / "output" / "dit_blocks" / "taught_00001_.safetensors").facts["pictures"] == 4
    assert len(list((host.base / "output" / "dit_blocks" / "sets" / "shapes").iterdir())) == 1


def test_a_cancelled_training_keeps_its_state_says_where_and_goes_on(host):
    prompt_id = host.post("/prompt", {"prompt": graph("long", steps=100_000, sample_every=0, scheduler="constant")})["prompt_id"]
    state = host.base / "output" / "dit_blocks" / "training" / "long" / "state.pt"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    host.post("/interrupt", {})
    entry = host.wait(prompt_id)
    assert any(event == "execution_interrupted" for event, _ in entry["status"]["messages"])
    said = next(line for line in host.log().splitlines() if "training stopped at step" in line)
    assert str(state) in said
    done = int(said.split("at step ")[1].split(" ")[0])
    assert len(state.with_name("log.csv").read_text().splitlines()) == done + 2
    entry = host.run(graph("long", steps=done + 2, resume=True, sample_every=0, scheduler="constant"))
    assert entry["status"]["status_str"] == "success" and f"{done + 2} steps" in entry["outputs"]["train"]["text"][0]


def test_pictures_of_mixed_sizes_are_learnt_from(host):
    entry = host.run(graph("mixed", "mixed"))
    assert entry["status"]["status_str"] == "success", error_of(entry)
