"""How the small random models of the zoo are made, by ComfyUI's own supported_models. Import it once ComfyUI is started (host_models.start).

    @arch
    def sd15():
        return model, positive, negative, (4, 9, 7)       # a ModelPatcher, CONDITIONING twice, the size of a latent [C, …]
"""

from typing import Callable

import comfy.model_patcher
import torch
from torch import Tensor, nn

ZOO: dict[str, Callable] = {}


def arch(make: Callable) -> Callable:
    ZOO[make.__name__] = make
    return make


def rnd(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def P48(seed: int) -> Tensor:
    """A pooled text."""
    return rnd(1, 48, seed=seed)


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Weights at which activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if not parameter.is_floating_point():
            parameter.data.zero_()
            continue
        value = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            value *= parameter[0].numel() ** -0.5
        elif name.endswith(("weight", "scale", "gamma")):
            value = 1 + 0.1 * value
        else:
            value *= 0.1
        parameter.data.copy_(value)
    for buffer in module.buffers():
        if buffer.is_floating_point() and buffer.numel() and (not buffer.isfinite().all() or buffer.abs().max() > 1e6):
            buffer.data.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)


def build(cls: type, config: dict, state_dict: dict | None = None, over: dict | None = None, seed: int = 7):
    """→ ModelPatcher. over: of the configuration, after the class has filled it."""
    made = cls(dict(config))
    made.unet_config.update(over or {})
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model(state_dict or {}, "", device=None)
    randomize(model, seed)
    cpu = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(model.eval(), cpu, cpu)


def cond(seed: int, width: int, tokens: int = 7, /, **values) -> list:
    """CONDITIONING of random numbers; values that are functions are called with the seed."""
    return [[rnd(1, tokens, width, seed=seed), {name: value(seed) if callable(value) else value for name, value in values.items()}]]


def pair(width: int, tokens: int = 7, /, **values) -> tuple[list, list]:
    return cond(1, width, tokens, **values), cond(2, width, tokens, **values)
