"""The class-conditional diffusion transformer, with an embedding and a head for each patch size it was trained at."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import position
from .blocks import DiTBlock, FinalLayer, VectorEmbedder, initialise, learned_table, timestep_embedding
from .conditioning import LabelConditions
from .mmdit import Streams


@dataclass(frozen=True)
class DiTConfig:
    """The model's architecture. The defaults are DiT-XL/2 at 256x256.

    position: "picture" has sines and cosines stretched over the picture, "learned" has a table, "none" has no positions. position_base: the
    side of the token grid that positions are counted in, at the base patch size; also the side of a learned table. learn_sigma: whether the
    head also predicts a variance.
    """
    patch_sizes: tuple[int, ...] = (2,)
    in_channels: int = 4
    width: int = 1152
    depth: int = 28
    heads: int = 16
    classes: int = 1000
    learn_sigma: bool = True
    position_base: int = 16
    position: str = "picture"
    prediction: str = "epsilon"
    # for weights from diffusers, which differs from the original: see timestep_embedding, and the epsilon of the norm before the MLP
    time_last: int = 0
    mlp_eps: float = 1e-6

    @property
    def patch_size(self) -> int:
        """The model's own patch size, the first in patch_sizes."""
        return self.patch_sizes[0]


class DiT(nn.Module):
    """Class-conditional DiT in stages: embed → blocks[i:j] → head. Peebles & Xie 2022, §3.2 and figure 3."""
    checkpointing = False  # whether training saves memory: blocks run again in the backward pass

    def __init__(self, config: DiTConfig, ops=nn):
        super().__init__()
        self.config = config
        c, width = config, config.width
        values = {p: c.in_channels * p * p for p in c.patch_sizes}
        answers = {p: n * (2 if c.learn_sigma else 1) for p, n in values.items()}
        self.x_embedder = nn.ModuleDict({str(p): ops.Linear(n, width) for p, n in values.items()})
        self.t_embedder = VectorEmbedder(256, width, ops)
        self.positions = learned_table(c.position, c.position_base, width)
        self.y_embedder = ops.Embedding(c.classes + 1, width)
        self.patch_embedder = ops.Embedding(len(c.patch_sizes), width) if len(c.patch_sizes) > 1 else None
        self.blocks = nn.ModuleList(DiTBlock(width, c.heads, c.mlp_eps, ops) for _ in range(c.depth))
        self.final_layer = FinalLayer(width, answers, ops)

    @property
    def conditions(self) -> LabelConditions:
        return LabelConditions(self.config.classes)

    def patch_embed(self, tokens: Tensor, patch_size: int) -> Tensor:
        """Raw tokens to the model's width: [B, N, C·p·p] → [B, N, D]."""
        return self.x_embedder[str(patch_size)](tokens)

    def position_embedding(self, grid: tuple[int, int], patch_size: int) -> Tensor:
        """The position table for a grid of tokens: (h, w) → [1, h·w, D]."""
        c = self.config
        if c.position != "picture":
            return position.resized(self.positions, grid) if c.position == "learned" else torch.zeros(1, 1, c.width)
        return position.sincos_2d(c.width, *position.grid_positions(grid, c.position_base))[None]

    def condition(self, t: Tensor, labels: Tensor, patch_size: int) -> Tensor:
        """Time 0..1000 [B] and class labels [B] → the vector [B, D] that modulates every block."""
        of_label = self.y_embedder(labels)
        vector = self.t_embedder(timestep_embedding(t, last=self.config.time_last).to(of_label.dtype)) + of_label
        if self.patch_embedder is not None:
            index = torch.full_like(labels, self.config.patch_sizes.index(patch_size), dtype=torch.long)
            vector = vector + self.patch_embedder(index)
        return vector

    def embed(self, tokens: Tensor, grid: tuple[int, int], patch_size: int, t: Tensor, labels: Tensor) -> Streams:
        """First stage: raw tokens [B, N, C·p·p], times [B] and class labels [B] → Streams without text."""
        x = self.patch_embed(tokens, patch_size)
        x = x + self.position_embedding(grid, patch_size).to(x)
        return Streams(x, None, self.condition(t, labels, patch_size), patch_size)

    def run_blocks(self, hidden: Streams, start: int = 0, stop: int | None = None) -> Streams:
        """Middle stage: blocks[start:stop]."""
        x = hidden.x
        for block in self.blocks[start:stop]:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, hidden.vector, use_reentrant=False)
            else:
                x = block(x, hidden.vector)
        return Streams(x, None, hidden.vector, hidden.patch_size)

    def head(self, hidden: Streams) -> Tensor:
        """Last stage: Streams → predicted tokens [B, N, C·p·p]. If the model also predicts a variance, it is dropped."""
        answer = self.final_layer(hidden.x, hidden.vector, hidden.patch_size)
        return answer[..., :self.config.in_channels * hidden.patch_size ** 2]

    def forward(self, tokens: Tensor, grid: tuple[int, int], patch_size: int, t: Tensor, labels: Tensor) -> Tensor:
        """[B, N, C·p·p] → prediction [B, N, C·p·p]."""
        return self.head(self.run_blocks(self.embed(tokens, grid, patch_size, t, labels)))

    def initialise(self) -> "DiT":
        """Set random weights for training, see `blocks.initialise`."""
        initialise(self)
        return self
