"""What the nodes that look inside say of a model whose stages are not open, of blocks it has not, and of too little memory: one line each."""

from copy import copy

import pytest
from test_inside import noisy, out, started
from test_see_steps import Decoder, clean
import torch

from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.dit_impl.step import stages as step_stages
from dit_blocks.nodes.attention import AttentionMap, AttentionSteps, PositionSimilarity
from dit_blocks.nodes.comfyui import host
from dit_blocks.nodes.denoise import Denoise
from dit_blocks.nodes.pictures import ContentAndPlace, Trajectory
from dit_blocks.nodes.probe import BlockAblation, Parity
from dit_blocks.nodes.transformer import FinalLayer, RunBlocks

CLOSED = "Sealed has no stage adapter"


def closed(dit):
    """The same model, whose stages can't be opened."""
    class Closed(type(dit)):
        @property
        def stages(self):
            raise StagesError(CLOSED)
    made = copy(dit)
    made.__class__ = Closed
    return made


ASKED = dict(block=0, head=-1, direction="image to image", query=0, word="", language="English")


def calls(dit, own, positive, negative, **question) -> dict:
    """Node → a call of it with this model, on wires that the open model made."""
    sigmas, tokens, hidden = started(own, positive, negative)
    hidden = step_stages.position_embed(own, hidden)
    prediction = out(FinalLayer, dit=own, hidden=out(RunBlocks, dit=own, hidden=hidden, blocks="all", strength=1.0)[0])[0]
    asked = ASKED | question
    run = dict(dit=dit, sigmas=sigmas, positive=positive)
    return {
        "Attention Map": lambda: out(AttentionMap, dit=dit, hidden=hidden, **asked),
        "Attention over Steps": lambda: out(AttentionSteps, **run, tokens=noisy(own, sigmas), cfg=1.0, solver="euler", at_steps="", **asked),
        "Position Similarity": lambda: out(PositionSimilarity, dit=dit, x=clean(own), query=0, language="English"),
        "What vs Where": lambda: out(ContentAndPlace, **run, tokens=clean(own), step=1, vae=Decoder(), query=0, cfg=1.0, seed=0),
        "Block Ablation": lambda: out(BlockAblation, **run, tokens=clean(own), cfg=1.0, levels=1, skip=1, seed=0),
        "Wires = KSampler?": lambda: out(Parity, **run, prediction=prediction, step=0, cfg=1.0),
        "DiT Denoise": lambda: out(Denoise, **run, tokens=noisy(own, sigmas), cfg=1.0, solver="euler", start_step=0, end_step=2,
                                   capture_blocks=True),
    }


NODES = ["Attention Map", "Attention over Steps", "Position Similarity", "What vs Where", "Block Ablation", "Wires = KSampler?", "DiT Denoise"]


@pytest.mark.parametrize("node", NODES)
def test_a_model_whose_stages_are_not_open_is_one_line(backbone, positive, negative, node):
    with pytest.raises(ValueError) as caught:
        calls(closed(backbone), backbone, positive, negative)[node]()
    assert str(caught.value) == f"{node}: {CLOSED}"


def test_a_trajectory_needs_no_stages(backbone, positive):
    sigmas = backbone.schedule(2)
    sheet, *_ = out(Trajectory, dit=closed(backbone), tokens=noisy(backbone, sigmas), sigmas=sigmas, positive=positive, vae=Decoder(), cfg=1.0,
                    solver="euler", at_steps="")
    assert torch.isfinite(sheet).all()


@pytest.mark.parametrize("node", ["Attention Map", "Attention over Steps"])
@pytest.mark.parametrize("question,message", [(dict(block=2), "a small DiT has blocks 0 to 1, there is no block 2"),
                                              (dict(query=12), "token 12 is outside the grid, whose 4×3 tokens are 0 to 11")])
def test_a_block_or_token_that_is_not_there_is_one_line(backbone, positive, negative, node, question, message):
    with pytest.raises(ValueError) as caught:
        calls(backbone, backbone, positive, negative, **question)[node]()
    assert str(caught.value) == f"{node}: {message}"


@pytest.mark.parametrize("node", ["Attention Map", "Attention over Steps"])
def test_too_little_memory_is_told_before_anything_runs(backbone, positive, negative, node, monkeypatch):
    call = calls(backbone, backbone, positive, negative)[node]
    monkeypatch.setattr(host, "free_memory", lambda: 100.0)
    monkeypatch.setattr(type(backbone.model.joint_blocks[0]), "forward", lambda *_: pytest.fail("it ran"))
    what = " at 4 steps take .*, 100 bytes are free: 0 steps" if node.endswith("Steps") else " take .*, 100 bytes are free: 0 rows"
    with pytest.raises(ValueError, match=rf"^{node}: 1 rows of attention over 12 columns{what} would fit$"):
        call()
