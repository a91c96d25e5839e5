"""Patches of several sizes over one latent: cutting them out, putting them back, and splitting them into finer ones.

Every sample of a batch has the same number of patches of each size, so that they fit into one tensor. Their places may differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from ..errors import TokensError
from .patch import patchify, unpatchify


@dataclass(frozen=True)
class Split:
    """Which patches are split into patches of a finer size. share: of the patches of the size before, those with most detail; None: those
    that the mask touches."""
    patch_size: int
    share: float | None = None

    def __str__(self) -> str:
        return f"with {self.patch_size} on {'the mask' if self.share is None else f'{self.share:.0%}'}"


@dataclass(frozen=True)
class Mixture:
    """Patches of several sizes in one sequence, as a user asks for them: those of the coarsest, and what is split of them, coarse to fine."""
    patch_size: int
    splits: tuple[Split, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.patch_size, *(one.patch_size for one in self.splits))

    @property
    def finest(self) -> int:
        return self.sizes[-1]

    @property
    def needs_mask(self) -> bool:
        return any(one.share is None for one in self.splits)

    def __str__(self) -> str:
        return " ".join(map(str, (self.patch_size, *self.splits)))


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


def mix_of(mixture: Mixture, latent: Tensor, x0: Tensor | None, mask: Tensor | None = None) -> Mix:
    """Where patches of each size go over latents [B, C, H, W]: by the detail of x0 [B, C, H, W], and by the mask [B or 1, h, w].

    Without x0, as before the first step, nothing is split by detail. Raises TokensError.
    """
    batch, _, *size = latent.shape
    if any(length % mixture.patch_size for length in size):
        raise TokensError(f"a latent of {size[0]}×{size[1]} cells is not a multiple of {mixture.patch_size}: patches of several sizes need that")
    made = whole(tuple(size), mixture.patch_size, batch, latent.device)
    among, coarse = made.places[mixture.patch_size], mixture.patch_size
    for one in mixture.splits:
        scores, count = _scores(one, coarse, among.shape[1], x0, mask, batch, tuple(size))
        if not count:
            break
        chosen = richest(scores.to(latent.device), count, among)
        made = split(made, coarse, chosen, one.patch_size)
        among, coarse = made.places[one.patch_size], one.patch_size
    return made


def _scores(one: Split, coarse: int, patches: int, x0: Tensor | None, mask: Tensor | None, batch: int, size: tuple[int, int]) -> tuple[Tensor, int]:
    """How much each patch of a size wants to be split [B, N], and how many are, at most all `patches`."""
    if one.share is not None:
        return (torch.zeros(0), 0) if x0 is None else (detail(x0, coarse), min(patches, round(one.share * patches)))
    if mask is None:
        raise TokensError(f"patches of {one.patch_size} go where the mask is, and there is none: wire a mask into Patch Regions")
    touched = touching(mask, coarse, size)
    return touched[torch.arange(batch) % len(touched)], min(patches, int((touched > 0).sum(1).max()))


def touching(mask: Tensor, patch_size: int, size: tuple[int, int]) -> Tensor:
    """How much of each patch a MASK covers: [B, h, w] over a latent of (H, W) → [B, N] in 0..1."""
    cells = F.interpolate(mask[:, None].float(), size=size, mode="area")
    return F.avg_pool2d(cells, patch_size).flatten(1)


def counts_of(mixture: Mixture, size: tuple[int, int], mask: Tensor | None = None) -> dict[int, int]:
    """How many patches of each size a latent of (H, W) is cut into, for what it costs. Raises TokensError."""
    latent = torch.zeros(1, 1, *size)
    return mix_of(mixture, latent, latent, None if mask is None else mask[:1]).counts
