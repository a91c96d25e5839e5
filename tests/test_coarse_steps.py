"""Coarse and fine steps of one schedule: which guidance each takes, and what showing every block costs."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from dit_blocks.dit_impl.cost import answers
from dit_blocks.dit_impl.cost.arithmetic import FluxArchitecture, architecture, budget
from dit_blocks.dit_impl.handle.patch_schedule import denoise_by_schedule, parse_schedule, step_at
from dit_blocks.dit_impl.step.by_block import BLOCKS
from dit_blocks.nodes.denoise import Denoise

# --- guidance -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rows,factors", [("8 until 25%, 4 until 50%, then 2", {8: 1.5, 4: 1.5, 2: 1}), ("4", {4: 1}), ("2 until 50%, then 4", {2: 1, 4: 1.5})])
@pytest.mark.parametrize("cfg", [1.0, 3.0, 0.5])
def test_only_steps_coarser_than_the_finest_take_more_guidance(rows, factors, cfg):
    plan = parse_schedule(rows, coarse_cfg=1.5)
    for size, factor in factors.items():
        assert plan.guidance(size, cfg) == (cfg * factor if cfg != 1 else 1)  # cfg 1 is no guidance, and stays none


def tokens_of(backbone, size=2, step=0):
    sigmas = backbone.schedule(6)
    latent = {"samples": torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))}
    return sigmas, backbone.add_noise(backbone.fold(latent, size), sigmas, step, seed=3)[0]


def test_fine_steps_are_guided_as_asked_whatever_the_coarse_ones_take(backbone, positive, negative):
    sigmas, tokens = tokens_of(backbone)

    def run(wire, start, stop, factor):
        plan = parse_schedule("4 until 50%, then 2", coarse_cfg=factor)
        return denoise_by_schedule(backbone, wire, plan, sigmas, positive, negative, 3.0, "euler", start, stop)[0]
    middle = run(tokens, 0, 3, 1.5)
    assert not torch.allclose(middle["tokens"], run(tokens, 0, 3, 1.0)["tokens"], atol=1e-3)
    assert torch.equal(run(middle, 3, 6, 1.5)["tokens"], run(middle, 3, 6, 1.0)["tokens"])
    assert torch.equal(run(middle, 3, 6, 1.5)["tokens"], backbone.denoise(run(middle, 3, 4, 1.0), sigmas, positive, negative, 3.0, start_step=4)[0]["tokens"])


def test_each_step_is_told_the_guidance_it_takes(backbone, positive, negative):
    sigmas, tokens = tokens_of(backbone, step=1)
    told = []
    denoise_by_schedule(backbone, tokens, parse_schedule("4 until 50%, then 2", coarse_cfg=1.5), sigmas, positive, negative, 2.0, "euler", 1, 5,
            before=lambda step, wire, cfg: told.append((step, wire["patch_size"], cfg)))
    assert told == [(1, 4, 3.0), (2, 4, 3.0), (3, 2, 2.0), (4, 2, 2.0)]


def test_a_step_is_found_by_its_noise_level_on_schedules_that_fall_and_that_rise():
    for sigmas in (torch.linspace(1, 0, 9), torch.linspace(0.0001, 1, 9)):
        assert [step_at(sigma, sigmas) for sigma in sigmas[:-1].tolist()] == list(range(8))
        between = ((sigmas[2] + sigmas[3]) / 2).item()  # where a solver of two calls asks
        assert step_at(between, sigmas) == 3
    assert step_at(0.5, torch.tensor([1.0, 0.5, 0.5, 0.0])) == 1


# --- what showing every block costs ---------------------------------------------------------------------------------

def heads_counted(**how) -> tuple[int, int]:
    """How often DiT Denoise runs the model's final layer and its first block."""
    dit, counts = how["dit"], {"head": 0, "block": 0}

    def counting(name):
        return lambda *_: counts.update({name: counts[name] + 1})
    hooks = [dit.model.final_layer.register_forward_hook(counting("head")), dit.model.joint_blocks[0].register_forward_hook(counting("block"))]
    Denoise.execute(**how)
    for hook in hooks:
        hook.remove()
    return counts["head"], counts["block"]


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_captured_blocks_cost_what_is_run(backbone, positive, negative, solver):
    sigmas, tokens = tokens_of(backbone, step=1)
    shape, how = architecture(backbone), {"start_step": 1, "end_step": 6, "solver": solver}
    plan = parse_schedule("2")
    flops = {}
    for capture in (False, True):
        heads, blocks = heads_counted(dit=backbone, tokens=tokens, sigmas=sigmas, positive=positive, negative=negative, cfg=3.0,
                                      capture_blocks=capture, **how)
        step = answers.of_step(shape, (8, 16), 2, guided=True)
        told = answers.of_walk(shape, (8, 16), plan, sigmas, cfg=3.0, capture_blocks=capture, **how)
        assert told["flops"] == 2 * (blocks * (step.macs - step.head) + heads * step.head)
        flops[capture] = told["flops"]
    assert flops[True] > flops[False]


@settings(max_examples=30, deadline=None)
@given(blocks=st.integers(1, 30), single=st.integers(0, 10), steps=st.integers(1, 5), batch=st.integers(1, 3), guided=st.booleans())
def test_a_captured_step_is_one_step_more_and_a_final_layer_for_each_other_block_shown(blocks, single, steps, batch, guided):
    shape = FluxArchitecture("x", 64, blocks, channels=4, single=single, text=9)
    sigmas, cfg = torch.linspace(1, 0, steps + 1), 3.0 if guided else 1.0
    plain, shown = (answers.of_walk(shape, (8, 8), parse_schedule("2"), sigmas, cfg, batch, capture_blocks=capture)["flops"] for capture in (False, True))
    one = budget(shape, 64, 64, 2, batch, guided=guided)
    assert shown - plain == 2 * steps * (one.macs + (min(blocks + single, BLOCKS) - 1) * one.head)
