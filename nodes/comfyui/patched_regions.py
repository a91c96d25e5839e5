"""Where a MODEL's patches are fine and where coarse, in each step of a sampler. What reads them is `mixed_model` and `model_of_dit`.
Imported only in ComfyUI.

Followed: CFGGuider and cfg_function of comfy/samplers.py, ComfyUI 0.33. What the last step saw is in the guider's options of one run, so
that nothing of it stays on a MODEL.
"""

from collections.abc import Collection
from dataclasses import dataclass

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...dit_impl.errors import BackboneError, StagesError
from ...dit_impl.handle.by_regions import check_mask, not_with
from ...dit_impl.sampling.regions import has_area
from ...dit_impl.tokens.mixed import Mix, Mixture, mix_of
from ...dit_impl.tokens.wire import to_latent, without_row
from ...dit_impl.tokens.wire_types import DitTokens
from .riders import CACHE, REGIONS, TURNS

MIX = "dit_blocks_mix"  # in transformer_options: which patches of several sizes a call reads


@dataclass
class Seen:
    """x0 of the step before [B, C, H, W]. led: whether the sampler tells it; else the guided x0 of the last model call is taken."""
    x0: Tensor | None = None
    led: bool = False


def seen_of(model_options: dict) -> Seen | None:
    """What the run of a sampler has seen so far, where it has steps by regions."""
    return model_options.get("transformer_options", {}).get(REGIONS)


def led_by(wire: DitTokens, model_options: dict) -> Seen | None:
    """The same, which from now on the sampler tells; it begins with what the wire brings of an earlier run."""
    seen = seen_of(model_options)
    if seen is not None:
        seen.led, seen.x0 = True, without_row(to_latent(wire["memory"]["x0"], wire), wire) if "memory" in wire else None
    return seen


def check_mixture(model, mixture: Mixture, own: tuple[int, ...], mask: Tensor | None, name: str) -> None:
    """Raise BackboneError unless a MODEL has weights for each size, own, and there is a mask where the mixture wants one."""
    if missing := [p for p in mixture.sizes if p not in own]:
        raise BackboneError(f"{name} knows patch sizes {', '.join(map(str, own))}, not {missing[0]}: in one sequence each size needs "
                            "weights of its own, which Load Adapter or Train DiT gives a MODEL of SD3, SD3.5 or Flux")
    inner = getattr(model.model.diffusion_model, "model", None)
    if inner is not None and not hasattr(inner, "forward_mixed"):
        raise BackboneError(f"{name} reads patches of one size in a step, not {mixture}: use one patch size for each step")
    check_mask(mixture, mask)


def check_one_size(options: dict) -> None:
    """Raise StagesError in a call that reads patches of several sizes."""
    if MIX in options:
        raise StagesError("this MODEL reads patches of several sizes in this step, which has no stages of its own; use DiT Denoise Step")


def with_regions(model, mixtures: Collection[Mixture]):
    """→ a clone whose runs remember x0 of the step before. Its runs raise BackboneError for what can't ride along."""
    said = "; ".join(map(str, mixtures))
    clone = model.clone()

    def around_a_run(executor, noise: Tensor, *args, **kwargs):
        guider = executor.class_obj
        if what := next((what for key, what in ((CACHE, "cache"), (TURNS, "turns")) if key in guider.model_options), None):
            raise BackboneError(f"{type(guider.model_patcher.model).__name__} (MODEL) has {not_with(what, said)}: leave one of the two out")
        conds = [one for conditioning in guider.conds.values() for one in conditioning or ()]
        for what, holds in (("a conditioning with an area", has_area), ("reference latents", lambda one: "reference_latents" in one)):
            if any(map(holds, conds)):
                raise BackboneError(f"patches of several sizes ({said}) and {what} are not possible together")
        guider.model_options.setdefault("transformer_options", {})[REGIONS] = Seen()  # these options are of this run alone
        return executor(noise, *args, **kwargs)

    def remember(args: dict) -> Tensor:
        seen = seen_of(args["model_options"])
        if seen is not None and not seen.led:
            seen.x0 = args["denoised"]
        return args["denoised"]
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, REGIONS)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, REGIONS, around_a_run)
    clone.set_model_sampler_post_cfg_function(remember)
    return clone


def mix_at(mixture: Mixture, mask: Tensor | None, x: Tensor, options: dict) -> Mix:
    """Where patches of each size go in a model call about latents [B, C, H, W]. Raises BackboneError, TokensError."""
    if x.dim() != 4:
        raise BackboneError(f"patches of several sizes ({mixture}) are for pictures, not for films")
    seen = seen_of({"transformer_options": options})
    before = None if seen is None or seen.x0 is None else seen.x0.to(x)
    return mix_of(mixture, x, before if before is None else before.repeat(len(x) // len(before), 1, 1, 1), mask)
