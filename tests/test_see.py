"""The nodes that show tokens: filters, principal components and cosines are numpy's, and the pictures show them."""

import numpy as np
import pytest
from test_charts import DEUTERANOPE, LIGHT, linear
from test_inside import noisy, out, started
import torch

from dit_blocks.dit_impl.drawing import charts
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.sampling.flow import DDPM
from dit_blocks.dit_impl.see import filters, similarity
from dit_blocks.dit_impl.sources.diffusers_models import Flux, PixArt
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.sources.new_dit import new_dit
from dit_blocks.dit_impl.tokens.wire import identity_format
from dit_blocks.nodes.pictures import PatchFilters, TokenPCA, TokenSimilarity
from dit_blocks.nodes.transformer import PatchEmbed, PositionEmbed


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wire_of(dit, latent: torch.Tensor, patch_size: int = 2) -> dict:
    return dit.fold({"samples": latent}, patch_size)


# --- filters ---

@pytest.mark.parametrize("patch_size", [2, 4])
def test_filters_are_the_rows_of_the_projection(backbone, patch_size):
    weight = backbone.model.x_embedder[str(patch_size)].weight
    found = filters.filters_of(backbone, patch_size)
    torch.testing.assert_close(found, weight.view(64, 4, patch_size, patch_size), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["pixart", "flux"])
def test_filters_of_models_that_diffusers_runs(kind):
    models = pytest.importorskip("diffusers_models", reason="no diffusers")
    model = {"pixart": lambda: PixArt(models.pixart(), 8), "flux": lambda: Flux(models.flux(), 8)}[kind]()
    dit = Backbone(model, identity_format(model.config.in_channels), DDPM(), kind)
    inner = model.transformer.pos_embed.proj if kind == "pixart" else model.transformer.x_embedder
    channels = model.config.in_channels
    torch.testing.assert_close(filters.filters_of(dit), inner.weight.view(-1, channels, 2, 2), atol=1e-5, rtol=1e-4)
    assert out(PatchFilters, dit=dit, patch_size=0, count=10)[0].isfinite().all()


def test_how_far_filters_are_from_white_noise():
    white, p = filters.spectrum_statistic(random(4096, 4, 4, 4)), 4
    assert white.low == pytest.approx(1, abs=0.05) and white.full == 64 and white.rank > 62
    assert filters.spectrum_statistic(random(32, 3, 1, 1).expand(-1, -1, p, p)).low == pytest.approx(p * p)
    waves = torch.tensor([1.0, -1.0]).repeat(2) * random(32, 3, p, 1)
    assert filters.spectrum_statistic(waves).low == pytest.approx(0, abs=1e-6)
    assert filters.spectrum_statistic(random(1, 2, p, p).expand(9, -1, -1, -1)).rank == pytest.approx(1, abs=1e-6)
    assert filters.spectrum_statistic(torch.eye(8).view(8, 2, 2, 2)).rank == pytest.approx(8)


def test_the_spectrum_is_numpy_s():
    found = random(20, 3, 4, 4, seed=2) + 0.3
    energy = np.abs(np.fft.fft2(found.numpy())) ** 2
    assert filters.spectrum_statistic(found).low == pytest.approx(16 * energy[..., 0, 0].sum() / energy.sum(), rel=1e-5)
    shares = np.linalg.svd(found.flatten(1).numpy().astype(float), compute_uv=False) ** 2
    shares /= shares.sum()
    assert filters.spectrum_statistic(found).rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_a_filter_s_picture_is_its_weights_by_the_linear_map():
    found, rgb = random(5, 3, 2, 2), random(4, 3, seed=1)
    shown = filters.as_pictures(found, rgb)
    mixed = np.einsum("dcij,ck->dijk", found.numpy(), rgb[:3].numpy())
    for one, picture in zip(mixed, shown.numpy()):
        np.testing.assert_allclose(picture, one / np.abs(one).max() / 2 + 0.5, atol=1e-5)
    grey = filters.as_pictures(torch.zeros(1, 3, 2, 2), rgb)
    assert torch.equal(grey, torch.full((1, 2, 2, 3), 0.5))


def test_filters_come_sorted_by_norm(backbone):
    with torch.no_grad():
        backbone.model.x_embedder["2"].weight.mul_(torch.linspace(0.1, 3, 64)[:, None])
    norms = filters.filters_of(backbone).flatten(1).norm(dim=1)
    shown = []
    filters_drawn = filters.as_pictures
    try:
        filters.as_pictures = lambda chosen, rgb: shown.append(chosen.flatten(1).norm(dim=1)) or filters_drawn(chosen, rgb)
        picture, low, rank, text = out(PatchFilters, dit=backbone, patch_size=0, count=10)
    finally:
        filters.as_pictures = filters_drawn
    torch.testing.assert_close(shown[0], norms.sort(descending=True).values[:10])
    assert f"norms {norms.max():.2f} to {norms.min():.2f}" in text and picture.shape[0] == 1


def test_before_and_after_side_by_side(backbone):
    other = new_dit(64, 1, 2, (2, 4), 4, conditioning="none")
    alone, *figures, _ = out(PatchFilters, dit=backbone, patch_size=4, count=16)
    both, *same, text = out(PatchFilters, dit=backbone, patch_size=4, count=16, before=other, language="中文")
    assert figures == same and both.shape[2] > alone.shape[2]
    with pytest.raises(ValueError, match="^Patch Filters: a small DiT knows patch sizes 2, 4, not 3$"):
        out(PatchFilters, dit=backbone, patch_size=3, count=16)


def test_pictures_of_a_training_are_all_of_one_size(backbone):
    first = filters.filters_picture(backbone)
    with torch.no_grad():
        backbone.model.x_embedder["2"].weight.mul_(30)
    assert filters.filters_picture(backbone).shape == first.shape


# --- principal components ---

@pytest.mark.parametrize("count, width", [(50, 12), (12, 12), (7, 30), (4, 60000)])  # the last would need 14 GB for its covariance
def test_components_are_numpy_s(count, width):
    tokens = random(count, 12) @ random(12, width, seed=1) + 5
    found, shares = similarity.components(tokens)
    centred = tokens.double().numpy() - tokens.double().numpy().mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (u * s)[:, :3]
    signs = np.sign((found.numpy() * expected).sum(0))
    np.testing.assert_allclose(found.numpy() * signs, expected, atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(shares.numpy(), (s ** 2 / (s ** 2).sum())[:3], rtol=1e-4)


def test_tokens_on_a_line_have_one_component():
    line = random(40, 1) @ random(1, 8, seed=1) + random(8, seed=2)
    coordinates, shares = similarity.components(line)
    torch.testing.assert_close(shares, torch.tensor([1.0, 0, 0]), atol=1e-4, rtol=0)
    assert coordinates[:, 1:].abs().max() < 1e-2 * coordinates[:, 0].abs().max()


def test_a_constant_picture_is_one_colour(backbone):
    for latent in (torch.ones(1, 4, 8, 8), random(1, 4, 1, 1).expand(-1, -1, 8, 8)):
        wire = wire_of(backbone, latent.contiguous())
        for tokens in (wire, out(PatchEmbed, dit=backbone, x=wire)[0]):
            _, shades, norms, explained, _ = out(TokenPCA, x=tokens)
            assert len(shades.flatten(0, 2).unique(dim=0)) == 1 and explained == 0
            torch.testing.assert_close(norms, torch.ones(1, 4, 4))


def test_the_first_two_components_are_told_apart_by_every_eye():
    ends = torch.full((2, 2, 3), 0.5)
    for axis in (0, 1):
        ends[axis, :, axis] = torch.tensor([0.0, 1.0])
    seen = linear(similarity.mixed(ends)) @ DEUTERANOPE.T
    light, colour = seen @ LIGHT, seen[..., 2] - seen[..., :2].mean(-1)
    assert light[0, 1] - light[0, 0] > 0.3 and abs(colour[0, 1] - colour[0, 0]) < 0.1, "dark and light of no colour"
    assert colour[1, 0] - colour[1, 1] > 0.3, "blue and yellow"


def test_colours_of_tokens_hold_all_three_components():
    places = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    back = (similarity.mixed(places) - 0.5) @ torch.tensor(similarity.AXES).inverse() + 0.5
    torch.testing.assert_close(back, places, atol=1e-5, rtol=0)


def test_two_halves_are_two_colours_and_the_rest_of_the_picture_says_so(backbone):
    latent = torch.ones(1, 4, 8, 8)
    latent[..., 4:] = -2
    image, shades, norms, explained, text = out(TokenPCA, x=wire_of(backbone, latent))
    assert len(shades.flatten(0, 2).unique(dim=0)) == 2 and explained == pytest.approx(1) and "of variance: 100%, 0%, 0%" in text
    assert torch.equal(shades[:, :, :2], shades[:, :1, :1].expand(1, 4, 2, 3)) and torch.equal(norms[0, 0], torch.tensor([0.5, 0.5, 1, 1]))
    for channel, colour in enumerate(shades[0, 0, 0].tolist()):
        assert (image[0, ..., channel] - colour).abs().min() < 1 / 255  # a picture has 256 shades


def test_parts_of_a_step_are_shown_apart_and_frames_too(backbone, positive, negative):
    _, _, hidden = started(backbone, positive, negative)
    image, shades, norms, _, text = out(TokenPCA, x=hidden)
    assert image.shape[0] == shades.shape[0] == norms.shape[0] == 4 and "cond" in text and "Patch Embed" in text
    video = {**wire_of(backbone, random(1, 4, 8, 4)), "grid": (2, 2, 2), "frame_patch": 1, "size": (2, 4, 4)}
    image, shades, *_ = out(TokenPCA, x=video)
    assert image.shape[0] == 2 and shades.shape == (2, 2, 2, 3)
    image, found = out(TokenSimilarity, x=video, query=5, centred=False)
    assert found.shape == (2, 2, 2) and found[1, 0, 1] == pytest.approx(1)


# --- similarity ---

@pytest.mark.parametrize("centred", [False, True])
def test_cosines_are_numpy_s(centred):
    tokens = random(2, 30, 7) + 1
    values = tokens.double().numpy()
    values = values - values.mean(1, keepdims=True) if centred else values
    unit = values / np.linalg.norm(values, axis=-1, keepdims=True)
    np.testing.assert_allclose(similarity.cosines(tokens, 11, centred).numpy(), np.einsum("bnd,bd->bn", unit, unit[:, 11]), atol=1e-6)


def test_cosines_of_directions_that_are_known():
    tokens = torch.tensor([[[1.0, 0], [2, 0], [0, 3], [-1, 0], [1, 1], [0, 0]]])
    torch.testing.assert_close(similarity.cosines(tokens, 0)[0], torch.tensor([1, 1, 0, -1, 0.5 ** 0.5, 0]))


def test_the_map_is_laid_out_as_the_picture_is(backbone):
    latent = -torch.ones(1, 4, 8, 12)
    latent[..., 2:4, 6:8] = 1  # token at row 1, column 3 of 4×6
    latent[..., 6:8, :2] = 2  # token at row 3, column 0: alike
    wire = wire_of(backbone, latent)
    image, found = out(TokenSimilarity, x=wire, query=1 * 6 + 3, centred=False)
    expected = torch.zeros(1, 4, 6)
    expected[0, 1, 3] = expected[0, 3, 0] = 1
    torch.testing.assert_close(found, expected)
    beside, _ = out(TokenSimilarity, x=wire, query=9, centred=False, picture=torch.rand(1, 64, 96, 3), language="中文")
    assert beside.shape[2] > image.shape[2]


def test_the_node_is_told_every_token_s_row(backbone, monkeypatch):
    saved = []
    wire = wire_of(backbone, random(2, 4, 8, 12))
    seen = similarity.token_similarity(wire, 5)
    unit = torch.nn.functional.normalize(wire["tokens"][0], dim=-1)
    torch.testing.assert_close(seen.rows, unit @ unit.T)
    torch.testing.assert_close(seen.rows[5].view(4, 6), seen.map[0])
    monkeypatch.setattr(similarity, "LIVE", 10)
    large = similarity.token_similarity(wire, 5)
    assert torch.equal(large.rows, seen.map[:1].reshape(1, -1))
    monkeypatch.setattr(charts, "colours", lambda values, *_, **how: saved.append(values) or torch.zeros(*values.shape, 3))
    (facts,) = TokenSimilarity.execute(x=wire, query=5, centred=False).ui["dit_blocks"]
    assert facts["grid"] == [4, 6] and facts["query"] == 5 and facts["live"] is False and saved[-1].shape == (1, 24)


def test_of_a_step_the_conditional_part_is_compared(backbone, positive, negative):
    _, _, hidden = started(backbone, positive, negative)
    (hidden,) = out(PositionEmbed, dit=backbone, hidden=hidden, mode="model", seed=0)
    halves = hidden["hidden"].x.chunk(2)
    layout = hidden["call"].layout
    changed = {**hidden, "hidden": hidden["hidden"].but(x=torch.cat([random(*halves[0].shape), halves[1]]))}
    assert layout == ("uncond", "cond")
    maps = [out(TokenSimilarity, x=wire, query=3, centred=False)[1] for wire in (hidden, changed)]
    assert torch.equal(*maps) and maps[0].shape == (2, 4, 3)


@pytest.mark.parametrize("query", [12, 4000])
def test_a_token_outside_the_grid(backbone, query):
    with pytest.raises(ValueError, match=rf"^Token Similarity: query {query} is outside the grid of 4×3 tokens, which are 0 to 11 in reading"):
        out(TokenSimilarity, x=wire_of(backbone, random(1, 4, 8, 6)), query=query, centred=False)


def test_values_that_are_not_numbers(backbone):
    wire = wire_of(backbone, random(1, 4, 8, 6))
    wire = {**wire, "tokens": wire["tokens"].clone()}
    wire["tokens"][0, 0, 0] = float("nan")
    for node, inputs in ((TokenPCA, {}), (TokenSimilarity, {"query": 0, "centred": False})):
        with pytest.raises(ValueError, match="the tokens hold values that are NaN or infinite$"):
            out(node, x=wire, **inputs)


def test_nothing_that_comes_in_is_changed(backbone, positive, negative):
    sigmas, tokens, hidden = started(backbone, positive, negative)
    kept = [(t, t.clone(), t._version) for t in (tokens["tokens"], hidden["hidden"].x, backbone.model.x_embedder["2"].weight)]
    for wire in (tokens, hidden):
        out(TokenPCA, x=wire)
        out(TokenSimilarity, x=wire, query=1, centred=True, language="中文")
    out(PatchFilters, dit=backbone, patch_size=0, count=8)
    assert all(torch.equal(t, value) and t._version == version for t, value, version in kept)


def test_the_default_model_s_filters_are_smoother_than_noise():
    dit = load_embedded()[0]
    lows = [filters.spectrum_statistic(filters.filters_of(dit, p)).low for p in dit.patch_sizes]
    assert all(low > 1.1 for low in lows) and lows == sorted(lows)
    noise = noisy(dit, dit.schedule(2), size=(16, 16), batch=1)
    assert out(TokenPCA, x=noise)[3] < 0.3, "noise has no direction"
