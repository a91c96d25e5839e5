"""Solvers against the numbers that ComfyUI 0.33's own samplers give on a small model: k_diffusion/sampling.py and extra_samplers/uni_pc.py,
in float64, uni_pc in float32. All of them walk from the same x, and those that add noise add the same."""

import pytest
import torch

from dit_blocks.dit_impl.sampling.at import At, NoiseSpace
from dit_blocks.dit_impl.sampling.solvers import step

LEVELS = {"ddpm": [8.0, 5.0, 3.0, 1.7, 0.9, 0.4, 0.15], "ddpm to 0": [8.0, 5.0, 3.0, 1.7, 0.9, 0.4, 0.0],
          "flow": [0.95, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1], "flow to 0": [0.95, 0.8, 0.6, 0.45, 0.3, 0.2, 0.0],
          "2 steps": [8.0, 3.0, 1.0], "3 steps": [8.0, 4.0, 2.0, 0.5]}
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
