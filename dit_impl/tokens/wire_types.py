"""What travels on the wires, as plain dicts: ComfyUI's caches look into dicts, and LATENT is one too. Every key is named here, once."""

from typing import Any, NotRequired, TypedDict, TypeVar, final

import torch
from torch import Tensor

Trace = tuple[tuple[str, Tensor], ...]  # (stage, checksum of the image tokens after it), by which Parity finds where wires differ


class LatentFormat(TypedDict):
    """How a model reads its VAE's latents: DiT space = (VAE latent − shift)·scale / std, each [C]."""
    scale: Tensor
    shift: Tensor
    std: Tensor
    host: NotRequired[Any]  # ComfyUI's own, whose process_in and process_out map what numbers for each channel cannot


class SolverMemory(TypedDict):
    """What a multistep solver remembers of the step before."""
    x0: Tensor     # tokens [B, N, C·p·p]
    sigma: Tensor  # []


class NoiseStart(TypedDict):
    """What Add Noise started from."""
    clean: Tensor  # tokens [B, N, C·p·p]
    noise: Tensor  # tokens [B, N, C·p·p]
    seed: NotRequired[int]
    sigma: NotRequired[Tensor]   # []
    latent: NotRequired[Tensor]  # the clean tokens as a latent, as a MODEL's own sampling takes them


class Level(TypedDict):
    """Where on a schedule tokens stand. See `sampling.level`."""
    sigma: Tensor  # []
    share: Tensor  # [], the factor on the data in them
    walked: bool   # whether a step was taken since their noise was added


@final
class DitTokens(TypedDict):
    """The DIT_TOKENS wire: raw patch tokens. N = h·w, row-major over the grid."""
    tokens: Tensor               # [B, N, C·p·p], each patch flattened as (C, p_row, p_col)
    patch_size: int              # p
    grid: tuple[int, ...]        # (h, w) in tokens; (t, h, w) of a video
    channels: int                # C
    size: tuple[int, ...]        # (H, W) of the latent before padding; (T, H, W) of a video
    latent_format: LatentFormat
    frame_patch: NotRequired[int]            # f, frames in a patch of a video: (C, f, p_row, p_col)
    nested: NotRequired[Any]                 # of a LATENT of several tensors (film and sound): their shapes, their type; a token is a value
    memory: NotRequired[SolverMemory]
    start: NotRequired[NoiseStart]
    level: NotRequired[Level]                # clean tokens have none
    dtype: NotRequired[torch.dtype]          # of the LATENT, if it is not float32: noise is rounded to it
    remembered: NotRequired[dict[str, Any]]  # what a MODEL's functions remember of the steps before
    random: NotRequired[Any]                 # the state of the generator that they draw from
    noise_mask: NotRequired[Tensor]          # as in LATENT
    batch_index: NotRequired[list[int]]      # as in LATENT
    pixels: NotRequired[bool]                # True if the patches are cut from an IMAGE
    latent: NotRequired[Any]                 # a LATENT of several tensors as it came
    # of a prediction, as Final Layer and Guidance give it
    call: NotRequired[Any]                   # the step that it answers, a `model.stages.Call`
    guided: NotRequired[bool]                # whether it is x0 already
    trace: NotRequired[Trace]                # of the hidden states before it


class Onward(TypedDict, total=False):
    """What goes with x0 from Guidance on to the step's tokens."""
    remembered: dict[str, Any]


class ModelCall(TypedDict):
    """One call of the model in a step."""
    hidden: Any        # a `model.stages.Hidden`
    tokens: DitTokens  # what it reads: grid, patch size and latent format


@final
class DitHidden(TypedDict):
    """The DIT_HIDDEN wire: embedded tokens between two stages of a step."""
    hidden: Any                                 # of the first model call, as in `ModelCall`
    tokens: DitTokens
    others: NotRequired[tuple[ModelCall, ...]]  # further model calls, if conditionings share no batch
    done: frozenset[str]                        # stages that were run, of "condition", "patches", "positions", "blocks"
    call: Any                                   # a `model.stages.Call` once conditioned, else None
    model: str                                  # name of the model that it belongs to
    shape: NotRequired[tuple[int, int]]         # its blocks and heads
    words: NotRequired[list[str]]               # what the text tokens are called
    trace: Trace


AnyWire = DitTokens | DitHidden
Wire = TypeVar("Wire", DitTokens, DitHidden)


def without(wire: Wire, *names: str) -> Wire:
    """A copy of a wire without some of its optional entries."""
    kept = wire.copy()
    for name in names:
        kept.pop(name, None)  # type: ignore[misc]
    return kept
