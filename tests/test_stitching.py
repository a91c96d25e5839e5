"""Hidden states of one model go on in another of the same shape: base and finetune, a DIT and its adapter; others are refused."""

from dataclasses import replace

import pytest
from test_adapter import random_adapter
from test_inside import finished, out, started
import torch

from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.model.mmdit import MMDiT, Streams
from dit_blocks.dit_impl.sampling.flow import RectifiedFlow
from dit_blocks.dit_impl.sources.adapters import apply_adapter
from dit_blocks.dit_impl.sources.dit_file import load_dit, save_dit
from dit_blocks.dit_impl.step import stages as step_stages
from dit_blocks.dit_impl.tokens.wire import latent_format
from dit_blocks.nodes.denoise import DenoiseStep
from dit_blocks.nodes.transformer import FinalLayer, Guidance, RunBlocks


def another(dit: Backbone, name: str = "a finetune", **changes) -> Backbone:
    """A model of other weights, and of the same configuration but for what is changed."""
    torch.manual_seed(5)
    model = MMDiT(replace(dit.model.config, **changes))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    return Backbone(model.eval().requires_grad_(False), dit.latent_format, dit.flow, name, picture_size=64)


def blocks(dit, hidden, numbers: str):
    return out(RunBlocks, dit=dit, hidden=hidden, blocks=numbers, strength=1.0)[0]


def test_blocks_of_one_model_go_on_in_another(backbone, positive, negative):
    finetune = another(backbone)
    _, _, hidden = started(backbone, positive, negative)
    stitched = blocks(finetune, blocks(backbone, hidden, "0"), "1")
    begun = hidden["hidden"]
    context, x = backbone.model.joint_blocks[0](begun.context, begun.x, begun.vector)
    _, x = finetune.model.joint_blocks[1](context, x, begun.vector)
    assert torch.equal(stitched["hidden"].x, x) and stitched["hidden"].index == 2
    for head in (backbone, finetune):
        (prediction,) = out(FinalLayer, dit=head, hidden=stitched)
        assert torch.equal(prediction["tokens"], head.model.head(Streams(x, None, begun.vector, 2, begun.extra["raw"])))
        assert torch.isfinite(out(Guidance, prediction=prediction, cfg=2.0)[0]["tokens"]).all()
    assert not torch.equal(stitched["hidden"].x, blocks(backbone, hidden, "all")["hidden"].x)


def test_a_graft_takes_another_models_tokens_into_this_ones_step(backbone, positive):
    finetune = another(backbone)
    ours, theirs = (started(dit, positive)[2] for dit in (backbone, finetune))
    theirs = blocks(finetune, theirs, "0")
    (grafted,) = out(RunBlocks, dit=backbone, hidden=ours, blocks="", strength=1.0, graft=theirs)
    assert torch.equal(grafted["hidden"].x, theirs["hidden"].x) and grafted["hidden"].vector is ours["hidden"].vector


def test_a_saved_finetune_goes_on_too(backbone, positive, tmp_path):
    finetune = another(backbone)
    save_dit(finetune, tmp_path / "a.safetensors")
    loaded = load_dit(tmp_path / "a.safetensors")
    half = blocks(backbone, started(backbone, positive)[2], "0")
    torch.testing.assert_close(blocks(loaded, half, "1")["hidden"].x, blocks(finetune, half, "1")["hidden"].x, rtol=1e-2, atol=1e-2)


def test_a_dit_and_its_adapter_go_on_in_each_other(backbone, positive):
    """At its own patch size an adapter changes nothing; at the new one, only its own blocks read it with what they have learnt."""
    taught = apply_adapter(backbone, random_adapter(backbone)[0])
    _, _, hidden = started(backbone, positive)
    assert torch.equal(blocks(taught, blocks(backbone, hidden, "0"), "1")["hidden"].x, blocks(backbone, hidden, "all")["hidden"].x)
    size = next(p for p in taught.patch_sizes if p not in backbone.patch_sizes)
    tokens, _ = taught.add_noise(taught.fold({"samples": torch.zeros(1, 4, 2 * size, 2 * size)}, size), taught.schedule(4), 0, 1)
    begun = step_stages.patch_embed(taught, step_stages.condition(taught, tokens, positive, None, taught.schedule(4), 0))
    stitched = blocks(taught, blocks(backbone, begun, "0"), "1")
    assert not torch.equal(stitched["hidden"].x, blocks(taught, begun, "all")["hidden"].x)
    assert torch.isfinite(out(FinalLayer, dit=taught, hidden=stitched)[0]["tokens"]).all()


def test_guidance_goes_away_from_another_checkpoint(backbone, positive):
    """Autoguidance, Karras et al. 2024, equation 3: D_bad + w·(D_good − D_bad), of two steps from the same tokens."""
    worse = another(backbone, "a worse DiT")
    sigmas, tokens, _ = started(backbone, positive)
    good, bad = (finished(dit, step_stages.position_embed(dit, started(dit, positive)[2])) for dit in (backbone, worse))
    (guided,) = out(Guidance, prediction=good, cfg=3.0, negative=bad)
    x0 = [out(DenoiseStep, dit=dit, tokens=tokens, sigmas=sigmas, step=0, positive=positive, cfg=1.0, solver="euler")[1]["tokens"]
          for dit in (backbone, worse)]
    torch.testing.assert_close(guided["tokens"], x0[1] + 3 * (x0[0] - x0[1]), atol=1e-5, rtol=1e-5)


def test_other_shapes_are_refused_in_one_line(backbone, class_dit, positive):
    _, _, hidden = started(backbone, positive)
    shifted = replace(backbone, name="a shifted DiT", latent_format=latent_format(torch.ones(4), torch.ones(4)))
    for other, line in (
            (another(backbone, width=32), "MMDiT of 2 blocks (2 heads, 32 numbers a token)"), (another(backbone, heads=4), "(4 heads, 64 numbers a token)"),
            (another(backbone, depth=3), "MMDiT of 3 blocks"), (class_dit, "DiT of "),
            (replace(another(backbone), flow=RectifiedFlow("x0")), "that answers x0"), (another(backbone, "a small DiT", width=32), "32 numbers a token"),
            (shifted, "which has another latent space than a shifted DiT")):
        for inputs in (dict(hidden=hidden), dict(hidden=hidden, graft=hidden)):
            with pytest.raises(ValueError) as refused:
                out(RunBlocks, dit=other, blocks="0", strength=1.0, **inputs)
            assert line in str(refused.value) and "\n" not in str(refused.value) and str(refused.value).startswith("DiT Blocks: the hidden states come from")
        with pytest.raises(StagesError, match="the hidden states come from a small DiT"):
            step_stages.final_layer(other, hidden)
