"""Patches of a size that a model was not trained at: how it reads them all the same, and what that costs.

native     The model has an embedding and a head for this p. Nothing is approximated.
resample   Training-free. A patch of k·p is averaged over k×k cells into a patch of p, which makes a latent of 1/k of the size, whose
           noise is k times quieter; the model predicts x0 there at the noise level that fits, and x0 is brought up again. The solver
           steps from the actual x, so the noise above the coarse grid stays until finer patches take it away: coarse steps belong
           first. Only multiples of p.
pi_resize  FlexiViT (Beyer et al. 2023, §3.4). Patches are least-squares fitted by enlarged (or reduced) patches of p, which is what its
           resized embedding and head compute: see `resize_embedding`. Any p, but borders between patches show, and the positions are
           those of the picture that has this many patches of the model's own size.

Both are a pair of linear maps on tokens, `down` to the model's own patch size and `up` again, around the same model.
"""

from dataclasses import dataclass
from functools import lru_cache

from einops import rearrange, reduce
import torch
from torch import Tensor
import torch.nn.functional as F

from ..errors import BackboneError
from .patch import patchify, token_grid, unpatchify

METHODS = ("auto", "native", "resample", "pi_resize")


def choose_method(own: tuple[int, ...], patch_size: int, method: str, name: str = "the model") -> str:
    """What serves patches of this size: "native", "resample" or "pi_resize". own: the model's sizes, its first first. Raises BackboneError."""
    sizes = ", ".join(map(str, own))
    if method not in METHODS:
        raise BackboneError(f"patch_method is one of {', '.join(METHODS)}, not {method!r}")
    if patch_size < 1:
        raise BackboneError(f"patch_size is at least 1, not {patch_size}")
    if patch_size == own[0] or (patch_size in own and method in ("auto", "native")):
        return "native"
    if method == "native":
        raise BackboneError(f"{name} knows patch sizes {sizes}, not {patch_size}: patch_method native can't serve it, resample or pi_resize may")
    if method != "pi_resize" and patch_size % own[0]:
        raise BackboneError(f"resample takes multiples of {name}'s own patch size {own[0]}, not {patch_size}: pi_resize takes any")
    return "pi_resize" if method == "pi_resize" else "resample"


@dataclass(frozen=True)
class Reading:
    """How tokens of p' become tokens of a model's own p on a coarser latent, and back. method: "resample" or "pi_resize"."""
    method: str
    own: int
    patch_size: int
    frame_patch: int = 1

    @property
    def gain(self) -> float:
        """What `down` does to the deviation of white noise."""
        if self.method == "resample":
            return self.own / self.patch_size
        fit = patch_fit(self.own, self.patch_size)
        return (fit.square().sum() / len(fit)).sqrt().item()

    def down(self, tokens: Tensor) -> Tensor:
        """[B, N, C·f·p'·p'] → [B, N, C·f·p·p]."""
        if self.method == "resample":
            k = self.patch_size // self.own
            return reduce(tokens, "b n (c p k q l) -> b n (c p q)", "mean", p=self.own, q=self.own, k=k, l=k)
        return on_patches(patch_fit(self.own, self.patch_size), tokens)

    def up(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """[B, N, C·f·p·p] of a grid → [B, N, C·f·p'·p']. `down` of the answer is what it was given."""
        if self.method == "pi_resize":
            return on_patches(patch_resize(self.own, self.patch_size), tokens)
        smooth = self._smooth(tokens, grid)
        k = self.patch_size // self.own
        # what smoothing takes from a cell's mean is given back, cell by cell
        missing = rearrange(tokens - self.down(smooth), "b n (c p q) -> b n c p 1 q 1", p=self.own, q=self.own)
        return smooth + missing.expand(*missing.shape[:4], k, missing.shape[5], k).reshape(smooth.shape)

    def _smooth(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Bilinear interpolation of the whole latent, across the borders of patches."""
        *frames, h, w = grid
        frames = [t * self.frame_patch for t in frames]
        latent = unpatchify(tokens, self.own, (*frames, h * self.own, w * self.own), self.frame_patch)
        size = (h * self.patch_size, w * self.patch_size)
        flat = latent.flatten(1, 2) if frames else latent
        flat = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
        return patchify(flat.unflatten(1, latent.shape[1:3]) if frames else flat, self.patch_size, self.frame_patch)

    def coarse(self, wire: dict) -> dict:
        """The wire that the model is shown: the same grid, of patches of its own size."""
        *frames, h, w = wire["grid"]
        size = (*wire["size"][:-2], h * self.own, w * self.own)
        return {**wire, "tokens": self.down(wire["tokens"]), "patch_size": self.own, "size": size}


@lru_cache(maxsize=64)
def patch_resize(own: int, patch_size: int) -> Tensor:
    """B of PI-resize, with vec(resize(patch)) = B·vec(patch), bilinear and antialiased: → [p'·p', p·p]."""
    basis = torch.eye(own * own).view(own * own, 1, own, own)
    return F.interpolate(basis, size=(patch_size, patch_size), mode="bilinear", antialias=True).flatten(1).T.contiguous()


@lru_cache(maxsize=64)
def patch_fit(own: int, patch_size: int) -> Tensor:
    """B⁺: the patch of p whose resized copy is nearest to a patch of p': → [p·p, p'·p']."""
    return torch.linalg.pinv(patch_resize(own, patch_size).double()).float()


def on_patches(matrix: Tensor, tokens: Tensor) -> Tensor:
    """A matrix [out, in] on every channel of every token: [B, N, C·in] → [B, N, C·out]."""
    return (tokens.unflatten(-1, (-1, matrix.shape[1])) @ matrix.T.to(tokens)).flatten(-2)


def resize_embedding(weight: Tensor, own: int, patch_size: int) -> Tensor:
    """An embedding's matrix for patches of p': [D, C·p·p] → [D, C·p'·p'], ŵ = (Bᵀ)⁺·w for each channel. Beyer et al. 2023, equation 6.

    ŵ·vec(resize(patch)) = w·vec(patch). The same as showing w the fitted patch B⁺·x, which is what `Reading.down` does.
    """
    return on_patches(patch_fit(own, patch_size).T, weight[None])[0]


def resize_head(weight: Tensor, own: int, patch_size: int) -> Tensor:
    """A head's matrix for patches of p': [C·p·p, D] → [C·p'·p', D], W' = B·W for each channel; a bias [C·p·p, 1] likewise."""
    return on_patches(patch_resize(own, patch_size), weight.T[None])[0].T


def repatch(wire: dict, patch_size: int) -> dict:
    """The same tokens cut in patches of another size, with all that rides on the wire: a permutation of each."""
    if patch_size == wire["patch_size"]:
        return wire
    frame_patch = wire.get("frame_patch", 1)

    def cut(tokens: Tensor) -> Tensor:
        return patchify(unpatchify(tokens, wire["patch_size"], wire["size"], frame_patch), patch_size, frame_patch)
    changed = {**wire, "tokens": cut(wire["tokens"]), "patch_size": patch_size,
               "grid": (*wire["grid"][:-2], *token_grid(*wire["size"][-2:], patch_size))}
    if wire.get("memory"):
        changed["memory"] = {**wire["memory"], "x0": cut(wire["memory"]["x0"])}
    if "start" in wire:
        changed["start"] = {**wire["start"], "clean": cut(wire["start"]["clean"]), "noise": cut(wire["start"]["noise"])}
    return changed
