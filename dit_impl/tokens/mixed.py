"""Patches of several sizes over one latent: which of them there are, cut out, laid back, and split into finer ones.

All samples of a batch have as many patches of each size, so that they stay one tensor; where those lie may differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .patch import patchify, unpatchify


@dataclass(frozen=True)
class Mix:
    """Which patches cover a latent of size (H, W): for each patch size, coarsest first, numbers in its own row-major grid, [B, n]."""
    size: tuple[int, int]
    places: Mapping[int, Tensor]

    @property
    def counts(self) -> dict[int, int]:
        """How many patches of each size a sample has."""
        return {p: places.shape[1] for p, places in self.places.items()}

    def __len__(self) -> int:
        return sum(self.counts.values())


def whole(size: tuple[int, int], patch_size: int, batch: int, device: torch.device | None = None) -> Mix:
    """One patch size everywhere, to begin with, on the device of the latents. Raises ValueError where it does not divide the latent."""
    if any(length % patch_size for length in size):
        raise ValueError(f"a latent of {size[0]}×{size[1]} does not divide into patches of {patch_size}, as patches of several sizes must")
    count = size[0] // patch_size * (size[1] // patch_size)
    return Mix(size, {patch_size: torch.arange(count, device=device).expand(batch, -1)})


def split(mix: Mix, patch_size: int, chosen: Tensor, finer: int = 0) -> Mix:
    """Split patches into those of a finer size, half as long where none is named: chosen [B, k], numbers in the grid of `patch_size`.

    Raises ValueError for a patch that is not there, and for sizes of which one does not divide the other."""
    finer = finer or patch_size // 2
    if finer < 1 or patch_size % finer or finer == patch_size:
        raise ValueError(f"patches of {patch_size} do not split into patches of {finer}")
    coarse = mix.places[patch_size]
    goes = (coarse[:, :, None] == chosen[:, None]).any(2)  # [B, n]
    if (goes.sum(1) != chosen.shape[1]).any():
        raise ValueError(f"a patch of {patch_size} is split that is not there, or twice")
    stay = coarse[~goes].view(len(coarse), -1)
    ratio, width = patch_size // finer, mix.size[1] // patch_size
    row, column = (torch.arange(ratio, device=chosen.device) for _ in range(2))
    top, left = chosen // width * ratio, chosen % width * ratio
    children = ((top[..., None, None] + row[:, None]) * width * ratio + left[..., None, None] + column).flatten(1)  # [B, k·ratio²]
    places = {**mix.places, patch_size: stay, finer: torch.cat([mix.places.get(finer, children[:, :0]), children], dim=1)}
    return Mix(mix.size, {p: places[p] for p in sorted(places, reverse=True) if places[p].shape[1]})


def gather(latent: Tensor, mix: Mix) -> dict[int, Tensor]:
    """Cut a latent's patches out: [B, C, H, W] → for each size [B, n, C·p·p]."""
    def cut(p: int, places: Tensor) -> Tensor:
        tokens = patchify(latent, p)
        return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))
    return {p: cut(p, places) for p, places in mix.places.items()}


def scatter(tokens: Mapping[int, Tensor], mix: Mix) -> Tensor:
    """Lay patches back out as a latent: for each size [B, n, C·p·p] → [B, C, H, W]. Undoes `gather`."""
    (height, width), latent = mix.size, None
    for p, places in mix.places.items():
        batch, _, values = tokens[p].shape
        grid = tokens[p].new_zeros(batch, height // p * (width // p), values)
        laid = unpatchify(grid.scatter(1, places[..., None].expand(-1, -1, values), tokens[p]), p, mix.size)
        latent = laid if latent is None else latent + laid
    return latent


def detail(latent: Tensor, patch_size: int) -> Tensor:
    """How much there is to see in every patch, its values' deviation over the patch: [B, C, H, W] → [B, N]."""
    return patchify(latent, patch_size).unflatten(2, (latent.shape[1], -1)).var(3, unbiased=False).mean(2).sqrt()


def richest(scores: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """The numbers of the `count` highest scores of each sample, in order: [B, N] → [B, count]. among: numbers to choose from, [B, n]."""
    if among is None:
        return scores.topk(count, dim=1).indices.sort(dim=1).values
    return among.gather(1, scores.gather(1, among).topk(count, dim=1).indices).sort(dim=1).values
