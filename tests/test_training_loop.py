"""The training loop: what it draws, what it teaches and what it leaves alone, how it stops and goes on, and what it refuses."""

from contextlib import ExitStack, contextmanager
from dataclasses import replace
import math
import os
import resource
import signal
import subprocess
import sys
import time

from conftest import conditioning
import numpy as np
import pytest
import torch

from dit_blocks.dit_impl.errors import BackboneError, SetError, TrainingError
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.sources.adapters import save_adapter
from dit_blocks.dit_impl.sources.dit_file import save_dit
from dit_blocks.dit_impl.sources.new_dit import new_dit
from dit_blocks.dit_impl.training import losses, sets
from dit_blocks.dit_impl.training.adapter import Distilling
from dit_blocks.dit_impl.training.loop import Alone, Draws, Settings, train, validate
from dit_blocks.dit_impl.training.objectives import Denoising, in_scope, training_copy
from dit_blocks.dit_impl.training.sets import TrainingSet

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")
FLOWS = [RectifiedFlow("velocity"), RectifiedFlow("x0"), DDPM("epsilon"), DDPM("v")]


def data(count: int = 8, channels: int = 4, side: int = 8, seed: int = 0) -> TrainingSet:
    latents = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))
    return TrainingSet(latents, [conditioning(i) for i in range(count)], (), conditioning(99))


def taught(backbone, settings: Settings, state=None, resume=False, watch=lambda *_: None, scope="everything", set_=None, every=4, runner=Alone()):
    objective = Denoising(training_copy(backbone), scope)
    log = train(objective, set_ or data(), settings, state, resume, watch, every, runner)
    return objective, log


def weights(objective) -> dict:
    return {name: p.detach().clone() for name, p in objective.module.named_parameters()}


SHORT = Settings(steps=8, batch=4, learning_rate=1e-3, warmup=2)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: f"{type(flow).__name__} {flow.prediction}")
def test_a_model_that_answers_its_target_has_no_loss_and_gives_back_the_data(flow):
    clean, noise = torch.randn(2, 3, 5, 8)
    sigma = losses.draw_sigmas(flow, 3, torch.Generator().manual_seed(0))
    target = losses.own_target(flow, clean, noise, sigma)
    assert losses.squared_error(flow, target, clean, noise, sigma).abs().max() == 0
    assert torch.allclose(flow.to_x0(target, flow.add_noise(clean, noise, sigma), sigma), clean, atol=1e-4 * sigma.max())


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: f"{type(flow).__name__} {flow.prediction}")
def test_an_error_in_x0_is_the_error_of_the_prediction_brought_to_x0(flow):
    clean, noise, prediction = torch.randn(3, 2, 5, 8, dtype=torch.float64)
    sigma = torch.tensor([0.3, 0.8], dtype=torch.float64)
    x0 = flow.to_x0(prediction, flow.add_noise(clean, noise, sigma), sigma)
    assert torch.allclose(losses.squared_error(flow, prediction, clean, noise, sigma, "x0").double(), (x0 - clean).square(), rtol=1e-4)


def test_targets_of_another_flow_are_refused():
    for flow, target in ((RectifiedFlow(), "v"), (DDPM(), "velocity")):
        with pytest.raises(ValueError, match=f"^target of .* is one of .*, not '{target}'$"):
            losses.squared_error(flow, *torch.randn(3, 1, 2, 4), torch.tensor([0.5]), target)
    with pytest.raises(ValueError, match="weighting 'cosmap' is for rectified flows"):
        losses.squared_error(DDPM(), *torch.randn(3, 1, 2, 4), torch.tensor([0.5]), weighting="cosmap")


@pytest.mark.parametrize("weighting, factor", [("sigma_sqrt", 4.0), ("cosmap", 2 / math.pi / 0.5)])
def test_weightings_are_sd3_s(weighting, factor):
    clean, noise, prediction = torch.randn(3, 1, 2, 4)
    plain, weighted = (losses.squared_error(RectifiedFlow(), prediction, clean, noise, torch.tensor([0.5]), weighting=w) for w in ("none", weighting))
    assert torch.allclose(weighted, plain * factor)


@pytest.mark.parametrize("scope", ["everything", "patch embed and head"])
def test_gradients_reach_the_parameters_of_the_scope_and_no_others(backbone, scope):
    objective = Denoising(training_copy(backbone), scope)
    before = weights(objective)
    batches = Draws(data(), objective, SHORT, Alone())
    for step in range(6):
        objective.loss(batches.at(step)).backward()
    reached = {name for name, p in objective.module.named_parameters() if p.grad is not None and p.grad.any()}
    nobody_reads = {"joint_blocks.1.context_block.attn.norm.q.weight"}  # of the last block's text, whose answers are dropped
    assert reached | (nobody_reads & set(objective.trained)) == set(objective.trained)
    if scope != "everything":
        assert objective.trained and all(name.startswith(("x_embedder.", "final_layer.")) for name in objective.trained)
    train(objective, data(), SHORT)
    after = weights(objective)
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(objective.trained)


def test_training_leaves_the_model_that_came_in_alone(backbone):
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    set_ = data()
    latents = set_.latents.clone()
    with torch.inference_mode():
        objective, log = taught(backbone, SHORT, set_=set_)
    assert len(log.losses) == 8 and all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert torch.equal(set_.latents, latents) and not any(p.requires_grad for p in backbone.model.parameters())
    assert not any(p.is_inference() for p in objective.module.parameters())


def test_one_batch_of_eight_is_learnt_by_heart(backbone):
    fresh = new_dit(64, 3, 4, (2,), 4, widths=(32, 16), prediction="x0", picture_size=64)
    objective = Denoising(training_copy(fresh))
    draws = Draws(data(), objective, replace(SHORT, batch=8), Alone())
    batch = draws.at(0)
    first = objective.loss(batch).item()
    optimizer = torch.optim.AdamW(objective.trained.values(), 3e-3)
    for step in range(400):
        optimizer.zero_grad()
        loss = objective.loss(batch)
        loss.backward()
        optimizer.step()
        if loss.item() < 0.05 * first:
            break
    assert loss.item() < 0.05 * first


@pytest.mark.parametrize("ema, optimizer", [(0.0, "adamw"), (0.9, "adamw"), (0.9, "muon")])
def test_a_resumed_run_equals_an_unbroken_one(backbone, tmp_path, ema, optimizer):
    settings = replace(SHORT, ema=ema, validation=2, accumulate=2, optimizer=optimizer)
    whole, log = taught(backbone, settings, tmp_path / "whole.pt")

    class Stop(BaseException):
        pass

    def stop(done, _):
        if done == 5:
            raise Stop
    with pytest.raises(Stop):
        taught(backbone, settings, tmp_path / "half.pt", watch=stop)
    again, second = taught(backbone, settings, tmp_path / "half.pt", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(again).values()))
    assert log.losses == second.losses and log.validation == second.validation and len(log.validation) == 3


def test_an_epoch_shows_every_picture_once_and_the_held_out_ones_never(backbone):
    objective = Denoising(training_copy(backbone))
    set_ = TrainingSet(torch.arange(10.0).view(10, 1, 1, 1).expand(10, 4, 8, 8).clone() + 1, [conditioning(i) for i in range(10)])
    draws = Draws(set_, objective, replace(SHORT, batch=2, validation=2), Alone())
    seen = [int(value) for step in range(4) for value in draws.at(step).clean[:, 0, 0, 0]]
    assert sorted(seen) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [int(value) for batch in draws.held_out() for value in batch.clean[:, 0, 0, 0]] == [9, 10]


def test_processes_share_a_batch_out_and_lose_nothing(backbone):
    class Of(Alone):
        def __init__(self, rank):
            self.rank, self.processes = rank, 2
    objective, set_ = Denoising(training_copy(backbone)), data()
    whole, *halves = (Draws(set_, objective, SHORT, runner).at(3) for runner in (Alone(), Of(0), Of(1)))
    for name in ("clean", "noise", "sigma"):
        assert torch.equal(torch.stack([getattr(half, name) for half in halves], 1).flatten(0, 1), getattr(whole, name))
    shares = replace(SHORT, batch=2, validation=3)  # whose last batch has one picture, and nothing for the second process
    whole, *halves = (validate(objective, Draws(set_, objective, shares, runner), runner) for runner in (Alone(), Of(0), Of(1)))
    assert sum(halves) / 2 == pytest.approx(whole, rel=1e-6)
    with pytest.raises(TrainingError, match="batch 3 is not a multiple of 2 processes"):
        Draws(set_, objective, replace(SHORT, batch=3), Of(0))


def test_accumulation_is_one_step_by_the_mean_of_its_batches(backbone):
    settings = replace(SHORT, steps=1, accumulate=3, warmup=0, scheduler="constant", clip=1e9)
    accumulated, log = taught(backbone, settings)
    objective = Denoising(training_copy(backbone))
    draws = Draws(data(), objective, settings, Alone())
    loss = sum(objective.loss(draws.at(0, part)) for part in range(3)) / 3
    loss.backward()
    torch.optim.AdamW(objective.trained.values(), 1e-3, betas=(0.9, 0.99), weight_decay=0.01).step()
    assert log.losses == pytest.approx([loss.item()], rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights(accumulated).values(), weights(objective).values()))


def test_checkpointing_changes_the_memory_not_the_gradient(backbone):
    batch = Draws(data(), Denoising(training_copy(backbone)), SHORT, Alone()).at(0)
    grads = []
    for checkpointing in (False, True):
        objective = Denoising(training_copy(backbone), checkpointing=checkpointing)
        objective.loss(batch).backward()
        grads.append([p.grad for p in objective.trained.values()])
    assert all((a is b is None) or torch.allclose(a, b, atol=1e-7) for a, b in zip(*grads))


@pytest.mark.parametrize("every", [1, 1000])
def test_a_learning_rate_that_breaks_the_loss_stops_and_keeps_the_last_good_state(backbone, tmp_path, every):
    state = tmp_path / "state.pt"
    with pytest.raises(TrainingError, match=r"the loss of step 2 is .*learning_rate 1e\+30 is too high; the last good state, of step 0, is in"):
        taught(backbone, Settings(steps=50, batch=4, learning_rate=1e30, warmup=0, scheduler="constant"), state, every=every)
    kept = torch.load(state, weights_only=True)["parameters"]
    assert all(torch.equal(kept[name], p) for name, p in backbone.model.named_parameters())


def test_a_last_step_that_breaks_the_weights_is_told_and_not_kept(backbone, tmp_path):
    state = tmp_path / "state.pt"
    with pytest.raises(TrainingError, match="step 1 made weights that are not finite: learning_rate 3e[+]37 is .*; the last good state, of step 0"):
        taught(backbone, Settings(steps=1, batch=4, learning_rate=3e37, warmup=0, scheduler="constant"), state)
    assert torch.load(state, weights_only=True)["step"] == 0


@contextmanager
def files_of_at_most(size: int):
    """No file can be written past `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_from_the_start_is_told_before_anything_is_learnt(backbone, tmp_path):
    told = []
    with files_of_at_most(20_000), pytest.raises(TrainingError, match=r"^.*state.pt can't be written: File too large$"):
        taught(backbone, SHORT, tmp_path / "state.pt", watch=lambda *_: told.append(1))
    assert not told and not list(tmp_path.iterdir())


def test_a_disk_that_gets_full_loses_nothing(backbone, tmp_path, caplog):
    state, whole = tmp_path / "state.pt", taught(backbone, SHORT)[0]
    with ExitStack() as stack:
        def fill(done, _):
            if done == 6:
                stack.enter_context(files_of_at_most(20_000))
        objective, log = taught(backbone, SHORT, state, watch=fill)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(objective).values()))
    assert log.unsaved == f"{state} can't be written: File too large; the state there is of step 4" and log.unsaved in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    again, log = taught(backbone, SHORT, state, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(again).values())) and not log.unsaved


def test_a_full_disk_is_one_line_for_models_and_adapters_and_no_loss_for_a_set(backbone, tmp_path, caplog):
    adapter = Distilling(backbone, 3, 4).adapter()
    for save in (lambda path: save_dit(backbone, path), lambda path: save_adapter(adapter, path)):
        with files_of_at_most(20_000), pytest.raises(OSError, match=r"^.*x.safetensors can't be written: .*File too large.*$") as caught:
            save(tmp_path / "x.safetensors")
        assert "\n" not in str(caught.value)
    pictures = torch.rand(300, 32, 32, 3)
    with files_of_at_most(10_000):
        kept = sets.from_pictures([pictures], _VAE(), cache=tmp_path)
    assert "the latents stay in memory: " in caplog.text and not list(tmp_path.iterdir())
    assert torch.equal(kept.latents, sets.from_pictures([pictures], _VAE(), cache=tmp_path).latents) and list(tmp_path.iterdir())


def test_a_cancel_with_a_full_disk_says_which_state_is_there(backbone, tmp_path, caplog):
    def stop(done, _):
        if done == 6:
            raise KeyboardInterrupt
    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt), ExitStack() as stack:
        taught(backbone, SHORT, state, watch=lambda done, _: done == 6 and stack.enter_context(files_of_at_most(20_000)) or stop(done, _))
    assert f"training stopped at step 6 of 8; its state of step 4 is in {state}" in caplog.text
    assert torch.load(state, weights_only=True)["step"] == 4


def test_what_can_not_be_trained_is_refused_in_one_line(backbone, tmp_path):
    for settings, message in (
            (replace(SHORT, learning_rate=0.0), "learning_rate is above 0, not 0.0"),
            (replace(SHORT, steps=0), "steps is at least 1, not 0"),
            (replace(SHORT, scheduler="step"), "scheduler is one of"),
            (replace(SHORT, ema=1.0), "ema is from 0 to below 1, not 1.0"),
            (replace(SHORT, validation=-1), "validation is at least 0, not -1"),
            (replace(SHORT, clip=0.0), "clip is above 0, not 0.0"),
            (replace(SHORT, validation=8), "the set has 8 pictures, validation holds out 8: none is left")):
        with pytest.raises(TrainingError, match=message):
            taught(backbone, settings)
    with pytest.raises(TrainingError, match="there is nothing to resume"):
        taught(backbone, SHORT, tmp_path / "none.pt", resume=True)
    taught(backbone, SHORT, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match="learning_rate was 0.001, not 0.01"):
        taught(backbone, replace(SHORT, learning_rate=0.01), tmp_path / "state.pt", resume=True)
    with pytest.raises(TrainingError, match="scope was everything, not patch embed and head"):
        taught(backbone, SHORT, tmp_path / "state.pt", resume=True, scope="patch embed and head")
    torch.save({"step": 3}, tmp_path / "other.pt")
    with pytest.raises(TrainingError, match="is no state of a training: 'log' is missing"):
        taught(backbone, SHORT, tmp_path / "other.pt", resume=True)
    (tmp_path / "broken.pt").write_bytes(b"no state")
    with pytest.raises(TrainingError, match="is no state of a training"):
        taught(backbone, SHORT, tmp_path / "broken.pt", resume=True)
    with pytest.raises(TrainingError, match="scope is one of"):
        in_scope(backbone.model, "nothing")
    with pytest.raises(BackboneError, match="the training set has no captions, and a small DiT reads text"):
        taught(backbone, SHORT, set_=replace(data(), conditionings=None))


def test_a_training_that_can_not_begin_leaves_an_earlier_one_s_state(backbone, tmp_path, caplog):
    state = tmp_path / "state.pt"
    taught(backbone, SHORT, state)
    before = state.read_bytes()
    for set_, message in ((replace(data(), conditionings=None), "has no captions"), (data(channels=3), "latents of 3 channels, the model reads 4"),
                          (data(side=3), "the shorter side of the set's latents is 3 cells, less than a patch of 4")):
        with pytest.raises(ValueError, match=message):
            taught(backbone, SHORT, state, set_=set_)
        assert state.read_bytes() == before
    taught(backbone, replace(SHORT, seed=1), state)
    assert (tmp_path / "state.earlier.pt").read_bytes() == before and "an earlier training of this name" in caplog.text


def test_a_class_model_learns_without_its_class_now_and_then():
    from dit_blocks.dit_impl.model.conditioning import label_conditioning
    dit = new_dit(32, 1, 2, (2,), 4, conditioning="class", classes=3, picture_size=64)
    objective = Denoising(training_copy(dit))
    set_ = TrainingSet(torch.randn(8, 4, 8, 8), [label_conditioning(1)] * 8)
    labels = [c[0][1]["class_label"] for step in range(20) for c in Draws(set_, objective, replace(SHORT, drop=0.5), Alone()).at(step).conditionings]
    assert set(labels) == {1, 3} and 20 < labels.count(3) < 60


class _VAE:
    def encode(self, pixels):
        return pixels.movedim(-1, 1)[..., ::8, ::8].repeat(1, 2, 1, 1)[:, :4]


class _Clip:
    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        return conditioning(len(text))


def test_sets_are_encoded_once_and_refuse_what_does_not_fit(tmp_path):
    pictures = [torch.rand(2, 64, 64, 3), torch.rand(1, 64, 64, 3)]
    plain = sets.from_pictures(pictures, _VAE(), ["a", "b", "c"], _Clip())
    kept = sets.from_pictures(pictures, _VAE(), ["one for all"], _Clip(), tmp_path)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = sets.from_pictures(pictures, _VAE(), None, None, tmp_path)
    assert torch.equal(plain.latents, kept.latents) and torch.equal(again.latents, kept.latents) and file.stat().st_mtime_ns == written
    assert len(plain.conditionings) == 3 and again.conditionings is None and plain.captions == ("a", "b", "c")
    for arguments, message in (
            (([], _VAE()), "the set is empty"),
            ((pictures, _VAE(), ["a", "b"], _Clip()), "there are 2 captions for 3 pictures"),
            ((pictures, _VAE(), None, _Clip()), "captions are missing"),
            ((pictures, _VAE(), ["a"]), "captions need a clip")):
        with pytest.raises(SetError, match=message):
            sets.from_pictures(*arguments)
    with pytest.raises(SetError, match="there are 1 conditionings for 2 latents"):
        sets.from_latents([{"samples": torch.zeros(2, 4, 8, 8)}], [conditioning(0)])
    with pytest.raises(SetError, match="latent 1 holds values that are NaN"):
        sets.from_latents([{"samples": torch.stack([torch.zeros(4, 8, 8), torch.full((4, 8, 8), np.nan)])}], None)


SAVER = """
import sys, torch
from pathlib import Path
from dit_blocks.dit_impl.sources.atomic import replace_atomically
big = {"parameters": torch.zeros(60_000_000)}
print("saving", flush=True)
while True:
    replace_atomically(Path(sys.argv[1]), lambda aside: torch.save(big, aside))
"""


def test_a_kill_while_saving_leaves_the_old_file_whole(tmp_path):
    state = tmp_path / "state.pt"
    torch.save({"parameters": torch.zeros(60_000_000)}, state)
    saver = subprocess.Popen([sys.executable, "-c", SAVER, str(state)], stdout=subprocess.PIPE)
    saver.stdout.readline()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".state.pt.*.part")) and time.monotonic() < deadline:
        os.sched_yield()
    saver.send_signal(signal.SIGKILL)
    saver.wait()
    assert list(tmp_path.glob(".state.pt.*.part"))  # it was saving
    assert torch.load(state, weights_only=True)["parameters"].shape == (60_000_000,)
