"""A ComfyUI MODEL as a DIT handle. It samples through ComfyUI's own guider, so that all that rides on a MODEL stays on it: LoRA,
model_sampling patches, ControlNet, hooks, CFG functions, function wrappers, attention overrides, regions, masks.

Followed: comfy/samplers.py and comfy/sample.py of ComfyUI 0.33. Imported only where there is a MODEL.
"""

from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from types import SimpleNamespace

import comfy.model_base
import comfy.model_sampling
from comfy.patcher_extension import WrappersMP
import comfy.sample
import comfy.samplers
import latent_preview
import numpy as np
import torch
from torch import Tensor

from ...dit_impl.errors import BackboneError, StagesError, TokensError
from ...dit_impl.handle.backbone import Backbone, Conditioning
from ...dit_impl.handle.block_plan import BlockPlan
from ...dit_impl.handle.stage_plan import StagePlan
from ...dit_impl.handle.steering_plan import Turn
from ...dit_impl.handle.step_cache import StepCache
from ...dit_impl.model.stages import Call, Stages
from ...dit_impl.sampling.at import NoiseSpace
from ...dit_impl.sampling.guidance import is_guided
from ...dit_impl.sampling.level import check_level, clean, is_walked
from ...dit_impl.sampling.schedules import part_of
from ...dit_impl.sampling.solvers import check_solver
from ...dit_impl.sampling.walk import Report, check_start, check_step, first_step, last_step, with_noise
from ...dit_impl.sources.adapters import Adapter
from ...dit_impl.tokens.mixed import Mixture
from ...dit_impl.tokens.other_sizes import Reading
from ...dit_impl.tokens.wire import (
    CARRIED,
    fold_nested,
    identity_format,
    into_dit_space,
    out_of_dit_space,
    packed,
    same_format,
    to_latent,
    to_tokens,
    unfold,
    unpacked,
    with_row,
    without_row,
)
from ...dit_impl.tokens.wire_types import AnyWire, DitHidden, DitTokens, ModelCall, NoiseStart, Onward, without
from . import adapted_model
from .counted import CountedModel
from .latent_space import read_latent_format, read_latent_rgb
from .model_calls import Answering, Listening, canvas_of, on_grid
from .patched_model import ADAPTERS, PATCH_SIZE, patch_sizes_of, with_patch_sizes
from .planned_blocks import in_a_run, with_block_plan, with_step_cache, with_turn
from .riders import CACHE, TURNS, check_stages, check_uncut, left_out_by_stages, remembering, wrappers_of
from .stages import begun, check_text, stages_of, text_width
from .token_samplers import GivenSampler, TokenSampler


def _film(tokens: Tensor, wire: DitTokens) -> Tensor:
    """The latent that a picture is made of: the first of several."""
    return unpacked(tokens, wire)[0] if "nested" in wire else to_latent(tokens, wire)


class Guider(comfy.samplers.CFGGuider):
    """KSampler's own, which may have no negative."""

    def predict_noise(self, x, timestep, model_options={}, seed=None):
        if "negative" not in self.conds and is_guided(self.cfg):  # a wrapper has set it
            raise BackboneError(f"this MODEL sets cfg {self.cfg:g} itself, which needs a negative conditioning: wire one")
        return super().predict_noise(x, timestep, model_options, seed)


class HandleOfModel(CountedModel):
    """What flows on a DIT wire for a MODEL. The MODEL is never changed: the guider patches, and restores, as for KSampler."""

    def __init__(self, model, sampler: comfy.samplers.Sampler | None = None, guider: comfy.samplers.CFGGuider | None = None):
        """sampler: what walks the steps in place of a solver. guider: over this MODEL, what makes x0 in place of prompts and cfg."""
        self.model, self.sampler, self.guider = model, sampler, guider
        self.name = f"{type(model.model).__name__} (MODEL)"
        host_format = model.get_model_object("latent_format")
        self.latent_format = read_latent_format(host_format)
        self.downscale, self.picture_size = host_format.spacial_downscale_ratio, 1024
        (own, *_), self.frame_patch = patch_sizes_of(model)
        self.taught = dict(model.model_options.get(ADAPTERS, {}))  # patch sizes that adapters brought
        self.patch_sizes, self.remark, self.turns = (own, *self.taught), left_out_by_stages(model), model.model_options.get(TURNS, ())
        self.previewer = None  # chosen anew for every run, as the user's setting may change

    @property
    def compute_device(self) -> torch.device:
        return self.model.load_device

    def room(self, wire: AnyWire) -> tuple[float, float]:
        """By the model's own estimate, for [uncond, cond] and for one of them, as KSampler asks for."""
        tokens = wire["tokens"] if "hidden" in wire else wire
        return tuple(self.model.model.memory_required([count * len(tokens["tokens"]), tokens["channels"], *tokens["size"]]) for count in (2, 1))

    @contextmanager
    def running(self):
        self.model.pre_run()
        try:
            yield
        finally:
            self.model.cleanup()

    @property
    def answers(self) -> str:
        sampling = type(self.model.model.model_sampling)
        return getattr(sampling, "calculate_denoised", sampling).__qualname__.partition(".")[0]

    @property
    def reads(self) -> str:
        width = text_width(self.model.model.diffusion_model)
        return f"prompts of {type(self.model.model).__name__}" + (f" of width {width}" if width else "")

    @property
    def caches(self) -> bool:
        return CACHE in self.model.model_options

    @property
    def stages(self) -> Stages:
        """The MODEL's transformer in stages. Raises StagesError where there is no adapter for its architecture."""
        transformer = self.model.model.diffusion_model
        stages = stages_of(transformer)
        return adapted_model.StagesWithAdapters(stages, transformer, self.taught) if self.taught else stages

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        return tuple(adapter for adapter, _ in self.taught.values())

    def with_cache(self, cache: StepCache) -> "HandleOfModel":
        return HandleOfModel(with_step_cache(self.model, cache), self.sampler, self.guider)

    def with_plan(self, plan: BlockPlan) -> "HandleOfModel":
        return HandleOfModel(with_block_plan(self.model, plan), self.sampler, self.guider)

    def with_turn(self, turn: Turn | StagePlan) -> "HandleOfModel":
        return HandleOfModel(with_turn(self.model, turn), self.sampler, self.guider)

    def with_adapter(self, adapter: Adapter) -> "HandleOfModel":
        """The same MODEL, which reads one more patch size. Raises BackboneError, CheckpointError."""
        return HandleOfModel(adapted_model.with_adapter(self.model, adapter, self.name))

    def as_backbone(self) -> Backbone:
        """The MODEL's transformer as one that can be taught a patch size. Raises BackboneError."""
        return adapted_model.as_backbone(self)

    def approximate(self, reading: Reading) -> "HandleOfModel":
        model = with_patch_sizes(self.model, {reading.patch_size}, lambda *_: reading.patch_size, reading.method)
        patched = HandleOfModel(model, self.sampler, self.guider)
        patched.taught.pop(reading.patch_size, None)  # which is not asked now
        patched.patch_sizes = (*patched.patch_sizes, reading.patch_size)
        return patched

    def by_regions(self, mixture: Mixture, mask: Tensor | None = None) -> "HandleOfModel":
        return HandleOfModel(with_patch_sizes(self.model, {mixture}, lambda *_: mixture, "native", mask), self.sampler, self.guider)

    def away_from(self, negative: Conditioning | None, cfg: float) -> Conditioning | None:
        if self.guider is not None:
            return None
        found = super().away_from(negative, cfg)
        # a function on the MODEL may read it whatever the cfg is
        reads = self.model.model_options.get("disable_cfg1_optimization") or wrappers_of(self.model, WrappersMP.PREDICT_NOISE)
        return negative if found is None and reads else found

    def check_space(self, wire: DitTokens) -> None:
        if "nested" not in wire:
            super().check_space(wire)

    def fold(self, latent: dict, patch_size: int = 0) -> DitTokens:
        samples = latent["samples"]
        if getattr(samples, "is_nested", False):
            if type(self.model.model).process_latent_in is not comfy.model_base.BaseModel.process_latent_in:
                raise TokensError(f"{self.name} samples the tensors of a LATENT on scales of their own, which tokens do not have: use KSampler")
            if patch_size not in (0, 1) or not same_format(self.latent_format, identity_format(self.channels)):
                raise TokensError(f"a latent of several tensors is cut into single values: patch_size is 0 or 1 for it, not {patch_size}")
            carried = {name: latent[name] for name in CARRIED if name in latent}
            return {**fold_nested(samples.unbind(), type(samples), **carried), "latent": samples}
        samples = comfy.sample.fix_empty_latent_channels(
            self.model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal"))
        if samples.dim() != 3:
            return {**super().fold({**latent, "samples": samples}, patch_size), "latent": samples}
        if patch_size not in (0, 1):
            raise TokensError(f"a latent [B, C, L] is cut into its positions: patch_size is 0 or 1 for it, not {patch_size}")
        return {**super().fold({**latent, "samples": samples.unsqueeze(2)}, 1), "latent": samples, "line": True}

    def schedule(self, steps: int, scheduler: str = "simple", denoise: float = 1.0, skip_penultimate: bool = False) -> Tensor:
        sampling = self.model.get_model_object("model_sampling")

        def whole(count: int) -> Tensor:
            if scheduler == "linear":
                return torch.linspace(float(sampling.sigma_max), 0, count + 1)
            levels = comfy.samplers.calculate_sigmas(sampling, scheduler, count)
            return levels.nan_to_num(float(sampling.sigma_max))  # kl_optimal of one step divides by 0
        return part_of(whole, steps, denoise, skip_penultimate)

    def add_noise(self, wire: DitTokens, sigmas: Tensor, step: int, seed: int) -> tuple[DitTokens, DitTokens]:
        check_step(step, sigmas)
        sampling, device = self.model.get_model_object("model_sampling"), self.model.load_device
        level, top = sigmas[step].to(device), float(sampling.sigma_max)
        highest = bool(level >= top * (1 - 1e-5))
        noisy, noise = with_noise(wire, seed, lambda clean, noise: sampling.noise_scaling(
            level, noise.to(device), clean.to(device), highest).to(clean))
        noisy.pop("latent", None)
        noisy["start"] |= {"latent": self._latent(wire), "sigma": sigmas[step].float().cpu()}
        return self.standing(noisy, sigmas[step], walked=False), noise

    def _latent(self, wire: DitTokens) -> Tensor:
        """Clean tokens as the LATENT they came from, where they still are that."""
        latent = wire.get("latent")
        if "nested" in wire:
            return wire["nested"][1](unpacked(wire["tokens"], wire))
        if latent is None or not torch.equal(to_tokens(with_row(into_dit_space(latent.float(), self.latent_format), wire), wire), wire["tokens"]):
            latent = unfold(wire) if wire["tokens"].any() else without_row(to_latent(wire["tokens"], wire), wire)
        return latent

    @property
    def space(self) -> NoiseSpace:
        sampling = self.model.get_model_object("model_sampling")
        return NoiseSpace(isinstance(sampling, comfy.model_sampling.CONST), float(sampling.percent_to_sigma(1e-4)),
                          getattr(sampling, "noise_scale", 1.0))

    def share_of_data(self, sigma: Tensor) -> Tensor:
        ones, sampling = torch.ones(1), self.model.get_model_object("model_sampling")
        handed = sampling.inverse_noise_scaling(sigma.float().cpu(), ones.clone())
        if torch.equal(handed, ones / (1.0 - sigma.float().cpu())):
            return 1.0 - sigma.float()
        return 1 / handed[0] if handed.isfinite().all() and handed.all() else ones[0]

    def entered(self, wire: DitTokens, sigmas: Tensor, step: int) -> DitTokens:
        check_level(wire, sigmas, step)
        sigma = sigmas[step]
        if "level" in wire or not sigma > 0:
            return wire
        device, sampling = self.model.load_device, self.model.get_model_object("model_sampling")
        given = wire["tokens"].to(device)
        x = sampling.noise_scaling(sigma.to(device), torch.zeros_like(given), given, False).to(wire["tokens"])
        start: NoiseStart = {"clean": wire["tokens"], "noise": torch.zeros_like(wire["tokens"]), "latent": self._latent(wire)}
        kept = without(wire, "latent")
        return self.standing({**kept, "tokens": x if x.any() else wire["tokens"], "start": start}, sigma, walked=False)

    def denoise(self, wire: DitTokens, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None = None,
                cfg: float = 1.0, solver: str = "euler", start_step: int = 0, end_step: int | None = None,
                report: Report = lambda *_: None) -> tuple[DitTokens, DitTokens]:
        end_step = last_step(start_step, end_step, sigmas)
        if self.sampler is None:
            check_solver(solver, self.space.rectified)
        check_uncut(self.model, is_walked(wire) or end_step < len(sigmas) - 1)
        if solver == "ddim" and self.sampler is None and wire.get("noise_mask") is not None and "seed" not in wire.get("start", {}):
            raise ValueError("ddim draws what lies outside a noise mask by Add Noise's seed: use Add Noise")
        self.previewer = latent_preview.get_previewer(self.model.load_device, self.model.model.latent_format)
        wire, first = self.entered(wire, sigmas, start_step), first_step(wire, sigmas, start_step)
        if self.sampler is None:
            levels, sampler = sigmas[first:], TokenSampler(wire, *self._start(wire), report, solver, self.space, start_step - first, end_step - first)
        else:  # a copy, since core's uni_pc writes into them
            levels, sampler = sigmas[start_step:end_step + 1].clone(), GivenSampler(wire, *self._start(wire), report, self.sampler)
        guider = self._guider(wire, positive, negative, cfg)
        run = in_a_run(guider, wire, levels)
        with remembering(self.model, wire.get("remembered")) as remembered:
            latent = self._sample(guider, wire, sampler, levels)
            tokens, x0 = sampler.result
            kept = remembered()
        if kept:
            tokens["remembered"] = kept
        tokens = self.standing(tokens, sigmas[end_step])
        if sigmas[end_step] == 0:
            tokens = self._ended(clean(tokens), latent)
        return run.handed_on(tokens) if run else tokens, x0

    def begin(self, wire: DitTokens, sigmas: Tensor, step: int, positive: Conditioning, negative: Conditioning | None = None) -> DitHidden:
        check_step(step, sigmas)
        self.check_stages()
        self.check_tokens(wire)
        stages, given = self.stages, tuple(filter(None, (positive, negative)))
        check_stages(self.model, wire["size"], *given)
        wire = self.entered(wire, sigmas, step)
        guider = self._guider(wire, positive, negative, 1.0)
        first, start = first_step(wire, sigmas, step), self._start(wire)

        def run(sampler, cfg: float):
            guider.set_cfg(cfg)
            self._sample(guider, wire, sampler, sigmas[first:])
            return sampler

        def same_noise(_, noise: Tensor) -> None:
            given = with_row(noise, wire)
            if not is_walked(wire) and not torch.equal(given.to(start[1]), start[1]):
                raise StagesError("a wrapper on this MODEL begins with other noise than Add Noise drew, such as FreeNoise; use DiT Denoise")
        with remembering(self.model, wire.get("remembered")):
            listening = Listening(wire, start, sigmas[step], same_noise)
            asked = run(listening, cfg=1.0 if negative is None else 2.0).asked
        if not asked:
            raise StagesError("every conditioning is outside its range of steps here, so that the model is not asked; use DiT Denoise Step")
        canvas = canvas_of(wire, asked, stages.patch_size)
        with self.running():
            hiddens = [begun(stages, call.args, call.kwargs) for call in asked]
        seen = [on_grid(canvas, call.parts[0].x, canvas["patch_size"]) if call.parts[0].area else canvas for call in asked]
        # the wire, which holds them, lies at home
        parts = [replace(part, x=part.x.to(wire["tokens"].device)) for call in asked for part in call.parts]

        def to_x0(prediction: Tensor, cfg: float) -> tuple[Tensor, Onward]:
            answers = to_latent(prediction, canvas).chunk(len(parts))
            known = {part.key: (part, answer if part.area is None else answer[..., *part.area]) for part, answer in zip(parts, answers)}
            with remembering(self.model, wire.get("remembered")) as remembered:
                x0 = run(Answering(known, wire, start, sigmas[step]), cfg).x0
                kept = remembered()
            return x0, {"remembered": kept} if kept else {}
        layout, areas = (tuple(getattr(part, name) for part in parts) for name in ("name", "area"))
        call = Call(layout, wire["tokens"], sigmas[step], to_x0, wire, canvas, areas)
        others: list[ModelCall] = [{"hidden": hidden, "tokens": tokens} for hidden, tokens in zip(hiddens[1:], seen[1:])]
        return {"hidden": hiddens[0], "tokens": seen[0], "others": tuple(others), "done": frozenset(), "call": call, "model": self.name,
                "trace": ()}

    def advance(self, wire: DitTokens, x0: Tensor, sigmas: Tensor, step: int, solver: str) -> tuple[DitTokens, DitTokens]:
        check_solver(solver, self.space.rectified)
        tokens, x0 = super().advance(wire, x0, sigmas, step, solver)
        return (self._ended(clean(tokens)) if sigmas[step + 1] == 0 else tokens), x0

    def modules(self) -> list:
        return [SimpleNamespace(comfy_patcher=self.model)]

    def _start(self, wire: DitTokens) -> tuple[Tensor, Tensor]:
        """Clean latent and noise that the tokens began with, in DiT space; zeros where that is unknown."""
        check_start(wire)
        start = wire.get("start") or dict.fromkeys(("clean", "noise"), torch.zeros_like(wire["tokens"]))
        return to_latent(start["clean"], wire), to_latent(start["noise"], wire)

    def _guider(self, wire: DitTokens, positive: Conditioning, negative: Conditioning | None, cfg: float) -> comfy.samplers.CFGGuider:
        """KSampler's own, or the one given, for patches of the wire's size."""
        if self.guider is not None:
            guider, model = copy(self.guider), self._reading(wire["patch_size"])
            if model is not guider.model_patcher:
                hooked = guider.model_patcher.is_dynamic() is False and model.is_dynamic()
                guider.model_patcher = model.get_non_dynamic_delegate() if hooked else model
                guider.model_options = guider.model_patcher.model_options
            return guider
        conditionings = {"positive": positive, **({} if negative is None else {"negative": negative})}
        for what, conditioning in conditionings.items():
            check_text(conditioning, f"{what} conditioning", self.model.model.diffusion_model, self.name)
        guider = Guider(self._reading(wire["patch_size"]))
        guider.inner_set_conds(conditionings)
        guider.set_cfg(cfg)
        return guider

    def _sample(self, guider: comfy.samplers.CFGGuider, wire: DitTokens, sampler: comfy.samplers.Sampler, sigmas: Tensor) -> Tensor:
        """Run a sampler as KSampler runs its own: → the LATENT that comes out."""
        clear, noise = (without_row(one, wire) for one in self._start(wire))
        start = wire.get("start", {})
        latent, seed = start.get("latent"), start.get("seed")
        if latent is None:
            latent = self._latent({**without(wire, "latent"), "tokens": start["clean"]}) if start else clear
        if seed is not None:  # as a side effect it seeds the generator that some patches draw from
            comfy.sample.prepare_noise(latent, seed, wire.get("batch_index"))
        noise = wire["nested"][1](unpacked(noise.clone(), wire)) if "nested" in wire else noise.clone()  # wrappers may change it in place
        if "nested" in wire and not getattr(latent, "is_nested", False):
            latent = wire["nested"][1](unpacked(latent, wire))
        return guider.sample(noise, latent, sampler, sigmas, denoise_mask=wire.get("noise_mask"), disable_pbar=True,
                             seed=0 if seed is None else seed)

    def _reading(self, patch_size: int):
        """The MODEL, asked for patches of this size where an adapter brought them."""
        if patch_size not in self.taught:
            return self.model
        clone = self.model.clone()
        clone.model_options["transformer_options"] = {**clone.model_options.get("transformer_options", {}), PATCH_SIZE: patch_size}
        return clone

    def _ended(self, wire: DitTokens, latent: Tensor | None = None) -> DitTokens:
        """Tokens that have come to the end of the noise, as KSampler gives them. latent: what came out of its guider, where it ran."""
        sampling = self.model.get_model_object("model_sampling")
        tokens = sampling.inverse_noise_scaling(torch.zeros(()), wire["tokens"])
        if "nested" in wire and latent is not None:
            latent = packed(latent.unbind())
        latent = latent if latent is None else with_row(latent, wire)
        if latent is not None and not torch.equal(out_of_dit_space(to_latent(tokens, wire), wire["latent_format"]), latent.to(tokens)):
            tokens = to_tokens(into_dit_space(latent.to(tokens), wire["latent_format"]), wire)  # a wrapper around the run changed it
        return {**wire, "tokens": tokens}

    @property
    def latent_rgb(self) -> Tensor | None:
        return read_latent_rgb(self.model.model.latent_format)

    def picture(self, wire: DitTokens, tokens: Tensor) -> Tensor:
        known = self.model.model.latent_format
        if known.latent_rgb_factors is None:
            return super().picture(wire, tokens)
        to_rgb = latent_preview.Latent2RGBPreviewer(known.latent_rgb_factors, known.latent_rgb_factors_bias, known.latent_rgb_factors_reshape)
        shown = to_rgb.decode_latent_to_preview(_film(tokens[:1].float().cpu(), wire))
        return torch.from_numpy(np.array(shown)).float() / 255

    def preview(self, wire: DitTokens, x0: Tensor) -> Tensor | None:
        if self.previewer is None:
            return None
        picture = self.previewer.decode_latent_to_preview_image("JPEG", _film(x0[:1], wire))[1]
        return torch.from_numpy(np.asarray(picture)).float() / 255
