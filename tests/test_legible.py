"""Pictures are read at the size that ComfyUI shows them at: letters are at least 10 pixels on a node that is 400 pixels wide."""

from dataclasses import replace

import pytest
from test_attention import PLENTY, PROMPT, embedded_step, noisy, text
import torch

from dit_blocks.dit_impl.cost import arithmetic, pictures
from dit_blocks.dit_impl.drawing import charts
from dit_blocks.dit_impl.see import attention_maps, attention_pictures, content_place, position_similarity, report, similarity, trajectory
from dit_blocks.dit_impl.see.attention_maps import Question
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.step import probe

NODE, LETTERS = 400, 10
SIGMAS = torch.linspace(1, 0, 21)


def seen(*question, grid=(16, 16)):
    dit, wire = embedded_step()
    found = attention_maps.attention_map(dit, wire, Question(3, -1, *question), PLENTY)[1]
    if found.shares.dim() == 2:
        found = replace(found, grid=grid, shares=torch.rand(grid), maps=torch.rand(1, *grid))
    return found


def moments(count: int):
    dit, _, vae = load_embedded()
    tokens = dit.fold({"samples": torch.randn(1, 16, 32, 32)})
    found = [trajectory.Moment(step, 0.5, tokens, tokens, tokens) for step in range(count)]
    return trajectory.contact_sheet(found, {kind: torch.rand(count, 256, 256, 3) for kind in trajectory.KINDS}, SIGMAS, "euler", 3.0)


def apart():
    dit, _, _ = load_embedded()
    sigmas, tokens = dit.schedule(4), dit.fold({"samples": torch.randn(1, 16, 32, 32)})
    answer = content_place.take_and_replace(dit, tokens, sigmas, 1, text(PROMPT), None, 1.0, 0, 5, tokens)
    return content_place.drawing(answer, {name: torch.rand(256, 256, 3) for name in ("noisy", *answer.x0)}).image


def tokens():
    return load_embedded()[0].fold({"samples": torch.randn(1, 16, 32, 32)})


PICTURES = {
    "attention": lambda: attention_pictures.drawing(seen("image to image", 5), "English").image,
    "attention to words": lambda: attention_pictures.drawing(seen("image to text", 5), "English").image,
    "attention over 8 steps": lambda: attention_pictures.over_steps(dict.fromkeys(range(8), seen("text to image", 1)), SIGMAS, "English").image,
    "attention over 8 steps, 64×64": lambda: attention_pictures.over_steps(dict.fromkeys(range(8), seen("text to image", 1, grid=(64, 64))),
                                                                           SIGMAS, "English").image,
    "attention to words over 8 steps": lambda: attention_pictures.over_steps(dict.fromkeys(range(8), seen("image to text", 5)), SIGMAS, "English").image,
    "trajectory": lambda: moments(4), "trajectory of 20": lambda: moments(20),
    "components": lambda: similarity.pca(tokens()).image,
    "similarity": lambda: similarity.token_similarity(tokens(), 3, image=torch.rand(1, 256, 256, 3)).image,
    "positions": lambda: position_similarity.drawing(position_similarity.compare_positions(load_embedded()[0], tokens(), 3), "English").image,
    "content and place": apart,
    "report": lambda: report.drawing(report.collect(torch.rand(1, 256, 256, 3), {"samples": torch.zeros(1, 16, 32, 32)}, tokens(),
                                                    dit=load_embedded()[0])),
    "budget": lambda: pictures.chart(pictures.why_patches(arithmetic.PRESETS["SD3-medium"], 1024, 1024)),
    "ablation": lambda: probe.bar_chart(probe.Ablation(torch.rand(3, 24), torch.ones(3), ["joint"] * 24)),
}


@pytest.fixture
def sizes(monkeypatch):
    """The sizes of the letters that are drawn, in pixels."""
    found, own = [], charts.font
    monkeypatch.setattr(charts, "font", lambda size, chinese: found.append(size) or own(size, chinese))
    return found


@pytest.mark.parametrize("name", PICTURES)
def test_letters_are_large_enough_on_a_node(name, sizes):
    made = PICTURES[name]()
    assert min(sizes) * NODE / made.shape[2] >= LETTERS


@pytest.mark.parametrize("width,columns", [(256, 4), (512, 4), (512, 2), (1024, 3)])
def test_a_wide_sheet_has_larger_letters(width, columns, sizes):
    made = charts.sheet([torch.zeros(width, width, 3)] * columns, ["a label"] * columns, columns, "A title")
    assert min(sizes) * NODE / made.shape[1] >= LETTERS * 0.95
