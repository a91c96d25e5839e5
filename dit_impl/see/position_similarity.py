"""How similar the position embedding of one token is to those of all others.

Positions that are added to tokens are compared by the cosine of their vectors. Rotary positions rotate queries and keys inside attention,
so they are compared by the score they cause: q·k of one constant unit vector, rotated by both positions (Su et al. 2021, RoFormer, §3.2).
The positions of a text model, which count tokens in reading order and have no rows, are shown for comparison.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..drawing import charts
from ..drawing.map_sheet import MapSheet
from ..errors import StagesError
from ..handle.backbone import Backbone, DitHandle
from ..model.position import sincos_1d
from ..model.stages import Hidden
from ..step import stages as step_stages
from ..tokens.wire_types import AnyWire
from .attention_rows import within
from .similarity import cosines

KINDS = {"2-D sin-cos": {"en": "2-D sines and cosines, fixed", "zh": "二维正弦余弦，固定"},
         "learned": {"en": "learned, one vector for each token", "zh": "学到的，每个位置一个向量"},
         "rotary": {"en": "rotary, the score it causes", "zh": "旋转式，它引出的分数"}}
THETA = 10000.0  # the base of RoPE, as in RoFormer and Llama
SIDE = 176


@dataclass(frozen=True)
class Similarity:
    """own, text [t·h, w]: similarity of the query's position to all, by the model and by a text model. grid: (h, w) or (t, h, w)."""
    own: Tensor
    text: Tensor
    query: int
    grid: tuple[int, ...]
    kind: str


def turned(table: Tensor) -> Tensor:
    """A constant unit vector, rotated by every entry of a rotary table: [N, head_dim/2, 2, 2] → [N, head_dim]. Su et al. 2021, §3.2."""
    return (table[..., 0] / table.shape[1] ** 0.5).flatten(1)  # (1, 0) in every plane, so the result is the first column


def rotary_1d(width: int, positions: Tensor) -> Tensor:
    """The rotary table for 1-D positions: [N] → [N, width/2, 2, 2]. Su et al. 2021, §3.2.2."""
    angle = positions.double()[:, None] * THETA ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    return torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).unflatten(-1, (2, 2))


def rotary_table(position: object, name: str) -> Tensor:
    """A step's rotary table for its whole sequence, from the first sample: → [L, head_dim/2, 2, 2]. Raises StagesError."""
    if not isinstance(position, Tensor) or position.dim() != 6 or position.shape[-2:] != (2, 2) or 1 not in position.shape[1:3]:
        form = list(position.shape) if isinstance(position, Tensor) else type(position).__name__
        raise StagesError(f"the rotary positions of {name} have an unknown form: {form}")
    return position[0].flatten(0, 1)


def positions_of(dit: DitHandle, x: AnyWire) -> tuple[Tensor, str]:
    """The model's position vector for each image token: DIT_TOKENS or DIT_HIDDEN → vectors [N, D], their kind. Raises StagesError."""
    stages = dit.stages.over(x["hidden"]) if "hidden" in x else dit.stages
    stages.check_apart("positions")
    if stages.positions == "none":
        raise StagesError(f"{dit.name} has no positions")
    if "hidden" not in x:
        dit.check_tokens(x)
        if not isinstance(dit, Backbone):
            raise StagesError(f"{dit.name} makes positions only after DiT Condition: wire the hidden states after Patch Embed")
        x = step_stages.patch_embed(dit, x)
    step_stages.check(dit, x, "patches")
    hidden: Hidden = x["hidden"]
    if stages.positions != "rotary":
        return stages.position_embed(hidden.but(x=torch.zeros_like(hidden.x[:1]))).x[0], stages.positions
    placed = hidden if hidden.position is not None else stages.position_embed(hidden)
    tokens = x["tokens"]["tokens"].shape[1]
    # a table may cover text and picture, or only the picture
    keys = next(found for found in stages.attentions(placed, tokens) if found.keys.get("image"))
    table = rotary_table(placed.position, dit.name)
    if len(table) < keys.length:
        raise StagesError(f"{dit.name} has {len(table)} rotary positions, but its attention has {keys.length} keys")
    return turned(table[keys.keys["image"].start:keys.keys["image"].stop]), "rotary"


def compare_positions(dit: DitHandle, x: AnyWire, query: int) -> Similarity:
    """Compare one token's position with all others: DIT_TOKENS or DIT_HIDDEN → Similarity. Raises StagesError, BackboneError."""
    wire = x["tokens"] if "hidden" in x else x
    grid, count = tuple(wire["grid"]), wire["tokens"].shape[1]
    within([query], range(count), "image", grid)
    vectors, kind = positions_of(dit, x)
    width, places = vectors.shape[1], torch.arange(count)
    of_text = turned(rotary_1d(width, places)) if kind == "rotary" else sincos_1d(width, places)
    both = [cosines(each.cpu()[None], query)[0].view(-1, grid[-1]) for each in (vectors, of_text)]
    return Similarity(*both, query, grid, kind)


def maps(similarity: Similarity) -> Tensor:
    """The model's similarities as a MASK in 0..1: → [t or 1, h, w]. Negative values become 0."""
    return similarity.own.clamp(0, 1).view(-1, *similarity.grid[-2:])


@charts.drawn
def drawing(similarity: Similarity, language: str) -> MapSheet:
    """Both maps side by side, with a mark on the query. For a video, the frame with the query."""
    *_, h, w = similarity.grid
    frame, place = divmod(similarity.query, h * w)
    low = min(similarity.own.min().item(), similarity.text.min().item())
    maps = [charts.marked(charts.heat(values.view(-1, h, w)[frame], SIDE, low, 1.0), (h, w), place) for values in (similarity.own, similarity.text)]
    pictures = []
    for picture in maps:
        score = {"en": "score" if similarity.kind == "rotary" else "cosine", "zh": "分数" if similarity.kind == "rotary" else "余弦"}
        pictures.append(torch.cat([picture, charts.scale_bar(low, 1.0, charts.in_language(score, language), picture.shape[1], language=language)]))
    labels = [charts.in_language(KINDS[similarity.kind], language),
              charts.in_language({"en": "as in a text model: 1-D, reading order", "zh": "像文本模型那样：一维，阅读顺序"}, language)]
    row, column = place // w, place % w
    at = {"en": f", frame {frame}" if len(similarity.grid) == 3 else "", "zh": f"，第 {frame} 帧" if len(similarity.grid) == 3 else ""}
    title = charts.in_language({"en": f"Positions like that of token {similarity.query} (row {row}, column {column}{at['en']})",
                                "zh": f"与 token {similarity.query}（第 {row} 行第 {column} 列{at['zh']}）的位置相像的位置"}, language)
    sheet, corners = charts.sheet_and_corners(pictures, labels, 2, title, "", language, 1)
    return MapSheet(sheet[None], (h, w), (maps[0].shape[1], len(maps[0])), [(x, y, frame * h * w) for x, y in corners])


def described(similarity: Similarity, language: str) -> str:
    """How similar the neighbours in the row and in the column are, in words."""
    *_, h, w = similarity.grid
    place = similarity.query % (h * w)
    right = similarity.query + (1 if place % w < w - 1 else -1)
    below = similarity.query + (w if place // w < h - 1 else -w)

    def values(of: Tensor) -> tuple[str, str]:
        flat = of.flatten()
        return tuple(f"{flat[i]:.3f}" if 0 <= i < len(flat) and flat.numel() > 1 else "–" for i in (right, below))
    own, text = values(similarity.own), values(similarity.text)
    return charts.in_language({
        "en": f"neighbour in the row {own[0]}, in the column {own[1]}; as in a text model {text[0]} and {text[1]}",
        "zh": f"同一行的相邻位置 {own[0]}，同一列的 {own[1]}；像文本模型那样则为 {text[0]} 和 {text[1]}"}, language)
