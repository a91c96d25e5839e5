"""Chinese prompts in the words that the embedded text encoder knows: 左上角一个大红圆，深蓝色背景 → a large red circle at the top left on a navy background."""

import re

HAN = re.compile("[\u3400-\u9fff]+")
NOUNS = {
    "圆形": "circle", "圆圈": "circle", "圆": "circle", "正方形": "square", "方块": "square", "方形": "square", "三角形": "triangle",
    "三角": "triangle", "圆环": "ring", "环": "ring", "十字形": "cross", "十字": "cross", "叉": "cross",
    "猫": "cat", "狗": "dog", "老鼠": "mouse", "兔子": "rabbit", "狐狸": "fox", "熊": "bear", "熊猫": "panda",
    "老虎": "tiger", "狮子": "lion", "奶牛": "cow", "猪": "pig", "青蛙": "frog", "猴子": "monkey", "鸡": "chicken",
    "企鹅": "penguin", "猫头鹰": "owl", "乌龟": "turtle", "章鱼": "octopus", "螃蟹": "crab", "鱼": "fish", "鲸鱼": "whale",
    "大象": "elephant", "蜜蜂": "bee", "瓢虫": "ladybug", "蝴蝶": "butterfly", "独角兽": "unicorn", "苹果": "apple",
    "香蕉": "banana", "草莓": "strawberry", "樱桃": "cherry", "葡萄": "grape", "西瓜": "watermelon", "菠萝": "pineapple",
    "柠檬": "lemon", "胡萝卜": "carrot", "玉米": "corn", "蘑菇": "mushroom", "牛油果": "avocado", "披萨": "pizza",
    "汉堡": "burger", "蛋糕": "cake", "汽车": "car", "公交车": "bus", "拖拉机": "tractor", "火箭": "rocket", "飞机": "plane",
    "帆船": "boat", "自行车": "bicycle", "火车": "train", "笑脸": "smiley", "机器人": "robot", "幽灵": "ghost",
    "外星人": "alien", "骷髅": "skull", "南瓜": "pumpkin", "雪人": "snowman", "太阳": "sun", "云": "cloud",
    "彩虹": "rainbow", "星星": "star", "月亮": "moon", "雪花": "snowflake", "闪电": "lightning", "火": "fire",
    "雨伞": "umbrella", "向日葵": "sunflower", "玫瑰": "rose", "仙人掌": "cactus", "树": "tree", "棕榈树": "palm",
    "房子": "house", "城堡": "castle", "足球": "ball", "篮球": "basketball", "气球": "balloon", "礼物": "gift",
    "钥匙": "key", "闹钟": "clock", "相机": "camera", "吉他": "guitar", "皇冠": "crown", "钻石": "diamond", "铃铛": "bell",
    "心": "heart", "书": "book",
    "公共汽车": "bus", "巴士": "bus", "轿车": "car", "车": "car", "单车": "bicycle",
    "太阳花": "sunflower", "玫瑰花": "rose", "松树": "tree", "伞": "umbrella", "爱心": "heart", "星": "star",
    "照相机": "camera", "钟": "clock", "铃": "bell", "王冠": "crown", "鬼": "ghost", "比萨": "pizza", "船": "boat", "屋": "house",
}
COLOURS = {"红": "red", "绿": "green", "青": "green", "蓝": "blue", "黄": "yellow", "紫": "purple", "橙": "orange", "橘": "orange", "白": "white", "黑": "black"}
SIZES = {"巨大": "giant", "巨型": "giant", "特大": "giant", "大": "large", "小": "small"}
BACKGROUNDS = {"灰": "gray", "米": "beige", "深蓝": "navy", "藏青": "navy", "海军蓝": "navy", "青": "teal", "蓝绿": "teal", "天蓝": "sky", "浅蓝": "sky",
               "粉红": "pink", "粉": "pink"}
PLACES = {"左上": "top left", "右上": "top right", "左下": "bottom left", "右下": "bottom right", "上方": "top", "上面": "top", "上边": "top", "顶部": "top",
          "下方": "bottom", "下面": "bottom", "下边": "bottom", "底部": "bottom", "中间": "center", "中央": "center", "中心": "center", "正中": "center",
          "左": "left", "右": "right"}


def _one_of(words: dict[str, str]) -> str:
    """A pattern for any of the words, the longest first."""
    return "|".join(sorted(words, key=len, reverse=True))


_GROUND = _one_of(BACKGROUNDS)
_BACKGROUND = re.compile(f"(?:在|从)*(?P<top>{_GROUND})色?(?:[到至渐变]+(?P<bottom>{_GROUND})色?)?的?(?:渐变)?的?背景[上里中]?")
_NO_BACKGROUND = re.compile(f"(?:{_one_of(COLOURS)})色?的?背景[上里中]?")  # in a colour that the model knows for things alone
_PARTS = {"place": re.compile(f"(?P<found>{_one_of(PLACES)})[角边侧面方部]?"), "noun": re.compile(f"(?P<found>{_one_of(NOUNS)})"),
          "size": re.compile(f"(?P<found>{_one_of(SIZES)})"), "colour": re.compile(f"(?P<found>{_one_of(COLOURS)})色?")}
_WORDS = {"place": PLACES, "noun": NOUNS, "size": SIZES, "colour": COLOURS}
_PARTICLES = re.compile("[一个只条朵辆颗架艘棵张把顶本枚座头匹的在有是着了上和与及]")


def translate(text: str) -> tuple[str, list[str]]:
    """A prompt with Chinese in it → the caption in English, and what of the Chinese it did not understand. Other text stays as it is."""
    if not HAN.search(text):
        return text, []
    ignored: list[str] = []
    background = _BACKGROUND.search(text)
    rest = _BACKGROUND.sub("，", text)
    ignored += _NO_BACKGROUND.findall(rest)
    rest = _NO_BACKGROUND.sub("，", rest)
    things = [_thing(clause, ignored) for clause in re.split("[，,。；;、\n]|和|与|以及|还有", rest)]
    caption = " and ".join(filter(None, things))
    if background:
        ends = (BACKGROUNDS[end] for end in background.group("top", "bottom") if end)
        caption = f"{caption} on a {' to '.join(ends)} background".strip()
    return caption, ignored


def _thing(clause: str, ignored: list[str]) -> str:
    """One thing in English; what is left of the clause goes to `ignored`. A noun is taken out first, for 大象 is no large one."""
    found = {}
    for kind, pattern in _PARTS.items():
        match = pattern.search(clause)
        if match:
            found[kind] = _WORDS[kind][match["found"]]
            clause = clause[:match.start()] + "一" + clause[match.end():]
    ignored += HAN.findall(_PARTICLES.sub("", clause))
    english = " ".join(HAN.sub(" ", clause).split())
    if not found:
        return english
    place = found.get("place", "")
    told = [found.get("size", ""), found.get("colour", ""), found.get("noun", ""), english, place and ("in the center" if place == "center" else f"at the {place}")]
    return " ".join(["a", *filter(None, told)])
