"""A MODEL that reads patches of sizes that are not its own. Imported only in ComfyUI.

Followed: calc_cond_batch of comfy/samplers.py and BaseModel.apply_model of comfy/model_base.py, ComfyUI 0.33. The change is a function
wrapper on a clone: it calls the one that was there, and the MODEL that came in keeps its own.
"""

from typing import Callable

import comfy.model_sampling
import torch
from torch import Tensor

from ...dit_impl.errors import BackboneError, StagesError
from ...dit_impl.handle.patch_schedule import PatchSchedule, finest, step_at
from ...dit_impl.sampling.flow import DDPM, Flow, RectifiedFlow
from ...dit_impl.tokens.mixed import Mixture
from ...dit_impl.tokens.other_sizes import Reading, choose_method
from ...dit_impl.tokens.patch import patchify, token_grid, unpatchify
from .own_patch import own_patch
from .patched_regions import MIX, check_mixture, mix_at, with_regions

PATCH_SIZE = "dit_blocks_patch_size"  # in transformer_options, for models that have weights for several
COARSE = "dit_blocks_coarse"  # in transformer_options, the size of patches that are read as a coarser latent
ADAPTERS = "dit_blocks_adapters"  # in model_options: patch size → what it was taught


def patch_sizes_of(model) -> tuple[tuple[int, ...], int]:
    """A MODEL's patch sizes, its own first and those that it was taught last, and how many frames are in a patch."""
    transformer, known = model.model.diffusion_model, model.get_model_object("latent_format")
    _, rows, columns = own_patch(transformer, known.latent_channels, known.latent_dimensions) if known.latent_dimensions > 1 else (1, 1, 1)
    sizes = getattr(transformer, "patch_sizes", None) or (columns if rows == columns else 1,)  # this library's own may have several
    # what joins frames (CogVideoX 1.5) also pads an odd number of them: a token of the wire is of one frame
    return (*sizes, *model.model_options.get(ADAPTERS, ())), 1


def check_square(model, name: str) -> None:
    """Raise BackboneError for a model whose tokens are no square patches, which are read at no other size."""
    known = model.get_model_object("latent_format")
    _, rows, columns = own_patch(model.model.diffusion_model, known.latent_channels, known.latent_dimensions)
    if rows != columns:
        raise BackboneError(f"{name} reads patches of {rows}×{columns} cells, which are no squares: its patch size can't be changed")


def flow_of(model) -> Flow:
    """What noise means to a MODEL, as far as `quieter` needs it. Raises BackboneError."""
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, comfy.model_sampling.CONST):
        return RectifiedFlow()
    if isinstance(sampling, comfy.model_sampling.EPS):
        return DDPM()
    raise BackboneError(f"the noise of {type(model.model).__name__} ({type(sampling).__name__}) is neither rectified flow's nor DDPM's: "
                        "its patch size can't be changed")


def with_patch_schedule(model, plan: PatchSchedule):
    """→ ModelPatcher over the same weights, with the plan's patch size and guidance at each step. Raises BackboneError."""
    def size_at(sigma: float, options: dict) -> int | Mixture:
        sigmas = options["sample_sigmas"]
        return plan.patch_size(sigma, step_at(sigma, sigmas), len(sigmas) - 1)

    def guide_coarse_steps(args: dict) -> list[Tensor]:
        cond, uncond, *others = args["conds_out"]
        options = args["model_options"]["transformer_options"]
        if args["conds"][1] is None or finest(size_at(args["sigma"].flatten()[0].item(), options)) == plan.finest:
            return args["conds_out"]
        return [uncond + (cond - uncond) * plan.coarse_cfg, uncond, *others]
    clone = with_patch_sizes(model, {row.sizes for row in plan.rows}, size_at, plan.method, plan.mask)
    if plan.coarse_cfg != 1 and len(plan.rows) > 1:
        clone.set_model_sampler_pre_cfg_function(guide_coarse_steps)
    return clone


def with_patch_sizes(model, sizes: set[int | Mixture], size_at: Callable[[float, dict], int | Mixture], method: str,
                     mask: Tensor | None = None):
    """→ ModelPatcher over the same weights that reads patches of size_at(sigma, transformer_options). Raises BackboneError."""
    own, frame_patch = patch_sizes_of(model)
    name = f"{type(model.model).__name__} (MODEL)"
    mixtures = {size for size in sizes if isinstance(size, Mixture)}
    methods = {size: choose_method(own, size, method, name) for size in sizes - mixtures}
    readings = {size: Reading(chosen, own[0], size, frame_patch) for size, chosen in methods.items() if chosen != "native"}
    for mixture in mixtures:
        check_mixture(model, mixture, own, mask, name)
    clone = with_regions(model, mixtures) if mixtures else model.clone()
    if sizes == {own[0]}:
        return clone
    check_square(model, name)
    flow, former = flow_of(model) if readings else None, model.model_options.get("model_function_wrapper")

    def wrapper(apply_model, args: dict) -> Tensor:
        x, t, c = args["input"], args["timestep"], args["c"]
        options = c.get("transformer_options", {})
        size = size_at(t.flatten()[0].item(), options)
        reading = None if isinstance(size, Mixture) else readings.get(size)
        if isinstance(size, Mixture):
            mix = mix_at(size, mask, x, options)
            size, *others = mix.places  # one size alone is read as such, bit for bit
            options = {name: value for name, value in options.items() if name != PATCH_SIZE}
            c = {**c, "transformer_options": {**options, MIX: mix} if others else options}
            size = own[0] if others else size
        if size != own[0]:  # either it has weights for this one, or it reads it as a coarser latent
            c = {**c, "transformer_options": {**options, COARSE if reading else PATCH_SIZE: size}}

        def call(x: Tensor, t: Tensor, c: dict) -> Tensor:
            if former:
                return former(apply_model, {**args, "input": x, "timestep": t, "c": c})
            return apply_model(x, t, **c)
        if reading is None:
            return call(x, t, c)

        def call_coarse(x: Tensor, t: Tensor, c: dict) -> Tensor:
            try:
                return call(x, t, c)
            except (torch.cuda.OutOfMemoryError, BackboneError, StagesError):
                raise
            except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, AssertionError) as error:
                said = (str(error).strip() or type(error).__name__).splitlines()[0]
                cells = "×".join(map(str, x.shape[2:]))
                raise BackboneError(f"{name} can't read patches of {size}, which it is given as a latent of {cells} cells: "
                                    f"{said[:160]}; use its own patch size {own[0]}, or a larger picture") from error
        return coarsely(reading, flow, call_coarse, x, t, c)
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def coarsely(reading: Reading, flow: Flow, call: Callable, x: Tensor, t: Tensor, c: dict) -> Tensor:
    """x0 of a latent [B, C, …] at noise levels t [B], by the model's own patch size on a coarser latent. Raises BackboneError."""
    if c.get("control") is not None:
        raise BackboneError(f"ControlNet's residuals are for patches of {reading.own}: end it before the coarse steps, or start them after it")
    grid = token_grid(*x.shape[-2:], reading.patch_size)
    padded = tuple(length * reading.own for length in token_grid(*x.shape[-2:], reading.own))

    def coarse(latent: Tensor) -> Tensor:
        if latent.dim() > 5:  # several videos
            return coarse(latent.flatten(0, -5)).unflatten(0, latent.shape[:-4])
        frame_patch = reading.frame_patch if latent.dim() == 5 else 1
        size = (*latent.shape[2:-2], *(length * reading.own for length in grid))
        return unpatchify(reading.down(patchify(latent, reading.patch_size, frame_patch)), reading.own, size, frame_patch)
    # what is laid out as the latent, such as the start image of a video, goes with it
    c = {name: coarse(value) if torch.is_tensor(value) and value.dim() > 3 and value.shape[-2:] in (x.shape[-2:], padded) else value
         for name, value in c.items()}
    quieter, level = flow.quieter(coarse(x), t, reading.gain)
    x0 = patchify(call(quieter, level, c), reading.own, reading.frame_patch)
    frames = (x.shape[2] // reading.frame_patch,) if x.dim() == 5 else ()
    return unpatchify(reading.up(x0, (*frames, *grid)), reading.patch_size, tuple(x.shape[2:]), reading.frame_patch)
