"""Trajectory, Pipeline Report, What vs Where: what they show is what the other nodes compute."""

from dataclasses import replace
import re

import pytest
from test_inside import noisy, out, started
import torch

from dit_blocks.dit_impl.cost import arithmetic
from dit_blocks.dit_impl.drawing import charts
from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.dit_impl.model.mmdit import MMDiT
from dit_blocks.dit_impl.model.stages import Stages
from dit_blocks.dit_impl.sampling.flow import RectifiedFlow
from dit_blocks.dit_impl.see import content_place, report, similarity, trajectory
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.sources.new_dit import new_dit
from dit_blocks.dit_impl.step import stages as step_stages
from dit_blocks.dit_impl.step.guidance import guide
from dit_blocks.dit_impl.tokens.wire import fold_image, unfold
from dit_blocks.nodes.budget import Compare
from dit_blocks.nodes.denoise import AddNoise, Denoise
from dit_blocks.nodes.pictures import ContentAndPlace, PipelineReport, Trajectory
from dit_blocks.nodes.transformer import PatchEmbed


class Decoder:
    """A VAE that shows the first three channels, eight pixels to a cell."""

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return latent[:, :3].sigmoid().movedim(1, -1).repeat_interleave(8, 1).repeat_interleave(8, 2)


def clean(dit, size=(8, 6), batch=1, seed=0, patch_size=2) -> dict:
    return dit.fold({"samples": torch.randn(batch, dit.channels, *size, generator=torch.Generator().manual_seed(seed))}, patch_size)


# --- trajectory ---

@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("at_steps,start,end,steps", [("", 0, 10000, [0, 2, 5, 7]), ("1,6-7", 0, 10000, [1, 6, 7]), ("all", 2, 5, [2, 3, 4])])
def test_a_trajectory_ends_where_denoise_ends(backbone, positive, negative, solver, at_steps, start, end, steps):
    sigmas = backbone.schedule(8)
    tokens, _ = out(AddNoise, dit=backbone, tokens=clean(backbone, batch=2), sigmas=sigmas, step=start, seed=3)
    common = dict(dit=backbone, tokens=tokens, sigmas=sigmas, positive=positive, negative=negative, cfg=3.0, solver=solver)
    expected, x0, *_ = out(Denoise, **common, start_step=start, end_step=end)
    found, reached, last = trajectory.moments(**common, at_steps=at_steps, start_step=start, end_step=end)
    assert torch.equal(reached["tokens"], expected["tokens"]) and torch.equal(last["tokens"], x0["tokens"])
    assert [moment.step for moment in found] == steps
    for moment in found:
        before = tokens if moment.step == start else out(Denoise, **common, start_step=start, end_step=moment.step)[0]
        assert torch.equal(moment.x["tokens"], before["tokens"]) and moment.sigma == sigmas[moment.step].item()
        rebuilt = moment.x0["tokens"] + moment.sigma * moment.velocity["tokens"]
        torch.testing.assert_close(rebuilt, moment.x["tokens"], atol=1e-5, rtol=1e-5)


def test_a_euler_step_follows_the_velocity(backbone, positive):
    sigmas = backbone.schedule(4)
    found, end, _ = trajectory.moments(backbone, noisy(backbone, sigmas), sigmas, positive, None, 1.0, "euler", "all")
    for one, after in zip(found, [*(moment.x for moment in found[1:]), end]):
        step = sigmas[one.step + 1].item() - one.sigma
        torch.testing.assert_close(one.x["tokens"] + step * one.velocity["tokens"], after["tokens"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("language", charts.LANGUAGES)
def test_the_sheet_and_its_pictures(backbone, positive, language):
    sigmas = backbone.schedule(6)
    tokens = noisy(backbone, sigmas, batch=2)
    kept = tokens["tokens"].clone()
    sheet, x, x0, velocity, end = out(Trajectory, dit=backbone, tokens=tokens, sigmas=sigmas, positive=positive, vae=Decoder(), cfg=1.0,
                                      solver="euler", at_steps="0,3,5", language=language)
    assert x.shape == x0.shape == velocity.shape == (3, 7 * 8, 6 * 8, 3) and torch.equal(tokens["tokens"], kept)
    found, _, _ = trajectory.moments(backbone, tokens, sigmas, positive, None, 1.0, "euler", "0,3,5")
    assert torch.equal(x0[1], Decoder().decode(unfold(found[1].x0))[0])
    assert sheet.shape[0] == 1 and 0 <= sheet.min() and sheet.max() <= 1


@pytest.mark.parametrize("changed,message", [
    ({"at_steps": "9"}, "Trajectory: this run has steps 0 to 3, there is no step 9"),
    ({"at_steps": "some"}, "Trajectory: steps are numbers and ranges such as"),
    ({"cfg": 3.0}, "Trajectory: cfg 3 needs a negative: wire one, or set cfg to 1"),
    ({"start_step": 4}, "Trajectory: step 4 is outside the schedule"), ({"start_step": 2, "end_step": 2}, "Trajectory: end_step 2 is not after"),
    ({"start_step": 2, "at_steps": "1"}, "Trajectory: at_steps takes steps from 2 to 3, not '1'")])
def test_a_trajectory_that_can_t_be(backbone, positive, changed, message):
    sigmas = backbone.schedule(4)
    inputs = dict(dit=backbone, tokens=noisy(backbone, sigmas), sigmas=sigmas, positive=positive, vae=Decoder(), cfg=1.0, solver="euler",
                  at_steps="")
    with pytest.raises(ValueError) as caught:
        out(Trajectory, **inputs | changed)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


class Failing:
    """A VAE for latents of other channels, and one that memory is too little for."""

    def __init__(self, error: Exception):
        self.error = error

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize("name", ["Trajectory", "What vs Where", "Compare Patch Sizes"])
def test_a_vae_that_fails_is_one_line_that_names_the_node(backbone, positive, name):
    sigmas = backbone.schedule(2)
    common = dict(dit=backbone, sigmas=sigmas, positive=positive, cfg=1.0)
    run = {"Trajectory": lambda vae: out(Trajectory, **common, tokens=noisy(backbone, sigmas), vae=vae, solver="euler", at_steps="0"),
           "What vs Where": lambda vae: out(ContentAndPlace, **common, tokens=clean(backbone), vae=vae, step=1, query=0, seed=0),
           "Compare Patch Sizes": lambda vae: out(Compare, **common, latent={"samples": torch.zeros(1, 4, 8, 8)}, vae=vae, rows="2", seed=0,
                                                  solver="euler")}[name]
    with pytest.raises(ValueError) as caught:
        run(Failing(RuntimeError("Given groups=1, expected 16 channels\nbut got 4")))
    assert re.fullmatch(rf"{name}: the vae can't decode a latent of 1×4×\d×\d: Given groups=1, expected 16 channels", str(caught.value))
    with pytest.raises(torch.OutOfMemoryError):
        run(Failing(torch.OutOfMemoryError("no room")))


# --- report ---

def test_a_report_counts_what_the_wires_hold():
    dit, _, vae = load_embedded()
    image = torch.rand(2, 128, 96, 3)
    latent = {"samples": vae.encode(image)}
    tokens = dit.fold(latent)
    (hidden,) = out(PatchEmbed, dit=dit, x=tokens)
    found = report.collect(image, latent, tokens, hidden, dit)
    assert [(stage.name, stage.values, stage.batch) for stage in found.stages] == [
        ("image", 128 * 96 * 3, 2), ("latent", 16 * 12 * 16, 2), ("tokens", 16 * 12 * 16, 2), ("hidden", 8 * 6 * 192, 2)]
    assert str(found.share) == "1/12" and found.why == ""
    expected = arithmetic.with_and_without_patches(arithmetic.architecture(dit), 96, 128, 2)
    assert [one for *_, one in found.sequence] == expected and [count for _, count, _ in found.sequence] == [48, 192, 3072, 12288]
    picture, text = out(PipelineReport, image=image, latent=latent, tokens=tokens, hidden=hidden, dit=dit)
    for words in ("16×12×16: 192 cells of 16 channels = 3,072 values", "1/12 of the image's values", "512×512×3 → 64×64×4 is 1/48",
                  "48 tokens", report.flops(expected[0]), "batch of 2", "48 vectors of 192 values = 9,216 values"):
        assert words in text
    assert picture.shape[0] == 1 and picture.shape[2] == report.WIDTH


def test_a_report_names_what_the_patch_size_changes():
    dit, _, vae = load_embedded()
    latent = {"samples": torch.randn(1, 16, 32, 32)}
    counts = {p: report.collect(latent=latent, tokens=dit.fold(latent, p), dit=dit).sequence for p in dit.patch_sizes}
    assert {p: rows[0][1] for p, rows in counts.items()} == {2: 256, 4: 64, 8: 16}
    assert counts[2][1][1] == counts[4][1][1] == 1024


def test_flops_are_twice_the_budget_s_multiply_adds():
    one = arithmetic.budget(arithmetic.PRESETS["SD3-medium"])
    value, unit = report.flops(one).split()
    assert float(value.replace(",", "")) * 1e12 == pytest.approx(2 * one.macs, rel=5e-3) and unit == "TFLOPs"


@pytest.mark.parametrize("language,words", [("English", "FLOPs are left out: no dit is wired"), ("中文", "没有接 dit")])
def test_a_report_without_a_model(language, words):
    if language == "中文" and charts.chinese_font() is None:
        pytest.skip("no font with Chinese characters")
    picture, text = out(PipelineReport, latent={"samples": torch.zeros(1, 4, 64, 64)}, language=language)
    assert words in text and "4,096" in text and picture.isfinite().all()


def test_a_report_of_pixel_patches_and_of_a_model_without_a_known_shape(backbone):
    tokens = fold_image(torch.rand(1, 32, 48, 3), 16)
    text = out(PipelineReport, tokens=tokens)[1]
    assert "6 patches of 16×16 pixels, 768 values each = 4,608 values" in text

    class Closed(type(backbone)):
        model = None
    closed = Closed(None, backbone.latent_format, backbone.flow, "a closed DiT")
    found = report.collect(latent={"samples": torch.zeros(1, 4, 8, 8)}, tokens=clean(backbone, (8, 8)), dit=closed)
    assert found.why.startswith("the shape of a closed DiT is not known") and [row[1] for row in found.sequence] == [16, 64, 1024, 4096]


def test_a_report_of_nothing():
    with pytest.raises(ValueError, match="^Pipeline Report: nothing is wired: wire an image, a latent, tokens or hidden states$"):
        out(PipelineReport)


# --- content against place ---

def test_content_and_place_are_what_the_stages_add(backbone, positive, negative):
    _, _, hidden = started(backbone, positive, negative)
    parts = content_place.take_apart(backbone, hidden)
    own = step_stages.position_embed(backbone, hidden)["hidden"].x
    assert torch.equal(parts.content, hidden["hidden"].x)
    torch.testing.assert_close(parts.content + parts.place, own)
    table = backbone.model.position_embedding(hidden["tokens"]["grid"], 2)
    assert torch.equal(parts.place, table.expand_as(parts.place))


def test_the_whole_is_the_model_and_the_changes_are_theirs(backbone, positive, negative):
    sigmas, tokens, other = backbone.schedule(4), clean(backbone), clean(backbone, seed=1)
    answer = content_place.take_and_replace(backbone, tokens, sigmas, 2, positive, negative, 3.0, 7, 5, other)

    def x0(wire: dict) -> torch.Tensor:
        return backbone.denoise(wire, sigmas, positive, negative, 3.0, start_step=2, end_step=3)[1]["tokens"]
    torch.testing.assert_close(answer.x0["whole"]["tokens"], x0(answer.noisy), atol=1e-5, rtol=1e-5)
    theirs, _ = backbone.add_noise(other, sigmas, 2, 7)
    torch.testing.assert_close(answer.x0["other content"]["tokens"], x0(theirs), atol=1e-5, rtol=1e-5)
    assert answer.change["whole"] == answer.change["other place"] == 0
    assert all(answer.change[name] > 0 for name in ("no place", "shuffled place", "no content", "shuffled content", "other content"))
    wire = step_stages.patch_embed(backbone, step_stages.condition(backbone, answer.noisy, positive, negative, sigmas, 2))
    for name, mode in (("no place", "none"), ("shuffled place", "shuffled")):
        placed = step_stages.position_embed(backbone, wire, mode, 7)
        changed = guide(step_stages.final_layer(backbone, step_stages.run_blocks(backbone, placed)), 3.0)
        torch.testing.assert_close(answer.x0[name]["tokens"], changed["tokens"], atol=1e-5, rtol=1e-5)


def test_a_decoder_of_cells_sees_no_content_that_was_removed(backbone, positive):
    """Without content two pictures come out alike, and with contents shuffled the whole picture is read from shuffled patches."""
    torch.manual_seed(3)
    model = MMDiT(replace(backbone.model.config, prediction="x0", detail=16))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    dit = replace(backbone, model=model.eval().requires_grad_(False), flow=RectifiedFlow("x0"))
    one, other = (content_place.take_and_replace(dit, clean(dit, seed=seed), dit.schedule(4), 2, positive, None, 1.0, 7, 5).x0 for seed in (0, 1))
    torch.testing.assert_close(one["no content"]["tokens"], other["no content"]["tokens"])
    assert (one["whole"]["tokens"] - other["whole"]["tokens"]).abs().max() > 0.01


def test_norms_and_maps_are_of_the_conditional_part(backbone, positive):
    answer = content_place.take_and_replace(backbone, clean(backbone), backbone.schedule(4), 1, positive, None, 1.0, 0, 7)
    for name in ("content", "place", "sum"):
        assert answer.similar[name].shape == (4, 3) and answer.similar[name][2, 1] == pytest.approx(1, abs=1e-5)
        assert answer.norms[name].shape == (12,)
    torch.testing.assert_close(answer.norms["place"], torch.full((12,), 32.0).sqrt())  # half of the sines and cosines' squares
    *_, pictures = out(ContentAndPlace, dit=backbone, tokens=clean(backbone), sigmas=backbone.schedule(4), step=1, positive=positive,
                       vae=Decoder(), query=7, cfg=1.0, seed=0, language="中文")
    assert pictures.shape == (6, 64, 48, 3)


def test_a_class_model_goes_away_from_its_own_no_class(class_dit):
    common = dict(dit=class_dit, tokens=clean(class_dit), sigmas=class_dit.schedule(4), step=1, positive=class_dit.class_conditioning("3"),
                  vae=Decoder(), query=7, cfg=3.0, seed=0)
    own, said = (out(ContentAndPlace, **common, **more) for more in ({}, {"negative": class_dit.class_conditioning("")}))
    assert torch.equal(own[1], said[1])


def test_two_equal_rows_are_a_reference_and_the_same_picture(backbone, positive, negative):
    """The first run alone is the reference, whatever else equals it."""
    _, words = out(Compare, dit=backbone, latent={"samples": torch.zeros(1, 4, 8, 8)}, sigmas=backbone.schedule(2), positive=positive, negative=negative,
                   vae=Decoder(), rows="2\n2 until 50%, then 2\n4", seed=0, cfg=3.0, solver="euler", controls=False)
    assert [row.splitlines()[-1] for row in words.split("\n\n")][:2] == ["reference", "the same picture, bit for bit"]
    assert words.split("\n\n")[2].endswith(" dB")


def test_maps_and_norms_are_of_the_clean_picture(backbone, positive):
    sigmas, tokens = backbone.schedule(8), clean(backbone)
    answers = [content_place.take_and_replace(backbone, tokens, sigmas, step, positive, None, 1.0, seed, 5) for step, seed in ((0, 1), (6, 2))]
    (embedded,) = out(PatchEmbed, dit=backbone, x=tokens)
    for answer in answers:
        torch.testing.assert_close(answer.norms["content"], embedded["hidden"].x[0].norm(dim=-1))
        torch.testing.assert_close(answer.similar["content"], similarity.cosines(embedded["hidden"].x, 5).view(4, 3))
    assert not torch.equal(answers[0].noisy["tokens"], answers[1].noisy["tokens"])


class Rotary(Stages):
    positions = "rotary"


def test_models_whose_positions_are_not_added_say_so(backbone, positive, monkeypatch):
    sigmas, without = backbone.schedule(4), new_dit(64, 1, 2, (2,), 4, "none", "none")
    with pytest.raises(StagesError, match="^New DiT has no positions: its tokens are only content$"):
        content_place.take_and_replace(without, clean(without), without.schedule(4), 1, without.unconditional, None, 1.0, 0, 0)
    _, _, hidden = started(backbone, positive)
    monkeypatch.setattr(type(backbone), "stages", property(lambda self: Rotary()))
    with pytest.raises(StagesError) as caught:
        content_place.take_apart(backbone, hidden)
    assert str(caught.value).startswith("a small DiT does not add positions to tokens, it rotates queries and keys by them")
    assert len(sigmas) == 5


@pytest.mark.parametrize("changed,message", [
    ({"query": 12}, "query 12 is outside the grid of 4×3 tokens, which are 0 to 11 in reading order"), ({"step": 4}, "step 4 is outside"),
    ({"cfg": 2.0}, "cfg 2 needs a negative: wire one, or set cfg to 1"),
    ({"other": (6, 6)}, "other has 3×3 tokens of patch_size 2, tokens has 4×3 of 2: both must have the same size")])
def test_what_can_t_be_taken_apart(backbone, positive, changed, message):
    if "other" in changed:
        changed = {"other": clean(backbone, changed["other"])}
    inputs = dict(dit=backbone, tokens=clean(backbone), sigmas=backbone.schedule(4), step=1, positive=positive, vae=Decoder(), query=0, cfg=1.0,
                  seed=0)
    with pytest.raises(ValueError) as caught:
        out(ContentAndPlace, **inputs | changed)
    assert str(caught.value).startswith(f"What vs Where: {message}") and "\n" not in str(caught.value)
    _, _, hidden = started(backbone, positive)
    with pytest.raises(StagesError, match="^the positions are added already: wire the hidden states from before Position Embed$"):
        content_place.take_apart(backbone, step_stages.position_embed(backbone, hidden))


def test_a_model_whose_stages_are_closed_is_one_line(backbone, positive):
    closed = backbone.reading(4, "resample")
    with pytest.raises(ValueError, match="^What vs Where: a small DiT reads patches of 4 by resample, which has no stages of its own$"):
        out(ContentAndPlace, dit=closed, tokens=clean(backbone), sigmas=backbone.schedule(4), step=1, positive=positive, vae=Decoder(),
            query=0, cfg=1.0, seed=0)


def test_inputs_stay_as_they_are(backbone, positive):
    tokens, other, sigmas = clean(backbone), clean(backbone, seed=1), backbone.schedule(4)
    kept = [(t, t.clone(), t._version) for t in (tokens["tokens"], other["tokens"], sigmas)]
    with torch.inference_mode():
        out(ContentAndPlace, dit=backbone, tokens=tokens, sigmas=sigmas, step=1, positive=positive, vae=Decoder(), query=0, cfg=1.0, seed=0,
            other=other)
    assert all(torch.equal(t, value) and t._version == version for t, value, version in kept)


def test_noisy_tokens_are_taken_apart_as_clean_as_they_were(backbone, positive):
    sigmas = backbone.schedule(4)
    clean = backbone.fold({"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))})
    noisy, _ = backbone.add_noise(clean, sigmas, 1, 5)
    common = dict(sigmas=sigmas, step=1, positive=positive, negative=None, cfg=1.0, seed=5, query=3)
    ours, theirs = (content_place.take_and_replace(backbone, tokens, **common) for tokens in (noisy, clean))
    assert torch.equal(ours.noisy["tokens"], noisy["tokens"]) and ours.change == theirs.change
    first = content_place.take_and_replace(backbone, {**clean, "tokens": clean["tokens"][:1]}, **common)
    torch.testing.assert_close(ours.similar["place"], first.similar["place"])
    one = {**clean, "tokens": clean["tokens"][:1]}
    assert "other content" in content_place.take_and_replace(backbone, clean, **common, other=one).change
    three = {**clean, "tokens": clean["tokens"][:1].expand(3, -1, -1)}
    with pytest.raises(ValueError, match="^other has 3 pictures, tokens has 2: give 1 or as many$"):
        content_place.take_and_replace(backbone, clean, **common, other=three)
