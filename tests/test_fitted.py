"""Costs that were counted on shapes: polynomials that are checked, and tensors that have a shape and no values."""

import json

import pytest
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from dit_blocks.dit_impl.cost import answers
from dit_blocks.dit_impl.cost.arithmetic import Pass, budget, with_and_without_patches
from dit_blocks.dit_impl.cost.fitted import CountedNow, fitted, through, value_at
from dit_blocks.dit_impl.cost.pictures import by_stage, table, why_patches
from dit_blocks.dit_impl.errors import BackboneError
from dit_blocks.nodes.comfyui.blank import LARGEST, Blank, Counting, blank

# --- polynomials --------------------------------------------------------------------------------------------------------

def model(count, **given) -> CountedNow:
    return CountedNow("a model", 1, 1, given.pop("patch_size", 2), 4, 10, guided=False, count=count, **given)


def transformer(frames, grid, cells) -> Pass:
    n = frames * grid[0] * grid[1]
    return Pass(n + 7, 3 * n * n, 5 * n + 11, 2 * n, 3 * n * n + 4 * n, 6 * n, (("blocks.0", 3 * n * n), ("blocks.1", 4 * n)))


def halving(frames, grid, cells) -> Pass:
    """As a UNet: one level has half the rows and columns, rounded up."""
    n, half = grid[0] * grid[1], -(-grid[0] // 2) * -(-grid[1] // 2)
    return Pass(half, half * half, n + half, 0, half, n)


@pytest.mark.parametrize("points,found", [
    ([(1, 6), (2, 11), (4, 27), (8, 83)], (3, 2, 1, 1)), ([(2, 1), (4, 4), (8, 16), (6, 9)], (0, 0, 1, 4)), ([(1, 5), (2, 5), (3, 5)], (5, 0, 0, 1)),
    ([(1, 6), (2, 11), (4, 27), (8, 84)], None), ([(1, 1), (2, 8), (4, 64), (8, 512)], None)])
def test_a_polynomial_goes_through_all_points_or_there_is_none(points, found):
    assert through(points) == found
    assert found is None or all(value_at(found, n) == value for n, value in points)


def test_a_transformer_is_known_at_every_size_and_length():
    for frames in (1, 5):
        found = fitted(model(transformer, frames=frames))
        assert (found.multiple, found.blocks, found.frames, found.here) == (1, 2, frames, None)
        for grid in ((1, 1), (13, 7), (64, 64)):
            assert found.at_once(grid)[:6] == transformer(frames, grid, None)[:6]


def test_what_halves_its_tokens_is_known_where_they_can_be_halved():
    now = model(halving, patch_size=1)
    found = fitted(now)
    assert found.multiple == 8 and found.at_once((16, 40))[:6] == halving(1, (16, 40), None)[:6]
    with pytest.raises(ValueError, match="^what a model costs is known where rows and columns of tokens are multiples of 8, not for 9×7: "):
        found.at_once((9, 7))
    here = fitted(now, (9, 7))  # where it ran
    assert here.at_once((9, 7))[:6] == halving(1, (9, 7), None)[:6] and here.at_once((16, 40)) == found.at_once((16, 40))


@pytest.mark.parametrize("count", [lambda frames, grid, cells: Pass(*[grid[0] * grid[1] * sum(grid)] * 6),
                                   lambda frames, grid, cells: Pass(*[grid[0] * grid[1] + 100 * (grid[0] * 4 == grid[1])] * 6),
                                   lambda frames, grid, cells: Pass(*[(grid[0] * grid[1]) ** 3] * 6)], ids=["rows and columns", "wide", "cube"])
def test_no_polynomial_no_cost_but_where_it_ran(count):
    with pytest.raises(BackboneError, match="^the cost of a model is no polynomial in its tokens$"):
        fitted(model(count))
    found = fitted(model(count), (10, 6))
    assert found.here == (5, 3) and found.at_once((5, 3))[:6] == count(1, (5, 3), None)[:6]
    with pytest.raises(ValueError, match="is known at the size it ran at, not for 8×8"):
        found.at_once((8, 8))


def one_size(frames, grid, cells) -> Pass:
    """As with a prompt that goes with one latent."""
    if cells != (9, 7):
        raise BackboneError("sizes of tensors must match")
    return transformer(frames, grid, cells)


def test_a_prompt_that_goes_with_one_latent():
    assert budget(model(one_size), 56, 72).macs == sum(transformer(1, (5, 4), None)[1:3])
    found = fitted(model(one_size), (9, 7))
    assert found.multiple == 0 and found.at_once((5, 4))[:6] == transformer(1, (5, 4), None)[:6]
    with pytest.raises(BackboneError, match="^sizes of tensors must match$"):
        fitted(model(one_size))
    rows = with_and_without_patches(model(one_size), 56, 72)
    assert rows[0] and rows[1:] == [None] * 3 and len(why_patches(model(one_size), 56, 72)) == 1
    with pytest.raises(BackboneError, match="^sizes of tensors must match$"):
        with_and_without_patches(model(one_size), 64, 64)


def test_the_editor_is_told_of_films():
    found = fitted(model(transformer, frames=3, frame_patch=2))
    told = answers.cost_answer(json.loads(json.dumps({"shape": answers.plain(found), "size": [16, 12], "walk": {"steps": 2}})))
    assert told["sizes"][2]["tokens"] == told["walk"]["stretches"][0]["tokens"] == 3 * 8 * 6 and told["sizes"][2]["grid"] == (8, 6)
    assert told["sizes"][2]["flops"] == 2 * sum(transformer(3, (8, 6), None)[1:3]) == told["walk"]["flops"] // 2
    assert found.with_frames(7).frames == 4  # of two each
    one = budget(found, 96, 128)
    assert one.tokens == 144 and "144 (3×8×6)" in table([("a film", one)])
    with pytest.raises(ValueError, match="^what capture_blocks costs with a model is not known$"):
        answers.cost_answer({"shape": answers.plain(found), "size": [16, 12], "walk": {"steps": 2, "capture_blocks": True}})


def test_the_editor_is_told_of_no_cost_that_is_not_known():
    told = answers.cost_answer({"shape": answers.plain(fitted(model(halving, patch_size=1))), "size": [16, 32]})
    assert [p for p, one in told["sizes"].items() if "flops" in one] == [1, 2] and told["sizes"][3] == {
        "grid": (6, 11), "tokens": 66, "values": 36, "method": "resample"}


def test_a_shape_without_its_numbers_is_refused():
    shape = answers.plain(fitted(model(transformer)))
    for broken in ({"polynomials": []}, {"here": [2, 2]}):
        with pytest.raises(ValueError, match="^a fitted shape has 6 polynomials, or 6 numbers for a grid$"):
            answers.cost_answer({"shape": {**shape, **broken}, "size": [16, 16]})


def test_block_by_block():
    one = budget(model(transformer), 64, 32, batch=2)
    assert one.spent == (("blocks.0", 2 * 3 * 64), ("blocks.1", 2 * 4 * 8)) and one.blocks == sum(macs for _, macs in one.spent)
    lines = by_stage(one, "MACs").splitlines()
    assert lines == ["in the blocks 448 MAC (92.2%), after them 32 MAC (6.6%), elsewhere 6 MAC (1.2%)",
                     "blocks.0: 384 MAC (79.0%)", "blocks.1: 64 MAC (13.2%)"]


# --- tensors without values -----------------------------------------------------------------------------------------------

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.answer = nn.Conv2d(3, 8, 2, stride=2), nn.Linear(8, 12)

    def forward(self, x, text, mask):
        tokens = self.read(x).flatten(2).transpose(1, 2)
        rows = torch.zeros(len(x), tokens.shape[1] + text.shape[1], 8)
        rows[:, :tokens.shape[1]] = tokens
        rows[:, tokens.shape[1]:] = text
        kept = rows[:, torch.cat([torch.ones(tokens.shape[1], dtype=torch.bool), mask])]
        q = kept.view(len(x), -1, 2, 4).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)
        return self.answer(mixed[:, :tokens.shape[1]])


@pytest.mark.parametrize("side,kept", [(4, 3), (10, 1)])
def test_shapes_cost_what_values_do(side, kept):
    small, mask = Small(), torch.arange(5) < kept
    given = (torch.randn(2, 3, side, side), torch.randn(2, 5, 8), mask)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), torch.no_grad():
        answer = small(*given)
    x = blank(2, 3, side, side, picture=True)
    with torch.no_grad(), Counting() as counting:
        out = small(x, given[1], mask)
    assert isinstance(out, Blank) and out.shape == answer.shape and out.dtype == answer.dtype
    assert counting.flops == counter.get_total_flops() and counting.of_picture(out)
    n = (side // 2) ** 2 + kept
    assert counting.products == 2 * 2 * n * n * 8 * 2


def test_small_values_are_kept_until_something_without_is_written_into_them():
    x = blank(4)
    with Counting() as counting:
        kept, large = torch.arange(4), torch.zeros(LARGEST + 1)
        assert kept.sum().item() == 6 and (kept > 1).nonzero().tolist() == [[2], [3]] and isinstance(large, Blank)
        view = kept[1:]
        assert not counting.of_picture(kept)
        view.copy_(x[:3])
        with pytest.raises(RuntimeError):
            kept.sum().item()
        assert (kept + 1).shape == (4,) and isinstance(kept + 1, Blank)


def test_where_values_are_asked_for_there_is_an_error():
    x = blank(4)
    with Counting():
        for ask in (lambda: x.sum().item(), lambda: x[x > 0], lambda: bool(x.any()), lambda: x.tolist()):
            with pytest.raises((RuntimeError, NotImplementedError)):
                ask()
    with pytest.raises(RuntimeError, match="can't run on a tensor without values"):
        x + 1


def test_weights_are_never_read():
    weight = nn.Parameter(torch.ones(3, 3))
    with torch.no_grad(), Counting() as counting:
        x = torch.ones(2, 3) @ weight
        assert isinstance(x, Blank) and isinstance(weight * 2, Blank) and counting.flops == 2 * 2 * 3 * 3 and not counting.products
        assert (x @ x.T).shape == (2, 2) and counting.products == 2 * 2 * 2 * 3


def test_a_model_that_is_slow_to_count_is_counted_once():
    asked = []

    def count(*given) -> Pass:
        asked.append(given)
        return transformer(*given)
    found = fitted(model(count, slow=True), (32, 48))
    assert len(asked) == 1 and found.here == (16, 24) and not found.multiple
    assert budget(found, 48 * found.downscale, 32 * found.downscale).macs == budget(model(transformer), 48 * found.downscale, 32 * found.downscale).macs
    with pytest.raises(ValueError, match="is known at the size it ran at"):
        budget(found, 64, 64)
