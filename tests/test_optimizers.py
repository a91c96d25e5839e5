"""Which optimizer teaches what: AdamW everything, or Muon the matrices that tokens go through and AdamW the rest."""

from dataclasses import replace

import pytest
from test_training_loop import data
import torch

from dit_blocks.dit_impl.errors import TrainingError
from dit_blocks.dit_impl.training.adapter import Distilling
from dit_blocks.dit_impl.training.loop import Settings, train
from dit_blocks.dit_impl.training.objectives import Denoising, training_copy
from dit_blocks.dit_impl.training.optimizers import optimizers_of

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")
SHORT = Settings(steps=4, batch=4, learning_rate=1e-3, warmup=0, weight_decay=0.0, optimizer="muon")


def names_of(optimizer: torch.optim.Optimizer, named: dict) -> set[str]:
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name for name, p in named.items() if id(p) in own}


def test_muon_takes_the_matrices_that_tokens_go_through_and_adamw_all_else(backbone):
    named = Denoising(training_copy(backbone)).trained
    muon, adamw = optimizers_of(named, 1e-3)
    taken, left = names_of(muon, named), names_of(adamw, named)
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW) and taken | left == set(named) and not taken & left
    assert {name for name in taken if not any(part in name for part in (".attn", ".mlp.", "x_embedder.", "final_layer.linear."))} == set()
    assert {"x_embedder.2.weight", "final_layer.linear.2.weight", "joint_blocks.0.x_block.attn.qkv.weight", "joint_blocks.0.x_block.mlp.fc1.weight"} <= taken
    assert all(named[name].dim() == 2 for name in taken) and "context_embedder.weight" in left


def test_adamw_takes_all_where_it_is_asked_for_and_where_muon_finds_no_matrix():
    vector, matrix = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3, 3))
    (alone,) = optimizers_of({"x_embedder.2.weight": matrix, "x_embedder.2.bias": vector}, 1e-3, optimizer="adamw")
    (left,) = optimizers_of({"x_embedder.2.bias": vector}, 1e-3, optimizer="muon")
    assert all(isinstance(optimizer, torch.optim.AdamW) for optimizer in (alone, left)) and len(alone.param_groups[0]["params"]) == 2


def test_muon_s_steps_use_every_direction_of_a_matrix_alike(backbone):
    spread = {}
    for optimizer in ("adamw", "muon"):
        objective = Denoising(training_copy(backbone))
        before = objective.trained["x_embedder.2.weight"].detach().clone()
        train(objective, data(), replace(SHORT, steps=1, optimizer=optimizer))
        values = torch.linalg.svdvals(objective.trained["x_embedder.2.weight"].detach() - before)
        spread[optimizer] = (values[0] / values[-1]).item()
    assert spread["muon"] < 3 < spread["adamw"]


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_what_muon_teaches_is_learnt(backbone, kind):
    objective = Denoising(training_copy(backbone)) if kind == "model" else Distilling(backbone, 3, 4)
    log = train(objective, data(), replace(SHORT, steps=60, batch=8, learning_rate=3e-3))
    assert sum(log.losses[-5:]) < 0.9 * sum(log.losses[:5])


def test_another_optimizer_is_refused_and_a_state_from_before_there_was_a_choice_goes_on(backbone, tmp_path):
    with pytest.raises(TrainingError, match="optimizer is one of adamw, muon, not 'sgd'"):
        replace(SHORT, optimizer="sgd").check()
    settings = replace(SHORT, steps=2, optimizer="adamw")
    train(Denoising(training_copy(backbone)), data(), settings, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["settings"]["optimizer"]
    torch.save(state, tmp_path / "state.pt")
    log = train(Denoising(training_copy(backbone)), data(), replace(settings, steps=3), tmp_path / "state.pt", resume=True)
    assert len(log.losses) == 3
    with pytest.raises(TrainingError, match="resume goes on with the settings it began with: optimizer was adamw, not muon"):
        train(Denoising(training_copy(backbone)), data(), SHORT, tmp_path / "state.pt", resume=True)
