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

# name → (picture, Chinese); a name may begin with a colour
PICTURES: dict[str, tuple[str, str]] = {
    "cat": ("🐱", "猫"), "dog": ("🐶", "狗"), "mouse": ("🐭", "老鼠"), "rabbit": ("🐰", "兔子"), "fox": ("🦊", "狐狸"),
    "bear": ("🐻", "熊"), "panda": ("🐼", "熊猫"), "tiger": ("🐯", "老虎"), "lion": ("🦁", "狮子"), "cow": ("🐮", "奶牛"),
    "pig": ("🐷", "猪"), "frog": ("🐸", "青蛙"), "monkey": ("🐵", "猴子"), "chicken": ("🐔", "鸡"), "penguin": ("🐧", "企鹅"),
    "owl": ("🦉", "猫头鹰"), "turtle": ("🐢", "乌龟"), "octopus": ("🐙", "章鱼"), "crab": ("🦀", "螃蟹"), "fish": ("🐠", "鱼"),
    "whale": ("🐳", "鲸鱼"), "elephant": ("🐘", "大象"), "bee": ("🐝", "蜜蜂"), "ladybug": ("🐞", "瓢虫"),
    "butterfly": ("🦋", "蝴蝶"), "unicorn": ("🦄", "独角兽"),
    "red apple": ("🍎", "苹果"), "green apple": ("🍏", "苹果"), "banana": ("🍌", "香蕉"), "strawberry": ("🍓", "草莓"),
    "cherry": ("🍒", "樱桃"), "grape": ("🍇", "葡萄"), "watermelon": ("🍉", "西瓜"), "pineapple": ("🍍", "菠萝"),
    "lemon": ("🍋", "柠檬"), "carrot": ("🥕", "胡萝卜"), "corn": ("🌽", "玉米"), "mushroom": ("🍄", "蘑菇"),
    "avocado": ("🥑", "牛油果"), "pizza": ("🍕", "披萨"), "burger": ("🍔", "汉堡"), "cake": ("🎂", "蛋糕"),
    "red car": ("🚗", "汽车"), "blue car": ("🚙", "汽车"), "bus": ("🚌", "公交车"), "tractor": ("🚜", "拖拉机"),
    "rocket": ("🚀", "火箭"), "plane": ("✈️", "飞机"), "boat": ("⛵", "帆船"), "bicycle": ("🚲", "自行车"), "train": ("🚂", "火车"),
    "smiley": ("😀", "笑脸"), "robot": ("🤖", "机器人"), "ghost": ("👻", "幽灵"), "alien": ("👽", "外星人"), "skull": ("💀", "骷髅"),
    "pumpkin": ("🎃", "南瓜"), "snowman": ("⛄", "雪人"),
    "sun": ("🌞", "太阳"), "cloud": ("☁️", "云"), "rainbow": ("🌈", "彩虹"), "star": ("⭐", "星星"), "moon": ("🌙", "月亮"),
    "snowflake": ("❄️", "雪花"), "lightning": ("⚡", "闪电"), "fire": ("🔥", "火"), "umbrella": ("☂️", "雨伞"),
    "sunflower": ("🌻", "向日葵"), "rose": ("🌹", "玫瑰"), "cactus": ("🌵", "仙人掌"), "tree": ("🌲", "树"), "palm": ("🌴", "棕榈树"),
    "house": ("🏠", "房子"), "castle": ("🏰", "城堡"), "ball": ("⚽", "足球"), "basketball": ("🏀", "篮球"), "balloon": ("🎈", "气球"),
    "gift": ("🎁", "礼物"), "key": ("🔑", "钥匙"), "clock": ("⏰", "闹钟"), "camera": ("📷", "相机"), "guitar": ("🎸", "吉他"),
    "crown": ("👑", "皇冠"), "diamond": ("💎", "钻石"), "bell": ("🔔", "铃铛"),
    "red heart": ("❤️", "心"), "blue heart": ("💙", "心"), "green heart": ("💚", "心"), "yellow heart": ("💛", "心"),
    "purple heart": ("💜", "心"), "orange heart": ("🧡", "心"),
    "red book": ("📕", "书"), "green book": ("📗", "书"), "blue book": ("📘", "书"), "orange book": ("📙", "书"),
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
    ImageDraw.Draw(drawn).text((16, 16), PICTURES[name][0], font=ImageFont.truetype(str(font), BITMAP_SIZE), embedded_color=True)
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
