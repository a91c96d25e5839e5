"""Every picture with words is in the user's language: the node has the widget that the editor sets, last, and what it draws follows it."""

import re

import pytest
import torch

from dit_blocks.dit_impl.cost import arithmetic, pictures
from dit_blocks.dit_impl.drawing import charts
from dit_blocks.dit_impl.see import compare, similarity
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.step import probe
from dit_blocks.dit_impl.tokens.wire import fold
from dit_blocks.dit_impl.training import run
from dit_blocks.dit_impl.training.loop import Alone, Log
from dit_blocks.nodes import NODES
from dit_blocks.nodes.budget import Budget
from dit_blocks.nodes.pictures import PipelineReport
from dit_blocks.standalone.node_types import NodeType

BARE = {f"DiTBlocks{name}" for name in ("VAEDecode", "Unpatchify", "Denoise", "TokenMap", "TrainingScenes", "DiffusionLoss")}  # IMAGE without words


def inputs(info: dict) -> dict:
    return {name: spec for kind in ("required", "optional") for name, spec in info["input"].get(kind, {}).items()}


DRAWING = [info for info in (NodeType(cls.define_schema().node_id, cls).info() for cls in NODES) if "IMAGE" in info["output"]]


@pytest.mark.parametrize("info", [info for info in DRAWING if info["name"] not in BARE], ids=lambda info: info["name"])
def test_a_node_that_writes_into_pictures_has_a_language(info):
    kind, options = inputs(info)["language"]
    assert (kind if isinstance(kind, list) else options["options"]) == ["auto", *charts.LANGUAGES] and options["default"] == "auto"


def log(validation=()) -> Log:
    made = Log()
    made.losses, made.validation = [1.0, 0.5, 0.2], list(validation)
    return made


ROWS = pictures.why_patches(arithmetic.PRESETS["SD3-medium"], 512, 512)
RUNS = [compare.Run("2", torch.zeros(1, 64, 64, 3), 2.0, 1000, macs, decibels) for macs, decibels in ((0, float("inf")), (0, 20.0))]
PICTURES = {
    "budget": lambda language: pictures.chart(pictures.why_patches(arithmetic.PRESETS["SD3-medium"], 512, 512, language=language), language=language),
    "compare": lambda language: compare.sheet(RUNS, language),
    "ablation": lambda language: probe.bar_chart(probe.Ablation(torch.rand(2, 4), torch.ones(2), ["joint"] * 4), language),
    "training": lambda language: run.curve(log([(0, 1.0), (2, 0.4)]), language),
    "filters of a training": lambda language: run.Monitor(load_embedded()[0], 1, Alone(), language=language).look(1),
    "training alone": lambda language: run.curve(log(), language),
}


@pytest.mark.skipif(charts.chinese_font() is None, reason="no font with Chinese characters")
@pytest.mark.parametrize("name", PICTURES)
def test_words_of_a_picture_are_all_in_its_language(name, monkeypatch):
    said, face = [], charts.written
    monkeypatch.setattr(charts, "written", lambda text, font: said.append(text) or face(text, font))
    torch.manual_seed(0)
    PICTURES[name]("中文")
    words = [text for text in said if re.search("[a-zA-Z]{3}", re.sub("latent|RGB|FLOPs?|TFLOP|GFLOP|token|sigma", "", text))]
    assert words == [] and any(re.search("[一-鿿]", text) for text in said)


def test_without_a_font_pictures_are_in_english_and_text_stays_in_its_language(monkeypatch):
    monkeypatch.setattr(charts, "chinese_font", lambda: None)
    written, face = [], charts.written
    monkeypatch.setattr(charts, "written", lambda text, font: written.append(text) or face(text, font))
    text, *_ = Budget.execute("SD3-medium", 512, 512, 0, 1, "FLOPs", language="中文").result
    _, report = PipelineReport.execute(image=torch.zeros(1, 64, 64, 3), latent={"samples": torch.zeros(1, 4, 8, 8)}, language="中文").result
    said = similarity.pca(fold(torch.rand(1, 4, 8, 8), 2), "中文").said
    for name in PICTURES.keys() - {"budget"}:  # whose rows come in their language; the node asks for the right one
        PICTURES[name]("中文")
    assert all(re.search("[一-鿿]", one) for one in (text, report, said, RUNS[0].caption(RUNS[0], "中文")))
    assert written and [one for one in written if re.search("[一-鿿]", one)] == []


@pytest.mark.skipif(charts.chinese_font() is None, reason="no font with Chinese characters")
def test_a_table_s_columns_stand_one_below_the_other_in_either_language():
    for language in charts.LANGUAGES:
        text, *_ = Budget.execute("SD3-medium", 512, 512, 0, 1, "FLOPs", language=language).result
        title, *lines = text.partition("\n\n")[0].split("\n")
        wide = {sum(2 if ord(sign) > 0x2e80 else 1 for sign in line) for line in lines}
        assert len(wide) == 1 and len(lines) == 5 and ("像素" in title) == (language == "中文") == ("激活" in lines[0])
