"""What rides along with a MODEL or a conditioning: KSampler's picture by DiT Denoise, by a chain of DiT Denoise Steps and by the stages, or
one line that refuses. Runs under ComfyUI's Python: host_riders_check.py COMFYUI PACKS [words].

`--page` prints docs/what_rides_along.md instead; the last case compares the page with what was found.
"""

from functools import cache
import importlib
import json
from pathlib import Path
import sys

from host_model_check import inside, lora, unet, wires
from host_models import MODELS, conditioning, ksampler, run_cases, start
import torch

WAYS = ("DiT Denoise", "a chain of DiT Denoise Steps", "stages")
PAGE = Path(__file__).parents[1] / "docs" / "what_rides_along.md"
HEAD = """# What rides along

What a MODEL or a conditioning carries into KSampler, and what comes of it by the wires of **DiT from MODEL**: *equal* is `torch.equal` to
KSampler's latent; everything else is refused in one line, so that no cell differs. Small random models of ComfyUI 0.33, {steps} steps,
cfg 4. This page is written by a test (`tests/host_riders_check.py --page`), which also compares it with what it finds.

| what rides along | on | DiT Denoise | a chain of DiT Denoise Steps | stages |
|---|---|---|---|---|
"""
STEPS = 5


def extra(module: str, node: str, model, *args, **kwargs):
    """A MODEL through a node of comfy_extras."""
    cls = getattr(importlib.import_module(f"comfy_extras.{module}"), node)
    if hasattr(cls, "execute"):
        made = cls.execute(model, *args, **kwargs)
        return (made if isinstance(made, tuple) else made.result)[0]
    return getattr(cls(), cls.FUNCTION)(model, *args, **kwargs)[0]


def node(module: str, name: str, *args, on: str = "sd3", **kwargs):
    """A rider that is a node over the MODEL."""
    def ride():
        model, *rest = base(on)
        return (extra(module, name, model, *args, **kwargs), *rest), {}
    return on, ride


def said(on: str = "sd3", negative=None, **options):
    """A rider on the conditioning. What is given makes the positive (or the negative) of the model's own."""
    def make(change):
        def ride():
            model, positive, own, latent = base(on)
            made = change(positive, latent)
            other = own if negative is None else negative(own, latent)
            return (model, made, other, latent), options
        return on, ride
    return make


def base(name: str):
    return unet() if name == "a UNet" else MODELS[name](size=(12, 10)) if name != "pixart" else MODELS[name]()


def half(latent) -> torch.Tensor:
    mask = torch.zeros(1, *latent.shape[-2:])
    mask[..., :latent.shape[-1] // 2] = 1
    return mask


def second(positive, **values):
    return [[positive[0][0].flip(2) * 1.5, {**positive[0][1], **values}]]


def longer(positive):
    return [[torch.cat([positive[0][0]] * 11, 1)[:, :-2], positive[0][1]]]  # 75 tokens: no multiple of 7 that core would repeat


def hooked(keyframes: bool):
    def ride():
        import comfy.hooks
        (model, positive, negative, latent), _ = base("sd3"), None
        generator, weights = torch.Generator().manual_seed(5), {}
        for key, value in model.model.diffusion_model.state_dict().items():
            if value.dim() == 2 and key.endswith("qkv.weight"):
                name = "diffusion_model." + key[:-7]
                weights |= {f"{name}.lora_up.weight": torch.randn(len(value), 4, generator=generator) * .3,
                            f"{name}.alpha": torch.tensor(4.0),
                            f"{name}.lora_down.weight": torch.randn(4, value.shape[1], generator=generator) * .3}
        hooks = comfy.hooks.create_hook_lora(lora=weights, strength_model=1.0, strength_clip=0.0)
        if keyframes:
            keys = comfy.hooks.HookKeyframeGroup()
            for strength, percent in ((0.0, 0.0), (0.25, 0.25), (0.5, 0.5), (0.75, 0.75), (1.0, 1.0)):
                keys.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=percent))
            hooks.set_keyframes_on_hooks(hook_kf=keys)
        return (model, [[positive[0][0], {**positive[0][1], "hooks": hooks}]], negative, latent), {}
    return "sd3", ride


def merged():
    from comfy_extras.nodes_model_merging import ModelMergeSimple
    model, *rest = base("sd3")
    return (ModelMergeSimple().merge(model, lora(base("sd3"))[0], 0.3)[0], *rest), {}


def controlled():
    """A ControlNet of random residuals."""
    from comfy.controlnet import ControlBase

    class Control(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            generator = torch.Generator().manual_seed(8)
            tokens = (x_noisy.shape[-2] + 1) // 2 * ((x_noisy.shape[-1] + 1) // 2)
            return {"output": [torch.randn(len(x_noisy), tokens, 192, generator=generator) * 0.3 for _ in range(3)]}

        def copy(self):
            return self

        def get_models(self):
            return []
    model, positive, negative, latent = base("sd3")
    control = Control()
    positive, negative = ([[text, {**values, "control": control}]] for (text, values), in (positive, negative))
    return (model, positive, negative, latent), {}


def windows(freenoise: bool, frames: int):
    def ride():
        model, positive, negative, _ = MODELS["wan"](size=(6, 6))
        latent = torch.randn(1, 16, frames, 6, 6, generator=torch.Generator().manual_seed(3))
        how = 13, 4, "standard_static", 1, False, "pyramid", freenoise
        model = extra("nodes_context_windows", "WanContextWindowsManualNode", model, *how)
        return (model, positive, negative, latent), {}
    return "wan", ride


def masked(rider=None, on: str = "sd3", **options):
    def ride():
        made = base(on)
        if rider:
            made = (rider(made[0]), *made[1:])
        return made, {"mask": torch.arange(256).view(1, 16, 16) % 7 / 6, "denoise": 0.7, **options}
    return on, ride


def seeded(rider: str):
    """What a rider makes, the same at every call."""
    torch.manual_seed(0)
    return RIDERS[rider][1]()


def at(size: int, **options):
    """An area in latent cells: of this height, the whole width, from the top."""
    return {"area": (size, 10, 0, 0), **options}


RIDERS = {
    "LoRA": ("sd3", lambda: (lora(base("sd3")), {})),
    "hooks (LoRA on a conditioning)": hooked(False),
    "hooks with keyframes": hooked(True),
    "ModelMergeSimple": ("sd3", merged),
    "ModelSamplingSD3": node("nodes_model_advanced", "ModelSamplingSD3", 5.0),
    "ModelSamplingAuraFlow": node("nodes_model_advanced", "ModelSamplingAuraFlow", 2.5, on="auraflow"),
    "ModelSamplingFlux": node("nodes_model_advanced", "ModelSamplingFlux", 1.3, 0.4, 512, 512, on="flux_dev"),
    "ModelSamplingDiscrete (v, zsnr)": node("nodes_model_advanced", "ModelSamplingDiscrete", "v_prediction", True, on="a UNet"),
    "ModelSamplingDiscrete (lcm)": node("nodes_model_advanced", "ModelSamplingDiscrete", "lcm", False, on="pixart"),
    "ModelSamplingContinuousEDM": node("nodes_model_advanced", "ModelSamplingContinuousEDM", "edm", 80.0, 0.002, on="a UNet"),
    "ModelSamplingContinuousV": node("nodes_model_advanced", "ModelSamplingContinuousV", "v_prediction", 500.0, 0.03, on="a UNet"),
    "ModelSamplingStableCascade": node("nodes_model_advanced", "ModelSamplingStableCascade", 2.0, on="a UNet"),
    "RescaleCFG": node("nodes_model_advanced", "RescaleCFG", 0.7),
    "CFGZeroStar": node("nodes_cfg", "CFGZeroStar"),
    "CFGNorm": node("nodes_cfg", "CFGNorm", 0.8),
    "APG": node("nodes_apg", "APG", 0.8, 5.0, 0.0),
    "APG with momentum": node("nodes_apg", "APG", 0.8, 5.0, -0.6),
    "TCFG": node("nodes_tcfg", "TCFG"),
    "Mahiro": node("nodes_mahiro", "Mahiro"),
    "RenormCFG": node("nodes_lumina2", "RenormCFG", 100.0, 1.0, on="lumina2"),
    "CFGOverride": node("nodes_custom_sampler", "CFGOverride", 2.0, 0.0, 0.6),
    "Epsilon Scaling": node("nodes_eps", "EpsilonScaling", 1.02),
    "SkipLayerGuidanceSD3": node("nodes_sd3", "SkipLayerGuidanceSD3", "1", 3.0, 0.0, 0.9),
    "SkipLayerGuidanceDiT": node("nodes_slg", "SkipLayerGuidanceDiT", 3.0, 0.0, 0.9, "1"),
    "SkipLayerGuidanceDiTSimple": node("nodes_slg", "SkipLayerGuidanceDiTSimple", 0.0, 0.9, "1"),
    "PerturbedAttentionGuidance": node("nodes_pag", "PerturbedAttentionGuidance", 3.0, on="a UNet"),
    "SelfAttentionGuidance": node("nodes_sag", "SelfAttentionGuidance", 0.5, 2.0, on="a UNet"),
    "NAGuidance": node("nodes_nag", "NAGuidance", 5.0, 0.5, 1.5, on="flux_dev"),
    "PerpNeg": ("sd3", lambda: ((extra("nodes_perpneg", "PerpNeg", base("sd3")[0], conditioning(9, 48), 1.5), *base("sd3")[1:]), {})),
    "EasyCache": node("nodes_easycache", "EasyCacheNode", 3.0, 0.0, 1.0, False, on="flux_dev"),
    "LazyCache": node("nodes_easycache", "LazyCacheNode", 3.0, 0.0, 1.0, False),
    "Context Windows": windows(False, 7),
    "Context Windows with FreeNoise": windows(True, 7),
    "DifferentialDiffusion": masked(lambda model: extra("nodes_differential_diffusion", "DifferentialDiffusion", model)),
    "a noise mask": masked(),
    "a noise mask, ddim": masked(on="a UNet", sampler="ddim"),
    "a noise mask, ddim on a DiT": masked(on="pixart", sampler="ddim"),
    "HyperTile": node("nodes_hypertile", "HyperTile", 32, 2, 2, False, on="a UNet"),
    "ToMe": node("nodes_tomesd", "TomePatchModel", 0.5, on="a UNet"),
    "FreeU": node("nodes_freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2, on="a UNet"),
    "ControlNet": ("sd3", controlled),
    "ReferenceLatent": said("flux_dev", lambda own, latent: [[own[0][0], {**own[0][1], "reference_latents": [latent[..., :8, :6]]}]])(
        lambda positive, latent: [[positive[0][0], {**positive[0][1], "reference_latents": [latent[..., :8, :6]]}]]),
    "a negative of another length": said("z_image")(lambda positive, latent: longer(positive)),
    "Conditioning (Combine)": said()(lambda positive, latent: positive + second(positive)),
    "Combine of another length": said()(lambda positive, latent: longer(positive) + second(positive)),
    "two negatives": said(negative=lambda own, latent: own + second(own))(lambda positive, latent: positive),
    "Conditioning (Set Mask)": said()(lambda positive, latent: positive + second(positive, mask=half(latent), mask_strength=0.8)),
    "Set Mask (mask bounds)": said()(lambda positive, latent: positive + second(
        positive, mask=half(latent), mask_strength=0.8, set_area_to_bounds=True)),
    "Conditioning (Set Area)": said()(lambda positive, latent: positive + second(positive, **at(6))),
    "two areas of one size": said()(lambda positive, latent: second(positive, **at(6)) + [[positive[0][0], {
        **positive[0][1], "area": (6, 10, 6, 0), "strength": 0.7}]]),
    "Set Default Combine": said()(lambda positive, latent: second(positive, mask=half(latent), mask_strength=1.0) + [[positive[0][0], {
        **positive[0][1], "default": True}]]),
    "timestep ranges": said()(lambda positive, latent: [[positive[0][0], {**positive[0][1], "start_percent": 0.0, "end_percent": 0.5}],
                                                        *second(positive, start_percent=0.4, end_percent=1.0)]),
    "Patch Schedule (MODEL)": ("sd3", lambda: (coarse_first(), {})),
    "a half-precision LATENT": ("sd3", lambda: ((*base("sd3")[:3], base("sd3")[3].half()), {"denoise": 0.7})),
}


def coarse_first():
    from dit_blocks.nodes.patch_schedule import PatchScheduleModel
    model, *rest = base("sd3")
    return (PatchScheduleModel.execute(model=model, rows="4 until 50%, then 2").result[0], *rest)


def one_line(error: Exception) -> str:
    text = str(error)
    assert isinstance(error, ValueError) and "\n" not in text and len(text) < 400, repr(error)
    return text


@cache
def row(rider: str) -> tuple[str, ...]:
    """What comes of each way: "equal", "refused: the line" or "differs …"."""
    on = RIDERS[rider][0]
    ways = (wires, lambda *made, **how: wires(*made, chain=True, **how), inside)
    found = []
    for way in ways:
        made, how = seeded(rider)  # anew, so that no way sees what another left behind
        expected = ksampler(*made, steps=STEPS, **how)
        assert expected.isfinite().all(), f"KSampler over {on} with {rider} is not finite"
        made, how = seeded(rider)
        try:
            actual = way(*made, steps=STEPS, **how)
            found.append("equal" if torch.equal(expected, actual.to(expected)) else
                         f"differs by {(expected - actual).abs().max():.3g} of {expected.std():.3g}")
        except ValueError as error:
            found.append(f"refused: {one_line(error)}")
    return tuple(found)


def equal_or_refused(rider: str, _=None) -> None:
    found = dict(zip(WAYS, row(rider)))
    wrong = {way: what for way, what in found.items() if what.startswith("differs")}
    assert not wrong, wrong
    assert found["DiT Denoise"] == "equal", found


def page() -> str:
    lines = []
    for rider, (on, _) in RIDERS.items():
        lines.append(" | ".join(["| " + rider, on.replace("_", " "), *(cell.replace("|", "\\|") for cell in row(rider))]) + " |")
    return HEAD.format(steps=STEPS) + "\n".join(lines) + "\n"


def the_page(name=None, make=None) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew with --page"


def differ_from_without(name=None, make=None) -> None:
    """A rider that changes nothing would prove nothing."""
    for rider in ("hooks with keyframes", "APG with momentum", "EasyCache", "LazyCache", "Context Windows with FreeNoise", "ToMe",
                  "HyperTile", "SkipLayerGuidanceSD3", "ControlNet", "Conditioning (Set Area)", "timestep ranges"):
        (model, *made), how = seeded(rider)
        plain = base(RIDERS[rider][0])[:3] if rider != "Context Windows with FreeNoise" else (windows(False, 7)[1]()[0][0], *made[:2])
        assert not torch.equal(ksampler(model, *made, steps=STEPS, **how), ksampler(*plain, made[-1], steps=STEPS, **how)), rider


def out(node, **inputs):
    return node.execute(**inputs).result


def run_of(made, steps: int = STEPS):
    """→ dit, tokens at the first noise level, sigmas, what else DiT Denoise takes."""
    from dit_blocks.nodes.denoise import AddNoise, Schedule
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify
    model, positive, negative, latent = made
    (dit,) = out(FromModel, model=model)
    (sigmas,) = out(Schedule, dit=dit, steps=steps, scheduler="simple", denoise=1.0)
    tokens, *_ = out(Patchify, latent={"samples": latent}, patch_size=0, dit=dit)
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=5)
    return dit, tokens, sigmas, {"dit": dit, "sigmas": sigmas, "positive": positive, "negative": negative, "cfg": 4.0, "solver": "euler"}


def latent_of(tokens) -> torch.Tensor:
    from dit_blocks.nodes.patch import Unpatchify
    return out(Unpatchify, tokens=tokens)[0]["samples"]


def a_step_again(name=None, make=None) -> None:
    """ComfyUI runs the last step alone where only that was changed: functions that remember go on from what the step before left."""
    from dit_blocks.nodes.denoise import DenoiseStep
    made, _ = seeded("APG with momentum")
    _, tokens, _, how = run_of(made)
    steps = [tokens]
    for step in range(STEPS):
        steps.append(out(DenoiseStep, tokens=steps[-1], step=step, **how)[0])
    again = out(DenoiseStep, tokens=steps[-2], step=STEPS - 1, **how)[0]
    assert torch.equal(again["tokens"], steps[-1]["tokens"]) and torch.equal(latent_of(again), ksampler(*made, steps=STEPS))


def in_two_stretches(name=None, make=None) -> None:
    from dit_blocks.nodes.denoise import Denoise
    for rider in ("APG with momentum", "hooks with keyframes", "ToMe"):
        made, _ = seeded(rider)
        expected = ksampler(*made, steps=STEPS)
        _, tokens, _, how = run_of(made)
        for start_step, end_step in ((0, 2), (2, STEPS)):
            tokens = out(Denoise, tokens=tokens, start_step=start_step, end_step=end_step, **how)[0]
        assert torch.equal(expected, latent_of(tokens)), rider


def captured_blocks(name=None, make=None) -> None:
    """Looking at x0 after each block changes nothing, or is refused."""
    from dit_blocks.nodes.denoise import Denoise
    made, _ = seeded("APG with momentum")
    _, tokens, _, how = run_of(made)
    tokens = out(Denoise, tokens=tokens, start_step=0, end_step=STEPS, capture_blocks=True, quick_look=True, **how)[0]
    assert torch.equal(ksampler(*made, steps=STEPS), latent_of(tokens))
    for rider in ("EasyCache", "LazyCache"):
        _, tokens, _, how = run_of(seeded(rider)[0])
        try:
            out(Denoise, tokens=tokens, start_step=0, end_step=STEPS, capture_blocks=True, **how)
        except ValueError as error:
            assert rider in one_line(error)
        else:
            raise AssertionError(f"{rider} is not refused")


def half_by_core(name=None, make=None) -> None:
    """KSampler (Advanced) and the wires take over from each other, as near to one run as two of core's runs are."""
    import comfy.sample

    from dit_blocks.nodes.denoise import Denoise
    from dit_blocks.nodes.patch import Patchify
    for kind in ("sd3", "flux_dev", "wan", "pixart", "a UNet"):
        made = model, positive, negative, latent = base(kind)
        dit, noisy, _, how = run_of(made)
        noise = comfy.sample.prepare_noise(latent, 5)

        def core(x, first, last):
            given = noise if first == 0 else torch.zeros_like(noise)
            return comfy.sample.sample(model, given, STEPS, 4.0, "euler", "simple", positive, negative, x, disable_noise=first > 0, start_step=first, last_step=last, force_full_denoise=last == STEPS,
                                       disable_pbar=True, seed=5)

        def ours(x, first, last):
            tokens = noisy if first == 0 else out(Patchify, latent={"samples": x}, patch_size=0, dit=dit)[0]
            return latent_of(out(Denoise, tokens=tokens, start_step=first, end_step=last, **how)[0])
        whole, cut = ksampler(*made, steps=STEPS), core(latent, 0, 2)
        allowed = 4 * (whole - core(cut, 2, STEPS)).abs().max() + 1e-6
        assert torch.allclose(cut, ours(latent, 0, 2), rtol=1e-6), kind
        for both in (ours(cut, 2, STEPS), core(ours(latent, 0, 2), 2, STEPS)):
            assert (whole - both).abs().max() <= allowed, (kind, (whole - both).abs().max(), allowed)


def little_memory(name=None, make=None) -> None:
    """Where memory is short a step is a model call for each conditioning: the stages run each."""
    for kind in ("sd3", "z_image"):
        made = base(kind)
        made[0].model.memory_required = lambda *args, **kwargs: 1e30
        made[0].get_free_memory = lambda *args: 0.0
        expected = ksampler(*made, steps=2)
        assert torch.equal(expected, inside(*made, steps=2)), kind


def one_by_a_float_node(name=None, make=None) -> None:
    model, positive, _, latent = base("sd3")
    near = 1.0000000000000002
    assert torch.equal(ksampler(model, positive, [], latent, cfg=near), wires(model, positive, None, latent, cfg=near))


def cfg_overridden(name=None, make=None) -> None:
    """A MODEL whose cfg is another than the node's reads the negative although the node's is 1, and is refused without one."""
    from dit_blocks.nodes.denoise import Denoise
    model, *rest = base("sd3")
    made = extra("nodes_custom_sampler", "CFGOverride", model, 3.0, 0.0, 1.0), *rest
    expected = ksampler(*made, cfg=1.0, steps=2)
    assert torch.equal(expected, wires(*made, cfg=1.0, steps=2)) and not torch.equal(expected, ksampler(model, *rest, cfg=1.0, steps=2))
    _, tokens, _, how = run_of(made, 2)
    tokens = out(Denoise, tokens=tokens, start_step=0, end_step=2, capture_blocks=True, **{**how, "cfg": 1.0})[0]
    assert torch.equal(expected, latent_of(tokens))
    for way in (wires, inside):
        try:
            way(made[0], made[1], None, made[3], cfg=1.0, steps=2)
        except ValueError as error:
            assert "cfg 3" in one_line(error) and "negative" in str(error), error
        else:
            raise AssertionError("not refused")


def edits_of_several_calls(name=None, make=None) -> None:
    """A change of tokens reaches every model call of a step, and so does a look at them; areas have no one grid to change."""
    from dit_blocks.nodes.attention import AttentionMap
    from dit_blocks.nodes.tokens import ScaleTokens
    from dit_blocks.nodes.transformer import Condition, PatchEmbed, PositionEmbed
    for rider, calls in (("a negative of another length", 2), ("Conditioning (Set Area)", 2)):
        made, _ = seeded(rider)
        dit, tokens, sigmas, how = run_of(made)
        (hidden,) = out(Condition, dit=dit, x=tokens, positive=made[1], negative=made[2], sigmas=sigmas, step=0)
        (hidden,) = out(PatchEmbed, dit=dit, x=hidden)
        assert 1 + len(hidden["others"]) == calls, rider
        try:
            (scaled,) = out(ScaleTokens, x=hidden, factor=0.5)
        except ValueError as error:
            assert "Area" in rider and "areas of the picture" in one_line(error)
            continue
        assert "Area" not in rider
        for before, after in zip((hidden, *hidden["others"]), (scaled, *scaled["others"])):
            count = len(tokens["tokens"][0])
            assert torch.allclose(before["hidden"].x[:, :count] * 0.5, after["hidden"].x[:, :count])
        (hidden,) = out(PositionEmbed, dit=dit, hidden=hidden, mode="model", seed=0)
        after = out(AttentionMap, dit=dit, hidden=hidden, block=0, head=-1, direction="image to image", query=0, word="",
                    language="English")
        assert len(next(one for one in after if isinstance(one, dict) and "hidden" in one)["others"]) == calls - 1


CASES = {f"rider: {rider}": (equal_or_refused, rider) for rider in RIDERS}
CASES |= {"riders do something": (differ_from_without, None), "the page": (the_page, None), "a step again": (a_step_again, None),
          "in two stretches": (in_two_stretches, None), "captured blocks": (captured_blocks, None), "half by core": (half_by_core, None),
          "cfg overridden": (cfg_overridden, None), "little memory": (little_memory, None),
          "one by a float node": (one_by_a_float_node, None),
          "edits of several calls": (edits_of_several_calls, None)}


def main(comfyui: str, packs: str, *only: str) -> None:
    start(comfyui, packs)
    if only == ("--page",):
        with torch.inference_mode():
            return print(page(), end="")
    if only[:1] == ("--rows",):
        with torch.inference_mode():
            for rider in RIDERS:
                if len(only) == 1 or any(word in rider for word in only[1:]):
                    try:
                        print(json.dumps({rider: row(rider)}), flush=True)
                    except Exception as error:
                        print(json.dumps({rider: repr(error)[:600]}), flush=True)
        return None
    run_cases({case: ((lambda name, make, check=check, what=name: check(what)), None) for case, (check, name) in CASES.items()}, *only)


if __name__ == "__main__":
    main(*sys.argv[1:])
