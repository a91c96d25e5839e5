"""Charts: colours that can be told apart, words that can be read, sizes that fit."""

import pytest
import torch

from dit_blocks.dit_impl.drawing import charts

# what a deuteranope sees of linear RGB: Machado et al. 2009, table 1, severity 1.0
DEUTERANOPE = torch.tensor([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])
LIGHT = torch.tensor([0.2126, 0.7152, 0.0722])  # relative luminance of linear RGB, ITU-R BT.709


def linear(srgb: torch.Tensor) -> torch.Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def ink(picture: torch.Tensor) -> int:
    return (picture.mean(-1) < 0.5).sum().item()


def test_amounts_grow_lighter_for_every_eye():
    shades = linear(charts.colours(torch.linspace(0, 1, 50)))
    for eye in (torch.eye(3), DEUTERANOPE):
        assert ((shades @ eye.T @ LIGHT).diff() > 0).all()


def test_signed_values_have_white_in_the_middle_and_ends_that_differ_for_every_eye():
    ends = charts.colours(torch.tensor([-2.0, 0.0, 2.0]), signed=True)
    assert ends[1].min() > 0.95
    assert torch.equal(charts.colours(torch.tensor([-2.0, 0.0, 5.0]), high=2.0, signed=True), ends)  # beyond the end is the end
    seen = linear(ends) @ DEUTERANOPE.T
    assert (seen[0] - seen[2]).abs().max() > 0.3


def test_the_ends_of_the_scale_are_the_ends_of_the_values():
    values = torch.tensor([[3.0, 7.0], [5.0, 4.0]])
    picture = charts.heat(values, 4)
    assert picture.shape == (4, 4, 3)
    low, high = (torch.tensor(charts.CIVIDIS[i]) / 255 for i in (0, -1))
    assert torch.equal(picture[0, 0], low) and torch.equal(picture[1, 3], high) and torch.equal(picture[:2, :2], low.expand(2, 2, 3))
    assert torch.equal(charts.heat(torch.full((2, 2), 3.0), 2, 1.0, 5.0)[0, 0], torch.tensor(charts.CIVIDIS[2]) / 255)


def test_one_value_everywhere_is_one_colour():
    assert len(charts.heat(torch.full((3, 3), 2.5), 3).flatten(0, 1).unique(dim=0)) == 1


def test_a_mark_changes_its_cell_alone():
    picture = torch.rand(40, 60, 3)
    kept = picture.clone()
    made = charts.marked(picture, (4, 6), 8)  # row 1, column 2
    changed = (made != picture).any(-1)
    assert torch.equal(picture, kept) and changed[10:20, 20:30].any() and changed.sum() == changed[10:20, 20:30].sum()
    assert torch.equal(made[14:16, 24:26], picture[14:16, 24:26]), "what the token shows stays"


@pytest.mark.parametrize("language", charts.LANGUAGES)
def test_a_sheet_lays_pictures_out_under_words(language):
    pictures = [torch.full((8, 12, 3), shade) for shade in (0.2, 0.4, 0.6)]
    made = charts.sheet(pictures, ["one", "two", "three\nlines"], 2, "A title", "a note", language, 120)
    assert 0 <= made.min() and made.max() <= 1 and made.shape[1] == 12 + 2 * (120 + 12)
    for shade in (0.2, 0.4, 0.6):
        assert ((made - shade).abs().amax(-1) < 0.01).sum() >= 80 * 120
    plain = charts.sheet(pictures, ["", "", ""], 2, side=120)
    assert plain.shape[0] < made.shape[0] and ink(made) > ink(plain)


def test_long_words_are_broken_where_they_may():
    face = charts.font(charts.TEXT, False)
    lines = charts.wrapped("a rather long label that does not fit", 120, face).split("\n")
    assert len(lines) > 2 and all(face.getlength(line) <= 120 for line in lines)
    assert " ".join(lines) == "a rather long label that does not fit"
    assert "\n" in charts.wrapped("没有空格的一段很长的中文文字", 100, charts.font(charts.TEXT, True))


def test_what_is_drawn_falls_back_to_english_where_no_font_has_chinese(monkeypatch):
    words = {"en": "a patch", "zh": "图块"}
    write = charts.drawn(lambda size, language="English": charts.in_language(words, language) * size)
    assert write(1) == "a patch"
    monkeypatch.setattr(charts, "chinese_font", lambda: "somewhere.ttc")
    assert write(2, "中文") == "图块图块"
    monkeypatch.setattr(charts, "chinese_font", lambda: None)
    assert write(1, language="中文") == "a patch" and charts.in_language(words, "中文") == "图块"


def test_a_font_of_common_weight_is_taken_and_any_rather_than_none(monkeypatch, tmp_path):
    (tmp_path / "deep").mkdir()
    monkeypatch.setattr(charts, "FOLDERS", (str(tmp_path),))
    charts.chinese_font.cache_clear()
    try:
        assert charts.chinese_font() is None
        for name in ("NotoSansCJK-Bold.ttc", "DejaVuSans.ttf"):
            (tmp_path / "deep" / name).write_bytes(b"")
        charts.chinese_font.cache_clear()
        assert charts.chinese_font().endswith("NotoSansCJK-Bold.ttc")
        (tmp_path / "NotoSansCJK-Regular.ttc").write_bytes(b"")
        (tmp_path / "msyh.ttc").write_bytes(b"")
        charts.chinese_font.cache_clear()
        assert charts.chinese_font().endswith("NotoSansCJK-Regular.ttc")
    finally:
        charts.chinese_font.cache_clear()


@pytest.mark.skipif(charts.chinese_font() is None, reason="no font with Chinese characters")
def test_chinese_is_drawn_by_a_font_that_has_it():
    face = charts.font(charts.TEXT, True)
    drawn = {bytes(face.getmask(character)) for character in "图块嵌入位置注意力"}
    assert len(drawn) == 9 and bytes(face.getmask("\uffff")) not in drawn


@pytest.mark.parametrize("language", charts.LANGUAGES)
def test_no_sign_is_drawn_as_a_box(language):
    face = charts.font(charts.TEXT, language == "中文")
    box = bytes(face.getmask("\uffff"))
    for sign in charts.INSTEAD:
        said = charts.written(f"a{sign}b", face)
        assert all(bytes(face.getmask(character)) != box for character in said if character != " ")
    assert charts.written("4×4", charts.font(charts.TEXT, False)) in ("4×4", "4x4")


@pytest.mark.parametrize("language", charts.LANGUAGES)
def test_lines_fit_after_signs_are_written_out(language):
    face = charts.font(charts.TEXT, language == "中文")
    text = "the picture at σ = 0.857 → the picture at σ = 0.5 ≈ that at σ ≤ 0.4"
    lines = charts.written(charts.wrapped(text, 200, face), face).split("\n")
    assert len(lines) > 1 and all(face.getlength(line) <= 200 for line in lines)


@pytest.mark.parametrize("value,text", [(3353.4, "3,353"), (0.01234, "0.0123"), (12.345, "12.3"), (2.5e7, "2.5e+07"), (0, "0"), (-1500, "-1,500")])
def test_numbers(value, text):
    assert charts.number(value) == text


def test_curves_go_where_their_values_are():
    falling = charts.lines({"loss": [1.0, 0.5, 0.25, 0.0]}, "Loss", "step", "loss")
    colour = torch.tensor(charts.CURVES[0]) / 255
    drawn = ((falling - colour).abs().amax(-1) < 0.01)
    rows = torch.arange(len(falling))[:, None].expand_as(drawn)
    left, right = (rows[:, columns][drawn[:, columns] & (rows[:, columns] < 330)].float().mean() for columns in (slice(90, 200), slice(500, 600)))
    assert left < right, "a falling curve falls"
    for series in ({}, {"a": []}, {"a": [float("nan"), 1.0]}, {"a": [(3.0, 1e-9), (5.0, 2.0)], "b": [0.1, 0.2]}):
        made = charts.lines(series, "t", "x", "y")
        assert made.isfinite().all() and made.shape == (400, 640, 3)


def test_pictures_of_different_sizes_make_a_batch_and_a_row():
    pictures = [torch.zeros(10, 20, 3), torch.zeros(30, 5, 3)]
    made = charts.batch(pictures)
    assert made.shape == (2, 30, 20, 3) and made[0, 10:].min() == 1 and made[1, :, 5:].min() == 1 and not made[0, :10].any()
    assert charts.side_by_side(pictures, 4).shape == (30, 60 + 4 + 5, 3)
    assert charts.fitted(torch.rand(100, 50, 3), 20).shape == (20, 10, 3)


def test_pillow_and_back():
    picture = (torch.randint(0, 256, (5, 7, 3)) / 255).float()
    assert torch.equal(charts.as_tensor(charts.as_pillow(picture)), picture)
