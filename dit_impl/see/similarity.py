"""Which tokens are similar: principal components as colours, and the cosine of every token to a chosen one."""

from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from ..drawing import charts
from ..drawing.charts import in_language
from ..drawing.map_sheet import MapSheet, together
from ..errors import TokensError
from ..tokens.edit import values
from ..tokens.wire_types import AnyWire
from .token_map import principal_components

SIDE = 160
# How the colour changes along each component: dark to light, blue to yellow, green to red. Colour-blind people can see the first two.
AXES = ((0.55, 0.55, 0.55), (0.3, 0.3, -0.45), (0.25, -0.25, 0.0))
FLAT = 1e-5  # tokens that deviate by less than this share of their length differ only by rounding
LIVE = 1024  # with at most so many tokens the node gets all cosines, so that its map can follow the mouse
WORDS = {
    "raw": {"en": "raw tokens", "zh": "原始 token"},
    "condition": {"en": "after DiT Condition", "zh": "DiT Condition 之后"},
    "patches": {"en": "after Patch Embed", "zh": "图块嵌入之后"},
    "positions": {"en": "after Position Embed", "zh": "位置嵌入之后"},
    "blocks": {"en": "after {stage}", "zh": "第 {number} 块之后"},
    "final layer": {"en": "after Final Layer", "zh": "输出层之后"},
    "pca": {"en": "{count} tokens of {width} values, {stage}{part}", "zh": "{count} 个 token，每个 {width} 个值，{stage}{part}"},
    "components": {"en": "3 components: shares of variance", "zh": "三个主成分占的方差"},
    "variance": {"en": "of variance: {0:.0%}, {1:.0%}, {2:.0%}", "zh": "占方差的 {0:.0%}、{1:.0%}、{2:.0%}"},
    "norm": {"en": "norm of each token", "zh": "每个 token 的范数"},
    "norms": {"en": "length", "zh": "长度"},
    "cosine": {"en": "cosine to the framed token", "zh": "与框出的 token 的余弦"},
    "centred": {"en": "cosine to the framed token, less the mean token", "zh": "与框出的 token 的余弦（减去平均 token）"},
    "similar": {"en": "Tokens like token {query} (row {row}, column {column})", "zh": "与 token {query}（第 {row} 行第 {column} 列）相像的 token"},
    "frame": {"en": "frame {i}", "zh": "第 {i} 帧"},
    "picture": {"en": "the picture", "zh": "图片"},
}


@dataclass(frozen=True)
class Grid:
    """The token grid: frames, rows, columns. t is 1 for a picture."""
    t: int
    h: int
    w: int

    @property
    def count(self) -> int:
        return self.t * self.h * self.w


def grid_of(wire: AnyWire) -> Grid:
    """The grid of DIT_TOKENS or DIT_HIDDEN."""
    *t, h, w = (wire["tokens"] if "hidden" in wire else wire)["grid"]
    return Grid(t[0] if t else 1, h, w)


def check_query(query: int, grid: Grid) -> None:
    """Raise TokensError unless the grid has a token with this number."""
    if not 0 <= query < grid.count:
        size = f"{grid.t}×{grid.h}×{grid.w}" if grid.t > 1 else f"{grid.h}×{grid.w}"
        raise TokensError(f"query {query} is outside the grid of {size} tokens, which are 0 to {grid.count - 1} in reading order")


def finite(wire: AnyWire) -> Tensor:
    """The tokens of DIT_TOKENS or DIT_HIDDEN, in float32 on the CPU: → [B, N, D]. Raises TokensError if they are not finite."""
    tokens = values(wire).detach().float().cpu()
    if not torch.isfinite(tokens).all():
        raise TokensError("the tokens hold values that are NaN or infinite")
    return tokens


def parts(wire: AnyWire) -> list[str]:
    """The part that each row of the batch belongs to: "uncond" or "cond" between DiT Condition and DiT Guidance, "" elsewhere."""
    call, count = wire.get("call"), len(values(wire))
    layout = call.layout if call and not wire.get("guided") else ("",)
    return [part for part in layout for _ in range(count // len(layout))]


def conditional(wire: AnyWire) -> Tensor:
    """The tokens of the last positive conditioning: → [samples, N, D]."""
    tokens, layout = finite(wire), parts(wire)
    samples = len(layout) // len(wire["call"].layout) if wire.get("call") and not wire.get("guided") else len(layout)
    ends = [i + 1 for i, part in enumerate(layout) if part in ("cond", "")]
    return tokens[ends[-1] - samples:ends[-1]]


def components(tokens: Tensor, count: int = 3) -> tuple[Tensor, Tensor]:
    """Principal components: [M, D] → coordinates [M, count], shares of the variance [count]. Pearson 1901.

    All zeros if the tokens differ only by rounding.
    """
    centred = tokens - tokens.mean(0)
    variance = centred.double().square().sum()
    if variance <= FLAT ** 2 * tokens.double().square().sum():
        return tokens.new_zeros(len(tokens), count), tokens.new_zeros(count)
    coordinates = principal_components(tokens, count)
    return coordinates, (coordinates.double().square().sum(0) / variance).float()


def as_colours(coordinates: Tensor) -> Tensor:
    """Coordinates as colours: [M, 3] → [M, 3] in 0..1, from the 2nd to the 98th percentile, so that outliers do not dim the rest."""
    low, high = (coordinates.quantile(at, dim=0) for at in (0.02, 0.98))
    spread = high - low
    return mixed(torch.where(spread > 0, (coordinates - low) / spread.clamp_min(1e-12), torch.full_like(coordinates, 0.5)).clamp(0, 1))


def mixed(places: Tensor) -> Tensor:
    """Positions 0..1 along each of `AXES` as colours: [..., 3] → [..., 3] in 0..1."""
    return (0.5 + (places - 0.5) @ torch.tensor(AXES)).clamp(0, 1)


def cosines(tokens: Tensor, query: int, centred: bool = False) -> Tensor:
    """The cosine of every token to one: [B, N, D] → [B, N]; 0 if one of the two is zero. centred: subtract the mean token first."""
    if centred:
        tokens = tokens - tokens.mean(1, keepdim=True)
    return F.cosine_similarity(tokens.double(), tokens[:, query:query + 1].double(), dim=-1).float()


def stage_name(wire: AnyWire, language: str) -> str:
    """The stage that the tokens come from, in words."""
    if not wire.get("trace"):
        return in_language(WORDS["raw"], language)
    stage = wire["trace"][-1][0]
    return in_language(WORDS.get(stage, WORDS["blocks"]), language).format(stage=stage, number=stage.split()[-1])


def _variance_key(shares: Tensor, width: int, language: str) -> Tensor:
    """A strip for all variance, with the part that each component explains in its colours: → [H, width, 3]."""
    strip, start = torch.ones(14, width, 3), 0
    for axis, share in enumerate(shares.tolist()):
        end = min(width, start + round(share * width))
        places = torch.full((end - start, 3), 0.5)
        places[:, axis] = torch.linspace(0, 1, end - start)
        strip[:, start:end] = mixed(places)
        start = end
    words = ", ".join(f"{share:.0%}" for share in shares.tolist())
    return torch.cat([strip, charts.label_strip([words], width, language)])


@dataclass(frozen=True)
class Pca:
    """image [B·t, H, W, 3] with labels, sheet: all of it in one picture; colours [B·t, h, w, 3] alone; norms [B·t, h, w]; shares of the variance [3]; said: a summary."""
    image: Tensor
    sheet: MapSheet
    colours: Tensor
    norms: Tensor
    shares: Tensor
    said: str


def pca(wire: AnyWire, language: str = "English") -> Pca:
    """Show tokens as colours and as norms. Components and colours are computed over the whole batch, so that pictures can be compared.

    Raises TokensError.
    """
    tokens, grid = finite(wire), grid_of(wire)
    coordinates, shares = components(tokens.flatten(0, 1))
    shades = as_colours(coordinates).view(-1, grid.h, grid.w, 3)
    norms = tokens.norm(dim=-1)
    low, high = norms.min().item(), norms.max().item()
    lengths, pictures, corners = norms.view(-1, grid.h, grid.w), [], []
    names, shown = parts(wire), charts.drawable(language)
    labels = [in_language(WORDS[name], shown) for name in ("components", "norm")]

    def title(i: int, language: str) -> str:
        frame = in_language(WORDS["frame"], language).format(i=i % grid.t) if grid.t > 1 else ""
        part = "".join(f", {one}" for one in (names[i // grid.t], frame) if one)
        return in_language(WORDS["pca"], language).format(count=grid.count, width=tokens.shape[-1], stage=stage_name(wire, language), part=part)

    for i, (shade, length) in enumerate(zip(shades, lengths)):
        left, right = charts.enlarged(shade, SIDE), charts.heat(length, SIDE, low, high)
        size = left.shape[1], len(left)
        left = torch.cat([left, _variance_key(shares, left.shape[1], shown)])
        right = torch.cat([right, charts.scale_bar(low, high, in_language(WORDS["norms"], shown), right.shape[1], language=shown)])
        picture, places = charts.sheet_and_corners([left, right], labels, 2, title(i, shown), "", shown, 1)
        pictures.append(picture)
        corners.append([(x, y, i % grid.t * grid.h * grid.w) for x, y in places])
    images = charts.batch(pictures)
    sheet = together([MapSheet(image[None], (grid.h, grid.w), size, places) for image, places in zip(images, corners)])
    said = f"{title(len(pictures) - 1, language)}\n{in_language(WORDS['variance'], language).format(*shares.tolist())}\n" \
           f"{in_language(WORDS['norm'], language)}: {charts.number(low)} – {charts.number(high)}"
    return Pca(images, sheet, shades, lengths, shares, said)


@dataclass(frozen=True)
class Similarity:
    """image [samples, H, W, 3]; map [samples·t, h, w]: cosines to the query; rows [R, N]: cosines of all tokens to all, for the first
    sample. If there are more than `LIVE` tokens, only those to the query."""
    image: Tensor
    map: Tensor
    rows: Tensor


@charts.drawn
def token_similarity(wire: AnyWire, query: int, centred: bool = False, language: str = "English", image: Tensor | None = None) -> Similarity:
    """The cosine of every token to one, for the conditional part of a batch. image [B, H, W, 3]: shown beside it. Raises TokensError."""
    grid, tokens = grid_of(wire), conditional(wire)
    check_query(query, grid)
    similar = cosines(tokens, query, centred).view(-1, grid.t, grid.h, grid.w)
    frame, place = divmod(query, grid.h * grid.w)
    title = in_language(WORDS["similar"], language).format(query=query, row=place // grid.w, column=place % grid.w)
    title += f"\n{stage_name(wire, language)}"
    pictures = []
    for i, frames in enumerate(similar):
        shown, labels = [], []
        for t, one in enumerate(frames):
            cells = charts.heat(one, SIDE, -1.0, 1.0, signed=True)
            cells = charts.marked(cells, (grid.h, grid.w), place) if t == frame else cells
            shown.append(torch.cat([cells, charts.scale_bar(-1.0, 1.0, "0", cells.shape[1], True, language)]))
            about = in_language(WORDS["centred" if centred else "cosine"], language)
            labels.append(about if grid.t == 1 else f"{in_language(WORDS['frame'], language).format(i=t)}: {about}")
        if image is not None:
            size = (len(cells), cells.shape[1])
            seen = F.interpolate(image[i % len(image), ..., :3][None].float().cpu().movedim(-1, 1), size=size, mode="bilinear", antialias=True)
            shown.insert(0, charts.marked(seen[0].movedim(0, -1), (grid.h, grid.w), place))
            labels.insert(0, in_language(WORDS["picture"], language))
        pictures.append(charts.sheet(shown, labels, min(len(shown), 4), title, "", language, 1))
    first = tokens[0] - tokens[0].mean(0) if centred else tokens[0]
    unit = F.normalize(first.double(), dim=-1).float()
    rows = unit @ unit.T if grid.count <= LIVE else similar[0].reshape(1, -1)
    return Similarity(charts.batch(pictures), similar.flatten(0, 1), rows)
