"""Concept maps as a picture and in words."""

import torch

from ..drawing import charts
from ..drawing.map_sheet import MapSheet
from ..tokens.numbers import in_words
from .concept_map import ConceptMaps

SIDE = 192


@charts.drawn
def drawing(maps: ConceptMaps, language: str = "English") -> MapSheet:
    """A heat map for each concept with its name below, on one scale. The frames of a video are below each other."""
    shares = maps.shares * 100
    titles = {"en": f"Concept shares, mean of blocks {in_words(list(maps.blocks))}",
              "zh": f"各概念的份额，第 {in_words(list(maps.blocks))} 块的平均"}
    pictures = [charts.heat(share, SIDE, 0.0, 100.0) for share in shares]
    columns = min(charts.columns_within(pictures[0].shape[1]), 2 if len(shares) <= 4 else 3)
    sheet, corners = charts.sheet_and_corners(pictures, list(maps.names), columns, charts.in_language(titles, language), "", language, 1)
    unit = charts.in_language({"en": "% of a place", "zh": "一处的 %"}, language)
    whole = torch.cat([sheet, charts.scale_bar(0.0, 100.0, unit, sheet.shape[1], language=language)])[None]
    *_, h, w = maps.grid
    frames = shares.shape[1] // h
    tall = len(pictures[0]) // frames
    return MapSheet(whole, (h, w), (pictures[0].shape[1], tall), [(x, y + i * tall, i * h * w) for x, y in corners for i in range(frames)])


def described(maps: ConceptMaps, threshold: float, language: str = "English") -> str:
    """A line for each concept: its number, its name and how much of the picture is its own."""
    covered = (maps.shares > threshold).float().mean((1, 2)).tolist()
    return "\n".join(charts.in_language({"en": f"{i} {name}: {part:.1%} of the picture has a share above {threshold:g}",
                                         "zh": f"{i} {name}：画面的 {part:.1%} 所占的份额高于 {threshold:g}"}, language)
                     for i, (name, part) in enumerate(zip(maps.names, covered)))
