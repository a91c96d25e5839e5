"""Noise levels, schedules and solvers at the edges: both flows under coarse patches, every schedule of a DDPM, what counts as a step."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from numbers_and_errors import line
import pytest
from test_flow import predict_x0
import torch

from dit_blocks.dit_impl.errors import ScheduleError
from dit_blocks.dit_impl.sampling.at import At
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow, per_sample
from dit_blocks.dit_impl.sampling.guidance import guided, is_guided
from dit_blocks.dit_impl.sampling.schedules import BETA, SCHEDULERS, beta_quantile, schedule, shift_time, sigma_table
from dit_blocks.dit_impl.sampling.solvers import SOLVERS, check_solver, model_calls, step
from dit_blocks.dit_impl.sampling.walk import check_sigmas, check_step, last_step, walk
from dit_blocks.dit_impl.tokens.wire import fold

CPU = torch.device("cpu")


# --- flows ----------------------------------------------------------------------------------------------------------

def test_a_prediction_that_a_flow_has_not_is_refused():
    assert line(ValueError, RectifiedFlow, "v") == "RectifiedFlow: prediction is one of velocity, x0, not 'v'"
    assert line(ValueError, DDPM, "velocity") == "DDPM: prediction is one of epsilon, v, not 'velocity'"
    assert [RectifiedFlow(name).prediction for name in ("velocity", "x0")] == ["velocity", "x0"] and [DDPM(name).prediction for name in ("epsilon", "v")] == ["epsilon", "v"]


def test_a_level_is_one_for_all_or_one_a_sample():
    x = torch.ones(2, 3, 4, dtype=torch.float64)
    assert per_sample(0.5, x).shape == (1, 1, 1) and per_sample(torch.tensor([1.0, 2]), x).shape == (2, 1, 1)
    assert per_sample(torch.tensor([1.0, 2]), x).dtype == torch.float64


@settings(max_examples=30, deadline=None)
@given(sigma=st.floats(0.02, 0.98), gain=st.floats(0.1, 2.0), seed=st.integers(0, 99))
def test_quieter_noise_is_the_same_picture_at_another_level(sigma, gain, seed):
    x0, noise = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    levels = torch.tensor([sigma, sigma / 2, sigma / 3])
    for flow in (RectifiedFlow(), DDPM()):
        share = 1 - per_sample(levels, x0) if isinstance(flow, RectifiedFlow) else 1
        x = share * x0 + per_sample(levels, x0) * gain * noise
        seen, level = flow.quieter(x, levels, gain)
        assert level.dtype == x.dtype and level.shape == (3,)
        torch.testing.assert_close(seen, flow.add_noise(x0, noise, level), atol=1e-6, rtol=1e-6)


def test_a_model_is_shown_what_its_flow_shows():
    shown = []

    def model(x, t):
        shown.append((x, t))
        return torch.zeros_like(x)
    x, sigma = torch.ones(2, 3), torch.tensor([0.5, 3.0])
    predict_x0(RectifiedFlow(), model, x, sigma)
    predict_x0(DDPM(), model, x, sigma)
    assert torch.equal(shown[0][0], x) and torch.equal(shown[0][1], sigma * 1000)
    torch.testing.assert_close(shown[1][0], x / (sigma ** 2 + 1).sqrt()[:, None])
    assert shown[1][1].tolist() == [(DDPM().sigmas.log() - math.log(s)).abs().argmin().item() for s in (0.5, 3.0)]


def test_ddpm_times_are_asked_of_levels_of_any_shape():
    sigmas = DDPM().sigmas
    assert DDPM().time(sigmas[500]).item() == 500 and DDPM().time(sigmas[[3, 999]]).tolist() == [3, 999]
    assert DDPM().time(sigmas[torch.tensor([[1], [2]])]).tolist() == [[1], [2]] and len(DDPM(steps=10).sigmas) == 10


def test_scaled_linear_betas_are_stable_diffusion_s():
    from diffusers import DDPMScheduler
    ours = DDPM(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    torch.testing.assert_close(ours.float(), DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod, atol=1e-6, rtol=1e-5)
    assert line(ValueError, lambda: DDPM(beta_schedule="cosine").sigmas) == "DDPM: beta_schedule is linear or scaled_linear, not 'cosine'"


# --- schedules ------------------------------------------------------------------------------------------------------

def test_times_shift_towards_noise():
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    torch.testing.assert_close(shift_time(t, 3.0), torch.tensor([0.0, 0.5, 0.75, 1.0]))
    assert torch.equal(shift_time(t, 1.0), t)
    table = sigma_table(RectifiedFlow(shift=3.0))
    assert len(table) == 1000 and table[-1] == 1 and table[0] == pytest.approx(0.003 / 1.002) and (table.diff() > 0).all()
    assert torch.equal(sigma_table(DDPM()), DDPM().sigmas.float())


def ddpm_level(t: float) -> float:
    """σ of a DDPM at a time between two training times, as ComfyUI's ModelSamplingDiscrete.sigma has it."""
    log = DDPM().sigmas.log()
    low, high = math.floor(t), math.ceil(t)
    return math.exp(log[low] + (log[high] - log[low]) * (t - low))


@pytest.mark.parametrize("scheduler,steps,times", [
    ("normal", 4, [999, 666, 333, 0]), ("sgm_uniform", 4, [999, 749.25, 499.5, 249.75]), ("simple", 4, [999, 749, 499, 249]), ("simple", 3, [999, 666, 333]),
    ("normal", 1, [999]), ("sgm_uniform", 1, [999])])
def test_a_ddpm_s_schedules_walk_its_times(scheduler, steps, times):
    found = schedule(DDPM(), steps, scheduler)
    assert found[-1] == 0 and found.dtype == torch.float32
    assert found[:-1].tolist() == pytest.approx([ddpm_level(t) for t in times], rel=1e-4)


@pytest.mark.parametrize("flow", [RectifiedFlow(), RectifiedFlow(shift=3.0), DDPM()], ids=["flow", "shifted", "ddpm"])
def test_karras_and_exponential_go_from_the_highest_level_to_the_lowest(flow):
    low, high = sigma_table(flow)[[0, -1]].tolist()
    karras, exponential, linear = (schedule(flow, 5, name) for name in ("karras", "exponential", "linear"))
    assert karras[:-1].pow(1 / 7).diff().tolist() == pytest.approx([(low ** (1 / 7) - high ** (1 / 7)) / 4] * 4, rel=1e-3)
    assert exponential[:-1].log().diff().tolist() == pytest.approx([math.log(low / high) / 4] * 4, rel=1e-3)
    assert linear.tolist() == pytest.approx([high * share for share in (1, .8, .6, .4, .2, 0)])
    for found in (karras, exponential):
        assert found[0].item() == pytest.approx(high, rel=1e-4) and found[-2].item() == pytest.approx(low, rel=1e-3) and found[-1] == 0


def test_a_schedule_that_can_t_be_says_why():
    assert line(ValueError, schedule, RectifiedFlow(), 0) == "steps is at least 1, not 0"
    for denoise in (0, 1.5, -1):
        assert line(ValueError, schedule, RectifiedFlow(), 4, "simple", denoise) == f"denoise is above 0 and at most 1, not {denoise}"
    assert line(ValueError, schedule, RectifiedFlow(), 4, "best") == f"scheduler is one of {', '.join(SCHEDULERS)}, not 'best'"
    assert len(schedule(RectifiedFlow(), 1)) == 2 and torch.equal(schedule(RectifiedFlow(), 5), schedule(RectifiedFlow(), 5, "simple", 1.0))
    assert torch.equal(schedule(RectifiedFlow(), 3, "karras", 0.3), schedule(RectifiedFlow(), 10, "karras")[-4:])


def test_beta_spaces_its_levels_as_scipy_says():
    beta = pytest.importorskip("scipy.stats").beta
    for steps in (1, 2, 7, 20, 33, 100):
        shares = [1 - i / steps for i in range(steps)]
        assert [beta_quantile(share, BETA) for share in shares] == pytest.approx(beta.ppf(shares, BETA, BETA).tolist(), abs=1e-9)


@pytest.mark.parametrize("flow", [RectifiedFlow(shift=3.0), DDPM()], ids=["flow", "ddpm"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_penultimate_level_is_left_out_of_a_schedule_of_one_step_more(flow, scheduler):
    for steps, denoise in ((1, 1.0), (6, 1.0), (6, 0.5)):
        whole = schedule(flow, (steps if denoise == 1 else int(steps / denoise)) + 1, scheduler)
        left = schedule(flow, steps, scheduler, denoise, skip_penultimate=True)
        assert torch.equal(left, torch.cat([whole[:-2], whole[-1:]])[-len(left):]) and left[-1] == 0


# --- what counts as a schedule and a step ---------------------------------------------------------------------------

@pytest.mark.parametrize("sigmas,says", [
    (None, "sigmas are a list of at least 2 noise levels, not None: wire a Sigma Schedule"), (torch.ones(1), "sigmas are a list of at least 2 noise levels, not [1]: wire a Sigma Schedule"),
    (torch.ones(2, 2), "sigmas are a list of at least 2 noise levels, not [2, 2]: wire a Sigma Schedule"), (torch.tensor([1.0, float("inf")]), "sigmas hold a value that is NaN or infinite"),
    (torch.tensor([1.0, -0.5]), "sigmas are 0 or more, one is -0.5"),
    (torch.tensor([0.0, 0.5, 1.0]), "sigmas that rise, from a picture to its noise, begin above 0: core's Flip Sigmas makes the first 0.0001"),
    (torch.tensor([1.0, 0.123456, 0.2]), "sigmas fall from step to step, or rise from step to step to bring a picture to its noise; these do both: "
                                         "1 … 0.1235, 0.2 … 0.2")])
def test_what_is_no_schedule_says_why(sigmas, says):
    assert line(ScheduleError, check_sigmas, sigmas) == says


def test_two_levels_are_a_schedule_of_one_step():
    sigmas = torch.tensor([0.7, 0.2])
    check_sigmas(sigmas)
    check_sigmas(torch.tensor([1.0, 0.5, 0.5, 0]))
    check_sigmas(torch.tensor([0.1, 0.5, 1.0]))
    check_step(0, sigmas)
    assert last_step(0, None, sigmas) == last_step(0, 9, sigmas) == last_step(0, 1, sigmas) == 1
    for wrong in (1, -1):
        assert line(ScheduleError, check_step, wrong, sigmas) == f"step {wrong} is outside the schedule, whose steps are 0 to 0"
    assert line(ScheduleError, last_step, 2, 2, torch.linspace(1, 0, 5)) == "end_step 2 is not after start_step 2"
    assert last_step(1, 3, torch.linspace(1, 0, 5)) == 3 and last_step(1, 99, torch.linspace(1, 0, 5)) == 4


# --- solvers --------------------------------------------------------------------------------------------------------

def counted(solver, sigmas, start, stop) -> tuple[int, list]:
    """How often a walk asks its model, and what it reports."""
    calls, told = [], []

    def predict_x0(x, sigma):
        calls.append(sigma.item())
        return x * 0.5
    wire = fold(torch.ones(1, 1, 4, 4), 2)
    wire["start"] = {"clean": wire["tokens"], "noise": wire["tokens"], "seed": 0}
    walk(predict_x0, wire, sigmas, solver, start, stop, CPU, lambda *told_: told.append(told_[:2]))
    return len(calls), told


@settings(max_examples=30, deadline=None)
@given(solver=st.sampled_from(sorted(set(SOLVERS) - {"dpmpp_2m_sde"})), steps=st.integers(1, 6), data=st.data(), ends_at_zero=st.booleans())
def test_a_walk_asks_its_model_as_often_as_is_said_and_tells_each_step(solver, steps, data, ends_at_zero):
    sigmas = torch.linspace(2, 0 if ends_at_zero else 0.1, steps + 1)
    start = data.draw(st.integers(0, steps - 1))
    stop = data.draw(st.integers(start + 1, steps))
    calls, told = counted(solver, sigmas, start, stop)
    assert calls == model_calls(solver, sigmas, start, stop)
    assert told == [(i + 1, stop - start) for i in range(stop - start)]


def test_what_a_multistep_solver_remembers_travels_on_the_wire():
    sigmas, wire = torch.linspace(1, 0.1, 6), fold(torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), 2)
    ask = lambda x, sigma: torch.tanh(x) * (1 - sigma)  # noqa: E731
    whole, last = walk(ask, wire, sigmas, "dpmpp_2m", 0, 5, CPU)
    half, x0 = walk(ask, wire, sigmas, "dpmpp_2m", 0, 3, CPU)
    assert half["memory"]["sigma"] == sigmas[2] and torch.equal(half["memory"]["x0"], x0["tokens"]) and "memory" not in x0 and "memory" not in wire
    rest, same = walk(ask, half, sigmas, "dpmpp_2m", 3, 5, CPU)
    assert torch.equal(rest["tokens"], whole["tokens"]) and torch.equal(same["tokens"], last["tokens"])
    forgot, _ = walk(ask, {**half, "memory": None}, sigmas, "dpmpp_2m", 3, 5, CPU)
    assert not torch.allclose(forgot["tokens"], whole["tokens"], atol=1e-4)
    in_one = wire["tokens"]
    memory = None
    for i in range(5):
        in_one, _, memory = step("dpmpp_2m", At(ask, sigmas, i), in_one, memory)
    assert torch.equal(in_one, whole["tokens"])


def test_a_step_answers_where_it_is_what_it_steered_by_and_what_to_remember():
    x, levels = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.5])
    for solver in (name for name in SOLVERS if not SOLVERS[name].adds_noise):
        there, x0, memory = step(solver, At(lambda x, s: x * 0.25, levels, 0), x)
        torch.testing.assert_close(x0, x * 0.25)
        torch.testing.assert_close(memory.x0, x0)
        assert memory.sigma == 1 and there.shape == x.shape
    assert step("euler", At(lambda x, s: x * 0, levels, 0), x)[0].tolist() == [1.0, -0.5]


def test_a_solver_that_is_none_is_refused():
    assert line(ValueError, check_solver, "magic") == f"solver is one of {', '.join(SOLVERS)}, not 'magic'"
    assert line(ValueError, check_solver, "ddim", rectified=True) == "ddim is for DDPM models; for a rectified flow the same step is euler"
    assert check_solver("ddim") is SOLVERS["ddim"] and check_solver("euler", True) is SOLVERS["euler"]


def test_guidance_is_none_at_one_up_to_rounding():
    assert not is_guided(1.0) and not is_guided(1 + 1e-12) and is_guided(1.001) and is_guided(0.0)
    assert guided(torch.tensor(3.0), torch.tensor(1.0), 2.0) == 5
