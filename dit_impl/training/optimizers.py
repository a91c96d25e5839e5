"""Which optimizer teaches which parameter."""

from collections.abc import Mapping
import re

import torch
from torch import nn

OPTIMIZERS = ("adamw", "muon")
MATRICES = re.compile(r"(.*\.)?(attn2?|mlp\.fc[12]|x_embedder|final_layer\.linear|final_layer\.detail\.context)\..*")


def optimizers_of(named: Mapping[str, nn.Parameter], learning_rate: float, weight_decay: float = 0.01, optimizer: str = "muon",
                  **how) -> list[torch.optim.Optimizer]:
    """adamw: AdamW for all (Loshchilov & Hutter 2019). muon: Muon (Jordan et al. 2024) for the matrices of attention, MLPs, patch embeddings
    and heads, in steps as large as AdamW's (Liu et al. 2025, §2.2); AdamW for words, modulations and vectors. how: of AdamW.

    Muon uses every direction of a patch embedding alike, which is what many values through a narrow model need."""
    inner = {name: p for name, p in named.items() if optimizer == "muon" and p.dim() == 2 and MATRICES.fullmatch(name)}
    others = [p for name, p in named.items() if name not in inner]
    made: list[torch.optim.Optimizer] = []
    if inner:
        made.append(torch.optim.Muon(inner.values(), learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    if others:
        made.append(torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, **how))
    return made
