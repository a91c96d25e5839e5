"""Training of what Load DiT (diffusers) gives: models of this library and those that diffusers runs whole, in each scope."""

from pathlib import Path
import runpy
from types import SimpleNamespace

import pytest
import torch

from dit_blocks.dit_impl.model.conditioning import label_conditioning
from dit_blocks.dit_impl.sources.diffusers_folder import load_folder
from dit_blocks.dit_impl.sources.dit_file import load_dit, save_dit
from dit_blocks.dit_impl.training.loop import Alone, Draws, Settings
from dit_blocks.dit_impl.training.objectives import Denoising, training_copy
from dit_blocks.dit_impl.training.run import drawn, run
from dit_blocks.dit_impl.training.sets import TrainingSet

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")
SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("diffusers_models.py"))))
MAKE = {"SD3": SMALL.sd3, "DiT": SMALL.dit, "PixArt": SMALL.pixart, "Flux": SMALL.flux}
EMBED_AND_HEAD = {
    "SD3": {"x_embedder.2.weight", "x_embedder.2.bias", "final_layer.adaLN_modulation.1.weight", "final_layer.adaLN_modulation.1.bias",
            "final_layer.linear.2.weight", "final_layer.linear.2.bias"},
    "PixArt": {f"transformer.{name}" for name in (
        "pos_embed.proj.weight", "pos_embed.proj.bias", "scale_shift_table", "proj_out.weight", "proj_out.bias")},
    "Flux": {f"transformer.{name}" for name in (
        "x_embedder.weight", "x_embedder.bias", "norm_out.linear.weight", "norm_out.linear.bias", "proj_out.weight", "proj_out.bias")}}
EMBED_AND_HEAD["DiT"] = EMBED_AND_HEAD["SD3"]


def text(seed: int, **extras) -> list:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, SMALL.POOLED_WIDTH, generator=generator)
    return [[torch.randn(1, 5, SMALL.TEXT_WIDTH, generator=generator), {"pooled_output": pooled, **extras}]]


def conditioning(kind: str, seed: int) -> list:
    return {"DiT": lambda: label_conditioning(seed % 5), "PixArt": lambda: text(seed, attention_mask=torch.tensor([[1, 1, 1, 0, 0]])),
            "Flux": lambda: text(seed, guidance=2.0), "SD3": lambda: text(seed)}[kind]()


@pytest.fixture(params=MAKE)
def loaded(request, tmp_path) -> tuple:
    """The kind, its DIT, and pictures to learn."""
    kind = request.param
    SMALL.save(kind, tmp_path / kind, MAKE[kind]())
    dit, *_ = load_folder(tmp_path / kind)
    latents = torch.randn(6, dit.channels, 8, 8, generator=torch.Generator().manual_seed(0))
    return kind, dit, TrainingSet(latents, [conditioning(kind, seed) for seed in range(6)])


@pytest.mark.parametrize("scope", ["everything", "patch embed and head"])
def test_a_loaded_model_learns_in_each_scope(loaded, scope, tmp_path):
    kind, dit, data = loaded
    before = {name: p.clone() for name, p in dit.model.named_parameters()}
    sample = drawn(conditioning(kind, 1), (8, 8), None, 0)
    done = run(dit, data, Settings(steps=4, batch=2, learning_rate=1e-3, warmup=0, ema=0.5, weight_decay=0.0), scope, sample=sample, sample_every=2)
    changed = {name for name, p in done.dit.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(before) if scope == "everything" else changed == EMBED_AND_HEAD[kind]
    assert all(torch.equal(p, before[name]) for name, p in dit.model.named_parameters())
    assert not any(p.requires_grad for p in done.dit.model.parameters())
    assert len(done.samples) == 3 and not torch.equal(done.samples[0], done.samples[-1]) and not torch.equal(done.filters[0], done.filters[-1])
    save_dit(done.dit, tmp_path / "x.safetensors")
    again = load_dit(tmp_path / "x.safetensors")
    assert again.facts["steps"] == 4 and all(torch.equal(a, b) for a, b in zip(done.dit.model.parameters(), again.model.parameters()))


def test_checkpointing_changes_the_memory_not_the_gradient(loaded):
    _, dit, data = loaded
    grads = []
    for checkpointing in (False, True):
        objective = Denoising(training_copy(dit), checkpointing=checkpointing)
        objective.loss(Draws(data, objective, Settings(batch=2), Alone()).at(0)).backward()
        grads.append({name: p.grad for name, p in objective.trained.items() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and all(torch.allclose(grads[0][name], grads[1][name], atol=1e-6) for name in grads[0])
