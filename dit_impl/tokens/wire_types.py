"""The types of the wires. They are plain dicts, like LATENT, because ComfyUI's caches look into dicts. Every key is named here, once."""

from typing import Any, NotRequired, TypedDict, TypeVar, final

import torch
from torch import Tensor

# (stage, checksum of the image tokens after it); Wires = KSampler? finds with it where the wires differ from the model
Trace = tuple[tuple[str, Tensor], ...]


class LatentFormat(TypedDict):
    """The map from a VAE's latents to the DiT's own space: DiT space = (VAE latent − shift)·scale / std, each [C]."""
    scale: Tensor
    shift: Tensor
    std: Tensor
    host: NotRequired[Any]  # ComfyUI's own format, if scale and shift are not enough: its process_in and process_out are used


class SolverMemory(TypedDict):
    """What a multistep solver remembers from the step before."""
    x0: Tensor     # tokens [B, N, C·p·p]
    sigma: Tensor  # []
    # of uni_pc
    x: NotRequired[Tensor]  # tokens before its last move, in the solver's own scale
    earlier: NotRequired[tuple[tuple[Tensor, Tensor], ...]]  # earlier x0 and their noise levels, the oldest first
    count: NotRequired[int]  # steps taken


class NoiseStart(TypedDict):
    """What Add Noise started from."""
    clean: Tensor  # tokens [B, N, C·p·p]
    noise: Tensor  # tokens [B, N, C·p·p]
    seed: NotRequired[int]
    sigma: NotRequired[Tensor]   # [], the noise level that it brought them to
    latent: NotRequired[Tensor]  # the clean tokens again, in the form that a MODEL's own sampling takes


class Level(TypedDict):
    """The noise level of tokens. See `sampling.level`."""
    sigma: Tensor  # []
    share: Tensor  # [], the factor on the clean data in them
    walked: bool   # whether a step was taken after noise was added


@final
class DitTokens(TypedDict):
    """The DIT_TOKENS wire: raw patch tokens. N = h·w, row-major over the grid."""
    tokens: Tensor               # [B, N, C·p·p], each patch flattened as (C, p_row, p_col)
    patch_size: int              # p
    grid: tuple[int, ...]        # (h, w) in tokens; (t, h, w) for a video
    channels: int                # C
    size: tuple[int, ...]        # (H, W) of the latent before padding; (T, H, W) for a video
    latent_format: LatentFormat
    frame_patch: NotRequired[int]            # f, frames in a patch of a video, flattened as (C, f, p_row, p_col)
    nested: NotRequired[Any]                 # for a LATENT of several tensors (film and sound): shapes and type; each value is a token
    line: NotRequired[bool]                  # True for a LATENT [B, C, L], such as sound: it is cut as one row [B, C, 1, L]
    memory: NotRequired[SolverMemory]
    start: NotRequired[NoiseStart]
    level: NotRequired[Level]                # clean tokens have none
    dtype: NotRequired[torch.dtype]          # the LATENT's, if it is not float32: noise is rounded to it
    remembered: NotRequired[dict[str, Any]]  # what a MODEL's functions and Step Cache remember of earlier steps
    hits: NotRequired[tuple[Any, ...]]       # what Step Cache tells of each model call of the run so far
    random: NotRequired[Any]                 # the state of the generator that they draw from
    noise_mask: NotRequired[Tensor]          # as in LATENT
    batch_index: NotRequired[list[int]]      # as in LATENT
    pixels: NotRequired[bool]                # True if the patches are cut from an IMAGE
    latent: NotRequired[Any]                 # a LATENT of several tensors, unchanged
    # only for a prediction, from Final Layer or DiT Guidance
    call: NotRequired[Any]                   # its step, a `model.stages.Call`
    guided: NotRequired[bool]                # whether it is x0 already
    trace: NotRequired[Trace]                # of the hidden states before it


class Onward(TypedDict, total=False):
    """What Guidance passes on to the step's tokens together with x0."""
    remembered: dict[str, Any]


class ModelCall(TypedDict):
    """One call of the model in a step."""
    hidden: Any        # a `model.stages.Hidden`
    tokens: DitTokens  # what the model reads: grid, patch size and latent format


@final
class DitHidden(TypedDict):
    """The DIT_HIDDEN wire: embedded tokens between two stages of a step."""
    hidden: Any                                 # of the first model call, as in `ModelCall`
    tokens: DitTokens
    others: NotRequired[tuple[ModelCall, ...]]  # further model calls, if the conditionings do not fit into one batch
    done: frozenset[str]                        # the stages that have run, of "condition", "patches", "positions", "blocks"
    call: Any                                   # a `model.stages.Call` after DiT Condition, else None
    model: str                                  # name of the model
    shape: NotRequired[Any]                     # of the model, a `model.stages.Shape`: hidden states go on in models of the same
    words: NotRequired[list[str]]               # the words of the text tokens
    made: NotRequired[Any]                      # how they came to be since DiT Condition, a `recipe.Made`, if the same can be done again
    trace: Trace


AnyWire = DitTokens | DitHidden
Wire = TypeVar("Wire", DitTokens, DitHidden)


def without(wire: Wire, *names: str) -> Wire:
    """A copy of a wire without some of its optional entries."""
    kept = wire.copy()
    for name in names:
        kept.pop(name, None)  # type: ignore[misc]
    return kept
