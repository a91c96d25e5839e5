"""How CONDITIONING, as ComfyUI wires it, becomes what a model is called with.

CONDITIONING: [[tensor, {name: value, …}], …], one pair for each prompt. Text is a tensor [1, T, E] with "pooled_output" [1, P],
"attention_mask" [1, T] and "guidance" beside it, as the model needs; a class is {"class_label": number}.
"""

from dataclasses import dataclass
from math import lcm
from typing import Protocol

import torch
from torch import Tensor

from ..errors import BackboneError

Conditioning = list
Arguments = dict[str, Tensor]  # of a model, by name, each with B in front

GUIDANCE = 3.5  # of Flux dev where a CONDITIONING brings none, as in ComfyUI and diffusers
OVER_TEXT = ("context", "mask")  # arguments with a place for each text token


class Conditions(Protocol):
    """What a model is conditioned on."""
    unconditional: Conditioning | None  # what guidance goes away from where no negative is given

    def read(self, extras: dict, tensor: Tensor, what: str, model: str) -> Arguments:
        """Check one pair of a CONDITIONING: → the arguments it makes, still with its own batch. Raises BackboneError."""


@dataclass(frozen=True)
class TextConditions:
    """Text states of one width; a pooled vector of another; a mask over the padding; a guidance strength, as the model reads them."""
    width: int
    pooled_width: int | None = None
    masked: bool = False
    guided: bool = False
    unconditional = None

    def read(self, extras: dict, tensor: Tensor, what: str, model: str) -> Arguments:
        """→ context [B, T, E], pooled [B, P], mask [B, T], guidance [B]: those that the model reads."""
        if "class_label" in extras:
            raise BackboneError(f"{what} is a class label, {model} reads text: use CLIP Text Encode")
        if tensor.shape[-1] != self.width:
            raise BackboneError(f"{what} has width {tensor.shape[-1]}, {model} reads width {self.width}: "
                                "use the CLIP that came with this model")
        arguments = {"context": tensor}
        if self.pooled_width is not None:
            pooled = arguments["pooled"] = extras.get("pooled_output")
            if pooled is None:
                raise BackboneError(f"{what} has no pooled_output, which {model} needs")
            if pooled.shape[-1] != self.pooled_width:
                raise BackboneError(f"{what} has a pooled_output of width {pooled.shape[-1]}, {model} reads {self.pooled_width}")
        if self.masked:
            mask = extras.get("attention_mask")
            arguments["mask"] = torch.ones(tensor.shape[:2]) if mask is None else mask.reshape(-1, mask.shape[-1])
            if arguments["mask"].shape[1] != tensor.shape[1]:
                raise BackboneError(f"{what} has an attention_mask over {mask.shape[-1]} tokens and text of {tensor.shape[1]}")
        if self.guided:
            arguments["guidance"] = torch.tensor([float(extras.get("guidance", GUIDANCE))])
        return arguments


@dataclass(frozen=True)
class LabelConditions:
    """A class from 0 to classes − 1; the number after them stands for no class."""
    classes: int

    @property
    def unconditional(self) -> Conditioning:
        return label_conditioning(self.classes)

    def read(self, extras: dict, tensor: Tensor, what: str, model: str) -> Arguments:
        """→ labels [B]."""
        if "class_label" not in extras:
            raise BackboneError(f"{what} has no class_label, which {model} reads: use Class Label")
        label = extras["class_label"]
        if not 0 <= label <= self.classes:
            raise BackboneError(f"{what} is class {label}, {model} knows classes 0 to {self.classes - 1}")
        return {"labels": torch.tensor([label])}


def label_conditioning(label: int) -> Conditioning:
    """A class as CONDITIONING. Its tensor [1, 1, 1] holds the number for the nodes that look at no more than tensors."""
    return [[torch.full((1, 1, 1), float(label)), {"class_label": label}]]


def batches(conditions: Conditions, conditioning: Conditioning, what: str, model: str, batch: int, like: Tensor) -> list[Arguments]:
    """Check a CONDITIONING and spread each of its pairs over the batch. Raises BackboneError."""
    def spread(argument: Tensor) -> Tensor:
        argument = argument[torch.arange(batch) % len(argument)].to(like.device)
        return argument.to(like) if argument.is_floating_point() else argument
    if not conditioning:
        raise BackboneError(f"{what} is empty")
    return [{name: spread(argument) for name, argument in conditions.read(extras, tensor, what, model).items()}
            for tensor, extras in conditioning]


def join(parts: list[Arguments]) -> Arguments:
    """One batch of all parts, in order. Texts of different lengths are repeated up to a common one, as ComfyUI does."""
    joined = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        if name in OVER_TEXT:
            length = lcm(*(tensor.shape[1] for tensor in tensors))
            tensors = [tensor.repeat(1, length // tensor.shape[1], *[1] * (tensor.dim() - 2)) for tensor in tensors]
        joined[name] = torch.cat(tensors)
    return joined
