"""Costs for people to read: the same transformer with and without patches, as a table and as a chart."""

from itertools import groupby
import math

from torch import Tensor

from ..drawing import charts
from .arithmetic import Architecture, Budget, with_and_without_patches

WORDS = {
    "on": {"en": "{on}, {how}", "zh": "{on}，{how}"}, "latent": {"en": "latent", "zh": "latent"}, "pixels": {"en": "pixels", "zh": "像素"},
    "patches": {"en": "p = {p}", "zh": "p = {p}"}, "no patches": {"en": "no patches", "zh": "无图块"},
    "columns": {"en": "tokens|values|sequence|{unit} a step|attention|weights|activations", "zh": "token 数|值|序列|每步 {unit}|注意力|权重|激活"},
    "stages": {"en": "in the blocks {blocks}, after them {head}, elsewhere {rest}", "zh": "各块 {blocks}，其后 {head}，其余 {rest}"},
    "each": {"en": "{path}: {cost} each", "zh": "{path}：各 {cost}"}, "one": {"en": "{path}: {cost}", "zh": "{path}：{cost}"},
    "chart": {"en": "{unit} a step, on a logarithmic axis", "zh": "每步 {unit}，对数轴"},
    "bar": {"en": "{cost}, {share:.0%} attention", "zh": "{cost}，注意力占 {share:.0%}"},
}


def why_patches(shape: Architecture, width: int, height: int, patch_size: int = 0, language: str = "English",
                **how) -> list[tuple[str, Budget]]:
    """The same transformer on latents and on pixels, with and without patches: → (label, budget) each. how: see `arithmetic.budget`."""
    texts = _words(language)
    ways = (texts["patches"].format(p=patch_size or shape.patch_size), texts["no patches"])
    labels = [texts["on"].format(on=texts[space], how=way) for space in ("latent", "pixels") for way in ways]
    budgets = with_and_without_patches(shape, width, height, patch_size, **how)
    return [(label, one) for label, one in zip(labels[-len(budgets):], budgets) if one is not None]


def _words(language: str) -> dict[str, str]:
    return {name: charts.in_language(words, language) for name, words in WORDS.items()}


def _short(number: float, unit: str) -> str:
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.2f} {prefix}{unit}"
    return f"{number:.0f} {unit}"


def table(rows: list[tuple[str, Budget]], unit: str = "FLOPs", language: str = "English") -> str:
    """A text table with a line for each row.

    Columns: tokens, values in a token, sequence with text, cost of a step, attention's share of it, weights, activations. unit: "FLOPs" or
    "MACs".
    """
    factor = {"FLOPs": 2, "MACs": 1}[unit]
    lines = [["", *_words(language)["columns"].format(unit=unit).split("|")]]
    for label, b in rows:
        shown = (b.frames, *b.grid) if b.frames > 1 else b.grid
        tokens, cost = f"{b.tokens:,} ({'×'.join(map(str, shown))})", _short(b.macs * factor, unit[:-1])
        lines.append([label, tokens, str(b.values), f"{b.sequence:,}", cost,
                      f"{b.attention / b.macs:.0%}", _short(b.weights, "B"), _short(b.activations, "B")])

    widths = [max(map(_wide, column)) + 2 for column in zip(*lines)]
    rows_of_cells = [(label, zip(widths[1:], cells)) for label, *cells in lines]
    return "\n".join(label + " " * (widths[0] - _wide(label)) + "".join(" " * (width - _wide(cell)) + cell for width, cell in cells)
                     for label, cells in rows_of_cells)


def by_stage(b: Budget, unit: str = "FLOPs", language: str = "English") -> str:
    """Where a step's cost arises, in lines: in the blocks, in the final layer after them, elsewhere; then block by block, where that is known."""
    factor, texts = {"FLOPs": 2, "MACs": 1}[unit], _words(language)

    def cost(macs: int) -> str:
        return f"{_short(macs * factor, unit[:-1])} ({macs / b.macs:.1%})"
    lines = [texts["stages"].format(blocks=cost(b.blocks), head=cost(b.head), rest=cost(b.macs - b.blocks - b.head))]
    for (folder, macs), alike in groupby(b.spent, lambda one: (one[0].rpartition(".")[0], one[1])):
        names = [path.rpartition(".")[2] for path, _ in alike]
        path = f"{folder}.{names[0]}" + (f"–{names[-1]}" if len(names) > 1 else "")
        lines.append(texts["each" if len(names) > 1 else "one"].format(path=path, cost=cost(macs)))
    return "\n".join(lines)


def _wide(text: str) -> int:
    """How many columns a text takes; a Chinese character takes two."""
    return sum(2 if ord(sign) > 0x2e80 else 1 for sign in text)


@charts.drawn
def chart(rows: list[tuple[str, Budget]], unit: str = "FLOPs", language: str = "English", width: int = 416) -> Tensor:
    """A bar for each row on a logarithmic axis, with attention's share in words, since lengths on it can't be added: → [1, H, width, 3] in 0..1."""
    texts, factor, room, face = _words(language), {"FLOPs": 2, "MACs": 1}[unit], 62, charts.font(charts.TEXT, language == "中文")
    picture, draw = charts.canvas(width, 48 + room * len(rows))
    low, high = (math.log10(pick(b.macs for _, b in rows)) - less for pick, less in ((min, 1), (max, 0)))
    draw.text((12, 10), texts["chart"].format(unit=unit), fill=charts.INK, font=face)
    for i, (label, b) in enumerate(rows):
        y, length = 44 + i * room, (math.log10(b.macs) - low) / (high - low) * (width - 24)
        draw.text((12, y + 10), label, fill=charts.INK, font=face, anchor="lm")
        said = texts["bar"].format(cost=_short(b.macs * factor, unit[:-1]), share=b.attention / b.macs)
        draw.text((width - 12, y + 10), said, fill=charts.INK, font=face, anchor="rm")
        draw.rectangle([12, y + 24, 12 + length, y + 46], fill=charts.CURVES[0])
    return charts.as_tensor(picture)[None]
