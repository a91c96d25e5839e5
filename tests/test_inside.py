"""The stages as nodes: in the exact wiring they are the macro step, bit for bit, and rearranged they do what they say."""

import pytest
import torch

from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.model import blocks
from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
from dit_blocks.dit_impl.model.stages import Hidden, parse_blocks
from dit_blocks.dit_impl.sampling.flow import RectifiedFlow
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.step import stages as step_stages
from dit_blocks.dit_impl.tokens.wire import identity_format
from dit_blocks.nodes.denoise import AddNoise, DenoiseStep
from dit_blocks.nodes.transformer import Condition, FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks, SamplerStep


def out(node, **inputs) -> tuple:
    return node.execute(**inputs).result


def noisy(dit, sigmas, patch_size=2, size=(7, 6), batch=2, **latent) -> dict:
    samples = torch.randn(batch, dit.channels, *size, generator=torch.Generator().manual_seed(0))
    return out(AddNoise, dit=dit, tokens=dit.fold({"samples": samples, **latent}, patch_size), sigmas=sigmas, step=0, seed=1)[0]


def exploded(dit, tokens, positive, negative, sigmas, step=0, cfg=3.0, solver="euler", blocks=("all",)) -> tuple[dict, dict]:
    (hidden,) = out(Condition, dit=dit, x=tokens, positive=positive, negative=negative, sigmas=sigmas, step=step)
    (hidden,) = out(PatchEmbed, dit=dit, x=hidden)
    (hidden,) = out(PositionEmbed, dit=dit, hidden=hidden, mode="model", seed=0)
    for part in blocks:
        (hidden,) = out(RunBlocks, dit=dit, hidden=hidden, blocks=part, strength=1.0)
    (prediction,) = out(FinalLayer, dit=dit, hidden=hidden)
    (prediction,) = out(Guidance, prediction=prediction, cfg=cfg)
    return out(SamplerStep, dit=dit, tokens=tokens, prediction=prediction, sigmas=sigmas, step=step, solver=solver)


def embedded(text: str) -> tuple:
    dit, clip, _ = load_embedded()
    return dit, clip.encode_from_tokens_scheduled(clip.tokenize(text)), clip.encode_from_tokens_scheduled(clip.tokenize(""))


@pytest.mark.parametrize("patch_size", [2, 4, 8])
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_exploded_is_the_macro_step_on_the_embedded_model(patch_size, solver):
    dit, positive, negative = embedded("a small red ring at the left on a beige background")
    sigmas = dit.schedule(4)
    ours = macro = noisy(dit, sigmas, patch_size, (34, 29))
    for step in range(4):
        ours, x0 = exploded(dit, ours, positive, negative, sigmas, step, solver=solver, blocks=("0-2", "3", "4-5"))
        macro, macro_x0 = out(DenoiseStep, dit=dit, tokens=macro, sigmas=sigmas, step=step, positive=positive, negative=negative, cfg=3.0,
                              solver=solver)
        assert torch.equal(ours["tokens"], macro["tokens"]) and torch.equal(x0["tokens"], macro_x0["tokens"])


def test_exploded_is_the_macro_step_with_a_noise_mask(backbone, positive, negative):
    sigmas = backbone.schedule(4)
    tokens = noisy(backbone, sigmas, noise_mask=torch.rand(1, 7, 6, generator=torch.Generator().manual_seed(5)))
    ours, _ = exploded(backbone, tokens, positive, negative, sigmas)
    macro, _ = out(DenoiseStep, dit=backbone, tokens=tokens, sigmas=sigmas, step=0, positive=positive, negative=negative, cfg=3.0,
                   solver="euler")
    assert torch.equal(ours["tokens"], macro["tokens"])


def test_exploded_is_the_macro_step_on_a_class_conditional_ddpm(class_dit):
    dit = class_dit
    sigmas, label = dit.schedule(4), dit.class_conditioning("3")
    tokens = noisy(dit, sigmas, size=(8, 8))
    ours, _ = exploded(dit, tokens, label, dit.unconditional, sigmas, solver="ddim")
    macro, _ = out(DenoiseStep, dit=dit, tokens=tokens, sigmas=sigmas, step=0, positive=label, negative=None, cfg=3.0, solver="ddim")
    assert torch.equal(ours["tokens"], macro["tokens"])


def started(dit, positive, negative=None, step=0):
    sigmas = dit.schedule(4)
    tokens = noisy(dit, sigmas)
    (hidden,) = out(Condition, dit=dit, x=tokens, positive=positive, negative=negative, sigmas=sigmas, step=step)
    (hidden,) = out(PatchEmbed, dit=dit, x=hidden)
    return sigmas, tokens, hidden


def finished(dit, hidden):
    (hidden,) = out(RunBlocks, dit=dit, hidden=hidden, blocks="all", strength=1.0)
    return out(FinalLayer, dit=dit, hidden=hidden)[0]


def test_a_branch_for_each_conditioning_agrees(backbone, positive, negative):
    sigmas, tokens, hidden = started(backbone, positive, negative)
    (together,) = out(Guidance, prediction=finished(backbone, hidden), cfg=3.0)
    branches = [finished(backbone, started(backbone, one)[2]) for one in (positive, negative)]
    (apart,) = out(Guidance, prediction=branches[0], cfg=3.0, negative=branches[1])
    torch.testing.assert_close(apart["tokens"], together["tokens"], atol=1e-5, rtol=1e-5)


def test_guidances_chain(backbone, positive, negative):
    _, _, hidden = started(backbone, positive, negative)
    (guided,) = out(Guidance, prediction=finished(backbone, hidden), cfg=3.0)
    worse = finished(backbone, started(backbone, negative)[2])
    (chained,) = out(Guidance, prediction=guided, cfg=1.5, negative=worse)
    x0 = worse["call"].to_x0(worse["tokens"], 1.0)
    torch.testing.assert_close(chained["tokens"], x0 + 1.5 * (guided["tokens"] - x0))
    with pytest.raises(ValueError, match="^DiT Guidance: prediction is guided already: for cfg 2, wire"):
        out(Guidance, prediction=guided, cfg=2.0)


def test_patches_may_be_embedded_before_conditioning(backbone, positive, negative):
    sigmas, tokens, conditioned = started(backbone, positive, negative)
    (hidden,) = out(PatchEmbed, dit=backbone, x=tokens)
    (hidden,) = out(PositionEmbed, dit=backbone, hidden=hidden, mode="model", seed=0)
    (hidden,) = out(Condition, dit=backbone, x=hidden, positive=positive, negative=negative, sigmas=sigmas, step=0)
    (first,) = out(PositionEmbed, dit=backbone, hidden=conditioned, mode="model", seed=0)
    torch.testing.assert_close(hidden["hidden"].x, first["hidden"].x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(finished(backbone, hidden)["tokens"], finished(backbone, first)["tokens"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text,numbers", [("all", [0, 1, 2, 3]), ("0-3", [0, 1, 2, 3]), ("3-0", [3, 2, 1, 0]), ("0, 2-3,2", [0, 2, 3, 2]),
                                          ("", []), ("all,1", [0, 1, 2, 3, 1])])
def test_ranges(text, numbers):
    assert parse_blocks(text, 4) == numbers


@pytest.mark.parametrize("text", ["4", "0-4", "a", "1-", "-1", "1..2"])
def test_ranges_that_are_none(text):
    with pytest.raises(StagesError):
        parse_blocks(text, 4)


def test_strength_scales_what_a_block_adds(backbone, positive):
    _, _, hidden = started(backbone, positive)
    run = lambda strength: out(RunBlocks, dit=backbone, hidden=hidden, blocks="0", strength=strength)[0]["hidden"]  # noqa: E731
    assert torch.equal(run(0.0).x, hidden["hidden"].x) and torch.equal(run(0.0).context, hidden["hidden"].context)
    halfway = (run(1.0).x + hidden["hidden"].x) / 2
    torch.testing.assert_close(run(0.5).x, halfway)


def test_a_run_tells_the_editor_which_blocks_there_are(backbone, positive):
    _, _, hidden = started(backbone, positive)
    told = RunBlocks.execute(dit=backbone, hidden=hidden, blocks="1", strength=1.0).ui
    assert told == {"dit_blocks": ({"kinds": ["joint", "joint"]},)}


def test_perturbed_attention_is_the_masked_softmax(backbone, positive, negative):
    """Image tokens read themselves and the text: an attention computed here by the formula, with that mask, gives the same block."""
    _, _, hidden = started(backbone, positive, negative)
    (alone,) = out(RunBlocks, dit=backbone, hidden=hidden, blocks="0", strength=1.0, attention="itself")
    state, block = hidden["hidden"], backbone.model.joint_blocks[0]
    text, length = state.context.shape[1], state.context.shape[1] + state.x.shape[1]
    reads = torch.ones(length, length, dtype=torch.bool)
    reads[text:, text:] = torch.eye(length - text, dtype=torch.bool)
    given = []

    def masked(q, k, v):
        given.append(q)
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~reads, float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(blocks, "attention", masked)
        context, x = block(state.context, state.x, state.vector)
    assert given and blocks.onlooker.get() is None
    torch.testing.assert_close(alone["hidden"].x, x)
    torch.testing.assert_close(alone["hidden"].context, context)
    (full,) = out(RunBlocks, dit=backbone, hidden=hidden, blocks="0", strength=1.0)
    assert not torch.allclose(full["hidden"].x, x)


def test_a_graft_replaces_the_chosen_tokens(backbone, positive, negative):
    _, _, hidden = started(backbone, positive)
    _, _, other = started(backbone, negative)
    (other,) = out(RunBlocks, dit=backbone, hidden=other, blocks="0", strength=1.0)
    mask = torch.zeros(1, 7, 6)
    mask[:, :, :3] = 1
    (grafted,) = out(RunBlocks, dit=backbone, hidden=hidden, blocks="", strength=1.0, graft=other, graft_mask=mask)
    x, mine, theirs = (wire["hidden"].x.unflatten(1, (4, 3)) for wire in (grafted, hidden, other))
    assert torch.equal(x[:, :, 0], theirs[:, :, 0]) and torch.equal(x[:, :, 2], mine[:, :, 2])
    (whole,) = out(RunBlocks, dit=backbone, hidden=hidden, blocks="", strength=1.0, graft=other)
    assert torch.equal(whole["hidden"].x, other["hidden"].x)


def test_positions(backbone, positive):
    _, _, hidden = started(backbone, positive)
    seen = {mode: out(PositionEmbed, dit=backbone, hidden=hidden, mode=mode, seed=3)[0]["hidden"].x - hidden["hidden"].x
            for mode in ("model", "none", "shuffled", "1-D", "scaled")}
    assert not seen["none"].any()
    rows = lambda x: sorted(x[0].round(decimals=3).tolist())  # noqa: E731
    torch.testing.assert_close(torch.tensor(rows(seen["shuffled"])), torch.tensor(rows(seen["model"])), atol=2e-3, rtol=0)
    assert not torch.allclose(seen["shuffled"], seen["model"]) and not torch.allclose(seen["1-D"], seen["model"])
    torch.testing.assert_close(seen["scaled"][0, 0, 32:48].square() + seen["scaled"][0, 0, 48:].square(), torch.ones(16))


def test_a_bag_of_patches_does_not_see_order(backbone, positive):
    """Without positions, exchanging patches exchanges predictions and nothing else."""
    sigmas = backbone.schedule(4)
    tokens = noisy(backbone, sigmas, size=(8, 8))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))

    def predict(tokens, mode):
        (hidden,) = out(Condition, dit=backbone, x=tokens, positive=positive, sigmas=sigmas, step=0)
        (hidden,) = out(PatchEmbed, dit=backbone, x=hidden)
        (hidden,) = out(PositionEmbed, dit=backbone, hidden=hidden, mode=mode, seed=0)
        return finished(backbone, hidden)["tokens"]
    exchanged = {**tokens, "tokens": tokens["tokens"][:, order]}
    torch.testing.assert_close(predict(exchanged, "none"), predict(tokens, "none")[:, order], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(predict(exchanged, "model"), predict(tokens, "model")[:, order], atol=1e-3)


def test_no_stage_changes_its_input(backbone, positive, negative):
    sigmas, tokens, hidden = started(backbone, positive, negative)
    tensors = [tokens["tokens"], hidden["hidden"].x, hidden["hidden"].context, hidden["hidden"].vector, positive[0][0], sigmas]
    before = [(t.clone(), t._version) for t in tensors]
    prediction = finished(backbone, hidden)
    exploded(backbone, tokens, positive, negative, sigmas)
    kept = prediction["tokens"].clone()
    out(Guidance, prediction=prediction, cfg=2.0)
    assert torch.equal(kept, prediction["tokens"])
    assert all(torch.equal(t, value) and t._version == version for t, (value, version) in zip(tensors, before))


def refusals(dit, positive, negative):
    sigmas, tokens, hidden = started(dit, positive, negative)
    prediction = finished(dit, hidden)
    _, _, narrow = started(dit, positive)
    yield PatchEmbed, dict(x=hidden), "Patch Embed: the patches are embedded already"
    yield RunBlocks, dict(hidden=hidden, blocks="0", strength=1.0, attention="half"), "DiT Blocks: attention is one of full, itself, not 'half'"
    yield RunBlocks, dict(hidden=hidden, blocks="0-9", strength=1.0), "DiT Blocks: this model has blocks 0 to 1, there is no block 2"
    yield RunBlocks, dict(hidden={**hidden, "shape": hidden["shape"]._replace(blocks=3)}, blocks="all", strength=1.0), (
        "DiT Blocks: the hidden states come from a small DiT, MMDiT of 3 blocks (2 heads, 64 numbers a token) that answers velocity; the dit is a small "
        "DiT, MMDiT of 2 blocks (2 heads, 64 numbers a token) that answers velocity: they go on only in a model of the same shape")
    yield RunBlocks, dict(hidden=hidden, blocks="all,0", strength=1.0), "DiT Blocks: block 0 needs the text tokens, but the last block"
    (embedded_only,) = out(PatchEmbed, dit=dit, x=tokens)
    yield RunBlocks, dict(hidden=embedded_only, blocks="all", strength=1.0), "DiT Blocks: the hidden states have not been through DiT Condition"
    other = {**hidden, "hidden": hidden["hidden"].but(x=hidden["hidden"].x[:, :5])}
    yield RunBlocks, dict(hidden=hidden, blocks="all", strength=1.0, graft=other), "DiT Blocks: the graft has 5 tokens of width 64, the"
    yield Condition, dict(x=hidden, positive=positive, sigmas=sigmas, step=0), "DiT Condition: the hidden states are conditioned already"
    yield Condition, dict(x=tokens, positive=positive, sigmas=sigmas, step=4), "DiT Condition: step 4 is outside the schedule"
    yield SamplerStep, dict(tokens=tokens, prediction=prediction, sigmas=sigmas, step=1, solver="euler"), (
        "Sampler Step: the prediction was made at sigma 1, step 1 is at 0.75")
    yield SamplerStep, dict(tokens=tokens, prediction=tokens, sigmas=sigmas, step=0, solver="euler"), (
        "Sampler Step: prediction is not from Final Layer or DiT Guidance")


def test_wrong_inputs_are_one_line_that_names_the_node(backbone, positive, negative):
    for node, inputs, message in refusals(backbone, positive, negative):
        with pytest.raises(ValueError) as caught:
            out(node, dit=backbone, **inputs)
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value), caught.value
    prediction = finished(backbone, started(backbone, positive)[2])
    with pytest.raises(ValueError, match="^DiT Guidance: cfg 3 needs a negative"):
        out(Guidance, prediction=prediction, cfg=3.0)
    with pytest.raises(ValueError, match="^DiT Guidance: prediction is not from Final Layer or DiT Guidance"):
        out(Guidance, prediction=started(backbone, positive)[1], cfg=3.0)


def test_a_graft_goes_part_by_part(backbone, positive, negative):
    """uncond beside uncond, whatever the batches: one picture's run into a batch of two, and a guided run into a branch of its own."""
    sigmas, both = backbone.schedule(4), {}
    for batch in (1, 2):
        for name, against in (("guided", negative), ("alone", None)):
            (x,) = out(Condition, dit=backbone, x=noisy(backbone, sigmas, batch=batch), positive=positive, negative=against, sigmas=sigmas, step=0)
            (x,) = out(PatchEmbed, dit=backbone, x=x)
            (both[batch, name],) = out(RunBlocks, dit=backbone, hidden=x, blocks="0", strength=1.0)
    uncond, cond = both[1, "guided"]["hidden"].x.chunk(2)
    graft = lambda into, source: out(RunBlocks, dit=backbone, hidden=both[into], blocks="", strength=1.0, graft=both[source])[0]["hidden"].x  # noqa: E731
    assert torch.equal(graft((2, "guided"), (1, "guided")), torch.cat([uncond, uncond, cond, cond]))
    assert torch.equal(graft((1, "alone"), (1, "guided")), cond)


def test_other_grids_are_refused_where_the_counts_agree(backbone, positive):
    sigmas = backbone.schedule(4)

    def run(size):
        tokens = noisy(backbone, sigmas, size=size)
        (x,) = out(Condition, dit=backbone, x=tokens, positive=positive, sigmas=sigmas, step=0)
        (x,) = out(PatchEmbed, dit=backbone, x=x)
        return tokens, x, out(FinalLayer, dit=backbone, hidden=x)[0]
    (_, wide, wide_prediction), (tall_tokens, tall, tall_prediction) = run((6, 8)), run((8, 6))
    for node, inputs, first, second in (
            (RunBlocks, dict(dit=backbone, hidden=tall, blocks="0", strength=1.0, graft=wide), "the graft", "the hidden states"),
            (Guidance, dict(prediction=wide_prediction, cfg=2.0, negative=tall_prediction), "prediction", "negative"),
            (SamplerStep, dict(dit=backbone, tokens=tall_tokens, prediction=wide_prediction, sigmas=sigmas, step=0, solver="euler"),
             "the prediction", "tokens")):
        with pytest.raises(ValueError, match=f": {first} has a 3×4 grid of patches of 2, {second} a 4×3 grid of patches of 2$"):
            node.execute(**inputs)


def test_the_scaled_positions_of_a_cropped_table_are_the_trained_ones():
    """SD3's table is cropped from the centre; scaled, the crop of the trained size is laid over any grid."""
    torch.manual_seed(0)
    model = MMDiT(MMDiTConfig(patch_sizes=(2,), in_channels=4, width=64, depth=2, heads=2, context_width=32, pooled_width=16, qk_norm=True,
                              position="cropped", position_table=16, position_base=8.0))
    dit = Backbone(model.eval().requires_grad_(False), identity_format(4), RectifiedFlow(), "a small SD3", picture_size=128)

    def added(size, mode):
        hidden = {"hidden": Hidden(torch.zeros(1, size * size, 64), None, None, None, 0, {"grid": (size, size), "patch_size": 2}),
                  "tokens": {"grid": (size, size)}, "model": dit.name, "done": {"patches"}, "trace": (), "call": None}
        return step_stages.position_embed(dit, hidden, mode)["hidden"].x
    assert torch.equal(added(8, "scaled"), added(8, "model"))  # the trained grid: 128 pixels, 16 cells, 8 patches
    trained = added(8, "model").unflatten(1, (8, 8)).movedim(-1, 1)
    torch.testing.assert_close(added(4, "scaled"), torch.nn.functional.avg_pool2d(trained, 2).flatten(2).transpose(1, 2))
    assert not torch.allclose(added(4, "scaled"), added(4, "model"))


def test_a_checksum_sees_places_and_signs():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    sums = step_stages.checksum(x)
    assert torch.equal(sums, step_stages.checksum(x.clone()))
    swapped, touched = x.clone(), x.clone()
    swapped[:, [1, 3]], touched[1, 4, 7] = x[:, [3, 1]], x[1, 4, 7] + 0.01
    assert not any(torch.equal(sums, step_stages.checksum(one)) for one in (-x, x.flip(1), x.roll(1, 1), x.flip(0), swapped, touched))
