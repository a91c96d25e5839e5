"""Patch sizes that a model was not trained at: how it can read them, and what is lost.

native     The model has an embedding and a head for this p. Nothing is lost.
resample   Needs no training. A patch of k·p is averaged over k×k cells into a patch of p. This gives a latent of 1/k of the size with
           1/k of the noise. The model predicts x0 there at the matching noise level, and x0 is enlarged again. The solver steps from the
           actual x, so noise that is finer than the coarse grid stays until steps with finer patches remove it: coarse steps must come
           first. Only for multiples of p.
pi_resize  FlexiViT (Beyer et al. 2023, §3.4). Each patch is replaced by the patch of p whose resized copy is nearest to it (least squares),
           which is the same as resizing the embedding and the head: see `resize_embedding`. For any p, but the borders between patches
           show, and the positions are those of a picture with this many patches of the model's own size.

auto takes the first of these three that can read the size.

resample and pi_resize are two linear maps on tokens around the same model: `down` to its own patch size and `up` again.
"""

from dataclasses import dataclass
from functools import lru_cache

from einops import rearrange, reduce
import torch
from torch import Tensor
import torch.nn.functional as F

from ..errors import BackboneError
from .patch import patchify, token_grid, unpatchify
from .wire import map_memory
from .wire_types import DitTokens

METHODS = ("auto", "native", "resample", "pi_resize")


def choose_method(own: tuple[int, ...], patch_size: int, method: str, name: str = "the model") -> str:
    """How patches of this size are read: "native", "resample" or "pi_resize". Raises BackboneError.

    own: the patch sizes that the model has weights for, its own size first.
    """
    sizes = ", ".join(map(str, own))
    if method not in METHODS:
        raise BackboneError(f"patch_method is one of {', '.join(METHODS)}, not {method!r}")
    if patch_size < 1:
        raise BackboneError(f"patch_size is at least 1, not {patch_size}")
    if patch_size == own[0] or (patch_size in own and method in ("auto", "native")):
        return "native"
    if method == "native":
        raise BackboneError(f"{name} knows patch sizes {sizes}, not {patch_size}: patch_method native can't read it, "
                            "resample or pi_resize may")
    if patch_size % own[0]:
        if method == "resample":
            raise BackboneError(f"resample takes multiples of {name}'s own patch size {own[0]}, not {patch_size}: pi_resize takes any")
        return "pi_resize"
    return "pi_resize" if method == "pi_resize" else "resample"


@dataclass(frozen=True)
class Reading:
    """The maps between tokens of p' and tokens of a model's own p on a coarser latent. method: "resample" or "pi_resize"."""
    method: str
    own: int
    patch_size: int
    frame_patch: int = 1

    @property
    def gain(self) -> float:
        """The standard deviation of white noise of deviation 1 after `down`."""
        if self.method == "resample":
            return self.own / self.patch_size
        fit = patch_fit(self.own, self.patch_size)
        return (fit.square().sum() / len(fit)).sqrt().item()

    def down(self, tokens: Tensor) -> Tensor:
        """Tokens of p' → tokens of p: [B, N, C·f·p'·p'] → [B, N, C·f·p·p]."""
        if self.method == "resample":
            k = self.patch_size // self.own
            return reduce(tokens, "b n (c p k q l) -> b n (c p q)", "mean", p=self.own, q=self.own, k=k, l=k)
        return on_patches(patch_fit(self.own, self.patch_size), tokens)

    def up(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Tokens of p → tokens of p': [B, N, C·f·p·p] → [B, N, C·f·p'·p']. `down` of the result gives the same tokens back."""
        if self.method == "pi_resize":
            return on_patches(patch_resize(self.own, self.patch_size), tokens)
        smooth = self._smooth(tokens, grid)
        k = self.patch_size // self.own
        # smoothing changes the mean of each cell: add the difference back
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

    def coarse(self, wire: DitTokens) -> DitTokens:
        """The wire that the model reads: the same grid, with patches of the model's own size."""
        *frames, h, w = wire["grid"]
        size = (*wire["size"][:-2], h * self.own, w * self.own)
        return {**wire, "tokens": self.down(wire["tokens"]), "patch_size": self.own, "size": size}


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for what trains too
def patch_resize(own: int, patch_size: int) -> Tensor:
    """The matrix B of PI-resize, vec(resize(patch)) = B·vec(patch), bilinear and antialiased: → [p'·p', p·p]."""
    basis = torch.eye(own * own).view(own * own, 1, own, own)
    return F.interpolate(basis, size=(patch_size, patch_size), mode="bilinear", antialias=True).flatten(1).T.contiguous()


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for what trains too
def patch_fit(own: int, patch_size: int) -> Tensor:
    """The pseudo-inverse B⁺: it gives the patch of p whose resized copy is nearest to a patch of p': → [p·p, p'·p']."""
    return torch.linalg.pinv(patch_resize(own, patch_size).double()).float()


def on_patches(matrix: Tensor, tokens: Tensor) -> Tensor:
    """Multiply every channel of every token by a matrix [out, in]: [B, N, C·in] → [B, N, C·out]."""
    return (tokens.unflatten(-1, (-1, matrix.shape[1])) @ matrix.T.to(tokens)).flatten(-2)


def resize_embedding(weight: Tensor, own: int, patch_size: int) -> Tensor:
    """Resize a patch embedding's matrix for patches of p': [D, C·p·p] → [D, C·p'·p']. Beyer et al. 2023, equation 6.

    ŵ = (Bᵀ)⁺·w for each channel, so that ŵ·vec(resize(patch)) = w·vec(patch). Equal to w applied to the fitted patch B⁺·x, which is what
    `Reading.down` gives.
    """
    return on_patches(patch_fit(own, patch_size).T, weight[None])[0]


def resize_head(weight: Tensor, own: int, patch_size: int) -> Tensor:
    """Resize a head's matrix for patches of p': [C·p·p, D] → [C·p'·p', D], W' = B·W for each channel. Also for a bias [C·p·p, 1]."""
    return on_patches(patch_resize(own, patch_size), weight.T[None])[0].T


def repatch(wire: DitTokens, patch_size: int) -> DitTokens:
    """Cut the same latent into patches of another size, and the solver's memory and start of the wire too. No value is changed."""
    if patch_size == wire["patch_size"]:
        return wire
    frame_patch = wire.get("frame_patch", 1)

    def cut(tokens: Tensor) -> Tensor:
        return patchify(unpatchify(tokens, wire["patch_size"], wire["size"], frame_patch), patch_size, frame_patch)
    changed: DitTokens = {**wire, "tokens": cut(wire["tokens"]), "patch_size": patch_size,
                          "grid": (*wire["grid"][:-2], *token_grid(*wire["size"][-2:], patch_size))}
    if wire.get("memory"):
        changed["memory"] = map_memory(wire["memory"], cut)
    if "start" in wire:
        changed["start"] = {**wire["start"], "clean": cut(wire["start"]["clean"]), "noise": cut(wire["start"]["noise"])}
    return changed
