"""Steering in every step of DiT Denoise: what the stages with Steer in each step give, where, in which steps, on which rows and tokens."""

from dataclasses import replace

from conftest import conditioning
import pytest
from test_token_ops import CORNER, embedded, out, raw
import torch

from dit_blocks.dit_impl.errors import BackboneError
from dit_blocks.dit_impl.handle.block_plan import BlockPlan
from dit_blocks.dit_impl.handle.by_regions import by_regions
from dit_blocks.dit_impl.handle.steering_plan import Turn
from dit_blocks.dit_impl.handle.step_cache import StepCache
from dit_blocks.dit_impl.tokens.mixed import Mixture, Split
from dit_blocks.dit_impl.tokens.steering import SteeringVector
from dit_blocks.nodes.denoise import AddNoise, Denoise, DenoiseStep
from dit_blocks.nodes.patch import Patchify
from dit_blocks.nodes.steering import Steer, SteerSteps
from dit_blocks.nodes.transformer import Condition, FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks, SamplerStep

STEPS, CFG = 5, 3.0


def vector(block=2, seed=0, width=64, model="a DiT of four blocks"):
    return SteeringVector(torch.randn(width, generator=torch.Generator().manual_seed(seed)), model, block, 24.0)


def steered(dit, block=2, seed=0, **how):
    return out(SteerSteps, **dict(dit=dit, vector=vector(block, seed), strength=1.5, rows="both", start_percent=0.0, end_percent=1.0) | how)


def begun(dit, batch=2):
    sigmas = dit.schedule(STEPS)
    return out(AddNoise, dit=dit, tokens=raw(batch), sigmas=sigmas, step=0, seed=1), sigmas


def drawn(dit, positive, negative=None, cfg=CFG, tokens=None, solver="euler"):
    noisy, sigmas = begun(dit)
    return out(Denoise, dit=dit, tokens=noisy if tokens is None else tokens, sigmas=sigmas, start_step=0, end_step=STEPS, positive=positive,
               negative=negative, cfg=cfg if negative else 1.0, solver=solver)["tokens"]


def by_stages(dit, positive, negative, turns, steps=range(STEPS), blocks="0,1,2,3"):
    """All steps by stages, with Steer before each turn's block in some of them: turns are (vector, strength, rows, mask)."""
    tokens, sigmas = begun(dit)
    for step in range(STEPS):
        hidden = out(Condition, dit=dit, x=tokens, positive=positive, negative=negative, sigmas=sigmas, step=step)
        hidden = out(PositionEmbed, dit=dit, hidden=out(PatchEmbed, dit=dit, x=hidden), mode="model", seed=0)
        for place in (*filter(None, blocks.split(",")), None):
            for one, strength, rows, mask in turns if step in steps else ():
                if str(one.block) == (place or "4"):
                    hidden = out(Steer, hidden=hidden, vector=one, strength=strength, rows=rows, mask=mask)
            if place:
                hidden = out(RunBlocks, dit=dit, hidden=hidden, blocks=place, strength=1.0)
        guided = out(Guidance, prediction=out(FinalLayer, dit=dit, hidden=hidden), cfg=CFG)
        tokens = out(SamplerStep, dit=dit, tokens=tokens, prediction=guided, sigmas=sigmas, step=step, solver="euler")
    return tokens["tokens"]


@pytest.mark.parametrize("rows", ["both", "positive"])
@pytest.mark.parametrize("mask", [None, CORNER], ids=["all tokens", "a corner"])
@pytest.mark.parametrize("block", [0, 2, 4])
def test_every_step_turns_as_the_stages_with_steer(four_blocks, positive, negative, block, rows, mask):
    found = drawn(steered(four_blocks, block, rows=rows, mask=mask), positive, negative)
    assert torch.equal(found, by_stages(four_blocks, positive, negative, [(vector(block), 1.5, rows, mask)]))
    assert not torch.allclose(found, drawn(four_blocks, positive, negative), atol=1e-3)


def test_several_turns_add_up_and_leave_the_dit_as_it_was(four_blocks, positive, negative):
    once = steered(four_blocks, 1)
    twice = steered(steered(once, 1, seed=1, mask=CORNER), 3, seed=2, strength=-1.0, rows="positive")
    turns = [(vector(1), 1.5, "both", None), (vector(1, 1), 1.5, "both", CORNER), (vector(3, 2), -1.0, "positive", None)]
    assert torch.equal(drawn(twice, positive, negative), by_stages(four_blocks, positive, negative, turns))
    assert torch.equal(drawn(once, positive, negative), by_stages(four_blocks, positive, negative, turns[:1])) and not four_blocks.turns


def test_only_in_the_steps_of_its_share(four_blocks, positive, negative):
    levels = four_blocks.schedule(STEPS)[:-1].tolist()
    inside = [i for i, level in enumerate(levels) if four_blocks.flow.sigma_at(0.6) <= level <= four_blocks.flow.sigma_at(0.2)]
    assert 0 < len(inside) < STEPS and 0 not in inside
    found = drawn(steered(four_blocks, start_percent=0.2, end_percent=0.6), positive, negative)
    assert torch.equal(found, by_stages(four_blocks, positive, negative, [(vector(), 1.5, "both", None)], inside))


@pytest.mark.parametrize("how", [dict(strength=0.0), dict(mask=torch.zeros(1, 4, 3)), dict(mask=torch.full((2, 56, 48), 0.5))],
                         ids=["no strength", "no mask", "half a mask"])
def test_what_turns_nothing_is_the_dit_itself(four_blocks, how):
    assert steered(four_blocks, **how) is four_blocks


def test_a_mask_that_covers_no_token_changes_nothing(four_blocks, positive, negative):
    thin = torch.zeros(1, 56, 48)
    thin[:, :, 10] = 1
    assert torch.equal(drawn(steered(four_blocks, mask=thin), positive, negative), drawn(four_blocks, positive, negative))


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "heun"])
def test_a_chain_of_steps_is_one_run(four_blocks, positive, negative, solver):
    dit = steered(four_blocks, start_percent=0.3, mask=CORNER, rows="positive")
    tokens, sigmas = begun(dit)
    for step in range(STEPS):
        tokens = DenoiseStep.execute(dit=dit, tokens=tokens, sigmas=sigmas, step=step, positive=positive, negative=negative, cfg=CFG,
                                     solver=solver).result[0]
    assert torch.equal(tokens["tokens"], drawn(dit, positive, negative, solver=solver))


def test_prompts_that_share_no_batch_turn_as_those_that_do(four_blocks, positive, negative):
    """Sides are told apart in whatever calls they come."""
    (text, extras), = negative
    longer = [[torch.cat([text, text[:, :2]], dim=1), extras]]
    dit = steered(four_blocks, rows="positive")
    found = drawn(dit, positive, longer)
    assert torch.equal(found, by_stages(four_blocks, positive, longer, [(vector(), 1.5, "positive", None)]))
    assert not torch.equal(found, drawn(steered(four_blocks), positive, longer))


def test_a_plan_of_blocks_and_turns(four_blocks, positive, negative):
    """Where the plan leaves the block out, the place before it is still passed."""
    for block, words, stands, blocks in ((1, "all but 2", 1, "0,1,3"), (2, "all but 2", 3, "0,1,3"), (3, "0-1", 4, "0,1"), (0, "", 4, ""),
                                         (2, "0-2,0-3", 2, "0,1,2,0,1,2,3")):
        found = drawn(steered(four_blocks, block).with_plan(BlockPlan(words)), positive, negative)
        assert torch.equal(found, by_stages(four_blocks, positive, negative, [(replace(vector(block), block=stands), 1.5, "both", None)],
                                            blocks=blocks)), words


def test_a_cache_keeps_what_turned(four_blocks, positive, negative):
    for block in (0, 1, 3, 4):
        dit = steered(four_blocks, block, strength=0.2)
        assert torch.equal(drawn(dit.with_cache(StepCache(1e-9)), positive, negative), drawn(dit, positive, negative))
        always = drawn(dit.with_cache(StepCache(1e6)), positive, negative)
        without, plain = drawn(four_blocks.with_cache(StepCache(1e6)), positive, negative), drawn(dit, positive, negative)
        assert not torch.equal(always, plain) and (always - plain).norm() < (without - plain).norm(), block
    half = steered(four_blocks, 3, end_percent=0.5).with_cache(StepCache(1e6))
    noisy, sigmas = begun(half)
    tokens = half.denoise(noisy, sigmas, positive, negative, CFG)[0]
    assert [one.reused for one in tokens["hits"]].count(False) == 2  # other turns are begun anew


def test_patches_of_a_size_read_by_another_turn_too(four_blocks, positive):
    """The mask stands on the tokens as the wire has them; the share goes by the sampler's noise level."""
    tokens = out(Patchify, latent={"samples": torch.zeros(1, 4, 17, 16)}, patch_size=8, dit=four_blocks)
    sigmas = four_blocks.schedule(STEPS)
    tokens = out(AddNoise, dit=four_blocks, tokens=tokens, sigmas=sigmas, step=0, seed=1)
    mask = torch.zeros(1, 136, 128)
    mask[:, 128:, :64] = 1  # the row of cells that is all of the last row of tokens

    def coarse(dit):
        return dit.reading(8, "resample").denoise(tokens, sigmas, positive)[0]["tokens"]
    plain = coarse(four_blocks)
    one = steered(four_blocks, 4, mask=mask).reading(8, "resample").denoise(tokens, sigmas, positive, end_step=1)[0]["tokens"]
    first = four_blocks.reading(8, "resample").denoise(tokens, sigmas, positive, end_step=1)[0]["tokens"]
    changes = (one - first).norm(dim=-1)[0]
    assert changes.argmax() == 4 and changes[4] > 2 * changes[[0, 1, 2, 3, 5]].max()
    assert not torch.equal(coarse(steered(four_blocks)), plain)
    level = sigmas[-2].item()
    last = next(percent / 1000 for percent in range(1000) if four_blocks.flow.sigma_at(percent / 1000) <= level)
    assert torch.equal(coarse(steered(four_blocks, start_percent=last + 0.05)), plain)


def test_a_class_conditional_model_turns(class_dit):
    dit, label = class_dit.with_turn(Turn(vector(1), 2.0, "positive")), class_dit.class_conditioning("3")
    assert not torch.equal(drawn(dit, label, class_dit.unconditional), drawn(class_dit, label, class_dit.unconditional))


def test_areas_turn_whole(four_blocks, positive, negative):
    half = [[positive[0][0], {**positive[0][1], "area": (7, 3, 0, 0)}]]
    both = half + conditioning(5)
    plain = drawn(four_blocks, both, negative)
    assert not torch.equal(drawn(steered(four_blocks), both, negative), plain)
    for how in (dict(mask=CORNER), dict(rows="positive")):
        with pytest.raises(ValueError, match='^DiT Denoise: a mask, rows "positive" and edited tokens are for prompts of the whole picture: leave'):
            drawn(steered(four_blocks, **how), both, negative)


def test_what_can_t_be_right_is_refused(four_blocks, backbone, positive, negative):
    wire = embedded(four_blocks, positive, negative)
    dit = steered(four_blocks)
    for run, line in (
            (lambda: steered(four_blocks, vector=vector(width=32)), "^Steer Every Step: the vector has 32 numbers, for a DiT of four blocks; tokens of .* 64"),
            (lambda: steered(four_blocks, 5), "^Steer Every Step: the vector was taken before block 5, of a DiT of four blocks; a DiT of four blocks has 4"),
            (lambda: steered(backbone, 3), "before block 3, of a DiT of four blocks; a small DiT has 2 blocks"),
            (lambda: steered(four_blocks, start_percent=0.5, end_percent=0.2), "^Steer Every Step: start_percent 0.5 is after end_percent 0.2"),
            (lambda: steered(four_blocks, rows="none"), "^Steer Every Step: rows is both or positive, not 'none'"),
            (lambda: embedded(dit, positive, negative), "^DiT Condition: a DiT of four blocks is steered in every step, which stages would leave out"),
            (lambda: out(RunBlocks, dit=dit, hidden=wire, blocks="all", strength=1.0), "^DiT Blocks: a DiT of four blocks is steered in every step")):
        with pytest.raises(ValueError, match=line) as error:
            run()
        assert "\n" not in str(error.value) and len(str(error.value)) < 300
    mixture = Mixture(4, (Split(2, 0.5),))
    with pytest.raises(BackboneError, match="has Steer Every Step or Stages Every Step, which patches of several sizes .4 with 2 on 50%. can't do: leave one"):
        by_regions(replace(backbone, turns=(Turn(vector(1)),)), mixture)
    assert SteerSteps.validate_inputs(start_percent=0.5, end_percent=0.2) == "start_percent 0.5 is after end_percent 0.2"
    assert SteerSteps.validate_inputs(start_percent=0.2, end_percent=0.5) is True
