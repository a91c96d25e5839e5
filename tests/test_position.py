"""Position tables equal diffusers', at every patch size they stand in the middle of what they cover, and can be read back."""

from diffusers.models.embeddings import PatchEmbed, get_2d_sincos_pos_embed
from hypothesis import example, given, settings
from hypothesis import strategies as st
import pytest
import torch

from dit_blocks.dit_impl.model.position import cropped_positions, grid_positions, sincos_2d, table_coordinates


@pytest.mark.parametrize("grid", [(6, 6), (5, 8), (1, 1), (12, 12), (12, 3)])
@pytest.mark.parametrize("table, base", [(12, 4), (12, 12), (15, 4)])
def test_cropped_table_is_diffusers_sd3(grid, table, base):
    embed = PatchEmbed(height=2 * base, width=2 * base, patch_size=2, in_channels=4, embed_dim=32, pos_embed_max_size=table)
    expected = embed.cropped_pos_embed(2 * grid[0], 2 * grid[1])[0]
    torch.testing.assert_close(sincos_2d(32, *cropped_positions(grid, 1, table, base / table)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("base", [4, 7, 16])
def test_plain_table_is_diffusers_dit(base):
    expected = get_2d_sincos_pos_embed(48, base, base_size=base).float()
    torch.testing.assert_close(sincos_2d(48, *grid_positions((base, base), base)), expected, rtol=0, atol=1e-6)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 4))
def test_a_coarser_grid_stands_in_the_middle_of_the_patches_it_merges(rows, columns, scale):
    base = scale * rows
    fine = grid_positions((base, scale * columns), base)
    coarse = grid_positions((rows, columns), base)
    for f, c in zip(fine, coarse):
        torch.testing.assert_close(c, f.view(-1, scale).mean(1))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(2, 4), st.integers(0, 30), st.sampled_from([0.25, 1 / 3, 1.0]))
def test_a_coarser_crop_stands_in_the_middle_of_the_patches_it_merges(rows, columns, scale, spare, unit):
    table = scale * max(rows, columns) + spare
    fine = cropped_positions((scale * rows, scale * columns), 1, table, unit, -16)
    coarse = cropped_positions((rows, columns), scale, table, unit, -16)
    for f, c in zip(fine, coarse):
        torch.testing.assert_close(c.double(), f.double().view(-1, scale).mean(1), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 40), st.sampled_from([16, 48, 96]), st.floats(0.05, 1.5), st.floats(-40, 40))
@example(side=2, width=16, unit=1.0, start=1.9921875)
def test_the_coordinates_of_a_stored_table_are_found(side, width, unit, start):
    axis = torch.arange(side, dtype=torch.float64) * unit + start
    found = table_coordinates(sincos_2d(width, axis, axis))

    def either(value: float) -> list[float]:
        """What bfloat16 can't tell from a whole number may be taken for it."""
        return [value, round(value)] if abs(value - round(value)) < 0.008 else [value]
    assert found[0] == side
    assert any(found[1] == pytest.approx(one, abs=1e-3) for one in either(start))
    assert any(found[2] == pytest.approx(one / side, abs=1e-3) for one in either(unit * side))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("side, unit, start", [(192, 1 / 4, -16), (96, 1 / 3, 0), (384, 1 / 4, -40), (16, 1, 0)])
def test_round_coordinates_are_found_exactly_in_half_precision(dtype, side, unit, start):
    axis = torch.arange(side, dtype=torch.float64) * unit + start
    assert table_coordinates(sincos_2d(64, axis, axis).to(dtype)) == (side, start, round(unit * side) / side)


@pytest.mark.parametrize("spoil", [
    lambda table: table[:-1], lambda table: table[:, :-2], lambda table: table + 0.01, lambda table: table.flip(0),
    lambda table: torch.randn_like(table), lambda table: table * float("nan"), lambda table: table[:0]])
def test_a_table_that_no_grid_gives_is_refused(spoil):
    axis = torch.linspace(0, 5, 6) ** 1.5
    with pytest.raises(ValueError, match="position|table"):
        table_coordinates(spoil(sincos_2d(16, axis, axis)))
