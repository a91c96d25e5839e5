"""A DIT of this library as a ComfyUI MODEL, for KSampler and all that takes a MODEL. Imported only in ComfyUI.

Followed: comfy/model_base.py and comfy/supported_models_base.py of ComfyUI 0.33.
"""

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from ...dit_impl.handle.backbone import Backbone, DitHandle
from ...dit_impl.sampling.flow import RectifiedFlow
from ...dit_impl.sampling.regions import refuse_what_is_not_taken
from ...dit_impl.tokens.mixed import Mix, gather, scatter
from ...dit_impl.tokens.patch import patchify, token_grid, unpatchify
from ...dit_impl.tokens.wire import into_dit_space, out_of_dit_space
from . import host
from .patched_model import PATCH_SIZE
from .patched_regions import MIX
from .planned_blocks import with_step_cache, with_turn

ASKED_FOR_X0 = "dit_blocks_asked_for_x0"  # in transformer_options: whether the model's sampling takes x0 as it is


class DitLatentFormat(comfy.latent_formats.LatentFormat):
    """The scale and shift of a DIT's latents, as ComfyUI asks for them."""

    def __init__(self, dit: DitHandle):
        self.numbers = dit.latent_format
        self.scale_factor, self.latents_mean, self.latents_std = (self.numbers[name] for name in ("scale", "shift", "std"))
        self.latent_channels, self.spacial_downscale_ratio = dit.channels, dit.downscale
        rgb = dit.latent_rgb
        if rgb is not None:  # from VAE latents to 0..1; ComfyUI's is from DiT space to −1..1
            scale, shift, std = (self.numbers[name][:, None] for name in ("scale", "shift", "std"))
            self.latent_rgb_factors = (2 * rgb[:-1] * std / scale).tolist()
            self.latent_rgb_factors_bias = (2 * (rgb[-1] + (rgb[:-1] * shift).sum(0)) - 1).tolist()

    def process_in(self, latent: Tensor) -> Tensor:
        return into_dit_space(latent, self.numbers)

    def process_out(self, latent: Tensor) -> Tensor:
        return out_of_dit_space(latent, self.numbers)


class LatentTransformer(nn.Module):
    """A token transformer behind the call that ComfyUI makes of a diffusion model: latents in, latents out."""

    def __init__(self, dit: Backbone):
        super().__init__()
        self.model, self.patch_size, self.patch_sizes = dit.model, dit.patch_size, dit.patch_sizes
        self.answers_x0 = isinstance(dit.flow, RectifiedFlow) and dit.flow.prediction == "x0"
        self.dtype = dit.like().dtype
        self.layers_cast = any(hasattr(module, "comfy_cast_weights") for module in dit.model.modules())

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, control=None, transformer_options=None,
                **arguments) -> Tensor:
        """[B, C, H, W], times 0..1000 [B], what the model is conditioned on → velocity, x0, ε or v, [B, C, H, W]."""
        options = transformer_options or {}
        p, size, mix = options.get(PATCH_SIZE, self.patch_size), x.shape[-2:], options.get(MIX)
        if context is not None:
            arguments["context"] = context
        if mix is None:
            prediction = unpatchify(self._run(patchify(x, p), token_grid(*size, p), p, timesteps, arguments), p, tuple(size))
        else:
            prediction = scatter(self._run(gather(x, mix), mix, p, timesteps, arguments), mix)
        return self.answered(prediction, x, timesteps, options)

    def answered(self, prediction: Tensor, x: Tensor, timesteps: Tensor, options: dict) -> Tensor:
        """The model's prediction as the sampling that asks for it takes it."""
        if self.answers_x0 and not options.get(ASKED_FOR_X0):  # another sampling asks for the velocity ε − x0 = (x − x0) / σ
            return (x - prediction) / (timesteps.to(x) / 1000).view(-1, 1, 1, 1)
        return prediction

    def _run(self, tokens: Tensor | dict[int, Tensor], grid: tuple[int, int] | Mix, patch_size: int, times: Tensor, arguments: dict):
        """The transformer in the type of its input, as Model Compute Dtype may ask for."""
        call, dtype = (tokens, grid, patch_size, times), next(iter(tokens.values())).dtype if isinstance(tokens, dict) else tokens.dtype
        if dtype == self.dtype or self.layers_cast:
            return self.model(*call, **arguments)
        weights = {name: value.to(dtype) for name, value in self.model.named_parameters()}
        return torch.func.functional_call(self.model, weights, call, arguments)


class AnswersX0(comfy.model_sampling.CONST):
    """Rectified flow whose model answers x0, not the velocity."""

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_output


class X0Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, AnswersX0):
    """Shifted times, as SD3's, for a model that answers x0."""


class ModelOfDit(comfy.model_base.BaseModel):
    """ComfyUI's model around a DIT: what it is conditioned on, and how its noise is scheduled."""

    def __init__(self, dit: Backbone):
        config = comfy.supported_models_base.BASE.__new__(comfy.supported_models_base.BASE)
        config.unet_config = {"disable_unet_model_creation": True, "in_channels": dit.channels}
        config.sampling_settings = {"shift": getattr(dit.flow, "shift", 1.0)}
        config.latent_format = DitLatentFormat(dit)
        kinds = comfy.model_base.ModelType
        kind = kinds.FLOW if isinstance(dit.flow, RectifiedFlow) else {"epsilon": kinds.EPS, "v": kinds.V_PREDICTION}[dit.flow.prediction]
        super().__init__(config, kind)
        self.diffusion_model = LatentTransformer(dit)
        if kind is not kinds.FLOW:
            self.model_sampling.set_sigmas(dit.flow.sigmas.float())
        elif self.diffusion_model.answers_x0:
            self.model_sampling = X0Flow(config)
        self.conditions, self.name = dit.model.conditions, dit.name

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):
        options = {**transformer_options, ASKED_FOR_X0: isinstance(self.model_sampling, AnswersX0)}
        return super()._apply_model(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def state_dict_for_saving(self, *_, **__):
        raise ValueError(f"{self.name} is no model that ComfyUI's loaders know: save it with Save DiT, and load it with Load DiT")

    def extra_conds(self, **kwargs) -> dict:
        refuse_what_is_not_taken(kwargs, "conditioning", self.name, but=("hooks",))
        arguments = self.conditions.read(kwargs, kwargs["cross_attn"], "conditioning", self.name)
        context = arguments.pop("context", None)
        made = {name: comfy.conds.CONDRegular(value) for name, value in arguments.items()}
        return made if context is None else {**made, "c_crossattn": comfy.conds.CONDCrossAttn(context)}


def as_model(dit: DitHandle):
    """→ ModelPatcher over the DIT's own weights. Raises ValueError for a DIT that is a MODEL's.

    The nodes of the pack load the DIT by the same patcher, so that a LoRA on the MODEL is gone when they sample.
    """
    if getattr(dit, "taught", None):  # a MODEL that an adapter changed
        return dit.model
    if not isinstance(dit, Backbone):
        raise ValueError(f"{dit.name} is a MODEL already: wire that")
    patcher = getattr(dit.model, "comfy_patcher", None)
    if patcher is None or not isinstance(patcher.model, ModelOfDit):
        host.castable(dit.model)
        patcher = dit.model.comfy_patcher = comfy.model_patcher.CoreModelPatcher(
            ModelOfDit(dit), comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())
    model = patcher.clone()
    for turn in dit.turns:
        model = with_turn(model, turn)
    return with_step_cache(model, dit.cache) if dit.cache else model
