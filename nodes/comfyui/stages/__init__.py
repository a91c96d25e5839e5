"""The inner stages of the transformers that ComfyUI loads as MODEL: an adapter each for some architectures, a generic way for all."""

from torch import nn

from ....dit_impl.errors import BackboneError, StagesError
from ....dit_impl.model.conditioning import Conditioning
from ....dit_impl.model.stages import Hidden, Stages
from .auraflow import AuraFlowStages
from .base import ModelStages, followed
from .flux import FluxStages
from .generic import GenericStages
from .lumina import LuminaStages
from .mmdit import MMDiTStages
from .pixart import PixArtStages
from .qwen_image import QwenImageStages
from .wan import WanStages

OWN = f"{__package__.rpartition('.')[0]}.model_of_dit.LatentTransformer"  # of a DIT that DiT to MODEL made a MODEL of
ADAPTERS: tuple[type[ModelStages], ...] = (
    MMDiTStages, FluxStages, PixArtStages, AuraFlowStages, LuminaStages, QwenImageStages, WanStages)


def stages_of(diffusion_model: nn.Module) -> Stages:
    """The adapter over a loaded model.diffusion_model, where there is one that gives what its forward gives; else the generic way."""
    if followed(diffusion_model, OWN):
        from .own import OwnStages  # which needs ComfyUI
        return OwnStages(diffusion_model)
    for adapter in ADAPTERS:
        if followed(diffusion_model, adapter.upstream):
            try:
                return adapter(diffusion_model)
            except StagesError:  # its forward is another one
                break
    return GenericStages(diffusion_model)


def text_width(diffusion_model: nn.Module) -> int | None:
    """How wide the text is that a model reads, where an adapter knows it."""
    try:
        return stages_of(diffusion_model).context_width
    except StagesError:
        return None


def check_text(conditioning: Conditioning, what: str, diffusion_model: nn.Module, name: str) -> None:
    """Raise BackboneError for text of a width that a model does not read, where an adapter knows it."""
    width = text_width(diffusion_model)
    for context, _ in conditioning if width else ():
        if context.shape[-1] != width:
            raise BackboneError(f"{what} has width {context.shape[-1]}, {name} reads width {width}: use the CLIP that goes with this model")


def begun(stages: Stages, args: tuple, kwargs: dict) -> Hidden:
    """A model call's hidden states after DiT Condition. What an adapter does not take goes the generic way. Raises StagesError."""
    try:
        return stages.condition(*args, **kwargs)
    except StagesError:
        if not isinstance(stages, ModelStages):
            raise
        return GenericStages(stages.model).condition(*args, **kwargs)
