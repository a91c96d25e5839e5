"""Steering: the mean difference between hidden states of two runs is a direction, which is added to those of a third.

Turner et al. 2023 (activation addition), arXiv 2308.10248, §2; Rimsky et al. 2023 (contrastive activation addition), arXiv 2312.06681, §2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import TokensError
from .edit import check_pair, layout_of, samples_of, values, with_values
from .recipe import repeatable
from .select import rows_beside, token_mask
from .wire_types import DitHidden

ROWS = ("both", "positive")


@dataclass(frozen=True)
class SteeringVector:
    """direction [D]: the mean over `tokens` image tokens of `steps` pairs of runs. model: whose hidden states they are; block: the number of
    the block that comes next where they were taken."""
    direction: Tensor
    model: str
    block: int
    tokens: float
    pairs: int = 1

    def __str__(self) -> str:
        return (f"{len(self.direction)} numbers of length {self.direction.norm():.3g} before block {self.block} of {self.model}, "
                f"from {self.pairs} {'pair' if self.pairs == 1 else 'pairs'} of runs, {self.tokens:,.0f} tokens")


def steering_vector(towards: DitHidden, away: DitHidden, mask: Tensor | None = None, more: SteeringVector | None = None) -> SteeringVector:
    """The mean of towards − away over pictures and image tokens, those of the positive prompt: → a vector, averaged with `more`.

    mask [B, H, W]: which tokens count; without it, all. Raises TokensError.
    """
    _check_hidden(towards, "towards")
    _check_hidden(away, "away")
    check_pair(towards, away, "towards", "away")
    block = towards["hidden"].index
    if block != away["hidden"].index:
        raise TokensError(f"towards is taken before block {block}, away before block {away['hidden'].index}: take both at the same place")
    difference = _positive(towards) - _positive(away)
    weights = difference.new_ones(len(difference), difference.shape[1], 1) if mask is None else token_mask(mask, towards, len(difference)).to(difference)
    if not weights.any():
        raise TokensError("the mask covers no token: a token counts if the mask covers more than half of it")
    found = SteeringVector((difference * weights).sum((0, 1)) / weights.sum(), towards["model"], block, weights.sum().item())
    if more is None:
        return found
    if (more.model, more.block, len(more.direction)) != (found.model, found.block, len(found.direction)):
        raise TokensError(f"vectors that are averaged are taken at one place: this one is {found}; more is {more}")
    whole = found.tokens + more.tokens
    mean = (found.direction * found.tokens + more.direction.to(found.direction) * more.tokens) / whole
    return SteeringVector(mean, found.model, block, whole, more.pairs + 1)


@repeatable
def steer(wire: DitHidden, vector: SteeringVector, strength: float, mask: Tensor | None = None, rows: str = "both") -> DitHidden:
    """Add strength · direction to the image tokens, where the mask is. rows: "both", or "positive" alone, which guidance amplifies.

    Raises TokensError.
    """
    _check_hidden(wire, "hidden")
    x, layout, samples = values(wire), layout_of(wire), samples_of(wire)
    check_vector(vector, x.shape[-1], wire["model"])
    check_rows(rows)
    if not strength:
        return wire
    where = x.new_ones(samples, 1, 1) if mask is None else token_mask(mask, wire, samples).to(x)
    gain = torch.cat([where if rows == "both" or part == "cond" else torch.zeros_like(where) for part in layout])
    return with_values(wire, x + gain * (strength * vector.direction.to(x)))


def check_vector(vector: SteeringVector, width: int, name: str) -> None:
    """Raise TokensError unless the tokens of a model, of this width, can turn by the vector."""
    if len(vector.direction) != width:
        raise TokensError(f"the vector has {len(vector.direction)} numbers, for {vector.model}; tokens of {name} have {width}")


def check_rows(rows: str) -> None:
    if rows not in ROWS:
        raise TokensError(f"rows is {' or '.join(ROWS)}, not {rows!r}")


def _positive(wire: DitHidden) -> Tensor:
    """The image tokens of the positive prompt, in float32: → [B, N, D]."""
    layout, samples = layout_of(wire), samples_of(wire)
    return values(wire)[rows_beside(layout, samples, ("cond",), samples)].float()


def _check_hidden(wire: DitHidden, what: str) -> None:
    if "hidden" not in wire:
        raise TokensError(f"{what} holds raw tokens: wire hidden states, from Patch Embed, Position Embed or DiT Blocks")


