"""Wires = KSampler? finds where wires part from the model; Block Ablation ranks blocks by what leaving them out changes."""

import re

import pytest
from test_inside import noisy, out
import torch

from dit_blocks.dit_impl.step.probe import Ablation
from dit_blocks.dit_impl.tokens.numbers import in_words
from dit_blocks.nodes.comfyui import host
from dit_blocks.nodes.probe import BlockAblation, Parity
from dit_blocks.nodes.transformer import Condition, FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks


def hidden_before_the_blocks(dit, tokens, positive, negative, sigmas, mode="model", positions=True) -> dict:
    (hidden,) = out(Condition, dit=dit, x=tokens, positive=positive, negative=negative, sigmas=sigmas, step=0)
    (hidden,) = out(PatchEmbed, dit=dit, x=hidden)
    return out(PositionEmbed, dit=dit, hidden=hidden, mode=mode, seed=0)[0] if positions else hidden


def said(backbone, positive, negative, blocks=("all",), mode="model", strength=1.0, cfg=3.0, positions=True):
    sigmas = backbone.schedule(4)
    hidden = hidden_before_the_blocks(backbone, noisy(backbone, sigmas), positive, negative, sigmas, mode, positions)
    for part in blocks:
        (hidden,) = out(RunBlocks, dit=backbone, hidden=hidden, blocks=part, strength=strength)
    (prediction,) = out(Guidance, prediction=out(FinalLayer, dit=backbone, hidden=hidden)[0], cfg=cfg)
    shown = Parity.execute(dit=backbone, prediction=prediction, sigmas=sigmas, step=0, positive=positive, cfg=3.0, negative=negative)
    return shown.ui.as_dict()["text"][0], shown.result[0]


@pytest.mark.parametrize("how,text", [
    ({}, "equal, bit for bit"), ({"blocks": ("0", "1")}, "equal, bit for bit"),
    ({"mode": "shuffled"}, "first after positions"), ({"mode": "none"}, "first after positions"),
    ({"blocks": ("1",)}, "first after block 1"), ({"blocks": ("0", "0", "1")}, "first after block 0"), ({"strength": 0.5}, "first after block 1"),
    ({"positions": False}, "first after positions, which was left out"), ({"cfg": 2.0}, "first after guidance")])
def test_parity_names_the_first_stage_that_differs(backbone, positive, negative, how, text):
    shown, largest = said(backbone, positive, negative, **how)
    assert shown.endswith(text) and (largest == 0) == (text == "equal, bit for bit")


def test_parity_does_not_compare_what_is_unguided(backbone, positive):
    """With cfg other than 1 the model itself would be asked without guidance, and agree with wires that have none."""
    sigmas = backbone.schedule(4)
    (prediction,) = out(FinalLayer, dit=backbone, hidden=hidden_before_the_blocks(backbone, noisy(backbone, sigmas), positive, None, sigmas))
    common = dict(dit=backbone, prediction=prediction, sigmas=sigmas, step=0, positive=positive)
    with pytest.raises(ValueError, match=r"^Wires = KSampler\?: cfg 3 needs a negative: wire one, or set cfg to 1$"):
        out(Parity, **common, cfg=3.0)
    assert out(Parity, **common, cfg=1.0)[0] > 0


def test_parity_of_a_class_conditional_model_goes_away_from_its_own_no_class(class_dit):
    sigmas, label = class_dit.schedule(4), class_dit.class_conditioning("3")
    tokens = noisy(class_dit, sigmas, size=(8, 8))

    def said(blocks: str) -> str:
        hidden = hidden_before_the_blocks(class_dit, tokens, label, class_dit.unconditional, sigmas)
        (hidden,) = out(RunBlocks, dit=class_dit, hidden=hidden, blocks=blocks, strength=1.0)
        (prediction,) = out(Guidance, prediction=out(FinalLayer, dit=class_dit, hidden=hidden)[0], cfg=3.0)
        return Parity.execute(dit=class_dit, prediction=prediction, sigmas=sigmas, step=0, positive=label, cfg=3.0).ui.as_dict()["text"][0]
    assert said("all") == "equal, bit for bit"
    assert said("0,2").endswith("first after block 2")


def test_ablation_ranks_blocks(backbone, positive, negative):
    with torch.no_grad():  # a block that does almost nothing
        for parameter in backbone.model.joint_blocks[0].x_block.adaLN_modulation.parameters():
            parameter.mul_(1e-3)
    sigmas, heard = backbone.schedule(6), []
    clean = backbone.fold({"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))}, 2)
    before = clean["tokens"].clone()
    try:
        host.listen(lambda done, of, _: heard.append((done, of)))
        chart, double, single, blocks, ranking = out(BlockAblation, dit=backbone, tokens=clean, sigmas=sigmas, positive=positive, cfg=3.0, levels=3,
                                            skip=1, seed=0, negative=negative)
    finally:
        host.listen()
    assert heard == [(i, 6) for i in range(1, 7)] and torch.equal(before, clean["tokens"])
    assert (double, single, blocks) == ("0", "", "1")
    assert re.fullmatch(r"0 joint \d+\.\d\d%\n1 joint \d+\.\d\d%", ranking)
    assert chart.shape == (1, 384, 704, 3) and 0 <= chart.min() and chart.max() <= 1 and chart.std() > 0.05


def test_ablation_stops_when_cancelled(backbone, positive):
    clean = backbone.fold({"samples": torch.randn(1, 4, 8, 8)}, 2)
    try:
        host.listen(None, lambda: True)
        with pytest.raises(host.Interrupted):
            out(BlockAblation, dit=backbone, tokens=clean, sigmas=backbone.schedule(4), positive=positive, cfg=1.0, levels=1, skip=1, seed=0)
    finally:
        host.listen()


def test_skip_lists_are_in_the_form_of_the_nodes_that_take_them():
    kinds = ["double"] * 3 + ["single"] * 4
    change = torch.tensor([[9.0, 1, 8, 7, 2, 3, 9]])
    assert Ablation(change, torch.ones(1), kinds).skip_lists(3) == ("1", "1, 2", "0,2-3,6")
    assert Ablation(change, torch.ones(1), kinds).skip_lists(0) == ("", "", "0-6")
    assert Ablation(change, torch.ones(1), kinds).ranked().splitlines() == [
        "1 double 100.00%", "4 single 200.00%", "5 single 300.00%", "3 single 700.00%", "2 double 800.00%", "0 double 900.00%",
        "6 single 900.00%"]
    assert in_words([]) == ""
