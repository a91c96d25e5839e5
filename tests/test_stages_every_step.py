"""Stages that are wired for one step and run in every step: what the same wires give, laid out for each step."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from weakref import WeakSet

from numbers_and_errors import line
import pytest
from test_steering_steps import CFG, STEPS, begun, drawn, vector
from test_token_ops import CORNER, out
import torch

from dit_blocks.dit_impl.cost.answers import shape_of
from dit_blocks.dit_impl.cost.arithmetic import architecture
from dit_blocks.dit_impl.handle.block_plan import BlockPlan
from dit_blocks.dit_impl.handle.stage_plan import StagePlan
from dit_blocks.dit_impl.handle.step_cache import StepCache
from dit_blocks.dit_impl.tokens.edit import values, with_values
from dit_blocks.dit_impl.tokens.recipe import Made, again
from dit_blocks.nodes.denoise import DenoiseStep
from dit_blocks.nodes.steering import Steer, SteerSteps
from dit_blocks.nodes.tokens import MixTokens, ReplaceTokens, RollTokens, ScaleTokens, ShuffleTokens, SwapTokens
from dit_blocks.nodes.transformer import (
    Condition,
    FinalLayer,
    Guidance,
    PatchEmbed,
    PositionEmbed,
    RunBlocks,
    SamplerStep,
    StagesSteps,
)


def start(dit, tokens, sigmas, step, positive, negative):
    return out(Condition, dit=dit, x=tokens, positive=positive, negative=negative, sigmas=sigmas, step=step)


def embed(dit, hidden, mode="model", seed=0):
    return out(PositionEmbed, dit=dit, hidden=out(PatchEmbed, dit=dit, x=hidden), mode=mode, seed=seed)


def blocks(dit, hidden, which="all", strength=1.0, **more):
    return out(RunBlocks, dit=dit, hidden=hidden, blocks=which, strength=strength, **more)


def grafted(dit, hidden):
    """Tokens after one block, grafted behind two others in a corner."""
    embedded = embed(dit, hidden)
    return blocks(dit, blocks(dit, embedded, "0-1"), "2-3", graft=blocks(dit, embedded, "0"), graft_mask=CORNER)


def edited(dit, hidden):
    placed = embed(dit, hidden)
    moved = out(RollTokens, x=placed, rows=1, columns=0)
    moved = out(SwapTokens, x=moved, column=0, row=0, to_column=1, to_row=2, width=2, height=2)
    moved = out(ShuffleTokens, x=moved, seed=3, mask=CORNER)
    moved = out(ScaleTokens, x=moved, factor=0.5, mask=CORNER)
    moved = out(ReplaceTokens, x=moved, fill="same place", source=placed, row=0, column=0, mask=1 - CORNER)
    return out(MixTokens, a=blocks(dit, moved), b=blocks(dit, placed), amount=0.3)


def steered(dit, hidden):
    hidden = blocks(dit, embed(dit, hidden), "0-1")
    return blocks(dit, out(Steer, hidden=hidden, vector=vector(), strength=1.5, rows="positive", mask=CORNER), "2-3")


WIRED = {
    "as the model": lambda dit, hidden: blocks(dit, embed(dit, hidden)),
    "skipped, repeated, weak": lambda dit, hidden: blocks(dit, blocks(dit, embed(dit, hidden), "0,2,2"), "3", 0.5),
    "no positions": lambda dit, hidden: blocks(dit, embed(dit, hidden, "none")),
    "shuffled positions": lambda dit, hidden: blocks(dit, embed(dit, hidden, "shuffled", 5)),
    "no blocks": embed,
    "each token itself": lambda dit, hidden: blocks(dit, embed(dit, hidden), attention="itself"),
    "grafted": grafted, "edited": edited, "steered": steered,
}


def by_wires(dit, positive, negative, wired, steps=range(STEPS)):
    """All steps by stages, wired in these steps and as the model has them in others."""
    tokens, sigmas = begun(dit)
    for step in range(STEPS):
        hidden = start(dit, tokens, sigmas, step, positive, negative)
        hidden = (wired if step in steps else WIRED["as the model"])(dit, hidden)
        guided = out(Guidance, prediction=out(FinalLayer, dit=dit, hidden=hidden), cfg=CFG)
        tokens = out(SamplerStep, dit=dit, tokens=tokens, prediction=guided, sigmas=sigmas, step=step, solver="euler")
    return tokens["tokens"]


def wire(dit, positive, negative, wired):
    tokens, sigmas = begun(dit, batch=1)
    return wired(dit, start(dit, tokens, sigmas, 0, positive, negative))


def every(dit, hidden, start=0.0, end=1.0):
    return out(StagesSteps, dit=dit, hidden=hidden, start_percent=start, end_percent=end)


@pytest.mark.parametrize("name", WIRED)
def test_every_step_runs_as_wired(four_blocks, positive, negative, name):
    """Wired for one picture and one prompt, run for two pictures and two prompts."""
    dit = every(four_blocks, wire(four_blocks, positive, None, WIRED[name]))
    found = drawn(dit, positive, negative)
    assert torch.equal(found, by_wires(four_blocks, positive, negative, WIRED[name]))
    assert torch.equal(found, drawn(four_blocks, positive, negative)) == (name == "as the model") and not four_blocks.turns


def test_one_plan_until_the_middle_and_another_after_it(four_blocks, positive, negative):
    levels = four_blocks.schedule(STEPS)[:-1].tolist()
    late = [i for i, level in enumerate(levels) if level <= four_blocks.flow.sigma_at(0.5)]
    assert 0 < len(late) < STEPS
    weak, none = (WIRED[name] for name in ("skipped, repeated, weak", "no positions"))
    later = every(four_blocks, wire(four_blocks, positive, None, none), start=0.5)
    assert torch.equal(drawn(later, positive, negative), by_wires(four_blocks, positive, negative, none, late))
    both = every(later, wire(four_blocks, positive, None, weak), end=0.5)
    found = drawn(both, positive, negative)
    assert torch.equal(found, by_wires(four_blocks, positive, negative, lambda dit, hidden: (
        none if hidden["call"].sigma <= four_blocks.flow.sigma_at(0.5) else weak)(dit, hidden)))


def test_where_two_plans_meet_the_later_one_holds(four_blocks, positive, negative):
    """0 is the first step's level itself."""
    assert four_blocks.schedule(STEPS)[0] == four_blocks.flow.sigma_at(0.0)
    weak, none = (wire(four_blocks, positive, None, WIRED[name]) for name in ("skipped, repeated, weak", "no positions"))
    expected = drawn(every(four_blocks, none), positive, negative)
    assert torch.equal(drawn(every(every(four_blocks, weak, end=0.0), none), positive, negative), expected)
    assert torch.equal(drawn(every(every(four_blocks, none), weak, end=0.0), positive, negative), expected)


def test_a_chain_of_steps_is_one_run(four_blocks, positive, negative):
    dit = every(four_blocks, wire(four_blocks, positive, negative, grafted))
    tokens, sigmas = begun(dit)
    for step in range(STEPS):
        tokens = DenoiseStep.execute(dit=dit, tokens=tokens, sigmas=sigmas, step=step, positive=positive, negative=negative, cfg=CFG,
                                     solver="dpmpp_2m").result[0]
    assert torch.equal(tokens["tokens"], drawn(dit, positive, negative, solver="dpmpp_2m"))


class Wire(dict):
    __hash__ = object.__hash__


def test_a_wire_that_is_read_no_more_is_let_go():
    """Memory stays that of a few stages, however many there are."""
    alive = WeakSet()

    def stage(wire, beside=None):
        assert len(alive) <= 2 + (beside is not None)
        alive.add(made := Wire(wire))
        return made
    first = made = Made(stage, {"wire": Made()})
    for _ in range(6):
        made = Made(stage, {"wire": made})
    again(Made(stage, {"wire": made, "beside": first}), Wire(), None)
    assert not alive


def test_what_can_t_run_in_every_step_is_refused(four_blocks, backbone, positive, negative):
    tokens, sigmas = begun(four_blocks, batch=1)
    begin = partial(start, four_blocks, tokens, sigmas, 0, positive, None)
    plain = wire(four_blocks, positive, None, WIRED["as the model"])
    finetune = replace(four_blocks, model=deepcopy(four_blocks.model))
    assert every(four_blocks, blocks(finetune, embed(finetune, begin()))).turns  # hidden states of a model of the same shape will do
    two = blocks(four_blocks, embed(four_blocks, begin()), graft=embed(four_blocks, begin()))
    for hidden, says in ((begin(), "hidden has not been through DiT Condition and Patch Embed"),
                         (out(PatchEmbed, dit=four_blocks, x=tokens), "hidden has not been through DiT Condition and Patch Embed"),
                         (two, "hidden comes from two DiT Condition nodes"),
                         (blocks(finetune, embed(four_blocks, begin())), "hidden has been through the blocks of two models")):
        assert line(ValueError, every, four_blocks, hidden).startswith(f"Stages Every Step: {says}")
    assert line(ValueError, every, four_blocks, plain, 0.8, 0.2) == "Stages Every Step: start_percent 0.8 is after end_percent 0.2"
    assert line(ValueError, every, backbone, plain).startswith("Stages Every Step: hidden comes from a model of another shape: MMDiT of 4 blocks")
    once = every(four_blocks, plain)
    assert line(ValueError, every, once, plain, 0.9).startswith(
        "Stages Every Step: Stages Every Step or Stages (MODEL) runs the whole of a step, so that another one can't hold at the same time")
    turn = dict(vector=vector(), strength=1.0, rows="both", start_percent=0.0, end_percent=1.0)
    assert "so that Steer Every Step or Steer (MODEL) can't hold" in line(ValueError, out, SteerSteps, dit=once, **turn)
    assert "so that Steer Every Step or Steer (MODEL) can't hold" in line(ValueError, every, out(SteerSteps, dit=four_blocks, **turn), plain)
    assert "so that Step Cache can't hold" in line(ValueError, once.with_cache, StepCache(0.1))
    assert "so that a plan of blocks can't hold" in line(ValueError, once.with_plan, BlockPlan("0-1"))
    assert "runs the stages" in line(ValueError, wire, once, positive, None, embed)
    assert "whose cost is not counted: wire the dit from before" in line(ValueError, architecture, once)
    assert shape_of(once) is None and shape_of(four_blocks)["kind"] == "mmdit"


def test_a_node_that_leaves_no_trace_is_told_of(four_blocks, positive):
    """What changes hidden states without saying how is never left out in silence."""
    plain = wire(four_blocks, positive, None, WIRED["as the model"])
    placed = wire(four_blocks, positive, None, embed)
    changed = with_values(placed, values(placed) * 2)
    for hidden in (changed, blocks(four_blocks, changed)):
        with pytest.raises(ValueError, match="^Stages Every Step: hidden has been through a node that can't run again in every step: wire Patch"):
            every(four_blocks, hidden)
    assert StagePlan.of(plain).is_everywhere
