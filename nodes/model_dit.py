"""A ComfyUI MODEL as a DIT handle. It samples through ComfyUI's own guider, so that all that rides on a MODEL stays on it: LoRA,
model_sampling patches, ControlNet, hooks, CFG functions, function wrappers, attention overrides, regions, masks.

Followed: comfy/samplers.py and comfy/sample.py of ComfyUI 0.33. Imported only where there is a MODEL.
"""

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import latent_preview
import numpy as np
import torch
from torch import Tensor

from ..dit_impl.backbone import BackboneError, Conditioning, Dit
from ..dit_impl.denoise import Report, check_step, last_step, walk, with_noise
from ..dit_impl.tokens import LatentFormat, into_dit_space, latent_format, out_of_dit_space, to_latent, to_tokens, unfold
from .stages import Stages, StagesError, stages_of


def read_latent_format(host_format) -> LatentFormat:
    """ComfyUI's latent format as numbers a channel. Raises BackboneError where it is not (x − shift)·scale / std, bit for bit."""
    channels = host_format.latent_channels

    def values(name: str, default: float) -> Tensor:
        found = getattr(host_format, name, None)
        return torch.as_tensor(default if found is None else found, dtype=torch.float32).flatten().expand(channels).contiguous()
    shift = values("latents_mean", 0.0) if hasattr(host_format, "latents_mean") else values("shift_factor", 0.0)
    ours = latent_format(values("scale_factor", 1.0), shift, values("latents_std", 1.0))
    probe = torch.linspace(-4, 4, channels * 12).view(1, channels, *[1] * (host_format.latent_dimensions - 2), 3, 4)
    if not (torch.equal(into_dit_space(probe, ours), host_format.process_in(probe))
            and torch.equal(out_of_dit_space(probe, ours), host_format.process_out(probe))):
        raise BackboneError(f"the latent format {type(host_format).__name__} is more than a scale and a shift for each channel; "
                            "tokens can't carry it")
    return ours


class TokenSampler(comfy.samplers.Sampler):
    """A sampler that walks in token space, for ComfyUI's guider to run."""

    def __init__(self, wire: dict, clean: Tensor, noise: Tensor, solver: str, start_step: int, end_step: int, report: Report):
        self.wire, self.clean, self.noise = wire, clean, noise
        self.solver, self.start_step, self.end_step, self.report = solver, start_step, end_step, report
        self.result: tuple[dict, dict] | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        """Called by CFGGuider.inner_sample once the model is loaded and the conditioning made ready; keeps its answer in `result`."""
        model = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = self.clean.to(noise), self.noise.to(noise)
        ones = noise.new_ones(len(noise))

        def predict_x0(x: Tensor, sigma: Tensor) -> Tensor:
            x0 = model(to_latent(x, self.wire), sigma * ones, denoise_mask=denoise_mask, **extra_args)
            return to_tokens(x0, self.wire)
        self.result = walk(predict_x0, self.wire, sigmas, self.solver, self.start_step, self.end_step, noise.device, self.report)
        return noise


class ModelDit(Dit):
    """What flows on a DIT wire for a MODEL. The MODEL is never changed: the guider patches, and restores, as for KSampler."""

    def __init__(self, model):
        self.model = model
        inner = model.model
        self.name = f"{type(inner).__name__} (MODEL)"
        host_format = model.get_model_object("latent_format")
        self.latent_format = read_latent_format(host_format)
        self.downscale = host_format.spacial_downscale_ratio
        self.picture_size = 1024
        size = getattr(inner.diffusion_model, "patch_size", None) or 1
        self.patch_sizes = (size if isinstance(size, int) else size[-1],)
        self.frame_patch = 1 if isinstance(size, int) or len(size) < 3 else size[0]
        self.previewer = None  # chosen anew for every run, as the user's setting may change

    @property
    def stages(self) -> Stages:
        """The MODEL's transformer in stages. Raises StagesError where there is no adapter for its architecture."""
        return stages_of(self.model.model.diffusion_model)

    def check_conditioning(self, conditioning: Conditioning, what: str) -> None:
        """Raise BackboneError for text of another width than the model reads, where a stage adapter knows it."""
        try:
            width = self.stages.context_width
        except StagesError:
            return
        for context, _ in conditioning:
            if context.shape[-1] != width:
                raise BackboneError(f"{what} has width {context.shape[-1]}, {self.name} reads width {width}: "
                                    "use the CLIP that goes with this model")

    def fold(self, latent: dict, patch_size: int = 0) -> dict:
        samples = comfy.sample.fix_empty_latent_channels(
            self.model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal"))
        return {**super().fold({**latent, "samples": samples}, patch_size), "latent": samples}

    def schedule(self, steps: int, scheduler: str = "simple", denoise: float = 1.0) -> Tensor:
        if not 0 < denoise <= 1:
            raise ValueError(f"denoise is above 0 and at most 1, not {denoise}")
        sampling, count = self.model.get_model_object("model_sampling"), steps if denoise > 0.9999 else int(steps / denoise)
        if scheduler == "linear":
            sigmas = torch.linspace(float(sampling.sigma_max), 0, count + 1)
        else:
            sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, count)
        return sigmas[-(steps + 1):]

    def add_noise(self, wire: dict, sigmas: Tensor, step: int, seed: int) -> tuple[dict, dict]:
        check_step(step, sigmas)
        sampling, device = self.model.get_model_object("model_sampling"), self.model.load_device
        level, top = sigmas[step].to(device), float(sampling.sigma_max)
        highest = bool(level >= top * (1 - 1e-5))
        noisy, noise = with_noise(wire, seed, lambda clean, noise: sampling.noise_scaling(
            level, noise.to(device), clean.to(device), highest).to(clean))
        latent = noisy.pop("latent", None)
        if latent is None or not torch.equal(to_tokens(into_dit_space(latent.float(), self.latent_format), wire), wire["tokens"]):
            latent = unfold(wire) if wire["tokens"].any() else to_latent(wire["tokens"], wire)
        noisy["start"]["latent"] = latent
        return noisy, noise

    def denoise(self, wire: dict, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None = None,
                cfg: float = 1.0, solver: str = "euler", start_step: int = 0, end_step: int | None = None,
                report: Report = lambda *_: None) -> tuple[dict, dict]:
        end_step = last_step(start_step, end_step, sigmas)
        sampling = self.model.get_model_object("model_sampling")
        if solver == "ddim" and isinstance(sampling, comfy.model_sampling.CONST):
            raise ValueError("ddim is for DDPM models; for a rectified flow the same step is euler")
        start = wire.get("start")
        if start is None and wire.get("noise_mask") is not None:
            raise ValueError("the tokens have a noise mask, but not the clean tokens and the noise it needs: use Add Noise")
        empty = torch.zeros_like(to_latent(wire["tokens"], wire))
        latent, clean, noise = (empty,) * 3 if start is None else (
            start["latent"], to_latent(start["clean"], wire), to_latent(start["noise"], wire))
        self.previewer = latent_preview.get_previewer(self.model.load_device, self.model.model.latent_format)
        sampler = TokenSampler(wire, clean, noise, solver, start_step, end_step, report)
        guider = comfy.samplers.CFGGuider(self.model)
        conditionings = {"positive": positive, **({} if negative is None else {"negative": negative})}
        for what, conditioning in conditionings.items():
            self.check_conditioning(conditioning, f"{what} conditioning")
        guider.inner_set_conds(conditionings)
        guider.set_cfg(cfg)
        guider.sample(noise, latent, sampler, sigmas, denoise_mask=wire.get("noise_mask"), disable_pbar=True,
                      seed=None if start is None else start["seed"])
        tokens, x0 = sampler.result
        if sigmas[end_step] == 0:
            tokens = {**tokens, "tokens": sampling.inverse_noise_scaling(sigmas[end_step], tokens["tokens"])}
        return tokens, x0

    def preview(self, wire: dict, x0: Tensor) -> Tensor | None:
        if self.previewer is None:
            return None
        picture = self.previewer.decode_latent_to_preview_image("JPEG", to_latent(x0[:1], wire))[1]
        return torch.from_numpy(np.asarray(picture)).float() / 255
