"""Patchify is a permutation, and pads as ComfyUI does."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch
import torch.nn.functional as F

from dit_blocks.dit_impl.tokens.patch import channels_last_rows, pad_to_patches, patchify, token_grid, unpatchify


@st.composite
def latents(draw):
    """Random [B, C, H, W] and a patch size that fits but need not divide."""
    patch_size = draw(st.integers(1, 9))
    height, width = (draw(st.integers(patch_size, 3 * patch_size + 5)) for _ in range(2))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 17)), height, width)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2 ** 31)))
    return torch.randn(shape, generator=generator), patch_size


@settings(max_examples=200, deadline=None)
@given(latents())
def test_unpatchify_undoes_patchify(case):
    latent, patch_size = case
    tokens = patchify(latent, patch_size)
    assert torch.equal(unpatchify(tokens, patch_size, latent.shape[-2:]), latent)


@settings(max_examples=100, deadline=None)
@given(latents())
def test_token_arithmetic(case):
    latent, patch_size = case
    batch, channels, height, width = latent.shape
    h, w = token_grid(height, width, patch_size)
    assert (h - 1) * patch_size < height <= h * patch_size
    assert (w - 1) * patch_size < width <= w * patch_size
    assert patchify(latent, patch_size).shape == (batch, h * w, channels * patch_size ** 2)


@settings(max_examples=100, deadline=None)
@given(latents())
def test_tokens_are_in_the_order_of_unfold(case):
    latent, patch_size = case
    unfolded = F.unfold(pad_to_patches(latent, patch_size), patch_size, stride=patch_size).transpose(1, 2)
    assert torch.equal(patchify(latent, patch_size), unfolded)


@settings(max_examples=100, deadline=None)
@given(latents())
def test_padding_wraps_around(case):
    latent, patch_size = case
    padded = pad_to_patches(latent, patch_size)
    rows = torch.arange(padded.shape[-2]) % latent.shape[-2]
    columns = torch.arange(padded.shape[-1]) % latent.shape[-1]
    assert torch.equal(padded, latent[..., rows, :][..., columns])


def test_the_textbook_example():
    tokens = patchify(torch.zeros(1, 4, 64, 64), 2)
    assert tokens.shape == (1, 1024, 16)


def test_a_linear_embedding_of_tokens_is_a_convolution():
    convolution = torch.nn.Conv2d(3, 8, 4, stride=4).double()
    latent = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    embedded = F.linear(patchify(latent, 4), convolution.weight.flatten(1), convolution.bias)
    torch.testing.assert_close(embedded, convolution(latent).flatten(2).transpose(1, 2))


@pytest.mark.parametrize("size, side", [((3, 8), "height 3"), ((8, 3), "width 3")])
def test_a_patch_larger_than_the_latent_is_refused(size, side):
    with pytest.raises(ValueError, match=f"latent {side} is smaller than patch size 4"):
        patchify(torch.zeros(1, 4, *size), 4)


@pytest.mark.parametrize("channels, patch_size", [(4, 2), (16, 2), (3, 4), (5, 1)])
def test_channels_last_rows_turns_sd3s_answer_into_tokens(channels, patch_size):
    h, w = 3, 5
    answer = torch.randn(2, h * w, patch_size ** 2 * channels)
    laid_out = torch.einsum("nhwpqc->nchpwq", answer.view(2, h, w, patch_size, patch_size, channels))
    latent = laid_out.reshape(2, channels, h * patch_size, w * patch_size)
    tokens = answer[..., channels_last_rows(answer.shape[-1], patch_size)]
    assert torch.equal(tokens, patchify(latent, patch_size))
