"""What a training promises: averaged weights are left, captions are dropped as seldom as asked, gradients are cut, epochs differ; and a
model's fingerprint is of all its weights."""

from dataclasses import replace

from conftest import conditioning
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dit_blocks.dit_impl.sources.fingerprints import alike, fingerprint, likeness
from dit_blocks.dit_impl.training.loop import Alone, Draws, Settings, train
from dit_blocks.dit_impl.training.objectives import Denoising, training_copy
from dit_blocks.dit_impl.training.sets import TrainingSet

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")
NOTHING = conditioning(99)
SETTINGS = Settings(steps=6, batch=4, learning_rate=1e-2, scheduler="constant", warmup=0)


def numbered(count: int = 8) -> TrainingSet:
    """Pictures that are their own numbers, from 1."""
    latents = torch.arange(1.0, count + 1).view(count, 1, 1, 1).expand(count, 4, 8, 8).clone()
    return TrainingSet(latents, [conditioning(i) for i in range(count)], (), NOTHING)


def numbers(batch) -> list[int]:
    return [int(value) for value in batch.clean[:, 0, 0, 0]]


def draws(backbone, settings, set_=None, runner=Alone()) -> Draws:
    return Draws(set_ or numbered(), Denoising(training_copy(backbone)), settings, runner)


# --- averaged weights -----------------------------------------------------------------------------------------------

def walked(backbone, settings, **how):
    """A training → (its objective, its weights after each step)."""
    objective, kept = Denoising(training_copy(backbone)), []
    watch = lambda *_: kept.append({name: p.detach().clone() for name, p in objective.trained.items()})  # noqa: E731
    train(objective, numbered(), settings, watch=watch, **how)
    return objective, kept


@pytest.mark.parametrize("decay", [0.2, 0.9])
def test_the_weights_that_are_left_are_the_average_over_the_steps(backbone, decay):
    objective, kept = walked(backbone, replace(SETTINGS, ema=decay))
    average = dict(backbone.model.named_parameters())
    for step, weights in enumerate(kept):
        share = min(decay, (1 + step) / (10 + step)) if step else 0  # diffusers' EMAModel, whose share of the old grows
        average = {name: share * average[name] + (1 - share) * weights[name] for name in weights}
    for name, parameter in objective.trained.items():
        torch.testing.assert_close(parameter.detach(), average[name], atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(kept[-1][name], average[name], atol=1e-4) for name in average)


@pytest.mark.parametrize("ema,how", [(0.0, {}), (0.9, {"averaged": False})], ids=["no average", "not asked for"])
def test_without_averaging_the_last_step_s_weights_are_left(backbone, ema, how):
    objective, kept = walked(backbone, replace(SETTINGS, ema=ema), **how)
    assert all(torch.equal(parameter, kept[-1][name]) for name, parameter in objective.trained.items())


# --- captions -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("drop", [0.0, 0.1, 0.9])
def test_captions_are_left_out_as_often_as_asked_and_no_oftener(backbone, drop):
    one = draws(backbone, replace(SETTINGS, batch=8, drop=drop))
    left_out = [given is NOTHING for step in range(150) for given in one.at(step).conditionings]
    assert abs(sum(left_out) / len(left_out) - drop) < (0.04 if drop else 1e-9)


def test_a_caption_that_stays_is_the_picture_s_own(backbone):
    one = draws(backbone, replace(SETTINGS, drop=0.3))
    for step in range(20):
        batch = one.at(step)
        for number, given in zip(numbers(batch), batch.conditionings):
            assert given is NOTHING or given is one.data.conditionings[number - 1]


def test_validation_leaves_no_caption_out(backbone):
    one = draws(backbone, replace(SETTINGS, drop=0.9, validation=6))
    held = [given for batch in one.held_out() for given in batch.conditionings]
    assert len(held) == 6 and all(given is one.data.conditionings[2 + i] for i, given in enumerate(held))


def test_where_nothing_stands_for_no_caption_all_captions_stay(backbone):
    set_ = numbered()
    one = draws(backbone, replace(SETTINGS, drop=0.9), TrainingSet(set_.latents, set_.conditionings))
    assert all(given is one.data.conditionings[number - 1] for step in range(5)
               for batch in [one.at(step)] for number, given in zip(numbers(batch), batch.conditionings))


def test_the_model_s_own_stands_for_no_class_where_the_set_does_not_say(class_dit):
    latents = torch.randn(4, 4, 8, 8)
    set_ = TrainingSet(latents, [class_dit.class_conditioning(str(i)) for i in range(4)])
    one = Draws(set_, Denoising(training_copy(class_dit)), replace(SETTINGS, drop=0.9), Alone())
    labels = [given[0][1]["class_label"] for step in range(10) for given in one.at(step).conditionings]
    assert labels.count(10) > 20 and set(labels) <= {0, 1, 2, 3, 10}  # 10 classes, and the number after them for none


# --- gradients ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("clip", [1e-3, 1e9])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_cut_to_the_norm_that_is_asked_for(backbone, clip, accumulate):
    norms = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: norms.append(torch.nn.utils.get_total_norm(
        [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]).item()))
    try:
        log = train(Denoising(training_copy(backbone)), numbered(), replace(SETTINGS, clip=clip, accumulate=accumulate))
    finally:
        hook.remove()
    assert len(norms) == len(log.gradients) == 6 and min(log.gradients) > 0.01  # the log tells them as they were
    assert norms == pytest.approx([min(clip, norm) for norm in log.gradients], rel=1e-3)


def test_a_step_begins_without_the_gradient_of_the_one_before(backbone):
    settings = replace(SETTINGS, steps=1, learning_rate=1e-12, clip=1e9)
    once, twice = (train(Denoising(training_copy(backbone)), numbered(), replace(settings, steps=steps)).gradients for steps in (1, 2))
    assert once[0] == twice[0]
    shifted = draws(backbone, settings)
    objective = shifted.objective
    objective.loss(shifted.at(1)).backward()
    assert twice[1] == pytest.approx(torch.nn.utils.get_total_norm([p.grad for p in objective.trained.values() if p.grad is not None]).item(), rel=1e-3)


def test_nothing_is_left_of_a_gradient_when_a_training_is_done(backbone):
    objective, _ = walked(backbone, SETTINGS)
    assert all(parameter.grad is None for parameter in objective.module.parameters())


# --- order ----------------------------------------------------------------------------------------------------------

@tried(max_examples=15, deadline=None)
@given(count=st.integers(5, 9), batch=st.sampled_from([1, 2, 3]), accumulate=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_every_epoch_shows_each_picture_once_in_an_order_of_its_own(count, batch, accumulate, seed):
    class Plain:  # what Draws asks of an objective
        patch_sizes, latent_format, device, nothing = (2,), {name: torch.full((4,), float(name != "shift")) for name in ("scale", "shift", "std")}, torch.device("cpu"), None

        def sigmas(self, count, generator):
            return torch.rand(count, generator=generator)
    one = Draws(numbered(count), Plain(), Settings(batch=batch, accumulate=accumulate, seed=seed), Alone())
    steps = -(-4 * count // (batch * accumulate))
    seen = [number for step in range(steps) for part in range(accumulate) for number in numbers(one.at(step, part))]
    epochs = [seen[start:start + count] for start in range(0, 4 * count, count)]
    assert all(sorted(epoch) == list(range(1, count + 1)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_another_seed_is_another_order_with_other_noise_and_levels(backbone):
    first, same, other = (draws(backbone, replace(SETTINGS, batch=8, seed=seed)).at(0) for seed in (1, 1, 2))
    assert numbers(first) == numbers(same) != numbers(other)
    assert torch.equal(first.noise, same.noise) and not torch.equal(first.noise, other.noise) and not torch.equal(first.sigma, other.sigma)


def test_no_two_steps_or_parts_of_a_step_draw_the_same_noise(backbone):
    one = draws(backbone, replace(SETTINGS, accumulate=2))
    batches = [one.at(step, part) for step in range(5) for part in range(2)]
    assert len({batch.noise[0, 0, 0, 0].item() for batch in batches}) == len({batch.sigma[0].item() for batch in batches}) == 10
    assert {batch.patch_size for step in range(20) for batch in [one.at(step)]} == {2, 4}


# --- a model's fingerprint ------------------------------------------------------------------------------------------

def weights_like(*shapes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"layer.{i}.weight": torch.randn(shape, generator=generator).bfloat16().float() for i, shape in enumerate(shapes)}


@tried(max_examples=40, deadline=None)
@given(st.data())
def test_a_fingerprint_is_of_every_value_of_a_small_weight(data):
    state = weights_like((30, 17), (9,), (4, 3, 2))
    name = data.draw(st.sampled_from(sorted(state)))
    changed = {key: value.clone() for key, value in state.items()}
    changed[name].view(-1)[data.draw(st.integers(0, changed[name].numel() - 1))] += 0.5
    assert fingerprint(changed) != fingerprint(state) == fingerprint(dict(reversed(state.items())))


def test_a_fingerprint_is_of_values_from_all_over_a_large_weight():
    state = weights_like((64, 4096))
    for part in range(16):
        changed = {key: value.clone() for key, value in state.items()}
        changed["layer.0.weight"].view(-1)[1:].chunk(16)[part].add_(0.5)
        assert fingerprint(changed) != fingerprint(state), part


def test_a_fingerprint_is_of_names_and_shapes_and_not_of_the_type_they_are_kept_in():
    state = weights_like((8, 6))
    (weight,) = state.values()
    assert fingerprint({name: value.bfloat16() for name, value in state.items()}) == fingerprint(state)
    assert len({fingerprint(one) for one in (state, {"other": weight}, {"layer.0.weight": weight.view(6, 8)})}) == 3


def test_a_likeness_knows_the_same_weights_in_another_type_and_no_other_weights():
    state = {key: value * 0.02 for key, value in weights_like((64, 48), (30, 17), (9,), (128, 16)).items()}
    other = {key: value.flip(0) for key, value in state.items()}
    for kind in (torch.bfloat16, torch.float16, torch.float8_e4m3fn):
        as_kind = likeness({key: value.to(kind) for key, value in state.items()})
        assert alike(likeness(state), as_kind) and not alike(likeness(other), as_kind)
        assert not alike(likeness({key: value for key, value in list(state.items())[:2]}), as_kind)
    assert not alike(likeness(state), likeness(state)) and not alike("", likeness(state)) and not alike("float32:AA", likeness(state))
