"""Copies of modules that a host may manage, and where such a module computes.

ComfyUI hangs handles of its native memory manager on the modules that it loads. A copy of a handle frees the memory of the module that it was
copied from, so modules are never copied deeply: a twin has the same layers, and none of what a host hung on them.
"""

from collections.abc import Callable
import re

import torch
from torch import Tensor, nn

# What ComfyUI hangs on modules: comfy/model_patcher.py, comfy/ops.py and comfy/pinned_memory.py of 0.33
HOSTED = re.compile(r"(prev_)?comfy_(patcher|cast_weights|force_cast_weights|patched_weights)|_v(_\w+)?|_pins?(_\w+)?|_prefetch|_comfy_\w+|dynamic_\w+|"
                    r"\w+_lowvram_function|(weight|bias)_function|seed_key|model_lowvram|lowvram_patch_counter|model_loaded_weight_memory|"
                    r"model_offload_buffer_memory|current_weight_patches_uuid")


def twin(module: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A module of the same layers over change(weight) of each parameter and buffer. What is one weight or one layer in the module is one in
    the twin."""
    tensors: dict[int, Tensor] = {}
    layers: dict[int, nn.Module] = {}

    def of_tensor(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        if id(value) not in tensors:
            changed = change(value)
            if isinstance(value, nn.Parameter) and not isinstance(changed, nn.Parameter):
                changed = nn.Parameter(changed, requires_grad=False)
            tensors[id(value)] = changed
        return tensors[id(value)]

    def of_layer(layer: nn.Module | None) -> nn.Module | None:
        if layer is None:
            return None
        if id(layer) not in layers:
            made = layers[id(layer)] = layer.__class__.__new__(layer.__class__)
            kept = {name: value for name, value in vars(layer).items() if not HOSTED.fullmatch(name)}
            made.__dict__.update({name: value.copy() if type(value) in (dict, list, set) or name.endswith("hooks") else value
                                  for name, value in kept.items()})
            made.__dict__["_parameters"] = {name: of_tensor(value) for name, value in layer._parameters.items()}
            made.__dict__["_buffers"] = {name: of_tensor(value) for name, value in layer._buffers.items()}
            made.__dict__["_modules"] = {name: of_layer(value) for name, value in layer._modules.items()}
        return layers[id(layer)]
    return of_layer(module)


def shared_copy(module: nn.Module) -> nn.Module:
    """A module of the same layers over the same weights. Its layers are its own, so what is put in one's place leaves the other alone."""
    return twin(module, lambda weight: weight.detach() if isinstance(weight, nn.Parameter) else weight)


def hollow_copy(module: nn.Module) -> nn.Module:
    """A module of the same layers without numbers in them: for counting."""
    def hollow(weight: Tensor) -> Tensor:
        empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        return nn.Parameter(empty, weight.requires_grad) if isinstance(weight, nn.Parameter) else empty
    return twin(module, hollow)


def own_copy(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A module of the same layers over weights of its own, those with a fraction in this type."""
    def copied(weight: Tensor) -> Tensor:
        return plain(weight).to(device, dtype if weight.is_floating_point() else None, copy=True)
    return twin(module, copied)


def plain(weight: Tensor) -> Tensor:
    """A weight's values as an ordinary tensor: those that a host keeps scaled, in 8 or 4 bits, in the type that it computes in."""
    weight = weight.detach()
    return weight.dequantize() if hasattr(weight, "dequantize") and hasattr(weight, "_qdata") else weight


def compute_device(module: nn.Module) -> torch.device:
    """Where a module computes. The patcher that a host gave it knows: its weights may lie elsewhere and come as they are needed."""
    patcher = getattr(module, "comfy_patcher", None)
    return patcher.load_device if patcher is not None else next(module.parameters()).device
