"""The objective that trains a whole transformer to denoise. Ho et al. 2020, algorithm 1; Esser et al. 2024 (SD3), §2 and §3.1."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import BackboneError, TrainingError
from ..handle.backbone import Backbone, DitHandle
from ..model.conditioning import Arguments, join
from ..model.copies import own_copy
from ..model.dit import DiT
from ..model.mmdit import MMDiT
from ..tokens.mixed import gather
from ..tokens.patch import patchify, token_grid
from .loop import Batch
from .losses import draw_sigmas, squared_error

SCOPES = ("everything", "patch embed and head")
# names of the patch embedding and the head, in this library's models and in those of diffusers
EMBED_AND_HEAD = ("x_embedder.", "final_layer.", "transformer.pos_embed.proj.", "transformer.proj_out.", "transformer.x_embedder.",
                  "transformer.norm_out.", "transformer.scale_shift_table")


def training_copy(dit: DitHandle) -> Backbone:
    """A copy of a handle whose weights can be trained: float32 , outside inference mode, on the same device.
    Raises TrainingError for a MODEL."""
    if not isinstance(dit, Backbone):
        raise TrainingError(f"{dit.name} is a MODEL, and ComfyUI manages its weights: it can learn a patch-size adapter, "
                            "but not be trained as a whole")
    with torch.inference_mode(False):
        if isinstance(dit.model, (MMDiT, DiT)):
            with torch.device("meta"):
                model = type(dit.model)(dit.model.config)
            weights = {key: value.detach().to(dit.like().device, torch.float32, copy=True) for key, value in dit.model.state_dict().items()}
            model.load_state_dict(weights, assign=True)
        else:
            model = own_copy(dit.model, dit.like().device, torch.float32)
        return replace(dit, model=model.train())


def in_scope(model: nn.Module, scope: str) -> dict[str, nn.Parameter]:
    """The parameters that a scope names. Raises TrainingError."""
    if scope not in SCOPES:
        raise TrainingError(f"scope is one of {', '.join(SCOPES)}, not {scope!r}")
    named = dict(model.named_parameters())
    return named if scope == "everything" else {name: p for name, p in named.items() if name.startswith(EMBED_AND_HEAD)}


def only(model: nn.Module, trained: Iterable[str]) -> None:
    """Let the parameters with these names learn, and no others."""
    trained = set(trained)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


class Denoising:
    """A Backbone's own loss: predict the target of its flow from a noisy latent."""

    def __init__(self, dit: Backbone, scope: str = "everything", patch_sizes: tuple[int, ...] | None = None, target: str = "own",
                 weighting: str = "none", times: str = "logit_normal", checkpointing: bool = False):
        """`dit` itself is trained, so pass a `training_copy`. Raises TrainingError."""
        self.dit, self.module, self.flow, self.latent_format = dit, dit.model, dit.flow, dit.latent_format
        self.patch_sizes = patch_sizes or dit.patch_sizes
        if unknown := set(self.patch_sizes) - set(dit.patch_sizes):
            raise TrainingError(f"{dit.name} has patch sizes {', '.join(map(str, dit.patch_sizes))}, not {min(unknown)}")
        self.target, self.weighting, self.times = target, weighting, times
        self.nothing, self.account = dit.unconditional, {"scope": scope, "target": target, "weighting": weighting, "times": times}
        self.trained = in_scope(dit.model, scope)
        only(dit.model, self.trained)
        if isinstance(dit.model, (MMDiT, DiT)):
            dit.model.checkpointing = checkpointing
        elif checkpointing:
            dit.model.transformer.enable_gradient_checkpointing()

    @property
    def device(self) -> torch.device:
        return self.dit.like().device

    def sigmas(self, count: int, generator: torch.Generator) -> Tensor:
        return draw_sigmas(self.flow, count, generator, self.times)

    def check_mix(self, sizes: tuple[int, ...]) -> None:
        mix = "-".join(map(str, sizes))
        if type(self.dit.model) is not MMDiT:
            raise TrainingError(f"{self.dit.name} reads patches of one size in a step, not of several: leave mix {mix} out")
        if unknown := [p for p in sizes if p not in self.dit.patch_sizes]:
            raise TrainingError(f"mix {mix}: {self.dit.name} has patch sizes {', '.join(map(str, self.dit.patch_sizes))}, not {unknown[0]}")

    def loss(self, batch: Batch) -> Tensor:
        return self.errors(batch).mean() if batch.mix is None else self._mixed_loss(batch)

    def _mixed_loss(self, batch: Batch) -> Tensor:
        """The mean of every cell's squared error: each lies in one patch."""
        clean, noise, time = gather(batch.clean, batch.mix), gather(batch.noise, batch.mix), self.flow.time(batch.sigma)
        inputs = {p: self.flow.model_input(self.flow.add_noise(clean[p], noise[p], batch.sigma), batch.sigma) for p in clean}
        answers = self.module(inputs, batch.mix, 0, time, **arguments_of(self.dit, batch.conditionings))
        return sum(squared_error(self.flow, answer, clean[p], noise[p], batch.sigma, self.target, self.weighting).sum()
                   for p, answer in answers.items()) / batch.clean.numel()

    def errors(self, batch: Batch) -> Tensor:
        """The squared error of every value: → [B, N, C·p·p]."""
        p = batch.patch_size
        clean, noise = patchify(batch.clean, p), patchify(batch.noise, p)
        inputs = self.flow.model_input(self.flow.add_noise(clean, noise, batch.sigma), batch.sigma)
        answer = self.module(inputs, token_grid(*batch.clean.shape[-2:], p), p, self.flow.time(batch.sigma),
                             **arguments_of(self.dit, batch.conditionings))
        return squared_error(self.flow, answer, clean, noise, batch.sigma, self.target, self.weighting)


def arguments_of(dit: Backbone, conditionings: list) -> Arguments:
    """The model's arguments for these conditionings, one for each picture. Raises BackboneError."""
    conditions, parts = dit.model.conditions, []
    for conditioning in conditionings:
        conditioning = dit.unconditional if conditioning is None else conditioning
        if conditioning is None:
            raise BackboneError(f"the training set has no captions, and {dit.name} reads text: wire captions and clip into Training Set")
        tensor, extras = conditioning[0]
        parts.append(conditions.read(extras, tensor, "the training set's conditioning", dit.name))
    like = dit.like()
    return {name: value.to(like) if value.is_floating_point() else value.to(like.device) for name, value in join(parts).items()}
