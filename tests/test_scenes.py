"""The default model's world: little pictures of things, gradients, captions, the reader that matches, and a machine without the font."""

import random

import pytest
import torch

from dit_blocks.dit_impl.model.text import SYNONYMS
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.training.default_model import matcher, scenes, things
from dit_blocks.dit_impl.training.default_model.pool import SHARES, cell_weights, covered
from dit_blocks.dit_impl.training.default_model.reader import same_scene
from dit_blocks.dit_impl.training.default_model.train_dit import vocabulary
from dit_blocks.nodes.training import TrainingScenes

needs_font = pytest.mark.skipif(things.font_path() is None, reason="fonts-noto-color-emoji is not installed")
OLD_WORDS = ("a an and at background beige black blue bottom center circle cross gray green in large left navy on orange purple red right ring "
             "small square teal the top triangle white yellow").split()


def world(count: int, seed: int, pictured: float, giant: float = 0.3) -> list[scenes.Scene]:
    rng = random.Random(seed)
    return [scenes.any_scene(rng, 1 + i % 3, pictured, giant) for i in range(count)]


def test_a_caption_says_things_as_the_readme_does():
    scene = scenes.Scene((scenes.Thing("large", "", "cat", "left"), scenes.Thing("small", "red", "apple", "top right")), "navy to pink")
    assert scenes.caption(scene) == "a large cat at the left and a small red apple at the top right on a navy to pink background"
    assert scenes.partial_caption(scene, random.Random(0), 0, 1.0) == "a cat at the left and a red apple at the top right on a navy to pink background"
    umbrella, owl = (scenes.Scene((scenes.Thing("small", "", name, "top"),), "sky") for name in ("umbrella", "owl"))
    assert [scenes.partial_caption(one, random.Random(0), 1.0) for one in (umbrella, owl)] == ["an umbrella", "an owl"]


def test_the_vocabulary_keeps_the_old_words_and_has_the_new_ones():
    words = set(vocabulary())
    assert set(OLD_WORDS) <= words
    for scene in world(300, 0, 0.6):
        assert set(scenes.caption(scene).split()) <= words


def test_other_words_for_a_thing_are_words_that_are_known():
    words = set(vocabulary())
    assert set(SYNONYMS.values()) <= words and not set(SYNONYMS) & words


def test_a_name_is_one_word_and_maybe_a_colour():
    assert 60 <= len(things.WORDS) <= 100
    for name in things.PICTURES:
        colour, word = things.parts(name)
        assert things.full_name(colour, word) == name and word.isalpha() and (not colour or colour in scenes.COLOURS)
    assert not set(things.WORDS) & (set(scenes.SHAPES) | set(scenes.COLOURS) | set(scenes.PLAIN))


def test_things_of_a_scene_are_unlike_and_apart():
    for scene in world(300, 1, 0.5):
        assert len({(t.colour, t.shape) for t in scene.things}) == len({t.place for t in scene.things}) == len(scene.things)
        assert all(t.size != "giant" or (t.place == "center" and len(scene.things) == 1) for t in scene.things)


def test_what_is_held_out_is_held_out_in_every_order():
    excluded, (_, pairs, triples) = scenes.excluded(), scenes.held_out_things()
    assert all(order in excluded for scene in (*pairs, *triples, *scenes.held_out()[1]) for order in scene.orders())
    assert len(triples[0].orders()) == 6 and all(len(scene.things) == 3 for scene in triples)
    assert scenes.held_out_things() == scenes.held_out_things()


def test_a_gradient_goes_from_top_to_bottom():
    ground = scenes.ground("navy to pink", 64)
    for row, name in ((0, "navy"), (-1, "pink")):
        torch.testing.assert_close(ground[:, row, 5], torch.tensor(scenes.PLAIN[name]) / 255, atol=0.01, rtol=0)
    assert torch.equal(scenes.ground("navy", 8), scenes.ground("navy", 8)[:, :1, :1].expand(3, 8, 8))


@needs_font
def test_a_thing_is_drawn_where_and_as_large_as_it_should_be():
    for half, centre in ((0.1, (0.19, 0.81)), (0.27, (0.5, 0.5)), (0.1, (0.98, 0.5))):
        ground = torch.full((3, 128, 128), 0.5)
        unlike = (things.paste(ground, "basketball", centre, half) - ground).abs().amax(0) > 0.05
        rows, columns = (unlike.any(d).nonzero().flatten() for d in (1, 0))
        for edges, middle in ((rows, centre[1]), (columns, centre[0])):
            for edge, wanted in ((edges[0], middle - half), (edges[-1] + 1, middle + half)):
                assert abs(edge.item() / 128 - min(1.0, wanted)) < 0.016
        assert torch.equal(ground, torch.full((3, 128, 128), 0.5))


@needs_font
def test_half_a_pixel_moves_a_thing_by_half_a_pixel():
    ground = torch.zeros(3, 128, 128)

    def middle(x: float) -> float:
        shown = things.paste(ground, "basketball", (x, 0.5), 0.1).sum((0, 1))
        return ((torch.arange(128) + 0.5) * shown).sum().item() / shown.sum().item()
    assert middle(0.5 + 0.5 / 128) - middle(0.5) == pytest.approx(0.5, abs=0.05)


@needs_font
def test_the_matcher_reads_ground_truth_pictures_of_every_kind():
    """At least 99%; the same after the VAE. 120 and 40 pictures: one may be wrong."""
    noise, wrong, wrong_decoded = torch.Generator().manual_seed(1), [], []
    vae = load_embedded()[2]
    for i, scene in enumerate(world(120, 5, 0.7)):
        picture = scenes.draw(scene, 256, random.Random(i))
        if not same_scene(matcher.read_scene(picture + 0.02 * torch.randn(picture.shape, generator=noise)), scene):
            wrong.append(scenes.caption(scene))
        if i % 3 == 0:
            decoded = vae.decode(vae.encode(picture.movedim(0, -1)[None]))[0].movedim(-1, 0)
            if not same_scene(matcher.read_scene(decoded), scene):
                wrong_decoded.append(scenes.caption(scene))
    assert len(wrong) <= 1 and not wrong_decoded, (wrong, wrong_decoded)


@needs_font
def test_the_matcher_takes_no_blot_for_a_thing():
    picture = scenes.ground("sky", 256).clone()
    picture[:, 20:80, 20:50], picture[:, 20:80, 50:80] = 0.0, torch.tensor([1.0, 0.9, 0.0]).view(3, 1, 1)
    assert matcher.read_scene(picture).things == (scenes.Thing("", "", "nothing known", "top left"),)
    assert matcher.read_scene(scenes.ground("sky to teal", 256)) == scenes.Scene((), "sky to teal")


@needs_font
def test_the_matcher_takes_no_half_for_a_thing():
    taken = 0
    for i, scene in enumerate(world(40, 1, 1.0)):
        picture, ground = scenes.draw(scene, 256, random.Random(i)), scenes.ground(scene.background, 256)
        columns = ((picture - ground).abs().amax(0) > 0.05).any(0).nonzero().flatten()
        middle = int(columns.float().mean())
        picture[:, :, middle:] = ground[:, :, middle:]
        taken += same_scene(matcher.read_scene(picture), scene)
    assert taken <= 1, taken


def test_objects_count_as_much_as_their_share_however_small():
    scene = scenes.Scene((scenes.Thing("small", "red", "circle", "top"), scenes.Thing("large", "blue", "square", "bottom")), "navy to pink")
    mask = covered(scenes.draw(scene, 256), scene.background, 8)
    assert 0.04 < mask.float().mean() < 0.12  # the gradient is no object
    weights = cell_weights(mask[None])[0, 0]
    assert weights.mean().item() == pytest.approx(1)
    assert weights[mask].sum().item() / weights.sum().item() == pytest.approx(SHARES["object"], abs=0.01)


def test_without_the_font_scenes_are_of_shapes_and_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv(things.FONT, str(tmp_path / "none.ttf"))
    assert things.font_path() is None
    assert "install fonts-noto-color-emoji" in things.INSTALL and things.FONT in things.INSTALL
    monkeypatch.setenv(things.FONT, __file__)
    assert str(things.font_path()) == __file__
    monkeypatch.setenv(things.FONT, str(tmp_path / "none.ttf"))
    scene = scenes.Scene((scenes.Thing("large", "red", "ring", "left"),), "sky to pink")
    assert matcher.read_scene(scenes.draw(scene, 256)) == scene


def shown_by_node(kinds: str, **more) -> tuple:
    dit, clip, vae = load_embedded()
    result = TrainingScenes.execute(vae=vae, count=8, size=64, shapes=2, seed=0, clip=clip, kinds=kinds, **more)
    return result.args[1], result.args[2], result.ui.as_dict()["text"][0]


def test_training_scenes_shows_shapes_unless_asked_for_things(monkeypatch, tmp_path):
    shapes = shown_by_node("shapes")
    assert not any(word in " ".join(shapes[1]).split() for word in things.WORDS) and "font" not in shapes[2]
    if things.font_path():
        told = " ".join(shown_by_node("things")[1]).split()
        assert any(word in told for word in things.WORDS) and not set(told) & set(scenes.SHAPES)
        assert {"shapes", "things"} == {kind for caption in shown_by_node("both")[1] for word in caption.split()
                                        for kind, words in (("shapes", scenes.SHAPES), ("things", things.WORDS)) if word in words}
    monkeypatch.setenv(things.FONT, str(tmp_path / "none.ttf"))
    without = shown_by_node("things")
    assert not set(" ".join(without[1]).split()) & set(things.WORDS) and without[2].endswith(things.INSTALL)
