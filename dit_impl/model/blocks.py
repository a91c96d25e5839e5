"""The parts of a diffusion transformer: embeddings, modulation, attention, the two kinds of block, the final layer.

Linear layers come from an `ops` namespace (torch.nn, or ComfyUI's ops, which cast and offload weights).
"""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
import math
from typing import Callable

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from .alone import Alone

COMPUTED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # types that layers compute in; weights of other types, such as float8, are cast


def of_tokens(vector: Tensor) -> Tensor:
    """A vector for each sample [B, D] or each token [B, N, D], in a shape that broadcasts over tokens: → [B, 1 or N, D]."""
    return vector.unsqueeze(1) if vector.dim() == 2 else vector


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift tokens by a vector for each sample or token: [B, N, D], [B, D], [B, D] → [B, N, D]. Peebles & Xie 2022, §3.2."""
    return x * (1 + of_tokens(scale)) + of_tokens(shift)


@dataclass(frozen=True)
class Vectors:
    """Modulation vectors for a sequence with patches of several sizes.

    text [B, D]: for the text tokens. image [B, S, D]: one for each patch size. counts: how many tokens have each size; the sequence holds
    them in this order.
    """
    text: Tensor
    image: Tensor
    counts: tuple[int, ...]


def timestep_embedding(t: Tensor, width: int = 256, max_period: float = 10000.0, last: int = 0) -> Tensor:
    """Sinusoids of a time, 0..1000: [B] → [B, width], cosines first. Nichol & Dhariwal 2021 (GLIDE), as DiT and SD3 use it.

    The lowest frequency is a little above 1 / max_period. With last=1, as in diffusers' DiT, it is exactly 1 / max_period.
    """
    frequency = torch.exp(-math.log(max_period) * torch.arange(width // 2, device=t.device) / (width // 2 - last))
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class VectorEmbedder(nn.Module):
    """Two linear layers that bring a vector to the model's width: [B, in] → [B, D]. For time and pooled text."""

    def __init__(self, in_features: int, width: int, ops=nn):
        super().__init__()
        self.mlp = nn.Sequential(ops.Linear(in_features, width), nn.SiLU(), ops.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class Mlp(nn.Module):
    """Feed-forward layer, tanh GELU: [B, N, D] → [B, N, D]."""

    def __init__(self, width: int, hidden: int, ops=nn):
        super().__init__()
        self.fc1 = ops.Linear(width, hidden)
        self.fc2 = ops.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class QKNorm(nn.Module):
    """RMS norm of queries and keys in each head. It keeps attention scores bounded. Esser et al. 2024, §5.3.2."""

    def __init__(self, head_dim: int, ops=nn):
        super().__init__()
        self.q = ops.RMSNorm(head_dim, eps=1e-6)
        self.k = ops.RMSNorm(head_dim, eps=1e-6)


class QKV(nn.Module):
    """One stream's part of attention: the projection to queries, keys and values, and the output projection."""

    def __init__(self, width: int, heads: int, qk_norm: bool, project_out: bool = True, ops=nn):
        super().__init__()
        self.heads = heads
        self.qkv = ops.Linear(width, 3 * width)
        self.norm = QKNorm(width // heads, ops) if qk_norm else None
        self.proj = ops.Linear(width, width) if project_out else None

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, N, D] → queries, keys, values, each [B, heads, N, head_dim]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return (q, k, v) if self.norm is None else (self.norm.q(q), self.norm.k(k), v)


# Optional observer, called with (q, k). It may give a mask that is added to the scores, or say which tokens read themselves alone.
onlooker: ContextVar[Callable[[Tensor, Tensor], Tensor | Alone | None] | None] = ContextVar("onlooker", default=None)
# Another, called with what comes out.
listener: ContextVar[Callable[[Tensor], None] | None] = ContextVar("listener", default=None)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, with the heads joined at the end: three of [B, heads, N, head_dim] → [B, N, D]. Vaswani et al. 2017, §3.2."""
    look, hear = onlooker.get(), listener.get()
    given = look(q, k) if look is not None else None
    out = given.attention(q, k, v, None, _attended) if isinstance(given, Alone) else _attended(q, k, v, given)
    if hear is not None:
        hear(out)
    return out


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    if q.requires_grad and v.dtype == torch.bfloat16 and v.device.type == "cpu":
        # On a CPU in bfloat16, the backward pass of the fused kernel is up to three times slower than that of the plain formula.
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
        weights = (scores if mask is None else scores + mask).softmax(dim=-1)
        return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


class Stream(nn.Module):
    """The text half or the image half of a joint block: adaLN-Zero modulation, its part of attention, its MLP.

    dual: with SD3.5-medium's second attention, over this stream alone. pre_only: for the text stream of the last block; nothing reads its
    output, so it has no output projection and no MLP.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool, dual: bool = False, pre_only: bool = False, ops=nn):
        super().__init__()
        self.pre_only = pre_only
        self.norm1 = ops.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = QKV(width, heads, qk_norm, project_out=not pre_only, ops=ops)
        self.attn2 = QKV(width, heads, qk_norm, ops=ops) if dual else None
        self.norm2 = None if pre_only else ops.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = None if pre_only else Mlp(width, 4 * width, ops)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), ops.Linear(width, (2 if pre_only else 9 if dual else 6) * width))

    def modulation(self, vector: Tensor, counts: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
        """[B, D] → shift, scale[, gate, mlp shift, mlp scale, mlp gate[, shift2, scale2, gate2]], each [B, D].

        counts: of tokens that share a vector, [B, S, D] → each [B, N, D]."""
        vectors = self.adaLN_modulation(vector)
        if counts:
            vectors = torch.cat([one.expand(-1, n, -1) for one, n in zip(vectors.split(1, dim=1), counts)], dim=1)
        return vectors.chunk(2 if self.pre_only else 9 if self.attn2 is not None else 6, dim=-1)

    def finish(self, x: Tensor, attended: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        """Add the gated results of attention and MLP: [B, N, D] → [B, N, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2, *second = modulation
        normed = self.norm1(x) if second else None
        x = x + of_tokens(gate1) * self.attn.proj(attended)
        if second:
            shift, scale, gate = second
            own = self.attn2.proj(attention(*self.attn2.split(modulate(normed, shift, scale))))
            x = x + of_tokens(gate) * own
        return x + of_tokens(gate2) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class JointBlock(nn.Module):
    """MM-DiT block: text and image have separate weights and one joint attention. Esser et al. 2024, figure 2b."""

    def __init__(self, width: int, heads: int, qk_norm: bool, dual: bool = False, last: bool = False, ops=nn):
        super().__init__()
        self.context_block = Stream(width, heads, qk_norm, pre_only=last, ops=ops)
        self.x_block = Stream(width, heads, qk_norm, dual=dual, ops=ops)

    def forward(self, context: Tensor, x: Tensor, vector: Tensor | Vectors) -> tuple[Tensor | None, Tensor]:
        """[B, T, D], [B, N, D], [B, D] → context (None after the last block) and x."""
        streams = ((self.context_block, context), (self.x_block, x))
        of_each = ((vector.text,), (vector.image, vector.counts)) if isinstance(vector, Vectors) else ((vector,), (vector,))
        modulations = [stream.modulation(*own) for (stream, _), own in zip(streams, of_each)]
        sides = [stream.attn.split(modulate(stream.norm1(h), m[0], m[1])) for (stream, h), m in zip(streams, modulations)]
        attended = attention(*(torch.cat(side, dim=2) for side in zip(*sides)))
        of_context, of_x = attended.split([context.shape[1], x.shape[1]], dim=1)
        if self.context_block.pre_only:
            context = None
        else:
            context = self.context_block.finish(context, of_context, modulations[0])
        return context, self.x_block.finish(x, of_x, modulations[1])


class DiTBlock(nn.Module):
    """Class-conditional DiT block with adaLN-Zero. Peebles & Xie 2022, figure 3."""

    def __init__(self, width: int, heads: int, mlp_eps: float = 1e-6, ops=nn):
        super().__init__()
        self.norm1 = ops.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = QKV(width, heads, qk_norm=False, ops=ops)
        self.norm2 = ops.LayerNorm(width, eps=mlp_eps, elementwise_affine=False)
        self.mlp = Mlp(width, 4 * width, ops)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), ops.Linear(width, 6 * width))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """[B, N, D], [B, D] → [B, N, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(vector).chunk(6, dim=-1)
        attended = attention(*self.attn.split(modulate(self.norm1(x), shift1, scale1)))
        x = x + gate1.unsqueeze(1) * self.attn.proj(attended)
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class CellDecoder(nn.Module):
    """Adds detail to the head's output, cell by cell: [B, N, D], raw tokens [B, N, C·p·p] → [B, N, C·p·p].

    A coarse patch has more values than a token of width D can hold. So each cell is decoded from the noisy cell itself, which bypasses the
    blocks, and from `context` values that the token holds for it. All cells and all patch sizes share this small network.
    """

    def __init__(self, width: int, channels: int, patch_sizes: Iterable[int], hidden: int, ops=nn):
        super().__init__()
        self.channels, context = channels, hidden // 4
        self.context = nn.ModuleDict({str(p): ops.Linear(width, context * p * p) for p in patch_sizes})
        self.of_cell = ops.Linear(channels, hidden)
        self.of_token = ops.Linear(context, hidden, bias=False)
        self.out = ops.Linear(hidden, channels)

    def forward(self, x: Tensor, raw: Tensor, patch_size: int) -> Tensor:
        cells = patch_size ** 2
        context = self.context[str(patch_size)](x).unflatten(2, (-1, cells)).transpose(2, 3)  # [B, N, p·p, context]
        cell = raw.unflatten(2, (self.channels, cells)).transpose(2, 3)                        # [B, N, p·p, C]
        return self.out(F.gelu(self.of_cell(cell) + self.of_token(context), approximate="tanh")).transpose(2, 3).flatten(2)


class FinalLayer(nn.Module):
    """Modulated norm and a map to patch values: [B, N, D], [B, D] → [B, N, values]. Peebles & Xie 2022, §3.2.

    There is one map for each patch size; they share the norm and its modulation. The map is linear, as in the paper. With `hidden` > 0,
    patches with more values than D get a hidden layer of that width, because D linear dimensions are too few for them. `detail` > 0 adds a
    `CellDecoder` of that width, which also reads the raw tokens.
    """

    def __init__(self, width: int, values: dict[int, int], ops=nn, hidden: int = 0, detail: int = 0):
        super().__init__()
        self.norm = ops.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), ops.Linear(width, 2 * width))

        def head(n: int) -> nn.Module:
            if not hidden or n <= width:
                return ops.Linear(width, n)
            return nn.Sequential(ops.Linear(width, hidden), nn.GELU(approximate="tanh"), ops.Linear(hidden, n))
        self.linear = nn.ModuleDict({str(p): head(n) for p, n in values.items()})
        channels = next(n // p ** 2 for p, n in values.items())
        self.detail = CellDecoder(width, channels, values, detail, ops) if detail else None

    def forward(self, x: Tensor, vector: Tensor, patch_size: int, raw: Tensor | None = None) -> Tensor:
        shift, scale = self.adaLN_modulation(vector).chunk(2, dim=-1)
        x = modulate(self.norm(x), shift, scale)
        out = self.linear[str(patch_size)](x)
        return out if self.detail is None else out + self.detail(x, raw, patch_size)


def zero_adaln(model: nn.Module) -> None:
    """Set modulations and heads to zero, so that every block starts as the identity: adaLN-Zero. Peebles & Xie 2022, §3.2."""
    for name, parameter in model.named_parameters():
        if "adaLN_modulation" in name:
            nn.init.zeros_(parameter)
    for head in model.final_layer.linear.values():
        for parameter in (head[-1] if isinstance(head, nn.Sequential) else head).parameters():
            nn.init.zeros_(parameter)
    if getattr(model.final_layer, "detail", None) is not None:
        for parameter in model.final_layer.detail.out.parameters():
            nn.init.zeros_(parameter)


def initialise(model: nn.Module) -> None:
    """Random weights for training: Xavier for linear layers, small normal values for tables, zeros for modulations and heads."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for table in (*(module.weight for module in model.modules() if isinstance(module, nn.Embedding)), model.positions):
        if table is not None:
            nn.init.normal_(table, std=0.02)
    zero_adaln(model)


def learned_table(position: str, side: float, width: int) -> nn.Parameter | None:
    """A learned position table [side², D]; None for other kinds of position. Dosovitskiy et al. 2020 (ViT), §3.1."""
    return nn.Parameter(torch.zeros(int(side) ** 2, width)) if position == "learned" else None
