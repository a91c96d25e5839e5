"""Tokens at the edges: how numbers are written, which tokens are chosen, what is said of them, what moves along and what stays."""

from hypothesis import given, settings
from hypothesis import strategies as st
from numbers_and_errors import line, randn
import pytest
import torch

from dit_blocks.dit_impl.errors import BackboneError, StagesError, TokensError
from dit_blocks.dit_impl.step import stages
from dit_blocks.dit_impl.tokens import edit
from dit_blocks.dit_impl.tokens.numbers import in_words, parse_ranges
from dit_blocks.dit_impl.tokens.other_sizes import Reading, choose_method, patch_fit, patch_resize, repatch
from dit_blocks.dit_impl.tokens.select import rectangle, selection, token_mask
from dit_blocks.dit_impl.tokens.wire import (
    check_cut_alike,
    check_latent,
    describe,
    fold,
    fold_image,
    grey_picture,
    into_dit_space,
    latent_format,
    out_of_dit_space,
    same_format,
    unfold,
    with_tokens,
)

# --- numbers in words -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text,numbers", [
    ("all", [0, 1, 2, 3, 4]), ("3", [3]), ("0-4", [0, 1, 2, 3, 4]), ("4-1", [4, 3, 2, 1]), ("2-2", [2]), (" 1 - 3 , 0", [1, 2, 3, 0]),
    ("1,1,3-2,all", [1, 1, 3, 2, 0, 1, 2, 3, 4]), ("", []), (" , ,2,", [2])])
def test_ranges_are_read_in_the_order_written(text, numbers):
    assert parse_ranges(text, 5, "block", "this model") == numbers


@pytest.mark.parametrize("text,says", [
    ("5", "this model has blocks 0 to 4, there is no block 5"), ("7-9", "this model has blocks 0 to 4, there is no block 7"),
    ("9-7", "this model has blocks 0 to 4, there is no block 7"), ("2-9", "this model has blocks 0 to 4, there is no block 5"),
    ("x-1", 'blocks are numbers and ranges such as "0-11", "0,2,4-7", "11-0", "all" or "all but 7", not \'x-1\'')])
def test_ranges_that_are_none_say_what_there_is(text, says):
    assert line(ValueError, parse_ranges, text, 5, "block", "this model") == says


@settings(max_examples=50)
@given(st.sets(st.integers(0, 30)))
def test_words_of_numbers_are_read_back(numbers):
    words = in_words(sorted(numbers))
    assert parse_ranges(words, 31, "block", "it") == sorted(numbers)
    assert words.count(",") == max(0, sum(i - 1 not in numbers for i in numbers) - 1)


def test_words_of_numbers():
    assert in_words([0, 1, 2, 4, 6, 7]) == "0-2,4,6-7" and in_words([]) == "" and in_words(range(3)) == "0-2"


# --- which tokens ---------------------------------------------------------------------------------------------------

VIDEO = fold(randn(1, 4, 4, 8, 6), 2, frame_patch=2)  # 2×4×3 tokens


@pytest.mark.parametrize("wire", [fold(randn(1, 4, 8, 6), 2), VIDEO], ids=["picture", "video"])
def test_chosen_tokens_are_a_mask_of_one_frame_s_cells(wire):
    assert torch.equal(selection(wire, ""), torch.ones(1, 4, 3))
    chosen = selection(wire, "0-1,11")
    assert chosen.shape == (1, 4, 3) and chosen.flatten().tolist() == [1, 1] + 9 * [0] + [1]
    assert line(TokensError, selection, wire, "12") == "selection: the grid has tokens 0 to 11, there is no token 12"
    assert torch.equal(edit.select(wire, 1, 2, 2, 1), torch.tensor([[0, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0]])[None].float())


@pytest.mark.parametrize("grid", [(4, 3), (2, 4, 3)])
def test_rectangles(grid):
    assert rectangle(grid, 1, 2, 2, 1) == (slice(2, 3), slice(1, 3)) and rectangle(grid, 1, 1, 0, 0) == (slice(1, 4), slice(1, 3))
    assert rectangle(grid, 0, 0, 3, 4) == (slice(0, 4), slice(0, 3))
    for wrong in ((-1, 0, 1, 1), (0, -1, 1, 1), (0, 0, 4, 1), (0, 0, 1, 5), (3, 0, 0, 1), (0, 4, 1, 0), (0, 0, -1, 1), (0, 0, 1, -1)):
        assert " are not all inside the grid of 3 columns and 4 rows" in line(TokensError, rectangle, grid, *wrong)


def test_a_mask_chooses_what_it_covers_by_more_than_half():
    mask = torch.zeros(1, 2, 4)
    mask[0, :, 0] = 1  # half of the first token
    wire = fold(torch.zeros(1, 1, 2, 4), 2)
    assert token_mask(mask, wire, 1).flatten().tolist() == [0, 0]
    mask[0, 0, 1] = 1
    assert token_mask(mask, wire, 1).flatten().tolist() == [1, 0]
    past = fold(torch.zeros(1, 1, 2, 3), 2)  # of a token that reaches past the picture only the part inside counts
    assert token_mask(torch.tensor([[[0.0, 0, 1], [0, 0, 1]]]), past, 2).flatten().tolist() == [0, 1] * 2
    assert torch.equal(token_mask(torch.tensor([[[0.0, 1]]]), {"hidden": 0, "tokens": past}, 1), torch.tensor([[[0.0], [1]]]))


# --- what moves along -----------------------------------------------------------------------------------------------

def prediction_of(dit, positive) -> dict:
    """Final Layer's answer, from tokens that know a start, a memory and a mask."""
    sigmas = dit.schedule(4)
    clean = dit.fold({"samples": randn(1, 4, 8, 6), "noise_mask": torch.rand(1, 8, 6)})
    noisy, _ = dit.add_noise(clean, sigmas, 0, 1)
    noisy["memory"] = {"x0": randn(1, 12, 16), "sigma": sigmas[0]}
    hidden = stages.position_embed(dit, stages.patch_embed(dit, stages.condition(dit, noisy, positive, None, sigmas, 0)))
    return stages.final_layer(dit, stages.run_blocks(dit, hidden))


def test_of_a_prediction_only_the_tokens_move(backbone, positive):
    prediction = prediction_of(backbone, positive)
    prediction["memory"] = {"x0": randn(1, 12, 16), "sigma": torch.tensor(1.0)}
    moved = edit.roll(prediction, 1, 0)
    assert not torch.equal(moved["tokens"], prediction["tokens"]) and moved["call"] is prediction["call"]
    for name in ("memory", "start", "noise_mask"):
        assert moved[name] is prediction[name]


def test_a_guided_prediction_is_one_part_and_no_more(backbone, positive, negative):
    sigmas, wire = backbone.schedule(4), backbone.fold({"samples": randn(2, 4, 8, 6)})
    hidden = stages.patch_embed(backbone, stages.condition(backbone, wire, positive, negative, sigmas, 0))
    prediction = stages.final_layer(backbone, stages.position_embed(backbone, hidden))
    masks = torch.zeros(2, 4, 3)
    masks[0, 0], masks[1, 3] = 1, 1
    scaled = edit.scale(prediction, 0.0, masks)["tokens"].unflatten(1, (4, 3))
    assert not scaled[[0, 2], 0].any() and not scaled[[1, 3], 3].any() and scaled[[0, 2], 3].all() and scaled[[1, 3], 0].all()
    guided = {**prediction, "tokens": prediction["tokens"][:2], "guided": True}
    scaled = edit.scale(guided, 0.0, masks)["tokens"].unflatten(1, (4, 3))
    assert not scaled[0, 0].any() and not scaled[1, 3].any() and scaled[0, 3].all() and scaled[1, 0].all()


def test_the_clean_latent_of_a_model_s_own_sampling_moves_as_its_tokens_do():
    wire = fold(randn(1, 4, 8, 6), 2)
    wire["start"] = {"clean": wire["tokens"], "noise": wire["tokens"] * 2, "seed": 1, "latent": unfold(wire)}
    start = edit.roll(wire, 1, 1)["start"]
    assert torch.equal(start["latent"], unfold(wire).roll((2, 2), (2, 3))) and torch.equal(start["clean"] * 2, start["noise"])
    assert start["seed"] == 1 and start.keys() == wire["start"].keys()


@pytest.mark.parametrize("mask", [None, torch.ones(1, 4, 3)])
def test_a_shuffle_is_of_its_seed(mask):
    wire = fold(randn(1, 4, 8, 6), 2)
    assert torch.equal(edit.shuffle(wire, 5, mask)["tokens"], edit.shuffle(wire, 5, mask)["tokens"])
    assert not torch.equal(edit.shuffle(wire, 5, mask)["tokens"], edit.shuffle(wire, 6, mask)["tokens"])


def test_rectangles_that_touch_are_exchanged_and_those_that_overlap_are_not():
    wire = fold(torch.arange(12.0).view(1, 1, 4, 3), 1)
    swapped = edit.swap(wire, 0, 0, 1, 0, 1, 4)["tokens"].view(4, 3)
    assert torch.equal(swapped[0], torch.tensor([1.0, 0, 2])) and torch.equal(edit.swap(wire, 0, 1, 0, 2, 3, 1)["tokens"].view(4, 3)[1:3, 0], torch.tensor([6.0, 3]))
    for corners in ((0, 0, 1, 1), (1, 1, 0, 0), (1, 2, 0, 2), (0, 0, 0, 1), (1, 0, 1, 1)):
        assert "overlap" in line(TokensError, edit.swap, wire, *corners, 2, 2)


def test_one_token_is_that_of_its_row_and_column_by_default_the_first():
    wire = fold(torch.arange(12.0).view(1, 1, 4, 3), 1)
    assert edit.replace(wire, "one token")["tokens"].unique().tolist() == [0]
    assert edit.replace(wire, "one token", 2, 1)["tokens"].unique().tolist() == [7]
    assert edit.replace(VIDEO, "one token", 3, 2)["tokens"].unique(dim=1).shape[1] == 1


def test_a_video_rolls_within_each_frame():
    rolled = edit.roll(VIDEO, 1, -1)["tokens"].unflatten(1, (2, 4, 3))
    assert torch.equal(rolled, VIDEO["tokens"].unflatten(1, (2, 4, 3)).roll((1, -1), (2, 3)))


# --- what is said of them -------------------------------------------------------------------------------------------

def test_a_wire_is_described_by_its_arithmetic():
    assert describe(fold(torch.ones(1, 4, 64, 64), 2)) == "1024 tokens of 16 values: a 32×32 grid of 2×2 patches of a 64×64×4 latent"
    assert describe(fold(torch.ones(1, 4, 5, 8), 4)) == "4 tokens of 64 values: a 2×2 grid of 4×4 patches of a 5×8×4 latent, padded to 8×8"
    assert describe(fold(torch.ones(1, 4, 8, 5), 4)).endswith("latent, padded to 8×8")
    assert describe(fold_image(torch.ones(1, 4, 6, 3), 2)) == "6 tokens of 12 values: a 2×3 grid of 2×2 patches of a 4×6×3 image"
    assert fold_image(torch.ones(1, 4, 6, 3), 2)["pixels"] is True
    assert describe(VIDEO) == "24 tokens of 32 values: a 2×4×3 grid of 2×2×2 patches of a 4×8×6×4 latent"


def test_a_grey_picture_is_the_mean_of_the_channels_of_the_first_picture_and_frame():
    latent = randn(2, 4, 8, 6)
    wire = fold(latent, 2)
    grey = grey_picture(wire, wire["tokens"])
    mean = latent[0].mean(0)
    assert grey.shape == (8, 6, 3) and grey.min() == 0 and grey.max() == 1
    torch.testing.assert_close(grey, ((mean - mean.min()) / (mean.max() - mean.min()))[..., None].expand(-1, -1, 3))
    mean = unfold(VIDEO)[0].mean(0)[0]
    torch.testing.assert_close(grey_picture(VIDEO, VIDEO["tokens"])[..., 1], (mean - mean.min()) / (mean.max() - mean.min()))
    assert not grey_picture(wire, torch.ones_like(wire["tokens"])).any()
    torch.testing.assert_close(grey_picture(wire, wire["tokens"] / 100), grey, atol=1e-4, rtol=1e-4)  # however faint


# --- latents and their space ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 3, 2, 4, 6)])
def test_a_model_s_space_is_shifted_scaled_and_divided_channel_by_channel(shape):
    kind = latent_format(torch.tensor([2.0, 3, 4]), torch.tensor([0.5, -1, 0]), torch.tensor([1.0, 2, 8]))
    latent = randn(*shape)
    there = into_dit_space(latent, kind)
    for channel, (scale, shift, std) in enumerate(zip(*(kind[name].tolist() for name in ("scale", "shift", "std")))):
        torch.testing.assert_close(there[:, channel], (latent[:, channel] - shift) * scale / std)
    torch.testing.assert_close(out_of_dit_space(there, kind), latent)
    assert not into_dit_space(torch.zeros(shape), kind).any()  # an empty latent stays empty
    assert torch.equal(latent_format(torch.ones(2), torch.zeros(2))["std"], torch.ones(2))
    for name in kind:
        assert not same_format(kind, {**kind, name: kind[name] + 1})
    assert same_format(kind, {name: value.clone() for name, value in kind.items()})


@pytest.mark.parametrize("latent,patch_size,frames,says", [
    (torch.ones(4, 8, 8), 2, 1, "a latent is [B, C, H, W], or [B, C, T, H, W] with frames, not [4, 8, 8]"),
    (torch.ones(1, 4, 8, 8), 0, 1, "patch_size is at least 1, not 0"),
    (torch.ones(1, 4, 3, 8), 4, 1, "latent height 3 is smaller than patch_size 4"), (torch.ones(1, 4, 8, 3), 4, 1, "latent width 3 is smaller than patch_size 4"),
    (torch.ones(1, 4, 5, 8, 8), 2, 2, "5 latent frames are not a multiple of the 2 frames in a patch of this model"),
    (torch.tensor([1.0, float("nan"), float("inf"), 2]).view(1, 1, 2, 2), 1, 1, "the latent holds 2 values that are NaN or infinite")])
def test_a_latent_that_can_t_be_cut_says_why(latent, patch_size, frames, says):
    assert line(TokensError, check_latent, latent, patch_size, frames) == says


def test_latents_of_exactly_one_patch_are_cut():
    for latent, frames in ((torch.ones(1, 4, 4, 4), 1), (torch.ones(1, 4, 4, 4, 4), 2)):
        check_latent(latent, 4, frames)
    assert fold(torch.ones(1, 4, 4, 4), 4)["grid"] == (1, 1)


def test_empty_latents_take_the_model_s_channels():
    kind = latent_format(torch.ones(16), torch.ones(16))
    assert fold(torch.zeros(2, 4, 4, 6), 2, kind)["tokens"].shape == (2, 6, 64)
    assert fold(torch.zeros(2, 4, 2, 4, 6), 2, kind, 2)["channels"] == 16
    assert line(TokensError, fold, torch.ones(1, 4, 4, 4), 2, kind) == "the model's latents have 16 channels, this one has 4"


def test_tokens_cut_otherwise_are_told_apart():
    a, b, c = (fold(randn(1, 4, *size), p) for size, p in (((8, 6), 2), ((6, 8), 2), ((16, 12), 4)))
    check_cut_alike(a, {**a}, "a", "b")
    assert line(StagesError, check_cut_alike, a, b, "x", "source") == "x has a 4×3 grid of patches of 2, source a 3×4 grid of patches of 2"
    assert line(StagesError, check_cut_alike, a, c, "x", "source") == "x has a 4×3 grid of patches of 2, source a 4×3 grid of patches of 4"


def test_other_values_drop_a_solver_s_memory_unless_they_bring_one():
    wire = {**fold(randn(1, 4, 4, 4), 2), "memory": {"x0": 1}}
    assert "memory" not in with_tokens(wire, wire["tokens"]) and with_tokens(wire, wire["tokens"], {"x0": 2})["memory"] == {"x0": 2}
    assert "memory" not in edit.scale(wire, 2.0) and edit.roll({**wire, "memory": {"x0": wire["tokens"], "sigma": 1}}, 1, 0)["memory"]["sigma"] == 1


# --- other patch sizes ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size,method,says", [
    (4, "nearest", "patch_method is one of auto, native, resample, pi_resize, not 'nearest'"), (0, "auto", "patch_size is at least 1, not 0"),
    (3, "native", "it knows patch sizes 2, 6, not 3: patch_method native can't read it, resample or pi_resize may"),
    (3, "resample", "resample takes multiples of it's own patch size 2, not 3: pi_resize takes any"),
    (5, "resample", "resample takes multiples of it's own patch size 2, not 5: pi_resize takes any")])
def test_sizes_that_no_method_serves_say_which_would(size, method, says):
    assert line(BackboneError, choose_method, (2, 6), size, method, "it") == says


@pytest.mark.parametrize("size,method,chosen", [(1, "pi_resize", "pi_resize"), (2, "resample", "native"), (6, "resample", "resample"), (6, "pi_resize", "pi_resize"),
                                                (6, "native", "native"), (6, "auto", "native"), (4, "auto", "resample"), (3, "auto", "pi_resize"),
                                                (1, "auto", "pi_resize")])
def test_what_serves_a_size_of_a_model_that_has_two(size, method, chosen):
    assert choose_method((2, 6), size, method) == chosen
    assert line(BackboneError, choose_method, (2,), 3, "native").startswith("the model knows patch sizes 2, not 3")


@pytest.mark.parametrize("method,own,other", [("resample", 2, 4), ("resample", 1, 3), ("pi_resize", 2, 4), ("pi_resize", 2, 3), ("pi_resize", 4, 2)])
def test_the_gain_is_what_down_does_to_white_noise(method, own, other):
    reading = Reading(method, own, other)
    noise = randn(1, 4000, other * other)
    assert reading.gain == pytest.approx(reading.down(noise).std().item(), rel=0.03)
    torch.testing.assert_close(patch_fit(own, other), torch.linalg.pinv(patch_resize(own, other)), atol=1e-5, rtol=1e-4)


def test_resampled_patches_are_smooth_across_their_borders():
    """A slope over the whole latent comes back as a slope, and not as steps at the patches' borders."""
    slope = torch.arange(8.0).expand(1, 1, 8, 8)
    reading, coarse = Reading("resample", 1, 2), fold(slope, 1)
    up = unfold({**fold(torch.zeros(1, 1, 16, 16), 2), "tokens": reading.up(coarse["tokens"], (8, 8))})
    steps = up[0, 0, 8].diff()
    assert (steps[2:-2] > 0.2).all() and (steps[2:-2] < 0.8).all()
    wire = reading.coarse(fold(slope.repeat_interleave(2, 2).repeat_interleave(2, 3), 2))
    assert wire["patch_size"] == 1 and wire["size"] == (8, 8) and wire["grid"] == (8, 8) and torch.equal(wire["tokens"], coarse["tokens"])


def test_cutting_anew_changes_the_cut_alone():
    wire = {**VIDEO, "memory": {"x0": VIDEO["tokens"] + 1, "sigma": torch.tensor(0.5)}, "start": {"clean": VIDEO["tokens"], "noise": -VIDEO["tokens"], "seed": 4}}
    assert repatch(wire, 2) is wire
    one = repatch(wire, 1)
    assert one["grid"] == (2, 8, 6) and one["patch_size"] == 1 and one["frame_patch"] == 2 and one["size"] == wire["size"]
    assert torch.equal(unfold(one), unfold(wire)) and torch.equal(one["memory"]["x0"], one["tokens"] + 1) and one["memory"]["sigma"] == 0.5
    assert torch.equal(one["start"]["clean"], one["tokens"]) and torch.equal(one["start"]["noise"], -one["tokens"]) and one["start"]["seed"] == 4
    assert "memory" not in repatch(VIDEO, 1) and "start" not in repatch(VIDEO, 1)
