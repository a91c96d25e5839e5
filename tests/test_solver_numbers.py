"""Solvers and schedules against the numbers that ComfyUI 0.33's own give: k_diffusion/sampling.py and extra_samplers/uni_pc.py on a small
model, in float64, uni_pc in float32; and samplers.py. All solvers walk from the same x, and those that add noise add the same."""

from types import SimpleNamespace

import pytest
import torch

from dit_blocks.dit_impl.sampling import noise
from dit_blocks.dit_impl.sampling.at import At, NoiseSpace
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.sampling.schedules import beta_quantile, schedule
from dit_blocks.dit_impl.sampling.solvers import step
from dit_blocks.dit_impl.tokens.wire import fold

LEVELS = {"ddpm": [8.0, 5.0, 3.0, 1.7, 0.9, 0.4, 0.15], "ddpm to 0": [8.0, 5.0, 3.0, 1.7, 0.9, 0.4, 0.0],
          "flow": [0.95, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1], "flow to 0": [0.95, 0.8, 0.6, 0.45, 0.3, 0.2, 0.0],
          "flow from 1": [1.0, 0.8, 0.6, 0.3, 0.1], "2 steps": [8.0, 3.0, 1.0], "3 steps": [8.0, 4.0, 2.0, 0.5]}
COMFYUI = [
    ("ddpm", "euler", [1.0376287, 0.9814249, 1.0249223]), ("ddpm", "heun", [1.0701453, 0.9635888, 1.0302772]),
    ("ddpm", "dpmpp_2m", [1.0680783, 0.9620536, 1.0233944]), ("ddpm", "res_multistep", [1.0723892, 0.9589229, 1.0230427]),
    ("ddpm", "uni_pc", [1.04471, 0.97578, 1.02481]), ("ddpm", "euler_ancestral", [2.2521956, -0.7450196, 4.0484104]),
    ("ddpm", "dpmpp_2m_sde", [2.7123762, -1.1099791, 5.0342058]),
    ("ddpm to 0", "euler", [1.0288288, 1.0250576, 1.0284836]), ("ddpm to 0", "heun", [1.0294409, 1.0226779, 1.0284557]),
    ("ddpm to 0", "dpmpp_2m", [1.0292209, 1.0262603, 1.0284164]), ("ddpm to 0", "res_multistep", [1.0292886, 1.0264054, 1.0284069]),
    ("ddpm to 0", "uni_pc", [1.02912, 1.02462, 1.02847]), ("ddpm to 0", "euler_ancestral", [1.9472286, -0.2407022, 3.1265958]),
    ("ddpm to 0", "dpmpp_2m_sde", [2.1288598, -0.2480414, 3.4010562]),
    ("flow", "euler", [1.9958841, -0.4887062, 0.9929756]), ("flow", "heun", [2.0875399, -0.6892446, 0.9922146]),
    ("flow", "dpmpp_2m", [2.1295593, -0.6782146, 0.9865303]), ("flow", "res_multistep", [2.141223, -0.6955801, 0.9860781]),
    ("flow", "uni_pc", [2.066, -0.61083, 0.98885]), ("flow", "euler_ancestral", [1.2780477, -1.0379911, 3.1383963]),
    ("flow", "dpmpp_2m_sde", [1.2803851, -1.2354873, 3.5080336]),
    ("flow to 0", "euler", [1.9160878, -0.4853585, 1.0191514]), ("flow to 0", "heun", [2.0165397, -0.5971005, 1.0173336]),
    ("flow to 0", "dpmpp_2m", [2.0448452, -0.5846746, 1.016505]), ("flow to 0", "res_multistep", [2.0533571, -0.5904085, 1.01634]),
    ("flow to 0", "uni_pc", [2.00027, -0.6024, 1.01664]), ("flow to 0", "euler_ancestral", [1.1331888, -0.7538452, 2.776272]),
    ("flow to 0", "dpmpp_2m_sde", [1.1144569, -0.7795426, 2.8579186]),
    ("flow from 1", "euler_ancestral", [1.0933885, -0.4855806, 1.6702329]), ("flow from 1", "uni_pc", [2.06417, -0.49673, 0.99038]),
    ("flow from 1", "dpmpp_2m_sde", [1.0677301, -0.7024421, 1.7254293]),  # from just below 1
    ("2 steps", "uni_pc", [1.14588, 0.55455, 0.99613]), ("2 steps", "dpmpp_2m_sde", [1.778985, -0.430939, 2.7259474]),
    ("3 steps", "uni_pc", [0.99287, 0.74576, 1.03686]), ("3 steps", "dpmpp_2m", [0.8845418, 0.9310533, 1.0083468]),
    ("3 steps", "res_multistep", [0.8587125, 0.9574932, 1.0065141]), ("3 steps", "euler_ancestral", [1.8124907, 0.110097, 2.9163016])]
NOISE = torch.tensor([[0.3, -0.5, 0.9]], dtype=torch.float64)


def small_model(x, s):
    return (0.25 * x + s ** 2) / (0.25 + s ** 2) + 0.2 * torch.sin(3 * x)


class Growing:
    """Noise that is larger in each step."""

    def gaussian(self, i):
        return NOISE * (1 + i)

    def brownian(self, i, levels):
        high, low = levels(i)
        assert high > low
        return NOISE * (1 + i)


@pytest.mark.parametrize("run,solver,wanted", COMFYUI)
def test_a_solver_lands_where_comfyui_s_does(run, solver, wanted):
    kind = torch.float32 if solver == "uni_pc" else torch.float64
    x, sigmas, memory = torch.tensor([[3.0, -2.0, 0.7]], dtype=kind), torch.tensor(LEVELS[run], dtype=kind), None
    for i in range(len(sigmas) - 1):
        x, _, memory = step(solver, At(small_model, sigmas, i, NoiseSpace(run.startswith("flow")), Growing()), x, memory)
    if (run, solver) == ("flow to 0", "uni_pc"):
        x = x * (1 - 0.001)  # ComfyUI divides by what is left of the data at 0.001 only after it
    assert x[0].tolist() == pytest.approx(wanted, abs=2e-5 if solver == "uni_pc" else 2e-7)


@pytest.mark.parametrize("rectified", [True, False])
def test_a_step_between_equal_levels_stays_where_it_is(rectified):
    x, sigmas = torch.tensor([[3.0, -2.0, 0.7]]), torch.tensor([0.8, 0.5, 0.5, 0.2])
    for solver in ("uni_pc", "dpmpp_2m_sde"):
        there, x0, kept = step(solver, At(small_model, sigmas, 1, NoiseSpace(rectified), Growing()), x)
        assert there is x and torch.equal(x0, small_model(x, sigmas[1])) and kept.x0 is x0 and kept.sigma == 0.5


# --- noise on the way --------------------------------------------------------------------------------------

class Tree:
    """In the place of torchsde's: what it adds between two levels tells which."""
    made, asked = [], []

    def __init__(self, low, start, high, entropy):
        Tree.made.append((low.item(), tuple(start.shape), high.item(), entropy))

    def __call__(self, low, high):
        Tree.asked.append((low.item(), high.item()))
        return torch.full((1, 1, 4, 4), 10 * low.item() + high.item())


def test_a_brownian_motion_is_asked_in_order_and_scaled_to_white_noise(monkeypatch):
    monkeypatch.setattr(noise, "library", lambda name, what: SimpleNamespace(BrownianTree=Tree))
    Tree.made, Tree.asked = [], []
    sigmas = torch.tensor([4.0, 2.0, 2.0, 1.0, 0.5, 0.0])
    drawn = noise.StepNoise({**fold(torch.ones(1, 1, 4, 4), 2), "start": {"seed": 7}}, sigmas, torch.device("cpu"))
    levels = lambda i: (sigmas[i], sigmas[i + 1])  # noqa: E731
    first = drawn.brownian(0, levels)
    assert Tree.made == [(0.5, (1, 1, 4, 4), 4.0, 7)] and Tree.asked == [(2.0, 4.0)]
    torch.testing.assert_close(first, torch.full((1, 4, 4), -24 / 2 ** 0.5))
    torch.testing.assert_close(drawn.brownian(2, levels), torch.full((1, 4, 4), -12.0))  # nothing moves between equal levels
    assert Tree.asked == [(2.0, 4.0), (1.0, 2.0)] and len(Tree.made) == 1
    assert torch.equal(drawn.brownian(0, levels), first) and len(Tree.made) == 2 and Tree.asked[2:] == [(2.0, 4.0)]
    drawn.brownian(3, levels)
    assert Tree.asked[3:] == [(1.0, 2.0), (0.5, 1.0)]


def test_white_noise_of_a_step_is_its_turn_in_one_stream_of_the_next_seed():
    wire = {**fold(torch.ones(1, 1, 4, 4), 2), "start": {"seed": 7}}
    drawn, generator = noise.StepNoise(wire, torch.linspace(1, 0, 4), torch.device("cpu")), torch.Generator().manual_seed(8)
    first, second, third = (fold(torch.randn(1, 1, 4, 4, generator=generator), 2)["tokens"] for _ in range(3))
    for step_, wanted in ((0, first), (2, third), (1, second), (1, second)):
        assert torch.equal(drawn.gaussian(step_), wanted)


# --- schedules ------------------------------------------------------------------------------------------------------

LEVELS_OF = [
    ("flow", "linear_quadratic", [1.0, 0.0]), ("flow", "linear_quadratic", [1.0, 0.975, 0.0]),
    ("flow", "linear_quadratic", [1.0, 0.9875, 0.975, 0.85833, 0.53333, 0.0]),
    ("flow", "linear_quadratic", [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.90938, 0.725, 0.42188, 0.0]),
    ("flow", "kl_optimal", [1.0, 0.00299, 0.0]), ("flow", "kl_optimal", [1.0, 0.66926, 0.41597, 0.20125, 0.00299, 0.0]),
    ("flow", "ddim_uniform", [0.00598, 0.0]), ("flow", "ddim_uniform", [0.92396, 0.81942, 0.66851, 0.43162, 0.00598, 0.0]),
    ("flow", "beta", [1.0, 0.0]), ("flow", "beta", [1.0, 0.95534, 0.84095, 0.63094, 0.29808, 0.0]),
    ("ddpm", "linear_quadratic", [14.61464, 14.43196, 14.24928, 12.54423, 7.79448, 0.0]),
    ("ddpm", "kl_optimal", [14.61463, 2.14274, 0.96159, 0.41984, 0.02917, 0.0]),
    ("ddpm", "ddim_uniform", [5.13443, 2.29285, 1.16822, 0.57405, 0.04131, 0.0]), ("ddpm", "ddim_uniform", [1.62369, 0.04131, 0.0]),
    ("ddpm", "beta", [14.61464, 10.48347, 5.68659, 2.96361, 1.61828, 0.91983, 0.51539, 0.24327, 0.0])]


@pytest.mark.parametrize("kind,scheduler,wanted", LEVELS_OF)
def test_levels_are_comfyui_s(kind, scheduler, wanted):
    flow = RectifiedFlow(shift=3.0) if kind == "flow" else DDPM(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert schedule(flow, len(wanted) - 1, scheduler).tolist() == pytest.approx(wanted, abs=1e-5, rel=1e-5)


def test_the_ends_of_a_beta_distribution():
    assert [beta_quantile(share, 0.6) for share in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]
    assert beta_quantile(0.3, 1.0) == pytest.approx(0.3) and beta_quantile(0.9, 1.0) == pytest.approx(0.9)
