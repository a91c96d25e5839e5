"""The DIT handle to the value: room, types, cached and planned steps, runs of a cache, a step's noise; each against the same by hand."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

from conftest import conditioning
from numbers_and_errors import line, randn
import pytest
import torch

from dit_blocks.dit_impl.errors import BackboneError, ScheduleError, StagesError, TokensError
from dit_blocks.dit_impl.handle.backbone import Backbone, DitHandle
from dit_blocks.dit_impl.handle.block_plan import BlockPlan, is_whole, runs, together
from dit_blocks.dit_impl.handle.by_regions import by_regions
from dit_blocks.dit_impl.handle.patch_schedule import denoise_by_schedule, finest, parse_schedule, quick_look, readings, step_at
from dit_blocks.dit_impl.handle.step_cache import CacheRun, Kept, Remembered, StepCache, Told, cached_run, changed, mark_of, told_between
from dit_blocks.dit_impl.sampling.at import At, NoiseSpace
from dit_blocks.dit_impl.sampling.flow import RectifiedFlow
from dit_blocks.dit_impl.sampling.noise import StepNoise
from dit_blocks.dit_impl.sampling.schedules import schedule
from dit_blocks.dit_impl.sampling.solvers import step
from dit_blocks.dit_impl.tokens.mixed import Mixture, Split
from dit_blocks.dit_impl.tokens.wire import fold, identity_format, noise_like, to_latent


def clean(dit, batch=1, size=(8, 6), patch_size=2) -> dict:
    return dit.fold({"samples": randn(batch, 4, *size)}, patch_size)


# --- room, types and schedules --------------------------------------------------------------------------------------

def test_the_room_that_a_model_call_wants(backbone, positive):
    wire = clean(backbone, 2)
    one = 16 * 2 * 12 * 64 * 4  # [uncond, cond] of 2 pictures, 12 tokens, an MLP of 4·64 values in float32
    assert backbone.room(wire) == backbone.room(backbone.begin(wire, backbone.schedule(4), 0, positive)) == (2.0 * one, float(one))
    whole = Backbone(torch.nn.Linear(1, 1), backbone.latent_format)
    whole.model.config = None
    assert whole.room(wire) == (0, 0) and DitHandle().room(wire) == (0.0, 0.0) and isinstance(DitHandle().running(), nullcontext)
    assert (DitHandle.frame_patch, DitHandle.mixes, DitHandle.remark, DitHandle.answers, DitHandle.learns) == (1, False, "", "", False)


def test_the_type_that_most_weights_have_is_computed_in(backbone):
    model = deepcopy(backbone.model)
    model.x_embedder.half()
    assert replace(backbone, model=model).like().dtype == torch.float32
    model.half().x_embedder.float()
    mostly_half = replace(backbone, model=model)
    assert mostly_half.like().dtype == torch.float16
    tables = [name for name, value in model.named_parameters() if value.dtype == torch.float32]
    assert tables and mostly_half.settle() is mostly_half
    assert {value.dtype for value in model.parameters()} == {torch.float16} and not any(value.requires_grad for value in model.parameters())
    model.x_embedder["2"].float().comfy_cast_weights = True  # a layer that casts its weights itself keeps them
    mostly_half.settle()
    assert model.x_embedder["2"].weight.dtype == torch.float32 and model.x_embedder["4"].weight.dtype == torch.float16
    stored = replace(backbone, model=deepcopy(backbone.model).to(torch.float8_e4m3fn))
    assert stored.like().dtype == torch.float32 and replace(stored, device=torch.device("meta")).like().dtype == torch.bfloat16


def test_schedules_are_of_its_flow(backbone):
    backbone.flow = RectifiedFlow(shift=3.0)
    assert torch.equal(backbone.schedule(4), schedule(backbone.flow, 4)) and backbone.answers == "velocity"
    assert torch.equal(backbone.schedule(4, "karras", 0.5, True), schedule(backbone.flow, 4, "karras", 0.5, True))
    assert (backbone.space.rectified, backbone.space.below_one) == (True, backbone.flow.sigma_at(1e-4))
    assert backbone.share_of_data(torch.tensor(0.25)) == 0.75


def test_a_ddpm_keeps_all_of_its_data(class_dit):
    assert class_dit.share_of_data(torch.tensor(0.25)) == 1 and not class_dit.space.rectified


def test_noise_of_a_step_is_told_on_the_wire(backbone):
    sigmas, wire = backbone.schedule(4), clean(backbone)
    noisy, noise = backbone.add_noise(wire, sigmas, 1, 7)
    assert torch.equal(noise["tokens"], noise_like(wire, 7))
    assert torch.equal(noisy["tokens"], 0.75 * noise["tokens"] + 0.25 * wire["tokens"])
    assert noisy["level"] == {"sigma": 0.75, "share": 0.25, "walked": False} and noisy["start"]["seed"] == 7
    assert noisy["start"]["sigma"] == 0.75 and noisy["start"]["sigma"].dtype == torch.float32
    assert line(ScheduleError, backbone.add_noise, wire, sigmas, 4, 7) == "step 4 is outside the schedule, whose steps are 0 to 3"
    there, x0 = backbone.advance(noisy, noise["tokens"] * 0.5, sigmas, 1, "euler")
    assert there["level"] == {"sigma": 0.5, "share": 0.5, "walked": True} and torch.equal(x0["tokens"], noise["tokens"] * 0.5)
    torch.testing.assert_close(there["tokens"], noisy["tokens"] + (noisy["tokens"] - x0["tokens"]) / 0.75 * -0.25)
    assert line(ScheduleError, backbone.advance, noisy, noise["tokens"], sigmas, 2, "euler").startswith(
        "step 2 begins at noise level 0.5, ")


def test_a_step_of_a_ddpm_adds_noise_as_ddpms_do(class_dit):
    sigmas = class_dit.schedule(4)
    noisy, noise = class_dit.add_noise(clean(class_dit), sigmas, 1, 7)
    drawn = StepNoise(noisy, sigmas[1:].float(), torch.device("cpu"))
    for solver in ("euler_ancestral", "uni_pc"):
        at = At(lambda x, sigma: noise["tokens"] * 0.5, sigmas[1:], 0, NoiseSpace(False), drawn)
        wanted = step(solver, at, noisy["tokens"])[0]
        torch.testing.assert_close(class_dit.advance(noisy, noise["tokens"] * 0.5, sigmas, 1, solver)[0]["tokens"], wanted)


def test_a_step_that_is_begun_knows_its_tokens_and_its_areas(backbone, negative):
    area = [[tensor, {**extras, "area": (4, 2, 2, 4)}] for tensor, extras in conditioning(2)]
    sigmas = backbone.schedule(4)
    noisy, _ = backbone.add_noise(clean(backbone, 2), sigmas, 1, 7)
    begun = backbone.begin(noisy, sigmas, 1, conditioning(1) + area, negative)
    call, (other,) = begun["call"], begun["others"]
    assert torch.equal(call.x, noisy["tokens"]) and call.sigma == 0.75 and call.start["tokens"] is noisy["tokens"] and call.canvas is None
    assert sorted(call.layout) == ["cond", "cond", "uncond", "uncond"]
    assert call.areas.count(None) == 2 and call.areas.count((slice(2, 6), slice(4, 6))) == 2
    cuts = {tuple(one["tokens"]["grid"]): one["tokens"] for one in (begun, other)}
    assert cuts.keys() == {(4, 3), (2, 1)} and tuple(cuts[2, 1]["size"]) == (4, 2)
    assert torch.equal(cuts[2, 1]["tokens"], noisy["tokens"].unflatten(1, (4, 3))[:, 1:3, 2:].flatten(1, 2))
    assert (begun["done"], begun["trace"], begun["model"]) == (frozenset(), (), "a small DiT")


def test_handles_on_the_same_weights(backbone):
    backbone.facts, backbone.class_names, backbone.picture_size = {"mixes": "yes"}, {0: "cat"}, 128
    assert backbone.mixes and not replace(backbone, facts={}).mixes
    coarse = backbone.reading(6)
    assert (coarse.model, coarse.facts, coarse.class_names, coarse.picture_size, coarse.name) == (
        backbone.model, backbone.facts, backbone.class_names, 128, backbone.name)
    assert (coarse.reading.method, coarse.reading.own, coarse.reading.patch_size) == ("resample", 2, 6)
    mixed = by_regions(backbone, Mixture(4, (Split(2, 0.5),)))
    assert (mixed.model, mixed.facts, mixed.mask, mixed.seen) == (backbone.model, backbone.facts, None, [])
    assert line(StagesError, lambda: mixed.stages) == \
        "a small DiT reads patches of several sizes (4 with 2 on 50%), which has no stages of its own"
    planned = backbone.with_plan(BlockPlan("0"))
    assert planned.plan == BlockPlan("0") and backbone.plan is None and line(StagesError, backbone.with_plan, BlockPlan("7")) == \
        "this model has blocks 0 to 1, there is no block 7"
    assert line(BackboneError, by_regions, planned, Mixture(4, (Split(2, 0.5),))) == (
        "a small DiT has a plan of its blocks, which patches of several sizes (4 with 2 on 50%) have not: leave one of the two out")


def test_planned_blocks_are_those_of_the_stages(four_blocks, positive):
    sigmas, wire = four_blocks.schedule(4), clean(four_blocks)
    noisy, _ = four_blocks.add_noise(wire, sigmas, 0, 7)
    stages = four_blocks.stages
    for blocks, strength, parts in (("0,2-3", 1.0, [([0, 2, 3], 1.0)]),
                                    ("0, 1*0.5, 3", 2.0, [([0], 2.0), ([1], 1.0), ([3], 2.0)]), ("", 1.0, [])):
        plan = BlockPlan(blocks, strength)
        assert runs(plan.steps(4)) == parts
        hidden = four_blocks.begin(noisy, sigmas, 0, positive)["hidden"]
        hidden = stages.position_embed(stages.patch_embed(hidden))
        for part in parts:
            hidden = stages.run_blocks(hidden, *part)
        x0 = noisy["tokens"] - stages.head(hidden)  # at sigma 1
        torch.testing.assert_close(four_blocks.with_plan(plan).denoise(noisy, sigmas, positive, end_step=1)[1]["tokens"], x0)


# --- plans ----------------------------------------------------------------------------------------------------------

def test_words_that_no_plan_has_are_told_before_a_model_is_there():
    for words in ("all", "all but 2", "0-1, 2*0.5", ""):
        BlockPlan(words).check()
    for words in ("one", "1-", "all but x", "0, 2*x"):
        with pytest.raises(ValueError):
            BlockPlan(words).check()
    assert (BlockPlan().blocks, BlockPlan().strength, BlockPlan().start, BlockPlan().end) == ("all", 1.0, 0.0, 1.0)


def test_plans_for_the_same_step():
    plans = [BlockPlan("0-2", 0.5), BlockPlan("all but 1"), BlockPlan("3-0", 2.0)]
    assert together(plans, 4) == [(2, 1.0), (0, 1.0)] and together(plans[:1], 4) == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert is_whole([(0, 1.0), (1, 1.0)], 2)
    assert not any(is_whole(steps, count) for steps, count in (([(1, 1.0), (0, 1.0)], 2), ([(0, 1.0)], 2), ([(0, 0.5)], 1)))


# --- patch schedules ------------------------------------------------------------------------------------------------

def test_single_places_have_one_size(backbone):
    sound = {**fold(randn(1, 4, 1, 6), 1), "line": True}
    plan = parse_schedule("1 until 50%, then 2")
    stretches = plan.stretches(torch.linspace(1, 0, 5), 0, 4)
    assert line(TokensError, readings, backbone, plan, stretches, sound) == (
        "tokens of a latent [B, C, L], or of one of several tensors, are single places: their patch size is 1, not 2")
    assert readings(backbone, plan, stretches[:1], sound) == [backbone]
    of_two = readings(backbone, parse_schedule("8 until 50%, then 2"), [(8, 0, 2), (2, 2, 4)])
    assert [handle.patch_sizes for handle in of_two] == [(2, 4, 8), (2, 4)]
    assert finest(Mixture(8, (Split(4), Split(2)))) == 2 and finest(3) == 3


def test_a_step_is_found_up_to_rounding():
    falling = torch.tensor([1.0, 0.6, 0.3, 0.0])
    assert [step_at(sigma, falling) for sigma in (1.0, 0.6 * (1 + 1e-7), 0.6, 0.59, 0.3)] == [0, 1, 1, 2, 2]
    rising = falling.flip(0) + 1e-4
    assert [step_at(sigma, rising) for sigma in (1e-4, 0.3001, 0.5)] == [0, 1, 2]


def test_what_is_told_of_each_step_is_counted_from_the_first(backbone, positive, negative):
    sigmas, told, before = backbone.schedule(6), [], []
    noisy, _ = backbone.add_noise(clean(backbone, size=(8, 8)), sigmas, 1, 3)
    plan = parse_schedule("4 until 50%, then 2", coarse_cfg=1.5)
    how = (plan, sigmas, positive, negative, 2.0, "dpmpp_2m", 1, 10)
    whole = denoise_by_schedule(backbone, noisy, *how, report=lambda done, wire, x0: told.append((done, wire["patch_size"], x0.shape[1])))
    single = denoise_by_schedule(backbone, noisy, *how, before=lambda step, wire, cfg: before.append((step, wire["patch_size"], cfg)))
    assert told == [(1, 4, 4), (2, 4, 4), (3, 2, 16), (4, 2, 16), (5, 2, 16)]
    assert before == [(1, 4, 3.0), (2, 4, 3.0), (3, 2, 2.0), (4, 2, 2.0), (5, 2, 2.0)]
    assert torch.equal(whole[0]["tokens"], single[0]["tokens"]) and whole[2] == ""


def test_a_quick_look_is_a_run_of_coarse_patches(backbone, positive, negative):
    sigmas = backbone.schedule(8)
    noisy, _ = backbone.add_noise(clean(backbone, size=(8, 8)), sigmas, 0, 3)
    coarse, _ = backbone.add_noise(clean(backbone, size=(8, 8), patch_size=4), sigmas, 0, 3)
    _, x0 = backbone.denoise(coarse, sigmas[[0, 2, 4, 6, 8]], positive, negative, 3.0)
    assert torch.equal(quick_look(backbone, noisy, sigmas, positive, negative, 3.0, 0, 99), backbone.picture(x0, x0["tokens"]))


# --- the cache of a run ---------------------------------------------------------------------------------------------

def test_the_levels_that_a_cache_is_for():
    at = {0.25: 0.8, 0.75: 0.3}
    run = cached_run(StepCache(0.1, 0.25, 0.75), at.get, False)
    assert run.levels == (0.8, 0.3) and not run.rises and run.told == [] and run.sigma is None
    whole = cached_run(StepCache(0.1), at.get, True)
    assert whole.levels == (float("inf"), 0.0) and whole.rises
    for sigma, inside in ((0.9, False), (0.8, True), (0.5, True), (0.3, True), (0.2, False)):
        run.kept["x"] = 1
        run.at(sigma)
        assert run.open == inside and bool(run.kept) == inside and run.sigma == sigma
    StepCache(0.0, 0.5, 0.5)
    assert line(StagesError, StepCache, 0.1, 0.5, 0.4) == "start_percent 0.5 is after end_percent 0.4"
    assert line(StagesError, StepCache, -1.0) == "threshold is 0 or more, not -1"


def test_calls_that_take_no_part_are_told_of():
    run = CacheRun(StepCache(0.1))
    run.at(0.5)
    assert run.takes_part() and run.told == [] and not run.takes_part(False) and run.told == [Told(0.5, False)]
    run.levels = (0.4, 0.0)
    run.at(0.45)
    assert not run.takes_part() and run.told[1:] == [Told(0.45, False)]


def test_what_a_run_hands_on():
    run = CacheRun(StepCache(0.1), remembered=Remembered({"a": Kept(torch.ones(1), None)}, (Told(1.0, False),), 1.0, {"b": 2}))
    run.at(0.5)
    assert run.asked == {} and run.kept.keys() == {"a"} and run.told == [Told(1.0, False)]
    run.takes_part(False)
    run.asked["b"] = 1
    under_way = run.handed_on({"level": 1, "remembered": {"other": 3}})
    kept = under_way["remembered"]["step_cache"]
    assert under_way["hits"] == kept.told == (Told(1.0, False), Told(0.5, False)) and under_way["remembered"]["other"] == 3
    assert (kept.sigma, kept.asked, kept.kept.keys()) == (0.5, {"b": 1}, {"a"})
    ended = run.handed_on({"remembered": {"other": 3}})
    assert "remembered" not in ended and len(ended["hits"]) == 2
    assert told_between(under_way, ended) == () and told_between({}, ended) == ended["hits"] and told_between(under_way, {}) == ()
    assert told_between({"remembered": {"step_cache": Remembered(told=(Told(1.0, False),))}}, ended) == (Told(0.5, False),)


def test_changes_and_marks():
    now, before = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]), torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]])
    assert changed(now, before) == 0.5 and changed(before, before) == 0.0 and changed(now.half(), -now.half()) == 2.0
    assert changed(torch.ones(1, 2), torch.zeros(1, 2)) == pytest.approx(1e12)
    values = {"a": torch.tensor([[1.0, 2.0]]), "n": 3, "list": [1]}
    ((first, mark), *others) = mark_of(dict(reversed(values.items())))
    weights = torch.sin(torch.tensor([1.0, 2.0]) * 12.9898)
    assert (first, mark[0]) == ("a", (1, 2)) and mark[1] == pytest.approx((weights[0] + 2 * weights[1]).item())
    assert others == [("list", None), ("n", 3)]
    assert mark_of({"a": values["a"].T})[0][1][0] == (2, 1)


def test_each_prompt_s_cache_is_its_own(four_blocks, positive):
    """Two batches of prompts in every step, the second of them asked about twice."""
    dit, run = four_blocks, CacheRun(StepCache(1e6))
    stages = dit.stages
    begin = lambda seed: stages.position_embed(stages.patch_embed(stages.condition(  # noqa: E731
        randn(1, 12, 16, seed=seed), (4, 3), 2, torch.ones(1), context=positive[0][0], pooled=positive[0][1]["pooled_output"])))
    first = {}
    for sigma, known in ((0.9, False), (0.8, True)):
        run.at(sigma)
        for number, prompts in enumerate(("a", "b", "b")):
            begun = stages.run_blocks(begin(number), [0])
            done = run.run_blocks(stages, begin(number), prompts, [([0, 1], 1.0), ([3], 0.5)])
            wanted = stages.run_blocks(stages.run_blocks(begun, [1]), [3], 0.5)
            torch.testing.assert_close(done.x, wanted.x)
            first[number] = wanted.x if not known else first[number]
            assert run.told[-1] == Told(sigma, known, 0.0 if known else None)
    twin = replace(dit, model=deepcopy(dit.model)).stages
    run.run_blocks(twin, begin(0), "a", [([0, 1], 1.0), ([3], 0.5)])  # another model under the same prompts
    assert not run.told[-1].reused
    other = run.run_blocks(stages, begin(0), "a", [([0, 1], 1.0), ([3], 0.25)])  # another plan: nothing is known of it
    assert not run.told[-1].reused and not torch.allclose(other.x, first[0])


def test_prompts_of_several_lengths_and_a_negative(backbone, negative):
    """Sides of a guided step are asked together where their texts share a batch, and each in its own call where not."""
    calls = []
    backbone.model.register_forward_pre_hook(lambda _, given, named: calls.append(len(given[0])), with_kwargs=True)
    wire, sigma = clean(backbone, 2), torch.tensor(0.7)
    longer = [[randn(1, 7, 32), {"pooled_output": torch.ones(1, 16)}]]
    for positive, cfg, rows in ((conditioning(1), 3.0, [4]), (longer, 3.0, [2, 2]), (conditioning(1), 1.0, [2])):
        calls.clear()
        backbone.denoiser(wire, positive, negative, cfg)(wire["tokens"], sigma)
        assert calls == rows
    assert line(BackboneError, backbone.denoiser, wire, conditioning(1), None, 2.0) == "cfg 2 needs a negative: wire one, or set cfg to 1"
    other = replace(backbone, latent_format=identity_format(3))
    assert line(BackboneError, other.denoiser, wire, conditioning(1)) == "a small DiT has latents of 3 channels, the tokens come from 4"


def test_an_area_of_the_negative_counts_without_guidance_too(backbone, positive):
    """As in KSampler: the positive is asked about the same area as well, as about a picture of its own, and the negative is not."""
    calls = []
    backbone.model.register_forward_pre_hook(lambda _, given, named: calls.append(len(given[0])), with_kwargs=True)
    negative = [[tensor, {**extras, "area": (4, 6, 4, 0)}] for tensor, extras in conditioning(2)]
    wire, sigma = clean(backbone), torch.tensor(0.7)
    x0 = to_latent(backbone.denoiser(wire, positive, negative, 1.0)(wire["tokens"], sigma), wire)
    assert sorted(calls) == [1, 1]
    whole = to_latent(backbone.denoiser(wire, positive)(wire["tokens"], sigma), wire)
    cut = fold(to_latent(wire["tokens"], wire)[..., 4:, :], 2)
    part = to_latent(backbone.denoiser(cut, positive)(cut["tokens"], sigma), cut)
    wanted = whole.clone()
    wanted[..., 4:, :] = (whole[..., 4:, :] + part) / 2
    torch.testing.assert_close(x0, wanted, atol=1e-5, rtol=1e-5)
    label = [[torch.zeros(1, 1, 1), {"class_label": 3}]]
    assert line(BackboneError, backbone.denoiser, wire, positive, label, 2.0) == \
        "negative conditioning is a class label, a small DiT reads text: use CLIP Text Encode"
