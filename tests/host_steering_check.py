"""Runs under ComfyUI's Python: KSampler over Steer (MODEL) against the same steps laid out as stages with Steer. One line of JSON a case.

    python tests/host_steering_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks [words]
"""

import importlib
import sys

from host_adapter_check import adapter_for, with_adapter
from host_blocks_check import SEED, STEPS, blocks_of, picture, planned, refused, same
from host_cache_check import ALWAYS, NEVER, caching, hits
from host_model_check import out
from host_models import MODELS, ksampler, run_cases, start
from host_patch_check import own_size, scheduled
from host_riders import extra
from host_stages_check import lora
import torch

CORNER = torch.zeros(1, 64, 64)
CORNER[:, :40, :40] = 1


def vector(block, width, seed=0):
    from dit_blocks.dit_impl.tokens.steering import SteeringVector
    return SteeringVector(torch.randn(width, generator=torch.Generator().manual_seed(seed)), "a MODEL", block, 24.0)


def width_of(made) -> int:
    return begun(made)[1]["hidden"].x.shape[-1]


def steered(model, one, strength=2.0, rows="both", mask=None, start_percent=0.0, end_percent=1.0):
    from dit_blocks.nodes.steering import SteerModel
    return out(SteerModel, model=model, vector=one, strength=strength, rows=rows, mask=mask, start_percent=start_percent, end_percent=end_percent)[0]


def prepared(made, patch_size=0):
    """→ dit, tokens at the first noise level, sigmas."""
    from dit_blocks.nodes.denoise import AddNoise, Schedule
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify
    (dit,) = out(FromModel, model=made[0])
    tokens, *_ = out(Patchify, latent={"samples": made[3]}, patch_size=patch_size, dit=dit)
    (sigmas,) = out(Schedule, dit=dit, steps=STEPS, scheduler="simple", denoise=1.0)
    return dit, out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=SEED)[0], sigmas


def begun(made, tokens=None, step=0):
    """→ dit, hidden states before the first block."""
    from dit_blocks.nodes.transformer import Condition, PatchEmbed, PositionEmbed
    dit, first, sigmas = prepared(made)
    (hidden,) = out(Condition, dit=dit, x=first if tokens is None else tokens, positive=made[1], negative=made[2], sigmas=sigmas, step=step)
    (hidden,) = out(PatchEmbed, dit=dit, x=hidden)
    return dit, out(PositionEmbed, dit=dit, hidden=hidden, mode="model", seed=0)[0]


def by_stages(made, turns, steps=range(STEPS), blocks=None, patch_size=0):
    """KSampler's picture, every step by stages: with Steer before the blocks of the turns in some of the steps."""
    from dit_blocks.nodes.patch import Unpatchify
    from dit_blocks.nodes.steering import Steer
    from dit_blocks.nodes.transformer import FinalLayer, Guidance, RunBlocks, SamplerStep
    _, tokens, sigmas = prepared(made, patch_size)
    for step in range(STEPS):
        dit, hidden = begun(made, tokens, step)
        count = len(dit.stages.over(hidden["hidden"]).kinds)
        for block in (*(range(count) if blocks is None else blocks), count):
            for one, strength, rows, mask in turns if step in steps else ():
                if one.block == block:
                    (hidden,) = out(Steer, hidden=hidden, vector=one, strength=strength, rows=rows, mask=mask)
            if block < count:
                (hidden,) = out(RunBlocks, dit=dit, hidden=hidden, blocks=str(block), strength=1.0)
        (prediction,) = out(Guidance, prediction=out(FinalLayer, dit=dit, hidden=hidden)[0], cfg=4.0)
        tokens, _ = out(SamplerStep, dit=dit, tokens=tokens, prediction=prediction, sigmas=sigmas, step=step, solver="euler")
    return out(Unpatchify, tokens=tokens)[0]["samples"]


def turns_are_their_stages(name, make):
    """Before the first block, between blocks, before the head; both rows or one; all tokens or some."""
    made, width = make(batch=2), width_of(make())
    count, plain = blocks_of(made[0]), picture(made[0], made)
    for block, rows, mask in ((0, "both", None), (1, "positive", CORNER), (count - 1, "positive", None), (count, "both", CORNER)):
        one = vector(block, width)
        changed = picture(steered(made[0], one, rows=rows, mask=mask), made)
        try:
            same(by_stages(made, [(one, 2.0, rows, mask)]), changed)
        except AssertionError as error:
            raise AssertionError(f"before block {block}, {rows}: {error}") from error
        assert not torch.equal(changed, plain)
    same(plain, picture(made[0], made))


def several_and_shares(name, make):
    """Two turns, one of them in a part of sampling, under a LoRA and with another negative; nodes leave what came in as it was."""
    made = lora(make())
    (text, extras), = made[2]
    made = *made[:2], [[torch.cat([text, text[:, :3]], dim=1), extras]], made[3]
    width, sigmas = width_of(made), made[0].get_model_object("model_sampling").percent_to_sigma
    from dit_blocks.nodes.comfyui.handle_of_model import HandleOfModel
    levels = HandleOfModel(made[0]).schedule(STEPS)
    inside = [i for i in range(STEPS) if sigmas(0.6) <= levels[i] <= sigmas(0.2)]
    assert 0 < len(inside) < STEPS
    first, second = vector(1, width), vector(1, width, 1)
    part = steered(made[0], first, rows="positive", start_percent=0.2, end_percent=0.6)
    same(by_stages(made, [(first, 2.0, "positive", None)], inside), picture(part, made))
    both = steered(steered(made[0], first, mask=CORNER), second, strength=-0.5, rows="positive")
    same(by_stages(made, [(first, 2.0, "both", CORNER), (second, -0.5, "positive", None)]), picture(both, made))
    same(by_stages(made, [(first, 2.0, "positive", None)], inside), picture(part, made))


def nothing_turns(name, make):
    made = make()
    plain, one = picture(made[0], made), vector(1, width_of(made))
    assert steered(made[0], one, strength=0.0) is made[0] and steered(made[0], one, mask=torch.zeros(1, 8, 8)) is made[0]
    thin = torch.zeros(1, 64, 64)
    thin[:, :, 10] = 1
    same(plain, picture(steered(made[0], one, mask=thin), made))
    same(plain, picture(steered(made[0], one, start_percent=1.0), made))


def with_plans_and_a_cache(name, make):
    made, width = make(), width_of(make())
    one, last = vector(1, width), blocks_of(made[0]) - 1
    expected = by_stages(made, [(vector(2, width), 2.0, "positive", CORNER)], blocks=[0, *range(2, last + 1)])  # where block 1 would have stood
    for model in (planned(steered(made[0], one, rows="positive", mask=CORNER), "all but 1"),
                  steered(planned(made[0], "all but 1"), one, rows="positive", mask=CORNER)):
        same(expected, picture(model, made))
    plain = picture(steered(made[0], one), made)
    same(plain, picture(caching(steered(made[0], one), NEVER)[0], made))
    same(plain, picture(steered(caching(made[0], NEVER)[0], one), made))
    weak = steered(made[0], one, strength=0.1)
    always, said = caching(weak, ALWAYS)
    found, full = picture(always, made), picture(weak, made)
    assert hits(said) == [False, True, True, True] and not torch.equal(found, full)
    assert (found - full).norm() < (picture(caching(made[0], ALWAYS)[0], made) - full).norm()
    half, said = caching(steered(made[0], one, end_percent=0.5), ALWAYS)
    picture(half, made)
    assert hits(said).count(False) == 2  # other turns are begun anew


def drawn_by_dits(made, model, *dits) -> None:
    """DiT Denoise and a chain of its steps over each of the dits give what KSampler does over the model."""
    from dit_blocks.nodes.denoise import Denoise, DenoiseStep
    from dit_blocks.nodes.patch import Unpatchify
    _, tokens, sigmas = prepared(made)
    for sampler in ("euler", "dpmpp_2m"):
        expected = ksampler(model, *made[1:], sampler=sampler)
        for dit in dits:
            given = dict(dit=dit, sigmas=sigmas, positive=made[1], negative=made[2], cfg=4.0, solver=sampler)
            whole, *_ = out(Denoise, tokens=tokens, start_step=0, end_step=STEPS, **given)
            chain = tokens
            for step in range(STEPS):
                chain, _ = out(DenoiseStep, tokens=chain, step=step, **given)
            for found in (whole, chain):
                same(expected, out(Unpatchify, tokens=found)[0]["samples"])


def by_the_dit(name, make):
    """Over the MODEL that carries turns, and over the DIT of Steer Every Step."""
    from dit_blocks.nodes.steering import SteerSteps
    made = make(batch=2)
    how = dict(vector=vector(1, width_of(made)), strength=2.0, rows="positive", mask=CORNER, start_percent=0.0, end_percent=0.7)
    model = steered(made[0], how["vector"], 2.0, "positive", CORNER, 0.0, 0.7)
    drawn_by_dits(made, model, prepared((model, *made[1:]))[0], out(SteerSteps, dit=prepared(made)[0], **how)[0])


def coarse_patches(name, make):
    """A patch size that the MODEL has no weights for: shares go by the sampler's noise level, and a mask lies on the whole picture."""
    made = make()
    one = vector(1, width_of(made))
    dit, tokens, sigmas = prepared(made, 4)

    def coarse(dit, steps=STEPS):
        return dit.reading(4, "resample").denoise(tokens, sigmas, made[1], end_step=steps)[0]["tokens"]
    from dit_blocks.dit_impl.handle.steering_plan import Turn
    plain = coarse(dit)
    assert not torch.equal(coarse(dit.with_turn(Turn(one))), plain)
    late = next(share / 1000 for share in range(1000) if dit.model.get_model_object("model_sampling").percent_to_sigma(share / 1000) < sigmas[-2])
    assert torch.equal(coarse(dit.with_turn(Turn(one, start=late))), plain)
    corner = torch.zeros(1, 72, 56)
    corner[:, 64:, :32] = 1  # the row of cells that is all of the last row of tokens
    masked = (coarse(dit.with_turn(Turn(vector(blocks_of(made[0]), width_of(made)), mask=corner)), 1) - coarse(dit, 1)).norm(dim=-1)[0]
    assert masked.argmax() == 4 and masked[4] > 1.5 * masked[[0, 1, 2, 3, 5]].max(), masked


def an_adapter_s_patches(name, make):
    """A patch size that an adapter taught, before or after the turn: KSampler, and the stages at that size."""
    made = make()
    size = own_size(made[0]) + 1
    adapter, one = adapter_for(made[0], size), vector(1, width_of(made))
    adapted = with_adapter(made[0], adapter)
    plain = picture(scheduled(adapted, f"{size}", patch_method="native"), made)
    expected = by_stages((adapted, *made[1:]), [(one, 2.0, "positive", CORNER)], patch_size=size)
    assert not torch.equal(plain, expected)
    for model in (steered(adapted, one, rows="positive", mask=CORNER), with_adapter(steered(made[0], one, rows="positive", mask=CORNER), adapter)):
        same(expected, picture(scheduled(model, f"{size}", patch_method="native"), made))


def rides_along(name, make):
    """Another guider's prompts, and a call of core's SkipLayerGuidanceDiT that asks for the positive prompt once more."""
    made = make()
    one = vector(1, width_of(made))
    guided = extra("nodes_slg", "SkipLayerGuidanceDiT", made[0], 3.0, 0.0, 0.9, "1")
    plain, both, positive = (picture(model, made) for model in (guided, steered(guided, one), steered(guided, one, rows="positive")))
    assert not torch.equal(plain, both) and not torch.equal(both, positive)
    import comfy.sample
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG, Guider_DualModel
    sigmas = comfy.samplers.calculate_sigmas(made[0].get_model_object("model_sampling"), "simple", STEPS)
    noise = comfy.sample.prepare_noise(made[3], SEED)

    def by(guider) -> torch.Tensor:
        return guider.sample(noise.clone(), made[3], comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=SEED)

    def dual(model, cfg):
        guider = Guider_DualCFG(model)
        guider.set_conds(made[1], made[2], made[2])
        guider.set_cfg(cfg, cfg, nested=True)  # u + cfg·((u + cfg·(c − u)) − u)
        return by(guider)

    def two(model, other):
        guider = Guider_DualModel(model, other)
        guider.set_conds(made[1], made[2])
        guider.set_cfg(4.0)
        return by(guider)
    alone = steered(made[0], one, rows="positive")
    cfg = comfy.samplers.CFGGuider(made[0])
    cfg.set_conds(made[1], made[2])
    cfg.set_cfg(4.0)
    from dit_blocks.nodes.denoise import Denoise
    dit, tokens, levels = prepared((alone, *made[1:]))
    refused("DiT Denoise: SD3 (MODEL) is steered in every step, or runs wired stages; the guider's model does not", lambda: out(
        Denoise, dit=dit, tokens=tokens, sigmas=levels, start_step=0, end_step=STEPS, positive=made[1], cfg=4.0, solver="euler", guider=cfg))
    sampled = comfy.samplers.CFGGuider(alone)
    sampled.set_conds(made[1], made[2])
    sampled.set_cfg(4.0)
    same(by(sampled), picture(alone, made))
    close = dict(atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dual(alone, 2.0), picture(alone, made), **close)
    assert not torch.allclose(dual(alone, 2.0), dual(steered(made[0], one), 2.0), **close)
    torch.testing.assert_close(two(alone, made[0]), picture(alone, made), **close)


def leaves_nothing(name, make):
    made = make()
    plain, module = picture(made[0], made), made[0].model.diffusion_model
    before = sorted(made[0].model_options), sorted(made[0].model_options.get("transformer_options", {}))
    model = steered(made[0], vector(1, width_of(made)))
    expected, kept = picture(model, made), sorted(model.model_options.get("transformer_options", {}))
    same(expected, picture(model, made))
    assert "forward" not in vars(module) and not made[0].wrappers and kept == sorted(model.model_options.get("transformer_options", {}))
    assert before == (sorted(made[0].model_options), sorted(made[0].model_options.get("transformer_options", {})))
    same(plain, picture(made[0], made))


def refusals(name, make):
    from comfy.patcher_extension import WrappersMP

    from dit_blocks.nodes.model import FromModel
    made = model, positive, negative, samples = make()
    one = vector(1, width_of(made))
    refused("Steer (MODEL): the vector has 7 numbers, for a MODEL; tokens of Flux have 128", lambda: steered(model, vector(1, 7)))
    refused("Steer (MODEL): the vector was taken before block 6, of a MODEL; Flux has 5 blocks", lambda: steered(model, vector(6, 128)))
    refused("Steer (MODEL): start_percent 0.5 is after end_percent 0.2", lambda: steered(model, one, start_percent=0.5, end_percent=0.2))
    refused("Steer (MODEL): rows is both or positive", lambda: steered(model, one, rows="none"))
    wrapped = steered(model, one)
    wrapped.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", lambda executor, *args, **kwargs: executor(*args, **kwargs))
    refused("Steer (MODEL): this MODEL carries a wrapper around the whole diffusion model (other), which steering", lambda: picture(wrapped, made))
    refused("DiT Condition: Flux (MODEL) is steered in every step, which stages would leave out", lambda: begun((steered(model, one), *made[1:])))
    area = [[positive[0][0], {**positive[0][1], "area": (4, 4, 0, 0)}], *positive]
    for how in (dict(mask=CORNER), dict(rows="positive")):
        refused('Steer (MODEL): a mask, rows "positive" and edited tokens are for prompts of the whole picture: leave',
                lambda: picture(steered(model, one, **how), (model, area, *made[2:])))
    assert not torch.equal(picture(steered(model, one), (model, area, *made[2:])), picture(model, (model, area, *made[2:])))

    def tiled(apply, args):  # of another pack
        return torch.cat([apply(part, time, **{**args["c"], "c_crossattn": text}) for part, time, text in zip(
            args["input"].split(1), args["timestep"].split(1), args["c"]["c_crossattn"].split(1))])
    apart = steered(model, one, rows="positive")
    apart.set_model_unet_function_wrapper(tiled)
    refused("Steer (MODEL): this model call is not one of KSampler's", lambda: picture(apart, made))

    def cut(apply, args):
        x = args["input"]
        x[..., :4, :] = apply(x[..., :4, :], args["timestep"], **args["c"])
        return x
    cropped = steered(model, one, mask=CORNER)
    cropped.set_model_unet_function_wrapper(cut)
    refused("Steer (MODEL): this model call reads 4×7 of 9×7 latent cells, so that it is not known where the mask is", lambda: picture(cropped, made))
    (dit,) = out(FromModel, model=steered(model, one))
    assert dit.stages.kinds and len(dit.turns) == 1


def by_the_generic_way(name, make=None):
    for file in ("host_zoo_unets", "host_zoo_transformers", "host_zoo_videos"):
        importlib.import_module(file)
    from host_zoo import ZOO, rnd
    model, positive, negative, shape = ZOO[name]()
    made = model, positive, negative, rnd(1, *shape, seed=3)
    width, plain = width_of(made), picture(model, made)
    for one, rows, mask in ((vector(1, width), "both", None), (vector(0, width), "positive", CORNER)):
        changed = picture(steered(model, one, rows=rows, mask=mask), made)
        same(by_stages(made, [(one, 2.0, rows, mask)]), changed)
        assert not torch.equal(plain, changed)
    refused("Steer (MODEL): the vector was taken before block 99", lambda: picture(steered(model, vector(99, width)), made))
    refused("Steer (MODEL): the vector has 7 numbers", lambda: picture(steered(model, vector(1, 7)), made))


def what_has_no_tokens_of_a_picture(name, make=None):
    """Latents of several tensors, and models whose blocks or tokens are not known: one line before a picture is drawn."""
    from host_zoo import ZOO
    from host_zoo_check import FILES, by_core, latents
    for file in FILES:
        importlib.import_module(file)
    for name, line in (("ltxav_with_sound", "it is not known which tokens of a latent of several tensors"), ("seedvr2", ""),
                       ("hidream_e1", "it is not known which tokens of HiDream are the picture's")):
        model, positive, negative, shape = ZOO[name]()
        how = dict(cfg=4.0, sampler="euler", scheduler="simple", denoise=1.0)
        for block in (0, 1):
            refused(f"Steer (MODEL): {line}", lambda: by_core(steered(model, vector(block, 64)), positive, negative, latents(shape), **how))


def the_pack_s_own_model(name=None, make=None):
    """The default model by DiT to MODEL: Steer (MODEL), and Steer Every Step before it, are what DiT Denoise draws over Steer Every Step."""
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import ToModel
    from dit_blocks.nodes.steering import SteerSteps
    dit, clip, _ = out(LoadEmbedded)
    (model,) = out(ToModel, dit=dit)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a large red circle", "a blue square"))
    made = model, positive, negative, torch.randn(1, dit.channels, 9, 8)
    one, plain = vector(2, dit.stages.width), picture(model, made)
    changed = picture(steered(model, one, rows="positive", mask=CORNER), made)
    same(by_stages(made, [(one, 2.0, "positive", CORNER)]), changed)
    assert not torch.equal(plain, changed)
    (turned,) = out(SteerSteps, dit=dit, vector=one, strength=2.0, rows="positive", mask=CORNER, start_percent=0.0, end_percent=1.0)
    same(changed, picture(out(ToModel, dit=turned)[0], made))
    same(plain, picture(out(ToModel, dit=dit)[0], made))
    from dit_blocks.nodes.denoise import AddNoise, Denoise
    from dit_blocks.nodes.patch import Unpatchify
    sigmas = dit.schedule(STEPS)
    tokens, _ = out(AddNoise, dit=turned, tokens=turned.fold({"samples": made[3]}), sigmas=sigmas, step=0, seed=SEED)
    tokens, *_ = out(Denoise, dit=turned, tokens=tokens, sigmas=sigmas, start_step=0, end_step=STEPS, positive=positive, negative=negative, cfg=4.0,
                     solver="euler")
    same(changed, out(Unpatchify, tokens=tokens)[0]["samples"])


CASES = {f"{name}: turns are their stages": (turns_are_their_stages, name) for name in MODELS}
CASES |= {f"{name}: {title}": (check, name) for name in ("sd3", "flux_dev", "lumina2", "wan") for title, check in {
    "several, and shares": several_and_shares, "nothing turns": nothing_turns, "by the dit": by_the_dit}.items()}
CASES |= {f"{name}: plans and a cache": (with_plans_and_a_cache, name) for name in ("flux_dev", "wan")}
CASES |= {f"{name}: coarse patches": (coarse_patches, name) for name in ("sd3", "flux_dev")}
CASES |= {f"{name}: generic": (by_the_generic_way, name) for name in ("chroma", "omnigen2", "hunyuan_video")}
CASES |= {"flux_dev: an adapter's patches": (an_adapter_s_patches, "flux_dev"), "sd3: rides along": (rides_along, "sd3"), "flux_dev: refusals": (refusals, "flux_dev"),
          "sd3: nothing is left": (leaves_nothing, "sd3"), "not known": (what_has_no_tokens_of_a_picture, None),
          "the pack's own model": (the_pack_s_own_model, None)}


if __name__ == "__main__":
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])
