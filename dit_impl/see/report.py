"""A report on a pipeline: shapes, values, compression, sequence lengths with and without VAE and patches, and FLOPs."""

from dataclasses import dataclass
from fractions import Fraction
import math

from torch import Tensor

from ..cost.arithmetic import Budget, architecture, with_and_without_patches
from ..cost.fitted import CountedNow
from ..drawing import charts
from ..drawing.charts import in_language
from ..errors import BackboneError
from ..handle.backbone import DitHandle
from ..tokens.edit import values
from ..tokens.patch import token_grid
from ..tokens.wire_types import DitHidden, DitTokens

WIDTH = 704
FAMILIAR = ((512, 512, 3), (64, 64, 4))  # the picture and latent of Stable Diffusion 1 and 2: 1/48 of the values
WORDS = {
    "title": {"en": "From pixels to tokens", "zh": "从像素到 token"},
    "image": {"en": "image", "zh": "图片"}, "latent": {"en": "latent", "zh": "latent"},
    "tokens": {"en": "tokens", "zh": "token"}, "hidden": {"en": "hidden", "zh": "隐藏状态"},
    "pixels of": {"en": "pixels of {each} values", "zh": "个像素，每个 {each} 个值"},
    "cells of": {"en": "cells of {each} channels", "zh": "个格子，每个 {each} 个通道"},
    "patches of": {"en": "patches of {p}×{p} cells, {each} values each", "zh": "个 {p}×{p} 的图块，每个 {each} 个值"},
    "pixel patches of": {"en": "patches of {p}×{p} pixels, {each} values each", "zh": "个 {p}×{p} 像素的图块，每个 {each} 个值"},
    "vectors of": {"en": "vectors of {each} values", "zh": "个向量，每个 {each} 个值"},
    "of values": {"en": "{count:,} values", "zh": "{count:,} 个值"},
    "batch": {"en": "batch of {batch}", "zh": "批次 {batch}"},
    "permutation": {"en": "the same values, cut and reordered: patches compress nothing", "zh": "同样的值，只是切开重排：图块不压缩任何东西"},
    "share": {"en": "{share} of the image's values: it is the VAE that compresses", "zh": "图片值数的 {share}：压缩发生在 VAE"},
    "familiar": {"en": "for comparison, Stable Diffusion 1: {picture} → {latent} is {share}",
                 "zh": "作为比较，Stable Diffusion 1：{picture} → {latent} 是 {share}"},
    "text": {"en": "and {text} text tokens", "zh": "另有 {text} 个文本 token"},
    "sequence": {"en": "Sequence length of one picture, logarithmic{flops}", "zh": "一张图片的序列长度，对数轴{flops}"},
    "flops": {"en": ", and FLOPs of one step of {name}", "zh": "，以及 {name} 一步的 FLOPs"},
    "unknown": {"en": "FLOPs are left out: {why}", "zh": "没有 FLOPs：{why}"},
    "no dit": {"en": "no dit is wired", "zh": "没有接 dit"},
    "in tokens": {"en": "{tokens:,} tokens", "zh": "{tokens:,} 个 token"},
    "latent, p": {"en": "latent, patches of {p}×{p}", "zh": "latent，{p}×{p} 图块"},
    "latent, 1": {"en": "latent, no patches", "zh": "latent，无图块"},
    "pixels, p": {"en": "pixels, patches of {p}×{p}", "zh": "像素，{p}×{p} 图块"},
    "pixels, 1": {"en": "pixels, no patches", "zh": "像素，无图块"},
}
CASES = ("latent, p", "latent, 1", "pixels, p", "pixels, 1")


@dataclass(frozen=True)
class Stage:
    """What a wire holds for one picture. shape: "32×32×16"; what: the word for its elements; count: how many; each: values in one."""
    name: str
    shape: str
    what: str
    count: int
    each: int
    batch: int
    note: str = ""

    @property
    def values(self) -> int:
        return self.count * self.each


@dataclass(frozen=True)
class Report:
    """stages: of the connected wires. share: the latent's values divided by the image's. sequence: (case, tokens, budget if known) each.
    why: why there are no FLOPs, or "". name: of the model."""
    stages: list[Stage]
    share: Fraction | None
    sequence: list[tuple[str, int, Budget | None]]
    patch_size: int
    why: str
    name: str


def _times(*sizes: int) -> str:
    return "×".join(map(str, sizes))


def share_of(part: int, whole: int) -> Fraction:
    """A share as a short fraction, such as 1/48."""
    return Fraction(part, whole).limit_denominator(1000)


def collect(image: Tensor | None = None, latent: dict | None = None, tokens: DitTokens | None = None, hidden: DitHidden | None = None,
            dit: DitHandle | None = None, language: str = "English") -> Report:
    """Read the connected wires: IMAGE [B, H, W, C], LATENT, DIT_TOKENS, DIT_HIDDEN → Report. Raises ValueError if nothing is wired."""
    if image is None and latent is None and tokens is None and hidden is None:
        raise ValueError("nothing is wired: wire an image, a latent, tokens or hidden states")
    texts, stages, share = {name: in_language(words, language) for name, words in WORDS.items()}, [], None
    if image is not None:
        batch, height, width, channels = image.shape
        stages.append(Stage("image", _times(height, width, channels), texts["pixels of"].format(each=channels), height * width, channels, batch))
    if latent is not None:
        batch, channels, *cells = latent["samples"].shape
        if image is not None:
            share = share_of(channels * math.prod(cells), math.prod(image.shape[1:]))
        stages.append(Stage("latent", _times(*cells, channels), texts["cells of"].format(each=channels), math.prod(cells), channels, batch,
                            texts["share"].format(share=share) if share else ""))
    if tokens is not None:
        stages.append(_tokens_stage(tokens, tokens["tokens"], "tokens", texts["permutation"], texts))
    if hidden is not None:
        context = hidden["hidden"].context
        note = "" if context is None else texts["text"].format(text=context.shape[1])
        known = values(hidden) if "patches" in hidden["done"] else hidden["tokens"]["tokens"]
        stages.append(_tokens_stage(hidden["tokens"], known, "hidden", note, texts))
    own = (tokens or (hidden or {}).get("tokens") or {}).get("patch_size") or (dit.patch_size if dit is not None else 2)
    text = None if hidden is None or hidden["hidden"].context is None else hidden["hidden"].context.shape[1]
    wire, pictured = tokens or (hidden or {}).get("tokens"), hidden is not None and bool(hidden["hidden"].extra.get("image_context"))
    sequence, why = _sequence(_pixels(image, latent, tokens, hidden, dit), own, dit, text, texts["no dit"], _frames(latent, wire), pictured)
    return Report(stages, share, sequence, own, why, dit.name if dit is not None else "")


def _tokens_stage(wire: DitTokens, tokens: Tensor, name: str, note: str, texts: dict[str, str]) -> Stage:
    """The report's row for raw tokens or hidden states [B, N, values]."""
    batch, count, each = tokens.shape
    kind = "vectors of" if name == "hidden" else "pixel patches of" if "pixels" in wire else "patches of"
    return Stage(name, _times(*wire["grid"]), texts[kind].format(p=wire["patch_size"], each=each), count, each, batch, note)


def _pixels(image: Tensor | None, latent: dict | None, tokens: DitTokens | None, hidden: DitHidden | None, dit: DitHandle | None) -> tuple[int, int, int]:
    """→ height and width of the picture, pixels to a latent cell."""
    wire = tokens or (hidden or {}).get("tokens")
    cells = tuple(latent["samples"].shape[-2:]) if latent is not None else tuple(wire["size"][-2:]) if wire and "pixels" not in wire else None
    scale = getattr(dit, "downscale", 8)
    if image is not None:
        height, width = image.shape[1:3]
        return height, width, max(1, round(height / cells[0])) if cells else scale
    if cells is None:  # patches of pixels alone
        return (*wire["size"][-2:], scale)
    return cells[0] * scale, cells[1] * scale, scale


def _frames(latent: dict | None, wire: DitTokens | None) -> int:
    """How many frames a latent has."""
    size = tuple(latent["samples"].shape[2:]) if latent is not None else wire["size"] if wire else ()
    return size[0] if len(size) == 3 else 1


def _sequence(size: tuple[int, int, int], p: int, dit: DitHandle | None, text: int | None, no_dit: str, frames: int,
              pictured: bool) -> tuple[
        list[tuple[str, int, Budget | None]], str]:
    """Sequence lengths with and without VAE and patches: → (case, tokens, budget or None) each, and why there are no budgets, or "".

    size: height, width, pixels to a cell. text: how many text tokens; None is as usual for the model. pictured: whether some are a picture's.
    """
    height, width, scale = size
    counts = [math.prod(token_grid(max(1, height // d), max(1, width // d), q)) for d, q in ((scale, p), (scale, 1), (1, p), (1, 1))]
    try:
        if dit is None:
            raise BackboneError(no_dit)
        shape = architecture(dit, frames)
        if isinstance(shape, CountedNow):  # for a prompt of its usual length
            if pictured:
                raise BackboneError(f"the prompt of {dit.name} has pictures in it, which Patch Budget counts where positive is wired")
            shape = architecture(dit, frames, text=text)
        text = None if text is None else max(0, text - shape.registers)
        budgets = with_and_without_patches(shape, width, height, p, dit.pictures_of(frames), text=text)
        return [(case, count if budget is None else budget.tokens, budget) for case, count, budget in zip(CASES, counts, budgets)], ""
    except ValueError as error:
        return [(case, count, None) for case, count in zip(CASES, counts)], str(error)


def flops(budget: Budget) -> str:
    """The FLOPs of a step in words. A multiply-add is two FLOPs."""
    count = 2.0 * budget.macs
    scale, prefix = next(((scale, prefix) for scale, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")) if count >= scale), (1e6, "M"))
    return f"{charts.number(count / scale)} {prefix}FLOPs"


def _lines(report: Report, language: str) -> list[tuple[str, str, str]]:
    """(stage, what it holds, note) for each wire."""
    texts, lines = {name: in_language(words, language) for name, words in WORDS.items()}, []
    for stage in report.stages:
        about = f"{stage.shape}: {stage.count:,} {stage.what} = {texts['of values'].format(count=stage.values)}"
        notes = [stage.note, texts["batch"].format(batch=stage.batch) if stage.batch > 1 else ""]
        lines.append((texts[stage.name], about, "; ".join(filter(None, notes))))
    return lines


def familiar(language: str) -> str:
    """A well-known compression for comparison, 1/48."""
    picture, latent = FAMILIAR
    share = share_of(math.prod(latent), math.prod(picture))
    return in_language(WORDS["familiar"], language).format(picture=_times(*picture), latent=_times(*latent), share=share)


def _heading(report: Report, language: str) -> str:
    about = "" if report.why else in_language(WORDS["flops"], language).format(name=report.name)
    return in_language(WORDS["sequence"], language).format(flops=about)


def _bar_words(report: Report, language: str) -> list[tuple[str, str]]:
    """(case, tokens and FLOPs) for each bar."""
    cases = {case: in_language(WORDS[case], language).format(p=report.patch_size) for case in CASES}
    count = in_language(WORDS["in tokens"], language)
    return [(cases[case], count.format(tokens=tokens) + (f" · {flops(budget)}" if budget else "")) for case, tokens, budget in report.sequence]


def text(report: Report, language: str = "English") -> str:
    """The report in words."""
    lines = [f"{name}: {about}" + (f" ({note})" if note else "") for name, about, note in _lines(report, language)]
    lines += [familiar(language), "", _heading(report, language)]
    lines += [f"{case}: {about}" for case, about in _bar_words(report, language)]
    return "\n".join([*lines, *([in_language(WORDS["unknown"], language).format(why=report.why)] if report.why else [])])


@charts.drawn
def drawing(report: Report, language: str = "English") -> Tensor:
    """The report as a picture, with bars for the values of each wire and for sequence lengths: → [1, H, WIDTH, 3]."""
    face, head = charts.font(charts.TEXT, language == "中文"), charts.font(charts.TEXT + 4, language == "中文")
    stages, bars, line = _lines(report, language), _bar_words(report, language), charts.TEXT + 9
    picture, draw = charts.canvas(WIDTH, 60 + (len(stages) * 6 + len(bars) + 16) * line)
    y = 10

    def write(text: str, fill: tuple[int, int, int], face=face) -> None:
        nonlocal y
        if text:
            text = charts.wrapped(text, WIDTH - 24, face)
            draw.multiline_text((12, y), text, fill=fill, font=face, spacing=line - charts.TEXT - 4)
            y += line * (text.count("\n") + 1)
    write(in_language(WORDS["title"], language), charts.INK, head)
    y += 10
    most = max(stage.values for stage in report.stages)
    for (name, about, note), stage, colour in zip(stages, report.stages, charts.CURVES):
        write(f"{name}  {about}", charts.INK)
        draw.rectangle([12, y, 12 + max(2, stage.values / most * (WIDTH - 24)), y + 12], fill=colour)
        y += 16
        write(note, charts.FAINT)
        y += 8
    write(familiar(language), charts.FAINT)
    y += 14
    write(_heading(report, language), charts.INK)
    y += 6
    left, room = 236, WIDTH - 236 - 300
    longest = math.log(max(tokens for _, tokens, _ in report.sequence) + 1)
    for i, ((case, about), (_, tokens, _)) in enumerate(zip(bars, report.sequence)):
        end = left + math.log(tokens + 1) / longest * room
        draw.text((12, y), case, fill=charts.INK, font=face)
        draw.rectangle([left, y + 2, end, y + line - 4], fill=charts.CURVES[1 if i == 0 else 0])
        draw.text((end + 8, y), about, fill=charts.INK, font=face)
        y += line + 6
    if report.why:
        write(in_language(WORDS["unknown"], language).format(why=report.why), charts.FAINT)
    return charts.as_tensor(picture)[None, :y + 12]
