"""Noise levels, predictions and times, against ComfyUI's and diffusers' formulas."""

from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow

LEVELS = st.floats(0.01, 0.99)


def predict_x0(flow, model, x, sigma):
    """The data behind x, as a model has it that is called as its flow says."""
    return flow.to_x0(model(flow.model_input(x, sigma), flow.time(sigma)), x, sigma)


def exact_prediction(flow, x0, noise, sigma):
    """What a perfect model would answer."""
    if flow.prediction == "x0":
        return x0
    if flow.prediction == "velocity":
        return noise - x0
    if flow.prediction == "epsilon":
        return noise
    alpha = 1 / (1 + sigma ** 2) ** 0.5  # √ᾱ; √(1−ᾱ) is σ·√ᾱ
    return alpha * noise - sigma * alpha * x0


@settings(deadline=None)
@given(LEVELS, st.sampled_from([RectifiedFlow("velocity"), RectifiedFlow("x0"), DDPM("epsilon"), DDPM("v")]), st.integers(0, 99))
def test_to_x0_undoes_add_noise(sigma, flow, seed):
    torch.manual_seed(seed)
    x0, noise = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    sigma = sigma * (10 if isinstance(flow, DDPM) else 1)
    x = flow.add_noise(x0, noise, sigma)
    torch.testing.assert_close(flow.to_x0(exact_prediction(flow, x0, noise, sigma), x, sigma), x0)


@pytest.mark.parametrize("flow", [RectifiedFlow("velocity"), RectifiedFlow("x0"), DDPM("epsilon"), DDPM("v")])
def test_predict_x0_takes_a_level_for_each_sample(flow):
    x0, noise = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    seen = []

    def model(x, t):
        seen.append((x, t))
        return exact_prediction(flow, x0, noise, sigma.view(-1, 1, 1))
    torch.testing.assert_close(predict_x0(flow, model, flow.add_noise(x0, noise, sigma), sigma), x0)
    assert seen[0][1].shape == (3,)


@given(LEVELS)
def test_flow_time_is_comfyuis(sigma):
    sigma = torch.tensor([sigma])
    assert torch.equal(RectifiedFlow().time(sigma), sigma * 1000)  # ModelSamplingDiscreteFlow.timestep, multiplier 1000


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_ddpm_levels_are_diffusers(schedule):
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=schedule)
    flow = DDPM(beta_start=0.00085, beta_end=0.012, beta_schedule=schedule)
    torch.testing.assert_close(flow.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7)
    alphas = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(flow.sigmas, ((1 - alphas) / alphas).sqrt(), rtol=1e-4, atol=0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1e-3, 200), min_size=1, max_size=4))
def test_ddpm_time_is_comfyuis(levels):
    flow, sigma = DDPM(), torch.tensor(levels, dtype=torch.float64)
    log_sigmas = flow.sigmas.log()
    distances = sigma.log() - log_sigmas[:, None]  # ModelSamplingDiscrete.timestep
    assert torch.equal(flow.time(sigma), distances.abs().argmin(dim=0))


def test_ddpm_time_of_each_trained_level_is_its_own():
    flow = DDPM()
    assert torch.equal(flow.time(flow.sigmas), torch.arange(1000))
    assert torch.equal(flow.time(flow.sigmas.float()), torch.arange(1000))


def test_ddpm_input_is_z_t():
    flow = DDPM()
    x0, noise = torch.randn(2, 4, 8, dtype=torch.float64)
    alpha = flow.alphas_cumprod[500]
    z = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
    torch.testing.assert_close(flow.model_input(flow.add_noise(x0, noise, flow.sigmas[500]), flow.sigmas[500]), z)


@given(LEVELS, LEVELS)
def test_a_constant_velocity_lands_exactly(sigma, following):
    flow = RectifiedFlow()
    x0, noise = torch.randn(2, 4, 8, dtype=torch.float64)
    x = flow.add_noise(x0, noise, sigma)
    seen = predict_x0(flow, lambda x, t: noise - x0, x, torch.tensor([sigma], dtype=torch.float64))
    stepped = x + (x - seen) / sigma * (following - sigma)
    torch.testing.assert_close(stepped, flow.add_noise(x0, noise, following))


def test_an_unknown_beta_schedule_is_refused():
    with pytest.raises(ValueError, match="cosine"):
        DDPM(beta_schedule="cosine").sigmas
