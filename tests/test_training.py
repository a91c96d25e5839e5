"""The recipe: pictures, captions and the verifier that reads them, resuming, and recipes that can't be followed."""

import random

import pytest
import torch

from dit_blocks.dit_impl.errors import RecipeError
from dit_blocks.dit_impl.model.vae import VAE, VAEConfig
from dit_blocks.dit_impl.sources.embedded import FOLDER, load_embedded, load_embedded_dit, load_text, save_embedded_dit
from dit_blocks.dit_impl.tokens.wire import unfold
from dit_blocks.dit_impl.training.default_model import scenes, textures
from dit_blocks.dit_impl.training.default_model import train_dit as train_module
from dit_blocks.dit_impl.training.default_model.evaluate import read_caption
from dit_blocks.dit_impl.training.default_model.pool import LatentPool
from dit_blocks.dit_impl.training.default_model.reader import read_scene, same_scene
from dit_blocks.dit_impl.training.default_model.recipe import read_recipe, train
from dit_blocks.dit_impl.training.default_model.train_dit import DiTRecipe, noise_levels, train_dit
from dit_blocks.dit_impl.training.default_model.train_vae import VAERecipe, train_vae
from dit_blocks.standalone.cli import main

TINY_VAE = dict(latent_channels=4, width=8, depth=1, batch=2, crop=32, pool=8)
TINY_DIT = dict(width=32, depth=2, heads=2, text_width=16, pictures=8, first=4,
                mix=((64, "2", 4, 1.0, 1.0), (64, "4", 4, 1.0, 1.0), (64, "8-4-2", 4, 1.0, 1.0)))


@pytest.mark.parametrize("size", [128, 256])
def test_the_verifier_reads_every_ground_truth_picture(size):
    rng = random.Random(11)
    generator = torch.Generator().manual_seed(11)
    for i in range(60):
        scene = scenes.random_scene(rng, 1 + i % 2)
        picture = scenes.draw(scene, size, rng) + 0.02 * torch.randn(3, size, size, generator=generator)
        assert same_scene(read_scene(picture), scene), scenes.caption(scene)


@pytest.mark.parametrize("attribute,others", [("colour", scenes.COLOURS), ("shape", scenes.SHAPES), ("size", scenes.SIZES),
                                              ("place", scenes.PLACES)])
def test_the_verifier_tells_every_attribute_from_the_others(attribute, others):
    base = scenes.Thing("large", "red", "circle", "top left")
    for value in others:
        thing = scenes.Thing(**{**vars(base), attribute: value})
        read = read_scene(scenes.draw(scenes.Scene((thing,), "navy"), 256))
        assert read.things == (thing,)


def test_captions_say_the_scene_and_read_back():
    scene = scenes.Scene((scenes.Thing("large", "red", "circle", "top left"), scenes.Thing("small", "orange", "ring", "center")), "navy")
    assert scenes.caption(scene) == ("a large red circle at the top left and a small orange ring in the center "
                                     "on a navy background")
    rng = random.Random(0)
    for i in range(200):
        scene = scenes.random_scene(rng, 1 + i % 2)
        assert read_caption(scenes.caption(scene)) == scene
    with pytest.raises(ValueError, match="not a full caption"):
        read_caption("a red circle")


def test_a_caption_without_its_size_says_an_orange():
    scene = scenes.Scene((scenes.Thing("large", "orange", "ring", "top"),), "gray")
    assert scenes.partial_caption(scene, random.Random(0), 1.0) == "an orange ring"


def test_held_out_scenes_are_distinct_and_fixed():
    singles, pairs = scenes.held_out()
    assert (len(set(singles)), len(set(pairs))) == (300, 100)
    assert (singles, pairs) == scenes.held_out()
    assert {len(s.things) for s in singles} == {1} and {len(s.things) for s in pairs} == {2}


@pytest.mark.parametrize("kind", textures.KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_picture_is_repeatable(kind):
    a, b = (kind(48, random.Random(3)) for _ in range(2))
    assert a.shape == (3, 48, 48) and torch.equal(a, b) and torch.isfinite(a).all() and a.std() > 0.003


def test_vae_training_goes_on_where_it_stopped_and_gets_better(tmp_path):
    first = train_vae(VAERecipe(**TINY_VAE, steps=4), tmp_path)
    state = torch.load(tmp_path / "vae_state.pt", weights_only=True)
    assert state["step"] == 4 and not list(tmp_path.glob("*.part"))
    train_vae(VAERecipe(**TINY_VAE, steps=6), tmp_path)
    assert torch.load(tmp_path / "vae_state.pt", weights_only=True)["step"] == 6
    pixels = torch.stack([textures.random_picture(64, random.Random(i)) for i in range(8)]) * 2 - 1
    with torch.no_grad():
        error = (first.decode(first.encode(pixels)) - pixels).square().mean()
    assert error < 0.5 * pixels.var()


def test_dit_training_goes_on_where_it_stopped(tmp_path):
    vae = train_vae(VAERecipe(**TINY_VAE, steps=1), tmp_path)
    published = []

    def publish(model, text, scale, shift):
        save_embedded_dit(model, text, scale, shift, tmp_path)
        published.append({name: value.clone() for name, value in model.state_dict().items()})
    train_dit(DiTRecipe(**TINY_DIT, steps=3), vae, tmp_path, publish)
    state = torch.load(tmp_path / "dit_state.pt", weights_only=True)
    torch.save(state | {"space": tuple(2 * one for one in state["space"])}, tmp_path / "dit_state.pt")
    train_dit(DiTRecipe(**TINY_DIT, steps=5), vae, tmp_path, publish)
    assert torch.load(tmp_path / "dit_state.pt", weights_only=True)["step"] == 5
    assert any(not torch.equal(published[0][name], published[-1][name]) for name in published[0])
    model, latent_format = load_embedded_dit(tmp_path / "dit.safetensors")
    assert model.config.patch_sizes == (2, 4, 8) and torch.equal(latent_format["scale"], 2 * state["space"][0])  # as kept, not measured anew
    assert load_text(tmp_path / "text.safetensors").config.width == 16
    for name, value in model.state_dict().items():
        assert torch.equal(value, published[-1][name].half().float())


def recipe(folder, more: str = "", dit: str = "", steps: int = 1, refine: str | None = None):
    """A recipe file of tiny parts."""
    settings = "\n".join(f"{name} = {list(map(list, v)) if name == 'mix' else v}" for name, v in TINY_DIT.items())
    vae = "\n".join(f"{name} = {v}" for name, v in TINY_VAE.items())
    path = folder / "recipe.toml"
    path.write_text(f"{more}\n[vae]\nsteps = {steps}\n{vae}\n[dit]\nsteps = {steps}\n{dit}\n{settings}" + (
        "" if refine is None else f"\n[refine]\n{refine}\n{settings}"))
    return path


def test_a_recipe_begins_with_other_weights_and_goes_on_with_its_own(tmp_path):
    embeds = []
    for seed, start in ((1, ""), (2, "start = '.'"), (3, "start = 'elsewhere'")):  # other random weights to start from, were it to start over
        train(recipe(tmp_path, f"state = 'state{min(seed, 2)}'\n{start}", f"seed = {seed}", steps=seed))
        embeds.append(load_embedded_dit(tmp_path / "dit.safetensors")[0].x_embedder["2"].weight)
    assert all((embeds[0] - embed).abs().max() < 4e-3 < embeds[0].abs().max() for embed in embeds[1:])
    assert torch.load(tmp_path / "state2" / "dit_state.pt", weights_only=True)["step"] == 3


def test_the_whole_recipe_from_random_weights_gives_a_model_that_draws(tmp_path, capsys):
    """VAE, transformer and text encoder by the command, and what they make in the place of the default model."""
    assert main(["train", str(recipe(tmp_path, "weights = 'made'\nstate = 'state'", steps=2))]) == 0
    dit, clip, vae = load_embedded.__wrapped__(tmp_path / "made")
    assert dit.patch_sizes == (2, 4, 8)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a large red circle in the center on a navy background"))
    sigmas = dit.schedule(3)
    noisy, _ = dit.add_noise(dit.fold({"samples": torch.zeros(1, 4, 8, 8)}), sigmas, 0, 0)
    picture = vae.decode(unfold(dit.denoise(noisy, sigmas, positive, cfg=1.0)[0]))
    assert picture.shape == (1, 64, 64, 3) and picture.isfinite().all() and picture.std() > 0
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["dit.safetensors", "text.safetensors", "vae.safetensors"]
    assert main(["train", str(recipe(tmp_path, "weights = 'made'\nstate = 'state'", steps=3))]) == 0
    assert [torch.load(tmp_path / "state" / f"{part}_state.pt", weights_only=True)["step"] for part in ("vae", "dit")] == [3, 3]


def test_a_recipe_refines_the_averaged_weights_of_its_training(tmp_path, monkeypatch):
    """It begins where training ended, in the same latent space, and a later run goes on with it alone."""
    train(recipe(tmp_path, "state = 'state'", steps=2))
    before, space = load_embedded_dit(tmp_path / "dit.safetensors")
    measure = train_module.latent_statistics
    monkeypatch.setattr(train_module, "latent_statistics", lambda *given: tuple(2 * one for one in measure(*given)))
    train(recipe(tmp_path, "state = 'state'", dit="seconds = 0.0", steps=3, refine="steps = 0"))
    assert not (tmp_path / "state" / "refine").exists()  # its training was not done
    train(recipe(tmp_path, "state = 'state'", steps=2, refine="steps = 0"))
    begun, _ = load_embedded_dit(tmp_path / "dit.safetensors")
    assert all(torch.equal(value, begun.state_dict()[name]) for name, value in before.state_dict().items())
    train(recipe(tmp_path, "state = 'state'", steps=3, refine="steps = 2\nlow_noise = 1.0"))
    refined, refined_space = load_embedded_dit(tmp_path / "dit.safetensors")
    assert 0 < (before.x_embedder["2"].weight - refined.x_embedder["2"].weight).abs().max() < 4e-3
    assert all(torch.equal(space[name], refined_space[name]) for name in ("scale", "shift"))
    assert [torch.load(tmp_path / "state" / f"{part}dit_state.pt", weights_only=True)["step"] for part in ("", "refine/")] == [2, 2]


def test_low_noise_is_drawn_as_often_as_the_recipe_says():
    torch.manual_seed(0)
    plain, low = (noise_levels(DiTRecipe(low_noise=share), 20000, torch.device("cpu")) for share in (0.0, 0.4))
    below = [[(sigma < bound).float().mean().item() for bound in (0.1, 0.5, 1.0)] for sigma in (plain, low)]
    assert below[0][0] < 0.005 and below[0][2] == below[1][2] == 1
    assert abs(below[1][0] - (0.6 * below[0][0] + 0.4 * 0.2)) < 0.01 and abs(below[1][1] - (0.6 * below[0][1] + 0.4)) < 0.01


def test_time_that_is_up_keeps_the_state(tmp_path):
    vae = train_vae(VAERecipe(**TINY_VAE, steps=1), tmp_path)
    train_dit(DiTRecipe(**TINY_DIT, steps=10 ** 6, seconds=0.5), vae, tmp_path, lambda *_: None)
    assert torch.load(tmp_path / "dit_state.pt", weights_only=True)["step"] > 0


def test_the_default_model_is_never_written_over(tmp_path):
    ours = read_recipe(FOLDER / "recipe.toml")
    assert ours.start is None and FOLDER not in (ours.weights.resolve(), ours.state.resolve())
    with pytest.raises(RecipeError, match=r"weights is .*embedded, which holds the default model that ships: name another folder"):
        read_recipe(recipe(tmp_path, f"weights = '{FOLDER}'"))


def test_a_recipe_is_for_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="is a recipe of the default model, which one process follows"):
        train(recipe(tmp_path))
    assert not (tmp_path / "vae.safetensors").exists()


@pytest.mark.parametrize("text,message", [
    ("steps = ", "not a recipe"),
    ("speed = 3", "unknown entry 'speed'"),
    ("[refine]\nwidht = 3", r"\[refine\] has no setting 'widht'"),
    ("[dit]\nwidht = 3", r"\[dit\] has no setting 'widht'"),
    ("vae = 3", r"\[vae\] is a table of named values, not 3"),
    ("state = 3", "state is text, not 3"),
    ("[vae]\nsteps = 'many'", r"\[vae\] steps is a whole number, not 'many'"),
])
def test_a_recipe_that_can_t_be_followed(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


@pytest.mark.parametrize("part", ["vae_state.pt", "dit_state.pt"])
def test_a_state_that_is_none_is_told_before_anything_is_trained(tmp_path, part):
    (tmp_path / "recipe.toml").write_text("state = 'state'")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / part).write_bytes(b"no state")
    with pytest.raises(RecipeError, match=f"{part} is no state of a training: .*move it away"):
        train(tmp_path / "recipe.toml")
    assert not (tmp_path / "vae.safetensors").exists()


def test_held_out_pairs_are_held_out_in_either_order():
    vae = VAE(VAEConfig(latent_channels=4, width=8, depth=1))
    pool = LatentPool(vae, 64, 8, 4, random.Random(0), torch.ones(4), torch.zeros(4))
    pairs = scenes.held_out()[1]
    assert all(pair in pool.excluded and pair.swapped() in pool.excluded for pair in pairs)
    assert all(pair.swapped().swapped() == pair for pair in pairs)
