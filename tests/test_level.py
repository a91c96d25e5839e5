"""Tokens know where on a schedule they stand: what is handed on to another sampler, and what is taken from one."""

import pytest
import torch

from dit_blocks.dit_impl.sampling.level import clean, entered, handed_on, is_walked, standing
from dit_blocks.dit_impl.tokens.wire import fold, fold_nested, noise_like, to_latent, unfold, unpacked, with_row, without_row


def wire(*shape):
    return fold(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), 2)


@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (1, 4, 3, 6, 4)])
def test_what_is_handed_on_comes_back_at_the_same_level(shape):
    sigma = torch.tensor(0.7)
    tokens = standing(wire(*shape), sigma, 1 - sigma)
    handed = handed_on(tokens)["tokens"]
    assert torch.equal(handed, tokens["tokens"] / (1 - sigma))
    back = entered({**clean(tokens), "tokens": handed}, sigma, 1 - sigma)
    torch.testing.assert_close(back["tokens"], tokens["tokens"])
    assert back["level"]["sigma"] == sigma and not is_walked(back) and is_walked(tokens)


def test_tokens_that_stand_on_a_schedule_are_taken_as_they_are():
    tokens = standing(wire(1, 4, 4, 4), torch.tensor(0.7), torch.tensor(0.3), walked=False)
    assert entered(tokens, torch.tensor(0.2), torch.tensor(0.8)) is tokens


@pytest.mark.parametrize("sigma, share", [(1.0, 0.0), (14.6, 1.0)])
def test_pure_noise_and_ddpm_tokens_are_not_scaled(sigma, share):
    tokens = wire(1, 4, 4, 4)
    assert torch.equal(entered(tokens, torch.tensor(sigma), torch.tensor(share))["tokens"], tokens["tokens"])
    assert torch.equal(handed_on(standing(tokens, torch.tensor(sigma), torch.tensor(share)))["tokens"], tokens["tokens"])


def test_tokens_that_are_clean_know_nothing_of_a_step_under_way():
    plain = {**wire(1, 4, 4, 4), "start": {}, "memory": {}}
    assert clean({**plain, "level": 1, "remembered": 2, "random": 3, "hits": 4}) == plain
    stood = standing(plain, torch.tensor(0.7), torch.tensor(0.3))
    assert standing(stood, torch.tensor(0.0), torch.tensor(1.0)) == plain and "level" in stood


def test_clean_tokens_stand_nowhere():
    tokens = standing(wire(1, 4, 4, 4), torch.tensor(0.0), torch.tensor(1.0))
    assert "level" not in tokens and not is_walked(tokens)


def test_noise_is_rounded_to_the_latents_own_type():
    latent = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    full, half = fold(latent, 2), fold(latent.half(), 2)
    drawn = noise_like(full, 3)
    assert torch.equal(noise_like(half, 3), drawn.half().float()) and not torch.equal(noise_like(half, 3), drawn)


class Several:
    def __init__(self, tensors):
        self.tensors = tensors


def test_a_latent_of_several_tensors_is_cut_into_values_and_laid_out_again():
    film, sound = torch.randn(2, 4, 3, 4, 4), torch.randn(2, 5, 7)
    tokens = fold_nested([film, sound], Several)
    assert tokens["tokens"].shape == (2, film[0].numel() + sound[0].numel(), 1)
    assert all(torch.equal(a, b) for a, b in zip(unfold(tokens).tensors, (film, sound)))
    assert all(torch.equal(a, b) for a, b in zip(unpacked(to_latent(tokens["tokens"], tokens), tokens), (film, sound)))
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(one.shape, generator=generator) for one in (film, sound)]  # as ComfyUI draws for each in turn
    assert all(torch.equal(a, b) for a, b in zip(unpacked(noise_like(tokens, 3), tokens), drawn))


def test_a_latent_of_one_dimension_is_one_row_of_tokens():
    sound = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    tokens = {**fold(sound.unsqueeze(2), 1), "line": True}
    assert torch.equal(tokens["tokens"], sound.mT) and torch.equal(unfold(tokens), sound)
    assert torch.equal(without_row(with_row(sound, tokens), tokens), sound)
    drawn = torch.randn(sound.shape, generator=torch.Generator().manual_seed(3))  # as ComfyUI draws it
    assert torch.equal(without_row(to_latent(noise_like(tokens, 3), tokens), tokens), drawn)
    assert with_row(sound, fold(sound.unsqueeze(2), 1)) is sound
