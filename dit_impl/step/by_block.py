"""The picture that the final layer makes after each block of a step."""

import torch
from torch import Tensor

from ..handle.backbone import Conditioning, DitHandle
from ..tokens.wire_types import DitTokens
from . import stages as step_stages
from .guidance import guide

BLOCKS = 12  # shown at most


def by_block(dit: DitHandle, tokens: DitTokens, sigmas: Tensor, step: int, positive: Conditioning, negative: Conditioning | None,
             cfg: float) -> dict[int, Tensor]:
    """Apply the final layer after each block of a step: → {block: x0 as a picture [H, W, 3]}. The last one is the step's own x0.

    For language models this is called the logit lens (nostalgebraist 2020). At most BLOCKS blocks, evenly spread. Raises StagesError.
    """
    wire = step_stages.condition(dit, tokens, positive, dit.away_from(negative, cfg), sigmas, step)
    wire = step_stages.position_embed(dit, step_stages.patch_embed(dit, wire))
    count = len(dit.stages.over(wire["hidden"]).kinds)
    shown = set(torch.linspace(0, count - 1, min(count, BLOCKS)).round().int().tolist())
    pictures = {}
    for block in range(count):
        wire = step_stages.run_blocks(dit, wire, str(block))
        if block in shown:
            pictures[block] = dit.picture(tokens, guide(step_stages.final_layer(dit, wire), cfg)["tokens"])
    return pictures
