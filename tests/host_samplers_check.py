"""Runs under ComfyUI's Python: DiT Denoise with core's SAMPLERs and GUIDERs against SamplerCustomAdvanced. One line of JSON a case.

    python tests/host_samplers_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

import sys

from everywhere import some
from host_model_check import inside, out
from host_model_check import same as same_as_ksampler
from host_models import MODELS, ksampler, run_cases, start
from host_stages_check import lora
import torch

SEED, STEPS = 5, 4
MASK = torch.arange(256).view(1, 16, 16) % 7 / 6


def core_node(name: str, module: str = "nodes_custom_sampler"):
    import importlib
    return getattr(importlib.import_module(f"comfy_extras.{module}"), name)


def select(name: str):
    return out(core_node("KSamplerSelect"), sampler_name=name)[0]


def cfg_guider(made):
    return out(core_node("CFGGuider"), model=made[0], positive=made[1], negative=made[2], cfg=4.0)[0]


def sigmas_of(model, denoise: float = 1.0):
    return out(core_node("BasicScheduler"), model=model, scheduler="simple", steps=STEPS, denoise=denoise)[0]


def by_core(made, sampler, guider, denoise: float = 1.0, mask=None):
    """→ the picture's latent and x0, by SamplerCustomAdvanced."""
    latent = {"samples": made[3]} | ({} if mask is None else {"noise_mask": mask})
    noise = out(core_node("RandomNoise"), noise_seed=SEED)[0]
    torch.manual_seed(0)
    done = out(core_node("SamplerCustomAdvanced"), noise=noise, guider=guider, sampler=sampler, sigmas=sigmas_of(made[0], denoise), latent_image=latent)
    return tuple(one["samples"] for one in done)


def by_wires(made, denoise: float = 1.0, mask=None, dit=None, cuts=((0, 10000),), patch_size=0, **given):
    """→ the same by Add Noise and DiT Denoise, in one or several parts."""
    from dit_blocks.nodes.denoise import AddNoise, Denoise
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify, Unpatchify
    model, positive, _, samples = made
    dit, sigmas = dit or out(FromModel, model=model)[0], sigmas_of(model, denoise)
    latent = {"samples": samples} | ({} if mask is None else {"noise_mask": mask})
    tokens, *_ = out(Patchify, latent=latent, patch_size=patch_size, dit=dit)
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=SEED)
    how, levels = {"positive": positive, "cfg": 4.0, "solver": "euler", **given}, sigmas.clone()
    for first, last in cuts:
        tokens, x0, shown, _ = out(Denoise, dit=dit, tokens=tokens, sigmas=sigmas, start_step=first, end_step=last, **how)
        assert len(shown) and torch.equal(sigmas, levels)
    return tuple(out(Unpatchify, tokens=one)[0]["samples"] for one in (tokens, x0))


def same(expected, actual) -> None:
    for one, other, what in zip(expected, actual, ("tokens", "x0")):
        assert one.isfinite().all() and torch.equal(one, other), f"{what} differ by {(one - other).abs().max()}"


def sampler_names() -> list[str]:
    import comfy.samplers
    return comfy.samplers.SAMPLER_NAMES




def every_sampler(name, make):
    """KSamplerSelect's, each with this model; whatever core itself can't do with it is left out."""
    made, failed, compared = make(), {}, 0
    for sampler in sampler_names():
        if sampler == "dpm_adaptive" and name == "pixart":  # hundreds of steps of a model that takes large latents only: the others have it
            continue
        guider = cfg_guider(made)
        try:
            expected = by_core(made, select(sampler), guider)
            assert expected[0].isfinite().all()
        except Exception:  # core can't
            continue
        compared += 1
        try:
            same(expected, by_wires(made, sampler=select(sampler), negative=made[2]))
        except Exception as error:
            failed[sampler] = repr(error)[:300]
    assert not failed and compared > 35, (compared, failed)


def sampler_nodes(name, make):
    """Samplers with settings of their own, and an image to image with a mask."""
    made = make(batch=2)
    given = [out(core_node("SamplerEulerAncestral"), eta=0.5, s_noise=1.1)[0],
             out(core_node("SamplerDPMPP_2M_SDE"), solver_type="heun", eta=0.7, s_noise=1.0, noise_device="cpu")[0],
             out(core_node("SamplerER_SDE"), solver_type="ER-SDE", max_stage=2, eta=1.0, s_noise=1.0)[0],
             out(core_node("SamplerLCMUpscale", "nodes_advanced_samplers"), scale_ratio=1.0, scale_steps=-1, upscale_method="bislerp")[0],
             select("ddim"), select("lcm"), select("uni_pc")]
    for sampler in given:
        same(by_core(made, sampler, cfg_guider(made), 0.6, MASK), by_wires(made, 0.6, MASK, sampler=sampler, negative=made[2]))


def guiders(made) -> dict:
    model, positive, negative, _ = made
    third = [[text * 0.3, values] for text, values in negative]
    return {
        "basic": out(core_node("BasicGuider"), model=model, conditioning=positive)[0],
        "cfg": cfg_guider(made),
        **{f"dual {style}": out(core_node("DualCFGGuider"), model=model, cond1=positive, cond2=third, negative=negative, cfg_conds=3.0,
                                cfg_cond2_negative=2.0, style=style)[0] for style in ("regular", "nested")},
        "perp neg": out(core_node("PerpNegGuider", "nodes_perpneg"), model=model, positive=positive, negative=negative, empty_conditioning=third,
                        cfg=4.0, neg_scale=1.5)[0]}


def every_guider(name, make):
    """Each guider, with a SAMPLER and with the pack's own solvers, whole and in parts."""
    made = lora(make())
    euler = {}
    for kind, guider in guiders(made).items():
        same(by_core(made, select("dpmpp_2m"), guider), by_wires(made, guider=guider, sampler=select("dpmpp_2m")))
        same(by_core(made, select("dpmpp_2m"), guider), by_wires(made, guider=guider, solver="dpmpp_2m", cuts=((0, 1), (1, 3), (3, 9))))
        euler[kind] = by_core(made, select("euler"), guider)
        same(euler[kind], by_wires(made, guider=guider))
        same(euler[kind], by_core(made, select("euler"), guider))
    pictures = [picture for picture, _ in euler.values()]
    assert not any(torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[i + 1:])


def parts(name, make):
    """A SAMPLER that carries nothing from step to step may be cut anywhere, also where a solver of the pack takes over."""
    made = make()
    expected = by_core(made, select("heun"), cfg_guider(made))
    same(expected, by_wires(made, sampler=select("heun"), negative=made[2], cuts=((0, 1), (1, 3), (3, 4))))
    from dit_blocks.nodes.denoise import AddNoise, Denoise
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify, Unpatchify
    (dit,), sigmas = out(FromModel, model=made[0]), sigmas_of(made[0])
    tokens, *_ = out(Patchify, latent={"samples": made[3]}, patch_size=0, dit=dit)
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=SEED)
    how = dict(dit=dit, sigmas=sigmas, positive=made[1], negative=made[2], cfg=4.0)
    tokens, *_ = out(Denoise, tokens=tokens, start_step=0, end_step=2, solver="heun", **how)
    tokens, *_ = out(Denoise, tokens=tokens, start_step=2, end_step=9, solver="euler", sampler=select("heun"), **how)
    assert torch.equal(expected[0], out(Unpatchify, tokens=tokens)[0]["samples"])


def coarse(name, make):
    """A patch size that is not the model's own, and the rough look before a run."""
    made = make()
    guider = guiders(made)["dual regular"]
    picture, _ = by_wires(made, guider=guider, sampler=select("res_multistep"), patch_size=2 * 2)
    assert picture.isfinite().all()
    same(by_core(made, select("lcm"), guider), by_wires(made, guider=guider, sampler=select("lcm"), quick_look=True))


def the_pack_s_own_model(name=None, make=None):
    """The default model's DIT is what DiT to MODEL makes of it."""
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import ToModel
    dit, clip, _ = out(LoadEmbedded)
    (model,) = out(ToModel, dit=dit)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a large red circle", "a blue square"))
    made = model, positive, negative, torch.zeros(1, 16, 8, 8)
    for sampler in ("uni_pc", "res_multistep", "euler_ancestral", "dpmpp_sde", "lcm", "dpmpp_2m_sde", "ddim"):
        same(by_core(made, select(sampler), cfg_guider(made)), by_wires(made, dit=dit, sampler=select(sampler), negative=negative))
    filled = model, positive, negative, torch.randn(2, 16, 9, 7)
    same(by_core(filled, select("dpmpp_sde"), cfg_guider(filled), 0.6, MASK),
         by_wires(filled, 0.6, MASK, dit=dit, sampler=select("dpmpp_sde"), guider=cfg_guider(filled)))


def own_solvers(name, make):
    """The pack's own solvers that are not in every other check: whole, step by step, by stages, inpainting, at odd sizes."""
    for sampler in ("uni_pc", "res_multistep", "euler_ancestral", "dpmpp_2m_sde"):
        made = make(batch=2)
        for chain in (False, True):
            same_as_ksampler(made, sampler=sampler, chain=chain, steps=6)
            same_as_ksampler(made, sampler=sampler, chain=chain, denoise=0.6, steps=3, mask=MASK, scheduler="karras")
        if sampler == "dpmpp_2m_sde":  # not by stages
            continue
        staged, expected = inside(*make(), sampler=sampler), ksampler(*make(), sampler=sampler)
        if sampler == "uni_pc":  # the model's answer is for x itself, not for x there and back in the solver's scale
            torch.testing.assert_close(staged, expected, atol=1e-3, rtol=1e-3)
        else:
            assert torch.equal(staged, expected), sampler


def every_scheduler(name, make):
    """Sigma Schedule gives KSampler's noise levels, for a MODEL and for a DIT of the pack's own."""
    import comfy.samplers

    from dit_blocks.nodes.denoise import Schedule
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import FromModel, ToModel
    own = out(LoadEmbedded)[0]
    from dataclasses import replace

    from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
    owns = [own, replace(own, flow=DDPM()), replace(own, flow=RectifiedFlow(shift=1.0))]
    pairs = [(out(FromModel, model=model)[0], model) for model in (MODELS[name]()[0] for name in ("sd3", "flux_dev", "pixart"))]
    compared = 0
    for dit in owns:
        own.model.comfy_patcher = None
        pairs.append((dit, out(ToModel, dit=dit)[0]))
        for dit, model in pairs[-1:] if dit is not own else pairs:
            for scheduler in comfy.samplers.SCHEDULER_NAMES:
                for steps, denoise in ((1, 1.0), (2, 1.0), (7, 1.0), (20, 1.0), (30, 1.0), (7, 0.6), (20, 0.35)):
                    for sampler in ("euler", "uni_pc"):
                        how = dict(steps=steps, scheduler=scheduler, denoise=denoise)
                        core = comfy.samplers.KSampler(model, device="cpu", sampler=sampler, **how).sigmas
                        if not core.isfinite().all():
                            continue
                        (ours,) = out(Schedule, dit=dit, skip_penultimate=sampler == "uni_pc", **how)
                        close = torch.allclose(ours, core, rtol=1e-6, atol=0) if len(ours) == len(core) else False
                        assert torch.equal(ours, core) or (close and dit in owns), (dit.name, how, sampler, ours, core)
                        compared += 1
    assert compared > 500


class Unlike:
    """A sampler that is no KSAMPLER."""

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        import comfy.samplers
        return comfy.samplers.sampler_object("heun").sample(model_wrap, sigmas, extra_args, None, noise, latent_image, denoise_mask, disable_pbar)

    def max_denoise(self, *args):
        import comfy.samplers
        return comfy.samplers.Sampler.max_denoise(self, *args)


def a_sampler_of_another_kind(name, make):
    made = make()
    (expected, _) = by_core(made, Unlike(), cfg_guider(made))
    actual, x0 = by_wires(made, sampler=Unlike(), negative=made[2])
    assert torch.equal(expected, actual) and torch.equal(actual, x0)
    refused("DiT Denoise: this SAMPLER (Unlike) adds the noise itself", made, sampler=Unlike(), negative=made[2], cuts=((0, 2), (2, 4)))


def refused(message: str, made, **how) -> None:
    try:
        by_wires(made, **how)
    except ValueError as error:
        assert str(error).startswith(message) and "\n" not in str(error) and len(str(error)) < 300, error
    else:
        raise AssertionError(f"not refused: {message}")


def refusals(name, make):
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch_schedule import PatchSchedule
    made = model, positive, negative, samples = make()
    guider, euler = cfg_guider(made), select("euler")
    refused("DiT Denoise: positive is not what the guider (CFGGuider) was given as positive", (model, negative, negative, samples), guider=guider)
    refused("DiT Denoise: negative is not what the guider (CFGGuider) was given as negative", made, guider=guider, negative=positive)
    basic = guiders(made)["basic"]
    refused("DiT Denoise: negative is not what the guider (Guider_Basic) was given as negative, and the guider's own counts: leave it unwired",
            made, guider=basic, negative=negative)
    masked = [[text, {**values, "strength": 0.5}] for text, values in positive]
    refused("DiT Denoise: positive is not", (model, masked, negative, samples), guider=guider)
    refused("DiT Denoise: the guider (CFGGuider) is over Flux, the dit is SD3 (MODEL)", made, guider=cfg_guider(MODELS["flux_dev"]()))
    plan = out(PatchSchedule, rows="4 until 50%, then 2", patch_method="auto", coarse_cfg=1.0)[0]
    refused("DiT Denoise: a sampler takes its steps without a break, and the patch_schedule changes the size from 4 to 2", made, sampler=euler,
            negative=negative, patch_schedule=plan)
    turns = out(PatchSchedule, rows="2 of other until 50%, then 2", other=out(FromModel, model=model)[0])[0]
    refused("DiT Denoise: the sampler goes with one model, and the patch_schedule says 'of other'", made, sampler=euler, negative=negative,
            patch_schedule=turns)
    refused("DiT Denoise: the guider goes with one model", made, guider=guider, patch_schedule=turns)
    refused("DiT Denoise: capture_blocks reads single steps", made, sampler=euler, negative=negative, capture_blocks=True)
    refused("DiT Denoise: cfg 4 needs a negative", made, sampler=euler)


def leaves_all_as_it_was(name, make):
    """Neither the SAMPLER, the GUIDER nor the MODEL is changed, also where a run fails on its way."""
    import comfy.samplers
    made = make()
    guider, sampler = cfg_guider(made), select("dpmpp_2m")
    expected, before = by_core(made, sampler, guider), (dict(vars(guider)), dict(vars(sampler)))

    def fail(*_, **__):
        raise RuntimeError("on its way")
    for given in (sampler, comfy.samplers.KSAMPLER(fail)):
        try:
            by_wires(made, sampler=given, guider=guider)
        except RuntimeError as error:
            assert str(error) == "on its way"
    assert before == (dict(vars(guider)), dict(vars(sampler)))
    same(expected, by_core(made, sampler, guider))


SOME = ("sd3", "flux_dev", "pixart")
CASES = {f"{name}: every sampler": (every_sampler, name) for name in some(SOME)}
CASES |= {f"{name}: {title}": (check, name) for name in SOME for title, check in {
    "sampler nodes": sampler_nodes, "every guider": every_guider, "parts": parts}.items()}
CASES |= {f"{name}: coarse": (coarse, name) for name in ("sd3", "flux_dev")}
CASES |= {f"{name}: every guider": (every_guider, name) for name in ("wan", "z_image")}
CASES |= {f"sd3: {title}": (check, "sd3") for title, check in {
    "refusals": refusals, "another kind": a_sampler_of_another_kind, "nothing is changed": leaves_all_as_it_was}.items()}
CASES |= {f"{name}: own solvers": (own_solvers, name) for name in ("sd3", "flux_dev", "pixart", "wan")}
CASES |= {"the pack's own model": (the_pack_s_own_model, None), "every scheduler": (every_scheduler, None)}


if __name__ == "__main__":
    start(*sys.argv[1:3])
    import comfy.utils
    comfy.utils.PROGRESS_BAR_ENABLED = False
    run_cases(CASES, *sys.argv[3:])
