"""Splits an embedded token into content (the patch embedding: what its patch shows) and place (the position embedding: where it is).

The model adds the two vectors, so each can be shown alone, and each can be removed, shuffled or taken from another picture before the rest
of the model runs. Dosovitskiy et al. 2020 (ViT), §3.1.
"""

from dataclasses import dataclass
from typing import Callable, cast

import torch
from torch import Tensor

from ..drawing import charts
from ..drawing.charts import in_language
from ..drawing.map_sheet import MapSheet
from ..errors import StagesError
from ..handle.backbone import Conditioning, DitHandle
from ..sampling.level import standing
from ..step import stages as step_stages
from ..step.guidance import guide
from ..tokens.edit import values, with_values
from ..tokens.model_calls import hiddens_of, with_calls
from ..tokens.wire import unfold, with_tokens
from ..tokens.wire_types import DitHidden, DitTokens, without
from .similarity import Grid, check_query, cosines, grid_of

SIDE = 208
WORDS = {
    "title": {"en": "Token {query} (row {row}, column {column}) = content + place. Left: how alike all tokens are to it, cosine from -1 (blue) to 1 (orange). "
                    "Right: the picture (x0) that the model sees at σ = {sigma:.3f}",
              "zh": "token {query}（第 {row} 行第 {column} 列）= 内容 + 位置。左：各 token 与它有多像，余弦从 -1（蓝）到 1（橙）。"
                    "右：σ = {sigma:.3f} 时模型看到的图片（x0）"},
    "content": {"en": "content\nnorm {low} to {high}", "zh": "内容\n范数 {low} 到 {high}"},
    "place": {"en": "place\nnorm {low} to {high}", "zh": "位置\n范数 {low} 到 {high}"},
    "sum": {"en": "their sum\nnorm {low} to {high}", "zh": "两者之和\n范数 {low} 到 {high}"},
    "noisy": {"en": "what the model is given", "zh": "给模型的"},
    "whole": {"en": "content + place: the model itself", "zh": "内容 + 位置：模型本身"},
    "no place": {"en": "place removed", "zh": "去掉位置"},
    "shuffled place": {"en": "places shuffled", "zh": "位置打乱"},
    "no content": {"en": "content removed", "zh": "去掉内容"},
    "shuffled content": {"en": "contents shuffled", "zh": "内容打乱"},
    "other content": {"en": "content of another", "zh": "另一张图的内容"},
    "other place": {"en": "place of another", "zh": "另一张图的位置"},
    "change": {"en": "x0 moves by {change:.0%}", "zh": "x0 改变 {change:.0%}"},
    "note": {"en": "x0 moves by: root mean square, as a share of its own", "zh": "x0 的改变：均方根，占其自身的比例"},
}
ROWS = {"sum": ("noisy", "whole"), "content": ("no content", "shuffled content", "other content"),
        "place": ("no place", "shuffled place", "other place")}


@dataclass(frozen=True)
class Parts:
    """content and place [B, N, D] of a step's tokens, for every part of its batch. wire: the DIT_HIDDEN before Position Embed."""
    content: Tensor
    place: Tensor
    wire: DitHidden


def take_apart(dit: DitHandle, wire: DitHidden) -> Parts:
    """DIT_HIDDEN after DiT Condition or Patch Embed → its parts. Raises StagesError if the model does not add positions to tokens."""
    if "patches" not in wire["done"]:
        wire = step_stages.patch_embed(dit, wire)
    dit.stages.over(wire["hidden"]).check_apart("positions")
    if "positions" in wire["done"]:
        raise StagesError("the positions are added already: wire the hidden states from before Position Embed")
    if dit.stages.positions == "none":
        raise StagesError(f"{dit.name} has no positions: its tokens are only content")
    if dit.stages.positions == "rotary" or dit.stages.position_embed(wire["hidden"]).position is not None:
        raise StagesError(f"{dit.name} does not add positions to tokens, it rotates queries and keys by them: use Position Similarity")
    placed = step_stages.position_embed(dit, with_calls(wire, [hidden.but(x=torch.zeros_like(hidden.x)) for hidden in hiddens_of(wire)]))
    content = values(wire)
    return Parts(content, values(placed).expand_as(content), wire)


def x0_of(dit: DitHandle, parts: Parts, content: Tensor, place: Tensor, cfg: float,
          raw: Callable[[Tensor], Tensor] = lambda raw: raw) -> DitTokens:
    """The model's x0 for tokens with this content and place: [B, N, D], [B, N, D] → DIT_TOKENS.

    raw: makes the same change to the raw tokens, for a model with a `CellDecoder`, which reads them too.
    """
    wire = cast(DitHidden, with_values(parts.wire, content + place))
    wire = {**wire, "done": wire["done"] | {"positions"}}
    wire = with_calls(wire, [hidden.but({"raw": raw(hidden.extra["raw"])}) if "raw" in hidden.extra else hidden for hidden in hiddens_of(wire)])
    return guide(step_stages.final_layer(dit, step_stages.run_blocks(dit, wire)), cfg)


def changes(dit: DitHandle, parts: Parts, cfg: float, seed: int, other: Parts | None = None) -> dict[str, DitTokens]:
    """x0 after each change to content or place (none, removed, shuffled, from another picture): → DIT_TOKENS by case."""
    content, place = parts.content, parts.place
    order = torch.randperm(content.shape[1], generator=torch.Generator().manual_seed(seed)).to(content.device)
    cases = {"whole": (content, place), "no place": (content, torch.zeros_like(place)), "shuffled place": (content, place[:, order]),
             "no content": (torch.zeros_like(content), place), "shuffled content": (content[:, order], place)}
    raw = {"no content": torch.zeros_like, "shuffled content": lambda raw: raw[:, order]}
    results = {name: x0_of(dit, parts, *case, cfg, *filter(None, [raw.get(name)])) for name, case in cases.items()}
    if other is not None:  # x0 must start from the noisy tokens whose content the model reads
        results |= {"other content": x0_of(dit, other, other.content, place, cfg), "other place": x0_of(dit, parts, content, other.place, cfg)}
    return results


@dataclass(frozen=True)
class Answer:
    """similar [h, w] and norms [N]: cosines to the query and norms of "content", "place" and "sum", for the clean picture.

    noisy: the DIT_TOKENS that the model reads, at noise level sigma. x0: DIT_TOKENS by case. change: how much x0 changes by case, relative
    to its size.
    """
    grid: Grid
    query: int
    sigma: float
    similar: dict[str, Tensor]
    norms: dict[str, Tensor]
    noisy: DitTokens
    x0: dict[str, DitTokens]
    change: dict[str, float]


def take_and_replace(
        dit: DitHandle, tokens: DitTokens, sigmas: Tensor, step: int, positive: Conditioning, negative: Conditioning | None, cfg: float, seed: int,
        query: int, other: DitTokens | None = None) -> Answer:
    """Bring clean tokens to the noise level of a step, split them into content and place, and predict x0 after each change.

    other: clean tokens of another picture of the same size, which gets the same noise. For tokens from Add Noise, their clean tokens are
    used. Raises StagesError, TokensError, ScheduleError, BackboneError.
    """
    tokens, other = _clean(tokens), _clean(other)
    grid, batch = grid_of(tokens), len(tokens["tokens"])
    check_query(query, grid)
    if other is not None and len(other["tokens"]) not in (1, batch):
        raise StagesError(f"other has {len(other['tokens'])} pictures, tokens has {batch}: give 1 or as many")
    if other is not None and len(other["tokens"]) < batch:
        other = {**other, "tokens": other["tokens"].expand(batch, -1, -1)}
    if other is not None and (other["grid"], other["patch_size"]) != (tokens["grid"], tokens["patch_size"]):
        raise StagesError(f"other has {'×'.join(map(str, other['grid']))} tokens of patch_size {other['patch_size']}, tokens has "
                          f"{'×'.join(map(str, tokens['grid']))} of {tokens['patch_size']}: both must have the same size")

    def begun(clean: DitTokens) -> tuple[DitTokens, Parts]:
        noisy, _ = dit.add_noise(clean, sigmas, step, seed)
        return noisy, take_apart(dit, step_stages.condition(dit, noisy, positive, dit.away_from(negative, cfg), sigmas, step))
    noisy, parts = begun(tokens)
    # at the lowest noise level, because some models scale their input by it
    bare = without(tokens, "memory", "noise_mask")
    bare = standing(bare, sigmas[-2], torch.ones(()))  # clean values, said to be at this level
    shown = take_apart(dit, step_stages.condition(dit, bare, positive, None, sigmas, len(sigmas) - 2))
    x0 = changes(dit, parts, cfg, seed, begun(other)[1] if other is not None else None)
    whole = x0["whole"]["tokens"]
    size = whole.square().mean().sqrt().clamp_min(1e-12)
    change = {name: ((one["tokens"] - whole).square().mean().sqrt() / size).item() for name, one in x0.items()}
    shown = {"content": shown.content, "place": shown.place, "sum": shown.content + shown.place}
    shown = {name: part[:1].float().cpu() for name, part in shown.items()}
    frame = query // (grid.h * grid.w) * grid.h * grid.w
    similar = {name: cosines(part, query)[0, frame:frame + grid.h * grid.w].view(grid.h, grid.w) for name, part in shown.items()}
    norms = {name: part[0].norm(dim=-1) for name, part in shown.items()}
    return Answer(grid, query, sigmas[step].item(), similar, norms, noisy, x0, change)


def _clean(tokens: DitTokens | None) -> DitTokens | None:
    """The tokens before Add Noise."""
    return with_tokens(tokens, tokens["start"]["clean"]) if tokens is not None and "start" in tokens else tokens


def picture_of(wire: DitTokens, decode: Callable[[Tensor], Tensor]) -> Tensor:
    """The first picture of the batch (a video's first frame): → [H, W, 3] in 0..1."""
    image = decode(unfold(with_tokens(wire, wire["tokens"][:1])))
    return (image[:, 0] if image.dim() == 5 else image)[0, ..., :3].float().cpu().clamp(0, 1)


def pictures(answer: Answer, decode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The noisy picture and x0 of each case, decoded: → [H, W, 3] in 0..1 by "noisy" and case."""
    return {"noisy": picture_of(answer.noisy, decode)} | {name: picture_of(one, decode) for name, one in answer.x0.items()}


@charts.drawn
def drawing(answer: Answer, decoded: dict[str, Tensor], language: str = "English") -> MapSheet:
    """A row for each part: its similarity map and norms, then x0 after each change to it. Tokens have their places on the pictures too, unless
    the latent was padded to whole patches."""
    texts, grid = {name: in_language(words, language) for name, words in WORDS.items()}, answer.grid
    (frame, place), cells = divmod(answer.query, grid.h * grid.w), {}
    rows = [[part, *(name for name in names if name in decoded)] for part, names in ROWS.items()]
    columns = max(map(len, rows))
    for part, similar in answer.similar.items():
        shown = charts.marked(charts.heat(similar, SIDE, -1.0, 1.0, signed=True), (grid.h, grid.w), place)
        size, norms = (shown.shape[1], len(shown)), answer.norms[part]
        cells[part] = shown, texts[part].format(low=charts.number(norms.min().item()), high=charts.number(norms.max().item()))
    for name, picture in decoded.items():
        moved = texts["change"].format(change=answer.change[name]) if name in answer.x0 and name != "whole" else ""
        cells[name] = charts.fitted(picture, max(size)), f"{texts[name]}\n{moved}".rstrip()
    order = [name for row in rows for name in (*row, *[""] * (columns - len(row)))]
    sheet, corners = charts.sheet_and_corners(
        *zip(*(cells.get(name, (torch.ones(1, 1, 3), "")) for name in order)), columns,
        texts["title"].format(query=answer.query, row=place // grid.w, column=place % grid.w, sigma=answer.sigma),
        texts["note"], language, 1)
    p = answer.noisy["patch_size"]
    exact = tuple(answer.noisy["size"]) == (grid.h * p, grid.w * p) and all(cells[name][0].shape[:2] == size[::-1] for name in decoded)
    at = dict(zip(order, corners))
    places = [(*at[part], frame * grid.h * grid.w) for part in answer.similar] + [(*at[name], 0) for name in decoded if exact]
    return MapSheet(sheet[None], (grid.h, grid.w), size, places)
