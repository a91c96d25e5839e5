"""What positions say by themselves: how alike the position embedding of one place is to that of every other.

Positions that are added to tokens are compared by the cosine of their vectors. Rotary ones turn queries and keys inside attention, so
they are compared by the score they induce: q·k of one constant unit vector, turned by both places (Su et al. 2021, RoFormer, §3.2).
Beside the model's own stand those of a text model, which count tokens in reading order and know no rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..drawing import charts
from ..errors import StagesError
from ..handle.backbone import Backbone, DitHandle
from ..model.position import sincos_1d
from ..model.stages import Hidden
from ..step import stages as step_stages
from .attention_rows import within
from .similarity import cosines

KINDS = {"2-D sin-cos": {"en": "2-D sines and cosines, fixed", "zh": "二维正弦余弦，固定"},
         "learned": {"en": "learned, one vector a place", "zh": "学到的，每个位置一个向量"},
         "rotary": {"en": "rotary, the score it induces", "zh": "旋转式，它引出的分数"}}
THETA = 10000.0  # of RoPE, as in RoFormer and Llama
SIDE = 300


@dataclass(frozen=True)
class Similarity:
    """own, text [t·h, w]: of the query's place to all, by the model's positions and by a text model's. grid: (h, w) or (t, h, w)."""
    own: Tensor
    text: Tensor
    query: int
    grid: tuple[int, ...]
    kind: str


def turned(table: Tensor) -> Tensor:
    """A constant unit vector turned by every place of a rotary table: [N, head_dim/2, 2, 2] → [N, head_dim]. Su et al. 2021, §3.2."""
    return (table[..., 0] / table.shape[1] ** 0.5).flatten(1)  # (1, 0) in every plane: what it is turned to is the first column


def rotary_1d(width: int, positions: Tensor) -> Tensor:
    """The rotary table of positions in a line: [N] → [N, width/2, 2, 2]. Su et al. 2021, §3.2.2."""
    angle = positions.double()[:, None] * THETA ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    return torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).unflatten(-1, (2, 2))


def rotary_table(position: object, name: str) -> Tensor:
    """A step's rotary table over its whole sequence, of the first in the batch: → [L, head_dim/2, 2, 2]. Raises StagesError."""
    if not isinstance(position, Tensor) or position.dim() != 6 or position.shape[-2:] != (2, 2) or 1 not in position.shape[1:3]:
        form = list(position.shape) if isinstance(position, Tensor) else type(position).__name__
        raise StagesError(f"the rotary positions of {name} have a form that is not known here: {form}")
    return position[0].flatten(0, 1)


def positions_of(dit: DitHandle, x: dict) -> tuple[Tensor, str]:
    """What the model's positions make of each place of the picture: DIT_TOKENS or DIT_HIDDEN → vectors [N, D], their kind. Raises StagesError."""
    stages = dit.stages
    if stages.positions == "none":
        raise StagesError(f"{dit.name} has no positions")
    if "hidden" not in x:
        dit.check_tokens(x)
        if not isinstance(dit, Backbone):
            raise StagesError(f"{dit.name} lays out positions in a step that has begun: give the hidden states after Patch Embed")
        x = step_stages.patch_embed(dit, x)
    step_stages.check(dit, x, "patches")
    hidden: Hidden = x["hidden"]
    if stages.positions != "rotary":
        return stages.position_embed(hidden.but(x=torch.zeros_like(hidden.x[:1]))).x[0], stages.positions
    placed = hidden if hidden.position is not None else stages.position_embed(hidden)
    tokens = x["tokens"]["tokens"].shape[1]
    # a table may run over text and picture or over the picture alone
    keys = next(found for found in stages.attentions(placed, tokens) if found.keys.get("image"))
    table = rotary_table(placed.position, dit.name)
    if len(table) < keys.length:
        raise StagesError(f"the rotary positions of {dit.name} are {len(table)}, its attention has {keys.length} places")
    return turned(table[keys.keys["image"].start:keys.keys["image"].stop]), "rotary"


def compare_positions(dit: DitHandle, x: dict, query: int) -> Similarity:
    """Positions of one place against all others: DIT_TOKENS or DIT_HIDDEN → Similarity. Raises StagesError, BackboneError."""
    wire = x["tokens"] if "hidden" in x else x
    grid, count = tuple(wire["grid"]), wire["tokens"].shape[1]
    within([query], range(count), "image", {"tokens": wire})
    vectors, kind = positions_of(dit, x)
    width, places = vectors.shape[1], torch.arange(count)
    of_text = turned(rotary_1d(width, places)) if kind == "rotary" else sincos_1d(width, places)
    laid = [cosines(each.cpu()[None], query)[0].view(-1, grid[-1]) for each in (vectors, of_text)]
    return Similarity(*laid, query, grid, kind)


def maps(found: Similarity) -> Tensor:
    """The model's own as a MASK, 0..1: → [t or 1, h, w]. What is unlike or opposite is 0."""
    return found.own.clamp(0, 1).view(-1, *found.grid[-2:])


@charts.drawn
def drawing(found: Similarity, name: str, language: str) -> Tensor:
    """Both side by side, the query's place framed: → [1, H, W, 3]. Of a video the frame that holds the query."""
    *_, h, w = found.grid
    frame, place = divmod(found.query, h * w)
    pictures, low = [], min(found.own.min().item(), found.text.min().item())
    for values in (found.own, found.text):
        picture = charts.marked(charts.heat(values.view(-1, h, w)[frame], SIDE, low, 1.0), (h, w), place)
        score = {"en": "score" if found.kind == "rotary" else "cosine", "zh": "分数" if found.kind == "rotary" else "余弦"}
        pictures.append(torch.cat([picture, charts.scale_bar(low, 1.0, charts.in_language(score, language), picture.shape[1], language=language)]))
    labels = [charts.in_language(KINDS[found.kind], language),
              charts.in_language({"en": "as in a text model: 1-D, reading order", "zh": "像文本模型那样：一维，阅读顺序"}, language)]
    row, column = place // w, place % w
    at = {"en": f", frame {frame}" if len(found.grid) == 3 else "", "zh": f"，第 {frame} 帧" if len(found.grid) == 3 else ""}
    title = charts.in_language({"en": f"Positions like that of token {found.query} (row {row}, column {column}{at['en']})",
                                "zh": f"与 token {found.query}（第 {row} 行第 {column} 列{at['zh']}）的位置相像的位置"}, language)
    note = charts.in_language({"en": f"{name}; a grid of {' by '.join(map(str, found.grid))} tokens",
                               "zh": f"{name}；{'×'.join(map(str, found.grid))} 个 token 的网格"}, language)
    return charts.sheet(pictures, labels, 2, title, note, language, 1)[None]


def described(found: Similarity, language: str) -> str:
    """In words: how alike the neighbours in a row and in a column are, by both."""
    *_, h, w = found.grid
    place = found.query % (h * w)
    right, below = ((found.query + 1) if place % w < w - 1 else found.query - 1, (found.query + w) if place // w < h - 1 else found.query - w)

    def values(of: Tensor) -> tuple[str, str]:
        flat = of.flatten()
        return tuple(f"{flat[i]:.3f}" if 0 <= i < len(flat) and flat.numel() > 1 else "–" for i in (right, below))
    own, text = values(found.own), values(found.text)
    return charts.in_language({
        "en": f"neighbour in the row {own[0]}, in the column {own[1]}; as in a text model {text[0]} and {text[1]}",
        "zh": f"同一行的相邻位置 {own[0]}，同一列的 {own[1]}；像文本模型那样则为 {text[0]} 和 {text[1]}"}, language)
