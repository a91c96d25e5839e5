"""Losses, settings and states of a training at the edges: each target's factor, what is refused in which words, what a state keeps."""

from dataclasses import replace

from conftest import conditioning
from numbers_and_errors import line
import pytest
import torch

from dit_blocks.dit_impl.errors import BackboneError, TrainingError
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.training import losses
from dit_blocks.dit_impl.training.loop import Alone, Draws, Settings, train, validate
from dit_blocks.dit_impl.training.objectives import Denoising, arguments_of, in_scope, training_copy
from dit_blocks.dit_impl.training.sets import TrainingSet

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")
SHORT = Settings(steps=4, batch=2, warmup=0, scheduler="constant")
SIGMA = torch.tensor([0.01, 0.3, 0.8, 0.99])


def data(count: int = 6, channels: int = 4, side: int = 8) -> TrainingSet:
    latents = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))
    return TrainingSet(latents, [conditioning(i) for i in range(count)], (), conditioning(99))


# --- losses ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("flow,target,factor", [
    (RectifiedFlow(), "velocity", SIGMA), (RectifiedFlow(), "epsilon", SIGMA / (1 - SIGMA).clamp_min(0.05)), (RectifiedFlow("x0"), "x0", torch.ones(4)),
    (DDPM(), "epsilon", SIGMA), (DDPM(), "v", SIGMA / (SIGMA ** 2 + 1).sqrt()), (DDPM("v"), "x0", torch.ones(4))])
def test_how_far_x0_is_off_for_an_error_of_one(flow, target, factor):
    torch.testing.assert_close(losses.x0_error(flow, target, SIGMA), factor)


@pytest.mark.parametrize("flow,target", [(RectifiedFlow("velocity"), "x0"), (RectifiedFlow("velocity"), "epsilon"), (RectifiedFlow("x0"), "velocity"),
                                         (DDPM("epsilon"), "v"), (DDPM("v"), "x0")])
def test_another_target_is_the_same_error_times_its_factor(flow, target):
    prediction, clean, noise = torch.randn(3, 4, 5, 8, generator=torch.Generator().manual_seed(0))
    own = losses.squared_error(flow, prediction, clean, noise, SIGMA)
    torch.testing.assert_close(own, (prediction - losses.own_target(flow, clean, noise, SIGMA)) ** 2)
    assert torch.equal(losses.squared_error(flow, prediction, clean, noise, SIGMA, flow.prediction), own)
    factor = (losses.x0_error(flow, flow.prediction, SIGMA) / losses.x0_error(flow, target, SIGMA.clamp_min(0.05))) ** 2
    torch.testing.assert_close(losses.squared_error(flow, prediction, clean, noise, SIGMA, target), own * factor.view(4, 1, 1))


def test_losses_that_a_flow_has_not_say_which_it_has():
    assert line(ValueError, losses.x0_error, RectifiedFlow(), "v", SIGMA) == "target of a rectified flow is one of velocity, epsilon, x0, own, not 'v'"
    assert line(ValueError, losses.x0_error, DDPM(), "velocity", SIGMA) == "target of a DDPM is one of epsilon, v, x0, own, not 'velocity'"
    three = torch.zeros(3, 1, 2, 4)
    assert line(ValueError, losses.squared_error, RectifiedFlow(), *three, torch.tensor([0.5]), weighting="best") == \
        "weighting is one of none, sigma_sqrt, cosmap, not 'best'"
    assert line(ValueError, losses.squared_error, DDPM(), *three, torch.tensor([0.5]), weighting="cosmap") == \
        "weighting 'cosmap' is for rectified flows, but this model is a DDPM: use none"
    assert line(ValueError, losses.draw_sigmas, RectifiedFlow(), 2, torch.Generator(), "often") == "times is one of logit_normal, uniform, mode, not 'often'"


def test_levels_are_drawn_as_the_times_say_and_shifted_as_the_flow_is():
    draw = lambda flow, times: losses.draw_sigmas(flow, 4000, torch.Generator().manual_seed(0), times)  # noqa: E731
    uniform, normal, mode = (draw(RectifiedFlow(), times) for times in losses.TIMES[1:2] + losses.TIMES[0:1] + losses.TIMES[2:])
    assert uniform.std() == pytest.approx(12 ** -0.5, abs=0.01) and normal.logit().std() == pytest.approx(1, abs=0.05) and normal.median() == pytest.approx(0.5, abs=0.02)
    assert mode.std() < uniform.std() and all((0 <= one).all() and (one <= 1).all() for one in (uniform, normal, mode))
    torch.testing.assert_close(draw(RectifiedFlow(shift=3.0), "uniform"), 3 * uniform / (1 + 2 * uniform))
    ddpm = draw(DDPM(), "uniform")
    assert ddpm.dtype == torch.float32 and torch.isin(ddpm, DDPM().sigmas.float()).all() and len(ddpm.unique()) > 900


# --- settings -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change,says", [
    (dict(steps=0), "steps is at least 1, not 0"), (dict(batch=0), "batch is at least 1, not 0"), (dict(accumulate=0), "accumulate is at least 1, not 0"),
    (dict(warmup=-1), "warmup is at least 0, not -1"), (dict(validation=-1), "validation is at least 0, not -1"),
    (dict(weight_decay=float("inf")), "weight_decay is at least 0, not inf"), (dict(learning_rate=0.0), "learning_rate is above 0, not 0.0"),
    (dict(clip=float("nan")), "clip is above 0, not nan"), (dict(scheduler="step"), "scheduler is one of constant, constant_with_warmup, linear, cosine, not 'step'"),
    (dict(precision="half"), "precision is one of float32, bfloat16, not 'half'"), (dict(ema=1.0), "ema is from 0 to below 1, not 1.0"),
    (dict(drop=-0.1), "drop is from 0 to below 1, not -0.1")])
def test_settings_that_can_t_be(change, says):
    assert line(TrainingError, replace(Settings(), **change).check) == says


def test_settings_at_their_limits():
    replace(Settings(), steps=1, batch=1, accumulate=1, warmup=0, validation=0, weight_decay=0, ema=0, drop=0).check()


# --- sets and scopes ------------------------------------------------------------------------------------------------

def test_sets_that_do_not_fit_say_why(backbone):
    objective = Denoising(training_copy(backbone))
    for set_, settings, says in (
            (data(4), replace(SHORT, validation=4), "the set has 4 pictures, validation holds out 4: none is left for training"),
            (data(channels=3), SHORT, "the set has latents of 3 channels, the model reads 4"),
            (data(side=3), SHORT, "the shorter side of the set's latents is 3 cells, less than a patch of 4")):
        assert line(TrainingError, Draws, set_, objective, settings, Alone()) == says
    Draws(data(side=4), objective, SHORT, Alone())


def test_scopes_and_sizes_that_a_model_has_not(backbone, class_dit):
    assert line(TrainingError, in_scope, backbone.model, "head") == "scope is one of everything, patch embed and head, not 'head'"
    assert line(TrainingError, Denoising, training_copy(backbone), patch_sizes=(2, 3)) == "a small DiT has patch sizes 2, 4, not 3"
    assert Denoising(training_copy(backbone), patch_sizes=(4,)).patch_sizes == (4,)
    assert line(BackboneError, arguments_of, backbone, [None]) == \
        "the training set has no captions, and a small DiT reads text: wire captions and clip into Training Set"
    assert arguments_of(class_dit, [None, class_dit.class_conditioning("3")])["labels"].tolist() == [10, 3]


def test_validation_is_the_mean_over_the_pictures_held_out(backbone):
    objective = Denoising(training_copy(backbone))
    draws = Draws(data(), objective, replace(SHORT, validation=3), Alone())
    with torch.no_grad():
        wanted = sum(objective.loss(batch).item() * len(batch.clean) for batch in draws.held_out()) / 3
    assert validate(objective, draws, Alone()) == pytest.approx(wanted, rel=1e-5)


# --- states ---------------------------------------------------------------------------------------------------------

def taught(backbone, settings, state, **how):
    objective = Denoising(training_copy(backbone))
    return objective, train(objective, data(), settings, state, **how)


def test_a_state_holds_its_step_and_every_setting_and_the_one_before_is_set_aside(backbone, tmp_path, caplog):
    path = tmp_path / "state.pt"
    taught(backbone, replace(SHORT, steps=2), path)
    first = path.read_bytes()
    kept = torch.load(path, weights_only=True)
    assert kept["step"] == 2 and kept["settings"]["steps"] == 2 and kept["settings"]["scope"] == "everything" and len(kept["log"]["losses"]) == 2
    assert kept["log"]["unsaved"] == "" and kept["parameters"].keys() == dict(backbone.model.named_parameters()).keys()
    taught(backbone, replace(SHORT, steps=1), path)
    assert (tmp_path / "state.earlier.pt").read_bytes() == first and torch.load(path, weights_only=True)["step"] == 1
    assert f"the state of an earlier training of this name is now {tmp_path / 'state.earlier.pt'}" in caplog.text


def test_what_is_resumed_must_be_what_was_begun(backbone, tmp_path):
    path = tmp_path / "state.pt"
    missing = line(TrainingError, taught, backbone, SHORT, path, resume=True)
    assert missing == f"there is nothing to resume: no state in {path}"
    assert line(TrainingError, taught, backbone, SHORT, None, resume=True) == "there is nothing to resume: no state in None"
    path.write_bytes(b"no state")
    assert line(TrainingError, taught, backbone, SHORT, path, resume=True).startswith(f"{path} is no state of a training: ")
    path.unlink()
    taught(backbone, SHORT, path)
    assert line(TrainingError, taught, backbone, replace(SHORT, batch=3), path, resume=True) == \
        "resume goes on with the settings it began with: batch was 2, not 3"
    _, log = taught(backbone, replace(SHORT, steps=6), path, resume=True)  # more steps are no other training
    assert len(log.losses) == len(log.gradients) == 6 and log.seconds > 0
