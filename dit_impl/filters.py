"""The patch embedding's filters: what each of its D outputs looks for in a patch, as pictures and as a number."""

import torch
from torch import Tensor

from .backbone import Backbone, BackboneError, Dit
from .charts import colours, in_language, sheet

WORDS = {
    "title": {"en": "Patch embedding of p = {p}: the {n} strongest of {d} filters", "zh": "图块嵌入（p = {p}）：{d} 个滤波器中最强的 {n} 个"},
    "note": {"en": "each filter is C·p·p = {values} weights, shown by {how}; sorted by norm, {high:.3g} to {low:.3g}; smoothness {share:.0%} (white noise {white:.0%})",
             "zh": "每个滤波器有 C·p·p = {values} 个权重，以{how}显示；按范数排序，{high:.3g} 到 {low:.3g}；平滑度 {share:.0%}（白噪声 {white:.0%}）"},
    "rgb": {"en": "the latent's linear map to RGB", "zh": "latent 到 RGB 的线性映射"},
    "mean": {"en": "the mean over channels", "zh": "通道平均"},
}


def filters_of(dit: Dit, patch_size: int = 0) -> Tensor:
    """The patch projection as filters: → [D, C, p, p]. Found by asking the layer rather than by reading its weights, which a host may keep
    elsewhere: an affine map's matrix is f(eye) − f(0). Raises BackboneError."""
    p = patch_size or dit.patch_size
    if p not in dit.patch_sizes:
        raise BackboneError(f"{dit.name} knows patch sizes {', '.join(map(str, dit.patch_sizes))}, not {p}")
    if not isinstance(dit, Backbone) or not hasattr(dit.model, "patch_embed"):
        raise BackboneError(f"{dit.name} has no patch embedding of this library's: load it with Load DiT or Load DiT (diffusers)")
    values = dit.channels * p * p
    with torch.no_grad():
        like = dit.like()
        zero = dit.model.patch_embed(torch.zeros(1, 1, values).to(like), p)
        matrix = dit.model.patch_embed(torch.eye(values)[None].to(like), p) - zero
    return matrix[0].T.float().cpu().unflatten(1, (dit.channels, p, p))


def smoothness(filters: Tensor) -> float:
    """How far filters are from white noise: the share of their energy in each channel's lowest spatial frequency, the mean over the
    patch: [D, C, p, p] → 1/p² for white noise, 1 for filters that are flat across the patch."""
    energy = filters.square().sum()
    flat = filters.mean((2, 3)).square().sum() * filters.shape[2] * filters.shape[3]
    return (flat / energy.clamp_min(1e-30)).item()


def as_pictures(filters: Tensor, latent_rgb: Tensor | None = None) -> Tensor:
    """Filters as pictures, each from its own −largest to +largest: [D, C, p, p] → [D, p, p, 3]. latent_rgb [C + 1, 3]: latents → RGB."""
    if latent_rgb is None:
        mean = filters.mean(1)
        return torch.stack([colours(one, signed=True) for one in mean])
    rgb = torch.einsum("dcij,ck->dijk", filters, latent_rgb[:-1])
    return (rgb / rgb.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / 2 + 0.5).clamp(0, 1)


def mosaic(pictures: Tensor, columns: int) -> Tensor:
    """Small pictures in rows, parted by a white line: [n, p, p, 3] → [H, W, 3]."""
    n, p = pictures.shape[:2]
    cell = max(3, 40 // p) * p
    rows = -(-n // columns)
    made = torch.ones(rows * (cell + 2), columns * (cell + 2), 3)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (cell + 2), i % columns * (cell + 2)
        made[top:top + cell, left:left + cell] = picture.repeat_interleave(cell // p, 0).repeat_interleave(cell // p, 1)
    return made


def filters_picture(dit: Dit, patch_size: int = 0, count: int = 96, language: str = "English", columns: int = 12) -> Tensor:
    """A DIT's strongest filters, sorted by norm, with title and numbers: → [H, W, 3] in 0..1. Raises BackboneError."""
    p, filters = patch_size or dit.patch_size, filters_of(dit, patch_size)
    norms = filters.flatten(1).norm(dim=1)
    order = norms.argsort(descending=True)[:count]
    rgb = getattr(dit, "latent_rgb", None)
    said = {name: in_language(words, language) for name, words in WORDS.items()}
    note = said["note"].format(values=filters[0].numel(), how=said["mean" if rgb is None else "rgb"], high=norms[order[0]], low=norms[order[-1]],
                               share=smoothness(filters), white=1 / p ** 2)
    title = said["title"].format(p=p, n=len(order), d=len(filters))
    return sheet([mosaic(as_pictures(filters[order], rgb), columns)], [""], 1, title, note, language)
