"""The pack's own models on a device other than the CPU, without float64: what they draw and learn is what they draw and learn on the CPU, and
what lies on wires between nodes lies at home."""

from dataclasses import replace
import json
from pathlib import Path

from conftest import conditioning
from example_pictures import briefly
from gpu import device
from gpu.wires import away
import pytest
import torch

import dit_blocks
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.nodes import NODES
from dit_blocks.nodes.comfyui import host
from dit_blocks.standalone.cli import main

ROOT = Path(dit_blocks.__file__).parent
CLASSES = {cls.define_schema().node_id.removeprefix("DiTBlocks"): cls for cls in NODES}
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def run(name: str, /, **inputs) -> tuple:
    """A node with its widgets' own values where none is given, in inference mode as ComfyUI runs it."""
    defaults = {one.id: one.default for one in CLASSES[name].define_schema().inputs if one.get_io_type() in WIDGETS}
    with torch.inference_mode():
        return CLASSES[name].execute(**defaults | inputs).result or ()


@pytest.fixture
def gpu(monkeypatch):
    """The device is there, and the host brings models to it."""
    def load(modules, memory=0, least=None):
        for module in modules:
            with torch.inference_mode(False):
                module.to(device.GPU)
    monkeypatch.setattr(host, "load", load)
    monkeypatch.setattr(host, "device", lambda: device.GPU)
    with device.on(float64=False) as counts:
        yield counts


def on_the_device(dit):
    """A copy of a handle whose weights lie there."""
    import copy
    with torch.inference_mode(False):
        return replace(dit, model=copy.deepcopy(dit.model).to(device.GPU))


def noisy(dit, size=(7, 6), batch=2, step=0, **latent):
    samples = torch.randn(batch, dit.channels, *size, generator=torch.Generator().manual_seed(0))
    sigmas = dit.schedule(4)
    tokens, _ = run("AddNoise", dit=dit, tokens=dit.fold({"samples": samples, **latent}), sigmas=sigmas, step=step, seed=1)
    return tokens, sigmas


def by_stages(dit, tokens, sigmas, positive, negative, solver="euler", cfg=3.0) -> list:
    """Everything that the nodes of a step hand on, and the tokens last."""
    made = [run("Condition", dit=dit, x=tokens, positive=positive, negative=negative, sigmas=sigmas, step=0)[0]]
    made.append(run("PatchEmbed", dit=dit, x=made[-1])[0])
    made.append(run("PositionEmbed", dit=dit, hidden=made[-1], mode="model", seed=0)[0])
    made.append(run("RunBlocks", dit=dit, hidden=made[-1], blocks="all", strength=1.0)[0])
    made.append(run("FinalLayer", dit=dit, hidden=made[-1])[0])
    made.append(run("Guidance", prediction=made[-1], cfg=cfg)[0])
    return [*made, *run("SamplerStep", dit=dit, tokens=tokens, prediction=made[-1], sigmas=sigmas, step=0, solver=solver)]


LATENTS = {"plain": {}, "noise mask": {"noise_mask": torch.rand(1, 7, 6, generator=torch.Generator().manual_seed(5))}}


@pytest.mark.parametrize("latent", LATENTS.values(), ids=LATENTS)
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_stages_and_steps_are_those_of_the_cpu(gpu, backbone, positive, negative, latent, solver):
    there = on_the_device(backbone)
    tokens, sigmas = noisy(backbone, **latent)
    expected = by_stages(backbone, tokens, sigmas, positive, negative, solver)
    before = gpu.live
    made = by_stages(there, *noisy(there, **latent), positive, negative, solver)
    assert not away(made)
    assert all(torch.equal(a["tokens"], b["tokens"]) for a, b in zip(expected[4:], made[4:]))
    assert gpu.live <= before + 4096, "the wires hold memory of the device"
    (step, x0) = run("DenoiseStep", dit=there, tokens=tokens, sigmas=sigmas, step=0, positive=positive, negative=negative, cfg=3.0, solver=solver)
    assert torch.equal(step["tokens"], made[-2]["tokens"]) and not away([step, x0])


def test_a_class_conditional_ddpm(gpu, class_dit):
    there, label = on_the_device(class_dit), class_dit.class_conditioning("3")
    tokens, sigmas = noisy(class_dit, (8, 8))
    expected = by_stages(class_dit, tokens, sigmas, label, class_dit.unconditional, "ddim")
    made = by_stages(there, *noisy(there, (8, 8)), label, class_dit.unconditional, "ddim")
    assert torch.equal(expected[-2]["tokens"], made[-2]["tokens"]) and not away(made)
    every = dict(tokens=tokens, sigmas=sigmas, positive=label, cfg=3.0, start_step=0, end_step=4)
    assert torch.equal(run("Denoise", dit=there, **every)[0]["tokens"], run("Denoise", dit=class_dit, **every)[0]["tokens"])


def test_areas_masks_and_times(gpu, backbone, negative):
    """Conditionings that share no batch are calls of their own."""
    there = on_the_device(backbone)
    one, other = conditioning(1)[0], conditioning(3)[0]
    positive = [[one[0], {**one[1], "area": (4, 4, 2, 2), "strength": 0.7}], [other[0], {**other[1], "mask": torch.rand(1, 7, 6)}]]
    tokens, sigmas = noisy(backbone)
    expected, made = (by_stages(dit, tokens, sigmas, positive, negative) for dit in (backbone, there))
    assert torch.equal(expected[-2]["tokens"], made[-2]["tokens"]) and not away(made)


def test_a_step_of_training_as_wires(gpu, backbone, positive):
    there = on_the_device(backbone)
    losses = []
    for dit in (backbone, there):
        clean = dit.fold({"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))})
        (learner,) = run("Trainable", dit=dit)
        noisy_tokens, _, sigmas = run("NoiseAtTime", dit=learner, tokens=clean, seed=3)
        (hidden,) = run("Condition", dit=learner, x=noisy_tokens, positive=positive, sigmas=sigmas, step=0)
        (hidden,) = run("PatchEmbed", dit=learner, x=hidden)
        (hidden,) = run("PositionEmbed", dit=learner, hidden=hidden)
        (hidden,) = run("RunBlocks", dit=learner, hidden=hidden)
        (prediction,) = run("FinalLayer", dit=learner, hidden=hidden)
        loss, value, _ = run("DiffusionLoss", dit=learner, prediction=prediction)
        taught, _, norm = run("TrainStep", dit=learner, loss=loss, learning_rate=1e-2)
        losses.append((value, norm, taught.model.x_embedder["2"].weight.detach().cpu()))
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5) and losses[0][1] == pytest.approx(losses[1][1], rel=1e-4)
    torch.testing.assert_close(losses[0][2], losses[1][2])
    assert there.model.x_embedder["2"].weight.requires_grad is False


def teach(dit, scope, tmp_path, **how):
    from dit_blocks.dit_impl.training.sets import TrainingSet
    data = TrainingSet(torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0)), [conditioning(i) for i in range(6)], (), conditioning(9))
    host.keep_in(lambda: tmp_path, None, lambda: tmp_path)
    return run("Train", dit=dit, training_set=data, name=f"{scope[:5]}{dit.compute_device.type}", scope=scope, steps=4, batch=2, warmup=1,
               learning_rate=1e-3, scheduler="constant", precision="float32", accumulate=1, checkpointing=False, ema=0.9, seed=0, resume=False,
               drop=0.1, validation=1, target="own", weighting="none", times="logit_normal", patch_size=3, rank=2, sample_every=2,
               positive=conditioning(1), language="English", optimizer="adamw", **how)


@pytest.mark.parametrize("scope", ["everything", "patch-size adapter"])
def test_training_and_adapters(gpu, backbone, scope, tmp_path):
    there = on_the_device(backbone)
    before = {key: value.cpu() for key, value in there.model.state_dict().items()}
    losses, drawn = [], []
    for dit in (backbone, there):
        dit, loss, filters, samples, *_ = teach(dit, scope, tmp_path)
        losses.append(torch.tensor(loss["loss"]))
        drawn.append((filters, samples, dit))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    assert not away([one[:2] for one in drawn])
    assert all(torch.equal(value.cpu(), before[key]) for key, value in there.model.state_dict().items())
    taught = drawn[1][2]
    tokens, sigmas = noisy(taught)
    tokens, *_ = run("Denoise", dit=taught, tokens=tokens, sigmas=sigmas, positive=conditioning(1), negative=conditioning(2), cfg=2.0)
    assert tokens["tokens"].isfinite().all()


@pytest.fixture
def embedded_there(gpu):
    """The default model, which a host brings to the device and back."""
    parts = load_embedded()
    yield parts
    with torch.inference_mode(False):
        for module in (parts[0].model, parts[1].encoder, parts[2].vae):
            module.to("cpu")
    parts[0].model.to("cpu")


# every stage, training step and VAE call is in one of these; the simulation is too slow for all examples
EXAMPLES = ("concept_mask", "exploded_step", "find_and_skip_blocks", "image_round_trip", "learn_04_positions", "learn_06_one_step", "swap_patch_size",
            "textbook_step")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_there(embedded_there, name, tmp_path, capsys):
    """On a device where float64 is unknown, with the VAE on the CPU."""
    path = ROOT / "example_workflows" / f"{name}.json"
    assert main(["run", str(path), "--out", str(tmp_path), "--input", str(tmp_path), *briefly(path.stem), "--json"]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"]
