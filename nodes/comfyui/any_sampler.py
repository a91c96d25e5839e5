"""A DIT that ComfyUI's SAMPLERs and GUIDERs sample. Imported only in ComfyUI."""

import comfy.samplers
import torch

from ...dit_impl.errors import BackboneError
from ...dit_impl.handle.backbone import Conditioning, DitHandle
from .handle_of_model import HandleOfModel
from .model_of_dit import as_model


def _alike(a: object, b: object) -> bool:
    """Whether two values of a conditioning are the same, tensors by what they hold."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return a.shape == b.shape and torch.equal(a, b)
    return a is b or (isinstance(a, (str, int, float, tuple)) and a == b)


def _is_of(guider: comfy.samplers.CFGGuider, given: Conditioning, what: str) -> bool:
    """Whether a CONDITIONING is what a guider holds as "positive" or "negative"."""
    def bare(one: dict) -> dict:
        return {name: value for name, value in one.items() if name not in ("model_conds", "uuid", "prompt_type")}
    kept = [bare(one) for one in guider.original_conds.get(what, ())]
    asked = [bare(values if text is None else {**values, "cross_attn": text}) for text, values in given]
    return len(kept) == len(asked) and all(a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a) for a, b in zip(kept, asked))


def sampled_by(dit: DitHandle, sampler: comfy.samplers.Sampler | None, guider: comfy.samplers.CFGGuider | None, positive: Conditioning,
               negative: Conditioning | None) -> HandleOfModel:
    """The same model, sampled by a SAMPLER, a GUIDER or both of ComfyUI's. Raises BackboneError where a GUIDER brings other prompts or
    another model than these."""
    own = dit if isinstance(dit, HandleOfModel) else HandleOfModel(as_model(dit))
    if guider is None:
        return HandleOfModel(own.model, sampler)
    model, kind = guider.model_patcher, type(guider).__name__
    if not model.is_clone(own.model) and type(model.model.diffusion_model) is not type(own.model.model.diffusion_model):
        raise BackboneError(f"the guider ({kind}) is over {type(model.model).__name__}, the dit is {dit.name}: wire one model into both")
    for what, given in (("positive", positive), ("negative", negative)):
        if given is not None and not _is_of(guider, given, what):
            raise BackboneError(f"{what} is not what the guider ({kind}) was given as {what}, and the guider's own counts: "
                                + ("wire the same conditioning into both" if what == "positive" else "leave it unwired here"))
    sampled = HandleOfModel(model, sampler, guider)
    if not all(turn in sampled.turns for turn in own.turns):
        raise BackboneError(f"{dit.name} is steered in every step, or runs wired stages; the guider's model does not: put Steer (MODEL) "
                           f"or Stages (MODEL) before the guider ({kind})")
    return sampled
