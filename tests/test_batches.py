"""Batches: every picture has its own noise, mask, text and shuffle; uncond stays beside uncond; every one of several prompts counts."""

from conftest import conditioning
from hypothesis import given, settings
from hypothesis import strategies as st
from numbers_and_errors import randn
import pytest
import torch

from dit_blocks.dit_impl.step import stages
from dit_blocks.dit_impl.step.guidance import guide
from dit_blocks.dit_impl.tokens import edit
from dit_blocks.dit_impl.tokens.patch import patchify, unpatchify
from dit_blocks.dit_impl.tokens.select import mask_tokens, rows_beside, token_mask
from dit_blocks.dit_impl.tokens.wire import fold, noise_like, unfold

# --- noise ----------------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(numbers=st.lists(st.integers(0, 5), min_size=1, max_size=4), seed=st.integers(0, 2 ** 31), patch_size=st.sampled_from([1, 2, 3]))
def test_each_picture_s_noise_is_that_of_its_number(numbers, seed, patch_size):
    wire = fold(torch.zeros(len(numbers), 4, 6, 5), patch_size, batch_index=numbers)
    drawn = unfold({**wire, "tokens": noise_like(wire, seed)})
    generator = torch.Generator().manual_seed(seed)
    whole = torch.cat([torch.randn(1, 4, 6, 5, generator=generator) for _ in range(6)])  # as ComfyUI draws it: one picture after another
    assert torch.equal(drawn, whole[numbers])


def test_the_numbers_of_a_batch_reach_add_noise(backbone):
    latent, sigmas = {"samples": torch.zeros(1, 4, 8, 8)}, backbone.schedule(4)
    first, second = (backbone.add_noise(backbone.fold({**latent, "batch_index": [i]}), sigmas, 0, 7)[1]["tokens"] for i in (0, 1))
    assert torch.equal(first, backbone.add_noise(backbone.fold(latent), sigmas, 0, 7)[1]["tokens"]) and not torch.allclose(first, second, atol=0.1)


# --- masks ----------------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(masks=st.integers(1, 3), batch=st.integers(1, 4), patch_size=st.sampled_from([1, 2, 3]), seed=st.integers(0, 99))
def test_the_mask_of_a_token_is_that_of_its_picture_and_place(masks, batch, patch_size, seed):
    mask = torch.rand(masks, 6, 9, generator=torch.Generator().manual_seed(seed))
    wire = fold(torch.zeros(batch, 4, 6, 9), patch_size, noise_mask=mask)
    laid_out = unpatchify(mask_tokens(wire), patch_size, (6, 9))
    for picture in range(batch):
        torch.testing.assert_close(laid_out[picture], mask[picture % masks].expand(4, -1, -1))


def test_tokens_without_a_mask_have_none():
    assert mask_tokens(fold(torch.zeros(1, 4, 6, 9), 3)) is None


CORNERS = torch.zeros(2, 4, 3)  # of two pictures: the upper left tokens of one, the lower right ones of the other
CORNERS[0, :2, :2] = CORNERS[1, 2:, 1:] = 1
ODD = torch.cat([CORNERS[:1], 1 - CORNERS[:1]])  # 4 tokens of one, 8 of the other


def hidden_of(dit, positive, negative, batch, seed=0) -> dict:
    wire = dit.fold({"samples": randn(batch, 4, 8, 6, seed=seed)}, 2)
    return stages.patch_embed(dit, stages.condition(dit, wire, positive, negative, dit.schedule(4), 0))


@pytest.mark.parametrize("kind", ["raw", "hidden"])
@pytest.mark.parametrize("masks", [CORNERS, ODD], ids=["corners", "odd"])
def test_each_picture_is_shuffled_by_its_own_mask(backbone, positive, negative, kind, masks):
    x = fold(randn(2, 4, 8, 6), 2) if kind == "raw" else hidden_of(backbone, positive, negative, 2)
    before, after = edit.values(x), edit.values(edit.shuffle(x, 5, masks))
    moved = (before != after).any(-1)
    for row in range(len(before)):
        inside = masks[row % 2].flatten().bool()
        assert not moved[row, ~inside].any() and moved[row, inside].any()
        among = {tuple(token) for token in before[row, inside].tolist()}
        assert {tuple(token) for token in after[row, inside].tolist()} == among
    if kind == "hidden":  # uncond and cond of one picture go the same way
        order = [[(before[row] == token).all(-1).nonzero().item() for token in after[row]] for row in range(4)]
        assert order[:2] == order[2:]


@settings(max_examples=40, deadline=None)
@given(masks=st.integers(1, 3), batch=st.integers(1, 4), scale=st.sampled_from([1, 2, 8]), frames=st.sampled_from([None, 1, 2]), seed=st.integers(0, 99))
def test_a_token_is_chosen_where_its_own_picture_s_mask_covers_most_of_it(masks, batch, scale, frames, seed):
    mask = (torch.rand(masks, 3 * scale, 4 * scale, generator=torch.Generator().manual_seed(seed)) < 0.6).float()
    wire = fold(torch.zeros(batch, 1, 6, 8) if frames is None else torch.zeros(batch, 1, frames, 6, 8), 2)
    chosen = token_mask(mask, wire, batch)
    share = mask.view(masks, 3, scale, 4, scale).mean((2, 4)).flatten(1)
    wanted = (share * scale ** 2 > scale ** 2 / 2 + 1e-3).float().repeat(1, frames or 1)
    assert torch.equal(chosen, wanted[torch.arange(batch) % masks][..., None])


# --- uncond beside uncond -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("theirs,count,ours,samples,rows", [
    (("cond",), 1, ("cond",), 3, [0, 0, 0]),
    (("cond",), 2, ("cond",), 3, [0, 1, 0]),
    (("uncond", "cond"), 2, ("uncond", "cond"), 2, [0, 1, 2, 3]),
    (("uncond", "cond"), 1, ("uncond", "cond"), 2, [0, 0, 1, 1]),
    (("uncond", "cond"), 2, ("cond",), 2, [2, 3]),          # a guided run into a branch of its own
    (("uncond", "cond"), 2, ("uncond",), 2, [0, 1]),
    (("cond",), 2, ("uncond", "cond"), 2, [0, 1, 0, 1]),    # a branch into a guided run: all there is
    (("uncond", "cond", "cond"), 1, ("uncond", "cond", "cond"), 2, [0, 0, 1, 1, 2, 2]),
    (("uncond", "cond", "cond"), 1, ("uncond", "cond"), 1, [0, 1])])
def test_rows_stand_beside_those_of_their_own_kind(theirs, count, ours, samples, rows):
    assert rows_beside(theirs, count, ours, samples) == rows


def test_a_graft_in_a_guided_step_changes_each_part_by_its_own(backbone, positive, negative):
    mine, other = (hidden_of(backbone, positive, negative, 2, seed) for seed in (0, 1))
    other = stages.run_blocks(backbone, stages.position_embed(backbone, other), "0")  # where uncond and cond have parted
    (uncond, cond), x = other["hidden"].x.chunk(2), mine["hidden"].x
    assert not torch.allclose(uncond, cond, atol=1e-3)
    whole = stages.run_blocks(backbone, mine, "", graft=other)["hidden"].x
    assert torch.equal(whole, torch.cat([uncond, cond]))
    grafted = stages.run_blocks(backbone, mine, "", graft=other, mask=CORNERS)["hidden"].x
    chosen = CORNERS.flatten(1).bool().repeat(2, 1)
    assert torch.equal(grafted[chosen], torch.cat([uncond, cond])[chosen]) and torch.equal(grafted[~chosen], x[~chosen])
    alone = hidden_of(backbone, positive, None, 2)
    assert torch.equal(stages.run_blocks(backbone, alone, "", graft=other)["hidden"].x, cond)


@pytest.mark.parametrize("change", [lambda a, b: edit.mix(a, b, 1.0), lambda a, b: edit.replace(a, "same place", source=b)], ids=["mix", "replace"])
def test_tokens_of_another_guided_step_come_part_by_part(backbone, positive, negative, change):
    mine, other = hidden_of(backbone, positive, negative, 2), hidden_of(backbone, positive, negative, 1, seed=1)
    other = stages.run_blocks(backbone, stages.position_embed(backbone, other), "0")
    uncond, cond = other["hidden"].x.chunk(2)
    assert torch.equal(edit.values(change(mine, other)), torch.cat([uncond, uncond, cond, cond]))


# --- several prompts ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_every_one_of_several_prompts_counts_alike(backbone, cfg):
    positives, negatives = [conditioning(i) for i in (1, 2, 3)], [conditioning(i) for i in (4, 5)]
    wire, sigma = backbone.fold({"samples": randn(2, 4, 8, 6)}), torch.tensor(0.7)

    def x0(positive, negative=None, strength=1.0):
        return backbone.denoiser(wire, positive, negative, strength)(wire["tokens"], sigma)
    cond = torch.stack([x0(one) for one in positives]).mean(0)
    uncond = torch.stack([x0(one) for one in negatives]).mean(0)
    together = x0(sum(positives, []), sum(negatives, []), cfg)
    torch.testing.assert_close(together, uncond + (cond - uncond) * cfg, atol=1e-5, rtol=1e-4)
    assert all(not torch.allclose(x0(sum(positives, []), None), x0(one), atol=1e-3) for one in positives)


def test_every_one_of_several_prompts_counts_by_stages_too(backbone):
    positive, negative = conditioning(1) + conditioning(2), conditioning(4) + conditioning(5)
    sigmas, wire = backbone.schedule(4), backbone.fold({"samples": randn(2, 4, 8, 6)})
    hidden = stages.condition(backbone, wire, positive, negative, sigmas, 1)
    assert hidden["call"].layout == ("uncond", "uncond", "cond", "cond")
    hidden = stages.run_blocks(backbone, stages.position_embed(backbone, stages.patch_embed(backbone, hidden)))
    x0 = guide(stages.final_layer(backbone, hidden), 3.0)["tokens"]
    whole = backbone.denoise(wire, sigmas, positive, negative, 3.0, start_step=1, end_step=2)[1]["tokens"]
    assert torch.equal(x0, whole)


def test_each_picture_of_a_batch_reads_its_own_text(backbone):
    three, wire = conditioning(1, 3), backbone.fold({"samples": randn(5, 4, 8, 6)})
    together = backbone.denoiser(wire, three)(wire["tokens"], torch.tensor(0.7))
    for i in range(5):
        one = [[three[0][0][i % 3:i % 3 + 1], {"pooled_output": three[0][1]["pooled_output"][i % 3:i % 3 + 1]}]]
        single = {**wire, "tokens": wire["tokens"][i:i + 1]}
        torch.testing.assert_close(backbone.denoiser(single, one)(single["tokens"], torch.tensor(0.7)), together[i:i + 1], atol=1e-5, rtol=1e-4)


# --- frames ---------------------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(batch=st.integers(1, 2), channels=st.integers(1, 3), frames=st.integers(1, 3), frame_patch=st.integers(1, 3), h=st.integers(1, 3),
       w=st.integers(1, 3), p=st.integers(1, 3))
def test_a_video_s_token_is_channel_frame_row_column_of_its_place(batch, channels, frames, frame_patch, h, w, p):
    video = torch.arange(batch * channels * frames * frame_patch * h * p * w * p).view(batch, channels, frames * frame_patch, h * p, w * p).float()
    tokens = patchify(video, p, frame_patch)
    wanted = [[video[b, c, t * frame_patch + f, i * p + row, j * p + column]
               for c in range(channels) for f in range(frame_patch) for row in range(p) for column in range(p)]
              for b in range(batch) for t in range(frames) for i in range(h) for j in range(w)]
    assert torch.equal(tokens.flatten(0, 1), torch.tensor(wanted))
    assert torch.equal(unpatchify(tokens, p, tuple(video.shape[2:]), frame_patch), video)
