"""Response Maps: single numbers of the tokens as maps, in standard deviations, from the smoothest to the roughest."""

import pytest
from test_inside import out
import torch

from dit_blocks.dit_impl.see.responses import roughness, standardised
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.nodes.pictures import ResponseMaps


def test_a_number_is_less_its_mean_in_standard_deviations():
    tokens = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert standardised(tokens).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_an_area_is_smoother_than_noise_and_a_chessboard_is_rougher():
    half, noise = torch.ones(16, 16), torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    half[:, 8:] = -1
    board = torch.tensor([[(-1.0) ** (row + column) for column in range(16)] for row in range(16)])
    smooth, middle, rough = roughness(torch.stack([half, noise, board])).tolist()
    assert smooth < 0.2 and middle == pytest.approx(2, abs=0.3) and rough == pytest.approx(4)


def test_maps_are_numbers_of_the_tokens():
    dit = load_embedded()[0]
    wire = dit.fold({"samples": torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(1))})
    image, maps = out(ResponseMaps, x=wire, count=64)
    known = (0.5 + standardised(wire["tokens"][0]) / 6).clamp(0, 1).T.reshape(64, 4, 6)
    assert image.shape[0] == 1 and maps.shape == (64, 4, 6)
    assert sorted(map(tuple, maps.flatten(1).tolist())) == sorted(map(tuple, known.flatten(1).tolist()))


def test_no_map_is_refused():
    wire = load_embedded()[0].fold({"samples": torch.zeros(1, 16, 8, 8)})
    with pytest.raises(ValueError, match="^Response Maps: count is at least 1, not 0$"):
        out(ResponseMaps, x=wire, count=0)
