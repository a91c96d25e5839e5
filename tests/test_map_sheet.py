"""Where a picture says that its maps are, the tokens are, each at its place: what the editor frames under the mouse."""

from dataclasses import replace

import numpy as np
from PIL import Image
import pytest
from test_attention import PLENTY, embedded_step, text
import torch
from torch import Tensor

from dit_blocks.dit_impl.drawing import charts
from dit_blocks.dit_impl.see import (
    attention_maps,
    attention_pictures,
    concept_pictures,
    content_place,
    position_similarity,
    responses,
    similarity,
)
from dit_blocks.dit_impl.see.attention_maps import DIRECTIONS, Question
from dit_blocks.dit_impl.see.concept_map import ConceptMaps
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.nodes.attention import AttentionMap, AttentionSteps, PositionSimilarity
from dit_blocks.nodes.concepts import ConceptMap
from dit_blocks.nodes.pictures import ContentAndPlace, ResponseMaps, TokenPCA
from dit_blocks.standalone.folders import current

PICTURE, VIDEO = (6, 9), (3, 2, 9)
QUERY = 25  # row 2, column 7; of the video: frame 1, row 0, column 7


@pytest.fixture(autouse=True)
def as_in_comfyui():
    with torch.inference_mode():
        yield


def seen(grid, direction="image to image"):
    dit, wire = embedded_step((12, 18))
    found = attention_maps.attention_map(dit, wire, Question(0, -1, direction, QUERY if direction == "image to image" else 3), PLENTY)[1]
    return replace(found, grid=grid, shares=torch.rand(6, 9))


def drawn(kind: str, grid: tuple, language: str) -> tuple:
    """A picture, and what each of its maps shows, over all frames: [6, 9] each."""
    frames = grid[0] if len(grid) == 3 else 1
    if kind == "attention":
        one = seen(grid)
        return attention_pictures.drawing(one, language), [one.shares] * frames
    if kind == "steps":
        steps = [seen(grid, "text to image") for _ in range(5)]
        return attention_pictures.over_steps(dict(enumerate(steps)), torch.linspace(1, 0, 9), language), \
            [one.shares for one in steps for _ in range(frames)]
    if kind == "positions":
        one = position_similarity.Similarity(torch.rand(6, 9), torch.rand(6, 9), QUERY, grid, "rotary")
        return position_similarity.drawing(one, language), [one.own, one.text]
    maps = ConceptMaps(("a", "b", "c"), torch.randn(4, 54), (0,), grid)
    return concept_pictures.drawing(maps, language), [one for one in maps.shares for _ in range(frames)]


def pixels(picture: Tensor, facts: dict, down: float, across: float) -> list[Tensor]:
    """The pixel at a place within each cell, of each map: [rows, columns, 3] each."""
    (height, width), (rows, columns) = picture.shape[:2], facts["grid"]
    found = []
    for box in (one["box"] for one in facts["maps"]):
        ys = [int((box["y"] + (row + down) / rows * box["height"]) * height + 1e-6) for row in range(rows)]
        xs = [int((box["x"] + (column + across) / columns * box["width"]) * width + 1e-6) for column in range(columns)]
        found.append(picture[ys][:, xs])
    return found


@pytest.mark.parametrize("language", charts.LANGUAGES)
@pytest.mark.parametrize("grid", [PICTURE, VIDEO])
@pytest.mark.parametrize("kind", ["attention", "steps", "positions", "concepts"])
def test_every_token_is_where_the_facts_say(kind, grid, language):
    sheet, values = drawn(kind, grid, language)
    facts = sheet.facts(QUERY)
    count = facts["grid"][0] * facts["grid"][1]
    assert facts["grid"] == list(grid[-2:]) and len(facts["maps"]) == len(values)
    marked = kind in ("attention", "positions")
    for inside in (0.5,) if marked else (0, 0.5, 0.99):  # the same colour up to the edges of a cell
        for cells, told, of in zip(pixels(sheet.image[0], facts, inside, inside), facts["maps"], values):
            shown = of.flatten()[told["first"]:told["first"] + count]
            assert torch.corrcoef(torch.stack([cells.mean(-1).flatten(), shown]))[0, 1] > 0.97
    if marked:  # the first pixel of a cell is the frame's, on the query alone
        for cells, told in zip(pixels(sheet.image[0], facts, 0, 0), facts["maps"]):
            framed = [told["first"] + i for i, cell in enumerate(cells.flatten(0, 1)) if cell.max() == 0]
            assert framed == ([QUERY] if told["first"] <= QUERY < told["first"] + count else [])
        assert any(told["first"] <= QUERY < told["first"] + count for told in facts["maps"])


def test_the_nodes_tell_of_the_picture_that_they_saved():
    dit, wire = embedded_step((12, 18))
    asked = {"dit": dit, "hidden": wire, "block": 0, "head": -1, "direction": "image to image", "query": QUERY, "word": "", "language": "English"}
    tokens, sigmas = wire["tokens"], dit.schedule(4)
    answers = {
        "map": AttentionMap.execute(**asked),
        "steps": AttentionSteps.execute(tokens=tokens, sigmas=sigmas, positive=text("a red ring"), cfg=1.0, solver="euler", at_steps="0,2",
                                        **{name: value for name, value in asked.items() if name != "hidden"}),
        "positions": PositionSimilarity.execute(dit=dit, x=tokens, query=QUERY, language="English"),
        "concepts": ConceptMap.execute(dit=dit, hidden=wire, clip=load_embedded()[1], concepts="red ring\nsquare", against="background", blocks="all", concept=0,
                                       threshold=0.5, grow=0, language="English"),
    }
    counts = {"map": 1, "steps": 2, "positions": 2, "concepts": 2}
    for name, answer in answers.items():
        (facts,), (file,) = answer.ui["dit_blocks"], answer.ui["images"]
        assert facts["sheet"] == file and facts["grid"] == [6, 9] and len(facts["maps"]) == counts[name]
        assert facts["query"] == (None if name == "concepts" else QUERY)
        saved = torch.from_numpy(np.array(Image.open(current().temp / file["subfolder"] / file["filename"]).convert("RGB"))) / 255
        assert (saved - answer.result[0][0]).abs().max() < 0.01
        cells = pixels(saved, facts, 0.5, 0.5)[0].mean(-1).flatten()  # of the first map, whose values are the output's
        assert torch.corrcoef(torch.stack([cells, answer.result[1][0].flatten()]))[0, 1] > 0.9


def coloured(kind: str, grid: tuple, language: str, padded: int = 0) -> tuple:
    """A picture, and the colours of its maps, as the facts tell of them: [rows, columns, 3] each."""
    *_, h, w = grid
    wire = {**load_embedded()[0].fold({"samples": torch.randn(2, 16, 12, 18)}), "grid": grid}
    if kind == "components":
        one = similarity.pca(wire, language)
        lengths = charts.colours(one.norms, one.norms.min().item(), one.norms.max().item())
        return one.sheet, [of[i] for i in range(len(lengths)) for of in (one.colours, lengths)]
    if kind == "responses":
        one = responses.response_maps(wire, 6, language)
        return one.sheet, list(charts.colours(one.maps, -responses.FARTHEST, responses.FARTHEST, signed=True))
    similar, x0 = {name: torch.rand(h, w) * 2 - 1 for name in ("content", "place", "sum")}, {"whole": wire, "no place": wire}
    noisy, cells = {**wire, "size": (2 * h - padded, 2 * w)}, torch.rand(3, h, w, 3)
    answer = content_place.Answer(similarity.grid_of(wire), QUERY, 0.5, similar, dict.fromkeys(similar, torch.rand(54)), noisy, x0, dict.fromkeys(x0, 0.1))
    decoded = {name: charts.enlarged(one, 100) for name, one in zip(("noisy", *x0), cells)}
    maps = [charts.colours(one, -1, 1, signed=True) for one in similar.values()]
    return content_place.drawing(answer, decoded, language), maps + ([] if padded else list(cells))


@pytest.mark.parametrize("language", charts.LANGUAGES)
@pytest.mark.parametrize("grid", [PICTURE, VIDEO])
@pytest.mark.parametrize("kind", ["components", "responses", "content"])
def test_every_colour_is_where_the_facts_say(kind, grid, language):
    sheet, maps = coloured(kind, grid, language)
    facts = sheet.facts(QUERY if kind == "content" else None)
    frame, place = divmod(QUERY, grid[-2] * grid[-1]) if kind == "content" else (0, None)
    firsts = {one["first"] for one in facts["maps"]}
    assert facts["grid"] == list(grid[-2:]) and len(facts["maps"]) == len(maps)
    frames = {0, 18, 36} if kind == "components" else {0, frame * 18}
    assert firsts == (frames if grid == VIDEO else {0})
    for inside in (0.1, 0.5, 0.9):
        for i, (cells, known) in enumerate(zip(pixels(sheet.image[0], facts, inside, inside), maps)):
            wrong = ((cells - known).abs().amax(-1) > 0.02).flatten().nonzero().flatten().tolist()
            assert wrong == ([place] if kind == "content" and i < 3 and inside != 0.5 else [])  # which has a frame on it


def test_pictures_of_padded_tokens_are_no_maps():
    assert len(coloured("content", PICTURE, "English", padded=1)[0].corners) == 3


def test_the_nodes_tell_of_colours_that_they_saved():
    dit, wire = embedded_step((12, 18))
    tokens, language = wire["tokens"], {"language": "English"}
    both = TokenPCA.execute(x=wire, **language)
    answers = {"components": (both, 2 * len(both.result[0])), "responses": (ResponseMaps.execute(x=wire, count=5, **language), 5),
               "content": (ContentAndPlace.execute(dit=dit, tokens=tokens, sigmas=dit.schedule(4), step=1, positive=text("a red ring"), cfg=1.0, seed=0,
                                                   vae=load_embedded()[2], query=QUERY, **language), 9)}
    for name, (answer, count) in answers.items():
        (facts,), (file,) = answer.ui["dit_blocks"], answer.ui["images"]
        assert facts["sheet"] == file and facts["grid"] == [6, 9] and len(facts["maps"]) == count
        assert facts["query"] == (QUERY if name == "content" else None)
    (facts,), (file,) = both.ui["dit_blocks"], both.ui["images"]
    saved = torch.from_numpy(np.array(Image.open(current().temp / file["subfolder"] / file["filename"]).convert("RGB"))) / 255
    for cells, known in zip(pixels(saved, facts, 0.5, 0.5)[::2], both.result[1]):
        assert (cells - known).abs().max() < 0.01


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("word", ["", "ring"])
def test_a_query_is_told_where_it_is_an_image_token(direction, word):
    of_picture = direction == "image to image" or direction == "image to text" and not word
    assert Question(0, -1, direction, 7, word).of_picture() == (7 if of_picture else None)


def test_bars_are_no_maps():
    dit, wire = embedded_step((12, 18))
    bars = attention_maps.attention_map(dit, wire, Question(0, -1, "image to text", QUERY), PLENTY)[1]
    assert attention_pictures.drawing(bars, "English").facts(QUERY) == {"grid": [6, 9], "maps": [], "query": QUERY}
    assert attention_pictures.over_steps({0: bars, 1: bars}, torch.linspace(1, 0, 3), "English").facts()["maps"] == []
