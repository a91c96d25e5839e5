"""Concept maps as a picture and in words."""

import torch
from torch import Tensor

from ..drawing import charts
from ..tokens.numbers import in_words
from .concept_map import ConceptMaps

SIDE = 224


@charts.drawn
def drawing(maps: ConceptMaps, language: str = "English") -> Tensor:
    """A heat map for each concept with its name below, on one scale: → [1, H, W, 3]."""
    shares = maps.shares * 100
    titles = {"en": f"Where the model sees each concept, mean of blocks {in_words(list(maps.blocks))}",
              "zh": f"模型在哪里看到每个概念，第 {in_words(list(maps.blocks))} 块的平均"}
    pictures = [charts.heat(share, SIDE, 0.0, 100.0) for share in shares]
    sheet = charts.sheet(pictures, list(maps.names), charts.columns_within(pictures[0].shape[1]), charts.in_language(titles, language), "", language, 1)
    unit = charts.in_language({"en": "% of a place that is the concept's", "zh": "一处属于这个概念的百分比"}, language)
    return torch.cat([sheet, charts.scale_bar(0.0, 100.0, unit, sheet.shape[1], language=language)])[None]


def described(maps: ConceptMaps, threshold: float, language: str = "English") -> str:
    """A line for each concept: its number, its name and how much of the picture is its own."""
    covered = (maps.shares > threshold).float().mean((1, 2)).tolist()
    return "\n".join(charts.in_language({"en": f"{i} {name}: {part:.1%} of the picture has a share above {threshold:g}",
                                         "zh": f"{i} {name}：画面的 {part:.1%} 所占的份额高于 {threshold:g}"}, language)
                     for i, (name, part) in enumerate(zip(maps.names, covered)))
