"""Turns ComfyUI's CONDITIONING into the arguments that a model is called with.

CONDITIONING: [[tensor, {name: value, …}], …], one pair for each prompt. Text is a tensor [1, T, E] with "pooled_output" [1, P],
"attention_mask" [1, T] and "guidance" in the dict, if the model needs them. A class is {"class_label": number}.
"""

from dataclasses import dataclass
from math import lcm
from typing import Protocol

import torch
from torch import Tensor

from ..errors import BackboneError

Conditioning = list
Arguments = dict[str, Tensor]  # a model's arguments by name, each [B, …]

GUIDANCE = 3.5  # for Flux dev if the CONDITIONING has no guidance, as in ComfyUI and diffusers
OVER_TEXT = ("context", "mask")  # arguments with an entry for each text token


class Conditions(Protocol):
    """What a model is conditioned on."""
    unconditional: Conditioning | None  # the negative if the user gives none

    def read(self, extras: dict, tensor: Tensor, what: str, model: str) -> Arguments:
        """Check one pair of a CONDITIONING: → arguments with the batch size of that pair. Raises BackboneError."""


@dataclass(frozen=True)
class TextConditions:
    """Text of this width and, if the model reads them, a pooled vector, a mask over the padding and a guidance strength."""
    width: int
    pooled_width: int | None = None
    masked: bool = False
    guided: bool = False
    unconditional = None

    def __str__(self) -> str:
        return f"text of width {self.width}" + (f" with a pooled_output of width {self.pooled_width}" if self.pooled_width else "")

    def read(self, extras: dict, tensor: Tensor, what: str, model: str) -> Arguments:
        """→ context [B, T, E] and, if the model reads them, pooled [B, P], mask [B, T], guidance [B]. Raises BackboneError."""
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
                raise BackboneError(f"{what} has an attention_mask for {mask.shape[-1]} tokens, but text of {tensor.shape[1]}")
        if self.guided:
            arguments["guidance"] = torch.tensor([float(extras.get("guidance", GUIDANCE))])
        return arguments


@dataclass(frozen=True)
class LabelConditions:
    """A class from 0 to classes − 1. The number `classes` means no class."""
    classes: int

    def __str__(self) -> str:
        return f"one of {self.classes} classes" if self.classes else "no prompt"

    @property
    def unconditional(self) -> Conditioning:
        return label_conditioning(self.classes)

    def read(self, extras: dict, tensor: Tensor, what: str, model: str) -> Arguments:
        """→ labels [B]. Raises BackboneError."""
        if "class_label" not in extras:
            raise BackboneError(f"{what} has no class_label, which {model} reads: use Class Label")
        label = extras["class_label"]
        if not 0 <= label <= self.classes:
            raise BackboneError(f"{what} is class {label}, {model} knows classes 0 to {self.classes - 1}")
        return {"labels": torch.tensor([label])}


def label_conditioning(label: int) -> Conditioning:
    """A class as CONDITIONING. Its tensor [1, 1, 1] also holds the number, for nodes that read only tensors."""
    return [[torch.full((1, 1, 1), float(label)), {"class_label": label}]]


def batches(conditions: Conditions, conditioning: Conditioning, what: str, model: str, batch: int, like: Tensor) -> list[Arguments]:
    """Check a CONDITIONING and repeat each of its pairs over the batch. Raises BackboneError."""
    def spread(argument: Tensor) -> Tensor:
        argument = argument[torch.arange(batch) % len(argument)].to(like.device)
        return argument.to(like) if argument.is_floating_point() else argument
    if not conditioning:
        raise BackboneError(f"{what} is empty")
    return [{name: spread(argument) for name, argument in conditions.read(extras, tensor, what, model).items()}
            for tensor, extras in conditioning]


def join(parts: list[Arguments]) -> Arguments:
    """Join all parts into one batch, in order. Texts of different lengths are repeated to a common length, as in ComfyUI."""
    joined = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        if name in OVER_TEXT:
            length = lcm(*(tensor.shape[1] for tensor in tensors))
            tensors = [tensor.repeat(1, length // tensor.shape[1], *[1] * (tensor.dim() - 2)) for tensor in tensors]
        joined[name] = torch.cat(tensors)
    return joined
