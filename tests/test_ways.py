"""Ways to spend less: what their words mean, what they cost, and that each stands beside fewer steps at the same seconds."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dit_blocks.dit_impl.cost.answers import of_step
from dit_blocks.dit_impl.cost.arithmetic import architecture
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.handle.patch_schedule import parse_schedule
from dit_blocks.dit_impl.model.mmdit import MMDiT
from dit_blocks.dit_impl.see import compare, vae_distance
from dit_blocks.dit_impl.see.ways import control_of, parse_way, parse_ways
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.nodes.budget import Compare

STEPS = 8


class Decoder:
    def decode(self, latent):
        return latent[:, :3].movedim(1, -1).sigmoid()


@pytest.fixture
def dit(four_blocks):
    return four_blocks


def drawn(dit, rows, positive, negative, controls=False, batch=1):
    return compare.compare(dit, Decoder(), Decoder().decode, {"samples": torch.zeros(batch, 4, 8, 8)}, parse_ways(rows), dit.schedule(STEPS), 1,
                           positive, negative, 2.0, "euler", controls=controls)


# --- words ----------------------------------------------------------------------------------------------------------

def test_the_words_of_a_way(dit):
    assert parse_way("8 steps + cache 0.1") == replace(parse_way("8 steps"), label="8 steps + cache 0.1", cache=0.1)
    assert parse_way("4 until 50%, then 2 by resample").patches == parse_schedule("4 until 50%, then 2", "resample")
    assert parse_way("regions 25%").plan(dit) == parse_schedule("4 until 30%, then 4 with 2 on 25%", "native")
    assert parse_way("Skip 1-2 + Cache .5").skip == "1-2" and parse_way("skip blocks 1").skip == "1" and parse_way("1 step").steps == 1
    full = [parse_way(line).is_full(dit, 8) for line in ("2", "full run", "8 steps", "2 + cache 0", "4", "4 steps", "2 + cache 0.1", "skip 1", "2 until 50%, then 2")]
    assert full == [True] * 4 + [False] * 5


@pytest.mark.parametrize("line, says", [
    ("turbo", "a way is patch sizes"), ("cache lots", "not 'cache lots'"), ("8 steps +", "not ''"), ("8 steps + 4 steps", "says twice what the steps are"),
    ("regions 25% + 4", "says twice what the patches are"), ("0 steps", "takes no step"), ("regions 130%", "at most 100%, not 130%"),
    ("2 by magic", "the word after 'by' is one of"), ("8 strides", "a row is a patch size and where it ends")])
def test_other_words_are_one_clear_line(line, says):
    with pytest.raises(ValueError) as caught:
        parse_way(line)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_fewer_steps_walk_the_same_levels():
    whole = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.0])
    assert torch.allclose(parse_way("2 steps").sigmas(whole), torch.tensor([1.0, 0.7, 0.0]))
    assert torch.allclose(parse_way("3 steps").sigmas(whole), torch.tensor([1.0, 0.9 - 0.2 / 3, 0.7 - 0.3 * 2 / 3, 0.0]))
    assert parse_way("4 steps").sigmas(whole) is whole and len(parse_way("9 steps").sigmas(whole)) == 10


def test_a_control_takes_as_long_as_its_way():
    way = parse_way("skip 1")
    assert [control_of(way, seconds, 10.0, 20).label for seconds in (4.9, 0.1, 9.6)] == ["10 steps", "1 steps", "19 steps"]
    assert control_of(way, 9.9, 10.0, 20) is None and control_of(parse_way("8 steps"), 4.0, 10.0, 20) is None
    assert control_of(parse_way("8 steps + cache 0.1"), 4.0, 10.0, 20).steps == 8


# --- drawing ----------------------------------------------------------------------------------------------------------

def test_the_full_run_is_what_all_are_compared_with(dit, positive, negative):
    added, four = drawn(dit, "4", positive, negative)
    assert added.label == "full run" and added.caption(added).endswith("reference")
    first, second, three = drawn(dit, "4\n2\n3 steps", positive, negative)
    assert (first.label, second.label, three.label) == ("2", "4", "3 steps")
    assert torch.equal(first.image, added.image) and torch.equal(second.image, four.image) and four.decibels == second.decibels
    assert three.tokens * 8 == first.tokens * 3 and round(three.macs * 8 / first.macs, 6) == 3


def test_every_way_draws_as_its_nodes_do(dit, positive, negative):
    by = {run.label: run for run in drawn(dit, "2\ncache 1000000000\nskip 1-2\nskip 1-2 + cache 1000000000\n4 steps + skip 3", positive, negative)}
    sigmas, latent = dit.schedule(STEPS), {"samples": torch.zeros(1, 4, 8, 8)}

    def picture(dit, sigmas=sigmas):
        tokens = dit.add_noise(dit.fold(latent), sigmas, 0, 1)[0]
        return Decoder().decode(compare.unfold(dit.denoise(tokens, sigmas, positive, negative, 2.0)[0]))
    skipped = Backbone(dit.model, dit.latent_format, dit.flow, dit.name)
    skipped.model = MMDiT(replace(dit.model.config, depth=2)).requires_grad_(False).eval()
    skipped.model.load_state_dict({**dit.model.state_dict(), **{
        name.replace("joint_blocks.3.", "joint_blocks.1."): value for name, value in dit.model.state_dict().items() if "joint_blocks.3." in name}},
        strict=False)
    assert torch.equal(by["skip 1-2"].image, picture(skipped))
    assert by["cache 1000000000"].hits == (0, *[1] * (STEPS - 1)) == by["skip 1-2 + cache 1000000000"].hits
    assert len({run.decibels for run in by.values()}) == 5 and by["4 steps + skip 3"].tokens == by["2"].tokens / 2


@pytest.mark.parametrize("row", ["cache 1000000000", "skip 0-1", "skip 0-1 + cache 1000000000", "3 steps"])
def test_flops_are_those_that_torch_counts(dit, positive, negative, row):
    """The blocks of this model differ a little, where its last has no text to write: each counts as the mean."""
    shares = []
    for line in ("2", row):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            *_, run = drawn(dit, f"2\n{line}" if line != "2" else "2", positive, negative)
        shares.append((counter.get_total_flops(), 2 * run.macs))
    counted = (shares[1][0] - shares[0][0]) / (shares[0][0] * STEPS / (STEPS + 1))  # without the run beside it; a step is walked first
    assert counted == pytest.approx(shares[1][1] / shares[0][1], abs=0.06)


def test_costs_of_blocks_left_out(dit):
    plan, sigmas, step = parse_schedule("2"), dit.schedule(4), of_step(architecture(dit), (8, 8), 2, 1, True)
    whole, without_two, first_only = (compare.cost(dit, plan, sigmas, (64, 64), 1, True, **more)[1] for more in (
        {}, {"skip": "1-2"}, {"hits": (0, 1, 1, 0.5)}))
    assert whole == 4 * step.macs and 0 < step.blocks < step.macs
    assert without_two == pytest.approx(4 * (step.macs - step.blocks / 2), abs=4)
    assert first_only == pytest.approx(4 * step.macs - 2.5 * step.blocks * 3 / 4, abs=4)


def test_beside_each_faster_way_stand_fewer_steps(dit, positive, negative, monkeypatch):
    seconds = iter([0.0, 10.0, 0.0, 4.9, 0.0, 4.8, 0.0, 11.0, 0.0, 5.2, 0.0, 2.0])  # each run begins and ends
    monkeypatch.setattr(compare.time, "perf_counter", lambda: next(seconds))
    runs = drawn(dit, "2\n4\nskip 1\ncache 0.5\n2 steps", positive, negative, controls=True)
    assert [(run.label, run.controls) for run in runs] == [
        ("2", ""), ("4", ""), ("4 steps", "4"), ("skip 1", ""), ("cache 0.5", ""), ("4 steps", "cache 0.5"), ("2 steps", "")]
    words = compare.in_words(runs)
    assert words.count("same seconds: 4 steps") == 2 and "4.80 s (48%)" in words
    assert torch.equal(runs[2].image, runs[5].image)
    lines = compare.in_words(runs, "中文")
    assert "同样的时间：4 steps" in lines and "步省去了块" in lines and "约 " in lines


def test_a_pair_stays_in_one_line_of_the_sheet(monkeypatch):
    seen = {}
    monkeypatch.setattr(compare.charts, "sheet", lambda pictures, labels, columns, language: seen.update(labels=labels) or torch.zeros(2, 2, 3))
    runs = [compare.Run(str(i), torch.zeros(1, 8, 8, 3), 1.0, 1, 1, 20.0, controls="x" * (i == 4)) for i in range(6)]
    compare.sheet(runs)
    assert [label.split("\n")[0] for label in seen["labels"]] == ["p = 0", "p = 1", "p = 2", "", "p = 3", "same seconds: 4", "p = 5"]


def test_what_can_t_be_drawn_is_said_before_anything_is(dit, positive, negative, monkeypatch):
    monkeypatch.setattr(Backbone, "denoise", lambda *_: pytest.fail("a step was taken"))
    inputs = {"dit": dit, "latent": {"samples": torch.zeros(1, 4, 8, 8)}, "sigmas": dit.schedule(STEPS), "positive": positive, "negative": negative,
              "vae": Decoder(), "seed": 1, "cfg": 2.0, "solver": "euler"}
    for rows, line in (("2\nturbo", "a way is patch sizes"), ("2\nskip 9", "this model has blocks 0 to 3, there is no block 9"),
                       ("2\n3 by resample", "multiples of a DiT of four blocks's own"),
                       ("regions 25% + cache 0.1", "has a Step Cache, and patches of several sizes"),
                       ("regions 25% + skip 1", "has a plan of its blocks, which patches of several sizes")):
        with pytest.raises(ValueError, match=f"^Compare Patch Sizes: .*{line}"):
            Compare.execute(**inputs, rows=rows)


# --- the VAE's own features -------------------------------------------------------------------------------------------

def test_distance_grows_with_the_difference():
    vae = load_embedded()[2]
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 16, 16, 3, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    near, far = ((picture + share * torch.rand(picture.shape, generator=generator)).clamp(0, 1) for share in (0.05, 0.5))
    same, little, much = vae_distance.distances(vae, [picture, near, far], picture)
    assert same == 0 < little < much / 4
    shapes = [tuple(feature.shape[1:]) for feature in vae_distance.features(vae, picture)]
    assert len(shapes) >= 3 and shapes[-1] == (8, 8) and (16, 16) in shapes
    assert not any(layer._forward_hooks for layer in vae.vae.modules())
    large = torch.rand(1, 512, 256, 3, generator=generator)
    assert vae_distance.features(vae, large)[-1].shape[1:] == (32, 16)


def test_a_vae_that_can_t_encode_has_no_distance(dit, positive, negative):
    assert vae_distance.distances(Decoder(), [torch.zeros(1, 8, 8, 3)], torch.zeros(1, 8, 8, 3)) == [None]
    assert drawn(dit, "2\n4", positive, negative)[1].caption(compare.Run("2", torch.zeros(1), 1.0, 1, 1, 0.0)).endswith(" dB")
