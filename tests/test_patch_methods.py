"""Patches of sizes that a model was not trained at, and patch sizes over the steps."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from dit_blocks.dit_impl.errors import BackboneError, ScheduleError
from dit_blocks.dit_impl.handle.patch_schedule import PatchSchedule, Row, denoise_by_schedule, parse_schedule
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.sampling.level import handed_on
from dit_blocks.dit_impl.tokens.other_sizes import Reading, choose_method, patch_resize, repatch, resize_embedding, resize_head
from dit_blocks.dit_impl.tokens.patch import patchify, token_grid
from dit_blocks.dit_impl.tokens.wire import fold, unfold


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def noisy(backbone):
    """(sigmas, tokens at the first noise level) of a small model, patch size 2."""
    sigmas = backbone.schedule(6)
    return sigmas, backbone.add_noise(backbone.fold({"samples": torch.zeros(1, 4, 8, 16)}, 2), sigmas, 0, seed=3)[0]


@settings(max_examples=30, deadline=None)
@given(method=st.sampled_from(["resample", "pi_resize"]), own=st.integers(1, 3), k=st.integers(1, 4), h=st.integers(1, 3), w=st.integers(1, 3),
       frames=st.sampled_from([None, (1, 1), (2, 2)]))
def test_down_of_up_is_the_same(method, own, k, h, w, frames):
    grid, frame_patch = ((frames[0], h, w), frames[1]) if frames else ((h, w), 1)
    reading = Reading(method, own, own * k, frame_patch)
    tokens = randn(2, math.prod(grid), 3 * frame_patch * own * own)
    there = reading.up(tokens, grid)
    assert there.shape == (2, math.prod(grid), 3 * frame_patch * (own * k) ** 2)
    torch.testing.assert_close(reading.down(there), tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("own,other", [(2, 4), (2, 3), (4, 6), (2, 8), (4, 2), (4, 3)])
def test_resized_weights_are_the_fitted_patches(own, other):
    """FlexiViT's resized embedding reads an enlarged patch as the base reads the patch itself; Reading's two maps are those weights."""
    reading, weight, tokens = Reading("pi_resize", own, other), randn(32, 3 * own * own), randn(5, 7, 3 * other * other, seed=1)
    resized = resize_embedding(weight, own, other)
    torch.testing.assert_close(tokens @ resized.T, reading.down(tokens) @ weight.T, atol=1e-5, rtol=1e-5)
    if other > own:
        patch = randn(1, 1, 3 * own * own, seed=2)
        enlarged = (patch.unflatten(-1, (3, -1)) @ patch_resize(own, other).T).flatten(-2)
        torch.testing.assert_close(enlarged @ resized.T, patch @ weight.T, atol=1e-5, rtol=1e-5)
    head = randn(3 * own * own, 32, seed=3)
    hidden = randn(5, 7, 32, seed=4)
    torch.testing.assert_close(hidden @ resize_head(head, own, other).T, reading.up(hidden @ head.T, (7, 1)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("flow", [RectifiedFlow(), DDPM()])
@pytest.mark.parametrize("method,own,other", [("resample", 2, 4), ("resample", 2, 8), ("resample", 1, 3), ("pi_resize", 2, 4), ("pi_resize", 2, 3)])
def test_the_noise_level_fits_what_is_measured(flow, method, own, other):
    """Noise of a constant picture after `down` has the deviation that the level says."""
    reading, sigma = Reading(method, own, other), torch.tensor(0.7)
    clean = torch.full((4, 3, 64 * other, 64 * other), 2.0)
    x = patchify(flow.add_noise(clean, randn(*clean.shape), sigma), other)
    seen, level = flow.quieter(reading.down(x), sigma, reading.gain)
    share = 1 - level if isinstance(flow, RectifiedFlow) else 1
    assert abs((seen - share * 2).std().item() / level.item() - 1) < 0.02
    assert abs((seen - share * 2).mean().item()) < 0.02 * level.item()


def test_the_first_level_stays_pure_noise():
    x, level = RectifiedFlow().quieter(torch.ones(1, 2), torch.tensor(1.0), 0.5)
    assert level == 1 and torch.equal(x, torch.full((1, 2), 2.0))


def test_the_matched_level_is_sd3_s_shift_back():
    s = torch.linspace(0.05, 1, 20)
    _, level = RectifiedFlow().quieter(torch.zeros(20, 1), s, 0.5)
    torch.testing.assert_close(2 * level / (1 + level), s)


@pytest.mark.parametrize("flow", [RectifiedFlow("velocity"), DDPM()])
def test_on_cells_that_are_constant_the_step_is_the_coarse_model_s_own(backbone, positive, flow):
    backbone.flow, k = flow, 2
    small = randn(1, 4, 6, 4)
    big = small.repeat_interleave(k, -2).repeat_interleave(k, -1)
    wire = backbone.fold({"samples": big}, 4)
    sigma = torch.tensor(0.6)
    x0 = backbone.reading(4, "resample").denoiser(wire, positive)(wire["tokens"], sigma)
    own = backbone.fold({"samples": small}, 2)
    x, level = flow.quieter(own["tokens"], sigma, 1 / k)
    torch.testing.assert_close(Reading("resample", 2, 4).down(x0), backbone.denoiser(own, positive)(x, level), atol=1e-5, rtol=1e-5)


def test_resample_at_the_model_s_own_size_is_the_plain_step(backbone, positive, negative, noisy):
    sigmas, tokens = noisy
    plain = backbone.denoise(tokens, sigmas, positive, negative, 3.0, "dpmpp_2m")
    same = backbone.reading(2, "resample").denoise(tokens, sigmas, positive, negative, 3.0, "dpmpp_2m")
    assert all(torch.equal(a["tokens"], b["tokens"]) for a, b in zip(plain, same))


@pytest.mark.parametrize("method,size", [("resample", 4), ("resample", 6), ("resample", 8), ("pi_resize", 4), ("pi_resize", 3), ("pi_resize", 1)])
def test_every_solver_walks_on_approximate_patches(backbone, positive, negative, method, size):
    sigmas = backbone.schedule(3)
    clean = backbone.fold({"samples": torch.zeros(2, 4, 9, 12)}, size)  # padded where the size does not divide it
    tokens, _ = backbone.add_noise(clean, sigmas, 0, seed=0)
    before = tokens["tokens"].clone()
    for solver in ("euler", "heun", "dpmpp_2m"):
        end, x0 = backbone.reading(size, method).denoise(tokens, sigmas, positive, negative, 2.0, solver)
        assert unfold(end).shape == (2, 4, 9, 12) and torch.isfinite(end["tokens"]).all()
        torch.testing.assert_close(end["tokens"], x0["tokens"])
    assert torch.equal(tokens["tokens"], before)


def test_cutting_anew_carries_all_and_goes_back(noisy, backbone, positive):
    sigmas, tokens = noisy
    tokens, _ = backbone.denoise(tokens, sigmas, positive, solver="dpmpp_2m", end_step=2)
    there = repatch(tokens, 4)
    assert there["grid"] == token_grid(8, 16, 4) and torch.equal(unfold(there), unfold(tokens))
    back = repatch(there, 2)
    for a, b in ((tokens["tokens"], back["tokens"]), (tokens["memory"]["x0"], back["memory"]["x0"]),
                 *((tokens["start"][name], back["start"][name]) for name in ("clean", "noise"))):
        assert torch.equal(a, b)


@pytest.mark.parametrize("method", ["auto", "resample", "pi_resize"])
def test_a_schedule_is_a_chain_of_denoise_nodes(backbone, positive, negative, noisy, method):
    sigmas, tokens = noisy
    plan = parse_schedule("4 until 50%, then 2", method)
    whole, x0, said = denoise_by_schedule(backbone, tokens, plan, sigmas, positive, negative, 3.0, "euler", 0, 10000)
    assert whole["patch_size"] == 2 and said == ("" if method == "auto" else f"p = 4 by {method}")
    coarse = fold(unfold(handed_on(tokens)), 4, backbone.latent_format)  # Unpatchify, Patchify
    coarse, _ = backbone.reading(4, method).denoise(coarse, sigmas, positive, negative, 3.0, end_step=3)
    fine = fold(unfold(handed_on(coarse)), 2, backbone.latent_format)
    fine, fine_x0 = backbone.denoise(fine, sigmas, positive, negative, 3.0, start_step=3)
    torch.testing.assert_close(whole["tokens"], fine["tokens"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x0["tokens"], fine_x0["tokens"], atol=1e-5, rtol=1e-5)
    halves = tokens
    for start, stop in ((0, 2), (2, 6)):
        halves, *_ = denoise_by_schedule(backbone, halves, plan, sigmas, positive, negative, 3.0, "euler", start, stop)
    assert torch.equal(halves["tokens"], whole["tokens"])


def test_one_row_of_the_model_s_own_size_changes_nothing(backbone, positive, noisy):
    sigmas, tokens = noisy
    whole, *_ = denoise_by_schedule(backbone, tokens, parse_schedule("2"), sigmas, positive, None, 1.0, "heun", 0, 10000)
    assert torch.equal(whole["tokens"], backbone.denoise(tokens, sigmas, positive, solver="heun")[0]["tokens"])


def test_coarse_steps_take_their_own_guidance(backbone, positive, negative, noisy):
    sigmas, tokens = noisy

    def run(plan, cfg):
        return denoise_by_schedule(backbone, tokens, plan, sigmas, positive, negative, cfg, "euler", 0, 3)[0]["tokens"]
    assert torch.equal(run(parse_schedule("4 until 50%, then 2", "auto", 1.5), 2.0), run(parse_schedule("4 until 50%, then 2"), 3.0))


def test_progress_counts_over_the_whole_schedule(backbone, positive, noisy):
    sigmas, tokens = noisy
    told = []
    denoise_by_schedule(backbone, tokens, parse_schedule("4 until 50%, then 2"), sigmas, positive, None, 1.0, "euler", 0, 10000, lambda done, *_: told.append(done))
    assert told == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("text,rows", [
    ("2", [Row(2)]), ("4 until 50%, then 2", [Row(4, 0.5), Row(2)]), ("8 until 25%\n4 UNTIL 62.5 %\n2", [Row(8, 0.25), Row(4, 0.625), Row(2)]),
    ("4 until sigma 0.6; 2", [Row(4, sigma=0.6), Row(2)])])
def test_rows_are_read(text, rows):
    assert parse_schedule(text).rows == tuple(rows)


@pytest.mark.parametrize("text,sizes", [("4 until 50%, then 2", [4, 4, 4, 2, 2, 2]), ("4 until 40%, then 2", [4, 4, 4, 2, 2, 2]),
                                        ("4 until sigma 0.75, then 2", [4, 4, 2, 2, 2, 2]), ("4 until 100%, then 2", [4] * 6)])
def test_steps_get_their_sizes(text, sizes):
    sigmas = torch.linspace(1, 0, 7)
    assert [size for size, a, b in parse_schedule(text).stretches(sigmas, 0, 6) for _ in range(a, b)] == sizes


@pytest.mark.parametrize("text,line", [
    ("", "empty"), ("4 until noon, then 2", "not '4 until noon'"), ("4 until 50%", "does not cover the last steps"),
    ("4, then 2", "patch size 4 has no end"), ("8 until 50%, 4 until 30%, then 2", "goes backwards: its shares are 0.5, 0.3"),
    ("8 until sigma 0.3, 4 until sigma 0.5, then 2", "goes backwards: its sigmas are 0.3, 0.5"), ("0", "at least 1"),
    ("4 until 150%, then 2", "at most 100%")])
def test_rows_that_can_t_be_followed(text, line):
    with pytest.raises(ScheduleError, match=line):
        parse_schedule(text)


@pytest.mark.parametrize("size,method,chosen", [
    (2, "auto", "native"), (4, "auto", "native"), (4, "resample", "resample"), (2, "resample", "native"), (2, "pi_resize", "native"),
    (6, "auto", "resample"), (3, "auto", "pi_resize"), (3, "pi_resize", "pi_resize"), (1, "pi_resize", "pi_resize")])
def test_what_serves_a_size(size, method, chosen):
    assert choose_method((2, 4), size, method) == chosen


@pytest.mark.parametrize("size,method,line", [
    (6, "native", "knows patch sizes 2, 4, not 6"), (3, "resample", "multiples of .* own patch size 2, not 3: pi_resize takes any"),
    (1, "resample", "multiples"), (0, "auto", "at least 1"), (4, "nearest", "patch_method is one of")])
def test_sizes_that_no_method_serves(size, method, line):
    with pytest.raises(BackboneError, match=line):
        choose_method((2, 4), size, method)


def test_a_size_that_can_t_be_served_is_told_before_any_step(backbone, positive, noisy):
    sigmas, tokens = noisy
    with pytest.raises(BackboneError, match="own patch size 2, not 3"):
        denoise_by_schedule(backbone, tokens, PatchSchedule((Row(2, 0.5), Row(3)), "resample"), sigmas, positive, None, 1.0, "euler", 0, 6,
                lambda *_: pytest.fail("a step was taken"))


def test_compare_tells_what_each_way_cost(backbone, positive, negative):
    from dit_blocks.nodes.budget import Compare

    class Decoder:
        def decode(self, latent):
            return latent[:, :3].movedim(1, -1).sigmoid()
    inputs = {"dit": backbone, "latent": {"samples": torch.zeros(1, 4, 8, 8)}, "sigmas": backbone.schedule(4), "positive": positive,
              "negative": negative, "vae": Decoder(), "seed": 1, "cfg": 2.0, "solver": "euler", "controls": False}
    picture, words = Compare.execute(**inputs, rows="2\n4 until 50%, then 2\n4 by resample").result
    first, mixed, coarse = words.split("\n\n")
    assert first.startswith("2\n") and "(100%)" in first and "64 tokens, 100% FLOPs" in first and first.endswith("reference")
    assert "4 until 50%, then 2\n" in mixed and "40 tokens" in mixed and mixed.endswith("dB")
    assert "16 tokens" in coarse and picture.shape[0] == 1 and picture.shape[3] == 3
    for rows, line in (("2 by magic", "the word after 'by' is one of"), ("\n", "nothing to compare"), ("3 by resample", "multiples of a small DiT's own")):
        with pytest.raises(ValueError, match=f"Compare Patch Sizes: .*{line}"):
            Compare.execute(**inputs, rows=rows)


def test_budget_node_says_why_there_are_patches():
    from dit_blocks.nodes.budget import Budget
    common = {"preset": "DiT-XL/2", "width": 256, "height": 256, "batch_size": 1}
    words, picture, count = Budget.execute(**common, patch_size=8, unit="MACs").result
    assert "65,536 (256×256)" in words and "1,024 (32×32)" in words and count == 16 and picture.shape[0] == 1
    assert Budget.execute(**common, patch_size=0, unit="MACs", vae_factor=16).result[2] == 64
