"""What a training draws, by the rule that makes a resumed run equal an unbroken one: a state that an earlier version wrote goes on with the
batches that it would have had. And objectives: what they train, and how they answer."""

from dataclasses import replace
import math
import random
from types import SimpleNamespace

from conftest import conditioning
from numbers_and_errors import line
import pytest
import torch

from dit_blocks.dit_impl.errors import BackboneError, TrainingError
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.tokens.mixed import gather, whole
from dit_blocks.dit_impl.tokens.wire import identity_format
from dit_blocks.dit_impl.training import losses
from dit_blocks.dit_impl.training.loop import Alone, Draws, Settings
from dit_blocks.dit_impl.training.mixes import MIX_SHARE, random_mix
from dit_blocks.dit_impl.training.objectives import Denoising, arguments_of, in_scope, training_copy
from dit_blocks.dit_impl.training.optimizers import optimizers_of
from dit_blocks.dit_impl.training.sets import TrainingSet

SETTINGS = Settings(batch=3, accumulate=2, seed=5, drop=0.5, validation=2)
NOTHING = conditioning(99)


class Plain:
    """What Draws asks of an objective. Its latents are twice as large in DiT space."""
    patch_sizes, device, nothing = (2, 4, 8), torch.device("cpu"), None
    latent_format = identity_format(4) | {"scale": torch.full((4,), 2.0)}

    def sigmas(self, count, generator):
        return torch.rand(count, generator=generator)

    def check_mix(self, sizes):
        pass


class Second(Alone):
    rank, processes = 1, 3


def numbered(*sizes) -> TrainingSet:
    """Pictures of these sides that are their own numbers."""
    latents = tuple(torch.full((4, side, side), float(i)) for i, side in enumerate(sizes))
    one_size = len(set(sizes)) == 1
    return TrainingSet(torch.stack(latents) if one_size else latents, [conditioning(i) for i in range(len(sizes))], (), NOTHING)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- draws ----------------------------------------------------------------------------------------------------------

def check_batch(batch, draws, chosen: list[int], generator, drop: float, mine=slice(None)):
    """The rule: patch size, noise, noise levels and which captions are left out, in this order, from one generator."""
    assert batch.patch_size == (2, 4, 8)[torch.randint(3, (1,), generator=generator)]
    latents = draws.data.take(torch.tensor(chosen))
    assert torch.equal(batch.clean, 2 * latents[mine]) and torch.equal(batch.noise, torch.randn(latents.shape, generator=generator)[mine])
    assert torch.equal(batch.sigma, torch.rand(len(chosen), generator=generator)[mine])
    dropped = (torch.rand(len(chosen), generator=generator) < drop).tolist()
    wanted = [NOTHING if out else draws.data.conditionings[i] for i, out in zip(chosen, dropped)][mine]
    assert len(batch.conditionings) == len(wanted) and all(one is other for one, other in zip(batch.conditionings, wanted))


@pytest.mark.parametrize("runner,mine", [(Alone(), slice(None)), (Second(), slice(1, None, 3))], ids=["alone", "one of three"])
def test_a_batch_follows_from_the_number_of_its_step(runner, mine):
    draws = Draws(numbered(*[8] * 7), Plain(), SETTINGS, runner)
    for step, part in ((0, 0), (0, 1), (4, 1), (1000, 0)):
        first = (step * 2 + part) * 3  # 5 pictures an epoch, of which each has its order
        orders = {epoch: torch.randperm(5, generator=seeded(5 * 7_919 + epoch)).tolist() for epoch in range(first // 5, first // 5 + 2)}
        chosen = [orders[place // 5][place % 5] for place in range(first, first + 3)]
        batch = draws.at(step, part)
        check_batch(batch, draws, chosen, seeded((5 * 1_000_003 + step) * 1_009 + part), 0.5, mine)
        assert batch.mix is None
    assert torch.equal(draws.at(3).noise, draws.at(3, 0).noise)


def test_batches_of_several_sizes_follow_too():
    draws = Draws(numbered(8, 16, 8, 16, 8, 8, 8, 8), Plain(), replace(SETTINGS, batch=2), Alone())
    buckets = [torch.tensor([0, 2, 4, 5]), torch.tensor([1, 3])]  # in 3 batches; the last two are held out
    for step, part in ((0, 0), (0, 1), (7, 1)):
        epoch, place = divmod(step * 2 + part, 3)
        generator = seeded(5 * 7_919 + epoch)
        parts = [part for bucket in buckets for part in bucket[torch.randperm(len(bucket), generator=generator)].split(2)]
        chosen = parts[torch.randperm(3, generator=generator)[place]].tolist()
        check_batch(draws.at(step, part), draws, chosen, seeded((5 * 1_000_003 + step) * 1_009 + part), 0.5)
    assert [held.tolist() for held in draws.held_numbers()] == [[6, 7]]


def test_what_is_held_out_is_always_seen_through_the_same_noise():
    draws, generator = Draws(numbered(*[8] * 9), Plain(), replace(SETTINGS, validation=5), Alone()), seeded(7919)
    first, second = draws.held_out()
    check_batch(first, draws, [4, 5, 6], generator, 0.0)
    check_batch(second, draws, [7, 8], generator, 0.0)


@pytest.mark.parametrize("runner,mine", [(Alone(), slice(None)), (Second(), slice(1, None, 3))], ids=["alone", "one of three"])
def test_where_patches_of_several_sizes_lie_follows_too(runner, mine):
    draws = Draws(numbered(*[16] * 7), Plain(), replace(SETTINGS, mix="4-2, 8-4-2", drop=0.0), runner)
    mixed = 0
    for step in range(30):
        batch, generator = draws.at(step), seeded((5 * 1_000_003 + step) * 1_009)
        torch.randint(3, (1,), generator=generator), torch.randn(3, 4, 16, 16, generator=generator), torch.rand(3, generator=generator)
        torch.rand(3, generator=generator)
        if torch.rand(1, generator=generator).item() >= MIX_SHARE:
            assert batch.mix is None
            continue
        sizes = ((4, 2), (8, 4, 2))[torch.randint(2, (1,), generator=generator)]
        first = step * 6
        chosen = [torch.randperm(5, generator=seeded(5 * 7_919 + place // 5))[place % 5] for place in range(first, first + 3)]
        latents = 2 * draws.data.take(torch.stack(chosen))
        wanted = random_mix(latents, sizes, random.Random(int(torch.randint(2 ** 31, (1,), generator=generator))), generator)
        assert batch.mix.size == (16, 16) and batch.mix.places.keys() == wanted.places.keys()
        assert all(torch.equal(places, wanted.places[p][mine]) for p, places in batch.mix.places.items())
        mixed += 1
    assert mixed > 2


def test_a_process_without_a_picture_of_its_own_takes_another_s():
    class Last(Alone):
        rank, processes = 2, 3
    draws = Draws(numbered(*[8] * 9), Plain(), replace(SETTINGS, validation=5), Last())
    assert [batch.clean[:, 0, 0, 0].tolist() for batch in draws.held_out()] == [[12.0], [14.0]]  # twice 6, then twice 7


def test_sets_that_do_not_fit_a_training():
    said = lambda data, settings, runner=Alone(): line(TrainingError, Draws, data, Plain(), settings, runner)  # noqa: E731
    assert said(numbered(8, 8), replace(SETTINGS, validation=5)) == \
        "the set has 2 pictures, validation holds out 5: none is left for training"
    assert said(numbered(16, 16, 7, 16), SETTINGS) == "the shorter side of the set's latents is 7 cells, less than a patch of 8"
    assert said(numbered(16, 10, 16), replace(SETTINGS, mix="4-2", validation=0)) == \
        "mix 4-2: the set has latents of 10×10 cells, which is not a multiple of 4"
    assert said(numbered(8, 8, 8), replace(SETTINGS, batch=4), Second()) == "batch 4 is not a multiple of 3 processes"
    Draws(numbered(8, 8, 8), Plain(), replace(SETTINGS, batch=3, mix="8-2"), Second())


# --- settings -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name,most,shown", [
    ("batch", 100_000, "100001"), ("accumulate", 100_000, "100001"), ("steps", 10 ** 9, "1e+09"), ("warmup", 10 ** 9, "1e+09"),
    ("seed", 0xFFFFFFFF, "4.29497e+09")])
def test_settings_have_an_upper_end(name, most, shown):
    replace(Settings(), **{name: most}).check()
    assert line(TrainingError, replace(Settings(), **{name: most + 1}).check) == f"{name} is at most {most}, not {shown}"


@pytest.mark.parametrize("change,says", [
    (dict(seed=-1), "seed is at least 0, not -1"), (dict(weight_decay=math.nan), "weight_decay is at least 0, not nan"),
    (dict(learning_rate=math.inf), "learning_rate is above 0, not inf"), (dict(clip=0.0), "clip is above 0, not 0.0"),
    (dict(clip=math.inf), "clip is above 0, not inf"), (dict(optimizer="sgd"), "optimizer is one of adamw, muon, not 'sgd'"),
    (dict(ema=-0.1), "ema is from 0 to below 1, not -0.1"), (dict(drop=1.0), "drop is from 0 to below 1, not 1.0")])
def test_more_settings_that_can_t_be(change, says):
    assert line(TrainingError, replace(Settings(), **change).check) == says


# --- noise levels and losses ----------------------------------------------------------------------------------------

def test_noise_levels_are_of_sd3_s_densities():
    draw = lambda times, shift=1.0: losses.draw_sigmas(RectifiedFlow(shift=shift), 50, seeded(3), times)  # noqa: E731
    normal, u = torch.normal(0.0, 1.0, (50,), generator=seeded(3)), torch.rand(50, generator=seeded(3))
    torch.testing.assert_close(draw("logit_normal"), normal.sigmoid())
    torch.testing.assert_close(draw("uniform"), u)
    torch.testing.assert_close(draw("mode"), 1 - u - 1.29 * (torch.cos(math.pi * u / 2) ** 2 - 1 + u))
    torch.testing.assert_close(draw("uniform", 3.0), 3 * u / (1 + 2 * u))
    assert torch.equal(losses.draw_sigmas(RectifiedFlow(), 50, seeded(3)), draw("logit_normal"))
    of_ddpm = DDPM().sigmas[torch.randint(1000, (50,), generator=seeded(3))].float()
    assert torch.equal(losses.draw_sigmas(DDPM(), 50, seeded(3), "mode"), of_ddpm)


SIGMA = torch.tensor([0.01, 0.3, 0.99])


@pytest.mark.parametrize("weighting,factor", [
    ("none", torch.ones(3)), ("sigma_sqrt", SIGMA.clamp_min(0.05) ** -2),
    ("cosmap", 2 / (math.pi * (1 - 2 * SIGMA.clamp_min(0.05) + 2 * SIGMA.clamp_min(0.05) ** 2)))])
def test_weightings_near_the_ends(weighting, factor):
    prediction, clean, noise = torch.randn(3, 3, 5, 8, generator=seeded(0))
    error = losses.squared_error(RectifiedFlow(), prediction, clean, noise, SIGMA, weighting=weighting)
    torch.testing.assert_close(error, (prediction - noise + clean) ** 2 * factor.view(3, 1, 1))


def test_targets_are_those_of_the_papers():
    clean, noise = torch.randn(2, 3, 5, 8, generator=seeded(0))
    sigma, s = SIGMA, SIGMA.view(3, 1, 1)
    for flow, wanted in ((RectifiedFlow("velocity"), noise - clean), (RectifiedFlow("x0"), clean), (DDPM("epsilon"), noise),
                         (DDPM("v"), (noise - s * clean) / (s ** 2 + 1).sqrt())):
        torch.testing.assert_close(losses.own_target(flow, clean, noise, sigma), wanted)
        half = losses.squared_error(flow, wanted.bfloat16() + 1, clean.bfloat16(), noise.bfloat16(), sigma)
        assert half.dtype == torch.float32


# --- objectives -----------------------------------------------------------------------------------------------------

def test_a_copy_that_is_trained_is_of_float32_and_its_own(backbone):
    stored = replace(backbone, model=backbone.model.to(torch.bfloat16))
    with torch.inference_mode():
        copied = training_copy(stored)
    assert copied.model.training and not stored.model.training and copied.name == stored.name
    theirs = dict(stored.model.named_parameters())
    for name, own in copied.model.named_parameters():
        assert own.dtype == torch.float32 and torch.equal(own, theirs[name].float()) and not own.is_inference()
    same = training_copy(replace(backbone, model=stored.model.float()))
    assert all(own.data_ptr() != theirs[name].data_ptr() for name, own in same.model.named_parameters())
    assert line(TrainingError, training_copy, SimpleNamespace(name="Flux")) == (
        "Flux is a MODEL, and ComfyUI manages its weights: it can learn a patch-size adapter, but not be trained as a whole")


def test_what_an_objective_trains_and_what_a_resume_compares(backbone, class_dit):
    objective = Denoising(training_copy(backbone), "patch embed and head", target="x0", weighting="cosmap", times="mode",
                          checkpointing=True)
    learning = {name for name, p in objective.module.named_parameters() if p.requires_grad}
    assert learning == objective.trained.keys() and {name.split(".")[0] for name in learning} == {"x_embedder", "final_layer"}
    assert objective.account == {"scope": "patch embed and head", "target": "x0", "weighting": "cosmap", "times": "mode"}
    assert objective.dit.model.checkpointing and not Denoising(training_copy(backbone)).dit.model.checkpointing
    assert (objective.nothing, objective.patch_sizes, objective.device) == (None, (2, 4), torch.device("cpu"))
    default = Denoising(training_copy(class_dit))
    assert default.account == {"scope": "everything", "target": "own", "weighting": "none", "times": "logit_normal"}
    assert default.nothing[0][1]["class_label"] == 10 and default.trained.keys() == dict(class_dit.model.named_parameters()).keys()
    assert torch.equal(objective.sigmas(9, seeded(1)), losses.draw_sigmas(backbone.flow, 9, seeded(1), "mode"))
    assert line(TrainingError, Denoising, training_copy(backbone), patch_sizes=(8, 2, 3)) == "a small DiT has patch sizes 2, 4, not 3"


def test_the_patch_embedding_and_the_head_have_a_name_in_every_library():
    class Model(torch.nn.Module):
        def __init__(self, *names):
            super().__init__()
            for name in names:
                *path, last = name.split(".")
                at = self
                for part in path:
                    at.add_module(part, getattr(at, part, None) or torch.nn.Module())
                    at = getattr(at, part)
                at.register_parameter(last, torch.nn.Parameter(torch.zeros(1)))
    names = ["x_embedder.weight", "final_layer.linear.weight", "transformer.pos_embed.proj.weight", "transformer.proj_out.weight",
             "transformer.x_embedder.weight", "transformer.norm_out.weight", "transformer.scale_shift_table"]
    model = Model(*names, "blocks.0.weight", "transformer.pos_embed.table", "transformer.blocks.weight")
    assert sorted(in_scope(model, "patch embed and head")) == sorted(names) and len(in_scope(model, "everything")) == 10


def test_mixes_that_a_model_has_not(backbone, class_dit):
    objective = Denoising(training_copy(backbone))
    objective.check_mix((4, 2))
    assert line(TrainingError, objective.check_mix, (8, 4, 2)) == "mix 8-4-2: a small DiT has patch sizes 2, 4, not 8"
    assert line(TrainingError, Denoising(training_copy(class_dit)).check_mix, (4, 2)) == \
        "a small DiT reads patches of one size in a step, not of several: leave mix 4-2 out"


@pytest.mark.parametrize("target,weighting", [("own", "none"), ("x0", "sigma_sqrt")])
def test_the_loss_is_the_mean_error_of_the_model_s_answer(backbone, target, weighting):
    dit = training_copy(backbone)
    objective = Denoising(dit, target=target, weighting=weighting)
    batch = Draws(TrainingSet(torch.randn(6, 4, 8, 8), [conditioning(i) for i in range(6)]), objective, SETTINGS, Alone()).at(0)
    sigma = batch.sigma.view(3, 1, 1, 1)
    noisy, p = (1 - sigma) * batch.clean + sigma * batch.noise, batch.patch_size
    count = dict.fromkeys((2, 4), 0) | {p: 64 // p ** 2}
    mix = whole((8, 8), p, 3)
    given = arguments_of(dit, batch.conditionings)
    answer = dit.model(gather(noisy, mix)[p], (8 // p, 8 // p), p, dit.flow.time(batch.sigma), **given)
    clean, noise = gather(batch.clean, mix)[p], gather(batch.noise, mix)[p]
    errors = losses.squared_error(dit.flow, answer, clean, noise, batch.sigma, target, weighting)
    assert errors.shape == (3, count[p], 4 * p * p)
    torch.testing.assert_close(objective.errors(batch), errors)
    torch.testing.assert_close(objective.loss(batch), errors.mean())
    torch.testing.assert_close(objective.loss(replace(batch, mix=mix)), errors.mean())
    texts = [arguments_of(dit, [one]) for one in batch.conditionings]
    assert all(torch.equal(value, torch.cat([text[name] for text in texts])) for name, value in given.items())


def test_arguments_are_in_the_type_that_the_model_computes_in(backbone, class_dit):
    half = replace(backbone, model=backbone.model.bfloat16())
    assert {value.dtype for value in arguments_of(half, [conditioning(1)] * 2).values()} == {torch.bfloat16}
    classes = replace(class_dit, model=class_dit.model.bfloat16())
    assert arguments_of(classes, [classes.class_conditioning("3")])["labels"].dtype == torch.long
    assert line(BackboneError, arguments_of, class_dit, [conditioning(1)]) == \
        "the training set's conditioning has no class_label, which a small DiT reads: use Class Label"


# --- optimizers -----------------------------------------------------------------------------------------------------

def test_the_settings_of_both_optimizers():
    named = {name: torch.nn.Parameter(torch.zeros(*shape)) for name, shape in {
        "x_embedder.2.weight": (4, 4), "blocks.0.attn.qkv.weight": (4, 4), "blocks.0.attn2.qkv.weight": (4, 4),
        "blocks.0.mlp.fc1.weight": (4, 4),
        "blocks.0.mlp.fc2.weight": (4, 4), "final_layer.linear.weight": (4, 4), "final_layer.detail.context.2.weight": (4, 4),
        "final_layer.detail.out.weight": (4, 4), "blocks.0.adaLN.weight": (4, 4), "blocks.0.attn.qkv.bias": (4,)}.items()}
    muon, adamw = optimizers_of(named, 1e-3, 0.02, eps=1e-5)
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(p) for p in list(named.values())[:7]]
    assert [id(p) for p in adamw.param_groups[0]["params"]] == [id(p) for p in list(named.values())[7:]]
    ours, theirs = muon.param_groups[0], adamw.param_groups[0]
    assert (ours["lr"], ours["weight_decay"], ours["adjust_lr_fn"]) == (1e-3, 0.02, "match_rms_adamw")
    assert (theirs["lr"], theirs["weight_decay"], theirs["betas"], theirs["eps"]) == (1e-3, 0.02, (0.9, 0.99), 1e-5)
    assert [group["weight_decay"] for one in optimizers_of(named, 1e-3) for group in one.param_groups] == [0.01, 0.01]
    assert len(optimizers_of({"x_embedder.weight": named["x_embedder.2.weight"]}, 1e-3)) == 1 and optimizers_of({}, 1e-3) == []
