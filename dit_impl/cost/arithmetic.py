"""What a step of a transformer costs: tokens, multiply-adds, memory. Arithmetic on shapes; nothing is run.

A matrix [a, b] on n tokens is n·a·b multiply-adds (MACs), and a FLOP count is twice that. Norms, activations and rotary positions are
left out, as torch's flop counter leaves them out. The DiT paper's "Gflops" are multiply-adds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
import math
from typing import Annotated, ClassVar, NamedTuple

from ..errors import BackboneError
from ..handle.backbone import Backbone, Conditioning, DitHandle
from ..handle.stage_plan import StagePlan
from ..model.dit import DiT
from ..model.mmdit import MMDiT
from ..reading import Between
from ..tokens.patch import token_grid

LARGEST = 10 ** 15
Positive = Annotated[int, Between(1, LARGEST)]
NotNegative = Annotated[int, Between(0, LARGEST)]


class Pass(NamedTuple):
    """What one pass over one picture or film costs, in multiply-adds.

    sequence: tokens of picture and text. attention: its two products. rest: all other MACs; `head` of them are in the final layer. blocks:
    of all, those in the blocks. widest: values that a block holds at its widest. spent: (path, all MACs) of each block, where that is known.
    """
    sequence: int
    attention: int
    rest: int
    head: int
    blocks: int
    widest: int
    spent: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Architecture:
    """What the cost of any transformer depends on. Each kind below adds its own fields and formulas.

    parameters: of all weights, 0 if unknown. downscale: pixels to a latent cell, each way. guided: whether a step usually takes two passes.
    frames: how many grids of tokens lie one after another, in a film. frame_patch: of the latent's frames, how many are in a token.
    """
    kind: ClassVar[str]
    # Class attributes; some kinds make them fields. They have no annotation here, because then these fields would come first in order.
    text = 0       # text tokens that are usual
    registers = 0  # learned tokens that go with the text
    head = 1       # values that the final layer gives for each value of a patch
    vector_macs = 0  # what one more vector that modulates image tokens costs: each patch size in a sequence has its own

    name: str
    width: Positive
    blocks: Positive
    patch_size: Positive = 2
    channels: Positive = 16
    parameters: NotNegative = 0
    downscale: Positive = 8
    guided: bool = True
    frames: Positive = 1
    frame_patch: Positive = 1

    def at_once(self, grid: tuple[int, int], counts: Mapping[int, int], t: int, cells: tuple[int, int] | None = None) -> Pass:
        """A pass over a grid of tokens in each frame, with so many patches of each size in it, and t text tokens. Raises ValueError.

        cells: of the latent, where it is cut into the model's own patches.
        """
        counts = {p: self.frames * count for p, count in counts.items()}
        n = sum(counts.values())
        embedding = sum(count * self.width * self.channels * p * p for p, count in counts.items())
        head = sum(self.head_macs(count, p) for p, count in counts.items())
        weights, attention = self.macs(n, t)
        vectors = (len(counts) - 1) * self.vector_macs
        return Pass(n + t, attention, weights + vectors + embedding + head, head, weights + attention, self.sequence(n, t) * 6 * self.width)

    def with_frames(self, frames: int) -> "Architecture":
        """The same for a latent of so many frames."""
        return replace(self, frames=-(-frames // self.frame_patch))

    @property
    def captures(self) -> bool:
        """Whether a final layer after a block costs what the final layer does."""
        return True

    @property
    def depth(self) -> int:
        """How many blocks a token passes."""
        return self.blocks

    def sequence(self, n: int, t: int) -> int:
        """The longest sequence that a block attends over, for n image tokens and t text tokens."""
        return n

    def head_macs(self, n: int, patch_size: int) -> int:
        """Multiply-adds of the final layer, for n image tokens."""
        return n * self.width * self.channels * patch_size ** 2 * self.head

    def macs(self, n: int, t: int) -> tuple[int, int]:
        """n image tokens and t text tokens → multiply-adds between patch embedding and head, of weights and of attention's products."""
        raise NotImplementedError


def _block_macs(width: int, tokens: int) -> tuple[int, int]:
    """One transformer block → MACs of weights (4 matrices of attention, 8 of an MLP 4 times as wide), of attention (scores, mixing)."""
    return 12 * width ** 2 * tokens, 2 * width * tokens ** 2


@dataclass(frozen=True)
class ViTArchitecture(Architecture):
    """Blocks over the picture's tokens, no time and no head. Dosovitskiy et al. 2020."""
    kind = "vit"
    head = 0

    def macs(self, n: int, t: int) -> tuple[int, int]:
        weights, attention = _block_macs(self.width, n)
        return self.blocks * weights, self.blocks * attention


@dataclass(frozen=True)
class DiTArchitecture(Architecture):
    """A ViT whose blocks are modulated by time and class: six vectors a block. Peebles & Xie 2022."""
    kind = "dit"
    head: Positive = 1

    def macs(self, n: int, t: int) -> tuple[int, int]:
        weights, attention = _block_macs(self.width, n)
        return self.blocks * (weights + 6 * self.width ** 2), self.blocks * attention


@dataclass(frozen=True)
class PixArtArchitecture(Architecture):
    """Blocks that also attend to the text; all share one modulation. Chen et al. 2023."""
    kind = "pixart"
    text: NotNegative = 0
    head: Positive = 1

    def macs(self, n: int, t: int) -> tuple[int, int]:
        d, (weights, attention) = self.width, _block_macs(self.width, n)
        cross = 2 * d ** 2 * (n + t)  # queries and output of the picture, keys and values of the text
        return self.blocks * (weights + cross) + 6 * d ** 2, self.blocks * (attention + 2 * n * t * d)


@dataclass(frozen=True)
class MMDiTArchitecture(Architecture):
    """Blocks over picture and text together, each with weights of its own. dual: blocks with SD3.5-medium's second attention, over the
    picture alone. detail: width of the `CellDecoder` beside the head, 0 if there is none. Esser et al. 2024."""
    kind = "mmdit"
    text: NotNegative = 0
    dual: NotNegative = 0
    detail: NotNegative = 0

    def head_macs(self, n: int, patch_size: int) -> int:
        cells, share = n * patch_size ** 2, self.detail // 4  # each cell reads its own part of the token, then runs a small network
        return super().head_macs(n, patch_size) + cells * (self.width * share + self.detail * (2 * self.channels + share))

    @property
    def vector_macs(self) -> int:
        return (6 * self.blocks + 3 * self.dual + 3) * self.width ** 2

    def sequence(self, n: int, t: int) -> int:
        return n + t

    def macs(self, n: int, t: int) -> tuple[int, int]:
        d, (weights, attention) = self.width, _block_macs(self.width, n + t)
        total = self.blocks * (weights + 12 * d ** 2) + self.dual * (4 * d ** 2 * n + 3 * d ** 2)
        return total - 9 * d ** 2 * t, self.blocks * attention + self.dual * 2 * n ** 2 * d  # the last block's text is keys and values only


@dataclass(frozen=True)
class FluxArchitecture(Architecture):
    """`blocks` of two streams, then `single` blocks of one stream, over picture and text together. Black Forest Labs 2024."""
    kind = "flux"
    text: NotNegative = 0
    single: NotNegative = 0

    @property
    def depth(self) -> int:
        return self.blocks + self.single

    def sequence(self, n: int, t: int) -> int:
        return n + t

    def macs(self, n: int, t: int) -> tuple[int, int]:
        weights, attention = _block_macs(self.width, n + t)
        return self.depth * weights + (12 * self.blocks + 3 * self.single) * self.width ** 2, self.depth * attention


@dataclass(frozen=True)
class CountedArchitecture(Architecture):
    """A MODEL whose layers were counted one by one.

    Numbers of weights: image_weights and text_weights, which each image or text token passes between patch embedding and head;
    text_embedding, for each text token; fixed_weights, which run once for each picture. Widths of attention, summed over layers: joint,
    over picture and text together; image_to_image; image_to_text; text_to_text. multiple: both streams are padded to a multiple of this
    length.
    """
    kind = "counted"
    text: NotNegative = 0
    head: NotNegative = 1
    image_weights: NotNegative = 0
    text_weights: NotNegative = 0
    text_embedding: NotNegative = 0
    fixed_weights: NotNegative = 0
    joint: NotNegative = 0
    image_to_image: NotNegative = 0
    image_to_text: NotNegative = 0
    text_to_text: NotNegative = 0
    registers: NotNegative = 0
    multiple: Positive = 1

    def sequence(self, n: int, t: int) -> int:
        return n + t if self.joint else n

    def macs(self, n: int, t: int) -> tuple[int, int]:
        embedding = t * self.text_embedding
        n, t = (-(-length // self.multiple) * self.multiple for length in (n, t + self.registers))
        attention = self.joint * (n + t) ** 2 + self.image_to_image * n ** 2 + self.image_to_text * n * t + self.text_to_text * t ** 2
        return embedding + n * self.image_weights + t * self.text_weights + self.fixed_weights, 2 * attention


ARCHITECTURES = {one.kind: one for one in (
    ViTArchitecture, DiTArchitecture, PixArtArchitecture, MMDiTArchitecture, FluxArchitecture, CountedArchitecture)}


DITS = {"S": (384, 12, 33), "B": (768, 12, 130), "L": (1024, 24, 458), "XL": (1152, 28, 675)}  # width, blocks, millions of weights
SD3_TEXT, OWN_TEXT = 154, 12  # text tokens: SD3's of CLIP and T5, and this library's own for a prompt of up to 10 words, articles not counted
PRESETS = {one.name: one for one in [
    ViTArchitecture("ViT-B/16", 768, 12, 16, channels=3, parameters=86_600_000, downscale=1, guided=False),
    *(DiTArchitecture(f"DiT-{size}/{p}", width, blocks, p, channels=4, parameters=millions * 10 ** 6, head=2, guided=False)
      for size, (width, blocks, millions) in DITS.items() for p in (2, 4, 8)),
    MMDiTArchitecture("SD3-medium", 1536, 24, text=SD3_TEXT, parameters=2_028_000_000),
    MMDiTArchitecture("SD3.5-medium", 1536, 24, text=SD3_TEXT, parameters=2_243_000_000, dual=13),
    MMDiTArchitecture("SD3.5-large", 2432, 38, text=SD3_TEXT, parameters=8_057_000_000),
    FluxArchitecture("Flux-dev", 3072, 19, text=512, parameters=11_900_000_000, single=38, guided=False),
    PixArtArchitecture("PixArt-Sigma", 1152, 28, channels=4, text=300, parameters=611_000_000, head=2),
]}


@dataclass(frozen=True)
class Budget:
    """A step's cost, in multiply-adds and bytes.

    sequence: tokens of picture and text. attention: MACs of its two products (scores and mixing). rest: all other MACs; `head` of them are
    in the final layer. blocks: of all MACs, those in the blocks. weights, activations: bytes. activations are a block at its widest
    (residual, normed copy and MLP hidden layer, for all tokens of the batch). frames: grids in a film. spent: (path, MACs) of each block,
    where that is known.
    """
    name: str
    grid: tuple[int, int]
    values: int
    sequence: int
    attention: int
    rest: int
    head: int
    weights: int
    activations: int
    blocks: int
    frames: int = 1
    spent: tuple[tuple[str, int], ...] = ()

    @property
    def tokens(self) -> int:
        return self.frames * self.grid[0] * self.grid[1]

    @property
    def macs(self) -> int:
        return self.attention + self.rest


def architecture(dit: DitHandle, frames: int = 1, positive: Conditioning | None = None, text: int | None = None) -> Architecture:
    """A handle's architecture, for latents of so many frames: of this library's own models, and of any MODEL that can be counted.

    positive: a prompt that comes with it. text: how long the prompt is, if there is none. Raises BackboneError for a model that can't be counted.
    """
    check_whole(dit)
    model = dit.model if isinstance(dit, Backbone) else None
    if isinstance(model, (MMDiT, DiT)):
        return own_architecture(model, dit.name, dit.downscale)
    return dit.counted(frames, positive, text)


def check_whole(dit: DitHandle) -> None:
    """Raise BackboneError for a model whose steps are wired by hand."""
    if any(isinstance(turn, StagePlan) for turn in dit.turns):
        raise BackboneError(f"{dit.name} runs the stages that were wired for one step in every step, whose cost is not counted: wire the dit from "
                            "before that node")


def own_architecture(model: MMDiT | DiT, name: str, downscale: int) -> Architecture:
    """Of a model of this library."""
    c, parameters = model.config, sum(p.numel() for p in model.parameters())
    common = dict(name=name, width=c.width, blocks=c.depth, patch_size=c.patch_size, channels=c.in_channels, parameters=parameters,
                  downscale=downscale)
    if isinstance(model, DiT):
        return DiTArchitecture(**common, head=2 if c.learn_sigma else 1)
    return MMDiTArchitecture(**common, text=SD3_TEXT if c.position == "cropped" else OWN_TEXT, dual=len(c.dual_blocks), detail=c.detail)


def budget(shape: Architecture, width: int = 1024, height: int = 1024, patch_size: int = 0, batch: int = 1, text: int | None = None,
           guided: bool | None = None, bytes_each: int = 2) -> Budget:
    """Cost of one step for pictures of width × height pixels. Raises ValueError if the picture has no token.

    patch_size: 0 is the model's own. text: how many text tokens. guided: whether the step takes two passes (classifier-free guidance). None
    for either is what is usual for the model.
    """
    p = patch_size or shape.patch_size
    size = height // shape.downscale, width // shape.downscale
    if min(size) < 1 or p < 1 or batch < 1:
        raise ValueError(f"a picture of {width}×{height} pixels in patches of {p} leaves no token")
    grid = token_grid(*size, p)
    return _budget(shape, grid, {p: math.prod(grid)}, batch, text, guided, bytes_each, size if p == shape.patch_size else None)


def budget_of_mix(shape: Architecture, counts: Mapping[int, int], batch: int = 1, text: int | None = None, guided: bool | None = None,
                  bytes_each: int = 2) -> Budget:
    """Cost of one step with patches of several sizes in one sequence. counts: how many patches a picture has, by patch size."""
    return _budget(shape, (1, sum(counts.values())), counts, batch, text, guided, bytes_each)


def _budget(shape: Architecture, grid: tuple[int, int], counts: Mapping[int, int], batch: int, text: int | None, guided: bool | None,
            bytes_each: int, cells: tuple[int, int] | None = None) -> Budget:
    passes = batch * (2 if (shape.guided if guided is None else guided) else 1)
    one = shape.at_once(grid, counts, shape.text if text is None else text, cells)
    return Budget(shape.name, grid, shape.channels * max(counts) ** 2, one.sequence, passes * one.attention, passes * one.rest, passes * one.head,
                  shape.parameters * bytes_each, passes * one.widest * bytes_each, passes * one.blocks, shape.frames,
                  tuple((path, passes * macs) for path, macs in one.spent))


def with_and_without_patches(shape: Architecture, width: int, height: int, patch_size: int = 0, pictures: int = 1, **how) -> list[Budget | None]:
    """The same transformer on a latent with patches and without, then on pixels with and without: → 4 budgets, or 2 if it reads pixels.

    pictures: of a film, which on pixels has as many frames. None stands for a size, other than the first, that a model can't be counted at.
    """
    p, on_pixels = patch_size or shape.patch_size, replace(shape, downscale=1, channels=3).with_frames(pictures)
    spaces = [shape, on_pixels] if shape.downscale > 1 else [on_pixels]

    def counted(space: Architecture, size: int) -> Budget | None:
        try:
            return budget(space, width, height, size, **how)
        except BackboneError:
            if (space, size) == (spaces[0], p):
                raise
            return None
    return [counted(space, size) for space in spaces for size in (p, 1)]
