"""What a MODEL's forward costs, by asking the model itself: its own forward runs on tensors that have shapes and no values (`blank.py`).

Nothing is loaded, computed or allocated, and what rides on the MODEL (patches, wrappers, ControlNet) is left out. Followed: process_conds
and _calc_cond_batch of comfy/samplers.py, wrap_attn of comfy/ldm/modules/attention.py, ComfyUI 0.33. Imported only where there is a MODEL.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
import sys
from unittest.mock import patch

import comfy.ldm.modules.attention
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from ...dit_impl.errors import StagesError
from ...dit_impl.handle.backbone import Conditioning
from .blank import HOME, Counting, blank
from .memory import memory_of, remembering
from .stages.base import OVERRIDE, queries_and_keys
from .stages.call import OPTIONS, children_of_lists, in_one_line, instead

LEFT_OUT = ("area", "mask", "control", "gligen", "hooks", "start_percent", "end_percent", "timestep_start", "timestep_end")
ATTENTIONS = "attention_"  # how the functions begin that ComfyUI's attention may be
ACTIVE = ("num_activated_experts", "moe_top_k")  # how many experts a token goes through
USUAL_TEXT = 256  # tokens, where no prompt is given
POOLED = (None, 768, 1280, 2048)  # usual widths of pooled texts


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

def count(patcher, shapes: Sequence[tuple[int, ...]], conditioning: Conditioning, batch: int = 1) -> Counted:
    """FLOPs of a MODEL's forward for latents of these shapes [C, …] with the first conditioning. Raises StagesError."""
    base, counting = patcher.model, Counting()
    forward, name = _Forward(counting), type(base.diffusion_model).__name__
    sigma = torch.tensor([float(patcher.get_model_object("model_sampling").sigma_max)])
    latents = [blank(batch, *shape, picture=True) for shape in shapes]
    prompt = [[text, {key: value for key, value in values.items() if key not in LEFT_OUT}] for text, values in conditioning[:1]]
    with (torch.inference_mode(), torch.random.fork_rng([]), in_one_line(f"the FLOPs of {name} can't be counted, as it fails on shapes alone"),
          remembering(base, memory_of(base)), remembering(base.diffusion_model, memory_of(base.diffusion_model)),
          _only_shapes(base.diffusion_model, forward), counting):
        noise = comfy.utils.pack_latents(latents)[0] if len(latents) > 1 else latents[0]
        base.latent_shapes = sizes = [latent.shape for latent in latents]
        (asked,) = comfy.samplers.process_conds(base, noise, {"positive": comfy.sampler_helpers.convert_cond(prompt)}, HOME, noise, None, 0,
                                                latent_shapes=sizes)["positive"]
        part = comfy.samplers.get_area_and_mult(asked, noise, sigma)
        options = {"cond_or_uncond": [0], "uuids": [part.uuid], "sigmas": sigma, "sample_sigmas": torch.cat([sigma, 0 * sigma])}
        base.apply_model(part.input_x, sigma, **comfy.samplers.cond_cat([part.conditioning]), transformer_options=options)
    return forward.counted()
