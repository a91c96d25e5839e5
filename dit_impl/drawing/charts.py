"""Charts drawn with Pillow: heat maps, contact sheets, curves and bars. They take and return tensors [H, W, 3] in 0..1.

The colours are safe for colour-blind readers: cividis for amounts (Nuñez et al. 2018), blue–white–orange for signed values, and the
palette of Okabe and Ito (2008) for curves. Words can be Chinese if the system has a font for it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from inspect import signature
import math
from pathlib import Path

import torch
from torch import Tensor
import torch.nn.functional as F

LANGUAGES = ("English", "中文")
CIVIDIS = ((0, 32, 77), (60, 77, 110), (124, 123, 120), (188, 175, 111), (255, 234, 70))
SIGNED = ((0, 90, 181), (133, 178, 217), (247, 247, 247), (235, 168, 120), (200, 82, 0))
CURVES = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0))
INK, FAINT = (20, 20, 20), (120, 120, 120)
TEXT = 18
WIDEST = 720  # on a node of 400 pixels, a picture of this width shows TEXT as 10 pixel letters, which can still be read
GAP = 12
CHINESE = ("NotoSansCJK", "NotoSansSC", "SourceHanSans", "wqy", "msyh", "PingFang", "DroidSansFallback", "simhei", "STHeiti")
INSTEAD = {"×": "x", "–": "-", "−": "-", "→": "->", "σ": "sigma", "ε": "eps", "²": "^2", "≤": "<=", "≈": "~", "√": "sqrt "}
FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts", "/System/Library/Fonts", "/Library/Fonts",
           "C:/Windows/Fonts")


@lru_cache(maxsize=1)
def chinese_font() -> str | None:
    """The path of a font with Chinese characters, in regular weight if there is one. None if the system has no such font."""
    fonts = [path for folder in FOLDERS for path in sorted(Path(folder).expanduser().rglob("*.[to]t[cf]"))]
    chinese = [path for name in CHINESE for path in sorted(fonts, key=_is_heavy) if name.lower() in path.name.lower()]
    return str(chinese[0]) if chinese else None


def _is_heavy(path: Path) -> bool:
    return any(weight in path.stem for weight in ("Bold", "Black", "Light", "Thin", "DemiLight", "Medium", "Heavy"))


@lru_cache(maxsize=16)
def font(size: int, chinese: bool):
    """A font of this size in pixels. If its file holds faces for several countries, the simplified Chinese one, marked SC."""
    from PIL import ImageFont
    path = chinese_font() if chinese else None
    if not path:
        return ImageFont.load_default(size)
    for face in range(16):
        try:
            opened = ImageFont.truetype(path, size, index=face)
        except OSError:  # there are no more faces
            break
        if " SC" in opened.getname()[0]:
            return opened
    return ImageFont.truetype(path, size)


def in_language(words: Mapping[str, str], language: str) -> str:
    """The wording for a language, from {"en": …, "zh": …}."""
    return words["zh"] if language == "中文" else words["en"]


def drawable(language: str) -> str:
    """The language for words in a picture: the one asked for, or English if the system has no font for it."""
    return language if chinese_font() else "English"


def drawn(draw: Callable) -> Callable:
    """Decorator of a function that draws words: its `language` is replaced by English if the system cannot draw it."""
    called = signature(draw)

    @wraps(draw)
    def drawing(*args, **kwargs):
        call = called.bind(*args, **kwargs)
        call.apply_defaults()
        call.arguments["language"] = drawable(call.arguments["language"])
        return draw(*call.args, **call.kwargs)
    return drawing


def colours(values: Tensor, low: float | None = None, high: float | None = None, signed: bool = False) -> Tensor:
    """Values as colours: [...] → [..., 3]. Signed values are coloured from −high to +high, with 0 in the middle."""
    if signed:
        high = values.abs().max().item() if high is None else high
        low = -high
    low, high = (values.min().item() if low is None else low), (values.max().item() if high is None else high)
    table = torch.tensor(SIGNED if signed else CIVIDIS) / 255
    place = ((values.float() - low) / max(high - low, 1e-12)).clamp(0, 1) * (len(table) - 1)
    start = place.floor().long().clamp_max(len(table) - 2)
    return torch.lerp(table[start], table[start + 1], (place - start)[..., None])


def enlarged(picture: Tensor, side: int) -> Tensor:
    """Enlarge each pixel to a square, until the longer side is at least `side` pixels: [h, w, 3] → [H, W, 3]."""
    times = max(1, math.ceil(side / max(picture.shape[:2])))
    return picture.repeat_interleave(times, 0).repeat_interleave(times, 1)


def heat(values: Tensor, side: int = 256, low: float | None = None, high: float | None = None, signed: bool = False) -> Tensor:
    """A heat map with enlarged cells: [h, w] → [H, W, 3]."""
    return enlarged(colours(values.detach().float().cpu(), low, high, signed), side)


def marked(picture: Tensor, grid: tuple[int, int], token: int) -> Tensor:
    """A copy with a black and white frame around one token's cell: [H, W, 3] → same."""
    h, w = grid
    (row, column), tall, wide = divmod(token, w), len(picture) / h, picture.shape[1] / w
    top, left, bottom, right = (round(edge) for edge in (row * tall, column * wide, (row + 1) * tall, (column + 1) * wide))
    framed, thick = picture.clone(), max(1, min(bottom - top, right - left) // 10)
    for ring, shade in ((0, 0.0), (thick, 1.0)):
        framed[top + ring:bottom - ring, left + ring:right - ring] = shade
    inner = 2 * thick
    framed[top + inner:bottom - inner, left + inner:right - inner] = picture[top + inner:bottom - inner, left + inner:right - inner]
    return framed


def scale_bar(low: float, high: float, unit: str, width: int, signed: bool = False, language: str = "English") -> Tensor:
    """A colour scale, with the values at both ends and the unit between: → [H, width, 3]."""
    strip = colours(torch.linspace(low, high, width), low, high, signed)[None].expand(14, -1, -1)
    words = label_strip([number(low), unit, number(high)], width, language)
    return torch.cat([strip, words])


def label_strip(words: Sequence[str], width: int, language: str = "English") -> Tensor:
    """A white strip with a word at the left, in the middle and at the right: → [H, width, 3]."""
    picture, draw = canvas(width, TEXT + 8)
    for word, anchor, x in zip(words, ("lm", "mm", "rm"), (2, width / 2, width - 2)):
        draw.text((x, (TEXT + 8) / 2), word, fill=INK, font=font(TEXT, language == "中文"), anchor=anchor)
    return as_tensor(picture)


def canvas(width: int, height: int):
    """A white picture and a Pillow object that draws on it. Signs that a font lacks are replaced, see `written`."""
    from PIL import Image, ImageDraw
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    write = draw.text
    draw.text = lambda xy, text, fill=None, font=None, *args, **how: write(xy, written(text, font), fill, font, *args, **how)
    return picture, draw


def written(text: str, face) -> str:
    """A text in which signs that this font lacks are replaced by plain letters."""
    lacks = face is not None and {sign for sign in INSTEAD.keys() & set(text) if not _has(face, sign)}
    return "".join(INSTEAD[sign] if lacks and sign in lacks else sign for sign in text)


@lru_cache(maxsize=256)
def _has(face, character: str) -> bool:
    return bytes(face.getmask(character)) != bytes(face.getmask("\uffff"))


def as_tensor(picture) -> Tensor:
    """A Pillow picture → [H, W, 3] in 0..1."""
    import numpy as np
    return torch.from_numpy(np.array(picture)).float() / 255


def as_pillow(picture: Tensor):
    """[H, W, 3] in 0..1 → a Pillow picture."""
    from PIL import Image
    return Image.fromarray((picture.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy())


def sheet(pictures: Sequence[Tensor], labels: Sequence[str], columns: int | None = None, title: str = "", note: str = "",
          language: str = "English", side: int = 240) -> Tensor:
    """A contact sheet: pictures [h, w, 3], each enlarged to at least `side` pixels, with its label below: → [H, W, 3].

    Line breaks in labels are kept. A sheet wider than WIDEST gets larger letters.
    """
    return sheet_and_corners(pictures, labels, columns, title, note, language, side)[0]


def sheet_and_corners(pictures: Sequence[Tensor], labels: Sequence[str], columns: int | None = None, title: str = "", note: str = "",
                      language: str = "English", side: int = 240) -> tuple[Tensor, list[tuple[int, int]]]:
    """As `sheet`, with x and y of each picture's upper left corner in it."""
    pictures = [enlarged(picture.detach().float().cpu(), side) for picture in pictures]
    columns = min(columns or math.ceil(math.sqrt(len(pictures) * 1.6)), len(pictures))
    wide, gap = max(picture.shape[1] for picture in pictures), GAP
    width = gap + columns * (wide + gap)
    text = max(TEXT, min(math.ceil(TEXT * width / WIDEST), wide // 9))
    face, large = (font(size, language == "中文") for size in (text, text + 4))
    labels = [wrapped(label, wide, face) for label in labels]
    tall = max(picture.shape[0] for picture in pictures) + max(_height(label, face, 4) for label in labels) + 4
    rows = math.ceil(len(pictures) / columns)
    title = wrapped(title, width - 2 * gap, large)
    note = wrapped(note, width - 2 * gap, face)
    head = _height(title, large, 5) + 8 if title else 0
    foot = _height(note, face, 4) + 8 if note else 0
    whole, draw = canvas(width, gap + head + rows * (tall + gap) + foot)
    if title:
        draw.multiline_text((gap, gap), title, fill=INK, font=large, spacing=5)
    corners = [(gap + i % columns * (wide + gap), gap + head + i // columns * (tall + gap)) for i in range(len(pictures))]
    for picture, label, (x, y) in zip(pictures, labels, corners):
        whole.paste(as_pillow(picture), (x, y))
        draw.multiline_text((x, y + picture.shape[0] + 3), label, fill=INK, font=face, spacing=4)
    if note:
        draw.multiline_text((gap, whole.height - foot), note, fill=FAINT, font=face, spacing=4)
    return as_tensor(whole), corners


def columns_within(wide: int) -> int:
    """How many pictures of this width fit beside each other into WIDEST."""
    return max(1, (WIDEST - GAP) // (wide + GAP))


def _height(text: str, face, spacing: int) -> int:
    """The height of a text as Pillow lays it out; 0 if it is empty."""
    return (text.count("\n") + 1) * (face.getbbox("A")[3] + spacing) + face.getmetrics()[1] if text else 0


def number(value: float) -> str:
    """A number with about three digits, for people: 0.0123, 4.56, 3,350."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def wrapped(text: str, width: int, face) -> str:
    """Break lines that are wider than `width` pixels, between words or between Chinese characters."""
    lines = []
    for line in written(text, face).split("\n"):
        current = ""
        for piece in _pieces(line):
            if current and face.getlength(current + piece.rstrip()) > width:
                lines.append(current.rstrip())
                current = ""
            current += piece
        lines.append(current.rstrip())
    return "\n".join(lines)


def _pieces(line: str) -> list[str]:
    pieces = [""]
    for character in line:
        pieces[-1] += character
        if character == " " or ord(character) > 0x2e80:
            pieces.append("")
    return pieces


Series = Mapping[str, Sequence[float] | Sequence[tuple[float, float]]]


def lines(series: Series, title: str, x_label: str, y_label: str, width: int = 640, height: int = 400, language: str = "English") -> Tensor:
    """Curves by name, each a list of y or of (x, y): → [H, W, 3]. If y spans more than a factor of 1000, its axis is logarithmic."""
    points = {name: [p if isinstance(p, tuple) else (i, p) for i, p in enumerate(values)] for name, values in series.items()}
    points = {name: [(x, y) for x, y in values if math.isfinite(y)] for name, values in points.items()}
    every = [p for values in points.values() for p in values] or [(0.0, 0.0)]
    (x0, x1), (y0, y1) = ((min(axis), max(axis)) for axis in zip(*every))
    logarithmic = y0 > 0 and y1 / y0 > 1000
    scaled = math.log10 if logarithmic else lambda y: y
    y0 = y0 if logarithmic else min(0.0, y0)
    picture, draw = canvas(width, height)
    face = font(TEXT, language == "中文")
    left, right, top, bottom = 80, width - 20, 44, height - 60

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x0) / max(x1 - x0, 1e-12), (scaled(y) - scaled(y0)) / max(scaled(y1) - scaled(y0), 1e-12)
        return left + across * (right - left), bottom - up * (bottom - top)
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=FAINT)
    draw.text((left, 8), title, fill=INK, font=font(TEXT + 4, language == "中文"))
    draw.text((right, height - 8), x_label, fill=FAINT, font=face, anchor="rb")
    for y in (y0, y1):
        draw.text((left - 6, place(x0, y)[1]), number(y), fill=INK, font=face, anchor="rm")
    for x, anchor in ((x0, "la"), (x1, "ra")):
        draw.text((place(x, y0)[0], bottom + 6), f"{x:g}", fill=INK, font=face, anchor=anchor)
    beside = left
    for (name, values), colour in zip(points.items(), CURVES * math.ceil(len(points) / len(CURVES))):
        if len(values) > 1:
            draw.line([place(x, y) for x, y in values], fill=colour, width=2)
        draw.text((beside, height - 8), name if len(points) > 1 else y_label, fill=colour, font=face, anchor="lb")
        beside += face.getlength(name) + 24
    return as_tensor(picture)


def fitted(picture: Tensor, side: int) -> Tensor:
    """Resize a picture smoothly until its longer side is `side` pixels: [h, w, 3] → [H, W, 3]."""
    scale = side / max(picture.shape[:2])
    size = [max(1, round(length * scale)) for length in picture.shape[:2]]
    resized = F.interpolate(picture.detach().float().cpu().movedim(-1, 0)[None], size=size, mode="bilinear", antialias=True)
    return resized[0].movedim(0, -1)


def side_by_side(pictures: Sequence[Tensor], gap: int = 12) -> Tensor:
    """Pictures in a row on white, all enlarged to the height of the tallest: → [H, W, 3]."""
    height = max(len(picture) for picture in pictures)
    fitted = []
    for picture in pictures:
        if len(picture) != height:
            size = (height, max(1, round(picture.shape[1] * height / len(picture))))
            picture = F.interpolate(picture.movedim(-1, 0)[None].float(), size=size, mode="bilinear", antialias=True)[0].movedim(0, -1)
        fitted += [picture, torch.ones(height, gap, 3)]
    return torch.cat(fitted[:-1], dim=1)


def batch(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures as one IMAGE; smaller ones are padded with white: [h, w, 3] each → [B, H, W, 3]."""
    height, width = (max(picture.shape[side] for picture in pictures) for side in (0, 1))
    return torch.stack([F.pad(picture, (0, 0, 0, width - picture.shape[1], 0, height - len(picture)), value=1.0) for picture in pictures])
