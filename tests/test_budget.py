"""The arithmetic of cost against published figures and torch's own flop counter."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dit_blocks.dit_impl.cost.arithmetic import PRESETS, CountedArchitecture, DiTArchitecture, MMDiTArchitecture, architecture, budget
from dit_blocks.dit_impl.cost.pictures import chart, table, why_patches
from dit_blocks.dit_impl.errors import BackboneError
from dit_blocks.dit_impl.handle.dit_handle import DitHandle
from dit_blocks.dit_impl.model.dit import DiT, DiTConfig
from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
from dit_blocks.dit_impl.model.stages import Stages
from dit_blocks.dit_impl.sources.embedded import load_embedded

PAPER = {"S": (6.06, 1.41, 0.36), "B": (23.01, 5.56, 1.42), "L": (80.71, 19.70, 5.01), "XL": (118.64, 29.05, 7.39)}  # /2, /4, /8, at 256²


@pytest.mark.parametrize("name,gmacs", [(f"DiT-{size}/{p}", one) for size, row in PAPER.items() for p, one in zip((2, 4, 8), row)])
def test_dit_paper(name, gmacs):
    assert budget(PRESETS[name], 256, 256).macs / 1e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize("name,text,tflops", [
    ("SD3-medium", 154, 16.87), ("SD3-medium", 333, 17.81), ("SD3.5-medium", 154, 21.57), ("SD3.5-medium", 333, 22.50),
    ("SD3.5-large", 154, 59.19), ("SD3.5-large", 333, 62.24), ("Flux-dev", 512, 74.38), ("PixArt-Sigma", 300, 13.27)])
def test_published_models_at_1024(name, text, tflops):
    assert 2 * budget(PRESETS[name], 1024, 1024, text=text).macs / 1e12 == pytest.approx(tflops, rel=0.01)


@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("dual,detail", [((), 0), ((0, 1), 0), ((), 512)])
def test_torch_counts_the_same_for_an_mmdit(p, dual, detail):
    with torch.device("meta"):
        model = MMDiT(MMDiTConfig(patch_sizes=(2, 4), in_channels=16, width=256, depth=4, heads=4, context_width=64, pooled_width=32,
                                  dual_blocks=dual, position="picture", position_base=16.0, detail=detail))
        grid = (64 // p, 64 // p)
        inputs = torch.empty(2, grid[0] * grid[1], 16 * p * p), grid, p, torch.empty(2), torch.empty(2, 24, 64), torch.empty(2, 32)
        with FlopCounterMode(display=False) as counter:
            model(*inputs)
    shape = MMDiTArchitecture("", 256, 4, text=24, dual=len(dual), detail=detail)
    assert 2 * budget(shape, 512, 512, p, guided=True).macs == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_torch_counts_the_same_for_a_dit():
    with torch.device("meta"):
        model = DiT(DiTConfig(width=384, depth=6, heads=6))
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 256, 16), (16, 16), 2, torch.empty(1), torch.zeros(1, dtype=torch.long))
    shape = DiTArchitecture("", 384, 6, channels=4, head=2, guided=False)
    assert 2 * budget(shape, 256, 256).macs == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_why_patches():
    rows = dict(why_patches(PRESETS["DiT-XL/2"], 256, 256, 8))
    assert rows["pixels, no patches"].tokens == 65536 and rows["pixels, p = 8"].tokens == 1024
    assert rows["pixels, p = 8"].values == 192 and rows["latent, p = 8"].grid == (4, 4)
    assert rows["pixels, no patches"].attention == 64 ** 2 * rows["pixels, p = 8"].attention  # attention grows with N²


def test_a_dit_s_own_shape():
    dit, *_ = load_embedded()
    shape = architecture(dit)
    assert (shape.width, shape.blocks, shape.patch_size, shape.channels) == (192, 6, 2, 16)
    own, coarse = (budget(shape, 256, 256, p) for p in (2, 4))
    assert own.tokens == 256 and own.values == 64 and own.sequence == 268 and coarse.tokens == 64 and coarse.macs < 0.5 * own.macs
    assert own.weights == 2 * sum(p.numel() for p in dit.model.parameters())
    closed = Stages()
    closed.name = "Sealed"
    dit_of_another_kind = type("Another", (DitHandle,), {"name": "another", "stages": closed, "channels": 4, "downscale": 8})()
    with pytest.raises(BackboneError, match="^the shape of another is not known: the layers of Sealed can't be counted$"):
        architecture(dit_of_another_kind)


def test_counted_layers_cost_what_the_formulas_say():
    d, blocks = 384, 6
    formula = DiTArchitecture("", d, blocks, channels=4, head=2, guided=False)
    counted = CountedArchitecture("", d, blocks, channels=4, head=2, guided=False, image_weights=12 * d * d * blocks,
                                  fixed_weights=6 * d * d * blocks, image_to_image=d * blocks)
    for size, p in ((256, 2), (128, 4)):
        assert budget(counted, size, size, p) == budget(formula, size, size, p)


def test_registers_and_filled_up_tokens_cost_too():
    shape = CountedArchitecture("", 8, 1, channels=4, guided=False, image_weights=1000, text_weights=100,
                                text_embedding=10, joint=8, text_to_text=2, head=0)
    image = 256 * (1000 + 8 * 16)
    assert budget(shape, 256, 256, text=20).macs == image + 20 * 110 + 2 * (8 * 276 ** 2 + 2 * 20 ** 2)
    assert budget(replace(shape, registers=8), 256, 256, text=20).macs == image + 20 * 110 + 8 * 100 + 2 * (8 * 284 ** 2 + 2 * 28 ** 2)
    assert budget(replace(shape, multiple=32), 256, 256, text=20).macs == image + 20 * 10 + 32 * 100 + 2 * (8 * 288 ** 2 + 2 * 32 ** 2)


def test_words_and_chart():
    rows = why_patches(PRESETS["SD3-medium"], 1024, 1024)
    words = table(rows)
    assert "4,096 (64×64)" in words and "16.87 TFLOP" in words and "8.4" in table(rows, "MACs") and len(words.splitlines()) == 5
    assert chart(rows).shape[-1] == 3
    with pytest.raises(ValueError, match="4×1024 pixels in patches of 2 leaves no token"):
        budget(PRESETS["SD3-medium"], 4, 1024)
