"""Runs under ComfyUI's Python: attention maps and position similarity of MODELs. One line of JSON a case: {"case", "error"}.

    python tests/host_attention_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks

The queries and keys that a map is compared with are taken where ComfyUI computes attention, not where the map takes them.
"""

from contextlib import contextmanager
import sys

from host_models import MODELS, TEXT, run_cases, start
from host_stages_check import refused, tensors
import torch

REFINED = ("lumina2", "z_image")  # text reads itself before the first block
CROSS = ("pixart", "pixart_alpha", "wan", "wan_i2v")  # text asks nothing
ROTARY = ("flux_dev", "flux_schnell", "flux2", "lumina2", "z_image", "qwen_image", "wan", "wan_i2v")
PLENTY = 1e12
BATCH = 2


def begun(made, positions=True):
    """A MODEL as a DIT, and hidden states before its first block: of a batch [uncond, cond]."""
    from dit_blocks.dit_impl.step import stages as step_stages
    from dit_blocks.nodes.comfyui.handle_of_model import HandleOfModel
    model, positive, negative, latent = made
    dit = HandleOfModel(model)
    sigmas = dit.schedule(4, "simple")
    tokens, _ = dit.add_noise(dit.fold({"samples": latent}), sigmas, 1, 5)
    wire = step_stages.patch_embed(dit, step_stages.condition(dit, tokens, positive, negative, sigmas, 1))
    return dit, step_stages.position_embed(dit, wire) if positions else wire, tokens, sigmas


@contextmanager
def computed():
    """The queries and keys, [B, heads, N, d], of every attention that PyTorch computes for ComfyUI, in order."""
    import comfy.ops
    calls, own = [], comfy.ops.scaled_dot_product_attention

    def attention(q, k, v, *args, **kwargs):
        assert not kwargs.get("enable_gqa") and kwargs.get("scale") is None
        calls.append((q.clone(), k.clone(), kwargs.get("attn_mask")))
        return own(q, k, v, *args, **kwargs)
    comfy.ops.scaled_dot_product_attention = attention
    try:
        yield calls
    finally:
        comfy.ops.scaled_dot_product_attention = own


def naive(call, sample, head):
    q, k, mask = call
    scores = q[sample].double() @ k[sample].double().transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores + mask.expand(len(q), *mask.shape[1:])[sample]
    weights = scores.softmax(-1)
    return weights.mean(0) if head < 0 else weights[head]


def text_places(name, dit, wire):
    """Where the prompt's tokens stand in the joint sequence, told here for each architecture by itself."""
    registers = 8 if name == "auraflow" else 0
    count = 512 if name == "flux2" else TEXT  # as ComfyUI fills it up
    return range(registers, registers + count), 32 if name == "z_image" else wire["hidden"].context.shape[1]


def rows_are_softmax(name, make):
    from dit_blocks.dit_impl.see import attention_maps
    from dit_blocks.dit_impl.step import stages as step_stages
    dit, wire, *_ = begun(make(batch=BATCH))
    count = wire["tokens"]["tokens"].shape[1]
    text, before = text_places(name, dit, wire)
    cross = name in CROSS
    offset = wire["hidden"].extra.get("img_offset", 0) if cross else before
    image = range(offset, offset + count)
    spans = {"image": image, "text": range(TEXT) if cross else text}
    numbers = {"image to image": 0, "image to text": (2 if name == "wan_i2v" else 1) if cross else 0, "text to image": 0}
    for block in range(len(dit.stages.kinds)):
        plain = step_stages.run_blocks(dit, wire, str(block))
        for direction, (queries, keys) in attention_maps.DIRECTIONS.items():
            if cross and queries == "text":
                try:
                    attention_maps.attention_map(dit, wire, attention_maps.Question(block, -1, direction, 3), PLENTY)
                except ValueError as error:
                    assert "text does not attend to the picture" in str(error) and "\n" not in str(error), error
                else:
                    raise AssertionError("not refused")
                continue
            for head in (-1, dit.stages.heads - 1):
                with computed() as calls:
                    after, seen = attention_maps.attention_map(dit, wire, attention_maps.Question(block, head, direction, 3), PLENTY)
                for path, value in tensors(plain["hidden"]).items():
                    assert torch.equal(tensors(after["hidden"])[path], value), f"block {block} changes {path}"
                full = naive(calls[numbers[direction]], BATCH, head)
                expected = full[spans[queries]][3, list(spans[keys])]
                assert (seen.rows.weights[0] - expected).abs().max() < 1e-5, f"block {block}, head {head}, {direction}"
                assert (seen.rows.sums - 1).abs().max() < 1e-5
                assert len(full[0]) == seen.plan.keys and seen.rows.weights.nbytes + 4 == seen.plan.row_bytes
    _, seen = attention_maps.attention_map(dit, wire, attention_maps.Question(0, -1, "image to text", 0, "2-3"), PLENTY)
    with computed() as calls:
        step_stages.run_blocks(dit, wire, "0")
    full = naive(calls[numbers["image to text"]], BATCH, -1)[image.start:image.stop]
    assert (seen.shares.flatten() - full[:, [spans["text"][i] for i in (2, 3)]].sum(1)).abs().max() < 1e-5


def image_tokens_read_only_themselves(name, make):
    """Perturbed attention: what one image token holds reaches another through attention, and not where each reads itself alone."""
    from dit_blocks.dit_impl.step import stages as step_stages
    dit, wire, *_ = begun(make(batch=BATCH))
    first = wire["hidden"].extra.get("img_offset", 0)  # where a reference picture's tokens come before
    last = first + wire["tokens"]["tokens"].shape[1] - 1
    x = wire["hidden"].x.clone()
    x[:, last] += 1
    other = {**wire, "hidden": wire["hidden"].but(x=x)}
    for block in map(str, range(len(dit.stages.kinds))):
        full, moved = (step_stages.run_blocks(dit, given, block)["hidden"].x[:, first:last] for given in (wire, other))
        assert not torch.equal(full, moved), f"block {block} reads nothing"
        if name.startswith("pixart"):
            refused(lambda: step_stages.run_blocks(dit, wire, block, attention="itself"), "PixArt", "takes no mask")
            continue
        alone, moved = (step_stages.run_blocks(dit, given, block, attention="itself")["hidden"].x[:, first:last] for given in (wire, other))
        assert torch.equal(alone, moved) and not torch.equal(alone, full), f"block {block} reads other image tokens"
    assert torch.equal(step_stages.run_blocks(dit, wire, "0")["hidden"].x, step_stages.run_blocks(dit, wire, "0", attention="full")["hidden"].x)


def scaled_positions_are_the_trained_ones(name, make):
    """On its own grid the trained table as it is; on half of it the mean of four places. PixArt says why not; for rotary models see
    host_positions_check.py."""
    from dit_blocks.dit_impl.step import stages as step_stages
    dit, wire, *_ = begun(make(batch=BATCH), positions=False)
    if name in ROTARY:
        return
    if name.startswith("pixart"):
        return refused(lambda: step_stages.position_embed(dit, wire, "scaled"), "stretches its own", "PixArt")
    stages, hidden = dit.stages, wire["hidden"]
    side = stages.model.h_max if name == "auraflow" else stages.model.pos_embed_max_size
    own = stages.scaled_positions(hidden, (side, side))
    nowhere = hidden.x.new_zeros(1, side ** 2, hidden.x.shape[-1])
    assert torch.equal(own, stages.position_embed(hidden.but(x=nowhere, extra={"size": (side * stages.patch_size,) * 2})).x)
    half = torch.nn.functional.avg_pool2d(own.unflatten(1, (side, side)).movedim(-1, 1), 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(stages.scaled_positions(hidden, (side // 2, side // 2)), half)
    placed = step_stages.position_embed(dit, wire, "scaled")["hidden"]
    assert torch.equal(placed.x, hidden.x + stages.scaled_positions(hidden, wire["tokens"]["grid"]))


def over_steps_is_denoise(name, make):
    from dit_blocks.dit_impl.see import attention_maps
    made = make()
    dit, _, tokens, sigmas = begun(made)
    _, positive, negative, _ = made
    last, direction = len(dit.stages.kinds) - 1, "image to text"
    for cfg, against in ((4.0, negative), (1.0, negative)):
        plain = dit.denoise(tokens, sigmas, positive, against, cfg, "euler", 1, 4)
        ours, x0, answers = attention_maps.over_steps(dit, tokens, sigmas, positive, against, cfg, "euler", 1, 4, attention_maps.Question(
            last, -1, direction, 0, "1"), "1,3", PLENTY)
        assert torch.equal(ours["tokens"], plain[0]["tokens"]) and torch.equal(x0["tokens"], plain[1]["tokens"])
        assert list(answers) == [1, 3] and not torch.equal(answers[1].shares, answers[3].shares)
        assert all((seen.rows.sums - 1).abs().max() < 1e-5 for seen in answers.values())
    hooks = [block._forward_pre_hooks or block._forward_hooks for module in dit.stages.blocks for block in module.modules()]
    assert not any(hooks), "a hook is left"


def an_earlier_override_is_kept(name, make):
    from dit_blocks.dit_impl.see import attention_maps
    from dit_blocks.dit_impl.step import stages as step_stages
    made = make()
    model, seen = made[0].clone(), []

    def override(attend, *args, **kwargs):
        seen.append(args[0].shape)
        return attend(*args, **kwargs) * 0.5
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    dit, wire, *_ = begun((model, *made[1:]))
    seen.clear()
    plain = step_stages.run_blocks(dit, wire, "0")
    theirs, calls = len(seen), seen.copy()
    seen.clear()
    after, _ = attention_maps.attention_map(dit, wire, attention_maps.Question(0, -1, "image to image", 3), PLENTY)
    assert torch.equal(after["hidden"].x, plain["hidden"].x) and seen == calls and theirs > 0
    assert after["hidden"].extra["transformer_options"]["optimized_attention_override"] is override
    other = step_stages.run_blocks(*begun(made)[:2], "0")
    assert not torch.equal(other["hidden"].x, plain["hidden"].x)


def a_replaced_block_is_refused(name, make):
    from dit_blocks.dit_impl.see import attention_maps
    made = make()
    model = made[0].clone()
    model.set_model_patch_replace(lambda given, extra: given, "dit", "double_block", 0)
    dit, wire, *_ = begun((model, *made[1:]))
    try:
        attention_maps.attention_map(dit, wire, attention_maps.Question(0, -1, "image to image", 3), PLENTY)
    except ValueError as error:
        assert "block 0" in str(error) and "showed no attention" in str(error), error
    else:
        raise AssertionError("not refused")


def positions_alone(name, make):
    from dit_blocks.dit_impl.see import attention_rows, position_similarity
    from dit_blocks.dit_impl.step import stages as step_stages
    for positions in (True, False):
        dit, wire, *_ = begun(make(batch=BATCH), positions)
        if name in ROTARY and not positions:
            refused(lambda: step_stages.run_blocks(dit, wire, "0"), "rotary positions", "put Position Embed before")
        count = wire["tokens"]["tokens"].shape[1]
        found = [position_similarity.compare_positions(dit, wire, query) for query in (0, count - 1)]
        assert found[0].kind == ("rotary" if name in ROTARY else "learned" if name == "auraflow" else "2-D sin-cos")
        assert all(each.own.numel() == count and each.own.abs().max() <= 1 + 1e-5 for each in found)
        assert abs(found[0].own.flatten()[-1] - found[1].own.flatten()[0]) < 1e-5 and abs(found[0].own.flatten()[0] - 1) < 1e-5
        if name in ROTARY:
            induced_score(dit, wire, found[0])
    raw = wire["tokens"]
    try:
        position_similarity.compare_positions(dit, raw, 0)
    except ValueError as error:
        assert "hidden states after Patch Embed" in str(error)
    else:
        raise AssertionError("not refused")
    assert attention_rows.picture_tokens(wire) == count


def induced_score(dit, wire, found):
    """By ComfyUI's own rotation of a constant unit vector, over the whole sequence."""
    from comfy.ldm.flux.math import apply_rope1

    from dit_blocks.dit_impl.step import stages as step_stages
    hidden = (wire if wire["hidden"].position is not None else step_stages.position_embed(dit, wire))["hidden"]
    table = hidden.position
    length, width = max(table.shape[1:3]), 2 * table.shape[3]
    planes = torch.zeros(len(table), 1, length, width).unflatten(-1, (-1, 2))
    planes[..., 0] = (2 / width) ** 0.5
    vectors = planes.flatten(-2) if table.shape[1] == 1 else planes.flatten(-2).movedim(1, 2)
    turned = apply_rope1(vectors.clone(), table)[0].reshape(length, width)
    keys = next(each for each in dit.stages.attentions(hidden, found.own.numel()) if each.keys.get("image")).keys["image"]
    turned = turned[keys.start:keys.stop]
    assert (turned @ turned[0] - found.own.flatten()).abs().max() < 1e-4


def concepts_of(positive, others=(2, 3)):
    """Concepts of random tokens, two of the first and one of each other."""
    from dit_blocks.dit_impl.see.concept_words import Concepts
    states, extras = positive[0]
    pooled = {name: extras[name] for name in ("pooled_output",) if name in extras}
    spans = (range(2), *(range(2 + i, 3 + i) for i in range(len(others))))
    return Concepts(("a", "b"), spans, [[states[:, [0, 1, *others]], pooled]])


def concepts_ride_along(name, make):
    """All blocks give what they give without concepts, bit for bit, and no concept reads another."""
    from dit_blocks.dit_impl.see.concept_map import concept_maps
    from dit_blocks.dit_impl.step import stages as step_stages
    dit, wire, *_ = begun(make(batch=BATCH))
    positive = make(batch=BATCH)[1]
    if name in CROSS:
        return refused(lambda: concept_maps(dit, wire, concepts_of(positive)), "text does not attend to the picture")
    plain = step_stages.run_blocks(dit, wire)
    before = {path: value.clone() for path, value in tensors(wire["hidden"]).items()}
    after, maps = concept_maps(dit, wire, concepts_of(positive))
    for path, value in tensors(plain["hidden"]).items():
        assert torch.equal(tensors(after["hidden"])[path], value), f"concepts change {path}"
    assert all(torch.equal(value, before[path]) for path, value in tensors(wire["hidden"]).items()), "the input was written to"
    assert maps.blocks == tuple(range(len(dit.stages.kinds))) and maps.shares.shape == (2, *wire["tokens"]["grid"][-2:])
    if name in REFINED:
        return
    _, others = concept_maps(dit, wire, concepts_of(positive, (2, 4)))
    torch.testing.assert_close(others.likeness[:2], maps.likeness[:2], rtol=1e-4, atol=1e-5)
    assert (others.likeness[2] - maps.likeness[2]).abs().max() > 1e-3


CHECKS = {
    "concepts ride along": concepts_ride_along,
    "rows are the softmax of q and k": rows_are_softmax,
    "over steps is denoise": over_steps_is_denoise,
    "positions alone": positions_alone,
    "image tokens read only themselves": image_tokens_read_only_themselves,
    "scaled positions": scaled_positions_are_the_trained_ones,
}
SOME = {
    "an earlier override is kept": (an_earlier_override_is_kept, ("sd3", "flux_dev", "qwen_image", "wan")),
    "a replaced block is refused": (a_replaced_block_is_refused, ("sd3", "flux_dev")),
}
CASES = {f"{name}: {title}": (check, name) for title, check in CHECKS.items() for name in MODELS}
CASES |= {f"{name}: {title}": (check, name) for title, (check, names) in SOME.items() for name in names}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from comfy.cli_args import args
    args.use_pytorch_cross_attention = True  # one function for all models, which `computed` can listen to
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])
