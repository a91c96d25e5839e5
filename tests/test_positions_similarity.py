"""Position similarity: what a position embedding says by itself, against formulas."""

import math

import pytest
import torch

from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
from dit_blocks.dit_impl.see.position_similarity import compare_positions, rotary_1d, rotary_table, turned
from dit_blocks.dit_impl.see.similarity import cosines
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.step import stages as step_stages
from dit_blocks.dit_impl.tokens.wire import identity_format
from dit_blocks.nodes.attention import PositionSimilarity


@pytest.fixture(autouse=True)
def as_in_comfyui():
    with torch.inference_mode():
        yield


def tokens_of(dit, size=(24, 20), patch_size=0) -> dict:
    return dit.fold({"samples": torch.zeros(1, dit.channels, *size)}, patch_size)


def small(position: str) -> Backbone:
    torch.manual_seed(0)
    model = MMDiT(MMDiTConfig(in_channels=4, width=64, depth=1, heads=2, context_width=32, pooled_width=16, position=position, position_base=8.0))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Backbone(model.eval().requires_grad_(False), identity_format(4), name="a small DiT", picture_size=64)


def every_pair(dit, tokens) -> torch.Tensor:
    """→ [N, N]."""
    count = tokens["tokens"].shape[1]
    return torch.stack([compare_positions(dit, tokens, query).own.flatten() for query in range(count)])


def lag(width: int, steps: torch.Tensor) -> torch.Tensor:
    """The cosine of two places of a 1-D table that are so far apart: the mean of cos(ω·steps) over its frequencies."""
    frequencies = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    return (steps.double()[..., None] * frequencies).cos().mean(-1)


@pytest.mark.parametrize("size,patch_size", [((24, 20), 2), ((32, 32), 8)])
def test_2d_sines_and_cosines_are_symmetric_and_separable(size, patch_size):
    dit = load_embedded()[0]
    tokens = tokens_of(dit, size, patch_size)
    h, w = tokens["grid"]
    pairs = every_pair(dit, tokens)
    assert (pairs - pairs.T).abs().max() < 1e-6
    assert (pairs.diag() - 1).abs().max() < 1e-6
    base = dit.model.config.position_base
    rows, columns = torch.arange(h * w) // w * base / h, torch.arange(h * w) % w * base / w
    half = dit.model.config.width // 2
    expected = (lag(half, rows[:, None] - rows) + lag(half, columns[:, None] - columns)) / 2  # a row's part and a column's, added
    assert (pairs - expected).abs().max() < 1e-5
    laid = pairs[0].view(h, w)  # separable: all of the map is in its first row and column
    assert (laid - (laid[:, :1] + laid[:1] - 1)).abs().max() < 1e-5 and laid.std() > 0.01


def test_a_text_model_s_positions_know_no_rows():
    dit = load_embedded()[0]
    tokens = tokens_of(dit)
    h, w = tokens["grid"]
    found = compare_positions(dit, tokens, 3 * w + 4)
    places = torch.arange(h * w)
    assert (found.text.flatten() - lag(dit.model.config.width, places - (3 * w + 4))).abs().max() < 1e-5
    own, text = found.own.flatten(), found.text.flatten()
    query = 3 * w + 4
    assert own[query + w] > 0.97 and text[query + w] < own[query + w] - 0.2  # below it: next in the picture, far in reading order
    assert text[4 * w] > text[query + w] and own[4 * w] < own[query + w]  # the next row's first token is near in reading order


def test_learned_positions_are_compared_as_they_are():
    dit = small("learned")
    tokens = tokens_of(dit, (16, 16))
    table = dit.model.positions
    expected = torch.nn.functional.cosine_similarity(table[5:6], table, dim=1)
    found = compare_positions(dit, tokens, 5)
    assert found.kind == "learned"
    torch.testing.assert_close(found.own.flatten(), expected)


@pytest.mark.parametrize("stage", ["tokens", "patches", "positions", "patches alone"])
def test_any_stage_gives_the_same(backbone, positive, negative, stage):
    sigmas, tokens = backbone.schedule(4), tokens_of(backbone, (8, 12))
    expected = compare_positions(backbone, tokens, 7)
    x = tokens
    if stage != "tokens":
        begun = tokens if stage == "patches alone" else step_stages.condition(backbone, tokens, positive, negative, sigmas, 0)
        x = step_stages.patch_embed(backbone, begun)
    if stage == "positions":
        x = step_stages.position_embed(backbone, x)
    given = x["hidden"].x.clone() if "hidden" in x else None
    assert torch.equal(compare_positions(backbone, x, 7).own, expected.own)
    assert given is None or torch.equal(given, x["hidden"].x)


def test_a_rotary_score_is_that_of_a_turned_unit_vector():
    table = rotary_1d(16, torch.arange(30))
    vectors = turned(table)
    assert (vectors.norm(dim=1) - 1).abs().max() < 1e-6
    scores = cosines(vectors[None], 4)[0]
    assert (scores - lag(16, torch.arange(30) - 4)).abs().max() < 1e-6
    # the same whatever the unit vector is, as long as all planes have the same share of it
    angle = torch.rand(8, dtype=torch.float64) * math.tau
    other = torch.einsum("npij,pj->npi", table, torch.stack([angle.cos(), angle.sin()], -1) / 8 ** 0.5).flatten(1)
    assert (cosines(other[None], 4)[0] - scores).abs().max() < 1e-6
    packed = table[None, None]
    for position in (packed, packed.movedim(1, 2)):
        assert torch.equal(rotary_table(position, "a model"), table)
    for strange in (None, torch.zeros(2, 30, 16), torch.zeros(1, 3, 30, 8, 2, 2), (packed, packed)):
        with pytest.raises(StagesError, match="^the rotary positions of a model have an unknown form: "):
            rotary_table(strange, "a model")


@pytest.mark.parametrize("language", ["English", "中文"])
def test_the_node(language):
    dit = load_embedded()[0]
    picture, mask, text = PositionSimilarity.execute(dit=dit, x=tokens_of(dit), query=25, language=language).result
    assert picture.shape[0] == 1 and picture.shape[-1] == 3 and picture.shape[2] >= 300
    assert mask.shape == (1, 12, 10) and mask.argmax() == 25 and 0 <= mask.min() <= mask.max() <= 1 + 1e-6
    assert text.startswith("neighbour in the row 0.9") == (language == "English") and "\n" not in text


def test_wrong_inputs_are_one_line():
    dit, wrong = load_embedded()[0], small("none")
    for model, query, message in ((dit, 120, "token 120 is outside the grid, whose 12×10 tokens are 0 to 119"),
                                  (wrong, 0, "a small DiT has no positions")):
        with pytest.raises(ValueError) as caught:
            PositionSimilarity.execute(dit=model, x=tokens_of(model), query=query, language="English")
        assert str(caught.value) == "Position Similarity: " + message
