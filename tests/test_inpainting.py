"""A noise mask on the pack's own models: what lies outside it is clean at every noise level, whole and by stages, for each picture its own."""

from numbers_and_errors import randn
import pytest
import torch

from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.step import stages
from dit_blocks.dit_impl.step.guidance import guide
from dit_blocks.dit_impl.tokens.patch import patchify, unpatchify

SIZE = (8, 8)


def masked(dit, mask, patch_size=2, steps=4, batch=2):
    """(sigmas, clean tokens, noisy tokens that know their mask)."""
    sigmas = dit.schedule(steps, "sgm_uniform")
    clean = dit.fold({"samples": randn(batch, 4, *SIZE), "noise_mask": mask}, patch_size)
    return sigmas, clean, dit.add_noise(clean, sigmas, 0, seed=3)[0]


def latent(wire, tokens=None) -> torch.Tensor:
    return unpatchify(wire["tokens"] if tokens is None else tokens, wire["patch_size"], SIZE)


def soft_masks() -> torch.Tensor:
    """Other values 0..1 for each of two pictures, some of them exactly 0 and 1: [2, H, W]."""
    mask = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(1))
    mask[0, :3], mask[0, 3] = 0, 1
    mask[1, :, :4], mask[1, :, 4] = 1, 0
    return mask


@pytest.fixture
def seen(backbone):
    """Every batch of tokens that the model is called with."""
    calls = []
    backbone.model.register_forward_pre_hook(lambda module, given: calls.append(given[0].clone()))
    return calls


@pytest.fixture(params=[RectifiedFlow(), DDPM("v")], ids=["flow", "ddpm"])
def dit(request, backbone):
    backbone.flow = request.param
    return backbone


def by_hand(dit, clean, noisy, sigmas, positive, mask):
    """Euler steps in latents, as KSampler masks them: [B, C, H, W]. The model is asked without a mask."""
    m, x, level = mask[:, None], latent(noisy), noisy["start"]
    data, noise = latent(noisy, level["clean"]), latent(noisy, level["noise"])
    unmasked = {key: value for key, value in noisy.items() if key != "noise_mask"}
    ask = dit.denoiser(unmasked, positive)
    for sigma, following in zip(sigmas, sigmas[1:]):
        shown = x * m + dit.flow.add_noise(data, noise, sigma) * (1 - m)
        x0 = latent(noisy, ask(patchify(shown, noisy["patch_size"]), sigma)) * m + data * (1 - m)
        x = x + (x - x0) / sigma * (following - sigma)
    return x


@pytest.mark.parametrize("patch_size", [2, 4])
def test_every_step_is_ksampler_s_masked_step(dit, positive, patch_size):
    mask = soft_masks()
    sigmas, clean, noisy = masked(dit, mask, patch_size)
    ours, x0 = dit.denoise(noisy, sigmas, positive)
    torch.testing.assert_close(latent(ours), by_hand(dit, clean, noisy, sigmas, positive, mask), atol=1e-4, rtol=1e-4)
    outside = (mask == 0)[:, None].expand(-1, 4, -1, -1)
    torch.testing.assert_close(latent(ours)[outside], latent(clean)[outside], atol=1e-5, rtol=1e-5)
    assert torch.equal(latent(x0)[outside], latent(clean)[outside])
    assert (latent(ours) - latent(clean))[~outside].abs().mean() > 0.1


def test_the_model_sees_the_clean_picture_at_each_level_outside_the_mask(backbone, positive, seen):
    mask = torch.zeros(1, *SIZE)
    mask[:, :, 4:] = 1
    sigmas, clean, noisy = masked(backbone, mask)
    elsewhere = {**noisy, "tokens": noisy["tokens"] + 1}  # however far off x is
    backbone.denoise(elsewhere, sigmas, positive)
    level = noisy["start"]
    assert len(seen) == 4
    for shown, sigma in zip(seen, sigmas):
        wanted = latent(noisy, backbone.flow.add_noise(level["clean"], level["noise"], sigma))
        torch.testing.assert_close(latent(noisy, shown)[..., :4], wanted[..., :4])
        assert not torch.allclose(latent(noisy, shown)[..., 4:], wanted[..., 4:], atol=0.1)


def test_a_step_by_stages_is_masked_as_the_whole_step_is(dit, positive, negative):
    sigmas, _, noisy = masked(dit, soft_masks())
    whole, whole_x0 = dit.denoise(noisy, sigmas, positive, negative, 3.0, end_step=1)
    hidden = stages.patch_embed(dit, stages.condition(dit, noisy, positive, negative, sigmas, 0))
    hidden = stages.run_blocks(dit, stages.position_embed(dit, hidden))
    prediction = guide(stages.final_layer(dit, hidden), 3.0)
    ours, x0 = stages.sampler_step(dit, noisy, prediction, sigmas, 0, "euler")
    assert torch.equal(ours["tokens"], whole["tokens"]) and torch.equal(x0["tokens"], whole_x0["tokens"])


def test_a_mask_of_ones_changes_nothing_and_of_zeros_everything(backbone, positive):
    runs = {}
    for name, mask in (("none", None), ("ones", torch.ones(1, *SIZE)), ("zeros", torch.zeros(1, *SIZE))):
        sigmas, clean, noisy = masked(backbone, mask)
        runs[name] = backbone.denoise(noisy, sigmas, positive)[0]["tokens"]
    assert torch.equal(runs["ones"], runs["none"])
    torch.testing.assert_close(runs["zeros"], clean["tokens"], atol=1e-5, rtol=1e-5)


def test_each_picture_has_its_own_mask_and_a_shorter_batch_of_masks_repeats(backbone, positive):
    left = torch.zeros(*SIZE)
    left[:, :4] = 1
    sigmas, clean, noisy = masked(backbone, torch.stack([left, 1 - left]), batch=3)
    ours = latent(backbone.denoise(noisy, sigmas, positive)[0]) - latent(clean)
    for picture, kept in ((0, slice(4, 8)), (1, slice(0, 4)), (2, slice(4, 8))):
        changed = slice(0, 4) if kept.start else slice(4, 8)
        assert ours[picture, ..., kept].abs().max() < 1e-5 < 0.1 < ours[picture, ..., changed].abs().mean()


def test_a_mask_of_pixels_is_brought_to_the_latent_s_size(backbone, positive):
    mask = torch.zeros(1, 1, SIZE[0] * 8, SIZE[1] * 8)
    mask[..., SIZE[1] * 4:] = 1
    sigmas, clean, noisy = masked(backbone, mask)
    ours = latent(backbone.denoise(noisy, sigmas, positive)[0]) - latent(clean)
    assert ours[..., :3].abs().max() < 1e-5 < 0.1 < ours[..., 5:].abs().mean()


def test_a_mask_without_the_clean_tokens_is_refused_before_a_step(backbone, positive, seen):
    sigmas, _, noisy = masked(backbone, torch.ones(1, *SIZE))
    del noisy["start"]
    says = "^the tokens have a noise mask, but not the clean tokens and the noise it needs: use Add Noise$"
    with pytest.raises(ValueError, match=says):
        backbone.denoise(noisy, sigmas, positive)
    with pytest.raises(ValueError, match=says):
        stages.condition(backbone, noisy, positive, None, sigmas, 0)
    assert not seen


def test_add_noise_remembers_what_it_began_from(backbone):
    sigmas, clean, noisy = masked(backbone, torch.ones(1, *SIZE))
    again, noise = backbone.add_noise(clean, sigmas, 1, seed=3)
    assert noisy["start"].keys() == {"clean", "noise", "seed", "sigma"} and again["start"]["seed"] == 3
    assert torch.equal(again["start"]["clean"], clean["tokens"]) and torch.equal(again["start"]["noise"], noise["tokens"])
    torch.testing.assert_close(again["tokens"], sigmas[1] * noise["tokens"] + (1 - sigmas[1]) * clean["tokens"])
    assert "memory" not in again and "start" not in noise
