"""A ComfyUI MODEL as a DIT handle. It samples through ComfyUI's own guider, so that all that rides on a MODEL stays on it: LoRA,
model_sampling patches, ControlNet, hooks, CFG functions, function wrappers, attention overrides, regions, masks.

Followed: comfy/samplers.py and comfy/sample.py of ComfyUI 0.33. Imported only where there is a MODEL.
"""

from types import SimpleNamespace
from typing import Callable

import comfy.model_sampling
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
import comfy.sample
import comfy.samplers
import latent_preview
import numpy as np
import torch
from torch import Tensor

from ...dit_impl.errors import BackboneError, StagesError
from ...dit_impl.handle.backbone import Backbone, Conditioning, DitHandle
from ...dit_impl.model.stages import Call, Stages
from ...dit_impl.sampling.solvers import check_solver
from ...dit_impl.sampling.walk import Report, check_start, check_step, last_step, walk, with_noise
from ...dit_impl.sources.adapters import Adapter
from ...dit_impl.tokens.other_sizes import Reading
from ...dit_impl.tokens.wire import LatentFormat, into_dit_space, latent_format, out_of_dit_space, to_latent, to_tokens, unfold
from . import adapted_model
from .patched_model import ADAPTERS, PATCH_SIZE, patch_sizes_of, with_patch_sizes
from .stages import stages_of

APPLY_MODEL = ("c_concat", "c_crossattn", "control", "transformer_options")  # of BaseModel.apply_model, after x and t


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


class Captured(Exception):
    """The diffusion model was about to be called, and need not be."""


class StepSampler(comfy.samplers.Sampler):
    """A sampler that takes one look at x0, with `instead(apply_model, x, sigmas, rest)` in the place of the innermost model call."""

    def __init__(self, wire: dict, start: tuple[Tensor, Tensor], sigma: Tensor, instead: Callable):
        self.wire, (self.clean, self.noise), self.sigma, self.instead = wire, start, sigma, instead
        self.x0: Tensor | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        """Called by CFGGuider.inner_sample; keeps its answer in `x0`."""
        add_wrapper_with_key(WrappersMP.APPLY_MODEL, "dit_blocks", lambda executor, x, t, *args, **kwargs: self.instead(
            lambda: executor(x, t, *args, **kwargs), x, t, {**dict(zip(APPLY_MODEL, args)), **kwargs}),
            extra_args["model_options"], is_model_options=True)
        model = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = self.clean.to(noise), self.noise.to(noise)
        x = to_latent(self.wire["tokens"].to(noise), self.wire)
        self.x0 = to_tokens(model(x, self.sigma.to(noise) * noise.new_ones(len(noise)), denoise_mask=denoise_mask, **extra_args), self.wire)
        return noise


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


class HandleOfModel(DitHandle):
    """What flows on a DIT wire for a MODEL. The MODEL is never changed: the guider patches, and restores, as for KSampler."""

    def __init__(self, model):
        self.model = model
        inner = model.model
        self.name = f"{type(inner).__name__} (MODEL)"
        host_format = model.get_model_object("latent_format")
        self.latent_format = read_latent_format(host_format)
        self.downscale = host_format.spacial_downscale_ratio
        self.picture_size = 1024
        (own, *_), self.frame_patch = patch_sizes_of(model)
        self.taught = dict(model.model_options.get(ADAPTERS, {}))  # patch sizes that adapters brought
        self.patch_sizes = (own, *self.taught)
        self.previewer = None  # chosen anew for every run, as the user's setting may change

    @property
    def stages(self) -> Stages:
        """The MODEL's transformer in stages. Raises StagesError where there is no adapter for its architecture."""
        transformer = self.model.model.diffusion_model
        stages = stages_of(transformer)
        return adapted_model.StagesWithAdapters(stages, transformer, self.taught) if self.taught else stages

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        return tuple(adapter for adapter, _ in self.taught.values())

    def with_adapter(self, adapter: Adapter) -> "HandleOfModel":
        """The same MODEL, which reads one more patch size. Raises BackboneError, CheckpointError."""
        return HandleOfModel(adapted_model.with_adapter(self.model, adapter, self.name))

    def as_backbone(self) -> Backbone:
        """The MODEL's transformer as one that can be taught a patch size. Raises BackboneError."""
        return adapted_model.as_backbone(self)

    def approximate(self, reading: Reading) -> "HandleOfModel":
        patched = HandleOfModel(with_patch_sizes(self.model, {reading.patch_size}, lambda *_: reading.patch_size, reading.method))
        patched.taught.pop(reading.patch_size, None)  # which is not asked now
        patched.patch_sizes = (*patched.patch_sizes, reading.patch_size)
        return patched

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
        self._check_solver(solver)
        self.previewer = latent_preview.get_previewer(self.model.load_device, self.model.model.latent_format)
        sampler = TokenSampler(wire, *self._start(wire), solver, start_step, end_step, report)
        self._guide(wire, sampler, sigmas, positive, negative, cfg)
        tokens, x0 = sampler.result
        return self._landed(tokens, sigmas[end_step]), x0

    def begin(self, wire: dict, sigmas: Tensor, step: int, positive: Conditioning, negative: Conditioning | None = None) -> dict:
        check_step(step, sigmas)
        self.check_tokens(wire)
        if any("hooks" in extras for conditioning in (positive, negative or []) for _, extras in conditioning):
            raise StagesError("the conditioning carries hooks, which hold for one model call only; use DiT Denoise Step")
        stages, transformer, calls, layouts = self.stages, self.model.model.diffusion_model, [], []

        def keep(*call):
            calls.append(call[1:])
            raise Captured

        def capture(apply_model, x, t, rest):
            hook = transformer.register_forward_pre_hook(keep, with_kwargs=True)
            try:
                apply_model()
            except Captured:
                layouts.append(rest["transformer_options"]["cond_or_uncond"])
            finally:
                hook.remove()
            return torch.zeros_like(x)
        self._guide(wire, StepSampler(wire, self._start(wire), sigmas[step], capture), sigmas, positive, negative, cfg=2.0)
        if len(calls) != 1:
            raise StagesError(f"this step is {len(calls)} model calls (regions, texts that share no batch, or little memory); "
                              "give each conditioning a branch of its own, or use DiT Denoise Step")
        hidden, order = stages.condition(*calls[0][0], **calls[0][1]), layouts[0]

        def to_x0(prediction: Tensor, cfg: float) -> Tensor:
            parts = dict(zip(order, to_latent(prediction, wire).chunk(len(order))))

            def replay(apply_model, x, t, rest):
                answer = torch.cat([parts[which] for which in rest["transformer_options"]["cond_or_uncond"]]).to(x)
                return self.model.model.model_sampling.calculate_denoised(t, answer, x)
            sampler = StepSampler(wire, self._start(wire), sigmas[step], replay)
            self._guide(wire, sampler, sigmas, positive, negative, cfg)
            return sampler.x0
        layout = tuple("uncond" if which else "cond" for which in order)
        call = Call(layout, wire["tokens"], sigmas[step], to_x0)
        return {"hidden": hidden, "tokens": wire, "done": frozenset(), "call": call, "model": self.name}

    def advance(self, wire: dict, x0: Tensor, sigmas: Tensor, step: int, solver: str) -> tuple[dict, dict]:
        self._check_solver(solver)
        tokens, x0 = super().advance(wire, x0, sigmas, step, solver)
        return self._landed(tokens, sigmas[step + 1]), x0

    def modules(self) -> list:
        return [SimpleNamespace(comfy_patcher=self.model)]

    def _check_solver(self, solver: str) -> None:
        check_solver(solver, isinstance(self.model.get_model_object("model_sampling"), comfy.model_sampling.CONST))

    def _start(self, wire: dict) -> tuple[Tensor, Tensor]:
        """Clean latent and noise that the tokens began with, in DiT space; zeros where that is unknown."""
        check_start(wire)
        start = wire.get("start") or dict.fromkeys(("clean", "noise"), torch.zeros_like(wire["tokens"]))
        return to_latent(start["clean"], wire), to_latent(start["noise"], wire)

    def _guide(self, wire: dict, sampler: comfy.samplers.Sampler, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None,
               cfg: float) -> None:
        """Run a sampler as KSampler runs its own."""
        conditionings = {"positive": positive, **({} if negative is None else {"negative": negative})}
        for what, conditioning in conditionings.items():
            self.check_conditioning(conditioning, f"{what} conditioning")
        guider = comfy.samplers.CFGGuider(self._reading(wire["patch_size"]))
        guider.inner_set_conds(conditionings)
        guider.set_cfg(cfg)
        clean, noise = self._start(wire)
        start = wire.get("start", {})
        guider.sample(noise, start.get("latent", clean), sampler, sigmas, denoise_mask=wire.get("noise_mask"), disable_pbar=True,
                      seed=start.get("seed"))

    def _reading(self, patch_size: int):
        """The MODEL, asked for patches of this size where an adapter brought them."""
        if patch_size not in self.taught:
            return self.model
        clone = self.model.clone()
        clone.model_options["transformer_options"] = {**clone.model_options.get("transformer_options", {}), PATCH_SIZE: patch_size}
        return clone

    def _landed(self, wire: dict, sigma: Tensor) -> dict:
        """Tokens that have come to the end of the noise, as KSampler gives them."""
        if sigma != 0:
            return wire
        sampling = self.model.get_model_object("model_sampling")
        return {**wire, "tokens": sampling.inverse_noise_scaling(sigma, wire["tokens"])}

    @property
    def latent_rgb(self) -> Tensor | None:
        """Linear map from latents to RGB, as ComfyUI previews them: [C + 1, 3], the last row added."""
        known = self.model.model.latent_format
        if known.latent_rgb_factors is None or known.latent_rgb_factors_reshape is not None:
            return None
        factors = torch.tensor(known.latent_rgb_factors, dtype=torch.float32)
        bias = known.latent_rgb_factors_bias
        return torch.cat([factors, torch.zeros(1, 3) if bias is None else torch.tensor(bias, dtype=torch.float32)[None]])

    def picture(self, wire: dict, tokens: Tensor) -> Tensor:
        known = self.model.model.latent_format
        if known.latent_rgb_factors is None:
            return super().picture(wire, tokens)
        to_rgb = latent_preview.Latent2RGBPreviewer(known.latent_rgb_factors, known.latent_rgb_factors_bias, known.latent_rgb_factors_reshape)
        shown = to_rgb.decode_latent_to_preview(to_latent(tokens[:1].float().cpu(), wire))
        return torch.from_numpy(np.array(shown)).float() / 255

    def preview(self, wire: dict, x0: Tensor) -> Tensor | None:
        if self.previewer is None:
            return None
        picture = self.previewer.decode_latent_to_preview_image("JPEG", to_latent(x0[:1], wire))[1]
        return torch.from_numpy(np.asarray(picture)).float() / 255
