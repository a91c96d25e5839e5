"""A DIT handle: a model together with what its latents, times and patches mean. The nodes ask nothing else of it."""

from dataclasses import dataclass, field
from math import lcm

import torch
from torch import Tensor, nn

from .denoise import Report, check_step, keep_outside, last_step, walk, with_noise
from .flow import DDPM, Flow, RectifiedFlow
from .mmdit import MMDiT
from .sampling import PredictX0
from .schedules import schedule
from .tokens import CARRIED, LatentFormat, fold, same_format, unfold

Conditioning = list  # ComfyUI's: [[tensor [1, T, E], {"pooled_output": [1, P], …}], …]


class BackboneError(ValueError):
    """An input that this model can't take: one line that names the rule and the value."""


class Dit:
    """What flows on a DIT wire, whatever holds the weights.

    name: for messages. patch_sizes: those the model can read, its own first. frame_patch: frames to a patch, for videos.
    """
    name: str
    latent_format: LatentFormat
    patch_sizes: tuple[int, ...]
    frame_patch: int = 1

    @property
    def patch_size(self) -> int:
        return self.patch_sizes[0]

    @property
    def channels(self) -> int:
        return len(self.latent_format["scale"])

    def modules(self) -> list[nn.Module]:
        """What must be on the device that computes before `denoise`."""
        return []

    def fold(self, latent: dict, patch_size: int = 0) -> dict:
        """LATENT → DIT_TOKENS in this model's space; patch_size 0 is the model's own. Raises TokensError."""
        carried = {name: latent[name] for name in CARRIED if name in latent}
        return fold(latent["samples"], patch_size or self.patch_size, self.latent_format, self.frame_patch, **carried)

    def check_tokens(self, wire: dict) -> None:
        """Raise BackboneError unless this model can read these tokens."""
        if wire["channels"] != self.channels:
            raise BackboneError(f"{self.name} has latents of {self.channels} channels, the tokens come from {wire['channels']}")
        if wire["patch_size"] not in self.patch_sizes:
            sizes = ", ".join(map(str, self.patch_sizes))
            raise BackboneError(f"{self.name} knows patch sizes {sizes}, the tokens have patch_size {wire['patch_size']}")
        if not same_format(wire["latent_format"], self.latent_format):
            raise BackboneError(f"the tokens are not in the latent space of {self.name}: wire its dit into Patchify")
        if not torch.isfinite(wire["tokens"]).all():
            raise BackboneError("the tokens hold values that are NaN or infinite")

    def schedule(self, steps: int, scheduler: str = "simple", denoise: float = 1.0) -> Tensor:
        """Falling noise levels: → [steps + 1]. Raises ValueError."""
        raise NotImplementedError

    def add_noise(self, wire: dict, sigmas: Tensor, step: int, seed: int) -> tuple[dict, dict]:
        """Bring clean tokens to the noise level of a step: → (noisy tokens, the noise) on the wire. Raises ScheduleError."""
        raise NotImplementedError

    def denoise(self, wire: dict, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None = None,
                cfg: float = 1.0, solver: str = "euler", start_step: int = 0, end_step: int | None = None,
                report: Report = lambda *_: None) -> tuple[dict, dict]:
        """Steps start_step … end_step − 1: → (tokens at sigmas[end_step], the last x0) on the wire.

        A chain of shorter calls equals one long call bit for bit. Raises ScheduleError, BackboneError, ValueError.
        """
        raise NotImplementedError

    def preview(self, wire: dict, x0: Tensor) -> Tensor | None:
        """A rough picture of the first x0 in a batch of tokens: [B, N, C·p·p] → [H, W, 3] in 0..1, or None."""
        return None


@dataclass(eq=False)
class Backbone(Dit):
    """A transformer of this library.

    downscale: pixels to a latent cell. picture_size: the side, in pixels, that the model was trained for.
    latent_rgb: linear map from VAE latents to RGB 0..1, for previews: [C + 1, 3], the last row added.
    """
    model: MMDiT
    latent_format: LatentFormat
    flow: Flow = field(default_factory=RectifiedFlow)
    name: str = "DiT"
    downscale: int = 8
    picture_size: int = 256
    latent_rgb: Tensor | None = None

    @property
    def patch_sizes(self) -> tuple[int, ...]:
        return self.model.config.patch_sizes

    def modules(self) -> list[nn.Module]:
        return [self.model]

    def schedule(self, steps: int, scheduler: str = "simple", denoise: float = 1.0) -> Tensor:
        return schedule(self.flow, steps, scheduler, denoise)

    def add_noise(self, wire: dict, sigmas: Tensor, step: int, seed: int) -> tuple[dict, dict]:
        check_step(step, sigmas)
        return with_noise(wire, seed, lambda clean, noise: self.flow.add_noise(clean, noise, sigmas[step].to(noise)))

    def denoise(self, wire: dict, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None = None,
                cfg: float = 1.0, solver: str = "euler", start_step: int = 0, end_step: int | None = None,
                report: Report = lambda *_: None) -> tuple[dict, dict]:
        end_step = last_step(start_step, end_step, sigmas)
        if solver == "ddim" and not isinstance(self.flow, DDPM):
            raise ValueError("ddim is for DDPM models; for a rectified flow the same step is euler")
        device = next(self.model.parameters()).device
        predict_x0 = keep_outside(self.denoiser(wire, positive, negative, cfg), wire, self.flow, device)
        return walk(predict_x0, wire, sigmas, solver, start_step, end_step, device, report)

    def _conditioning(self, conditioning: Conditioning, what: str, batch: int, like: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Check one CONDITIONING and spread it over the batch: → pairs of [B, T, E] and [B, P]."""
        config, pairs = self.model.config, []
        for context, extras in conditioning:
            if context.shape[-1] != config.context_width:
                raise BackboneError(f"{what} has width {context.shape[-1]}, {self.name} reads width {config.context_width}: "
                                    "use the CLIP that came with this model")
            pooled = extras.get("pooled_output")
            if pooled is None:
                raise BackboneError(f"{what} has no pooled_output, which {self.name} needs")
            if pooled.shape[-1] != config.pooled_width:
                raise BackboneError(f"{what} has a pooled_output of width {pooled.shape[-1]}, {self.name} reads {config.pooled_width}")
            pairs.append(tuple(t[torch.arange(batch) % len(t)].to(like) for t in (context, pooled)))
        if not pairs:
            raise BackboneError(f"{what} is empty")
        return pairs

    def preview(self, wire: dict, x0: Tensor) -> Tensor | None:
        """A rough picture of the first x0 in a batch of tokens: [B, N, C·p·p] → [H, W, 3] in 0..1, or None."""
        if self.latent_rgb is None:
            return None
        latent = unfold({**wire, "tokens": x0[:1].float().cpu()})[0].movedim(0, -1)
        return (latent @ self.latent_rgb[:-1] + self.latent_rgb[-1]).clamp(0, 1)

    def denoiser(self, wire: dict, positive: Conditioning, negative: Conditioning | None = None, cfg: float = 1.0) -> PredictX0:
        """→ predict_x0(x tokens [B, N, C·p·p], sigma []) with classifier-free guidance u + (c − u)·cfg, for these tokens' grid.

        One model call a step, on the batch [uncond, cond], as KSampler lays it out (Ho & Salimans 2022, equation 6).
        Several conditionings on one wire are averaged. Raises BackboneError.
        """
        self.check_tokens(wire)
        batch, grid, patch_size = wire["tokens"].shape[0], wire["grid"], wire["patch_size"]
        like = next(self.model.parameters())
        conds = self._conditioning(positive, "positive conditioning", batch, like)
        unconds = [] if negative is None or cfg == 1 else self._conditioning(negative, "negative conditioning", batch, like)
        parts = unconds + conds
        length = lcm(*(context.shape[1] for context, _ in parts))
        context = torch.cat([c.repeat(1, length // c.shape[1], 1) for c, _ in parts])
        pooled = torch.cat([pooled for _, pooled in parts])

        def model(x: Tensor, t: Tensor) -> Tensor:
            return self.model(x, grid, patch_size, t, context, pooled)

        def predict_x0(x: Tensor, sigma: Tensor) -> Tensor:
            batched = x.to(like).repeat(len(parts), 1, 1)
            sigmas = sigma.to(like).expand(len(batched))
            x0 = self.flow.predict_x0(model, batched, sigmas).to(x).unflatten(0, (len(parts), batch))
            guided = x0[len(unconds):].mean(0)
            if unconds:
                uncond = x0[:len(unconds)].mean(0)
                guided = uncond + (guided - uncond) * cfg
            return guided
        return predict_x0
