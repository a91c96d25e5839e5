"""Training on sequences with patches of several sizes: what it refuses, that it learns, and that without a mix nothing changes."""

from dataclasses import replace
import random

from conftest import conditioning
import pytest
import torch

from dit_blocks.dit_impl.errors import TrainingError
from dit_blocks.dit_impl.tokens.mixed import whole
from dit_blocks.dit_impl.training.adapter import Distilling
from dit_blocks.dit_impl.training.loop import Alone, Draws, Settings, train
from dit_blocks.dit_impl.training.mixes import MIX_SHARE, random_mix, read_mixes
from dit_blocks.dit_impl.training.objectives import Denoising, training_copy
from dit_blocks.dit_impl.training.sets import TrainingSet
from dit_blocks.nodes.training import Train

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")
SETTINGS = Settings(steps=60, batch=4, learning_rate=3e-3, scheduler="constant", warmup=0, mix="4-2")


def data(side: int = 8) -> TrainingSet:
    latents = torch.randn(8, 4, side, side, generator=torch.Generator().manual_seed(0))
    return TrainingSet(latents, [conditioning(i) for i in range(8)], (), conditioning(99))


@pytest.mark.parametrize("text", ["4", "2-4", "4-4", "3-2", "4-0", "4-x", "8-4-3", "4--2", "4-2; 8-4"])
def test_what_is_no_mix_is_refused_before_anything_runs(text):
    with pytest.raises(TrainingError, match="mix"):
        Settings(mix=text).check()
    assert "mix" in Train.validate_inputs(mix=text)


def test_mixes_are_read():
    assert read_mixes(" 4-2,8-4-2 ") == ((4, 2), (8, 4, 2)) and read_mixes("") == () and Train.validate_inputs(mix="4-2") is True


def test_what_cannot_learn_a_mix_says_so(backbone, class_dit):
    for objective, mix, side, said in ((Denoising(training_copy(class_dit)), "4-2", 8, "reads patches of one size"),
                                       (Denoising(training_copy(backbone)), "8-4", 8, "has patch sizes 2, 4, not 8"),
                                       (Denoising(training_copy(backbone)), "4-2", 6, "not a multiple of 4"),
                                       (Distilling(backbone, 8, 2), "4-2", 8, "learns patches of one size, 8")):
        with pytest.raises(TrainingError, match=said):
            Draws(data(side), objective, replace(SETTINGS, mix=mix), Alone())


def test_a_share_of_the_batches_is_mixed_and_the_others_are_as_without(backbone):
    objective = Denoising(training_copy(backbone))
    plain, mixed = (Draws(data(), objective, replace(SETTINGS, mix=mix), Alone()) for mix in ("", "4-2"))
    several = 0
    for step in range(200):
        a, b = plain.at(step), mixed.at(step)
        assert a.mix is None and a.patch_size == b.patch_size
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("clean", "noise", "sigma"))
        several += b.mix is not None
    assert abs(several / 200 - MIX_SHARE) < 0.1


def test_training_lowers_the_loss_of_mixed_sequences(backbone):
    objective = Denoising(training_copy(backbone))
    draws = Draws(data(), objective, SETTINGS, Alone())
    seen = [batch for batch in map(draws.at, range(60)) if batch.mix is not None]

    def loss() -> float:
        with torch.no_grad():
            return sum(objective.loss(batch).item() for batch in seen) / len(seen)
    before = loss()
    train(objective, data(), SETTINGS)
    assert loss() < 0.9 * before


def test_a_mix_of_one_size_costs_what_the_size_costs(backbone):
    objective = Denoising(training_copy(backbone))
    batch = Draws(data(), objective, replace(SETTINGS, mix=""), Alone()).at(0)
    one = replace(batch, mix=whole((8, 8), batch.patch_size, 4))
    assert objective.loss(one).item() == pytest.approx(objective.loss(batch).item(), rel=1e-5)


def test_a_resumed_run_equals_an_unbroken_one(backbone, tmp_path):
    settings = replace(SETTINGS, steps=12)
    whole = Denoising(training_copy(backbone))
    train(whole, data(), settings)
    train(Denoising(training_copy(backbone)), data(), replace(settings, steps=6), tmp_path / "state.pt")
    again = Denoising(training_copy(backbone))
    train(again, data(), settings, tmp_path / "state.pt", resume=True)
    assert all(torch.equal(p, again.trained[name]) for name, p in whole.trained.items())
    with pytest.raises(TrainingError, match="mix was 4-2, not"):
        train(Denoising(training_copy(backbone)), data(), replace(settings, mix=""), tmp_path / "state.pt", resume=True)


def test_with_its_own_generator_a_mix_is_that_of_the_global_one():
    latent = torch.randn(2, 4, 16, 16)
    torch.manual_seed(3)
    one = random_mix(latent, [8, 4, 2], random.Random(0))
    two = random_mix(latent, [8, 4, 2], random.Random(0), torch.Generator().manual_seed(3))
    assert all(torch.equal(places, two.places[p]) for p, places in one.places.items())
