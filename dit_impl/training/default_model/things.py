"""Little pictures for scenes: animals, fruit, vehicles and more, read from the Noto Color Emoji font where the machine has it.

Nothing of the font is kept in the repository. Debian and Ubuntu: `apt-get install fonts-noto-color-emoji`. The pictures are Apache-2.0.
"""

from functools import lru_cache
import math
import os
from pathlib import Path

import torch
from torch import Tensor

FONT = "DIT_BLOCKS_EMOJI_FONT"  # environment variable: the font's path, where it is in none of these places
PATHS = ("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf", "/usr/share/fonts/noto/NotoColorEmoji.ttf",
         "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf", "/usr/local/share/fonts/NotoColorEmoji.ttf",
         "~/.local/share/fonts/NotoColorEmoji.ttf", "~/.fonts/NotoColorEmoji.ttf")
INSTALL = "scenes hold shapes alone: for pictures of things install fonts-noto-color-emoji, or name the font's path in " + FONT
BITMAP_SIZE = 109  # the one size at which the font has bitmaps

# name → picture; a name may begin with a colour
PICTURES: dict[str, str] = {
    "cat": "🐱", "dog": "🐶", "mouse": "🐭", "rabbit": "🐰", "fox": "🦊", "bear": "🐻", "panda": "🐼", "tiger": "🐯",
    "lion": "🦁", "cow": "🐮", "pig": "🐷", "frog": "🐸", "monkey": "🐵", "chicken": "🐔", "penguin": "🐧", "owl": "🦉",
    "turtle": "🐢", "octopus": "🐙", "crab": "🦀", "fish": "🐠", "whale": "🐳", "elephant": "🐘", "bee": "🐝",
    "ladybug": "🐞", "butterfly": "🦋", "unicorn": "🦄", "red apple": "🍎", "green apple": "🍏", "banana": "🍌",
    "strawberry": "🍓", "cherry": "🍒", "grape": "🍇", "watermelon": "🍉", "pineapple": "🍍", "lemon": "🍋", "carrot": "🥕",
    "corn": "🌽", "mushroom": "🍄", "avocado": "🥑", "pizza": "🍕", "burger": "🍔", "cake": "🎂", "red car": "🚗",
    "blue car": "🚙", "bus": "🚌", "tractor": "🚜", "rocket": "🚀", "plane": "✈️", "boat": "⛵", "bicycle": "🚲",
    "train": "🚂", "smiley": "😀", "robot": "🤖", "ghost": "👻", "alien": "👽", "skull": "💀", "pumpkin": "🎃",
    "snowman": "⛄", "sun": "🌞", "cloud": "☁️", "rainbow": "🌈", "star": "⭐", "moon": "🌙", "snowflake": "❄️",
    "lightning": "⚡", "fire": "🔥", "umbrella": "☂️", "sunflower": "🌻", "rose": "🌹", "cactus": "🌵", "tree": "🌲",
    "palm": "🌴", "house": "🏠", "castle": "🏰", "ball": "⚽", "basketball": "🏀", "balloon": "🎈", "gift": "🎁", "key": "🔑",
    "clock": "⏰", "camera": "📷", "guitar": "🎸", "crown": "👑", "diamond": "💎", "bell": "🔔", "red heart": "❤️",
    "blue heart": "💙", "green heart": "💚", "yellow heart": "💛", "purple heart": "💜", "orange heart": "🧡",
    "red book": "📕", "green book": "📗", "blue book": "📘", "orange book": "📙",
}


def parts(name: str) -> tuple[str, str]:
    """A picture's name → (colour, or "" where it has but one; the thing)."""
    *colour, thing = name.split()
    return " ".join(colour), thing


def full_name(colour: str, thing: str) -> str:
    """What `PICTURES` calls it."""
    return f"{colour} {thing}".strip()


WORDS = tuple(dict.fromkeys(parts(name)[1] for name in PICTURES))  # the things, without their colours


def font_path() -> Path | None:
    """Where the font is, or None where this machine has none."""
    named = os.environ.get(FONT)
    return next((path for path in map(lambda p: Path(p).expanduser(), [named] if named else PATHS) if path.is_file()), None)


@lru_cache(maxsize=None)
def _sprite(name: str, font: Path):
    """A picture, cut to what it shows, in the middle of an empty square with twice its longer side: → (PIL RGBA image, that side)."""
    from PIL import Image, ImageDraw, ImageFont
    drawn = Image.new("RGBA", (192, 192))
    ImageDraw.Draw(drawn).text((16, 16), PICTURES[name], font=ImageFont.truetype(str(font), BITMAP_SIZE), embedded_color=True)
    drawn = drawn.crop(drawn.getbbox())
    longer = max(drawn.size)
    square = Image.new("RGBA", (2 * longer, 2 * longer))
    square.paste(drawn, (longer - drawn.width // 2, longer - drawn.height // 2))
    return square, longer


def paste(picture: Tensor, name: str, centre: tuple[float, float], half_extent: float) -> Tensor:
    """Lay a little picture over one [3, S, S] in 0..1: → a new [3, S, S]. Centre and half extent, of its longer side, are shares of S."""
    from PIL import Image
    side = picture.shape[-1]
    square, longer = _sprite(name, font_path())
    radius, scale = half_extent * side, longer / (2 * half_extent * side)  # of pixels of the font to one of ours
    (left, right), (top, bottom) = ((max(0, math.floor(c * side - radius - 1)), min(side, math.ceil(c * side + radius + 1))) for c in centre)
    box = tuple(longer + (edge - c * side) * scale for edge, c in zip((left, top, right, bottom), (*centre, *centre)))
    small = square.resize((right - left, bottom - top), Image.Resampling.BICUBIC, box=box)
    rgba = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(bottom - top, right - left, 4).movedim(-1, 0) / 255
    picture = picture.clone()
    under = picture[:, top:bottom, left:right]
    picture[:, top:bottom, left:right] = under + (rgba[:3] - under) * rgba[3]
    return picture
