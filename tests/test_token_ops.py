"""Token nodes: identities on raw tokens and on hidden states, inputs left as they were, and what each refuses."""

import pytest
import torch

from dit_blocks.dit_impl.tokens.wire import fold
from dit_blocks.nodes.denoise import AddNoise, DenoiseStep
from dit_blocks.nodes.patch import Patchify, PatchifyImage, Unpatchify
from dit_blocks.nodes.tokens import MixTokens, ReplaceTokens, RollTokens, ScaleTokens, ShuffleTokens, SwapTokens, TokenMap, TokenMask
from dit_blocks.nodes.transformer import Condition, FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks
from dit_blocks.standalone import core_nodes
from dit_blocks.standalone.errors import NodeError, WorkflowError
from dit_blocks.standalone.executor import Executor
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.validate import check


def out(node, **inputs):
    return node.execute(**inputs).result[0]


def random(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def raw(batch=2, seed=0, size=(7, 6)) -> dict:
    """A 4×3 grid of tokens of 16 values."""
    return fold(random(batch, 4, *size, seed=seed), 2)


def embedded(dit, positive, negative=None, batch=2, seed=0) -> dict:
    hidden = out(Condition, dit=dit, x=raw(batch, seed), positive=positive, negative=negative, sigmas=dit.schedule(4), step=0)
    return out(PatchEmbed, dit=dit, x=hidden)


@pytest.fixture(params=["raw 1", "raw 2", "hidden 1", "hidden 2"])
def pair(request, backbone, positive, negative) -> list[dict]:
    """Two wires of one kind, of batch 1 or 2; the hidden states are laid out [uncond, cond]."""
    kind, batch = request.param.split()
    return [raw(int(batch), seed) if kind == "raw" else embedded(backbone, positive, negative, int(batch), seed) for seed in (0, 1)]


def values(wire: dict) -> torch.Tensor:
    return wire["hidden"].x if "hidden" in wire else wire["tokens"]


def squares(wire: dict) -> torch.Tensor:
    return values(wire).unflatten(1, (4, 3))


CORNER = torch.zeros(1, 4, 3)  # the upper left 2×2 tokens
CORNER[:, :2, :2] = 1
INSIDE = CORNER.flatten().bool()
SWAP = dict(column=0, row=0, to_column=1, to_row=2, width=2, height=2)
NODES = [(MixTokens, dict(amount=0.3)), (SwapTokens, SWAP), (RollTokens, dict(rows=1, columns=-1)), (ShuffleTokens, dict(seed=3)),
         (ShuffleTokens, dict(seed=3, mask=CORNER)), (ScaleTokens, dict(factor=0.5, mask=CORNER)),
         (ReplaceTokens, dict(fill="same place", row=0, column=0)), (ReplaceTokens, dict(fill="one token", row=3, column=2, mask=CORNER)),
         (ReplaceTokens, dict(fill="mean", row=0, column=0)), (TokenMap, dict(show="norm", scale=2)),
         (TokenMap, dict(show="principal components", scale=1)), (TokenMask, dict(column=0, row=0, width=2, height=0, mask=CORNER))]


@pytest.mark.parametrize("node,inputs", NODES, ids=lambda value: getattr(value, "__name__", ""))
def test_inputs_stay_as_they_are(pair, node, inputs):
    a, b = pair
    wires = {"a": a, "b": b} if node is MixTokens else {"x": a, "source": b} if node is ReplaceTokens else {"x": a}
    before = [(tensor, tensor.clone(), tensor._version) for tensor in (*map(values, pair), CORNER)]
    keys = [(dict(wire), wire.get("hidden")) for wire in pair]
    done = out(node, **wires, **inputs)
    assert all(torch.equal(tensor, value) and tensor._version == version for tensor, value, version in before)
    assert all(wire.keys() == kept.keys() and wire.get("hidden") is hidden for wire, (kept, hidden) in zip(pair, keys))
    if node not in (TokenMap, TokenMask):
        assert values(done).shape == values(a).shape and values(done).data_ptr() != values(a).data_ptr()
        assert done.keys() == a.keys()


def test_roll_shifts_and_rolls_back(pair):
    x = pair[0]
    rolled = out(RollTokens, x=x, rows=1, columns=-1)
    assert torch.equal(squares(rolled)[:, 1, 0], squares(x)[:, 0, 1]) and torch.equal(squares(rolled)[:, 0, 2], squares(x)[:, 3, 0])
    assert torch.equal(values(out(RollTokens, x=rolled, rows=-1, columns=1)), values(x))
    assert torch.equal(values(out(RollTokens, x=x, rows=-8, columns=6)), values(x))


def test_swap_exchanges_and_swaps_back(pair):
    x = pair[0]
    swapped = out(SwapTokens, x=x, **SWAP)
    assert torch.equal(squares(swapped)[:, :2, :2], squares(x)[:, 2:, 1:]) and torch.equal(squares(swapped)[:, 2:, 1:], squares(x)[:, :2, :2])
    assert torch.equal(squares(swapped)[:, 2:, 0], squares(x)[:, 2:, 0])
    assert torch.equal(values(out(SwapTokens, x=swapped, **SWAP)), values(x))


def test_shuffle_is_a_permutation_and_the_same_for_every_picture(pair):
    x = pair[0]
    one = out(ShuffleTokens, x=x, seed=5)
    assert not torch.equal(values(one), values(x)) and torch.equal(values(one), values(out(ShuffleTokens, x=x, seed=5)))
    assert not torch.equal(values(one), values(out(ShuffleTokens, x=x, seed=6)))
    order = [[(values(x)[b] == token).all(-1).nonzero().item() for token in values(one)[b]] for b in range(len(values(x)))]
    assert sorted(order[0]) == list(range(12)) and all(other == order[0] for other in order)
    some = out(ShuffleTokens, x=x, seed=1, mask=CORNER)
    assert torch.equal(values(some)[:, ~INSIDE], values(x)[:, ~INSIDE]) and not torch.equal(values(some), values(x))
    assert torch.equal(values(some)[:, INSIDE].sort(dim=1).values, values(x)[:, INSIDE].sort(dim=1).values)


def test_mix(pair):
    a, b = pair
    assert torch.equal(values(out(MixTokens, a=a, b=b, amount=0.0)), values(a))
    assert torch.equal(values(out(MixTokens, a=a, b=b, amount=1.0)), values(b))
    half = values(out(MixTokens, a=a, b=b, amount=0.5, mask=CORNER))
    torch.testing.assert_close(half[:, INSIDE], (values(a) + values(b))[:, INSIDE] / 2)
    assert torch.equal(half[:, ~INSIDE], values(a)[:, ~INSIDE])


def test_scale_and_replace(pair):
    a, b = pair
    scaled = values(out(ScaleTokens, x=a, factor=-2.0, mask=CORNER))
    assert torch.equal(scaled[:, INSIDE], values(a)[:, INSIDE] * -2) and torch.equal(scaled[:, ~INSIDE], values(a)[:, ~INSIDE])
    fill = lambda fill, **more: values(out(ReplaceTokens, x=a, fill=fill, row=3, column=1, **more))  # noqa: E731
    pasted = fill("same place", source=b, mask=CORNER)
    assert torch.equal(pasted[:, INSIDE], values(b)[:, INSIDE]) and torch.equal(pasted[:, ~INSIDE], values(a)[:, ~INSIDE])
    assert not fill("zeros").any() and torch.equal(fill("zeros", mask=CORNER)[:, ~INSIDE], values(a)[:, ~INSIDE])
    assert torch.equal(fill("one token"), values(a)[:, 10:11].expand_as(values(a)))
    assert torch.equal(fill("one token", source=b)[:, 0], values(b)[:, 10])
    torch.testing.assert_close(fill("mean")[:, 7], values(a).mean(1))


def test_parts_of_the_batch_meet_their_own(backbone, positive, negative):
    """[uncond, cond] of two pictures takes from [uncond, cond] of one; a branch without guidance gives its cond to both."""
    two, one, cond = (embedded(backbone, positive, *more) for more in ((negative, 2, 0), (negative, 1, 1), (None, 1, 2)))
    for source in (one, cond):
        source["hidden"] = out(PositionEmbed, dit=backbone, hidden=source, mode="model", seed=0)["hidden"].but(
            x=random(*values(source).shape, seed=7))
    paste = lambda source, x=two: values(out(ReplaceTokens, x=x, fill="same place", row=0, column=0, source=source))  # noqa: E731
    assert torch.equal(paste(one), values(one)[[0, 0, 1, 1]])
    assert torch.equal(paste(cond), values(cond)[[0, 0, 0, 0]])
    assert torch.equal(paste(one, cond), values(one)[[1]])


def test_masks_of_each_picture_hold_in_both_parts(backbone, positive, negative):
    x, masks = embedded(backbone, positive, negative), torch.cat([CORNER, 1 - CORNER])
    scaled = values(out(ScaleTokens, x=x, factor=0.0, mask=masks))
    for row, inside in enumerate((INSIDE, ~INSIDE) * 2):
        assert not scaled[row, inside].any() and torch.equal(scaled[row, ~inside], values(x)[row, ~inside])


def test_hidden_states_go_on_through_the_blocks(backbone, positive, negative):
    """Without positions, rolled tokens in are rolled predictions out; a graft reads a Token Mask as Replace Tokens does."""
    x = embedded(backbone, positive, negative)
    finish = lambda x: out(FinalLayer, dit=backbone, hidden=out(RunBlocks, dit=backbone, hidden=x, blocks="all", strength=1.0))  # noqa: E731
    rolled = finish(out(RollTokens, x=x, rows=2, columns=1))
    torch.testing.assert_close(rolled["tokens"], out(RollTokens, x=finish(x), rows=2, columns=1)["tokens"], atol=1e-5, rtol=1e-4)
    assert out(Guidance, prediction=out(ScaleTokens, x=finish(x), factor=0.5), cfg=3.0)["guided"]
    chosen = out(TokenMask, x=x, column=0, row=0, width=2, height=2)
    grafted = out(RunBlocks, dit=backbone, hidden=x, blocks="", strength=1.0, graft=embedded(backbone, positive, negative, seed=1),
                  graft_mask=chosen)
    pasted = out(ReplaceTokens, x=x, fill="same place", row=0, column=0, source=embedded(backbone, positive, negative, seed=1), mask=chosen)
    assert torch.equal(values(grafted), values(pasted))


def test_reference_tokens_beside_the_picture_stay(backbone, positive):
    """Some models keep reference pictures among their hidden states: before the picture, or after it."""
    x = embedded(backbone, positive)
    longer = {**x, "hidden": x["hidden"].but(x=torch.cat([random(2, 2, 64), values(x), random(2, 3, 64)], dim=1), extra={"img_offset": 2})}
    rolled = values(out(RollTokens, x=longer, rows=1, columns=0))
    assert torch.equal(rolled[:, 2:14], values(out(RollTokens, x=x, rows=1, columns=0)))
    assert torch.equal(rolled[:, :2], values(longer)[:, :2]) and torch.equal(rolled[:, 14:], values(longer)[:, 14:])


def test_what_stands_at_a_place_moves_with_it(backbone, positive):
    """A step of rolled tokens, rolled back, is the step: noise mask, clean tokens and a multistep solver's memory have moved along."""
    dit, sigmas = backbone, backbone.schedule(4)
    dit.model.position_embedding = lambda grid, patch_size: torch.zeros(1, 1, 64)
    latent = {"samples": random(2, 4, 8, 6), "noise_mask": torch.rand(1, 1, 8, 6).round()}
    tokens = out(AddNoise, dit=dit, tokens=dit.fold(latent, 2), sigmas=sigmas, step=0, seed=1)
    step = lambda x, i: out(DenoiseStep, dit=dit, tokens=x, sigmas=sigmas, step=i, positive=positive, cfg=1.0, solver="dpmpp_2m")  # noqa: E731
    for i in range(2):
        rolled = step(out(RollTokens, x=tokens, rows=1, columns=1), i)
        tokens = step(tokens, i)
        back = out(RollTokens, x=rolled, rows=-1, columns=-1)
        torch.testing.assert_close(back["tokens"], tokens["tokens"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(back["memory"]["x0"], tokens["memory"]["x0"], atol=1e-5, rtol=1e-4)
        assert torch.equal(back["start"]["clean"], tokens["start"]["clean"]) and torch.equal(back["noise_mask"][:1], latent["noise_mask"])
    assert "memory" not in out(ScaleTokens, x=tokens, factor=0.5) and "start" in out(ScaleTokens, x=tokens, factor=0.5)


def test_a_video_s_frames_move_alike():
    video = fold(random(1, 4, 3, 8, 6), 2)
    rolled = out(RollTokens, x=video, rows=1, columns=0)["tokens"].unflatten(1, (3, 4, 3))
    assert torch.equal(rolled, video["tokens"].unflatten(1, (3, 4, 3)).roll(1, 2))
    pasted = out(ReplaceTokens, x=video, fill="zeros", row=0, column=0, mask=CORNER)["tokens"].unflatten(1, (3, 4, 3))
    assert not pasted[:, :, :2, :2].any() and pasted[:, :, 2:].any()
    assert out(TokenMap, x=video, show="norm", scale=1).shape == (3, 4, 3, 3)


def test_token_mask():
    pick = lambda **more: out(TokenMask, x=raw(), **{**dict(column=0, row=0, width=0, height=0), **more})  # noqa: E731
    assert torch.equal(pick(width=2, height=2), CORNER) and torch.equal(pick(), torch.ones(1, 4, 3))
    assert torch.equal(pick(column=2, row=1).nonzero(), torch.tensor([[0, row, 2] for row in (1, 2, 3)]))
    wide = torch.zeros(2, 64, 48)
    wide[0, :32, :44] = 1  # of 5 columns of cells, the last alone in its token
    assert torch.equal(pick(mask=wide), torch.stack([(torch.arange(12) < 6).view(4, 3), torch.zeros(4, 3)]))
    assert torch.equal(pick(mask=wide, width=2)[:1], CORNER)


def test_a_token_past_the_picture_s_edge_is_chosen_by_its_part_inside():
    """34 cells in patches of 16: the third row and column have 2 cells of the picture each, not a third of it."""
    wire, bottom = fold(random(1, 4, 34, 34), 16), torch.zeros(1, 34 * 8, 34 * 8)
    bottom[:, -3 * 8:] = 1  # the last three rows of cells: 1 of the second row of tokens' 16, both of the third's
    chosen = out(TokenMask, x=wire, column=0, row=0, width=0, height=0, mask=bottom)
    assert torch.equal(chosen[0], torch.tensor([[0.0] * 3, [0.0] * 3, [1.0] * 3]))
    assert torch.equal(out(TokenMask, x=wire, column=0, row=0, width=0, height=0, mask=chosen), chosen)  # a mask of the grid is taken as it is
    upper = torch.zeros(1, 34 * 8, 34 * 8)
    upper[:, :20 * 8] = 1
    assert torch.equal(out(TokenMask, x=wire, column=0, row=0, width=0, height=0, mask=upper)[0, :, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_the_map_shows_norms_and_what_is_alike(pair):
    x = out(ReplaceTokens, x=pair[0], fill="zeros", row=0, column=0, mask=CORNER)
    norm = out(TokenMap, x=x, show="norm", scale=3)
    assert norm.shape == (len(values(x)), 12, 9, 3) and norm.min() == 0 and norm.max() == 1
    lengths = values(x).norm(dim=-1)
    torch.testing.assert_close(norm[:, ::3, ::3, 1].flatten(1), lengths / lengths.max())
    colours = out(TokenMap, x=x, show="principal components", scale=1)
    assert colours.shape == (len(values(x)), 4, 3, 3) and (colours.amax((0, 1, 2)) == 1).all() and (colours.amin((0, 1, 2)) == 0).all()
    assert torch.equal(colours[:, 0, 0], colours[:, 1, 1])
    first = colours[..., 0].flatten()
    centred = values(x).flatten(0, 1) - values(x).flatten(0, 1).mean(0)
    leading = torch.linalg.svd(centred, full_matrices=False).U[:, 0]
    assert torch.corrcoef(torch.stack([first, leading]))[0, 1].abs() > 0.999


def test_a_map_of_equal_or_narrow_tokens():
    assert not out(TokenMap, x=fold(torch.ones(1, 1, 4, 4), 1), show="principal components", scale=1).any()
    narrow = out(TokenMap, x=fold(random(1, 1, 4, 4), 1), show="principal components", scale=1)
    assert narrow[..., 0].max() == 1 and not narrow[..., 1:].any()


def test_patchify_image_reports_the_token_arithmetic():
    node = PatchifyImage.execute(image=torch.rand(1, 256, 256, 3), patch_size=8)
    assert node.ui.as_dict()["text"][0] == "1024 tokens of 192 values: a 32×32 grid of 8×8 patches of a 256×256×3 image"
    assert node.result[0]["tokens"].shape == (1, 1024, 192)


@pytest.mark.parametrize("shape,patch_size", [((1, 16, 24, 3), 8), ((2, 17, 23, 3), 4), ((3, 9, 7, 4), 7), ((1, 5, 5, 1), 1)])
def test_an_image_comes_back(shape, patch_size):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    before, version = image.clone(), image._version
    tokens = out(PatchifyImage, image=image, patch_size=patch_size)
    latent, back = Unpatchify.execute(tokens=tokens).result
    assert torch.equal(back, image) and torch.equal(latent["samples"], image.movedim(-1, 1))
    assert torch.equal(image, before) and image._version == version


def test_pixel_tokens_take_the_token_nodes():
    image = torch.rand(1, 8, 8, 3)
    rolled = Unpatchify.execute(tokens=out(RollTokens, x=out(PatchifyImage, image=image, patch_size=4), rows=1, columns=1)).result[1]
    assert torch.equal(rolled, image.roll((4, 4), (1, 2)))


def refusals(dit, positive):
    x, hidden, rect = raw(), embedded(dit, positive), dict(column=0, row=0, width=0, height=0)
    begun = out(Condition, dit=dit, x=raw(), positive=positive, sigmas=dit.schedule(4), step=0)
    yield RollTokens, dict(x=begun, rows=1, columns=0), "Roll Tokens: the hidden states have no embedded tokens yet: put Patch Embed before this node"
    yield TokenMask, dict(x=x, **{**rect, "column": 2, "width": 2}), (
        "Token Mask: 2×4 tokens from column 2, row 0 are not all inside the grid of 3 columns and 4 rows")
    yield TokenMask, dict(x=x, **{**rect, "row": 4}), "Token Mask: 3×1 tokens from column 0, row 4 are not all inside the grid of 3 columns"
    yield SwapTokens, dict(x=x, **{**SWAP, "to_column": 2}), "Swap Tokens: 2×2 tokens from column 2, row 2 are not all inside the grid of 3"
    yield SwapTokens, dict(x=x, **{**SWAP, "to_row": 1}), (
        "Swap Tokens: the 2×2 rectangles at column 0, row 0 and at column 1, row 1 overlap")
    yield MixTokens, dict(a=x, b=hidden, amount=0.5), "Mix Tokens: a holds raw tokens, b holds hidden states: both must be the same kind"
    yield MixTokens, dict(a=hidden, b={**hidden, "model": "another DiT"}, amount=0.5), "Mix Tokens: a comes from a small DiT, b from another DiT"
    yield MixTokens, dict(a=x, b=fold(random(1, 3, 7, 6), 2), amount=0.5), (
        "Mix Tokens: a and b are in different latent spaces: wire the same dit into both Patchify nodes")
    yield MixTokens, dict(a=x, b=raw(size=(8, 8)), amount=0.5), (
        "Mix Tokens: a has a 4×3 grid of tokens of 16 values, patches 2 wide, b has a 4×4 grid of tokens of 16 values, patches 2 wide")
    fill = dict(row=0, column=0)
    yield ReplaceTokens, dict(x=x, fill="same place", **fill), (
        'Replace Tokens: "same place" takes the tokens of another wire: wire one into source')
    yield ReplaceTokens, dict(x=x, fill="one token", row=9, column=0), (
        "Replace Tokens: 1×1 tokens from column 0, row 9 are not all inside the grid of 3 columns and 4 rows")
    yield ReplaceTokens, dict(x=x, fill="noise", **fill), "Replace Tokens: fill is one of same place, one token, mean, zeros, not 'noise'"
    yield ReplaceTokens, dict(x=hidden, fill="mean", source=x, **fill), "Replace Tokens: x holds hidden states, source holds raw tokens: both"
    yield TokenMap, dict(x={**x, "tokens": x["tokens"] / 0}, show="norm", scale=1), "Token Map: the tokens hold values that are NaN or infinite"
    yield TokenMap, dict(x=x, show="phase", scale=1), "Token Map: show is one of norm, principal components, not 'phase'"
    video = {**fold(random(1, 4, 3, 8, 6), 2), "noise_mask": torch.ones(1, 8, 6)}
    yield RollTokens, dict(x=video, rows=1, columns=0), "Roll Tokens: tokens of a video with a noise mask cannot be moved"
    yield PatchifyImage, dict(image=torch.rand(1, 6, 8, 3), patch_size=8), "Patchify Image: image height 6 is smaller than patch_size 8"
    yield PatchifyImage, dict(image=torch.rand(6, 8, 3), patch_size=2), "Patchify Image: an image is [B, H, W, C], not [6, 8, 3]"
    yield PatchifyImage, dict(image=torch.zeros(1, 2, 2, 3) / 0, patch_size=2), "Patchify Image: the image holds 12 values that are NaN or"
    yield Unpatchify, dict(tokens=hidden), "Unpatchify: tokens takes raw tokens, these are hidden states: put Final Layer before this node"
    yield RunBlocks, dict(dit=dit, hidden=x, blocks="all", strength=1.0), "DiT Blocks: hidden takes hidden states, these are raw tokens: put"


def test_wrong_inputs_are_one_line_that_names_the_node(backbone, positive):
    for node, inputs, message in refusals(backbone, positive):
        with pytest.raises(ValueError) as caught:
            out(node, **inputs)
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value), caught.value


CLASSES = core_nodes.NODES | {cls.GET_SCHEMA().node_id: cls for cls in (PatchifyImage, Unpatchify, Patchify, RollTokens, TokenMap)}


def graph(**roll) -> dict:
    """An empty picture, cut, rolled and laid out again."""
    return {"1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
            "2": {"class_type": "DiTBlocksPatchify", "inputs": {"latent": ["1", 0], "patch_size": 2}},
            "3": {"class_type": "DiTBlocksRollTokens", "inputs": {"x": ["2", 0], "rows": 1, "columns": 1, **roll}},
            "4": {"class_type": "DiTBlocksUnpatchify", "inputs": {"tokens": ["3", 0]}},
            "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 1]}}}


def test_an_output_of_either_kind_is_wired_to_sockets_of_one():
    types = {name: NodeType(name, cls) for name, cls in CLASSES.items()}
    check(graph(), types)
    with pytest.raises(WorkflowError, match="takes DIT_TOKENS,DIT_HIDDEN, but is wired to LATENT"):
        check(graph(x=["1", 0]), types)
    with pytest.raises(NodeError, match="Unpatchify: the tokens come from a latent, not from an image: wire latent into VAE Decode"):
        Executor(CLASSES).run(graph())
