"""What the final layer reads after each block of a step."""

import torch
from torch import Tensor

from ..handle.backbone import Conditioning, DitHandle
from . import stages as step_stages
from .guidance import guide

BLOCKS = 12  # of a step that are shown


def by_block(dit: DitHandle, tokens: dict, sigmas: Tensor, step: int, positive: Conditioning, negative: Conditioning | None,
             cfg: float) -> dict[int, Tensor]:
    """x0 of a step as the final layer reads it after each block, the last one's being the step's own: → {block: picture [H, W, 3]}.

    What language models' people call the logit lens (nostalgebraist 2020). At most BLOCKS of them, evenly spread. Raises StagesError.
    """
    wire = step_stages.condition(dit, tokens, positive, dit.away_from(negative, cfg), sigmas, step)
    wire = step_stages.position_embed(dit, step_stages.patch_embed(dit, wire))
    count = len(dit.stages.kinds)
    shown = set(torch.linspace(0, count - 1, min(count, BLOCKS)).round().int().tolist())
    pictures = {}
    for block in range(count):
        wire = step_stages.run_blocks(dit, wire, str(block))
        if block in shown:
            pictures[block] = dit.picture(tokens, guide(step_stages.final_layer(dit, wire), cfg)["tokens"])
    return pictures
