"""The inner stages of the transformers that ComfyUI loads as MODEL: one adapter an architecture."""

from torch import nn

from ....dit_impl.errors import StagesError
from ....dit_impl.model.stages import Stages
from ..model_of_dit import LatentTransformer
from .auraflow import AuraFlowStages
from .base import ModelStages, followed
from .flux import FluxStages
from .lumina import LuminaStages
from .mmdit import MMDiTStages
from .own import OwnStages
from .pixart import PixArtStages
from .qwen_image import QwenImageStages
from .wan import WanStages

ADAPTERS: tuple[type[ModelStages], ...] = (
    MMDiTStages, FluxStages, PixArtStages, AuraFlowStages, LuminaStages, QwenImageStages, WanStages)


def stages_of(diffusion_model: nn.Module) -> Stages:
    """The adapter over a loaded model.diffusion_model; StagesError where there is none that gives what its forward gives."""
    if isinstance(diffusion_model, LatentTransformer):
        return OwnStages(diffusion_model)
    for adapter in ADAPTERS:
        if followed(diffusion_model, adapter.upstream):
            return adapter(diffusion_model)
    raise StagesError(f"{type(diffusion_model).__name__} has no stage adapter (there are for "
                      f"{', '.join(adapter.name for adapter in ADAPTERS)}): only the whole-model step works")
