"""The DIT handle at the edges: what it refuses and in which words, what it shows, and how rows of a patch schedule are read."""

from types import SimpleNamespace

from numbers_and_errors import line, randn
import pytest
import torch

from dit_blocks.dit_impl.errors import BackboneError, ScheduleError, StagesError
from dit_blocks.dit_impl.handle.backbone import Backbone, DitHandle
from dit_blocks.dit_impl.handle.class_names import find_class
from dit_blocks.dit_impl.handle.patch_schedule import QUICK_STEPS, PatchSchedule, Row, denoise_by_schedule, parse_schedule, quick_look
from dit_blocks.dit_impl.tokens.wire import fold, latent_format, unfold

# --- what it reads --------------------------------------------------------------------------------------------------

def test_a_latent_is_cut_with_what_lies_beside_it(backbone):
    backbone.latent_format = latent_format(torch.full((4,), 2.0), torch.ones(4))
    latent = {"samples": randn(2, 4, 8, 8), "noise_mask": torch.ones(1, 8, 8), "batch_index": [3, 1], "other": 1}
    wire = backbone.fold(latent)
    assert wire["patch_size"] == 2 and wire["noise_mask"] is latent["noise_mask"] and wire["batch_index"] == [3, 1] and "other" not in wire
    torch.testing.assert_close(unfold({**wire, "latent_format": fold(latent["samples"], 2)["latent_format"]}), (latent["samples"] - 1) * 2)
    assert backbone.fold(latent, 4)["patch_size"] == 4 and "noise_mask" not in backbone.fold({"samples": latent["samples"]})
    assert (backbone.patch_size, backbone.channels, backbone.modules(), backbone.learns) == (2, 4, [backbone.model], False)


@pytest.mark.parametrize("change,says", [
    (dict(channels=16), "a small DiT has latents of 4 channels, the tokens come from 16"),
    (dict(latent_format=latent_format(torch.ones(4), torch.ones(4))), "the tokens are not in the latent space of a small DiT: wire its dit into Patchify"),
    (dict(patch_size=3), "a small DiT knows patch sizes 2, 4, the tokens have patch_size 3"),
    (dict(tokens=torch.full((1, 16, 16), float("nan"))), "the tokens hold values that are NaN or infinite")])
def test_tokens_it_can_t_read(backbone, change, says):
    assert line(BackboneError, backbone.check_tokens, {**backbone.fold({"samples": randn(1, 4, 8, 8)}), **change}) == says


def test_what_guidance_goes_away_from(backbone, class_dit, negative):
    assert backbone.away_from(negative, 3.0) is negative and backbone.away_from(negative, 1.0) is None and backbone.away_from(None, 1.0) is None
    assert line(BackboneError, backbone.away_from, None, 2.5) == "cfg 2.5 needs a negative: wire one, or set cfg to 1"
    assert class_dit.away_from(None, 2.5)[0][1] == {"class_label": 10} and class_dit.away_from(negative, 2.5) is negative


def test_a_model_that_reads_text_takes_no_class(backbone, class_dit):
    assert line(BackboneError, backbone.class_conditioning, "3") == "a small DiT reads text, not a class label: use CLIP Text Encode"
    assert class_dit.class_conditioning(" ")[0][1] == {"class_label": 10} and class_dit.class_conditioning("3")[0][1] == {"class_label": 3}


def test_classes_without_names():
    assert find_class("7", 8, {}, "it") == 7 and line(BackboneError, find_class, "cat", 8, {}, "it") == \
        "it has no class names: label is a number from 0 to 7, not 'cat'"
    long = line(BackboneError, find_class, "z" * 200, 8, {0: "cat"}, "it")
    assert long == f"label '{'z' * 80}' is no class of it: give a number from 0 to 7, or a name such as 'cat'"


def test_where_and_in_what_it_computes(backbone):
    assert backbone.like().shape == (0,) and backbone.like().dtype == torch.float32 and backbone.like().device.type == "cpu"
    elsewhere = Backbone(backbone.model.half(), backbone.latent_format, device=torch.device("meta"))
    assert elsewhere.like().dtype == torch.float16 and elsewhere.like().device.type == "meta"
    assert (elsewhere.name, elsewhere.downscale, elsewhere.picture_size) == ("DiT", 8, 256)


def test_what_only_a_whole_model_can_do(backbone):
    whole = Backbone(torch.nn.Linear(1, 1), backbone.latent_format, name="it")
    assert line(StagesError, lambda: whole.stages) == "it runs whole, by diffusers: for its stages load it as a MODEL and use DiT from MODEL"
    assert line(StagesError, lambda: backbone.reading(6).stages) == "a small DiT reads patches of 6 by resample, which has no stages of its own"
    assert backbone.reading(6).patch_sizes == (2, 4, 6) and backbone.reading(4) is backbone and backbone.reading(4, "resample").reading.method == "resample"
    sigmas, wire = backbone.schedule(4), backbone.fold({"samples": randn(1, 4, 8, 8)})
    assert line(ValueError, backbone.advance, wire, wire["tokens"], sigmas, 0, "heun") == \
        "heun asks the model for more than the step's prediction; use DiT Denoise Step, or another solver"
    assert line(ScheduleError, backbone.advance, wire, wire["tokens"], sigmas, 4, "euler") == "step 4 is outside the schedule, whose steps are 0 to 3"
    assert line(ValueError, backbone.denoise, wire, sigmas, None, solver="ddim") == "ddim is for DDPM models; for a rectified flow the same step is euler"


def test_a_handle_alone_shows_grey():
    handle, wire = DitHandle(), fold(randn(2, 4, 8, 6), 2)
    assert handle.modules() == [] and torch.equal(handle.preview(wire, wire["tokens"]), handle.picture(wire, wire["tokens"]))
    assert handle.picture(wire, wire["tokens"]).shape == (8, 6, 3)
    for call in (lambda: handle.stages, lambda: handle.schedule(2), lambda: handle.approximate(None)):
        with pytest.raises(NotImplementedError):
            call()


def test_a_picture_is_the_linear_map_of_the_first_latent(backbone):
    wire = backbone.fold({"samples": randn(2, 4, 8, 6)})
    backbone.latent_rgb = randn(5, 3, seed=1)
    wanted = (torch.einsum("chw,cr->hwr", unfold(wire)[0], backbone.latent_rgb[:4]) + backbone.latent_rgb[4]).clamp(0, 1)
    torch.testing.assert_close(backbone.picture(wire, wire["tokens"]), wanted)
    torch.testing.assert_close(backbone.picture({**wire, "tokens": None}, wire["tokens"].double()), wanted)


# --- rows of a patch schedule ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("text,says", [
    (" ,;\n", "the patch schedule is empty: write rows such as '4 until 50%, then 2'"),
    ("4 until noon, then 2", "a row is a patch size and where it ends, as in '4 until 50%', '4 until sigma 0.6', '4 of other until 50%' or '4 with 2 on 25%', not '4 until noon'"),
    ("4 until 50%", "the patch schedule does not cover the last steps: end it with a size alone, as in 'then 4'"),
    ("8 until 20%, 4, then 2", "patch size 4 has no end, and rows follow it: write '4 until 50%'"),
    ("0", "a patch size is at least 1 and a share at most 100%, not 0 until 0%"),
    ("4 until 150%, then 2", "a patch size is at least 1 and a share at most 100%, not 4 until 150%"),
    ("8 until 50%, 4 until 50%, then 2", "the patch schedule goes backwards: its shares are 0.5, 0.5"),
    ("8 until sigma 0.3, 4 until sigma 0.5, then 2", "the patch schedule goes backwards: its sigmas are 0.3, 0.5")])
def test_rows_that_can_t_be_followed_say_why(text, says):
    assert line(ScheduleError, parse_schedule, text) == says


def test_rows_are_read_with_how_they_are_done():
    plan = parse_schedule("16 UNTIL 12.5%; 8 until 0.5 %\n then 2".replace("0.5 %", "50 %"), "resample", 1.2)
    assert plan == PatchSchedule((Row(16, 0.125), Row(8, 0.5), Row(2)), "resample", 1.2) and plan.finest == 2
    assert parse_schedule("1") == PatchSchedule((Row(1),)) and parse_schedule("4 until 100%, then 2").rows[0] == Row(4, 1.0)
    assert parse_schedule("8 until 10%, 4 until sigma 0.5, then 2").rows == (Row(8, 0.1), Row(4, sigma=0.5), Row(2))


@pytest.mark.parametrize("text,sizes", [
    ("4 until 30%, then 2", "4442222222"), ("4 until 31%, then 2", "4444222222"), ("4 until 0%, then 2", "2222222222"), ("4 until sigma 0.5, then 2", "4444422222"),
    ("8 until sigma 0.9, 4 until 50%, then 2", "8444422222"), ("2", "2222222222")])
def test_each_step_has_the_size_of_its_row(text, sizes):
    sigmas, plan = torch.linspace(1, 0, 11), parse_schedule(text)
    assert "".join(str(plan.patch_size(sigmas[i].item(), i, 10)) for i in range(10)) == sizes
    stretches = plan.stretches(sigmas, 1, 9)
    assert "".join(str(size) * (stop - start) for size, start, stop in stretches) == sizes[1:9] and stretches[0][1] == 1 and stretches[-1][2] == 9
    assert all(a[2] == b[1] and a[0] != b[0] for a, b in zip(stretches, stretches[1:]))


def test_rows_that_end_before_the_last_step_go_on():
    assert PatchSchedule((Row(4, 0.5),)).patch_size(0.1, 9, 10) == 4  # made without parse_schedule


def test_a_schedule_says_what_was_not_native_and_tells_each_step(backbone, positive):
    sigmas = backbone.schedule(6)
    tokens = backbone.add_noise(backbone.fold({"samples": randn(1, 4, 8, 16)}), sigmas, 1, 3)[0]
    told = []
    wire, x0, said = denoise_by_schedule(backbone, tokens, parse_schedule("8 until 34%, 4 until 67%, then 2"), sigmas, positive, None, 1.0, "euler", 1, 6,
                                         lambda done, wire, x0: told.append((done, wire["patch_size"], x0.shape[1])))
    assert said == "p = 8 by resample" and told == [(1, 8, 2), (2, 8, 2), (3, 4, 8), (4, 4, 8), (5, 2, 32)]
    assert wire["patch_size"] == x0["patch_size"] == 2


# --- the quick look -------------------------------------------------------------------------------------------------

def looked(dit, wire, sigmas, start=0, stop=10000, positive=None):
    """(picture, the size it was drawn in, its noise levels)."""
    seen = []

    class Handle(SimpleNamespace):
        def reading(self, size):
            return SimpleNamespace(denoise=lambda wire, levels, *how: seen.append((wire["patch_size"], levels.tolist(), "memory" in wire, *how[2:])) or (wire, wire))
    found = quick_look(Handle(patch_sizes=dit, picture=lambda wire, tokens: tokens.mean()), wire, sigmas, positive, None, 3.0, start, stop)
    return found, seen[0]


def test_a_quick_look_walks_the_same_stretch_in_four_steps_of_the_coarsest_patches():
    wire, sigmas = {**fold(randn(1, 4, 16, 16), 2), "memory": {}}, torch.linspace(1, 0, 21)
    found, (size, levels, remembers, cfg) = looked((2, 4), wire, sigmas)
    assert found is not None and size == 4 and not remembers and cfg == 3.0 and levels == pytest.approx([1, .75, .5, .25, 0]) and QUICK_STEPS == 4
    assert looked((2,), wire, sigmas)[1][0] == 4 and looked((1,), fold(randn(1, 4, 16, 16), 4), sigmas)[1][0] == 8
    assert looked((2, 4), fold(randn(1, 4, 16, 16), 8), sigmas)[1][0] == 8
    assert looked((2, 4), wire, sigmas, 10, 14)[1][1] == pytest.approx([.5, .45, .4, .35, .3])
    assert looked((2, 4), wire, sigmas, 18)[1][1] == pytest.approx([.1, .05, 0], abs=1e-6)


def test_a_quick_look_that_can_t_be_made_is_none():
    assert quick_look(SimpleNamespace(patch_sizes=(2, 4)), fold(randn(1, 4, 3, 3), 2), torch.linspace(1, 0, 5), None, None, 1.0, 0, 4) is None
