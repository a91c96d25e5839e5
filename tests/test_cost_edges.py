"""The arithmetic of cost to the last multiply-add, on shapes small enough to count by hand; and what tables and answers say of it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dit_blocks.dit_impl.cost import answers
from dit_blocks.dit_impl.cost.arithmetic import (
    OWN_TEXT,
    PRESETS,
    SD3_TEXT,
    Budget,
    CountedArchitecture,
    DiTArchitecture,
    FluxArchitecture,
    MMDiTArchitecture,
    PixArtArchitecture,
    ViTArchitecture,
    architecture,
    budget,
    budget_of_mix,
    with_and_without_patches,
)
from dit_blocks.dit_impl.cost.pictures import table, why_patches
from dit_blocks.dit_impl.handle.dit_handle import DitHandle
from dit_blocks.dit_impl.handle.patch_schedule import parse_schedule
from dit_blocks.dit_impl.model.dit import DiT, DiTConfig
from dit_blocks.dit_impl.model.mmdit import MMDiT
from dit_blocks.dit_impl.tokens.mixed import Mixture, Split

# width 3, 2 blocks, patches of 2 over 2 channels; a picture of 32×48 pixels has 2×3 tokens of 8 values, and its text 5
D, L, N, T, M = 3, 2, 6, 5, 11
COMMON = {"name": "small", "width": D, "blocks": L, "channels": 2}
EMBED = N * 8 * D
WEIGHTS, SCORES = 12 * D * D, 2 * D  # of a block: for each token, for each pair of tokens
# an architecture → attention, what else the blocks do, the final layer, tokens in a row, tokens of the longest attention
COUNTED = {"image_weights": 100, "text_weights": 70, "text_embedding": 30, "fixed_weights": 900, "joint": 4, "image_to_image": 5, 
           "image_to_text": 7, "text_to_text": 9}
CASES = [
    (ViTArchitecture(**COMMON), L * SCORES * N * N, L * WEIGHTS * N, 0, N, N),
    (DiTArchitecture(**COMMON, head=2), L * SCORES * N * N, L * (WEIGHTS * N + 6 * D * D), 2 * EMBED, N, N),
    (PixArtArchitecture(**COMMON, text=T, head=2), L * (SCORES * N * N + SCORES * N * T), L * (WEIGHTS * N + 2 * D * D * M) + 6 * D * D,
     2 * EMBED, M, N),
    (MMDiTArchitecture(**COMMON, text=T), L * SCORES * M * M, L * (WEIGHTS * M + 12 * D * D) - 9 * D * D * T, EMBED, M, M),
    (MMDiTArchitecture(**COMMON, text=T, dual=1, detail=8), L * SCORES * M * M + SCORES * N * N,
     L * (WEIGHTS * M + 12 * D * D) - 9 * D * D * T + 4 * D * D * N + 3 * D * D, EMBED + 4 * N * (2 * D + 2 * 8 + 2 * 8 + 8 * 2), M, M),
    (FluxArchitecture(**COMMON, text=T, single=3), 5 * SCORES * M * M, 5 * WEIGHTS * M + 2 * 12 * D * D + 3 * 3 * D * D, EMBED, M, M),
    (CountedArchitecture(**COMMON, text=T, **COUNTED), 2 * (4 * M * M + 5 * N * N + 7 * N * T + 9 * T * T), 5 * 30 + N * 100 + T * 70 + 900,
     EMBED, M, M),
    (CountedArchitecture(**COMMON, text=T, **COUNTED | {"joint": 0}, head=0, multiple=4), 2 * (5 * 64 + 7 * 64 + 9 * 64),
     5 * 30 + 8 * 100 + 8 * 70 + 900, 0, M, N)]


@pytest.mark.parametrize("shape,attention,blocks,head,sequence,longest", CASES, ids=lambda value: getattr(value, "kind", ""))
def test_a_step_counted_by_hand(shape, attention, blocks, head, sequence, longest):
    one = Budget("small", (2, 3), 8, sequence, attention, EMBED + blocks + head, head, 7 * 2, longest * 6 * D * 2, attention + blocks)
    assert budget(replace(shape, parameters=7), 48, 32, guided=False) == one
    assert one.tokens == N and one.macs == attention + EMBED + blocks + head
    four = replace(one, attention=4 * attention, rest=4 * one.rest, head=4 * head, weights=7 * 3, activations=4 * longest * 6 * D * 3,
                   blocks=4 * one.blocks)
    assert budget(replace(shape, parameters=7), 48, 32, batch=2, bytes_each=3) == four  # two pictures, each with and without the prompt
    assert budget(replace(shape, parameters=7, guided=False), 48, 32, batch=4, bytes_each=3) == four
    assert budget(shape, 48, 32, 4) == budget(replace(shape, patch_size=4), 48, 32)


def test_more_text_than_usual_and_none():
    shape = CASES[3][0]
    assert [budget(shape, 48, 32, text=text, guided=False).attention for text in (0, 2)] == [L * SCORES * N * N, L * SCORES * (N + 2) ** 2]
    assert budget(shape, 48, 32, text=T) == budget(shape, 48, 32)


def test_a_sequence_of_several_patch_sizes_counted_by_hand():
    """Each size has an embedding and a head of its own, and a vector that modulates its tokens."""
    shape = MMDiTArchitecture(**COMMON, text=T, dual=1)
    found = budget_of_mix(shape, {4: 2, 2: 4}, guided=False)
    blocks = L * (WEIGHTS * M + 12 * D * D) - 9 * D * D * T + 4 * D * D * N + 3 * D * D
    ends, vector = (2 * 32 + 4 * 8) * D, (6 * L + 3 + 3) * D * D
    attention = L * SCORES * M * M + SCORES * N * N
    assert found == Budget("small", (1, N), 32, M, attention, blocks + 2 * ends + vector, ends, 0, M * 6 * D * 2, attention + blocks)
    assert budget_of_mix(shape, {4: 2, 2: 4}, 3, 0, True, 1) == budget_of_mix(
        replace(shape, text=0, guided=False), {4: 2, 2: 4}, 6, bytes_each=1)
    assert budget_of_mix(shape, {2: N}).macs == budget(shape, 48, 32).macs


@pytest.mark.parametrize("width,height,patch_size,batch", [(7, 32, 0, 1), (32, 7, 0, 1), (32, 32, -1, 1), (32, 32, 2, 0)])
def test_pictures_without_a_token_are_refused(width, height, patch_size, batch):
    with pytest.raises(ValueError, match=f"^a picture of {width}×{height} pixels in patches of {patch_size or 2} leaves no token$"):
        budget(CASES[0][0], width, height, patch_size, batch)
    assert budget(CASES[0][0], 8, 8).tokens == 1  # a patch that is half there


def test_a_model_s_shape_is_read_off_it(backbone, class_dit):
    count = sum(p.numel() for p in backbone.model.parameters())
    assert architecture(backbone) == MMDiTArchitecture("a small DiT", 64, 2, 2, 4, count, 8, text=OWN_TEXT)
    other = replace(backbone.model.config, patch_sizes=(4, 2), dual_blocks=(1,), detail=8)
    found = architecture(replace(backbone, model=MMDiT(other)))
    assert (found.patch_size, found.dual, found.detail, found.text) == (4, 1, 8, OWN_TEXT)
    told = CountedArchitecture("Flux", 64, 2)
    counting = type("Handle", (DitHandle,), {"name": "Flux", "channels": 16, "downscale": 4, "stages": SimpleNamespace(
        architecture=lambda *asked: told if asked == ("Flux", 16, 4) else None)})()
    assert architecture(counting) == told and architecture(counting, 3) == replace(told, frames=3)
    own = architecture(class_dit)
    assert (type(own), own.name, own.head, own.blocks, own.downscale, own.guided) == (DiTArchitecture, "a small DiT", 2, 3, 8, True)
    plain = replace(class_dit, model=DiT(DiTConfig(in_channels=4, width=64, depth=3, heads=2, learn_sigma=False)), downscale=4)
    assert architecture(plain).head == 1 and architecture(plain).downscale == 4 and SD3_TEXT == PRESETS["SD3-medium"].text


def test_with_and_without_patches():
    shape = CASES[1][0]
    on_pixels = replace(shape, downscale=1, channels=3)
    assert with_and_without_patches(shape, 48, 32, 4, batch=2) == [
        budget(shape, 48, 32, 4, 2), budget(shape, 48, 32, 1, 2), budget(on_pixels, 48, 32, 4, 2), budget(on_pixels, 48, 32, 1, 2)]
    assert with_and_without_patches(on_pixels, 48, 32) == [budget(on_pixels, 48, 32, 2), budget(on_pixels, 48, 32, 1)]
    assert len(with_and_without_patches(replace(shape, downscale=2), 48, 32)) == 4
    assert [label for label, _ in why_patches(shape, 48, 32)] == [
        "latent, p = 2", "latent, no patches", "pixels, p = 2", "pixels, no patches"]
    assert why_patches(on_pixels, 48, 32, 4, "中文", batch=2) == [
        ("像素，p = 4", budget(on_pixels, 48, 32, 4, 2)), ("像素，无图块", budget(on_pixels, 48, 32, 1, 2))]


def test_the_dits_of_the_paper():
    """Peebles & Xie 2022, table 1, and the weights that their models have, in millions; twice as many bytes."""
    for name, width, blocks, millions in (("S", 384, 12, 33), ("B", 768, 12, 130), ("L", 1024, 24, 458), ("XL", 1152, 28, 675)):
        for p in (2, 4, 8):
            shape = PRESETS[f"DiT-{name}/{p}"]
            assert shape == DiTArchitecture(f"DiT-{name}/{p}", width, blocks, p, 4, millions * 1_000_000, head=2, guided=False)
            assert budget(shape, 256, 256).weights == millions * 2_000_000
            assert budget(shape, 256, 256) == budget(shape, 256, 256, p, guided=False)


# --- words ----------------------------------------------------------------------------------------------------------

ROWS = [("first", Budget("", (2, 3), 8, 11, 250, 750, 0, 999, 1000, 0)),
        ("the second", Budget("", (40, 50), 12, 2011, 10 ** 6, 0, 0, 10 ** 9, 10 ** 12, 0)),
        ("third", Budget("", (1, 1), 1, 1, 0, 10 ** 15, 0, 0, 2 * 10 ** 6, 0))]


def test_a_table_says_every_number_in_its_column():
    assert table(ROWS).splitlines() == [
        "                     tokens  values  sequence  FLOPs a step  attention  weights  activations",
        "first               6 (2×3)       8        11    2.00 kFLOP        25%    999 B      1.00 kB",
        "the second    2,000 (40×50)      12     2,011    2.00 MFLOP       100%  1.00 GB      1.00 TB",
        "third               1 (1×1)       1         1    2.00 PFLOP         0%      0 B      2.00 MB"]
    assert table(ROWS[:1], "MACs", "中文").splitlines() == [
        "         token 数  值  序列  每步 MACs  注意力   权重     激活",
        "first     6 (2×3)   8    11  1.00 kMAC     25%  999 B  1.00 kB"]


# --- answers --------------------------------------------------------------------------------------------------------

SHAPE = MMDiTArchitecture(**COMMON, text=T)
SIGMAS = torch.linspace(1, 0, 5)


def test_a_walk_counted_by_hand():
    """2 guided steps of patches of 4, then 2 of patches of 2, over a latent of 4×6 cells."""
    coarse, fine = (2 * budget(SHAPE, 48, 32, p, 3, guided=True).macs for p in (4, 2))
    told = answers.of_walk(SHAPE, (4, 6), parse_schedule("4 until 50%, then 2"), SIGMAS, 3.0, 3)
    assert told == {"steps": 4, "flops": 2 * coarse + 2 * fine, "share": (coarse + fine) / (2 * fine), "batch": 3, "stretches": [
        {"patch_size": 4, "steps": 2, "tokens": 2, "flops": coarse}, {"patch_size": 2, "steps": 2, "tokens": 6, "flops": fine}]}
    assert answers.of_walk(SHAPE, (4, 6), parse_schedule("4 until 50%, then 2"), SIGMAS, 3.0, 3, 1, 3) == {
        "steps": 2, "flops": coarse + fine, "share": (coarse + fine) / (2 * fine), "batch": 3, "stretches": [
            {"patch_size": 4, "steps": 1, "tokens": 2, "flops": coarse}, {"patch_size": 2, "steps": 1, "tokens": 6, "flops": fine}]}
    heun = answers.of_walk(SHAPE, (4, 6), parse_schedule("2"), SIGMAS, 3.0, 3, solver="heun")
    assert heun["flops"] == 7 * fine and heun["stretches"][0]["flops"] == 2 * fine  # the step that lands on 0 asks once


def test_a_walk_guides_only_where_it_is_guided():
    """Coarse steps with a factor of 0.5 on cfg 2 have cfg 1."""
    coarse, fine = (2 * budget(SHAPE, 48, 32, p, guided=p == 2).macs for p in (4, 2))
    told = answers.of_walk(SHAPE, (4, 6), parse_schedule("4 until 25%, then 2", coarse_cfg=0.5), SIGMAS, 2.0)
    assert told["flops"] == coarse + 3 * fine and told["share"] == (coarse + 3 * fine) / (4 * fine) and told["batch"] == 1


def test_a_mixture_s_walk_counts_patches_by_the_mask():
    mask = torch.zeros(1, 4, 8)
    mask[..., :4] = 1
    plan = parse_schedule("4 with 2 on the mask")
    plan = replace(plan, mask=mask)
    told = answers.of_walk(SHAPE, (4, 8), plan, SIGMAS, 1.0)
    step = budget_of_mix(SHAPE, {4: 1, 2: 4}, guided=False)
    assert told["stretches"] == [{"patch_size": "4 with 2 on the mask", "steps": 4, "tokens": 5, "flops": 2 * step.macs}]
    assert told["flops"] == 8 * step.macs and told["share"] == step.macs / budget(SHAPE, 64, 32, guided=False).macs
    assert answers.of_walk(SHAPE, (4, 8), plan, SIGMAS, 1.0, 3)["flops"] == 3 * told["flops"]
    quarter = Mixture(4, (Split(2, 0.25),))
    assert answers.tokens_of(quarter, (16, 16)) == 12 + 16 and answers.coarsest(quarter) == 4 and answers.coarsest(3) == 3
    with pytest.raises(ValueError, match="^patch_size 4 does not fit into a latent of 3×9 cells$"):
        answers.of_walk(SHAPE, (3, 9), plan, SIGMAS, 1.0)


def test_a_picture_smaller_than_the_model_s_patch_is_told_of():
    told = answers.by_patch_size(replace(SHAPE, patch_size=4), (3, 6))
    assert [one["share"] for one in told.values()][-1] == 1 and list(told) == [1, 2, 3]
    walk = answers.of_walk(replace(SHAPE, patch_size=4), (3, 6), parse_schedule("3"), SIGMAS, 1.0)
    assert walk["share"] == 1


def test_a_question_s_widgets_reach_the_walk():
    small = answers.plain(SHAPE)
    ask = lambda walk=None, **more: answers.cost_answer({"shape": small, "size": [4, 6], "walk": walk, **more})  # noqa: E731
    assert ask() == {"own": 2, "native": [2], "sizes": {
        p: cost | {"method": {2: "native", 4: "resample"}.get(p, "pi_resize")} for p, cost in answers.by_patch_size(SHAPE, (4, 6)).items()}}
    assert ask(native=[2, 4], method="native")["sizes"][3]["refused"] == (
        "the model knows patch sizes 2, 4, not 3: patch_method native can't read it, resample or pi_resize may")
    assert ask(native=[2, 4], method="native")["native"] == [2, 4] and ask(native=[2, 4])["sizes"][4]["method"] == "native"
    given = {"steps": 4, "rows": "4 until 50%, then 2", "coarse_cfg": 0.5, "start_step": 1, "end_step": 3, "solver": "heun",
             "capture_blocks": True}
    wanted = answers.of_walk(SHAPE, (4, 6), parse_schedule(given["rows"], coarse_cfg=0.5), SIGMAS, 2.0, 3, 1, 3, "heun", True)
    assert ask(given, batch=3, cfg=2.0)["walk"] == ask(given, batch=3)["walk"] == wanted  # cfg 2 stands for any guidance
    unguided = answers.cost_answer({"shape": small | {"guided": False}, "size": [4, 6], "walk": given})["walk"]
    assert unguided == ask(given, cfg=1.0)["walk"] and ask(cfg=1.0)["sizes"][2]["flops"] * 2 == ask(cfg=5.0)["sizes"][2]["flops"]
    ends = ask({"steps": 4, "rows": "4 until sigma 0.6, then 2"})["walk"]["stretches"]  # its noise levels count as even ones, from 1
    assert [one["steps"] for one in ends] == [2, 2]
    with pytest.raises(ValueError, match="^a walk has no setting 'stop'; "):
        ask({"steps": 4, "stop": 1})
    assert ask({"steps": 4, "patch_size": 4})["walk"]["stretches"][0]["patch_size"] == 4
    assert ask({"steps": 4})["walk"]["stretches"][0]["patch_size"] == 2 and ask({"steps": 4})["walk"]["steps"] == 4


def test_the_default_model_s_own_noise_levels_decide_where_a_row_ends():
    def first(**given):
        walk = {"steps": 10, "rows": "4 until sigma 0.5, then 2", **given}
        told = answers.cost_answer({"shape": "embedded", "size": [8, 8], "walk": walk})
        return told["walk"]["stretches"][0]["steps"]
    dit = answers.load_embedded()[0]
    for given in ({}, {"scheduler": "beta"}, {"denoise": 0.6}):
        sigmas = dit.schedule(10, given.get("scheduler", "simple"), given.get("denoise", 1.0))
        assert first(**given) == (sigmas[:-1] > 0.5).sum()


def test_without_a_model_there_are_grids():
    assert answers.without_model(3, (4, 70)) == {
        1: {"grid": (4, 70), "tokens": 280, "values": 3}, 2: {"grid": (2, 35), "tokens": 70, "values": 12},
        3: {"grid": (2, 24), "tokens": 48, "values": 27}, 4: {"grid": (1, 18), "tokens": 18, "values": 48}}
    assert answers.cost_answer({"shape": None, "channels": 3, "size": [4, 70]}) == {
        "own": 0, "native": [], "sizes": answers.without_model(3, (4, 70))}
    assert list(answers.patch_sizes((80, 70))) == list(range(1, 65))
