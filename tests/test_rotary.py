"""Rotary positions: how far pairs of numbers turn, and what each way of fitting a larger grid changes."""

import math

import pytest
import torch

from dit_blocks.dit_impl.model.rotary import AXES, SCALED, Placing, moved, table, turns

WIDTH, THETA = 56, 10000.0
OWN = THETA ** -(torch.arange(0, WIDTH, 2, dtype=torch.float64) / WIDTH)


@pytest.mark.parametrize("mode", SCALED)
def test_a_scale_of_one_turns_as_the_model(mode):
    torch.testing.assert_close(turns(WIDTH, THETA, Placing(mode)), OWN)
    assert not Placing(mode).changes_turns and Placing(mode, scale=2.0).changes_turns and not Placing("shifted", scale=2.0).changes_turns


def test_what_scaling_does_to_fine_and_coarse_turns():
    made = {mode: turns(WIDTH, THETA, Placing(mode, scale=4.0)) / OWN for mode in SCALED}
    torch.testing.assert_close(made["scaled"], torch.full_like(OWN, 0.25))
    for mode in ("NTK", "YaRN"):
        assert made[mode][0] == 1 and made[mode][-1].item() == pytest.approx(0.25) and (made[mode].diff() <= 1e-12).all()
    over = 64 * OWN / math.tau  # whole turns over the trained grid
    assert (made["YaRN"][over <= 1] == 0.25).all() and (made["YaRN"][over >= 8] == 1).all()


def test_dype_is_ntk_that_fades_with_the_noise():
    at = {time: turns(WIDTH, THETA, Placing("DyPE", scale=4.0, time=time)) for time in (0.0, 0.5 ** 0.5, 1.0)}
    torch.testing.assert_close(at[0.0], OWN)
    torch.testing.assert_close(at[0.5 ** 0.5], turns(WIDTH, THETA, Placing("NTK", scale=4.0)))
    assert (at[1.0][1:] < at[0.5 ** 0.5][1:]).all()


def grid(h: int, w: int, frames: int = 1):
    places = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float32) for side in (frames, h, w)))
    return torch.cat([torch.full((2, 3), 9.0), places])[None]  # two tokens of text first


def test_only_the_picture_s_places_are_moved():
    ids, picture = grid(3, 4), slice(2, 14)
    made = {mode: moved(ids, picture, Placing(mode, seed=1, shift=5.0)) for mode in ("none", "shuffled", "1-D", "shifted", "scaled")}
    assert all(torch.equal(one[:, :2], ids[:, :2]) for one in made.values()) and torch.equal(made["scaled"], ids)
    assert not made["none"][:, picture].any() and made["1-D"][0, picture, 2].tolist() == list(range(12)) and not made["1-D"][0, picture, 1].any()
    assert torch.equal(made["shifted"][:, picture, 1:], ids[:, picture, 1:] + 5) and torch.equal(made["shifted"][..., 0], ids[..., 0])
    rows = lambda one: sorted(map(tuple, one[0, picture].tolist()))  # noqa: E731
    assert rows(made["shuffled"]) == rows(ids) and not torch.equal(made["shuffled"], ids)
    film = moved(grid(2, 2, 3), slice(2, 14), Placing("1-D"))
    assert film[0, 2:, 2].tolist() == list(range(12)) and not film[0, 2:, 0].any()
    assert torch.equal(ids, grid(3, 4))  # which is left as it was


def test_a_table_turns_rows_and_columns_only():
    ids, widths = grid(3, 4), [16, WIDTH, WIDTH]
    plain, scaled = (table(ids, widths, THETA, Placing("scaled", scale=s)) for s in (1.0, 2.0))
    assert plain.shape == (1, 1, 14, 64, 2, 2) and torch.equal(plain[..., :8, :, :], scaled[..., :8, :, :])
    torch.testing.assert_close(scaled, torch.cat([plain[..., :8, :, :], table(ids / 2, widths, THETA, Placing("scaled"))[..., 8:, :, :]], dim=-3))
    identity = (plain.transpose(-1, -2) @ plain) - torch.eye(2)
    assert identity.abs().max() < 1e-5 and AXES == (1, 2)
    sharper = table(ids, widths, THETA, Placing("YaRN", scale=4.0))
    length = (sharper.transpose(-1, -2) @ sharper)[..., 0, 0].sqrt()
    torch.testing.assert_close(length, torch.full_like(length, 0.1 * math.log(4) + 1))
