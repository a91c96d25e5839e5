"""Step Cache on the pack's own models: it changes nothing where nothing is left out, and where something is, it is what the rule says."""

from dataclasses import replace

from conftest import conditioning
import pytest
import torch

from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.handle.patch_schedule import denoise_by_schedule, parse_schedule
from dit_blocks.dit_impl.handle.step_cache import CacheRun, StepCache, Told, changed, mark_of
from dit_blocks.dit_impl.model.mmdit import MMDiT
from dit_blocks.dit_impl.see.cache_hits import by_step, in_words
from dit_blocks.dit_impl.tokens.wire import identity_format
from dit_blocks.nodes.denoise import Denoise, DenoiseStep
from dit_blocks.nodes.step_cache import StepCache as Node

STEPS = 8
NEVER, OFTEN = 1e-9, 0.25  # thresholds


@pytest.fixture
def dit(four_blocks):
    """Four blocks, patch sizes 2 and 4."""
    for weight in four_blocks.model.t_embedder.parameters():  # neighbouring steps of a trained model are alike
        weight.data.mul_(0.3)
    return four_blocks


def begun(dit, batch=1, patch_size=2):
    return dit.add_noise(dit.fold({"samples": torch.zeros(batch, 4, 8, 12)}, patch_size), dit.schedule(STEPS), 0, 5)[0]


def drawn(dit, positive, negative=None, cfg=1.0, solver="euler", batch=1, cuts=(), patch_size=2):
    """The tokens after all steps, in one run or in a chain of several."""
    tokens, sigmas = begun(dit, batch, patch_size), dit.schedule(STEPS)
    for start, end in zip((0, *cuts), (*cuts, STEPS)):
        tokens, _ = dit.denoise(tokens, sigmas, positive, negative, cfg, solver, start, end)
    return tokens


def cached(dit, threshold, **range_):
    return dit.with_cache(StepCache(threshold, **range_))


def reused(tokens) -> list[bool]:
    return [told.reused for told in tokens["hits"]]


# --- nothing left out -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", [dict(), dict(cfg=3.0), dict(cfg=3.0, batch=2, solver="heun"), dict(patch_size=4, cfg=2.0, solver="dpmpp_2m")])
def test_where_nothing_is_left_out_the_picture_is_the_same(dit, positive, negative, how):
    plain = drawn(dit, positive, negative, **how)
    assert cached(dit, 0.0).cache is None and torch.equal(drawn(cached(dit, 0.0), positive, negative, **how)["tokens"], plain["tokens"])
    never = drawn(cached(dit, NEVER), positive, negative, **how)
    assert torch.equal(never["tokens"], plain["tokens"]) and not any(reused(never)) and len(reused(never)) >= STEPS
    outside = drawn(cached(dit, 1e6, start=0.0, end=0.0), positive, negative, **how)
    assert torch.equal(outside["tokens"], plain["tokens"]) and not any(reused(outside))


def test_a_class_conditional_model_and_one_read_by_resample(class_dit, dit, positive, negative):
    sigmas = class_dit.schedule(STEPS)
    tokens = class_dit.add_noise(class_dit.fold({"samples": torch.zeros(2, 4, 8, 8)}), sigmas, 0, 1)[0]
    of_class = class_dit.class_conditioning("3")
    plain, never, often = (one.denoise(tokens, sigmas, of_class, None, 2.0)[0] for one in (class_dit, cached(class_dit, NEVER), cached(class_dit, 50.0)))
    assert torch.equal(plain["tokens"], never["tokens"]) and any(reused(often)) and often["tokens"].isfinite().all()
    coarse = dit.reading(8, "resample")
    plain = drawn(coarse, positive, negative, 2.0, patch_size=8)
    assert torch.equal(plain["tokens"], drawn(cached(dit, NEVER).reading(8, "resample"), positive, negative, 2.0, patch_size=8)["tokens"])
    assert any(reused(drawn(cached(dit, OFTEN).reading(8, "resample"), positive, negative, 2.0, patch_size=8)))


# --- the rule -------------------------------------------------------------------------------------------------------

def by_hand(dit, calls, threshold, cfg, batch=1):
    """Euler's steps, each of its model calls with a first block and a rest of its own: calls are lists of sides that share a batch. → tokens,
    whether each call left blocks out."""
    stages, tokens, sigmas = dit.stages, begun(dit, batch), dit.schedule(STEPS)
    x, grid, memory, said = tokens["tokens"], tokens["grid"], {}, []
    for sigma, following in zip(sigmas, sigmas[1:]):
        answers = {}
        for number, call in enumerate(calls):
            arguments = {"context": torch.cat([text.expand(batch, -1, -1) for _, (text, _) in call]),
                         "pooled": torch.cat([said["pooled_output"].expand(batch, -1) for _, (_, said) in call])}
            rows = x.repeat(len(call), 1, 1)
            hidden = stages.condition(rows, grid, 2, sigma.expand(len(rows)) * 1000, **arguments)
            before = stages.position_embed(stages.patch_embed(hidden))
            first = stages.run_blocks(before, [0])
            added = first.x - before.x
            known = memory.get(number)
            near = known is not None and max(((a - b).abs().mean() / b.abs().mean()).item() for a, b in zip(added, known[0])) < threshold
            said.append(near)
            if near:
                done = first.but(x=first.x + known[1])
            else:
                done = stages.run_blocks(first, range(1, 4))
                memory[number] = added, done.x - first.x
            for (name, _), velocity in zip(call, stages.head(done).chunk(len(call))):
                answers[name] = x - sigma * velocity
        x0 = answers["cond"] if cfg == 1 else answers["uncond"] + (answers["cond"] - answers["uncond"]) * cfg
        x = x + (x - x0) / sigma * (following - sigma)
    return x, said


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("threshold", [0.05, OFTEN, 1.0])
def test_each_batch_of_prompts_goes_by_its_own_first_block(dit, threshold, batch):
    (positive,), (negative,), (longer,) = conditioning(1), conditioning(2), [[torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(3)),
                                                                             {"pooled_output": torch.ones(1, 16)}]]
    ways = {  # one call for both sides, a call for each as their texts share no batch, one side alone
        "together": (negative, 3.0, [[("uncond", negative), ("cond", positive)]]),
        "apart": (longer, 3.0, [[("cond", positive)], [("uncond", longer)]]),
        "alone": (None, 1.0, [[("cond", positive)]])}
    for name, (other, cfg, calls) in ways.items():
        expected, said = by_hand(dit, calls, threshold, cfg, batch)
        found = drawn(cached(dit, threshold), [positive], other and [other], cfg, batch=batch)
        assert len(reused(found)) == len(said) and sum(reused(found)) == sum(said) and not reused(found)[0], name
        assert torch.allclose(found["tokens"], expected, atol=1e-5), (name, (found["tokens"] - expected).abs().max())
    assert any(said) == (threshold > 0.1)


def test_more_is_left_out_and_less_kept_as_the_threshold_rises(dit, positive, negative):
    plain, counts, errors = drawn(dit, positive, negative, 3.0)["tokens"], [], []
    for threshold in (NEVER, 0.2, OFTEN, 3.0):
        found = drawn(cached(dit, threshold), positive, negative, 3.0)
        counts.append(sum(reused(found)))
        errors.append(((found["tokens"] - plain).square().mean() / plain.square().mean()).sqrt().item())
    assert counts[0] == 0 and counts == sorted(counts) and counts[-1] == STEPS - 1
    assert errors[0] == 0 < errors[1] < 0.1 and errors[-1] == max(errors)


def test_a_call_that_leaves_blocks_out_runs_the_first_alone(dit, positive):
    ran = []
    for number, block in enumerate(dit.model.joint_blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    hits = sum(reused(drawn(cached(dit, OFTEN), positive)))
    assert hits and [ran.count(i) for i in range(4)] == [STEPS, *[STEPS - hits] * 3]


def test_only_within_its_share_of_sampling(dit, positive):
    found = drawn(cached(dit, 1e6, start=0.3, end=0.7), positive)
    inside = [dit.flow.sigma_at(0.7) <= sigma <= dit.flow.sigma_at(0.3) for sigma in dit.schedule(STEPS)[:-1].tolist()]
    inside[inside.index(True)] = False  # the first one runs all blocks
    assert reused(found) == inside and sum(inside) > 1


# --- a run and the next -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "uni_pc"])
def test_a_chain_is_one_run_bit_for_bit(dit, positive, negative, solver):
    model = cached(dit, OFTEN)
    whole, chain = (drawn(model, positive, negative, 3.0, solver, cuts=cuts) for cuts in ((), range(1, STEPS)))
    assert any(reused(whole)) and reused(whole) == reused(chain) and torch.equal(whole["tokens"], chain["tokens"])
    assert "remembered" not in whole and "remembered" not in chain


def test_every_run_begins_anew(dit, positive, negative):
    model = cached(dit, 1e6)
    once = drawn(model, positive)
    assert torch.equal(drawn(model, positive)["tokens"], once["tokens"]) and not reused(once)[0]
    halfway, sigmas = model.denoise(begun(model), model.schedule(STEPS), positive, end_step=4)[0], model.schedule(STEPS)
    assert "remembered" in halfway
    anew = model.add_noise(halfway, sigmas, 4, 9)[0]
    assert "remembered" not in anew and "hits" not in anew
    other = model.denoise(halfway, sigmas, negative, start_step=4)[0]  # other prompts than before, on the same wire
    assert reused(other)[4] is False and reused(other)[5] is True


def test_a_run_that_goes_back_begins_anew(dit, positive):
    stages, run = dit.stages, CacheRun(StepCache(1e6))
    hidden = stages.condition(torch.ones(1, 24, 16), (4, 6), 2, torch.ones(1), context=positive[0][0], pooled=positive[0][1]["pooled_output"])
    hidden = stages.position_embed(stages.patch_embed(hidden))
    for sigma in (0.9, 0.5, 0.7, 0.6):
        run.at(sigma)
        run.run_blocks(stages, hidden, "cond")
    assert [told.reused for told in run.told] == [False, True, False, True]
    run.at(0.4)
    for prompts in ("uncond", "cond", "cond"):  # the second time within a step is another place in the step
        run.run_blocks(stages, hidden, prompts)
    assert [told.reused for told in run.told[4:]] == [False, True, False]
    rising = CacheRun(StepCache(1e6), rises=True)
    for sigma in (0.1, 0.2, 0.1):
        rising.at(sigma)
        rising.run_blocks(stages, hidden, "cond")
    assert [told.reused for told in rising.told] == [False, True, False]


def test_the_wire_s_own_values_stay(dit, positive):
    model, sigmas = cached(dit, OFTEN), dit.schedule(STEPS)
    halfway = model.denoise(begun(model), sigmas, positive, end_step=3)[0]
    kept = halfway["remembered"]["step_cache"]
    before = {key: (one.first.clone(), one.rest[0].clone()) for key, one in kept.kept.items()}
    first, second = (model.denoise(halfway, sigmas, positive, start_step=3)[0] for _ in range(2))
    assert torch.equal(first["tokens"], second["tokens"]) and len(kept.told) == 3
    assert all(torch.equal(kept.kept[key].first, one) and torch.equal(kept.kept[key].rest[0], rest) for key, (one, rest) in before.items())


def test_a_change_of_patch_size_on_the_way_begins_anew(dit, positive):
    tokens = denoise_by_schedule(cached(dit, 1e6), begun(dit, patch_size=4), parse_schedule("4 until 50%, then 2"), dit.schedule(STEPS), positive,
                                 None, 1.0, "euler", 0, STEPS)[0]
    assert reused(tokens) == [False, True, True, True] * 2


# --- what is told and what is refused -----------------------------------------------------------------------------------

def test_hits_in_words():
    sigmas = torch.linspace(1, 0, 5)
    told = [Told(1.0, False), Told(1.0, False), Told(0.75, True), Told(0.75, False), Told(0.5, True), Told(0.5, True), Told(0.25, False)]
    assert by_step(told, sigmas) == [0, 0.5, 1, 0] and in_words(by_step(told, sigmas)) == "blocks left out in 1 of 4 steps: ●◐○●"
    assert changed(torch.tensor([[1.0, 3.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])) == 1.0
    assert mark_of({"a": torch.tensor([1.0, 2.0]), "n": 3}) != mark_of({"a": torch.tensor([2.0, 1.0]), "n": 3})


def test_denoise_tells(dit, positive, negative):
    (model,) = Node.execute(dit, OFTEN, 0.0, 1.0).result
    how = dict(dit=model, sigmas=dit.schedule(STEPS), positive=positive, cfg=3.0, solver="euler", negative=negative)
    given = Denoise.execute(tokens=begun(dit), start_step=0, end_step=STEPS, **how)
    hits, (said,) = given.ui["dit_blocks"][0]["hits"], given.ui["dit_blocks"][0]["remarks"]
    assert len(hits) == STEPS and 0 < sum(hits) < STEPS and said == f"Step Cache: {in_words(hits)}"
    tokens, told = begun(dit), []
    for step in range(STEPS):
        one = DenoiseStep.execute(tokens=tokens, step=step, **how)
        (tokens, _), (said,) = one.result, one.ui["text"]
        told.append(said)
    assert torch.equal(tokens["tokens"], given.result[0]["tokens"])
    assert told == [f"Step Cache: {in_words([hit])}" for hit in hits]
    plain = Denoise.execute(tokens=begun(dit), start_step=0, end_step=STEPS, **{**how, "dit": dit})
    assert "hits" not in plain.ui["dit_blocks"][0] and not plain.ui["text"]


@pytest.mark.parametrize("widgets, line", [
    ((-0.1, 0, 1), "threshold is 0 or more, not -0.1"), ((float("nan"), 0, 1), "threshold is 0 or more, not nan"),
    ((0.1, 0.6, 0.5), "start_percent 0.6 is after end_percent 0.5")])
def test_widgets_that_make_no_sense(dit, widgets, line):
    with pytest.raises(ValueError, match=f"^Step Cache: {line}$"):
        Node.execute(dit, *widgets)


def test_what_can_t_be_cached_is_said_before_it_is_sampled(dit, backbone, positive):
    one = Backbone(MMDiT(replace(backbone.model.config, depth=1)), identity_format(4), name="a small one")
    with pytest.raises(ValueError, match="^Step Cache: a small one has one block, and the first always runs"):
        Node.execute(one, 0.1, 0.0, 1.0)
    with pytest.raises(ValueError, match="^Step Cache: a DiT of four blocks runs whole, by diffusers"):
        Node.execute(replace(dit, model=torch.nn.Identity()), 0.1, 0.0, 1.0)
    with pytest.raises(ValueError, match="has a Step Cache, and patches of several sizes"):
        denoise_by_schedule(cached(dit, 0.1), begun(dit, patch_size=4), parse_schedule("4 with 2 on 25%"), dit.schedule(STEPS), positive, None, 1.0,
                            "euler", 0, STEPS)
    assert "stages run all blocks" in cached(dit, 0.1).remark and not dit.remark
    with pytest.raises(StagesError):
        StepCache(float("inf"))
