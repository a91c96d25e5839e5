"""Guidance as a stage: turn a step's prediction into x0, and push it away from a negative one."""

from torch import Tensor

from ..errors import StagesError
from ..sampling.guidance import guided, is_guided
from ..sampling.level import clean
from ..tokens.wire import check_cut_alike, same_format, with_tokens
from ..tokens.wire_types import DitTokens, Onward


def guide(prediction: DitTokens, cfg: float, negative: DitTokens | None = None) -> DitTokens:
    """Classifier-free guidance u + (c − u)·cfg on x0 (Ho & Salimans 2022, equation 6): predictions → x0, as DIT_TOKENS.

    negative: a prediction from another branch; without one, the unconditional part of the batch. Either prediction may be guided already,
    so that several guidances can follow each other. Raises StagesError.
    """
    if negative is not None:
        (conditional, more), (unconditional, _) = x0_of(prediction, "prediction", 1.0), x0_of(negative, "negative", 1.0)
        sigmas = [wire["call"].sigma.item() for wire in (prediction, negative)]
        if sigmas[0] != sigmas[1]:
            raise StagesError(f"prediction and negative are of different steps: sigma {sigmas[0]:.4g} and {sigmas[1]:.4g}")
        check_cut_alike(wire_of_x0(prediction), wire_of_x0(negative), "prediction", "negative")
        if conditional.shape != unconditional.shape:
            raise StagesError(f"prediction and negative have shapes {list(conditional.shape)} and {list(unconditional.shape)}")
        if not same_format(prediction["latent_format"], negative["latent_format"]):
            raise StagesError("prediction and negative are in different latent spaces: both must come from models that use the same VAE")
        x0 = guided(conditional, unconditional.to(conditional.device), cfg)
    else:
        x0, more = x0_of(prediction, "prediction", cfg)
    if prediction["guided"]:
        return with_tokens(prediction, x0)
    answer: DitTokens = {**clean(with_tokens(wire_of_x0(prediction), x0)), "call": prediction["call"], "trace": prediction["trace"], "guided": True}
    return {**answer, **more}


def wire_of_x0(prediction: DitTokens) -> DitTokens:
    """The DIT_TOKENS with the grid of a prediction's x0. The step itself may have been computed on another grid."""
    return prediction if prediction["guided"] else prediction["call"].start


def x0_of(wire: DitTokens, what: str, cfg: float) -> tuple[Tensor, Onward]:
    """A prediction → x0 [B, N, C·p·p], guided by the unconditional part of its batch, and further entries for the step's wire."""
    if "call" not in wire:
        raise StagesError(f"{what} is not from Final Layer or DiT Guidance")
    if not wire["guided"]:
        if is_guided(cfg) and "uncond" not in wire["call"].layout:
            raise StagesError(f"cfg {cfg:g} needs a negative: wire one into DiT Condition, or the prediction of another branch into negative")
        return wire["call"].guided(wire["tokens"], cfg)
    if is_guided(cfg):
        raise StagesError(f"{what} is guided already: for cfg {cfg:g}, wire a negative prediction into negative")
    return wire["tokens"], {"remembered": wire["remembered"]} if "remembered" in wire else {}
