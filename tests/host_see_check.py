"""Runs under ComfyUI's Python: the nodes that show, over MODELs. One line of JSON a case: {"case", "error"}.

    python tests/host_see_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

import sys

from host_model_check import out
from host_models import MODELS, run_cases, start
import torch

REFINED = ("lumina2", "z_image")  # models that refine picture tokens before the blocks
ADDED = ("sd3", "sd35_medium", "pixart", "pixart_alpha", "auraflow")  # models that add positions to tokens


def begun(model, positive, samples, seed=5):
    """A step that has begun: → dit, noise levels, clean tokens, noisy tokens, DIT_HIDDEN after DiT Condition."""
    from dit_blocks.nodes.denoise import AddNoise, Schedule
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify
    from dit_blocks.nodes.transformer import Condition
    (dit,) = out(FromModel, model=model)
    clean, _ = out(Patchify, latent={"samples": samples}, patch_size=0, dit=dit)
    (sigmas,) = out(Schedule, dit=dit, steps=3, scheduler="simple", denoise=1.0)
    tokens, _ = out(AddNoise, dit=dit, tokens=clean, sigmas=sigmas, step=1, seed=seed)
    return dit, sigmas, clean, tokens, out(Condition, dit=dit, x=tokens, positive=positive, sigmas=sigmas, step=1)[0]


def filters_are_what_patch_embed_does(name, make):
    """Two pictures' difference after Patch Embed is the filters' answer to the difference of their tokens, up to the input's scale."""
    from dit_blocks.dit_impl.see.filters import filters_of
    from dit_blocks.dit_impl.tokens.edit import values
    from dit_blocks.nodes.pictures import PatchFilters
    from dit_blocks.nodes.transformer import PatchEmbed
    model, positive, _, samples = make()
    dit, sigmas, _, first, one = begun(model, positive, samples)
    known = model.model.latent_format  # filters are shown in the colours that ComfyUI previews the model's latents in
    if known.latent_rgb_factors and known.latent_rgb_factors_reshape is None:
        assert torch.equal(dit.latent_rgb[:-1], torch.tensor(known.latent_rgb_factors)) and dit.latent_rgb.shape == (dit.channels + 1, 3)
    if name == "wan_i2v":  # its embedder reads a picture's latent and a mask beside the noisy latent
        try:
            out(PatchFilters, dit=dit, patch_size=0, count=24)
        except ValueError as error:
            assert str(error) == f"Patch Filters: the patch embedding of {dit.name} takes more than 16 channels of 2×2 cells", error
            return
        raise AssertionError("not refused")
    picture, low, rank, text = out(PatchFilters, dit=dit, patch_size=0, count=24, language="English")
    assert picture.isfinite().all() and low > 0 and rank > 1 and text
    filters = filters_of(dit)
    *_, second, two = begun(model, positive, samples, seed=6)
    embedded = [values(out(PatchEmbed, dit=dit, x=hidden)[0]).float() for hidden in (one, two)]
    expected = (first["tokens"] - second["tokens"]).float() @ filters.flatten(1).T
    actual = (embedded[0] - embedded[1])[-len(expected):]
    factor = (actual * expected).sum() / expected.square().sum()
    assert factor > 0
    torch.testing.assert_close(actual, factor * expected, atol=1e-4 * actual.abs().max().item(), rtol=1e-3)


def tokens_are_shown(name, make):
    from dit_blocks.nodes.pictures import TokenPCA, TokenSimilarity
    from dit_blocks.nodes.transformer import PatchEmbed, PositionEmbed, RunBlocks
    model, positive, _, samples = make()
    dit, sigmas, clean, tokens, hidden = begun(model, positive, samples)
    (hidden,) = out(PositionEmbed, dit=dit, hidden=out(PatchEmbed, dit=dit, x=hidden)[0], mode="model", seed=0)
    (hidden,) = out(RunBlocks, dit=dit, hidden=hidden, blocks="0", strength=1.0)
    before = hidden["hidden"].x.clone()
    for wire in (clean, hidden):
        image, colours, norms, explained, text = out(TokenPCA, x=wire)
        assert 0 < explained <= 1 + 1e-5 and colours.shape[1:3] == norms.shape[1:] == clean["grid"][-2:]
        image, found = out(TokenSimilarity, x=wire, query=1, centred=False)
        assert abs(found.flatten()[1].item() - 1) < 1e-5 and image.isfinite().all()
    assert torch.equal(before, hidden["hidden"].x)


def flops_are_those_that_torch_counts(name, make):
    """A pass of the model in all its stages, its attention computed as two products of matrices, which torch's counter sees."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from dit_blocks.dit_impl.cost.arithmetic import architecture, budget
    from dit_blocks.dit_impl.see.report import flops
    from dit_blocks.nodes.pictures import PipelineReport
    from dit_blocks.nodes.transformer import FinalLayer, PatchEmbed, PositionEmbed, RunBlocks
    size = (34, 40) if name.startswith("pixart") else (32, 24)
    model, positive, _, samples = make(size=size)
    begun(model, positive, samples)  # what the nodes count on shapes is counted once
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        dit, sigmas, clean, tokens, hidden = begun(model, positive, samples)
        (hidden,) = out(PositionEmbed, dit=dit, hidden=out(PatchEmbed, dit=dit, x=hidden)[0], mode="model", seed=0)
        out(FinalLayer, dit=dit, hidden=out(RunBlocks, dit=dit, hidden=hidden, blocks="all", strength=1.0)[0])
    picture, text = out(PipelineReport, latent={"samples": samples}, tokens=clean, hidden=hidden, dit=dit)
    assert picture.isfinite().all()
    length = hidden["hidden"].context.shape[1]
    if name == "wan_i2v":
        assert text.endswith(f"FLOPs are left out: the prompt of {dit.name} has pictures in it, which Patch Budget counts where positive is wired"), text
        return
    shape = architecture(dit, samples.shape[2] if samples.dim() == 5 else 1, text=length if name.startswith("wan") else None)
    length -= shape.registers
    height, width = (side * dit.downscale for side in size)
    step = budget(shape, width, height, text=length, guided=False)
    assert abs(2 * step.macs / counter.get_total_flops() - 1) < 0.01, (2 * step.macs, counter.get_total_flops(), shape)
    assert flops(budget(shape, width, height, text=length)) in text and shape.parameters == sum(
        w.numel() for w in model.model.diffusion_model.parameters())


def full_size_costs_are_the_published_ones(*_):
    """TFLOPs a step at 1024×1024 and billions of parameters, of models without weights."""
    from comfy.ldm.flux.model import Flux
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
    from comfy.ldm.pixart.pixartms import PixArtMS
    import comfy.ops

    from dit_blocks.dit_impl.cost.arithmetic import budget
    from dit_blocks.nodes.comfyui.stages import stages_of
    bare = {"dtype": torch.bfloat16, "device": "meta", "operations": comfy.ops.disable_weight_init}
    text = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}}
    flux = Flux(in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=4096, hidden_size=3072, mlp_ratio=4.0, num_heads=24, depth=19,
                depth_single_blocks=38, axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True, txt_ids_dims=[], **bare)
    sd3 = OpenAISignatureMMDITWrapper(input_size=None, in_channels=16, depth=24, num_patches=192 ** 2, pos_embed_max_size=192, adm_in_channels=2048,
                                      context_embedder_config=text, **bare)
    pixart = PixArtMS(depth=28, model_max_length=300, micro_condition=False, **bare)
    for model, channels, tflops, billions in ((flux, 16, 74.38, 11.90), (sd3, 16, 16.87, 2.028), (pixart, 4, 13.27, 0.611)):
        shape = stages_of(model).architecture("a MODEL", channels, 8)
        assert abs(2 * budget(shape, 1024, 1024).macs / 1e12 / tflops - 1) < 0.005 and abs(shape.parameters / 1e9 / billions - 1) < 0.005, shape


def trajectory_is_denoise(name, make):
    from dit_blocks.dit_impl.see.trajectory import moments
    from dit_blocks.nodes.denoise import Denoise
    model, positive, negative, samples = make()
    dit, sigmas, _, tokens, _ = begun(model, positive, samples)
    common = {"dit": dit, "tokens": tokens, "sigmas": sigmas, "positive": positive, "negative": negative, "cfg": 4.0, "solver": "euler"}
    (expected, x0, *_) = out(Denoise, **common, start_step=1, end_step=3)
    found, end, last = moments(**common, at_steps="", start_step=1, end_step=3)
    assert torch.equal(end["tokens"], expected["tokens"]) and torch.equal(last["tokens"], x0["tokens"]) and [m.step for m in found] == [1, 2]


def content_and_place(name, make):
    from dit_blocks.dit_impl.errors import StagesError
    from dit_blocks.dit_impl.see import content_place
    model, positive, _, samples = make()
    dit, sigmas, clean, _, _ = begun(model, positive, samples)
    try:
        answer = content_place.take_and_replace(dit, clean, sigmas, 1, positive, None, 1.0, 5, 1)
    except StagesError as error:
        assert name not in ADDED and "does not add positions to tokens" in str(error) and "\n" not in str(error), error
        return
    assert name in ADDED
    own = dit.denoise(answer.noisy, sigmas, positive, None, 1.0, start_step=1, end_step=2)[1]["tokens"]
    torch.testing.assert_close(answer.x0["whole"]["tokens"], own, atol=1e-4, rtol=1e-4)
    assert answer.change["no content"] > 0 and answer.change["no place"] > 0


def a_token_travels_as_the_stages_say(name, make):
    from dit_blocks.dit_impl.see.journey import described, journeys
    from dit_blocks.nodes.transformer import FinalLayer, PatchEmbed, PositionEmbed, RunBlocks
    model, positive, _, samples = make()
    dit, _, _, _, wire = begun(model, positive, samples)
    (plain,) = out(PositionEmbed, dit=dit, hidden=out(PatchEmbed, dit=dit, x=wire)[0], mode="model", seed=0)
    (plain,) = out(RunBlocks, dit=dit, hidden=plain, blocks="all", strength=1.0)
    after, told = journeys(dit, wire, 3, 2)
    assert torch.equal(after["hidden"].x, plain["hidden"].x)
    answers = out(FinalLayer, dit=dit, hidden=plain)[0]["tokens"]
    assert torch.equal(told.answers, answers[wire["call"].layout.index("cond") * len(samples)][told.tokens].float())
    assert told.norms.isfinite().all() and told.read is not None and 0 < told.read.sum(1).max() <= 1.001
    assert told.rotary == (name not in ADDED) and (told.placed - told.embedded).any() == (name in (*ADDED, *REFINED))
    assert (told.matrix is None) == (name in ("wan_i2v", "pixart", "pixart_alpha"))  # one embeds a picture too, the others scale the values
    said = described(told, 3, 2)
    assert ("rotary" in said) == told.rotary and ("layers before the blocks" in said) == (name in REFINED), said


def a_token_travels_without_an_adapter(*_):
    import host_zoo
    import host_zoo_transformers  # noqa: F401
    import host_zoo_unets  # noqa: F401
    import host_zoo_videos  # noqa: F401

    from dit_blocks.dit_impl.errors import StagesError
    from dit_blocks.dit_impl.see.journey import described, journeys
    for name in ("chroma", "omnigen2", "cosmos_predict2", "cogvideox"):
        model, positive, _, size = host_zoo.ZOO[name]()
        dit, _, _, _, wire = begun(model, positive, torch.zeros(1, *size))
        said = described(journeys(dit, wire, 3, 2)[1], 3, 2)
        assert "do not show apart" in said and "Its place" not in said, said
    model, positive, _, size = host_zoo.ZOO["sd15"]()
    dit, _, _, _, wire = begun(model, positive, torch.zeros(1, *size))
    try:
        journeys(dit, wire, 3, 2)
    except StagesError as error:
        assert "it is not known which tokens" in str(error) and "\n" not in str(error)
    else:
        raise AssertionError("a UNet's tokens are of several sizes")


def wires_are_compared_with_the_model(name, make):
    """Wires = KSampler? finds the model's own blocks equal, and names the block after which changed ones part."""
    from dit_blocks.nodes.probe import Parity
    from dit_blocks.nodes.transformer import FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks
    model, positive, _, samples = make()
    dit, sigmas, _, _, hidden = begun(model, positive, samples)
    (hidden,) = out(PositionEmbed, dit=dit, hidden=out(PatchEmbed, dit=dit, x=hidden)[0], mode="model", seed=0)
    (hidden,) = out(RunBlocks, dit=dit, hidden=hidden, blocks="0", strength=1.0)
    last = len(dit.stages.over(hidden["hidden"]).kinds) - 1
    for strength, says in ((1.0, "equal, bit for bit"), (0.5, f"first after block {last}")):
        (after,) = out(RunBlocks, dit=dit, hidden=hidden, blocks=f"1-{last}", strength=strength)
        (x0,) = out(Guidance, prediction=out(FinalLayer, dit=dit, hidden=after)[0], cfg=1.0)
        told = Parity.execute(dit=dit, prediction=x0, sigmas=sigmas, step=1, positive=positive, cfg=1.0)
        largest, said = told.result[0], told.ui.as_dict()["text"][0]
        assert said.endswith(says) and (largest == 0) == (strength == 1), said


CHECKS = (a_token_travels_as_the_stages_say, filters_are_what_patch_embed_does, tokens_are_shown, flops_are_those_that_torch_counts,
          trajectory_is_denoise, content_and_place, wires_are_compared_with_the_model)
CASES = {f"{check.__name__} {name}": (check, name) for check in CHECKS for name in MODELS}
CASES["a token travels without an adapter"] = (a_token_travels_without_an_adapter, "sd3")
CASES["full-size costs are the published ones"] = (full_size_costs_are_the_published_ones, "sd3")

if __name__ == "__main__":
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])
