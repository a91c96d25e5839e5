"""The optimizers for a model's parameters."""

from collections.abc import Mapping
import re

import torch
from torch import nn

OPTIMIZERS = ("adamw", "muon")
MATRICES = re.compile(r"(.*\.)?(attn2?|mlp\.fc[12]|x_embedder|final_layer\.linear|final_layer\.detail\.context)\..*")


def optimizers_of(named: Mapping[str, nn.Parameter], learning_rate: float, weight_decay: float = 0.01, optimizer: str = "muon",
                  **how) -> list[torch.optim.Optimizer]:
    """adamw: AdamW for all parameters (Loshchilov & Hutter 2019). how: its other settings.

    muon: Muon (Jordan et al. 2024) for the matrices of attention, MLPs, patch embeddings and heads, with steps scaled to the size of AdamW's
    (Liu et al. 2025, §2.2), and AdamW for words, modulations and vectors. Muon uses all directions of a patch embedding equally, which
    helps when patches have more values than the model is wide.
    """
    inner = {name: p for name, p in named.items() if optimizer == "muon" and p.dim() == 2 and MATRICES.fullmatch(name)}
    others = [p for name, p in named.items() if name not in inner]
    optimizers: list[torch.optim.Optimizer] = []
    if inner:
        optimizers.append(torch.optim.Muon(inner.values(), learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    if others:
        optimizers.append(torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, **how))
    return optimizers
