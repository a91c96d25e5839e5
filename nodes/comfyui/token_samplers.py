"""Samplers that begin with the tokens of a wire, for ComfyUI's guider to run. Imported only where there is a MODEL.

Followed: KSAMPLER of comfy/samplers.py, ComfyUI 0.33.
"""

from copy import copy
from functools import update_wrapper

import comfy.samplers
import torch
from torch import Tensor

from ...dit_impl.errors import BackboneError
from ...dit_impl.sampling.at import NoiseSpace
from ...dit_impl.sampling.level import clean, is_walked
from ...dit_impl.sampling.walk import Report, walk
from ...dit_impl.tokens.wire import to_latent, to_tokens, with_row, with_tokens, without_row
from ...dit_impl.tokens.wire_types import DitTokens
from .patched_regions import Seen, led_by
from .riders import random_state, set_random_state, walk_keyframes


class _InTokens(comfy.samplers.Sampler):
    """Between a guider, whose latents are [B, C, …], and a wire."""

    def __init__(self, wire: DitTokens, clean: Tensor, noise: Tensor, report: Report):
        """clean, noise: the latents that the tokens began with, in the DiT's own space."""
        self.wire, self.clean, self.noise = wire, without_row(clean, wire), without_row(noise, wire)
        self.report, self.result = report, None

    def latent(self, tokens: Tensor) -> Tensor:
        return without_row(to_latent(tokens, self.wire), self.wire)

    def tokens(self, x: Tensor) -> Tensor:
        return to_tokens(with_row(x, self.wire), self.wire)

    def begun(self, model_wrap, sigmas: Tensor, noise: Tensor) -> DitTokens:
        """The wire at the first of these noise levels; sampling goes on with its random numbers. noise: as the guider was left with."""
        wire, sampling = self.wire, model_wrap.inner_model.model_sampling
        if "random" in wire:
            set_random_state(wire["random"], noise.device)
        if is_walked(wire) or torch.equal(noise.to(self.noise), self.noise):
            return wire
        # a wrapper drew other noise, such as FreeNoise
        x = sampling.noise_scaling(sigmas[0], noise.clone(), self.clean.to(noise), self.max_denoise(model_wrap, sigmas))
        return {**wire, "tokens": self.tokens(x)}

    def ended(self, tokens: DitTokens, x0: DitTokens, before: tuple[Tensor, ...], device: torch.device) -> None:
        """Keep the result, and the state of random numbers where the run drew any."""
        after = random_state(device)
        if "random" in self.wire or any(not torch.equal(old, new) for old, new in zip(before, after)):
            tokens["random"] = after
        self.result = tokens, x0


class TokenSampler(_InTokens):
    """Walks in token space by a solver of the pack."""

    def __init__(self, wire: DitTokens, clean: Tensor, noise: Tensor, report: Report, solver: str, space: NoiseSpace, start_step: int,
                 end_step: int):
        super().__init__(wire, clean, noise, report)
        self.solver, self.space, self.start_step, self.end_step = solver, space, start_step, end_step

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        """Called by CFGGuider.inner_sample once the model is loaded and the conditioning made ready."""
        device, sampling = noise.device, model_wrap.inner_model.model_sampling
        model = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise, seed = self.clean.to(noise), noise, self.wire.get("start", {}).get("seed")
        if self.solver == "ddim" and seed is not None:  # as KSAMPLER.sample for ddim
            model.noise = torch.randn(noise.shape, generator=torch.manual_seed(seed + 1), device="cpu").to(noise)
        wire = self.begun(model_wrap, sigmas[self.start_step:], noise)
        walk_keyframes(model_wrap, sigmas[:self.start_step], extra_args["model_options"])
        ones, before, report = noise.new_ones(len(noise)), random_state(device), self._telling(led_by(wire, extra_args["model_options"]))

        def predict_x0(x: Tensor, sigma: Tensor) -> Tensor:
            return self.tokens(model(self.latent(x), sigma * ones, denoise_mask=denoise_mask, **extra_args))
        tokens, x0 = walk(predict_x0, wire, sigmas, self.solver, self.start_step, self.end_step, device, report, self.space)
        self.ended(tokens, x0, before, device)
        return sampling.inverse_noise_scaling(sigmas[self.end_step], self.latent(tokens["tokens"].to(noise)))

    def _telling(self, seen: Seen | None) -> Report:
        """`report`, which also tells the next step x0 where its patches go by it."""
        if seen is None:
            return self.report

        def report(done: int, of: int, x0: Tensor) -> None:
            seen.x0 = self.latent(x0)
            self.report(done, of, x0)
        return report


class GivenSampler(_InTokens):
    """Lets a SAMPLER walk all the levels that the guider is given, from the wire's tokens on."""

    def __init__(self, wire: DitTokens, clean: Tensor, noise: Tensor, report: Report, sampler: comfy.samplers.Sampler):
        super().__init__(wire, clean, noise, report)
        self.sampler = sampler

    def max_denoise(self, model_wrap, sigmas):
        return self.sampler.max_denoise(model_wrap, sigmas)

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        """Called by CFGGuider.inner_sample once the model is loaded and the conditioning made ready. Raises BackboneError."""
        device, steps, last, seen = noise.device, len(sigmas) - 1, sigmas[-1].clone(), []
        wire, before = self.begun(model_wrap, sigmas, noise), random_state(device)

        def report(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            seen[:] = [self.tokens(x0)]
            self.report(min(step + 1, steps), steps, seen[0])
        start, ends = self.latent(wire["tokens"].to(noise)), []
        by = self._from(start, ends)
        samples = by.sample(model_wrap, sigmas, extra_args, report, noise, self.clean.to(noise), denoise_mask, disable_pbar)
        if last == 0:
            end = samples
        else:  # without what handing on to another run does to it
            end = ends[0] if ends else model_wrap.inner_model.model_sampling.noise_scaling(last, torch.zeros_like(samples), samples, False)
        home = wire["tokens"].device
        tokens = with_tokens(wire, self.tokens(end).to(home))
        x0 = clean(with_tokens(wire, seen[0].to(home) if seen else tokens["tokens"]))
        self.ended(tokens, x0, before, device)
        return samples

    def _from(self, start: Tensor, ends: list[Tensor]) -> comfy.samplers.Sampler:
        """The SAMPLER, which begins with the latent `start` [B, C, …] and puts what it comes to into `ends`. Raises BackboneError."""
        if getattr(type(self.sampler), "sample", None) is not comfy.samplers.KSAMPLER.sample:
            if is_walked(self.wire):
                raise BackboneError(f"this SAMPLER ({type(self.sampler).__name__}) adds the noise itself, so that it can't go on with tokens "
                                    "in the middle of a run: give it all steps, from Add Noise on")
            return self.sampler
        by, function = copy(self.sampler), self.sampler.sampler_function

        def walk(model, x, *args, **options):
            ends[:] = [function(model, start, *args, **options)]
            return ends[0]
        by.sampler_function = update_wrapper(walk, function)
        return by
