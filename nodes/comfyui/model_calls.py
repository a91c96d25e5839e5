"""One step of KSampler as the model calls it is made of: what each is asked, and the step's x0 once they are answered.

Conditionings that share no batch (texts of other lengths, areas of other sizes, ControlNets, little memory) are calls of their own.
Followed: _calc_cond_batch and sampling_function of comfy/samplers.py, ComfyUI 0.33. Imported only where there is a MODEL.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Callable
from weakref import ref

import comfy.model_base
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
import comfy.samplers
import torch
from torch import Tensor

from ...dit_impl.errors import StagesError
from ...dit_impl.tokens.patch import token_grid
from ...dit_impl.tokens.places import moved
from ...dit_impl.tokens.wire import to_latent, to_tokens, with_row, without_row
from ...dit_impl.tokens.wire_types import DitTokens
from .patched_model import PATCH_SIZE
from .patched_regions import led_by

APPLY_MODEL = ("c_concat", "c_crossattn", "control", "transformer_options")  # of BaseModel.apply_model, after x and t
LISTS = ("positive", "negative")  # what cond_or_uncond counts


@dataclass(frozen=True)
class Part:
    """A conditioning in a model call. key: which it is; x [B, C, …]: the latent it is asked about; area: where that stands in the picture."""
    key: tuple
    x: Tensor
    area: tuple[slice, ...] | None

    @property
    def name(self) -> str:
        return "uncond" if self.key[0] else "cond"


@dataclass(frozen=True)
class Asked:
    """A call of the transformer: what it is given, and the parts of its batch."""
    args: tuple
    kwargs: dict
    parts: tuple[Part, ...]


class Captured(Exception):
    """Nothing further need be computed."""


class _Step(comfy.samplers.Sampler):
    """A sampler that takes one look at x0, with `instead(base, apply_model, x, t, rest)` in the place of the innermost model call. base: the
    BaseModel that is called: hooks and several GPUs have one of their own each."""

    def __init__(self, wire: DitTokens, start: tuple[Tensor, Tensor], sigma: Tensor, before: Callable = lambda *_: None):
        """before(guider, noise): called first."""
        self.wire, self.sigma, self.before = wire, sigma, before
        self.clean, self.noise = (without_row(one, wire) for one in start)
        self.counted: Counter = Counter()

    def handed(self, latent: Tensor) -> Tensor:
        """A latent as ComfyUI hands it to a sampler: several tensors are packed as [B, 1, N]."""
        return latent.squeeze(2) if "nested" in self.wire else latent

    def kept(self, latent: Tensor) -> Tensor:
        """The same as the wire has it."""
        return latent.unsqueeze(2) if "nested" in self.wire else latent

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        """Called by CFGGuider.inner_sample."""
        self.before(model_wrap, noise)
        self.device = noise.device
        self.guider, self.counted, options = model_wrap, Counter(), extra_args["model_options"]
        led_by(self.wire, options)
        options.pop("multigpu_thread_pool", None)  # without it ComfyUI asks one GPU after another, in this thread
        me = ref(self)  # the options ride on to the stages: they must not keep what was captured
        add_wrapper_with_key(WrappersMP.APPLY_MODEL, "dit_blocks", lambda executor, x, t, *args, **kwargs: me().instead(
            executor.class_obj, lambda: executor(x, t, *args, **kwargs), x, t, {**dict(zip(APPLY_MODEL, args)), **kwargs}), options, is_model_options=True)
        model = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = self.clean.to(noise), self.noise.to(noise)
        x = without_row(to_latent(self.wire["tokens"].to(noise), self.wire), self.wire)
        try:
            self.look(lambda: model(x, self.sigma.to(noise) * noise.new_ones(len(noise)), denoise_mask=denoise_mask, **extra_args), options)
        finally:
            self.guider = None  # whose options hold this sampler: a circle would keep what was captured
        return noise

    def look(self, x0: Callable[[], Tensor], options: dict) -> None:
        raise NotImplementedError

    def instead(self, base: comfy.model_base.BaseModel, apply_model: Callable, x: Tensor, t: Tensor, rest: dict) -> Tensor:
        raise NotImplementedError

    def parts(self, x: Tensor, options: dict) -> list[Part]:
        """The parts of a batch, each known by its conditioning and by how often that was asked before."""
        found, which = [], list(zip(options["cond_or_uncond"], options["uuids"]))
        for one, latent in zip(which, with_row(x, self.wire).chunk(len(which))):
            found.append(Part((*one, self.counted[one]), latent, self._area(*one)))
            self.counted[one] += 1
        return found

    def _area(self, which: int, uuid) -> tuple[slice, ...] | None:
        size, conditioning = self.wire["size"], self.guider.conds.get(LISTS[which] if which < len(LISTS) else "") or ()
        area = next((one.get("area") for one in conditioning if one["uuid"] == uuid), None)
        if area is None:
            return None
        area, count = comfy.samplers.add_area_dims(list(area), len(size)), len(size)
        if len(area) // 2 > count:
            area = area[:count] + area[len(area) // 2:len(area) // 2 + count]
        found = tuple(slice(start, start + min(length, whole - start)) for length, start, whole in zip(area, area[count:], size))
        return None if found == tuple(slice(0, whole) for whole in size) else found


class Listening(_Step):
    """Keeps what the transformer is asked in a step, on the device that ComfyUI samples on, and computes nothing."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = []

    def look(self, x0, options):
        def stop(args):  # before CFG functions, which are for real values
            raise Captured
        options["sampler_pre_cfg_function"] = [stop, *options.get("sampler_pre_cfg_function", ())]
        try:
            x0()
        except Captured:
            pass

    def instead(self, base, apply_model, x, t, rest):
        def keep(_, args, kwargs):
            parts = self.parts(x.to(self.device), rest["transformer_options"])
            self.asked.append(Asked(moved(args, self.device), kwargs if x.device == self.device else _moved(kwargs, self.device), tuple(parts)))
            raise Captured
        called = base.diffusion_model
        plain = base.diffusion_model = getattr(called, "_orig_mod", called)  # without torch.compile, which would begin to compile
        hook = plain.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            apply_model()
        except Captured:
            pass
        finally:
            hook.remove()
            base.diffusion_model = called
        return torch.zeros_like(x)


class Answering(_Step):
    """Gives a step's x0, the transformer's answers being known."""

    def __init__(self, answers: dict[tuple, tuple[Part, Tensor]], *args):
        super().__init__(*args)
        self.answers, self.x0 = answers, None

    def look(self, x0, options):
        for which, conditionings in self.guider.conds.items():  # of this run alone; the transformer has read what ControlNets answered
            self.guider.conds[which] = [{key: value for key, value in one.items() if key != "control"} for one in conditionings or ()]
        self.x0 = to_tokens(with_row(x0(), self.wire), self.wire)

    def instead(self, base, apply_model, x, t, rest):
        found = []
        for part in self.parts(x, rest["transformer_options"]):
            known, answer = self.answers.get(part.key, (None, None))
            if known is None or not torch.equal(known.x.to(part.x), part.x):
                raise StagesError("a function on this MODEL asks the model for something else than DiT Condition laid out, which the stages did "
                                  "not compute; use DiT Denoise or DiT Denoise Step")
            found.append(answer.to(x))
        return base.model_sampling.calculate_denoised(t, without_row(torch.cat(found), self.wire), x)


def _moved(kwargs: dict, device: torch.device) -> dict:
    """What a transformer on another GPU is called with, on this device, the options too."""
    options = moved({**kwargs.get("transformer_options", {})}, device)
    comfy.samplers.cast_transformer_options(options, device=device)
    return {**moved(kwargs, device), "transformer_options": options}


def canvas_of(wire: DitTokens, asked: list[Asked], patch_size: int) -> DitTokens:
    """The DIT_TOKENS on whose grid predictions are laid out: the step's own, or where all calls read patches or a latent of another size,
    those of it.

    Raises StagesError."""
    parts = [part for call in asked for part in call.parts]
    expected = [tuple(wire["size"]) if part.area is None else tuple(side.stop - side.start for side in part.area) for part in parts]
    sizes = {tuple(part.x.shape[2:]) for part in parts}
    if all(tuple(part.x.shape[2:]) == size for part, size in zip(parts, expected)):
        # a schedule on the MODEL may ask for another size
        read = (asked[0].kwargs.get("transformer_options") or {}).get(PATCH_SIZE, wire["patch_size"])
        return wire if read == wire["patch_size"] else on_grid(wire, to_latent(wire["tokens"], wire), read)
    if len(sizes) > 1 or any(part.area for part in parts):
        shown = ", ".join("×".join(map(str, size)) for size in sorted(sizes))
        raise StagesError(f"a wrapper on this MODEL has parts of this step read at other sizes ({shown} latent cells); use DiT Denoise Step")
    return on_grid(wire, asked[0].parts[0].x, patch_size)


def on_grid(wire: DitTokens, latent: Tensor, patch_size: int) -> DitTokens:
    """DIT_TOKENS with this latent [B, C, …] in place of its own."""
    size = tuple(latent.shape[2:])
    grid = token_grid(*size[-2:], patch_size)
    frames = (size[0] // wire.get("frame_patch", 1),) if len(size) == 3 else ()
    changed: DitTokens = {**wire, "size": size, "grid": (*frames, *grid), "patch_size": patch_size}
    changed["tokens"] = to_tokens(latent.to(wire["tokens"].device), changed)
    return changed
