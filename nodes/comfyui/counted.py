"""What a MODEL's forward costs, by asking the model itself: its own forward runs on tensors that have shapes and no values (`blank.py`).

Nothing is loaded, computed or allocated, and what rides on the MODEL (patches, wrappers, ControlNet) is left out. Followed: process_conds
and _calc_cond_batch of comfy/samplers.py, wrap_attn of comfy/ldm/modules/attention.py, ComfyUI 0.33. Imported only where there is a MODEL.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
import sys
from unittest.mock import patch
from weakref import WeakKeyDictionary

import comfy.ldm.modules.attention
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from ...dit_impl.cost.arithmetic import Pass
from ...dit_impl.cost.fitted import CountedNow, Grid
from ...dit_impl.errors import BackboneError, StagesError
from ...dit_impl.handle.backbone import Conditioning
from ...dit_impl.handle.dit_handle import DitHandle
from .blank import HOME, Counting, blank
from .memory import memory_of, remembering
from .own_patch import own_patch
from .stages.base import OVERRIDE, ModelStages, queries_and_keys
from .stages.call import OPTIONS, children_of_lists, in_one_line, instead

LEFT_OUT = ("area", "mask", "control", "gligen", "hooks", "start_percent", "end_percent", "timestep_start", "timestep_end")
ATTENTIONS = "attention_"  # how the functions begin that ComfyUI's attention may be
ACTIVE = ("num_activated_experts", "moe_top_k")  # how many experts a token goes through
MANY = 600  # modules: counting a forward takes a tenth of a second for some 200 of them
USUAL_TEXT = 256  # tokens, where no prompt is given
CACHE = "cache"  # in the names of attributes that hold what a model remembers of a prompt
KEPT = 256  # counts of a model
POOLED = (None, 768, 1280, 2048)  # usual widths of pooled texts
_known: WeakKeyDictionary[nn.Module, OrderedDict[tuple, "Counted | str"]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Counted:
    """FLOPs of one forward. products: of `flops`, those of attention. before, after: the first and the last block that the picture passes.
    blocks: (path, FLOPs) of each of them. sequence: the longest that the picture's attention reads. widest: values of a layer's input twice
    and its output, where that is most."""
    flops: int
    products: int
    before: int
    after: int
    blocks: tuple[tuple[str, int], ...]
    sequence: int
    widest: int


class _Forward:
    """Counts one forward of a model: what its layers and attention are called with, and what each block costs."""

    def __init__(self, counting: Counting):
        self.counting, self.sequence, self.widest = counting, 0, 0
        self.began: tuple[int, int] = 0, 0
        self.ran: list[tuple[str, int, int, bool]] = []  # path, FLOPs before and after, whether the picture passes it
        self.depth = 0

    def attend(self, _, *given, **how) -> Tensor:
        """In the place of ComfyUI's attention: torch's own, which counts the same as all."""
        q, k, *_ = queries_and_keys(*given, **how)
        for side in (q, k):
            if self.counting.of_picture(side):
                self.sequence = max(self.sequence, side.shape[2])
        how = {name: value for name, value in how.items() if name != OPTIONS}
        return comfy.ldm.modules.attention.attention_pytorch(*given, **how)

    def layer(self, run: Callable, own: Callable, args: tuple, kwargs: dict) -> Tensor:
        out = run(*args, **kwargs)
        if self.counting.of_picture(args):
            self.widest = max(self.widest, 2 * args[0].numel() + out.numel())
        return out

    def block(self, path: str | None, run: Callable | None, own: Callable, args: tuple, kwargs: dict):
        """A child of a list, or with no path a list that is called itself: what is inside it is no block."""
        self.depth, began = self.depth + 1, self.counting.flops
        try:
            return run(own, args, kwargs) if run else own(*args, **kwargs)
        finally:
            self.depth -= 1
            if path and not self.depth:
                self.ran.append((path, began, self.counting.flops, self.counting.of_picture((args, kwargs))))

    def begin(self, own: Callable, args: tuple, kwargs: dict):
        self.began, self.ran, self.sequence, self.widest = (self.counting.flops, self.counting.products), [], 0, 0
        options = {**kwargs[OPTIONS], "prefetch_dynamic_vbars": False, OVERRIDE: self.attend}
        return own(*args, **{**kwargs, OPTIONS: options})

    def counted(self) -> Counted:
        flops, products = self.began
        often = Counter(path for path, *_ in self.ran)
        lists = {path.rpartition(".")[0] for path, times in often.items() if times > 1}
        blocks = [(path, start, end) for path, start, end, passes in self.ran if passes and path.rpartition(".")[0] not in lists]
        first, last = (blocks[0][1], blocks[-1][2]) if blocks else (self.counting.flops,) * 2
        return Counted(self.counting.flops - flops, self.counting.products - products, first - flops, self.counting.flops - last,
                       tuple((path, end - start) for path, start, end in blocks), self.sequence, self.widest)


# --- layers that have no weights ---------------------------------------------------------------------------------------

def _on_shapes(layer: nn.Module) -> Callable | None:
    """What a layer computes, with weights that have no values. None for what is no layer of torch's or ComfyUI's."""
    if not (hasattr(layer, "comfy_cast_weights") or type(layer).__module__.startswith("torch.nn.")):
        return None
    if hasattr(layer, "in_features"):
        weight = blank(layer.out_features, layer.in_features, weight=True)
        return lambda x, *_, **__: F.linear(x, weight.to(x.dtype))
    if hasattr(layer, "kernel_size") and getattr(layer, "transposed", False):
        weight = blank(layer.in_channels, layer.out_channels // layer.groups, *layer.kernel_size, weight=True)
        turned = getattr(F, f"conv_transpose{len(layer.kernel_size)}d")
        return lambda x, *_, **__: turned(x, weight.to(x.dtype), None, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
    if hasattr(layer, "_conv_forward"):
        weight = blank(layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size, weight=True)
        return lambda x, *_, **__: layer._conv_forward(x, weight.to(x.dtype), None)
    if hasattr(layer, "num_embeddings"):
        weight = blank(layer.num_embeddings, layer.embedding_dim, weight=True)
        return lambda x, *_, out_dtype=None, **__: F.embedding(x, weight.to(out_dtype or weight.dtype))
    if any(hasattr(layer, name) for name in ("num_groups", "normalized_shape", "num_features")):
        weight = blank(1, weight=True)
        return lambda x, *_, **__: x * weight.to(x.dtype)
    return None


def _by_experts(module: nn.Module, own: Callable, args: tuple, kwargs: dict) -> Tensor:
    """A mixture of experts of one size: every token passes some of them, whichever they are."""
    x, active = args[0], next(getattr(module, name) for name in ACTIVE if hasattr(module, name))
    module.gate(x)
    rows = x.flatten(0, -2).repeat_interleave(active, dim=0)
    return module.experts[0](rows).unflatten(0, (-1, active)).sum(1).view(x.shape) + module.shared_experts(x)


@contextmanager
def _only_shapes(model: nn.Module, forward: _Forward) -> Iterator[None]:
    """While it lasts, a model's layers and attention run on shapes, and its blocks are counted."""
    changes = {layer: partial(forward.layer, run) for layer in model.modules() if (run := _on_shapes(layer))}
    changes |= {module: partial(_by_experts, module) for module in model.modules()
                if hasattr(module, "experts") and hasattr(module, "gate") and any(hasattr(module, name) for name in ACTIVE)}
    blocks = {module: path for path, module in children_of_lists(model).items()}
    blocks |= {module: None for module in model.modules() if isinstance(module, nn.Sequential) and module not in blocks}
    changes |= {module: partial(forward.block, path, changes.get(module)) for module, path in blocks.items()}
    theirs = comfy.ldm.modules.attention
    ways = {id(way): way for name, way in vars(theirs).items() if name.startswith(ATTENTIONS) and callable(way)}
    swapped = [(place, name, id(value)) for place in {sys.modules[type(module).__module__] for module in model.modules()} - {theirs}
               for name, value in vars(place).items() if id(value) in ways]  # for what does not hand its options on
    with instead({**changes, model: forward.begin}):
        patches = [patch.object(place, name, partial(forward.attend, ways[way])) for place, name, way in swapped]
        try:
            for one in patches:
                one.start()
            yield
        finally:
            for one in patches:
                one.stop()


# --- asking a model ----------------------------------------------------------------------------------------------------

def count(patcher, shapes: Sequence[tuple[int, ...]], conditioning: Conditioning) -> Counted:
    """FLOPs of a MODEL's forward for latents of these shapes [C, …] with the first conditioning. Raises StagesError."""
    base, counting = patcher.model, Counting()
    model, forward = base.diffusion_model, _Forward(counting)
    sigma = torch.tensor([float(patcher.get_model_object("model_sampling").sigma_max)])
    latents = [blank(1, *shape, picture=True) for shape in shapes]
    prompt = [[text, {key: value for key, value in values.items() if key not in LEFT_OUT}] for text, values in conditioning[:1]]
    memory = memory_of(model)
    with (torch.inference_mode(), torch.random.fork_rng([]), in_one_line(f"{type(model).__name__} fails on shapes alone", ""),
          remembering(base, memory_of(base)), remembering(model, memory | {name: type(kept)() for name, kept in memory.items() if CACHE in name}),
          _only_shapes(model, forward), counting):
        noise = comfy.utils.pack_latents(latents)[0] if len(latents) > 1 else latents[0]
        base.latent_shapes = sizes = [latent.shape for latent in latents]
        (asked,) = comfy.samplers.process_conds(base, noise, {"positive": comfy.sampler_helpers.convert_cond(prompt)}, HOME, noise, None, 0,
                                                latent_shapes=sizes)["positive"]
        part = comfy.samplers.get_area_and_mult(asked, noise, sigma)
        options = {"cond_or_uncond": [0], "uuids": [part.uuid], "sigmas": sigma, "sample_sigmas": torch.cat([sigma, 0 * sigma])}
        base.apply_model(part.input_x, sigma, **comfy.samplers.cond_cat([part.conditioning]), transformer_options=options)
    return forward.counted()


class CountedModel(DitHandle):
    """A handle of a MODEL, as far as costs go."""

    @property
    def frame_downscale(self) -> int:
        known = self.model.get_model_object("latent_format")
        return known.temporal_downscale_ratio if known.latent_dimensions == 3 else 1

    def latent_frames(self, pictures):
        dimensions = self.model.get_model_object("latent_format").latent_dimensions
        if dimensions == 1:
            raise BackboneError(f"the latents of {self.name} are no pictures, and have no width and height")
        return (pictures - 1) // self.frame_downscale + 1 if dimensions == 3 else super().latent_frames(pictures)

    def counted(self, frames=1, positive=None, text=None):
        """By an adapter's formulas for the usual prompt; all else by the model's own forward."""
        if positive is None and text is None:
            with suppress(BackboneError):
                return super().counted(frames)
        try:
            return architecture_of(self, frames, positive, text)
        except BackboneError:
            if positive is None and text is not None:
                with suppress(BackboneError):
                    return super().counted(frames)
            raise


def architecture_of(dit, frames: int, positive: Conditioning | None, text: int | None) -> CountedNow:
    """A handle's MODEL, which is counted for every size that is asked about. positive: its prompt; without one, a prompt of `text` tokens
    is made up. Raises BackboneError."""
    model, known = dit.model.model.diffusion_model, dit.model.get_model_object("latent_format")
    dimensions, p = known.latent_dimensions, dit.patch_size
    frame_patch = own_patch(model, known.latent_channels, dimensions)[0] if dimensions == 3 else 1

    def shape(frames: int, grid: Grid, cells: Grid | None = None) -> tuple[int, ...]:
        rows, columns = cells or (side * p for side in grid)
        return known.latent_channels, *((frames * frame_patch,) if dimensions == 3 else ()), *((rows, columns) if dimensions > 1 else (rows * columns,))

    def one(frames: int, grid: Grid, cells: Grid | None) -> Pass:
        found = _remembered(dit.model, shape(frames, grid, cells), prompt)
        attention, whole = found.products // 2, found.flops // 2
        inside = sum(flops for _, flops in found.blocks) // 2
        return Pass(found.sequence, attention, whole - attention, found.after // 2, inside, found.widest,
                    tuple((path, flops // 2) for path, flops in found.blocks))
    frames = -(-frames // frame_patch)
    try:
        prompt = positive or _made_up(dit.model, shape(frames, (8, 8)), USUAL_TEXT if text is None else text)
        stages = dit.stages
    except StagesError as error:
        raise BackboneError(f"the cost of {dit.name} is not known: {error}") from None
    length = prompt[0][0].shape[1] if prompt[0][0] is not None else 0
    by_hand = isinstance(stages, ModelStages)
    guided = stages.guided if by_hand else getattr(model, "guidance_in", None) is None
    return CountedNow(dit.name, 1, 1, p, dit.channels, sum(weight.numel() for weight in model.parameters()), dit.downscale, guided,
                      frames, frame_patch, length, by_hand, one, slow=sum(1 for _ in model.modules()) > MANY)


def _remembered(patcher, shape: tuple[int, ...], prompt: Conditioning) -> Counted:
    """`count`, asked once. Raises BackboneError."""
    known, key = _known.setdefault(patcher.model.diffusion_model, OrderedDict()), (shape, _form(prompt[:1]))
    if key not in known:
        try:
            known[key] = count(patcher, [shape], prompt)
        except StagesError as error:
            known[key] = str(error)
        while len(known) > KEPT:
            known.popitem(last=False)
    if isinstance(known[key], str):
        raise BackboneError(f"the cost of {type(patcher.model).__name__} (MODEL) is not known: {known[key]}")
    return known[key]


def _form(value) -> object:
    """What of a prompt its cost may depend on."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return tuple((name, _form(one)) for name, one in value.items() if name not in LEFT_OUT)
    if isinstance(value, (list, tuple)):
        return tuple(map(_form, value))
    if isinstance(value, (int, float, str, bool, type(None))):
        return value
    return type(value), tuple((name, _form(one)) for name, one in getattr(value, "__dict__", {}).items() if isinstance(one, (Tensor, list, tuple)))


def _made_up(patcher, shape: tuple[int, ...], length: int) -> Conditioning:
    """A prompt of so many tokens, of the only width that a model takes. Raises StagesError."""
    widths = sorted({layer.in_features for layer in patcher.model.diffusion_model.modules() if hasattr(layer, "in_features")})
    for pooled in POOLED:
        found = []
        for width in widths:
            prompt = [[torch.zeros(1, length, width), {} if pooled is None else {"pooled_output": torch.zeros(1, pooled)}]]
            try:
                _remembered(patcher, shape, prompt)
                found.append(prompt)
            except BackboneError:
                continue
        if len(found) == 1:
            return found[0]
    raise StagesError("it is not known what prompts it takes: wire positive")
