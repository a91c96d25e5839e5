"""MM-DiT, the transformer of SD3 and SD3.5, with an embedding and a head for each patch size it was trained at."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..tokens.mixed import Mix
from . import position
from .blocks import FinalLayer, JointBlock, VectorEmbedder, Vectors, initialise, learned_table, timestep_embedding
from .conditioning import TextConditions


@dataclass(frozen=True)
class MMDiTConfig:
    """Architecture. `position`: "cropped" is the middle of SD3's table, of side `position_table`, whose coordinates run from
    `position_start` over a length of `position_base`; "picture" lays a grid of side `position_base` over every picture,
    whatever its size; "learned" is a table of that side, resized to the grid; "none" leaves patches unplaced. `prediction`: what the head answers, "velocity", "x0", "epsilon" or "v".
    `head_hidden`: width of a hidden layer in the heads of patches wider than the model, 0 for none. `detail`: width of the `CellDecoder`
    beside the heads, 0 for none."""
    patch_sizes: tuple[int, ...] = (2,)
    in_channels: int = 16
    width: int = 1536
    depth: int = 24
    heads: int = 24
    context_width: int = 4096
    pooled_width: int = 2048
    qk_norm: bool = False
    dual_blocks: tuple[int, ...] = ()
    position: str = "cropped"
    position_table: int = 192
    position_base: float = 48.0
    position_start: float = -16.0
    prediction: str = "velocity"
    head_hidden: int = 0
    detail: int = 0

    @property
    def patch_size(self) -> int:
        """The model's own patch size: the first it was trained at."""
        return self.patch_sizes[0]


@dataclass
class Streams:
    """What flows between the stages: image tokens [B, N, D], text tokens [B, T, D], conditioning vector [B, D].

    raw: the tokens that x was embedded from, for a head with a `CellDecoder`. Of patches of several sizes vector has several, patch_size is
    the coarsest, and raw has the tokens of each size."""
    x: Tensor
    context: Tensor | None
    vector: Tensor | Vectors
    patch_size: int
    raw: Tensor | Mapping[int, Tensor] | None = None


class MMDiT(nn.Module):
    """Multimodal DiT in stages: embed → blocks[i:j] → head. Esser et al. 2024 (SD3), §4 and figure 2."""
    checkpointing = False  # in training, run blocks again in the backward pass rather than keep what they computed

    def __init__(self, config: MMDiTConfig, ops=nn):
        super().__init__()
        self.config = config
        c, width = config, config.width
        values = {p: c.in_channels * p * p for p in c.patch_sizes}
        self.x_embedder = nn.ModuleDict({str(p): ops.Linear(n, width) for p, n in values.items()})
        self.t_embedder = VectorEmbedder(256, width, ops)
        self.y_embedder = VectorEmbedder(c.pooled_width, width, ops)
        self.patch_embedder = ops.Embedding(len(c.patch_sizes), width) if len(c.patch_sizes) > 1 else None
        self.positions = learned_table(c.position, c.position_base, width)
        self.context_embedder = ops.Linear(c.context_width, width)
        self.joint_blocks = nn.ModuleList(
            JointBlock(width, c.heads, c.qk_norm, dual=i in c.dual_blocks, last=i == c.depth - 1, ops=ops)
            for i in range(c.depth))
        self.final_layer = FinalLayer(width, values, ops, c.head_hidden, c.detail)

    @property
    def conditions(self) -> TextConditions:
        return TextConditions(self.config.context_width, self.config.pooled_width)

    def patch_embed(self, tokens: Tensor, patch_size: int) -> Tensor:
        """Raw tokens to the model's width: [B, N, C·p·p] → [B, N, D]. SD3 calls it a convolution of stride p; it is a matrix."""
        return self.x_embedder[str(patch_size)](tokens)

    def position_embedding(self, grid: tuple[int, int], patch_size: int) -> Tensor:
        """The table for a grid of tokens: (h, w) → [1, h·w, D]."""
        c = self.config
        if c.position in ("learned", "none"):
            return position.resized(self.positions, grid) if c.position == "learned" else torch.zeros(1, 1, c.width)
        if c.position == "cropped":
            unit = c.position_base / c.position_table
            places = position.cropped_positions(grid, patch_size / c.patch_size, c.position_table, unit, c.position_start)
        else:
            places = position.grid_positions(grid, c.position_base)
        return position.sincos_2d(c.width, *places)[None]

    def condition(self, t: Tensor, pooled: Tensor, patch_size: int) -> Tensor:
        """Time 0..1000 [B] and pooled text [B, P] → the vector that modulates every block, [B, D]."""
        vector = self.t_embedder(timestep_embedding(t).to(pooled.dtype)) + self.y_embedder(pooled)
        if self.patch_embedder is not None:
            index = torch.full_like(t, self.config.patch_sizes.index(patch_size), dtype=torch.long)
            vector = vector + self.patch_embedder(index)
        return vector

    def embed(self, tokens: Tensor, grid: tuple[int, int], patch_size: int, t: Tensor,
              context: Tensor, pooled: Tensor) -> Streams:
        """First stage: raw tokens [B, N, C·p·p], times [B], text [B, T, E] and pooled text [B, P] → Streams."""
        x = self.patch_embed(tokens, patch_size)
        x = x + self.position_embedding(grid, patch_size).to(x)
        return Streams(x, self.context_embedder(context), self.condition(t, pooled, patch_size), patch_size, tokens)

    def run_blocks(self, hidden: Streams, start: int = 0, stop: int | None = None) -> Streams:
        """Middle stage: blocks[start:stop]."""
        x, context = hidden.x, hidden.context
        for block in self.joint_blocks[start:stop]:
            if self.checkpointing and torch.is_grad_enabled():
                context, x = checkpoint(block, context, x, hidden.vector, use_reentrant=False)
            else:
                context, x = block(context, x, hidden.vector)
        return Streams(x, context, hidden.vector, hidden.patch_size, hidden.raw)

    def head(self, hidden: Streams) -> Tensor:
        """Last stage: Streams → predicted tokens [B, N, C·p·p]."""
        return self.final_layer(hidden.x, hidden.vector, hidden.patch_size, hidden.raw)

    def forward(self, tokens: Tensor | Mapping[int, Tensor], grid: tuple[int, int] | Mix, patch_size: int, t: Tensor,
                context: Tensor, pooled: Tensor) -> Tensor | dict[int, Tensor]:
        """[B, N, C·p·p] → prediction [B, N, C·p·p]; with a Mix as grid `forward_mixed`, because DDP and FSDP watch this call alone."""
        if isinstance(grid, Mix):
            return self.forward_mixed(tokens, grid, t, context, pooled)
        return self.head(self.run_blocks(self.embed(tokens, grid, patch_size, t, context, pooled)))

    def embed_mixed(self, tokens: Mapping[int, Tensor], mix: Mix, t: Tensor, context: Tensor, pooled: Tensor) -> Streams:
        """First stage for patches of several sizes: raw tokens of each size [B, n, C·p·p] → Streams, whose sequence has the coarsest first.

        Each token has the embedding, the position and the vector of its own size; text has the mean of all tokens' vectors."""
        x, vectors = [], []
        for p, places in mix.places.items():
            embedded = self.patch_embed(tokens[p], p)
            table = self.position_embedding((mix.size[0] // p, mix.size[1] // p), p).to(embedded)[0]
            x.append(embedded + (table[places] if len(table) > 1 else table))
            vectors.append(self.condition(t, pooled, p))
        counts = tuple(mix.counts.values())
        if len(counts) == 1:
            vector = vectors[0]
        else:
            image = torch.stack(vectors, dim=1)
            share = torch.tensor(counts, dtype=image.dtype, device=image.device) / len(mix)
            vector = Vectors((image * share[:, None]).sum(1), image, counts)
        return Streams(torch.cat(x, dim=1), self.context_embedder(context), vector, max(mix.places), dict(tokens))

    def head_mixed(self, hidden: Streams, mix: Mix) -> dict[int, Tensor]:
        """Last stage for patches of several sizes: Streams → for each size predicted tokens [B, n, C·p·p]."""
        runs = hidden.x.split(list(mix.counts.values()), dim=1)
        vectors = hidden.vector.image.unbind(1) if isinstance(hidden.vector, Vectors) else [hidden.vector]
        return {p: self.final_layer(x, vector, p, hidden.raw[p]) for p, x, vector in zip(mix.places, runs, vectors)}

    def forward_mixed(self, tokens: Mapping[int, Tensor], mix: Mix, t: Tensor, context: Tensor, pooled: Tensor) -> dict[int, Tensor]:
        """Patches of several sizes in one sequence: for each size [B, n, C·p·p] → prediction, the same. See `tokens.mixed`."""
        return self.head_mixed(self.run_blocks(self.embed_mixed(tokens, mix, t, context, pooled)), mix)

    def initialise(self) -> "MMDiT":
        """Random weights to train from. See `blocks.initialise`."""
        initialise(self)
        return self
