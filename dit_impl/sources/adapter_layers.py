"""What is new in a model that is taught one more patch size: embedding, head, patch-size vector, and low-rank additions to attention and
MLP. All else is the model's own, and stays as it is. FlexiDiT (Anagnostidis et al. 2025), §3.2."""

from dataclasses import replace
import math
import re

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from ..errors import BackboneError
from ..model.copies import shared_copy
from ..model.dit import DiT
from ..model.mmdit import MMDiT
from ..tokens.other_sizes import resize_embedding, resize_head

LOW_RANK = re.compile(r".*\.(attn2?\.(qkv|proj)|mlp\.fc[12])")


class LowRank(nn.Module):
    """A frozen linear map and a learned one of low rank beside it: [..., in] → W·x + b + B·A·x. Hu et al. 2021 (LoRA), §4.1."""

    def __init__(self, linear: nn.Module, rank: int):
        super().__init__()
        self.linear = linear
        made = dict(dtype=torch.float32, device=linear.weight.device)
        self.a = nn.Parameter(torch.randn(rank, linear.in_features, **made) / math.sqrt(linear.in_features))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank, **made))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + F.linear(F.linear(x, self.a), self.b)

    def merged(self) -> nn.Module:
        """One linear map, W + B·A: a copy of the frozen one with a weight of its own."""
        weight = self.linear.weight
        return with_weights(self.linear, (weight.float() + self.b @ self.a).to(weight.dtype))


class PatchVector(nn.Module):
    """The patch-size vector of the one size that this copy of a model reads: indices [B] → [B, D]."""

    def __init__(self, vector: Tensor):
        super().__init__()
        self.vector = nn.Parameter(vector)

    def forward(self, index: Tensor) -> Tensor:
        return self.vector.expand(len(index), -1)


def with_weights(linear: nn.Module, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """A linear layer of the same kind with another matrix [out, in], and another bias [out] or its own."""
    made = shared_copy(linear)
    made.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    made.out_features, made.in_features = weight.shape
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made


def resized_parts(model: MMDiT | DiT, start: int, patch_size: int) -> tuple[nn.Module, nn.Module, Tensor]:
    """Embedding, head and patch-size vector [D] of p', PI-resized from those of a size that the model has. Beyer et al. 2023, §3.4.

    Of a head with a hidden layer the last map is resized. A variance that a DiT's head also answers is left out: nothing reads it.
    """
    embed, head = model.x_embedder[str(start)], model.final_layer.linear[str(start)]
    embed = with_weights(embed, resize_embedding(embed.weight.float(), start, patch_size))
    last = head[-1] if isinstance(head, nn.Sequential) else head
    values = model.config.in_channels * start * start
    weight, bias = (resize_head(rows, start, patch_size) for rows in (last.weight[:values].float(), last.bias[:values, None].float()))
    last = with_weights(last, weight, bias.flatten())
    head = nn.Sequential(*head[:-1], last) if isinstance(head, nn.Sequential) else last
    vector = torch.zeros(model.config.width, device=embed.weight.device)
    if model.patch_embedder is not None:
        vector = model.patch_embedder.weight[model.config.patch_sizes.index(start)].float().clone()
    return embed, head, vector


def resized_context(model: MMDiT | DiT, start: int, patch_size: int) -> nn.Module | None:
    """What a token has for each of its cells, resized likewise from p to p'; None where there is no decoder of cells beside the heads."""
    if model.final_layer.detail is None:
        return None
    context = model.final_layer.detail.context[str(start)]
    weight, bias = (resize_head(rows, start, patch_size) for rows in (context.weight.float(), context.bias[:, None].float()))
    return with_weights(context, weight, bias.flatten())


def learning(layer: nn.Module) -> nn.Module:
    """The same layer over float32 weights of its own, which learn."""
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(parameter.detach().float().clone()))
    return layer


def extended(model: MMDiT | DiT, patch_size: int, start: int, rank: int, wide_rank: int = 0) -> MMDiT | DiT:
    """A copy of a model that reads patches of p' alone, over the model's own weights: those of its parameters that learn are new.

    As it comes it computes what the model does with PI-resized patches of size `start`, or nearly so with a decoder of cells: what is of low
    rank begins at zero. wide_rank > 0: embedding and head learn a change of that rank rather than every weight. Raises BackboneError.
    """
    if hasattr(model, "extended"):  # a host's model, which has its own way
        return model.extended(patch_size, start, rank)
    if not isinstance(model, (MMDiT, DiT)):
        raise BackboneError(f"a {type(model).__name__} runs whole, by diffusers: a patch size can be taught to an MM-DiT or a DiT of this library")
    made, config = shared_copy(model), model.config
    embed, head, vector = resized_parts(made, start, patch_size)

    def part(layer: nn.Module) -> nn.Module:
        return LowRank(layer, wide_rank) if wide_rank else learning(layer)
    if isinstance(head, nn.Sequential):
        head = nn.Sequential(LowRank(head[0], rank), *head[1:-1], part(head[-1]))
    else:
        head = part(head)
    made.x_embedder, made.final_layer.linear = nn.ModuleDict({str(patch_size): part(embed)}), nn.ModuleDict({str(patch_size): head})
    context = resized_context(made, start, patch_size)
    if context is not None:
        made.final_layer.detail.context = nn.ModuleDict({str(patch_size): part(context)})
    made.patch_embedder = PatchVector(vector)
    made.config = replace(config, patch_sizes=(*config.patch_sizes, patch_size))
    for name, layer in list(made.named_modules()):
        if LOW_RANK.fullmatch(name):
            made.set_submodule(name, LowRank(layer, rank))
    return made


def new_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is new in an `extended` model, by name."""
    if hasattr(model, "new_parameters"):
        return model.new_parameters()
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def merge(model: nn.Module) -> nn.Module:
    """The same `extended` model with its low-rank additions summed into matrices of its own, and nothing that learns: all in the type that the
    model's own weights have."""
    own = model.final_layer.adaLN_modulation[-1].weight.dtype
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LowRank):
            model.set_submodule(name, layer.merged())
    detail = [] if model.final_layer.detail is None else [model.final_layer.detail.context]
    for part in (model.x_embedder, model.final_layer.linear, model.patch_embedder, *detail):
        part.to(own)
    return model.requires_grad_(False)
