"""Rows of a patch schedule that name another model, 'of other'."""

from dataclasses import replace

import pytest
import torch

from dit_blocks.dit_impl.cost.answers import architecture, cost_answer, of_walk, plain
from dit_blocks.dit_impl.errors import BackboneError, ScheduleError
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.handle.patch_schedule import Row, denoise_by_schedule, parse_schedule
from dit_blocks.dit_impl.handle.step_cache import StepCache
from dit_blocks.dit_impl.model.mmdit import MMDiT
from dit_blocks.dit_impl.sampling.flow import DDPM
from dit_blocks.dit_impl.see.ways import parse_ways
from dit_blocks.dit_impl.tokens.mixed import Split
from dit_blocks.dit_impl.tokens.other_sizes import repatch
from dit_blocks.dit_impl.tokens.wire import identity_format
from dit_blocks.nodes.denoise import Denoise
from dit_blocks.nodes.patch_schedule import PatchSchedule, PatchScheduleModel

ROWS = "4 of other until 50%, then 2"


def made(backbone: Backbone, name: str = "another DiT", seed: int = 7, **config) -> Backbone:
    """A random model like the small one, but for what is said."""
    torch.manual_seed(seed)
    model = MMDiT(replace(backbone.model.config, **{"patch_sizes": (4,), "depth": 3, "width": 32, **config}))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return replace(backbone, model=model.eval().requires_grad_(False), name=name, latent_format=identity_format(model.config.in_channels))


@pytest.fixture
def other(backbone) -> Backbone:
    return made(backbone)


@pytest.fixture
def noisy(backbone):
    """→ sigmas of six steps, and tokens at the first noise level, patch size 2."""
    sigmas = backbone.schedule(6)
    return sigmas, backbone.add_noise(backbone.fold({"samples": torch.zeros(2, 4, 8, 12)}), sigmas, 0, seed=3)[0]


@pytest.mark.parametrize("text,rows", [
    (ROWS, [Row(4, 0.5, of_other=True), Row(2)]), ("8 OF  other until sigma 0.6; 2", [Row(8, sigma=0.6, of_other=True), Row(2)]),
    ("4 until 50%, then 2 of other", [Row(4, 0.5), Row(2, of_other=True)]),
    ("4 of other with 2 on 25%", [Row(4, splits=(Split(2, 0.25),), of_other=True)])])
def test_rows_name_the_other_model(text, rows):
    plan = parse_schedule(text)
    assert plan.rows == tuple(rows) and plan.names_other and not parse_schedule("4 until 50%, then 2").names_other


@pytest.mark.parametrize("text", ["4 of mine until 50%, then 2", "4 until 50% of other, then 2", "of other until 50%, then 2", "4 ofother"])
def test_other_words_are_no_row(text):
    with pytest.raises(ScheduleError, match="'4 of other until 50%'"):
        parse_schedule(text)


def test_steps_at_one_size_by_two_models_are_two_stretches():
    sigmas, plan = torch.linspace(1, 0, 7), parse_schedule("2 of other until 50%, then 2")
    assert plan.stretches(sigmas, 1, 6) == [(2, 1, 3), (2, 3, 6)] and [plan.of_other(sigmas, step) for step in range(6)] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "euler_ancestral"])
@pytest.mark.parametrize("rows", [ROWS, "4 of other until sigma 0.5, then 2", "4 until 34%, then 4 of other"])
def test_it_is_two_denoise_nodes_in_a_row(backbone, other, positive, negative, noisy, solver, rows):
    sigmas, tokens = noisy
    (plan,) = PatchSchedule.execute(rows=rows, other=other).result
    cut = sum(plan.of_other(sigmas, step) == plan.of_other(sigmas, 0) for step in range(6))
    first, last = (other, backbone) if plan.rows[0].of_other else (backbone, other)

    def run(dit, tokens, start, end, plan=None):
        return Denoise.execute(dit=dit, tokens=tokens, sigmas=sigmas, start_step=start, end_step=end, positive=positive, negative=negative, cfg=3.0,
                               solver=solver, patch_schedule=plan).result[:2]
    whole, x0 = run(backbone, tokens, 0, 10000, plan)
    half, _ = run(first, repatch(tokens, plan.rows[0].patch_size), 0, cut)
    end, end_x0 = run(last, repatch(half, plan.rows[1].patch_size), cut, 6)
    assert torch.equal(whole["tokens"], end["tokens"]) and torch.equal(x0["tokens"], end_x0["tokens"])
    plain = run(backbone, tokens, 0, 10000, parse_schedule(rows.replace(" of other", "")))[0]
    assert not torch.allclose(whole["tokens"], plain["tokens"], atol=1e-3)
    halves = run(backbone, run(backbone, tokens, 0, 2, plan)[0], 2, 6, plan)[0]
    assert torch.equal(whole["tokens"], halves["tokens"])


def test_each_model_is_loaded_when_its_steps_begin(backbone, other, positive, noisy):
    sigmas, tokens = noisy
    seen, plan = [], replace(parse_schedule("4 of other until 34%, 4 until 67%, then 2"), other=other)
    _, _, said = denoise_by_schedule(backbone, tokens, plan, sigmas, positive, None, 1.0, "euler", 0, 6, lambda done, *_: seen.append(done),
                                     load=lambda model: seen.append(model.name))
    assert seen == [other.name, 1, 2, 3, backbone.name, 4, 5, 6] and said == ""
    for their_own, wanted in ((4, "p = 8 by resample"), (8, "")):
        plan = replace(parse_schedule("8 of other until 34%, then 4"), other=made(backbone, patch_sizes=(their_own,)))
        assert denoise_by_schedule(backbone, tokens, plan, sigmas, positive, None, 1.0, "euler", 0, 6)[2] == wanted


@pytest.mark.parametrize("wrong,says", [
    ({"in_channels": 8}, "other (odd) has 8 latent channels, dit (a small DiT) has 4 latent channels"),
    ({"context_width": 48}, "other (odd) has prompts: text of width 48 with a pooled_output of width 16, dit (a small DiT) has prompts: text of width 32"),
    ({"pooled_width": 8}, "other (odd) has prompts: text of width 32 with a pooled_output of width 8, dit")])
def test_a_model_of_another_family_is_refused_before_anything_runs(backbone, positive, noisy, wrong, says):
    odd = made(backbone, "odd", **wrong)
    assert refusal(backbone, odd, positive, noisy).startswith(f"'of other' takes a model of the same family: {says}")


def test_other_noise_cells_and_latent_spaces_are_refused(backbone, other, class_dit, positive, noisy):
    scaled = {**other.latent_format, "scale": 2 * other.latent_format["scale"]}
    for odd, says in ((replace(other, flow=DDPM()), "has DDPM's noise, dit (a small DiT) has a rectified flow"),
                      (replace(other, downscale=1), "has cells of 1 pixels, dit (a small DiT) has cells of 8 pixels"),
                      (replace(other, latent_format=scaled), "has another latent space than dit"),
                      (replace(class_dit, flow=backbone.flow), "has prompts: one of 10 classes, dit (a small DiT) has prompts: text of width 32"),
                      (other.with_cache(StepCache(0.1)), "a Step Cache goes over the steps of one model: take it off another DiT")):
        assert says in refusal(backbone, odd, positive, noisy)


def refusal(dit, other, positive, noisy) -> str:
    """The line that says why, when no step has been taken."""
    sigmas, tokens = noisy
    steps, plan = [], replace(parse_schedule("2 until 50%, then 4 of other"), other=other)
    with pytest.raises((BackboneError, ScheduleError)) as raised:
        denoise_by_schedule(dit, tokens, plan, sigmas, positive, None, 1.0, "euler", 0, 6, lambda *_: steps.append(1))
    assert not steps and "\n" not in str(raised.value)
    return str(raised.value)


def test_steps_that_the_other_does_not_take_ask_nothing_of_it(backbone, positive, noisy):
    sigmas, tokens = noisy
    plan = replace(parse_schedule("2 until 50%, then 4 of other"), other=made(backbone, in_channels=8))
    done, *_ = denoise_by_schedule(backbone, tokens, plan, sigmas, positive, None, 1.0, "euler", 0, 3)
    assert torch.equal(done["tokens"], backbone.denoise(tokens, sigmas, positive, end_step=3)[0]["tokens"])


def test_a_missing_model_and_a_needless_one_are_refused(backbone, other, positive, noisy):
    with pytest.raises(ValueError, match="Patch Schedule: the rows say 'of other', and no other model is wired"):
        PatchSchedule.execute(rows=ROWS)
    with pytest.raises(ValueError, match="Patch Schedule: a model is wired into other, and no row names it"):
        PatchSchedule.execute(rows="4 until 50%, then 2", other=other)
    assert "no other model is wired" in refusal(backbone, None, positive, noisy)


def test_where_there_is_one_model_it_is_refused(backbone, other, positive, noisy):
    sigmas, tokens = noisy
    says = "runs one model, and the rows say 'of other'"
    assert says in PatchScheduleModel.validate_inputs(rows=ROWS) and PatchSchedule.validate_inputs(rows=ROWS) is True
    with pytest.raises(ScheduleError, match=f"Compare Patch Sizes {says}"):
        parse_ways(f"2\n{ROWS}")
    (plan,) = PatchSchedule.execute(rows=ROWS, other=other).result
    with pytest.raises(ValueError, match="DiT Denoise: capture_blocks shows the blocks of one model"):
        Denoise.execute(dit=backbone, tokens=tokens, sigmas=sigmas, start_step=0, end_step=6, positive=positive, cfg=1.0, solver="euler", patch_schedule=plan,
                        capture_blocks=True)


def test_costs_are_those_of_each_model(backbone, other):
    own, theirs, sigmas = architecture(backbone), architecture(other), torch.linspace(1, 0, 7)
    told = of_walk(own, (8, 12), parse_schedule(ROWS), sigmas, 3.0, other=theirs)
    coarse, fine, plain_run = (of_walk(shape, (8, 12), parse_schedule(p), sigmas, 3.0, 1, *part) for shape, p, part in (
        (theirs, "4", (0, 3)), (own, "2", (3, 6)), (own, "2", (0, 6))))
    assert told["flops"] == coarse["flops"] + fine["flops"] and told["share"] == told["flops"] / plain_run["flops"]
    assert told["stretches"] == [{**coarse["stretches"][0], "patch_size": "4 of other"}, *fine["stretches"]]
    walk = {"steps": 6, "scheduler": "linear", "rows": ROWS, "other": plain(theirs)}
    asked = cost_answer({"size": [8, 12], "shape": plain(own), "cfg": 3.0, "walk": walk})["walk"]
    assert asked["flops"] == told["flops"]
    with pytest.raises(ValueError, match="the rows say 'of other', and no other model is wired"):
        cost_answer({"size": [8, 12], "shape": plain(own), "walk": {**walk, "other": None}})
