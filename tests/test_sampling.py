"""Solvers and schedules against exact answers, diffusers' schedulers and the levels that ComfyUI prints."""

from importlib.util import find_spec

import pytest
from test_flow import predict_x0
import torch

from dit_blocks.dit_impl.errors import ScheduleError
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.sampling.at import At, NoiseSpace
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.sampling.noise import StepNoise
from dit_blocks.dit_impl.sampling.schedules import SCHEDULERS, schedule
from dit_blocks.dit_impl.sampling.solvers import SOLVERS, Memory, step
from dit_blocks.dit_impl.tokens.wire import fold, noise_like, unfold

NOISY = [name for name, solver in SOLVERS.items() if solver.adds_noise]
EXACT = [name for name in SOLVERS if name not in NOISY and name != "uni_pc"]  # which ends a little above 0
needs_its_noise = [pytest.param(name, marks=pytest.mark.skipif(name == "dpmpp_2m_sde" and not find_spec("torchsde"), reason="no torchsde"))
                   for name in SOLVERS]


def walk(solver, predict_x0, x, sigmas, **space):
    memory = None
    for i in range(len(sigmas) - 1):
        x, x0, memory = step(solver, At(predict_x0, sigmas, i, **space), x, memory)
    return x


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_constant_velocity_lands_exactly(solver, scheduler):
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 2, 6, 8, generator=generator, dtype=torch.float64)
    sigmas = schedule(RectifiedFlow(shift=3.0), 7, scheduler).double()
    x = (1 - sigmas[0]) * data + sigmas[0] * noise
    landed = walk(solver, lambda x, sigma: x - sigma * (noise - data), x, sigmas)
    torch.testing.assert_close(landed, data, atol=1e-9, rtol=0)


@pytest.mark.parametrize("solver,order", [("euler", 1), ("heun", 2), ("dpmpp_2m", 2), ("res_multistep", 2), ("uni_pc", 2)])
def test_solvers_have_their_order(solver, order):
    """Data ~ N(1, 0.5²) under noise σ: x0 is known, and so is the path; twice the steps divide the error by 2^order."""
    def predict_x0(x, sigma):
        return (0.25 * x + sigma ** 2) / (0.25 + sigma ** 2)
    start, end = torch.tensor(4.0, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64)
    x = torch.tensor([3.0, -2.0], dtype=torch.float64)
    exact = 1 + (x - 1) * ((0.25 + end ** 2) / (0.25 + start ** 2)).sqrt()
    errors = []
    for steps in (64, 128):
        sigmas = torch.linspace(start.log(), end.log(), steps + 1, dtype=torch.float64).exp()
        errors.append((walk(solver, predict_x0, x, sigmas, space=NoiseSpace(False)) - exact).abs().max().item())
    assert errors[0] / errors[1] > 0.85 * 2 ** order


class Fresh:
    """Noise that is new at every call."""

    def __init__(self, like):
        self.like, self.generator = like, torch.Generator().manual_seed(0)

    def gaussian(self, *_):
        return torch.randn(self.like.shape, generator=self.generator, dtype=self.like.dtype)
    brownian = gaussian


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("solver", NOISY)
def test_new_noise_keeps_the_law_of_what_is_sampled(solver, rectified):
    """Data ~ N(1, 0.5²): x0 is known, and so is the law of x at every noise level, whatever noise was added on the way."""
    sigmas = torch.linspace(0.99, 0.3, 200, dtype=torch.float64) if rectified else torch.linspace(1.6, -1, 200, dtype=torch.float64).exp()

    def law(s):
        share = 1 - s if rectified else torch.ones_like(s)
        return share, share ** 2 * 0.25 + s ** 2

    def predict_x0(x, s):
        share, variance = law(s)
        return 1 + 0.25 * share / variance * (x - share)
    share, variance = law(sigmas[0])
    x = share + variance.sqrt() * torch.randn(40_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    there = walk(solver, predict_x0, x, sigmas, space=NoiseSpace(rectified), noise=Fresh(x))
    share, variance = law(sigmas[-1])
    assert abs(there.mean() - share) < 0.02 and abs(there.std() / variance.sqrt() - 1) < 0.02
    assert abs(torch.corrcoef(torch.stack([x, there]))[0, 1]) < 0.75  # much of the first noise is gone


def test_uni_pc_ends_beside_zero():
    """At σ = 0.001, as in ComfyUI: x there, as if it were data."""
    data, noise = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    for space in (NoiseSpace(False), NoiseSpace(True)):
        share = (lambda s: 1 - s) if space.rectified else (lambda s: 1)
        sigmas = schedule(RectifiedFlow(shift=3.0), 7, "simple")
        predict_x0 = lambda x, s: (x - s * noise) / (share(s) or 1)  # noqa: E731
        x = share(sigmas[1]) * data + sigmas[1] * noise
        landed = walk("uni_pc", predict_x0, x, sigmas[1:], space=space)
        torch.testing.assert_close(landed, data, atol=5e-3, rtol=0)


def test_a_solver_s_noise_needs_a_seed_and_a_falling_schedule(backbone, positive):
    start, sigmas = noisy(backbone, 2)
    for solver in NOISY:
        unseeded = {**start, "start": {name: value for name, value in start["start"].items() if name != "seed"}}
        with pytest.raises(ValueError, match=f"^{solver} draws noise by Add Noise's seed: use Add Noise before it$"):
            backbone.denoise(unseeded, sigmas, positive, None, 1.0, solver)
        with pytest.raises(ValueError, match=f"^{solver} adds noise on its way, and can't find a picture's noise on a schedule that rises"):
            rising = sigmas.flip(0)[1:]
            backbone.denoise(backbone.add_noise(fold(torch.zeros(2, 4, 8, 8), 2), rising, 0, 5)[0], rising, positive, None, 1.0, solver)


def test_each_step_has_noise_of_its_own_by_its_seed(backbone, positive):
    start, sigmas = noisy(backbone, 2)
    steps = [backbone.denoise(start, sigmas, positive, None, 1.0, "euler_ancestral")[0]["tokens"] for _ in range(2)]
    other, _ = noisy(backbone, 2, seed=6)
    elsewhere = {**start, "start": other["start"]}
    assert torch.equal(*steps) and not torch.equal(steps[0], backbone.denoise(elsewhere, sigmas, positive, None, 1.0, "euler_ancestral")[0]["tokens"])
    noise = StepNoise(start, sigmas, torch.device("cpu"))
    drawn = [noise.gaussian(i) for i in (0, 1, 2)]
    assert torch.equal(noise.gaussian(1), drawn[1]) and not any(torch.equal(a, b) for a, b in zip(drawn, drawn[1:]))


def test_tokens_changed_between_steps_begin_uni_pc_anew(backbone, positive):
    start, sigmas = noisy(backbone, 2)
    third, _ = backbone.denoise(start, sigmas, positive, None, 1.0, "uni_pc", 0, 3)
    changed = {**third, "tokens": third["tokens"] + 0.1}
    with_memory, without_it = (backbone.denoise(one, sigmas, positive, None, 1.0, "uni_pc", 3, 8)[0]["tokens"]
                               for one in (changed, {key: value for key, value in changed.items() if key != "memory"}))
    assert torch.equal(with_memory, without_it) and with_memory.isfinite().all()


def test_ddim_is_diffusers_ddim():
    from diffusers import DDIMScheduler
    reference = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, set_alpha_to_one=False,
                              timestep_spacing="leading", steps_offset=0)
    reference.set_timesteps(10)
    flow, generator = DDPM(), torch.Generator().manual_seed(3)
    z = torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64)
    weights = torch.randn(4, 4, generator=generator, dtype=torch.float64) / 2

    def model(z, t):
        return torch.einsum("bchw,cd->bdhw", z, weights).tanh()
    ours = z / flow.alphas_cumprod[reference.timesteps[0]].sqrt()
    for t in reference.timesteps[:-1]:
        z = reference.step(model(z, t), t, z).prev_sample
    sigmas = flow.sigmas[reference.timesteps]
    ours = walk("ddim", lambda x, sigma: predict_x0(flow, model, x, sigma.reshape(1)), ours, sigmas)
    torch.testing.assert_close(ours * flow.alphas_cumprod[reference.timesteps[-1]].sqrt(), z, atol=1e-6, rtol=1e-6)


def test_euler_is_diffusers_flow_match_euler():
    from diffusers import FlowMatchEulerDiscreteScheduler
    reference = FlowMatchEulerDiscreteScheduler(shift=3.0)
    reference.set_timesteps(6)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1, 4, 8, 8, generator=generator)
    ours, sigmas = x, reference.sigmas
    for t in reference.timesteps:
        x = reference.step(x.tanh(), t, x).prev_sample
    ours = walk("euler", lambda x, sigma: x - sigma * x.tanh(), ours, sigmas)
    torch.testing.assert_close(ours, x, atol=1e-5, rtol=1e-5)


# Four steps at shift 1 and shift 3, as ComfyUI 0.33 gives them.
COMFY = {
    "simple": ([1, .75, .5, .25, 0], [1, .9, .75, .5, 0]),
    "sgm_uniform": ([1, .75025, .5005, .25075, 0], [1, .90036, .75112, .50299, 0]),
    "karras": ([1, .19361, .02257, .001, 0], [1, .23274, .03683, .00299, 0]),
    "exponential": ([1, .1, .01, .001, 0], [1, .14413, .02077, .00299, 0]),
    "normal": ([1, .667, .334, .001, 0], [1, .85769, .60215, .00893, 0]),
}


@pytest.mark.parametrize("scheduler", COMFY)
def test_schedules_are_comfyui_s(scheduler):
    for shift, expected in zip((1.0, 3.0), COMFY[scheduler]):
        torch.testing.assert_close(schedule(RectifiedFlow(shift=shift), 4, scheduler), torch.tensor(expected, dtype=torch.float32),
                                   atol=1e-5, rtol=0)


@pytest.mark.parametrize("flow", [RectifiedFlow(shift=3.0), DDPM()], ids=["flow", "ddpm"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedules_fall_to_zero(flow, scheduler):
    for steps, part in ((1, 1.0), (20, 1.0), (10, 0.35)):
        sigmas = schedule(flow, steps, scheduler, part)
        assert len(sigmas) == steps + 1 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()


@pytest.mark.parametrize("flow", [RectifiedFlow(shift=3.0), DDPM()], ids=["flow", "ddpm"])
@pytest.mark.parametrize("solver", [name for name in needs_its_noise if name.values != ("ddim",)])
def test_more_steps_than_noise_levels_are_walked(backbone, positive, flow, solver):
    """Neighbours in such a schedule are equal, where a step is none."""
    backbone.flow = flow
    for sigmas in (schedule(flow, 30, "simple", 0.02), schedule(flow, 1001)):
        assert (sigmas.diff() == 0).any() and (sigmas.diff() <= 0).all()
    few = torch.tensor([0.9, 0.6, 0.6, 0.6, 0.3, 0.0])
    start = backbone.add_noise(fold(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), 2), few, 0, 1)[0]
    of = [backbone.denoise(start, sigmas, positive, None, 1.0, solver)[0]["tokens"] for sigmas in (few, torch.tensor([0.9, 0.6, 0.3, 0.0]))]
    if solver in NOISY:  # the noise of a step goes by its number
        assert all(one.isfinite().all() for one in of)
    else:  # a multistep solver begins anew after a step that is none
        torch.testing.assert_close(*of, atol={"dpmpp_2m": 2e-2, "res_multistep": 2e-2, "uni_pc": 0.1}.get(solver, 1e-6), rtol=1e-2)


def test_one_as_a_float_node_gives_it(backbone, positive):
    assert torch.equal(backbone.schedule(7, "normal", 1.0000000000000002), backbone.schedule(7, "normal"))
    assert torch.equal(backbone.schedule(7, "normal", 0.99995), backbone.schedule(7, "normal"))
    start, sigmas = noisy(backbone, 2)
    assert torch.equal(*(backbone.denoise(start, sigmas, positive, None, cfg)[0]["tokens"] for cfg in (1.0, 1.0000000000000002)))
    for wrong in (1.01, 0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="^denoise is above 0 and at most 1, not "):
            backbone.schedule(7, "simple", wrong)


@pytest.mark.parametrize("flow", [RectifiedFlow(shift=3.0), DDPM()], ids=["flow", "ddpm"])
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name not in ("ddim", *NOISY)])
def test_a_rising_schedule_finds_the_noise_of_a_picture(backbone, positive, flow, solver):
    backbone.flow = flow
    clean = fold(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), 2)
    falling = schedule(flow, 40, "karras")
    rising = falling.flip(0)
    rising[0] = falling[-2] / 2
    there, _ = backbone.denoise(clean, rising, positive, None, 1.0, solver)
    back, _ = backbone.denoise(there, falling, positive, None, 1.0, solver)
    away, left = ((one["tokens"] - clean["tokens"]).abs().mean() for one in (there, back))
    assert away > 0.2 and left < 0.2 * away  # each solver's own error, both ways
    chain = clean
    for step in range(40):
        chain, _ = backbone.denoise(chain, rising, positive, None, 1.0, solver, step, step + 1)
    assert torch.equal(chain["tokens"], there["tokens"])


def test_a_step_that_the_tokens_do_not_stand_at_is_refused(backbone, positive):
    start, sigmas = noisy(backbone, 2)
    third, x0 = backbone.denoise(start, sigmas, positive, None, 1.0, "dpmpp_2m", 0, 3)
    for step in (0, 2, 4):
        line = f"step {step} begins at noise level {sigmas[step]:.4g}, the tokens stand at 0.625: set step to 3"
        for wrong in (lambda: backbone.denoise(third, sigmas, positive, None, 1.0, "euler", step, step + 1),
                      lambda: backbone.begin(third, sigmas, step, positive),
                      lambda: backbone.advance(third, x0["tokens"], sigmas, step, "euler")):
            with pytest.raises(ScheduleError, match=line):
                wrong()
    with pytest.raises(ScheduleError, match="the tokens stand at 0.625: use the schedule that they were made with"):
        backbone.denoise(third, torch.linspace(1, 0, 4), positive, None, 1.0, "euler", 1, 2)
    backbone.denoise(third, torch.linspace(0.6251, 0, 4), positive, None, 1.0, "euler", 0, 1)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "res_multistep"])
def test_a_multistep_solver_uses_what_it_carries_only_if_it_is_of_an_earlier_step(solver):
    x, x0, before = torch.randn(3, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    at = At(lambda *_: x0, torch.tensor([0.75, 0.6, 0.0]), 0)
    fresh, *_ = step(solver, at, x, None)
    for level, counts in ((0.9, True), (0.75, False), (0.6, False)):
        moved, *_ = step(solver, at, x, Memory(before, torch.tensor(level)))
        assert moved.isfinite().all() and torch.equal(moved, fresh) != counts


def test_ddim_holds_what_is_masked_to_the_noise_of_the_next_seed(backbone, positive, monkeypatch):
    """As KSampler's ddim does; other solvers hold it to the picture's own noise."""
    backbone.flow, seen = DDPM(), {}
    clean = fold(torch.randn(2, 4, 8, 8), 2, noise_mask=torch.zeros(1, 8, 8))
    start, sigmas = backbone.add_noise(clean, backbone.schedule(4), 0, 5)[0], backbone.schedule(4)
    for solver in ("euler", "ddim"):
        monkeypatch.setattr(Backbone, "_x0", lambda self, tokens, *rest, solver=solver: seen.setdefault(solver, tokens))
        backbone.denoise(start, sigmas, positive, None, 1.0, solver, 0, 1)
    for solver, seed in (("euler", 5), ("ddim", 6)):
        torch.testing.assert_close(seen[solver], backbone.flow.add_noise(clean["tokens"], noise_like(clean, seed), sigmas[0]))


def test_a_ddpm_begins_at_its_highest_level_with_all_the_variance_it_knows(backbone):
    """KSampler's √(1 + σ²), so that what the model is shown has the noise's own variance; below it is σ."""
    backbone.flow, clean = DDPM(), fold(torch.zeros(1, 4, 8, 8), 2)
    sigmas = backbone.schedule(4)
    noisy, noise = backbone.add_noise(clean, sigmas, 0, 5)
    torch.testing.assert_close(backbone.flow.model_input(noisy["tokens"], sigmas[0]), noise["tokens"])
    noisy, noise = backbone.add_noise(clean, sigmas, 1, 5)
    torch.testing.assert_close(noisy["tokens"], noise["tokens"] * sigmas[1])


def test_denoise_below_one_is_the_tail_of_a_longer_schedule():
    torch.testing.assert_close(schedule(RectifiedFlow(), 4, "simple", 0.5), torch.tensor([.5, .375, .25, .125, 0]))


def noisy(backbone, patch_size, size=(9, 12), seed=5):
    sigmas = schedule(backbone.flow, 8)
    return backbone.add_noise(fold(torch.zeros(2, 4, *size), patch_size), sigmas, 0, seed)[0], sigmas


@pytest.mark.parametrize("solver", needs_its_noise)
@pytest.mark.parametrize("patch_size", [2, 4])
def test_a_chain_of_steps_equals_one_run(backbone, positive, negative, solver, patch_size):
    backbone.flow = DDPM() if solver == "ddim" else backbone.flow
    start, sigmas = noisy(backbone, patch_size)
    whole, last = backbone.denoise(start, sigmas, positive, negative, 3.0, solver)
    chain = start
    for i in range(8):
        chain, x0 = backbone.denoise(chain, sigmas, positive, negative, 3.0, solver, i, i + 1)
    assert torch.equal(chain["tokens"], whole["tokens"]) and torch.equal(x0["tokens"], last["tokens"])
    assert torch.isfinite(whole["tokens"]).all() and whole["tokens"].std() > 0.1


def test_the_same_seed_is_the_same_noise_at_every_patch_size():
    wires = [fold(torch.zeros(2, 4, 9, 12), p) for p in (1, 2, 4)]
    latents = [unfold({**wire, "tokens": noise_like(wire, 42)}) for wire in wires]
    expected = torch.randn(2, 4, 9, 12, generator=torch.Generator().manual_seed(42))
    assert all(torch.equal(latent, expected) for latent in latents)


def test_guidance_is_u_plus_cfg_times_the_difference(backbone, positive, negative):
    wire, sigmas = noisy(backbone, 2, size=(8, 8))
    x, sigma = wire["tokens"], sigmas[1]
    cond = backbone.denoiser(wire, positive)(x, sigma)
    uncond = backbone.denoiser(wire, negative)(x, sigma)
    guided = backbone.denoiser(wire, positive, negative, 2.5)(x, sigma)
    torch.testing.assert_close(guided, uncond + (cond - uncond) * 2.5, atol=1e-5, rtol=1e-5)
    assert (cond - uncond).abs().max() > 1e-3


def test_a_batch_is_its_samples(backbone, positive):
    wire, sigmas = noisy(backbone, 2)
    both = backbone.denoiser(wire, positive)(wire["tokens"], sigmas[2])
    for i in range(2):
        one = {**wire, "tokens": wire["tokens"][i:i + 1]}
        torch.testing.assert_close(backbone.denoiser(one, positive)(one["tokens"], sigmas[2]), both[i:i + 1], atol=1e-5, rtol=1e-5)


def test_report_is_called_after_every_step_and_can_stop(backbone, positive):
    start, sigmas = noisy(backbone, 4)
    heard = []
    backbone.denoise(start, sigmas, positive, report=lambda done, of, x0: heard.append((done, of, x0.shape)))
    assert heard == [(i + 1, 8, start["tokens"].shape) for i in range(8)]

    def stop(done, of, x0):
        heard.append(done)
        raise KeyboardInterrupt
    heard.clear()
    with pytest.raises(KeyboardInterrupt):
        backbone.denoise(start, sigmas, positive, report=stop)
    assert heard == [1]


@pytest.mark.parametrize("change,message", [
    (dict(start_step=8), "step 8 is outside the schedule, whose steps are 0 to 7"),
    (dict(start_step=-1), "step -1 is outside the schedule"),
    (dict(start_step=3, end_step=3), "end_step 3 is not after start_step 3"),
    (dict(sigmas=torch.tensor([])), "sigmas are a list of at least 2 noise levels, not \\[0\\]"),
    (dict(sigmas=None), "at least 2 noise levels, not None"),
    (dict(sigmas=torch.tensor([1.0, 0.5, 0.7, 0])), "sigmas fall from step to step, or rise .*; these do both: 1 … 0.5, 0.7 … 0$"),
    (dict(sigmas=torch.tensor([*torch.rand(1001).tolist(), 0])), "sigmas fall from step to step"),
    (dict(sigmas=torch.tensor([0.0, 0.5, 1.0])), "sigmas that rise, from a picture to its noise, begin above 0: core's Flip Sigmas makes"),
    (dict(sigmas=torch.tensor([1.0, -0.5])), "sigmas are 0 or more, one is -0.5$"),
    (dict(sigmas=torch.tensor([1.0, float("nan"), 0])), "NaN"),
    (dict(solver="magic"), "solver is one of euler, heun, dpmpp_2m, ddim, uni_pc, res_multistep, euler_ancestral, dpmpp_2m_sde, not 'magic'"),
])
def test_what_can_t_be_sampled_is_one_clear_line(backbone, positive, change, message):
    start, sigmas = noisy(backbone, 2)
    with pytest.raises(ValueError, match=message) as caught:
        backbone.denoise(start, **{"sigmas": sigmas, "positive": positive, **change})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_no_input_is_changed(backbone, positive, negative):
    start, sigmas = noisy(backbone, 2)
    before = start["tokens"].clone(), sigmas.clone(), positive[0][0].clone()
    backbone.denoise(start, sigmas, positive, negative, 4.0, "dpmpp_2m")
    assert all(torch.equal(a, b) for a, b in zip(before, (start["tokens"], sigmas, positive[0][0])))
    with pytest.raises(ScheduleError):
        backbone.add_noise(start, sigmas, 8, 0)
