"""The icon and the banner that the registry shows: `python assets/draw.py` writes icon.png and banner.png beside itself."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
FINE = 4  # drawn so many times larger, then brought down: smooth edges
NIGHT, PANEL, NAVY, LINE = "#14161f", "#39425e", "#1b2f6b", "#7b86a8"
RED, YELLOW, WHITE, GREY, WIRE = "#e5484d", "#f5c542", "#f4f6fb", "#9aa3b8", "#7dd3c0"


def picture(side: int) -> Image.Image:
    """What the small model draws: a red circle and a yellow cross on navy."""
    made = Image.new("RGB", (side, side), NAVY)
    draw = ImageDraw.Draw(made)
    draw.ellipse([side * part for part in (0.10, 0.10, 0.66, 0.66)], fill=RED)
    for box in ((0.68, 0.78, 0.94, 0.84), (0.78, 0.68, 0.84, 0.94)):
        draw.rectangle([side * part for part in box], fill=YELLOW)
    return made


def patches(side: int, count: int) -> list[Image.Image]:
    """The picture, cut into count × count patches, row by row."""
    whole, edge = picture(side), side // count
    return [whole.crop((x * edge, y * edge, (x + 1) * edge, (y + 1) * edge)) for y in range(count) for x in range(count)]


def paste(canvas: Image.Image, patch: Image.Image, x: float, y: float, corner: float) -> None:
    mask = Image.new("L", patch.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, patch.width - 1, patch.height - 1), corner, fill=255)
    canvas.paste(patch, (round(x), round(y)), mask)


def wire(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], width: float) -> None:
    """A cubic curve that leaves and arrives level, as the editor draws a link, with a socket at either end."""
    (x0, y0), (x3, y3) = start, end
    reach = max(abs(x3 - x0) / 2, 1)
    if y0 == y3:
        draw.line((start, end), fill=WIRE, width=round(width))
    for i in range(0 if y0 == y3 else 400):
        t = i / 399
        x = (1 - t) ** 3 * x0 + 3 * (1 - t) ** 2 * t * (x0 + reach) + 3 * (1 - t) * t ** 2 * (x3 - reach) + t ** 3 * x3
        dot(draw, x, (1 - t) ** 2 * (1 + 2 * t) * y0 + t ** 2 * (3 - 2 * t) * y3, width / 2)
    for x, y in (start, end):
        dot(draw, x, y, 1.6 * width)


def dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=WIRE)


def icon(side: int = 400) -> Image.Image:
    """Four patches of the picture, the last one pulled away on a wire."""
    unit = side * FINE / 400
    made = Image.new("RGBA", (side * FINE, side * FINE))
    draw = ImageDraw.Draw(made)
    draw.rounded_rectangle((0, 0, side * FINE - 1, side * FINE - 1), 72 * unit, fill=NIGHT)
    edge, gap, left = 124 * unit, 12 * unit, 44 * unit
    for i, patch in enumerate(patches(round(edge * 2), 2)):
        away = 52 * unit if i == 3 else 0
        paste(made, patch, left + i % 2 * (edge + gap) + away, left + i // 2 * (edge + gap) + away, 18 * unit)
    wire(draw, (left + edge / 2, left + edge * 1.5 + gap + 30 * unit), (left + edge + gap + 52 * unit, left + edge * 1.5 + gap + 78 * unit), 11 * unit)
    return made.resize((side, side), Image.Resampling.LANCZOS)


def banner(width: int = 1680, height: int = 720) -> Image.Image:
    """Picture, tokens, blocks, picture: the pipeline under the pack's name."""
    made = Image.new("RGB", (width * FINE // 2, height * FINE // 2), NIGHT)
    unit, draw = FINE / 2, ImageDraw.Draw(made)

    def words(x: float, y: float, text: str, size: float, fill: str, anchor: str = "la") -> None:
        draw.text((x * unit, y * unit), text, fill=fill, font=ImageFont.load_default(size * unit), anchor=anchor)

    words(90, 66, "DiT Blocks", 104, WHITE)
    words(94, 196, "The diffusion transformer as wires: patches, blocks and steps in ComfyUI", 38, GREY)
    top, edge = 330, 64
    middle = top + 2 * edge + 18
    places = {"patches": 100, "tokens": 560, "blocks": 960, "picture": 1310}
    for i, patch in enumerate(patches(round(4 * edge * unit), 4)):
        paste(made, patch, (places["patches"] + i % 4 * (edge + 12)) * unit, (top + i // 4 * (edge + 12)) * unit, 8 * unit)
        paste(made, patch.resize((round(29 * unit),) * 2), (places["tokens"] + i // 8 * 58 + 73) * unit, (top + 2 + i % 8 * 36.6) * unit, 5 * unit)
    for i in range(5):
        box = [(places["blocks"] + i * 44) * unit, (top + 8) * unit, (places["blocks"] + i * 44 + 34) * unit, (top + 284) * unit]
        draw.rounded_rectangle(box, 8 * unit, fill=PANEL, outline=LINE, width=round(2 * unit))
    paste(made, picture(round(284 * unit)), places["picture"] * unit, (top + 4) * unit, 12 * unit)
    for start, end in ((places["patches"] + 316, places["tokens"] + 48), (places["tokens"] + 184, places["blocks"] - 16),
                       (places["blocks"] + 226, places["picture"] - 16)):
        wire(draw, (start * unit, middle * unit), (end * unit, middle * unit), 7 * unit)
    for name, x in (("Patchify", 248), ("TOKENS", 676), ("DiT Blocks", 1065), ("IMAGE", 1452)):
        words(x, 660, name, 30, GREY, "mm")
    return made.resize((width, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    for name, drawn in (("icon", icon()), ("banner", banner())):
        drawn.quantize(128, Image.Quantize.FASTOCTREE).save(HERE / f"{name}.png", optimize=True)
