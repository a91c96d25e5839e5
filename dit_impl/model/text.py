"""A small CLIP-style text encoder over whole words."""

from dataclasses import dataclass
import re

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from .blocks import QKV, Mlp

PAD, START, END = "<pad>", "<start>", "<end>"
SYNONYMS = {"big": "large", "huge": "large", "tiny": "small", "little": "small", "grey": "gray", "centre": "center",
            "middle": "center", "upper": "top", "lower": "bottom", "violet": "purple", "triangular": "triangle",
            "round": "circle", "disc": "circle", "disk": "circle", "plus": "cross", "x": "cross", "donut": "ring",
            "enormous": "giant", "kitten": "cat", "kitty": "cat", "puppy": "dog", "bunny": "rabbit", "hamburger": "burger", "cherries": "cherry",
            "grapes": "grape", "airplane": "plane", "aeroplane": "plane", "ship": "boat", "sailboat": "boat", "bike": "bicycle", "locomotive": "train",
            "face": "smiley", "emoji": "smiley", "present": "gift", "football": "ball", "soccer": "ball", "flame": "fire", "home": "house",
            "ladybird": "ladybug"}
ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True)
class TextConfig:
    vocabulary: tuple[str, ...]  # beginning with padding, start and end
    length: int = 24
    width: int = 128
    depth: int = 2
    heads: int = 4


class Tokenizer:
    """Turns words into numbers. Articles are left out: they say nothing and would cost tokens. So are words that are not in the vocabulary,
    or beyond the length, which are reported."""

    def __init__(self, config: TextConfig):
        self.length = config.length
        self.index = {word: i for i, word in enumerate(config.vocabulary)}

    def __call__(self, text: str) -> tuple[list[int], list[str]]:
        """→ `length` token numbers (start, words, end, padding), and the words that were left out."""
        words = [SYNONYMS.get(word, word) for word in re.findall(r"\w+", text.lower()) if word not in ARTICLES]
        known = [word for word in words if word in self.index]
        kept, cut = known[:self.length - 2], known[self.length - 2:]
        ids = [self.index[word] for word in (START, *kept, END)]
        return ids + [self.index[PAD]] * (self.length - len(ids)), [w for w in words if w not in self.index] + cut


class TextLayer(nn.Module):
    """Pre-norm causal transformer layer: [B, T, E] → [B, T, E]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), QKV(width, heads, qk_norm=False)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn.split(self.norm1(x))
        if q.requires_grad:  # the plain formula's backward pass is several times faster on a CPU
            ahead = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
            scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
            attended = scores.masked_fill(ahead, float("-inf")).softmax(dim=-1).to(v.dtype) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        attended = attended.transpose(1, 2).flatten(2)
        x = x + self.attn.proj(attended)
        return x + self.mlp(self.norm2(x))


class TextEncoder(nn.Module):
    """Causal text transformer. Its pooled vector is the state of the end token. Radford et al. 2021 (CLIP), §2.4."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(len(config.vocabulary), config.width)
        self.position_embedding = nn.Parameter(nn.init.normal_(torch.empty(config.length, config.width), std=0.02))
        self.layers = nn.ModuleList(TextLayer(config.width, config.heads) for _ in range(config.depth))
        self.final_norm = nn.LayerNorm(config.width)

    def forward(self, ids: Tensor, layers: int | None = None) -> tuple[Tensor, Tensor]:
        """Token numbers [B, T] → states [B, T, E], after the first `layers` layers or all, and pooled [B, E] after all."""
        x = self.token_embedding(ids) + self.position_embedding[:ids.shape[1]]
        after = []
        for layer in self.layers:
            x = layer(x)
            after.append(x)
        x, states = self.final_norm(x), self.final_norm(after[(layers or len(after)) - 1])
        end = (ids == self.config.vocabulary.index(END)).int().argmax(dim=1)
        return states, x[torch.arange(len(x)), end]
