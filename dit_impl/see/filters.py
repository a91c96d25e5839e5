"""The filters of the patch embedding, as pictures and numbers: what each of its D outputs responds to in a patch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..drawing import charts
from ..drawing.charts import colours, in_language, sheet
from ..errors import BackboneError, StagesError
from ..handle.backbone import Backbone, DitHandle
from ..model.stages import Extra, Hidden
from ..sources.diffusers_models import Flux, PixArt
from ..tokens.patch import unpatchify

WORDS = {
    "title": {"en": "Patch embedding of p = {p}: the {n} strongest of {d} filters", "zh": "图块嵌入（p = {p}）：{d} 个滤波器中最强的 {n} 个"},
    "note": {"en": "each filter is C·p·p = {values} weights, shown by {how}; the number beside a row is the norm of its first filter\n{numbers}",
             "zh": "每个滤波器有 C·p·p = {values} 个权重，以{how}显示；行左的数是该行第一个滤波器的范数\n{numbers}"},
    "numbers": {"en": "norms {high:.2f} to {low:.2f}; effective rank {rank:.0f} of {full}\nlowest frequency: {flat:.2f} times white noise's share",
                "zh": "范数 {high:.2f} 到 {low:.2f}；有效秩 {rank:.0f}（最大 {full}）\n最低频率的能量占比：白噪声的 {flat:.2f} 倍"},
    "rgb": {"en": "the latent's linear map to RGB", "zh": "latent 到 RGB 的线性映射"},
    "mean": {"en": "the mean over channels, blue below zero, orange above", "zh": "通道平均（蓝为负，橙为正）"},
    "before": {"en": "before: {name}", "zh": "之前：{name}"},
    "after": {"en": "after: {name}", "zh": "之后：{name}"},
}
ROW = 10  # filters in a row


@dataclass(frozen=True)
class Spectrum:
    """How much filters differ from white noise.

    low: their energy at the lowest spatial frequency relative to white noise; 1 is like noise, p² is flat. rank: effective rank; full: its
    maximum.
    """
    low: float
    rank: float
    full: int


def filters_of(dit: DitHandle, patch_size: int = 0, device: torch.device | None = None) -> Tensor:
    """The patch embedding as filters: → [D, C, p, p]; for a video model, those of a patch's first frame. Raises BackboneError.

    The layer is run to find its matrix, f(eye) − f(0), because a host may keep the weights elsewhere. device: where a MODEL computes.
    """
    p = patch_size or dit.patch_size
    if p not in dit.patch_sizes:
        raise BackboneError(f"{dit.name} knows patch sizes {', '.join(map(str, dit.patch_sizes))}, not {p}")
    values = dit.channels * dit.frame_patch * p * p
    basis = torch.cat([torch.zeros(1, 1, values), torch.eye(values)[:, None]])  # [1 + values, 1, values]
    with torch.no_grad():
        if isinstance(dit, Backbone):
            answer = _asked(dit, basis.to(dit.like()), p)
        else:
            answer = _asked_stages(dit, basis.to(device), p)
    answer = answer[:, 0].float().cpu()  # [1 + values, D]
    return (answer[1:] - answer[:1]).T.unflatten(1, (dit.channels, dit.frame_patch, p, p))[:, :, 0]


def _asked(dit: Backbone, tokens: Tensor, p: int) -> Tensor:
    """Run the patch embedding of a model of this library or of diffusers on pictures of one token: [B, 1, C·p·p] → [B, 1, D]."""
    model = dit.model
    if isinstance(model, PixArt):
        return model.transformer.pos_embed.proj(unpatchify(tokens, p, (p, p))).flatten(2).transpose(1, 2)
    return model.transformer.x_embedder(tokens) if isinstance(model, Flux) else model.patch_embed(tokens, p)


def _asked_stages(dit: DitHandle, tokens: Tensor, p: int) -> Tensor:
    """The same for a MODEL. Some embedders take a latent, with or without frames, others take raw tokens. Raises BackboneError."""
    try:
        stages = dit.stages
        stages.check_apart("patch embedding")
    except StagesError as error:
        raise BackboneError(f"the patch embedding of {dit.name} is not known: {error}") from None
    kind = next((w.dtype for w in stages.model.parameters() if w.dtype in (torch.float32, torch.float16, torch.bfloat16)), torch.float32)
    tokens, f = tokens.to(kind), dit.frame_patch
    latent = unpatchify(tokens, p, (p, p)) if f == 1 else unpatchify(tokens, p, (f, p, p), f)
    for x in (latent, latent.unsqueeze(2) if f == 1 else latent, tokens):
        extra: Extra = {"transformer_options": {}, "reference": None, "context_latents": (), "size": (p, p)}
        try:
            return stages.patch_embed(Hidden(x, None, None, None, 0, extra)).x
        except (RuntimeError, ValueError):  # this embedder does not take this form
            continue
    raise BackboneError(f"the patch embedding of {dit.name} takes more than {dit.channels} channels of {p}×{p} cells")


def spectrum_statistic(filters: Tensor) -> Spectrum:
    """How much filters differ from white noise: [D, C, p, p] → Spectrum.

    low: the share of energy in the filters' means over the patch (frequency 0 of the discrete Fourier transform), times p²: 1 for white
    noise, p² for flat filters. rank: exp of the entropy of the squared singular values of the matrix [D, C·p·p], scaled to a sum of 1 (Roy
    & Vetterli 2007, with squared values): 1 if all rows are alike.
    """
    energy = filters.square().sum().clamp_min(1e-30)
    low = filters.mean((2, 3)).square().sum() * (filters.shape[2] * filters.shape[3]) ** 2 / energy
    shares = torch.linalg.svdvals(filters.flatten(1).double()).square()
    shares = shares / shares.sum().clamp_min(1e-30)
    rank = torch.special.entr(shares).sum().exp()
    return Spectrum(low.item(), rank.item(), len(shares))


def as_pictures(filters: Tensor, latent_rgb: Tensor | None = None) -> Tensor:
    """Filters as pictures, each scaled by its largest value: [D, C, p, p] → [D, p, p, 3]. latent_rgb [C + 1, 3]: latents → RGB."""
    if latent_rgb is None:
        mean = filters.mean(1)
        return torch.stack([colours(one, signed=True) for one in mean])
    rgb = torch.einsum("dcij,ck->dijk", filters, latent_rgb[:-1])
    return (rgb / rgb.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / 2 + 0.5).clamp(0, 1)


def mosaic(pictures: Tensor, columns: int, side: int = 26) -> Tensor:
    """Small pictures in rows, with white lines between: [n, p, p, 3] → [H, W, 3]."""
    n, p = pictures.shape[:2]
    cell = max(3, side // p) * p
    rows = -(-n // columns)
    whole = torch.ones(rows * (cell + 2), columns * (cell + 2), 3)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (cell + 2), i % columns * (cell + 2)
        whole[top:top + cell, left:left + cell] = picture.repeat_interleave(cell // p, 0).repeat_interleave(cell // p, 1)
    return whole


def _with_norms(rows: Tensor, norms: list[float], language: str) -> Tensor:
    """A mosaic with a number to the left of each row: [H, W, 3] → [H, 56 + W, 3]."""
    picture, draw = charts.canvas(56, len(rows))
    for i, norm in enumerate(norms):
        at = (i + 0.5) * len(rows) / len(norms)
        draw.text((50, at), f"{norm:.2f}", fill=charts.INK, font=charts.font(charts.TEXT, language == "中文"), anchor="rm")
    return torch.cat([charts.as_tensor(picture), rows], dim=1)


def numbers(filters: Tensor, language: str = "English") -> str:
    """The filters' norms and spectrum in words."""
    spectrum, norms = spectrum_statistic(filters), filters.flatten(1).norm(dim=1)
    return in_language(WORDS["numbers"], language).format(high=norms.max().item(), low=norms.min().item(), flat=spectrum.low, rank=spectrum.rank,
                                                          full=spectrum.full)


def strongest(dit: DitHandle, filters: Tensor, count: int, language: str = "English", columns: int = ROW) -> Tensor:
    """The filters with the largest norms, in order: [D, C, p, p] → [H, W, 3]."""
    norms = filters.flatten(1).norm(dim=1)
    order = norms.argsort(descending=True, stable=True)[:count]
    pictures = as_pictures(filters[order], getattr(dit, "latent_rgb", None))
    return _with_norms(mosaic(pictures, columns), norms[order][::columns].tolist(), language)


@charts.drawn
def filters_picture(dit: DitHandle, patch_size: int = 0, count: int = 96, language: str = "English", columns: int = ROW,
                    before: DitHandle | None = None, device: torch.device | None = None) -> Tensor:
    """A picture of a model's strongest filters, sorted by norm, with title and numbers: → [H, W, 3] in 0..1. Raises BackboneError.

    before: a second model to show beside it, such as the same one before training.
    """
    p = patch_size or dit.patch_size
    shown = [(one, filters_of(one, p, device)) for one in (before, dit) if one is not None]
    texts = {name: in_language(words, language) for name, words in WORDS.items()}
    if before is not None:
        columns = columns * 2 // 3
    rgb = getattr(dit, "latent_rgb", None)
    pictures = [strongest(one, filters, count, language, columns) for one, filters in shown]
    labels = [""] if before is None else [texts[name].format(name=one.name) + "\n" + numbers(filters, language)
                                          for name, (one, filters) in zip(("before", "after"), shown)]
    filters = shown[-1][1]
    note = texts["note"].format(values=filters[0].numel(), how=texts["mean" if rgb is None else "rgb"],
                                numbers=numbers(filters, language) if before is None else "")
    title = texts["title"].format(p=p, n=min(count, len(filters)), d=len(filters))
    return sheet(pictures, labels, len(pictures), title, note.strip(), language)
