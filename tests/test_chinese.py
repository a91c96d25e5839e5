"""Chinese prompts: the words of the default model's captions, whatever their order."""

import re

import pytest

from dit_blocks.dit_impl.sources import chinese
from dit_blocks.dit_impl.sources.chinese import translate
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.training.default_model import scenes, things
from dit_blocks.dit_impl.training.default_model.train_dit import vocabulary


@pytest.mark.parametrize("said,meant", [
    ("左上角一个大红圆，深蓝色背景", "a large red circle at the top left on a navy background"),
    ("左上角一个红色的大圆形和右下角一个小黄十字，灰色背景", "a large red circle at the top left and a small yellow cross at the bottom right on a gray background"),
    ("左边一只猫，右上角一个红苹果，深蓝色背景", "a cat at the left and a red apple at the top right on a navy background"),
    ("中间一头巨大的大象，粉色到天蓝色的渐变背景", "a giant elephant in the center on a pink to sky background"),
    ("在米色背景上，下方有一只小熊猫", "a small panda at the bottom on a beige background"),
    ("一架火箭", "a rocket"), ("大火车", "a large train"), ("中心的紫色爱心", "a purple heart in the center"),
])
def test_what_is_said_in_chinese(said, meant):
    assert translate(said) == (meant, [])


def test_english_stays_and_what_is_not_understood_is_told():
    assert translate("A LARGE red circle, 50%") == ("A LARGE red circle, 50%", [])
    assert translate("左边一只恐龙") == ("a at the left", ["恐龙"])
    assert translate("蓝色背景上有一个小火箭") == ("a small rocket", ["蓝色背景上"])  # no blue rocket
    assert translate("a cat 左边") == ("a a cat at the left", [])


def test_every_word_of_a_caption_has_a_chinese_one():
    words = set(vocabulary())
    for table in (chinese.NOUNS, chinese.COLOURS, chinese.SIZES, chinese.BACKGROUNDS):
        assert set(table.values()) <= words
    assert set(chinese.NOUNS.values()) == set(things.WORDS) | set(scenes.SHAPES)
    assert set(chinese.COLOURS.values()) == set(scenes.COLOURS) and set(chinese.PLACES.values()) == set(scenes.PLACES)
    assert set(chinese.BACKGROUNDS.values()) == set(scenes.PLAIN) and set(chinese.SIZES.values()) == {*scenes.SIZES, "giant"}
    assert all(re.fullmatch("[\u3400-\u9fff]+", said) for said in chinese.NOUNS)


def test_the_default_model_reads_both_languages_alike():
    clip = load_embedded()[1]
    one, other = (clip.tokenize(text) for text in ("左边一个小绿三角形，青色背景", "a small green triangle at the left on a teal background"))
    assert one == other and one["ignored"] == []
    assert clip.tokenize("左边一只恐龙")["ignored"] == ["恐龙"]
