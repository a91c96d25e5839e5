"""The parts of the default model's recipe: its learning rate, its patch embeddings, what it splits, the captions it reads, and its pool."""

from dataclasses import replace
import random

import pytest
import torch

from dit_blocks.dit_impl.model.text import TextConfig, Tokenizer
from dit_blocks.dit_impl.model.vae import VAE, VAEConfig
from dit_blocks.dit_impl.sampling.flow import RectifiedFlow
from dit_blocks.dit_impl.tokens import mixed
from dit_blocks.dit_impl.training.default_model import scenes, things
from dit_blocks.dit_impl.training.default_model.pool import COUNTS, LatentPool
from dit_blocks.dit_impl.training.default_model.train_dit import (
    DiTRecipe,
    averaging,
    build,
    loss_of,
    optimizers,
    rate,
    read_captions,
    smooth,
    vocabulary,
)
from dit_blocks.dit_impl.training.mixes import random_mix

SMALL = DiTRecipe(width=32, depth=1, heads=2, text_width=16, detail=16)


def pool(capacity: int = 30, first: int = 20, seed: int = 0, kept: dict | None = None) -> LatentPool:
    torch.manual_seed(0)
    vae = VAE(VAEConfig(latent_channels=4, width=8, depth=1))
    return LatentPool(vae, 64, capacity, first, random.Random(seed), torch.ones(4), torch.zeros(4), kept)


def test_the_learning_rate_stays_until_its_end_is_known():
    plain = DiTRecipe(steps=1000)
    assert rate(plain, 0) < 0.01 and rate(plain, 500) == rate(plain, 999) == 1
    ending = replace(plain, decay_from=600)
    assert rate(ending, 599) == rate(plain, 599)
    falling = [rate(ending, step) for step in range(600, 1001, 50)]
    assert falling[0] == 1 and falling == sorted(falling, reverse=True) and falling[-1] == pytest.approx(0.01)
    assert rate(ending, 800) == pytest.approx(0.505, abs=0.01)


def test_the_average_of_weights_is_of_few_steps_at_first():
    def after(steps: int) -> float:
        average = torch.ones(1)
        averaging(0.99)([average], [torch.zeros(1)], torch.tensor(steps))
        return average.item()
    assert after(0) == pytest.approx(0.1) and after(90) == pytest.approx(0.91) and after(10 ** 6) == pytest.approx(0.99)


@pytest.mark.parametrize("p", [2, 4, 8])
def test_embeddings_begin_smooth_and_as_large_as_others(p):
    torch.manual_seed(0)
    white = torch.randn(64, 16 * p * p)
    made = white.clone()
    smooth(made, p)
    assert made.std().item() == pytest.approx(white.std().item(), rel=0.02)

    def slow(weight: torch.Tensor) -> float:
        """The share of its power that does not change over the patch."""
        filters = weight.unflatten(1, (16, p * p))
        return (p * p * filters.mean(2).square().mean() / filters.square().mean() / (p * p)).item() * 1.0
    assert slow(white) == pytest.approx(1 / p ** 2, rel=0.15) and slow(made) > max(2 * slow(white), 0.3)


def test_patch_embeddings_learn_by_adamw_with_weight_decay_and_matrices_by_muon():
    model, text = build(SMALL, 4)
    both = torch.nn.ModuleDict({"model": model, "text": text})
    names = {id(p): name for name, p in both.named_parameters()}
    teachers = [(type(teacher).__name__, group["weight_decay"], {names[id(p)] for p in group["params"]})
                for teacher in optimizers(dict(both.named_parameters()), SMALL) for group in teacher.param_groups]
    assert sum(len(found) for *_, found in teachers) == len(names)
    by_name = {name: (kind, decay) for kind, decay, found in teachers for name in found}
    assert all(by_name[f"model.x_embedder.{p}.weight"] == ("AdamW", SMALL.embedding_decay) for p in (2, 4, 8))
    assert by_name["model.joint_blocks.0.x_block.mlp.fc1.weight"][0] == by_name["model.final_layer.detail.context.8.weight"][0] == "Muon"


def test_what_is_split_covers_the_picture_and_mostly_follows_detail():
    latent = torch.zeros(64, 4, 32, 32)
    latent[:, :, 8:16, 8:16] = 10 * torch.randn(64, 4, 8, 8)
    rng, follows = random.Random(0), 0
    torch.manual_seed(0)
    for _ in range(20):
        mix = random_mix(latent, [8, 4, 2], rng)
        assert torch.equal(mixed.scatter(mixed.gather(latent, mix), mix), latent)
        follows += (mix.places[8] != 5).all(1).float().mean().item() / 20  # the patch at (1, 1) was split
    assert 0.7 < follows < 1
    assert {tuple(random_mix(latent[:2], [4, 2], rng).counts) for _ in range(5)} == {(4, 2)}


def test_captions_are_cut_to_the_longest_or_not_at_all():
    tokenizer, rng = Tokenizer(TextConfig(vocabulary(), 40)), random.Random(0)
    drawn = [scenes.random_scene(rng, 1) for _ in range(6)]
    whole = read_captions(drawn, tokenizer, replace(SMALL, whole_text=1.0, caption_drop=0, word_drop=0), rng)
    cut = read_captions(drawn, tokenizer, replace(SMALL, whole_text=0.0, caption_drop=0, word_drop=0), rng)
    assert whole.shape == (6, 40) and torch.equal(whole[:, :cut.shape[1]], cut) and (whole[:, cut.shape[1]:] == 0).all()
    assert (cut[:, -1] != 0).any()
    assert (read_captions(drawn, tokenizer, replace(SMALL, whole_text=0.0, caption_drop=1.0), rng) == cut[:1, :1] * 0 +
            torch.tensor([1, 2])).all()  # start and end


def test_the_longest_caption_fits():
    rng, tokenizer = random.Random(1), Tokenizer(TextConfig(vocabulary(), DiTRecipe().text_length))
    for _ in range(500):
        assert not tokenizer(scenes.caption(scenes.any_scene(rng, 3, 0.5)))[1]


def test_a_batch_has_scenes_of_one_count_and_their_own_latents():
    made = pool()
    for _ in range(10):
        drawn, latent, weights = made.batch(6)
        assert len({len(scene.things) for scene in drawn}) == 1
        assert latent.shape == (6, 4, 8, 8) and weights.shape == (6, 1, 8, 8)
        assert all(torch.equal(latent[i], made.latents[made.scenes.index(scene)].float()) for i, scene in enumerate(drawn))


def test_a_pool_grows_then_renews_its_oldest():
    made = pool()
    first = made.scenes[:]
    made.renew(10)
    assert len(made.scenes) == 30 and made.scenes[:20] == first and made.next == 0
    made.renew(3)
    assert len(made.scenes) == 30 and made.scenes[3:20] == first[3:] and made.scenes[:3] != first[:3]
    assert all(len(scene.things) == COUNTS[i % len(COUNTS)] for i, scene in enumerate(made.scenes))


def test_a_kept_pool_comes_back_as_it_was(tmp_path):
    made = pool()
    torch.save(made.state(), tmp_path / "pool.pt")
    again = pool(seed=1, kept=torch.load(tmp_path / "pool.pt", weights_only=True))
    assert again.scenes == made.scenes and again.at == made.at and again.next == made.next
    assert torch.equal(again.latents[:20], made.latents[:20]) and torch.equal(again.masks[:20], made.masks[:20])
    smaller = pool(capacity=12, seed=1, kept=made.state())
    assert smaller.scenes == made.scenes[:12] and smaller.next == 0


def test_without_the_font_a_pool_holds_shapes_alone(monkeypatch, tmp_path):
    monkeypatch.setenv(things.FONT, str(tmp_path / "none.ttf"))
    assert not any(thing.pictured for scene in pool().scenes for thing in scene.things)


def test_the_loss_of_a_mixed_sequence_is_that_of_its_cells():
    """A model that answers what it reads: the loss is the weighted error of every cell, however the picture is cut."""
    torch.manual_seed(0)

    class Echo(torch.nn.Module):
        def forward(self, tokens, *_):
            return tokens

        def forward_mixed(self, tokens, *_):
            return tokens
    latent, noise, weights, sigma = torch.randn(4, 4, 32, 32), torch.randn(4, 4, 32, 32), torch.rand(4, 1, 32, 32), torch.rand(4)
    text = lambda ids: (None, None)
    ways = (2, 8, random_mix(latent, [4, 2], random.Random(0)), random_mix(latent, [8, 4, 2], random.Random(1)))
    losses = [loss_of(Echo(), text, RectifiedFlow("x0"), None, latent, weights, way, sigma, noise) for way in ways]
    assert all(loss.item() == pytest.approx(losses[0].item(), rel=1e-4) for loss in losses)
    x = (1 - sigma.view(-1, 1, 1, 1)) * latent + sigma.view(-1, 1, 1, 1) * noise
    expected = (weights / sigma.clamp_min(0.25).view(-1, 1, 1, 1) ** 2 * (x - latent).square()).mean()
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-4)
