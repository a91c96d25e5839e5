"""Sequences with patches of several sizes to learn from: which sizes, and where each lies. See `tokens.mixed`."""

import random

import torch
from torch import Tensor

from ..errors import TrainingError
from ..tokens import mixed

MIX_SHARE = 0.25  # of the batches have patches of several sizes, where a mix is asked for
SPLIT_SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2)  # of a sequence's coarse patches


def read_mixes(text: str) -> tuple[tuple[int, ...], ...]:
    """"4-2, 8-4-2" → ((4, 2), (8, 4, 2)). Raises TrainingError."""
    mixes = []
    for written in filter(None, (part.strip() for part in text.split(","))):
        parts = [part.strip() for part in written.split("-")]
        if len(parts) < 2 or not all(part.isascii() and part.isdigit() and len(part) < 5 and int(part) for part in parts):
            raise TrainingError(f"mix is patch sizes of one sequence, coarse to fine, as in '4-2' or '4-2, 8-4-2', not {written!r:.40}")
        sizes = tuple(map(int, parts))
        for coarse, fine in zip(sizes, sizes[1:]):
            if fine >= coarse or coarse % fine:
                raise TrainingError(f"mix {written}: patches of {coarse} are split into a smaller size that divides it, not into {fine}")
        mixes.append(sizes)
    return tuple(mixes)


def random_mix(latent: Tensor, sizes: tuple[int, ...] | list[int], rng: random.Random, generator: torch.Generator | None = None) -> mixed.Mix:
    """The coarsest patches, some of them split, some of those again. Most are chosen by detail, as seen through noise; some by chance."""
    made = mixed.whole(tuple(latent.shape[-2:]), sizes[0], len(latent), latent.device)
    fresh = made.places[sizes[0]]
    for coarse, fine in zip(sizes, sizes[1:]):
        count = min(fresh.shape[1], max(1, round(rng.choice(SPLIT_SHARES) * fresh.shape[1] * (1 if fine == sizes[1] else 2))))
        seen = mixed.detail(latent + rng.random() * torch.empty_like(latent).normal_(generator=generator), coarse)
        by_chance = (torch.rand(len(latent), device=latent.device, generator=generator) < 0.25)[:, None]
        chosen = mixed.richest(torch.where(by_chance, torch.empty_like(seen).uniform_(generator=generator), seen), count, fresh)
        before = made.places.get(fine, chosen[:, :0]).shape[1]
        made = mixed.split(made, coarse, chosen, fine)
        fresh = made.places[fine][:, before:]
    return made
