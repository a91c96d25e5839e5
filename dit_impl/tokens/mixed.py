"""Patches of several sizes over one latent: cutting them out, putting them back, and splitting them into finer ones.

Every sample of a batch has the same number of patches of each size, so that they fit into one tensor. Their places may differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .patch import patchify, unpatchify


@dataclass(frozen=True)
class Mix:
    """The patches that cover a latent of size (H, W). places: for each patch size, coarsest first, numbers [B, n] in its row-major grid."""
    size: tuple[int, int]
    places: Mapping[int, Tensor]

    @property
    def counts(self) -> dict[int, int]:
        """How many patches of each size a sample has."""
        return {p: places.shape[1] for p, places in self.places.items()}

    def __len__(self) -> int:
        return sum(self.counts.values())


def whole(size: tuple[int, int], patch_size: int, batch: int, device: torch.device | None = None) -> Mix:
    """A mix with one patch size everywhere, on the device of the latents. Raises ValueError if the latent's size is not a multiple of it."""
    if any(length % patch_size for length in size):
        raise ValueError(f"a latent of {size[0]}×{size[1]} is not a multiple of {patch_size}: patches of several sizes need that")
    count = size[0] // patch_size * (size[1] // patch_size)
    return Mix(size, {patch_size: torch.arange(count, device=device).expand(batch, -1)})


def split(mix: Mix, patch_size: int, chosen: Tensor, finer: int = 0) -> Mix:
    """Split the patches `chosen` [B, k], numbers in the grid of `patch_size`, into patches of size `finer`; 0 is half the size.

    Raises ValueError for a patch that is not there, and if patch_size is not a multiple of `finer`.
    """
    finer = finer or patch_size // 2
    if finer < 1 or patch_size % finer or finer == patch_size:
        raise ValueError(f"patches of {patch_size} can't be split into patches of {finer}")
    coarse = mix.places[patch_size]
    is_split = (coarse[:, :, None] == chosen[:, None]).any(2)  # [B, n]
    if (is_split.sum(1) != chosen.shape[1]).any():
        raise ValueError(f"a patch of {patch_size} to split is not there, or is named twice")
    stay = coarse[~is_split].view(len(coarse), -1)
    ratio, width = patch_size // finer, mix.size[1] // patch_size
    row, column = (torch.arange(ratio, device=chosen.device) for _ in range(2))
    top, left = chosen // width * ratio, chosen % width * ratio
    children = ((top[..., None, None] + row[:, None]) * width * ratio + left[..., None, None] + column).flatten(1)  # [B, k·ratio²]
    places = {**mix.places, patch_size: stay, finer: torch.cat([mix.places.get(finer, children[:, :0]), children], dim=1)}
    return Mix(mix.size, {p: places[p] for p in sorted(places, reverse=True) if places[p].shape[1]})


def gather(latent: Tensor, mix: Mix) -> dict[int, Tensor]:
    """Cut the patches out of a latent: [B, C, H, W] → [B, n, C·p·p] for each size."""
    def cut(p: int, places: Tensor) -> Tensor:
        tokens = patchify(latent, p)
        return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))
    return {p: cut(p, places) for p, places in mix.places.items()}


def scatter(tokens: Mapping[int, Tensor], mix: Mix) -> Tensor:
    """Put patches together again: [B, n, C·p·p] for each size → [B, C, H, W]. The inverse of `gather`."""
    (height, width), latent = mix.size, None
    for p, places in mix.places.items():
        batch, _, values = tokens[p].shape
        grid = tokens[p].new_zeros(batch, height // p * (width // p), values)
        part = unpatchify(grid.scatter(1, places[..., None].expand(-1, -1, values), tokens[p]), p, mix.size)
        latent = part if latent is None else latent + part
    return latent


def detail(latent: Tensor, patch_size: int) -> Tensor:
    """How much detail each patch has, the standard deviation of its values: [B, C, H, W] → [B, N]."""
    return patchify(latent, patch_size).unflatten(2, (latent.shape[1], -1)).var(3, unbiased=False).mean(2).sqrt()


def richest(scores: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """The numbers of the `count` highest scores of each sample, in order: [B, N] → [B, count]. among [B, n]: the numbers to choose from."""
    if among is None:
        return scores.topk(count, dim=1).indices.sort(dim=1).values
    return among.gather(1, scores.gather(1, among).topk(count, dim=1).indices).sort(dim=1).values
