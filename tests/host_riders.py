"""What host_riders_check.py lets ride along: rider → (the model it is on, what makes (model, positive, negative, latent) and options). Nothing
of ComfyUI is imported before it is asked for."""

import importlib

from host_model_check import lora, unet
from host_models import MODELS, conditioning
import torch


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


def compiled(calls: list | None = None):
    """A MODEL as core's TorchCompileModel makes it, whose graphs are run as they are; calls: told of each. A compiler for C is not everywhere."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def backend(graph, inputs):
        if calls is not None:
            calls.append(graph)
        return graph.forward
    model, *rest = base("sd3")
    model = model.clone()
    set_torch_compile_wrapper(model=model, backend=backend)
    return (model, *rest), {}


def merged():
    from comfy_extras.nodes_model_merging import ModelMergeSimple
    model, *rest = base("sd3")
    return (ModelMergeSimple().merge(model, lora(base("sd3"))[0], 0.3)[0], *rest), {}


def controlled(calls: list | None = None):
    """A ControlNet of random residuals. calls: told of each."""
    from comfy.controlnet import ControlBase

    class Control(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            if calls is not None:
                calls.append(len(x_noisy))
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


def tiled():
    """HyperTile draws its tiles at random, if the latent's sides have several divisors of 4 and more."""
    model, positive, negative, latent = base("a UNet")
    latent = torch.randn(1, latent.shape[1], 16, 16, generator=torch.Generator().manual_seed(3))
    return (extra("nodes_hypertile", "HyperTile", model, 32, 3, 2, False), positive, negative, latent), {}


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
    "TorchCompileModel": ("sd3", compiled),
    "HyperTile": ("a UNet", tiled),
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
    "Steer (MODEL)": ("sd3", lambda: (steered(), {})),
    "Stages (MODEL)": ("sd3", lambda: (wired(), {})),
    "Step Cache (MODEL)": ("sd3", lambda: (cached(), {})),
    "a half-precision LATENT": ("sd3", lambda: ((*base("sd3")[:3], base("sd3")[3].half()), {"denoise": 0.7})),
}


def cached():
    from dit_blocks.nodes.step_cache import StepCacheModel
    model, *rest = base("sd3")
    return (StepCacheModel.execute(model=model, threshold=1.0, start_percent=0.0, end_percent=1.0).result[0], *rest)


def steered():
    from dit_blocks.dit_impl.tokens.steering import SteeringVector
    from dit_blocks.nodes.steering import SteerModel
    model, *rest = base("sd3")
    vector = SteeringVector(torch.ones(192), "SD3 (MODEL)", 1, 24.0)
    return (SteerModel.execute(model=model, vector=vector, strength=1.0, rows="positive", start_percent=0.0, end_percent=0.6).result[0], *rest)


def wired():
    """All blocks but one, in half of the steps."""
    from dit_blocks.dit_impl.step import stages
    from dit_blocks.nodes.comfyui.handle_of_model import HandleOfModel
    from dit_blocks.nodes.transformer import StagesModel
    model, positive, negative, latent = base("sd3")
    dit, sigmas = HandleOfModel(model), HandleOfModel(model).schedule(4)
    tokens, _ = dit.add_noise(dit.fold({"samples": latent}), sigmas, 0, 5)
    hidden = stages.patch_embed(dit, stages.condition(dit, tokens, positive, None, sigmas, 0))
    hidden = stages.run_blocks(dit, stages.position_embed(dit, hidden), "all but 1")
    return StagesModel.execute(model=model, hidden=hidden, start_percent=0.0, end_percent=0.6).result[0], positive, negative, latent


def coarse_first():
    from dit_blocks.nodes.patch_schedule import PatchScheduleModel
    model, *rest = base("sd3")
    return (PatchScheduleModel.execute(model=model, rows="4 until 50%, then 2").result[0], *rest)
