"""The nodes as a workflow calls them: reports, round trips, wrong inputs."""

import logging
import re

from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
import pytest
import torch

from dit_blocks.dit_impl.sampling.flow import DDPM
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.tokens.wire import latent_format
from dit_blocks.nodes import NODES
from dit_blocks.nodes.comfyui import host
from dit_blocks.nodes.denoise import AddNoise, Denoise, DenoiseStep, Schedule
from dit_blocks.nodes.load import LoadEmbedded
from dit_blocks.nodes.patch import Patchify, Unpatchify
from dit_blocks.nodes.vae import EmptyLatent, VAEDecode, VAEEncode
from dit_blocks.standalone import folders


def out(node, **inputs):
    return node.execute(**inputs).result


def said(node, **inputs) -> str:
    shown = node.execute(**inputs).ui
    return (shown if isinstance(shown, dict) else shown.as_dict())["text"][0]


@pytest.fixture
def latent():
    return {"samples": torch.randn(2, 4, 9, 12, generator=torch.Generator().manual_seed(0))}


@pytest.fixture
def start(backbone):
    """sigmas and noisy tokens of a small model."""
    return start_of(backbone)


def start_of(backbone, step=0):
    (empty,) = out(EmptyLatent, dit=backbone, width=64, height=64, batch_size=1)
    (sigmas,) = out(Schedule, dit=backbone, steps=8, scheduler="simple", denoise=1.0)
    tokens, _ = out(Patchify, latent=empty, patch_size=0, dit=backbone)
    noisy, _ = out(AddNoise, dit=backbone, tokens=tokens, sigmas=sigmas, step=step, seed=1)
    return {"dit": backbone, "tokens": noisy, "sigmas": sigmas}


def test_patchify_reports_the_token_arithmetic():
    text = said(Patchify, latent={"samples": torch.ones(1, 4, 64, 64)}, patch_size=2)
    assert text == "1024 tokens of 16 values: a 32×32 grid of 2×2 patches of a 64×64×4 latent"
    assert said(Patchify, latent={"samples": torch.ones(1, 4, 9, 12)}, patch_size=4).endswith("9×12×4 latent, padded to 12×12")


def test_vae_encode_reports_the_compression():
    class TextbookVAE:
        def encode(self, pixels):
            return torch.zeros(1, 4, 64, 64)
    assert said(VAEEncode, pixels=torch.zeros(1, 512, 512, 3), vae=TextbookVAE()) == "512×512×3 → 64×64×4: 1/48 of the values"


@pytest.mark.parametrize("patch_size", [1, 2, 3, 4, 8, 9])
def test_patchify_and_back_is_the_same_latent(latent, patch_size):
    before = latent["samples"].clone()
    tokens, _ = out(Patchify, latent=latent, patch_size=patch_size)
    back, _ = out(Unpatchify, tokens=tokens)
    assert torch.equal(back["samples"], before) and torch.equal(latent["samples"], before)


def test_patchify_goes_into_the_model_s_space_and_unpatchify_out_of_it(backbone, latent):
    backbone.latent_format = latent_format(torch.tensor([2.0, 4, 8, 0.5]), torch.tensor([1.0, 0, -1, 3]))
    tokens, _ = out(Patchify, latent=latent, patch_size=4, dit=backbone)
    wanted = (latent["samples"] - backbone.latent_format["shift"].view(1, 4, 1, 1)) * backbone.latent_format["scale"].view(1, 4, 1, 1)
    assert torch.equal(tokens["tokens"][0, 0].view(4, 4, 4), wanted[0, :, :4, :4])
    back, _ = out(Unpatchify, tokens=tokens)
    torch.testing.assert_close(back["samples"], latent["samples"], atol=1e-6, rtol=1e-6)


def test_an_empty_core_latent_takes_the_model_s_channels(backbone):
    backbone.latent_format = latent_format(torch.full((4,), 2.0), torch.ones(4))
    tokens, _ = out(Patchify, latent={"samples": torch.zeros(1, 16, 8, 8)}, patch_size=2, dit=backbone)
    assert tokens["channels"] == 4 and not tokens["tokens"].any()


def test_eight_steps_equal_one_denoise(start, positive, negative):
    common = {"positive": positive, "negative": negative, "cfg": 3.0}
    for solver in ("euler", "heun", "dpmpp_2m"):
        whole, whole_x0, *_ = out(Denoise, **start, **common, solver=solver, start_step=0, end_step=10000)
        tokens = start["tokens"]
        for step in range(8):
            tokens, x0 = out(DenoiseStep, **{**start, "tokens": tokens}, **common, solver=solver, step=step)
        assert torch.equal(tokens["tokens"], whole["tokens"]) and torch.equal(x0["tokens"], whole_x0["tokens"])


def test_the_trajectory_is_x0_after_each_step(backbone, positive):
    start = start_of(backbone, 2)
    start["dit"].latent_rgb = torch.rand(5, 3)
    common = {"positive": positive, "cfg": 1.0, "solver": "euler"}
    answer = Denoise.execute(**start, **common, start_step=2, end_step=7)
    (facts,) = answer.ui["dit_blocks"]
    assert answer.result[2].shape == (5, 8, 8, 3) and facts["steps"] == [2, 3, 4, 5, 6]
    assert facts["sigmas"] == start["sigmas"][2:7].tolist() and facts["trajectory"]["type"] == "temp"
    tokens = start["tokens"]
    for step in range(2, 7):
        tokens, x0 = out(DenoiseStep, **{**start, "tokens": tokens}, **common, step=step)
        assert torch.equal(answer.result[2][step - 2], start["dit"].picture(x0, x0["tokens"]))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_blocks_are_captured_and_change_nothing(backbone, positive, negative, solver, cfg):
    start = start_of(backbone, 1)
    common = {"positive": positive, "negative": negative, "cfg": cfg, "solver": solver, "start_step": 1, "end_step": 5}
    plain = Denoise.execute(**start, **common)
    seen = Denoise.execute(**start, **common, capture_blocks=True)
    for wire, same in zip(seen.result[:2], plain.result[:2]):
        assert torch.equal(wire["tokens"], same["tokens"])
    assert torch.equal(seen.result[2], plain.result[2]) and torch.equal(plain.result[3], plain.result[2])
    by_block = seen.result[3].unflatten(0, (4, 2))
    assert torch.equal(by_block[:, 1], plain.result[2])  # the last block's is the step's own
    assert not torch.equal(by_block[:, 0], plain.result[2])
    (facts,), (without,) = seen.ui["dit_blocks"], plain.ui["dit_blocks"]
    assert facts["blocks"] == [0, 1] and without["blocks"] == []
    assert (without["size"], without["batch"], without["schedule"]) == ((8, 8), 1, 8)
    temp = folders.current().temp
    sizes = [Image.open(temp / each["trajectory"]["subfolder"] / each["trajectory"]["filename"]).size for each in (facts, without)]
    assert sizes == [(4 * 8, 2 * 8), (4 * 8, 8)]


def test_a_long_trajectory_is_shown_by_64_of_its_steps(start, positive):
    sigmas = torch.linspace(1, 0, 101)
    answer = Denoise.execute(**{**start, "sigmas": sigmas}, positive=positive, cfg=1.0, solver="euler", start_step=0, end_step=100)
    steps = answer.ui["dit_blocks"][0]["steps"]
    assert len(answer.result[2]) == 100 and len(steps) == 64 and (steps[0], steps[-1]) == (0, 99)


def test_a_quick_look_comes_first_and_changes_nothing(start, positive):
    seen, common = [], {"positive": positive, "cfg": 1.0, "solver": "dpmpp_2m", "start_step": 0, "end_step": 8}
    plain = out(Denoise, **start, **common)
    try:
        host.listen(lambda done, of, picture: seen.append((done, picture is not None)))
        looked = out(Denoise, **start, **common, quick_look=True)
    finally:
        host.listen()
    assert seen == [(done, True) for done in range(9)]
    assert all(torch.equal(a["tokens"], b["tokens"]) for a, b in zip(plain[:2], looked[:2])) and torch.equal(plain[2], looked[2])


@pytest.mark.parametrize("text,chosen", [("", range(12)), ("0-2, 7", [0, 1, 2, 7]), ("11", [11]), ("all", range(12)), ("3-1", [1, 2, 3])])
def test_a_selection_is_a_mask_with_a_cell_a_token(latent, text, chosen):
    mask = out(Patchify, latent=latent, patch_size=3, selection=text)[1]
    assert mask.shape == (1, 3, 4) and mask.flatten().nonzero().flatten().tolist() == list(chosen)


@pytest.mark.parametrize("text,says", [("12", "the grid has tokens 0 to 11, there is no token 12"), ("a", "tokens are numbers and ranges")])
def test_a_selection_outside_the_grid_is_refused(latent, text, says):
    with pytest.raises(ValueError, match=f"^Patchify: selection: {says}"):
        out(Patchify, latent=latent, patch_size=3, selection=text)


def test_patchify_tells_what_its_grid_is_drawn_from(latent, backbone):
    (facts,) = Patchify.execute(latent=latent, patch_size=2, dit=backbone).ui["dit_blocks"]
    assert (facts["size"], facts["channels"], facts["patch_size"], facts["batch"]) == ((9, 12), 4, 2, 2) and facts["shape"]["patch_size"] == 2
    assert facts["picture"]["type"] == "temp"
    empty = {"samples": torch.zeros_like(latent["samples"])}
    (facts,) = Patchify.execute(latent=empty, patch_size=2).ui["dit_blocks"]
    assert "picture" not in facts and facts["shape"] is None


def test_progress_preview_and_cancel(start, positive):
    seen = []
    start["dit"].latent_rgb = torch.rand(5, 3)
    try:
        host.listen(lambda done, of, picture: seen.append((done, of, picture and picture.size)))
        out(Denoise, **start_of(start["dit"], 2), positive=positive, cfg=1.0, solver="euler", start_step=2, end_step=5)
        assert seen == [(i, 3, (256, 256)) for i in (1, 2, 3)]
        seen.clear()
        host.listen(lambda *progress: seen.append(progress), lambda: len(seen) >= 2)
        with pytest.raises(host.Interrupted):
            out(Denoise, **start, positive=positive, cfg=1.0, solver="euler", start_step=0, end_step=8)
        assert len(seen) == 2
    finally:
        host.listen()


def wrong(wire, **changes):
    return {**wire, **changes}


@pytest.mark.parametrize("change,message", [
    (lambda s: {"tokens": wrong(s["tokens"], channels=16)},
     "DiT Denoise: a small DiT has latents of 4 channels, the tokens come from 16"),
    (lambda s: {"tokens": wrong(s["tokens"], patch_size=8), "patch_method": "native"},
     "DiT Denoise: a small DiT knows patch sizes 2, 4, not 8: patch_method native can't read it, resample or pi_resize may"),
    (lambda s: {"tokens": wrong(s["tokens"], patch_size=3), "patch_method": "resample"},
     "DiT Denoise: resample takes multiples of a small DiT's own patch size 2, not 3: pi_resize takes any"),
    (lambda s: {"tokens": wrong(s["tokens"], latent_format=latent_format(torch.ones(4), torch.ones(4)))},
     "DiT Denoise: the tokens are not in the latent space of a small DiT: wire its dit into Patchify"),
    (lambda s: {"tokens": wrong(s["tokens"], tokens=s["tokens"]["tokens"] * float("nan"))},
     "DiT Denoise: the tokens hold values that are NaN or infinite"),
    (lambda s: {"start_step": 8}, "DiT Denoise: step 8 is outside the schedule, whose steps are 0 to 7"),
    (lambda s: {"sigmas": torch.tensor([])}, "DiT Denoise: sigmas are a list of at least 2 noise levels, not \\[0\\]"),
    (lambda s: {"sigmas": None}, "DiT Denoise: sigmas are a list of at least 2 noise levels, not None"),
    (lambda s: {"positive": [[torch.zeros(1, 5, 33), {}]]}, "DiT Denoise: positive conditioning has width 33, a small DiT reads width 32"),
    (lambda s: {"positive": [[torch.zeros(1, 5, 32), {}]]}, "DiT Denoise: positive conditioning has no pooled_output"),
    (lambda s: {"sampler": object()}, "DiT Denoise: sampler is for ComfyUI's own samplers and guiders: run this workflow in ComfyUI"),
    (lambda s: {"guider": object()}, "DiT Denoise: guider is for ComfyUI's own samplers and guiders: run this workflow in ComfyUI"),
    (lambda s: {"cfg": 4.0}, "DiT Denoise: cfg 4 needs a negative: wire one, or set cfg to 1"),
])
def test_wrong_inputs_are_one_line_that_names_the_node(start, positive, change, message):
    inputs = {**start, "positive": positive, "cfg": 1.0, "solver": "euler", "start_step": 0, "end_step": 8}
    with pytest.raises(ValueError, match="^" + message) as caught:
        out(Denoise, **{**inputs, **change(start)})
    assert "\n" not in str(caught.value)


def test_noise_goes_on_tokens_of_the_model_s_own_latents_only(start):
    inputs = {"dit": start["dit"], "sigmas": start["sigmas"], "step": 0, "seed": 1}
    with pytest.raises(ValueError, match=r"^Add Noise \(DiT\): a small DiT has latents of 4 channels, the tokens come from 16"):
        out(AddNoise, **inputs, tokens=wrong(start["tokens"], channels=16))
    with pytest.raises(ValueError, match=r"^Add Noise \(DiT\): the tokens are not in the latent space of a small DiT: wire its dit into Patchify"):
        out(AddNoise, **inputs, tokens=wrong(start["tokens"], latent_format=latent_format(torch.ones(4), torch.ones(4))))


@pytest.mark.parametrize("samples,patch_size,message", [
    (torch.zeros(1, 4, 6, 8), 8, "Patchify: latent height 6 is smaller than patch_size 8"),
    (torch.zeros(1, 4, 8, 8) / 0, 2, "Patchify: the latent holds 256 values that are NaN or infinite"),
    (torch.zeros(4, 8, 8), 2, r"Patchify: a latent is \[B, C, H, W\], or \[B, C, T, H, W\] with frames, not \[4, 8, 8\]"),
    (torch.ones(1, 4, 8, 8), 0, "Patchify: patch_size 0 means the model's own: wire a dit, or set a size"),
])
def test_a_latent_that_can_t_be_cut(samples, patch_size, message):
    with pytest.raises(ValueError, match="^" + message):
        out(Patchify, latent={"samples": samples}, patch_size=patch_size)


def test_a_latent_of_other_channels_than_the_model_s(backbone):
    with pytest.raises(ValueError, match="^Patchify: the model's latents have 4 channels, this one has 16"):
        out(Patchify, latent={"samples": torch.ones(1, 16, 8, 8)}, patch_size=2, dit=backbone)


def test_a_step_past_the_schedule(start, positive):
    with pytest.raises(ValueError, match="^DiT Denoise Step: step 8 is outside the schedule"):
        out(DenoiseStep, **start, positive=positive, cfg=1.0, solver="euler", step=8)


def test_a_step_told_another_noise_level_answers_but_hands_on_no_tokens(start, positive):
    common = dict(positive=positive, cfg=1.0, solver="euler")
    (tokens, _) = out(DenoiseStep, **start, **common, step=0)
    right = DenoiseStep.execute(**start | {"tokens": tokens}, **common, step=1)
    told = DenoiseStep.execute(**start | {"tokens": tokens}, **common, step=4)
    line = r"step 4 begins at noise level 0\.5, the tokens stand at 0\.875: set step to 1, or use denoised alone"
    assert isinstance(told.result[0], ExecutionBlocker) and re.fullmatch(f"DiT Denoise Step: {line}", told.result[0].message)
    assert re.fullmatch(line, told.ui["text"][-1]) and not right.ui["text"]
    asked = start["dit"].denoiser(tokens, positive)(tokens["tokens"], start["sigmas"][4])
    assert torch.equal(told.result[1]["tokens"], asked) and not torch.equal(right.result[1]["tokens"], asked)


def test_ddim_is_refused_on_a_flow_and_runs_on_a_ddpm(start, positive):
    with pytest.raises(ValueError, match="^DiT Denoise: ddim is for DDPM models; for a rectified flow the same step is euler"):
        out(Denoise, **start, positive=positive, cfg=1.0, solver="ddim", start_step=0, end_step=8)
    start["dit"].flow = DDPM()
    (sigmas,) = out(Schedule, dit=start["dit"], steps=4, scheduler="karras", denoise=1.0)
    noisy, _ = out(AddNoise, dit=start["dit"], tokens=start["tokens"], sigmas=sigmas, step=0, seed=1)
    tokens, x0, *_ = out(Denoise, dit=start["dit"], tokens=noisy, sigmas=sigmas, positive=positive, cfg=1.0, solver="ddim", start_step=0, end_step=4)
    assert torch.isfinite(tokens["tokens"]).all() and torch.equal(tokens["tokens"], x0["tokens"])


def test_the_embedded_model_s_parts_work_together():
    dit, clip, vae = out(LoadEmbedded)
    pixels = torch.rand(1, 70, 66, 4)
    samples = vae.encode(pixels)
    assert samples.shape == (1, dit.channels, 8, 8)
    assert vae.decode(samples).shape == (1, 64, 64, 3)
    with pytest.raises(ValueError, match="^VAE Decode .DiT.: this VAE decodes latents of 16 channels"):
        out(VAEDecode, latent={"samples": torch.zeros(1, 4, 8, 8)}, vae=vae)
    with pytest.raises(ValueError, match="^VAE Encode .DiT.: a picture is at least 8×8 pixels, this one is 9×4"):
        out(VAEEncode, pixels=torch.zeros(1, 4, 9, 3), vae=vae)


def test_words_outside_the_vocabulary_are_named_and_left_out(caplog):
    _, clip, _ = load_embedded()
    with caplog.at_level(logging.WARNING):
        strange = clip.encode_from_tokens_scheduled(clip.tokenize("a large shiny red circle, obviously"))
    assert "shiny, obviously" in caplog.text
    plain = clip.encode_from_tokens_scheduled(clip.tokenize("A big red circle"))
    assert torch.equal(strange[0][0], plain[0][0]) and torch.equal(strange[0][1]["pooled_output"], plain[0][1]["pooled_output"])


def test_every_node_has_a_display_name_of_its_own():
    names = [cls.define_schema().display_name for cls in NODES]
    assert len(set(names)) == len(names)


def nan_in(values: torch.Tensor) -> torch.Tensor:
    broken = values.clone()
    broken.flatten()[3] = float("nan")
    return broken


def test_nan_is_told_wherever_it_comes_in(start, positive, latent):
    _, _, vae = load_embedded()
    common = {"cfg": 1.0, "solver": "euler", "start_step": 0, "end_step": 2}
    broken = {**start["tokens"], "tokens": nan_in(start["tokens"]["tokens"])}
    text = [[nan_in(positive[0][0]), positive[0][1]]]
    for node, inputs, message in (
            (VAEEncode, dict(pixels=nan_in(torch.rand(1, 16, 16, 3)), vae=vae), "VAE Encode (DiT): the picture holds 1 value"),
            (VAEDecode, dict(latent={"samples": nan_in(torch.rand(1, 16, 4, 4))}, vae=vae), "VAE Decode (DiT): the latent holds 1 value"),
            (Unpatchify, dict(tokens=broken), "Unpatchify: the tokens wire holds 1 value"),
            (Denoise, dict(**start, positive=text, **common), "DiT Denoise: the model's answer holds")):
        with pytest.raises(ValueError) as caught:
            node.execute(**inputs)
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_both_kinds_of_steps_of_a_list_are_shown(start, positive):
    """ComfyUI joins what a list's items show by the first item's keys."""
    shown = [Denoise.execute(**{**start, "tokens": tokens}, positive=positive, cfg=1.0, solver="euler", start_step=0, end_step=2).ui
             for tokens in (start["tokens"], {**start["tokens"]})]
    assert shown[0].keys() == shown[1].keys() == {"text", "dit_blocks"}


def test_words_that_are_ignored_are_told_on_the_node():
    dit, clip, _ = load_embedded()
    (sigmas,) = out(Schedule, dit=dit, steps=2, scheduler="simple", denoise=1.0)
    tokens = dit.add_noise(dit.fold({"samples": torch.zeros(1, 16, 8, 8)}, 8), sigmas, 0, 1)[0]
    common = {"dit": dit, "tokens": tokens, "sigmas": sigmas, "cfg": 1.0, "solver": "euler"}
    for text, told in (("a red circle", ()), ("a fluffy red dragon", ("words ignored, because the text encoder does not know them: fluffy, dragon",))):
        positive = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        answer = Denoise.execute(**common, positive=positive, start_step=0, end_step=2)
        assert answer.ui["text"] == answer.ui["dit_blocks"][0]["remarks"] == told
        assert DenoiseStep.execute(**common, positive=positive, step=0).ui["text"] == told


def test_a_run_makes_no_schema_anew(latent, monkeypatch):
    """Making one lists the files that its widgets offer."""
    schema = Patchify.GET_SCHEMA()
    assert Patchify.SCHEMA is schema
    monkeypatch.setattr(Patchify, "define_schema", None)
    assert out(Patchify, latent=latent, patch_size=3)
    with pytest.raises(ValueError, match="^Patchify: "):
        Patchify.execute(latent=latent, patch_size=-1)
