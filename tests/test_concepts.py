"""Concept Map: words ride along without changing the step, what is mapped is what attention gives, and a word's tokens are found."""

import json
from types import SimpleNamespace

from measures import benchmark
import pytest
from test_attention import class_step, embedded_step, noisy, text
import torch
import torch.nn.functional as F

from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.dit_impl.model import blocks
from dit_blocks.dit_impl.see.concept_map import ConceptMaps, concept_maps
from dit_blocks.dit_impl.see.concept_words import Concepts, read_concepts, word_places
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.step import stages as step_stages
from dit_blocks.dit_impl.training.default_model import things
from dit_blocks.nodes.concepts import ConceptMap
from dit_blocks.nodes.transformer import RunBlocks

CLIP = load_embedded()[1]


@pytest.fixture(autouse=True)
def as_in_comfyui():
    with torch.inference_mode():
        yield


def run(dit, wire, concepts="red ring\nsquare", against="background", blocks="all", concept=0, threshold=0.5, clip=CLIP, grow=0):
    return ConceptMap.execute(dit=dit, hidden=wire, clip=clip, concepts=concepts, against=against, blocks=blocks, concept=concept,
                              threshold=threshold, grow=grow, language="English").result


def of_two_prompts(long: str) -> tuple:
    """A step with two positive prompts; where they differ in length, the model is called more than once."""
    dit, sigmas = load_embedded()[0], load_embedded()[0].schedule(4)
    both = [*text("a red ring"), *text(long)]
    both[1][0] = torch.cat([both[1][0], both[1][0]], dim=1)
    wire = step_stages.condition(dit, noisy(dit, sigmas, (16, 24)), both, text(""), sigmas, 0)
    return dit, step_stages.position_embed(dit, step_stages.patch_embed(dit, wire))


@pytest.mark.parametrize("step", [lambda: embedded_step((16, 24), batch=2), lambda: embedded_step((16, 16), negative=False),
                                  lambda: embedded_step((32, 32), patch_size=4), lambda: of_two_prompts("a blue square")])
def test_the_hidden_states_are_those_of_dit_blocks(step):
    dit, wire = step()
    (plain,) = RunBlocks.execute(dit=dit, hidden=wire, blocks="all", strength=1.0).result
    calls = [{**one} for one in (wire, *wire.get("others", ()))]
    before = [one["hidden"].x.clone() for one in calls]
    picture, masks, mask, after, said = run(dit, wire)
    for given, wanted in zip((after, *after.get("others", ())), (plain, *plain.get("others", ())), strict=True):
        assert torch.equal(given["hidden"].x, wanted["hidden"].x) and given["hidden"].index == wanted["hidden"].index
    assert all(torch.equal(one["hidden"].x, x) for one, x in zip(calls, before))
    assert torch.equal(after["trace"][-1][1], plain["trace"][-1][1]) and after["trace"][-1][0] == plain["trace"][-1][0]
    assert masks.shape == (2, *wire["tokens"]["grid"]) and mask.shape == (1, *masks.shape[1:]) and picture.isfinite().all()
    assert blocks.onlooker.get() is None and blocks.listener.get() is None
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in dit.stages.blocks)


def by_definition(dit, wire, concepts: Concepts, row: int) -> list[torch.Tensor]:
    """The cosines of each block, with the concepts as text of their own, written out over the model's layers."""
    model, hidden = dit.model, wire["hidden"]
    x, context, vector = hidden.x[row:row + 1], hidden.context[row:row + 1], hidden.vector[row:row + 1]
    own = [model.context_embedder(concepts.conditioning[0][0][:, span.start:span.stop]) for span in concepts.spans]
    found = []
    for block in model.joint_blocks:
        text, image = block.context_block, block.x_block
        of_text, of_image = text.modulation(vector), image.modulation(vector)
        split = lambda stream, tokens, m: stream.attn.split(blocks.modulate(stream.norm1(tokens), m[0], m[1]))  # noqa: E731
        (tq, tk, tv), (q, k, v) = split(text, context, of_text), split(image, x, of_image)
        out = blocks.attention(*(torch.cat(pair, 2) for pair in ((tq, q), (tk, k), (tv, v))))
        seen, after = out[:, context.shape[1]:], []
        concept_outputs = []
        for tokens in own:
            cq, ck, cv = split(text, tokens, of_text)
            heard = blocks.attention(cq, torch.cat([ck, k], 2), torch.cat([cv, v], 2))
            concept_outputs.append(heard.mean(1))
            after.append(tokens if text.pre_only else text.finish(tokens, heard, of_text))
        found.append(F.normalize(torch.cat(concept_outputs), dim=-1) @ F.normalize(seen[0], dim=-1).T)
        if not text.pre_only:
            context = text.finish(context, out[:, :context.shape[1]], of_text)
        own, x = after, image.finish(x, seen, of_image)
    return found


def test_maps_are_the_cosines_of_what_attention_gives():
    """Of the picture as the prompt has it, and of each concept by itself: none is read, by the picture or by another concept."""
    dit, wire = embedded_step((16, 24), batch=2)
    concepts = read_concepts(CLIP, "red ring\nsquare", "gray background")
    assert [len(span) for span in concepts.spans] == [2, 1, 2] and concepts.names == ("red ring", "square")
    expected = by_definition(dit, wire, concepts, row=2)  # the first picture of [uncond, uncond, cond, cond]
    for blocks_asked, which in (("all", range(len(expected))), ("1,3", (1, 3)), ("5", (5,))):
        maps = concept_maps(dit, wire, concepts, blocks_asked)[1]
        assert maps.blocks == tuple(which)
        torch.testing.assert_close(maps.likeness, torch.stack([expected[i] for i in which]).mean(0), rtol=1e-4, atol=1e-5)


def test_shares_are_parted_among_the_concepts_and_what_they_are_against():
    maps = ConceptMaps(("a", "b"), torch.tensor([[0.9, 0.1, 0.1, 0.1], [0.1, 0.9, 0.1, 0.4], [0.1, 0.1, 0.9, 0.4]]), (0,), (2, 2))
    assert maps.shares.shape == (2, 2, 2) and (maps.shares.sum(0) < 1).all()
    assert maps.mask(0, 0.5).tolist() == [[[1, 0], [0, 0]]] and maps.mask(1, 0.5).tolist() == [[[0, 1], [0, 0]]]
    assert maps.mask(0, 0.5, grow=1).all() and maps.mask(1, 0.5, 0).sum() == 1
    films = ConceptMaps(("a",), torch.stack([F.one_hot(torch.tensor(4), 18).float(), torch.full((18,), 0.5)]), (0,), (2, 3, 3))
    assert films.mask(0, 0.5, 1).sum() == 9 and films.mask(0, 0.5, 1)[0, :3].all()  # in its own frame
    assert maps.mask(1, 0.0).all() and not maps.mask(1, 1.0).any()
    torch.testing.assert_close(ConceptMaps(maps.names, 5 * maps.likeness + 1, (0,), (2, 2)).shares, maps.shares)  # whatever their scale
    assert ConceptMaps(("a", "b"), torch.ones(2, 4), (0,), (2, 2)).shares.eq(0.5).all()


def test_a_words_tokens_are_those_that_an_empty_prompt_lacks():
    start, end, pad = 1, 2, 0
    assert word_places([start, 7, 8, end, pad], [start, end, pad, pad, pad]) == [1, 2]
    assert word_places([7, end, pad, pad], [end, pad, pad, pad]) == [0]
    assert word_places([start, 7, end, end, end], [start, end, end, end, end]) == [1]  # filled up with its end
    assert word_places([5, 6, 7, 8, 9, 10], [5, 6, 9, 10]) == [2, 3]  # in a template
    assert word_places([5, 6, 7, 8], [5, 6]) == [2, 3]  # nothing after it
    assert word_places([start, end], [start, end]) == []


class TwoEncoders:
    """A CLIP as SD3's: the tokens of the second encoder come after those of the first; either may be absent."""

    def __init__(self, second: bool = True):
        self.cond_stage_model = SimpleNamespace(clip_l=object(), t5xxl=object() if second else None)

    def tokenize(self, words: str) -> dict:
        ids = [10 + len(word) for word in words.split()]
        return {"l": [[(one, 1.0) for one in ([1, *ids] + 4 * [2])[:5]]], "t5xxl": [[(one, 1.0) for one in ([*ids, 3] + 4 * [0])[:4]]]}

    def encode_from_tokens_scheduled(self, tokens: dict) -> list:
        kept = [name for name in ("l", "t5xxl") if getattr(self.cond_stage_model, name, self) is not None]
        states = torch.tensor([float(one) for name in kept for one, _ in tokens[name][0]])
        return [[states[None, :, None], {"pooled_output": torch.zeros(1, 2), "attention_mask": torch.ones(1, len(states))}]]


@pytest.mark.parametrize("second,states", [(True, [13, 15, 13]), (False, [13, 15, 13])])
def test_words_are_found_in_a_clip_of_several_encoders(second, states):
    concepts = read_concepts(TwoEncoders(second), "red\nlarge dog\nred", "red\n\n")
    assert concepts.names == ("red", "large dog") and [len(span) for span in concepts.spans] == [1, 2]
    assert concepts.conditioning[0][0].flatten().tolist() == states and concepts.conditioning[0][1]["attention_mask"].shape == (1, 3)
    apart = concepts.apart(1)(torch.zeros(1, 1, 6, 4), torch.zeros(1, 1, 6, 4))
    assert (apart == 0).int().tolist() == [[1, 0, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1], [1, 0, 1, 1, 1, 1], [1, 0, 1, 1, 1, 1],
                                           [1, 0, 0, 0, 1, 1], [1, 0, 0, 0, 1, 1]]


def test_what_can_not_be_mapped_is_refused_in_one_line():
    dit, wire = embedded_step((8, 8))
    (after,) = RunBlocks.execute(dit=dit, hidden=wire, blocks="0", strength=1.0).result
    bare = SimpleNamespace(tokenize=lambda words: {"l": [words]}, encode_from_tokens_scheduled=CLIP.encode_from_tokens_scheduled,
                           cond_stage_model=SimpleNamespace(l=1))
    bare.encode_from_tokens_scheduled = lambda tokens: text("")
    class_dit, class_wire = class_step()
    for inputs, line in (
            (dict(concepts=" \n"), "concepts has no word in it"),
            (dict(concepts="ring", against=""), "'ring' alone has nothing to be told from"),
            (dict(concepts="\n".join(f"ring {'red ' * i}" for i in range(25))), "at most 24 concepts, with those in against; these are 26"),
            (dict(concepts="ring\na zebra"), "the clip does not know 'zebra' of the concept 'a zebra'"),
            (dict(concept=2), "there are concepts 0 to 1, there is no concept 2"),
            (dict(blocks="6"), "has blocks 0 to 5"), (dict(clip=bare), "does not say which of its tokens is which word"),
            (dict(wire=after), "these hidden states come before block 1: put this node in the place of DiT Blocks"),
            (dict(dit=class_dit, wire=class_wire), "text does not attend to the picture, or none of these blocks shows it")):
        with pytest.raises(ValueError, match="^Concept Map: ") as refused:
            run(**{"dit": dit, "wire": wire, **inputs})
        assert line in str(refused.value) and "\n" not in str(refused.value), refused.value
    with pytest.raises(StagesError, match="6"):
        concept_maps(dit, wire, read_concepts(CLIP, "ring", "cross"), "0-6")


def test_the_benchmark_knows_which_tokens_a_thing_covers(monkeypatch, capsys):
    from dit_blocks.benchmarks import concepts
    scene = concepts.scenes.Scene((concepts.scenes.Thing("large", "red", "square", "top left"),
                                   concepts.scenes.Thing("small", "blue", "circle", "bottom right")), "gray")
    true, picture = concepts.truth(scene, (16, 16)), concepts.scenes.draw(scene, 256)
    red, blue = ((picture - torch.tensor(colour).view(3, 1, 1) / 255).abs().amax(0) < 0.02 for colour in ((220, 40, 40), (40, 90, 235)))
    for mask, painted in zip(true, (red, blue)):
        assert mask.any() and (mask ^ (F.avg_pool2d(painted[None].float(), 16)[0] > 0.5)).sum() <= 2  # its smooth edge is of neither colour
    assert concepts.iou(true, true).tolist() == [1, 1] and concepts.iou(true, true.flip(0)).tolist() == [0, 0]
    half = true.clone()
    half[0, :3] = False
    assert concepts.iou(half, true)[0] == half[0].sum() / true[0].sum()
    monkeypatch.setattr("sys.argv", ["concepts", "--scenes", "2", "--kind", "shapes", "--threshold", "0", "1", "--json"])
    concepts.main()
    rows = json.loads(capsys.readouterr().out)
    assert [(row["scenes"], row["threshold"], row["both"]) for row in rows] == [(2, 0, 0), (2, 1, 0)] and rows[1]["iou"] == 0 < rows[0]["iou"] < 0.1


@pytest.mark.parametrize("kind,least", [("shapes", 0.5), pytest.param("things", 0.4, marks=pytest.mark.skipif(not things.font_path(), reason=things.INSTALL))])
def test_masks_of_the_default_model_cover_what_they_name(kind, least):
    """On 100 scenes 0.67 and 0.52: benchmarks/RESULTS.md."""
    concepts = benchmark("concepts")
    found = concepts.mapped(load_embedded(), concepts.KINDS[kind](12), 0.2, "all", "background", True)
    assert torch.stack([concepts.iou(maps.shares > 0.5, concepts.truth(scene, maps.grid)) for scene, maps in found]).mean() >= least
