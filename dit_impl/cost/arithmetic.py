"""What a step of a transformer costs: tokens, multiply-adds, memory. Arithmetic on shapes; nothing is run.

A matrix [a, b] on n tokens is n·a·b multiply-adds (MACs), and a FLOP count is twice that. Norms, activations and rotary positions are
left out, as torch's flop counter leaves them out. The DiT paper's "Gflops" are multiply-adds.
"""

from dataclasses import dataclass, replace
import math

from torch import Tensor

from ..drawing import charts
from ..errors import BackboneError, StagesError
from ..handle.backbone import Backbone, DitHandle
from ..model.dit import DiT
from ..model.mmdit import MMDiT
from ..tokens.patch import token_grid

WORDS = {
    "on": {"en": "{on}, {how}", "zh": "{on}，{how}"}, "latent": {"en": "latent", "zh": "latent"}, "pixels": {"en": "pixels", "zh": "像素"},
    "patches": {"en": "p = {p}", "zh": "p = {p}"}, "no patches": {"en": "no patches", "zh": "无图块"},
    "columns": {"en": "tokens|values|sequence|{unit} a step|attention|weights|activations", "zh": "token 数|值|序列|每步 {unit}|注意力|权重|激活"},
    "chart": {"en": "{unit} a step, logarithmic; orange: attention's share", "zh": "每步 {unit}，对数轴；橙色：注意力的占比"},
}


@dataclass(frozen=True)
class Architecture:
    """A transformer's shape. kind: "dit" and "vit" attend within the picture, "pixart" also to the text from outside, "mmdit" and
    "flux" over picture and text together. blocks: those of two streams in an MM-DiT and Flux; single: Flux's of one stream; dual:
    blocks with SD3.5-medium's second attention. parameters: of all weights, 0 where unknown. head: values it answers for each read; detail:
    width of the decoder of cells beside it.

    kind "counted": a MODEL's, whose layers were counted. image, words, once: weights that an image token passes between patch embedding and
    head, that a text token passes once it is embedded, by `read` weights, and that all else runs through once a picture; joint, own, cross,
    among: width of attention over picture and text together, within the picture, from picture to text, within the text, summed over layers;
    registers: tokens that go with the text; multiple: of what both are filled up to."""
    name: str
    kind: str
    width: int
    blocks: int
    patch_size: int = 2
    channels: int = 16
    text: int = 0
    parameters: int = 0
    single: int = 0
    dual: int = 0
    downscale: int = 8
    head: int = 1
    detail: int = 0
    guided: bool = True
    image: int = 0
    words: int = 0
    read: int = 0
    once: int = 0
    joint: int = 0
    own: int = 0
    cross: int = 0
    among: int = 0
    registers: int = 0
    multiple: int = 1


def _dits() -> list[Architecture]:
    shapes = {"S": (384, 12, 33), "B": (768, 12, 130), "L": (1024, 24, 458), "XL": (1152, 28, 675)}
    return [Architecture(f"DiT-{size}/{p}", "dit", width, blocks, p, channels=4, parameters=millions * 10 ** 6, head=2, guided=False)
            for size, (width, blocks, millions) in shapes.items() for p in (2, 4, 8)]


PRESETS = {one.name: one for one in [
    Architecture("ViT-B/16", "vit", 768, 12, 16, channels=3, parameters=86_600_000, downscale=1, guided=False), *_dits(),
    Architecture("SD3-medium", "mmdit", 1536, 24, text=154, parameters=2_028_000_000),
    Architecture("SD3.5-medium", "mmdit", 1536, 24, text=154, parameters=2_243_000_000, dual=13),
    Architecture("SD3.5-large", "mmdit", 2432, 38, text=154, parameters=8_057_000_000),
    Architecture("Flux-dev", "flux", 3072, 19, text=512, parameters=11_900_000_000, single=38, guided=False),
    Architecture("PixArt-Sigma", "pixart", 1152, 28, channels=4, text=300, parameters=611_000_000, head=2),
]}


@dataclass(frozen=True)
class Budget:
    """A step's cost. macs: of attention's two products (scores and mixing) and of everything else, of which `head` are the final layer's;
    bytes: of weights, and of the widest moment of a block (residual, normed copy and MLP hidden layer, for all tokens of the batch)."""
    name: str
    grid: tuple[int, int]
    values: int
    sequence: int
    attention: int
    rest: int
    head: int
    weights: int
    activations: int

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def macs(self) -> int:
        return self.attention + self.rest


def architecture(dit: DitHandle) -> Architecture:
    """A DIT's shape: of this library's own models, and of a MODEL with stages. Raises BackboneError for others."""
    model = dit.model if isinstance(dit, Backbone) else None
    if not isinstance(model, (MMDiT, DiT)):
        try:
            return dit.stages.architecture(dit.name, dit.channels, dit.downscale)
        except StagesError as error:
            raise BackboneError(f"the shape of {dit.name} is not known: {error}") from None
    c, parameters = model.config, sum(p.numel() for p in model.parameters())
    common = dict(width=c.width, blocks=c.depth, patch_size=c.patch_size, channels=c.in_channels, parameters=parameters,
                  downscale=dit.downscale)
    if isinstance(model, DiT):
        return Architecture(dit.name, "dit", **common, head=2 if c.learn_sigma else 1)
    return Architecture(dit.name, "mmdit", **common, text=24, dual=len(c.dual_blocks), detail=c.detail)


def budget(shape: Architecture, width: int = 1024, height: int = 1024, patch_size: int = 0, batch: int = 1, text: int | None = None,
           guided: bool | None = None, bytes_each: int = 2) -> Budget:
    """Cost of one step for pictures of width × height pixels. patch_size 0: the model's own; text: tokens, None as usual for it;
    guided: two passes a step (classifier-free guidance), None as usual for it. Raises ValueError for a picture without a latent cell."""
    p, d = patch_size or shape.patch_size, shape.width
    size = height // shape.downscale, width // shape.downscale
    if min(size) < 1 or p < 1 or batch < 1:
        raise ValueError(f"a picture of {width}×{height} pixels in patches of {p} leaves no token")
    (h, w), passes = token_grid(*size, p), batch * (2 if (shape.guided if guided is None else guided) else 1)
    n, t = h * w, shape.text if text is None else text
    joint = n + t if shape.kind in ("mmdit", "flux") or shape.joint else n
    values, depth = shape.channels * p * p, shape.blocks + shape.single
    head = 0 if shape.kind == "vit" else n * d * values * shape.head
    if shape.detail:  # of each cell: what its token has for it, and a small network
        head += n * p * p * (d * (shape.detail // 4) + shape.detail * (2 * shape.channels + shape.detail // 4))
    products = depth * 2 * joint ** 2 * d + shape.dual * 2 * n ** 2 * d
    matrices = depth * 12 * d * d * joint + shape.dual * 4 * d * d * n + n * d * values + head
    if shape.kind == "counted":
        matrices, products = _counted(shape, n, t)
        matrices += n * d * values + head
    if shape.kind == "pixart":  # queries and output of the picture, keys and values of the text
        matrices += depth * 2 * d * d * (n + t)
        products += depth * 2 * n * t * d
    if shape.kind == "mmdit":  # the last block's text is keys and values only
        matrices -= 9 * d * d * t
    # a vector of six, in Flux's blocks of one stream three, modulations a block; PixArt shares one among its blocks
    vectors = 6 * shape.blocks * (2 if shape.kind in ("mmdit", "flux") else 1) + 3 * shape.single
    vectors = {"vit": 0, "counted": 0, "pixart": 6}.get(shape.kind, vectors)
    matrices += (vectors + 6 * shape.dual // 2) * d * d
    return Budget(shape.name, (h, w), values, n + t, passes * products, passes * matrices, passes * head, shape.parameters * bytes_each,
                  passes * joint * 6 * d * bytes_each)


def _counted(shape: Architecture, n: int, t: int) -> tuple[int, int]:
    """Multiply-adds of weights and of attention's two products, of n image tokens and t text tokens."""
    read = t * shape.read
    n, t = (-(-length // shape.multiple) * shape.multiple for length in (n, t + shape.registers))
    pairs = shape.joint * (n + t) ** 2 + shape.own * n ** 2 + shape.cross * n * t + shape.among * t ** 2
    return read + n * shape.image + t * shape.words + shape.once, 2 * pairs


def why_patches(shape: Architecture, width: int, height: int, patch_size: int = 0, language: str = "English", **how) -> list[tuple[str, Budget]]:
    """The same transformer on latents and on pixels, with and without patches: (what, its cost)."""
    said = _words(language)
    p, pixels = patch_size or shape.patch_size, replace(shape, downscale=1, channels=3)
    cases = [("pixels", pixels, p), ("pixels", pixels, 1)]
    if shape.downscale > 1:
        cases = [("latent", shape, p), ("latent", shape, 1), *cases]
    ways = (said["patches"].format(p=p), said["no patches"])
    return [(said["on"].format(on=said[on], how=ways[i % 2]), budget(one, width, height, size, **how)) for i, (on, one, size) in enumerate(cases)]


def _words(language: str) -> dict[str, str]:
    return {name: charts.in_language(words, language) for name, words in WORDS.items()}


def _short(number: float, unit: str) -> str:
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.2f} {prefix}{unit}"
    return f"{number:.0f} {unit}"


def table(rows: list[tuple[str, Budget]], unit: str = "FLOPs", language: str = "English") -> str:
    """Rows in words: tokens, values a token, sequence with text, cost a step with attention's share, memory. unit: "FLOPs" or "MACs"."""
    factor = {"FLOPs": 2, "MACs": 1}[unit]
    lines = [["", *_words(language)["columns"].format(unit=unit).split("|")]]
    for label, b in rows:
        lines.append([label, f"{b.tokens:,} ({b.grid[0]}×{b.grid[1]})", str(b.values), f"{b.sequence:,}", _short(b.macs * factor, unit[:-1]),
                      f"{b.attention / b.macs:.0%}", _short(b.weights, "B"), _short(b.activations, "B")])

    widths = [max(map(_wide, column)) + 2 for column in zip(*lines)]
    return "\n".join(label + " " * (widths[0] - _wide(label)) + "".join(" " * (width - _wide(cell)) + cell for width, cell in zip(widths[1:], cells))
                     for label, *cells in lines)


def _wide(text: str) -> int:
    """Columns that text takes: Chinese characters take two."""
    return sum(2 if ord(sign) > 0x2e80 else 1 for sign in text)


def chart(rows: list[tuple[str, Budget]], unit: str = "FLOPs", language: str = "English", width: int = 704) -> Tensor:
    """A bar for each row on a logarithmic axis, attention's part in orange: → [1, H, width, 3] in 0..1."""
    factor, left, room, face = {"FLOPs": 2, "MACs": 1}[unit], 190, 44, charts.font(charts.TEXT, language == "中文")
    picture, draw = charts.canvas(width, 48 + room * len(rows))
    low, high = (math.log10(pick(b.macs for _, b in rows)) - less for pick, less in ((min, 1), (max, 0)))
    draw.text((12, 10), _words(language)["chart"].format(unit=unit), fill=charts.INK, font=face)
    for i, (label, b) in enumerate(rows):
        y, length = 44 + i * room, (math.log10(b.macs) - low) / (high - low) * (width - left - 150)
        draw.text((12, y + 13), label, fill=charts.INK, font=face, anchor="lm")
        draw.rectangle([left, y, left + length, y + 26], fill=charts.CURVES[0])
        draw.rectangle([left, y, left + length * b.attention / b.macs, y + 26], fill=charts.CURVES[5])
        draw.text((left + length + 6, y + 13), _short(b.macs * factor, unit[:-1]), fill=charts.INK, font=face, anchor="lm")
    return charts.as_tensor(picture)[None]
