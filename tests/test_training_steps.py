"""A training step by step: learning rates, what the runner is asked and when, what is written when, how it stops; and what a state is."""

from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
import errno
import itertools
import logging
import math
from types import SimpleNamespace

from conftest import conditioning
from numbers_and_errors import line
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dit_blocks.dit_impl.errors import TrainingError
from dit_blocks.dit_impl.training import loop
from dit_blocks.dit_impl.training import state as states
from dit_blocks.dit_impl.training.loop import Alone, Draws, Settings, train, validate
from dit_blocks.dit_impl.training.objectives import Denoising, training_copy
from dit_blocks.dit_impl.training.sets import TrainingSet
from dit_blocks.dit_impl.training.state import Log, State, held

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")
SETTINGS = Settings(steps=5, batch=2, learning_rate=1e-3, scheduler="constant", warmup=0)


def data(count: int = 6) -> TrainingSet:
    return TrainingSet(torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0)), [conditioning(i) for i in range(count)])


class Line:
    """A model of two numbers, whose losses are given: the gradient is the same at every step."""
    patch_sizes, device, nothing, account = (2,), torch.device("cpu"), None, {"scope": "all"}
    latent_format = {"scale": torch.ones(4), "shift": torch.zeros(4), "std": torch.ones(4)}

    def __init__(self, losses=itertools.repeat(1.0)):
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        self.module, self.trained, self.given = torch.nn.ParameterList([self.weight]), {"weight": self.weight}, iter(losses)

    def sigmas(self, count, generator):
        return torch.rand(count, generator=generator)

    def loss(self, batch):
        given = next(self.given)
        if isinstance(given, BaseException):
            raise given
        return given + (self.weight - self.weight.detach()).sum()


# --- learning rates -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("scheduler,share", [
    ("constant", lambda i: 1), ("constant_with_warmup", lambda i: min(1, i / 2)), ("linear", lambda i: i / 2 if i < 2 else (8 - i) / 6),
    ("cosine", lambda i: i / 2 if i < 2 else (1 + math.cos(math.pi * (i - 2) / 6)) / 2)])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_learning_rates_follow_the_schedule(backbone, scheduler, share, optimizer):
    rates = {}
    hook = register_optimizer_step_pre_hook(lambda one, *_: rates.setdefault(type(one).__name__, []).append(one.param_groups[0]["lr"]))
    settings = replace(SETTINGS, steps=8, warmup=2, scheduler=scheduler, optimizer=optimizer, weight_decay=0.5)
    decays = []
    decay = register_optimizer_step_pre_hook(lambda one, *_: decays.append(one.param_groups[0]["weight_decay"]))
    try:
        train(Denoising(training_copy(backbone)) if optimizer == "muon" else Line(), data(), settings)
    finally:
        hook.remove(), decay.remove()
    assert sorted(rates) == (["AdamW", "Muon"] if optimizer == "muon" else ["AdamW"]) and set(decays) == {0.5}
    for one in rates.values():
        assert one == pytest.approx([1e-3 * share(i) for i in range(8)])


# --- what the runner is asked ---------------------------------------------------------------------------------------

class Recording(Alone):
    def __init__(self):
        self.heard = []

    def prepare(self, objective, optimizers):
        self.heard.append(("prepare", len(optimizers)))
        return optimizers

    def gathering(self, objective, last):
        self.heard.append(("gathering", last))
        return nullcontext()

    def backward(self, loss):
        self.heard.append(("backward", loss.item()))
        loss.backward()

    def clip(self, parameters, most):
        self.heard.append(("clip", [tuple(p.shape) for p in parameters], most))
        return torch.tensor(7.0)

    def mean(self, value):
        self.heard.append(("mean", value.item()))
        return value * 3


def test_the_runner_is_asked_once_a_step_and_told_of_each_batch():
    runner, objective = Recording(), Line([1.0, 3.0, 6.0, 8.0])
    log = train(objective, data(), replace(SETTINGS, steps=2, accumulate=2, clip=0.5), runner=runner)
    step = lambda first, second: [("gathering", False), ("backward", first), ("gathering", True), ("backward", second),  # noqa: E731
                                  ("clip", [(2,)], 0.5), ("mean", first + second)]
    assert objective.trained["weight"] is objective.weight
    assert runner.heard == [("prepare", 1), *step(0.5, 1.5), *step(3.0, 4.0)]
    assert log.losses == [6.0, 21.0] and log.gradients == [7.0, 7.0] and log.validation == []


def test_weights_that_were_split_are_whole_again_at_the_end():
    class Split(Alone):
        sharded = True

        def whole(self, values):
            return {name: value * 10 for name, value in values.items()} if isinstance(values, dict) else values
    objective = Line()
    train(objective, data(), SETTINGS, runner=Split())
    assert objective.trained.keys() == {"weight"} and torch.equal(objective.trained["weight"], objective.weight.detach() * 10)
    assert not objective.trained["weight"].requires_grad


def test_the_loss_is_computed_in_the_precision_that_is_asked_for(backbone):
    losses = {}
    for precision in ("float32", "bfloat16"):
        settings = replace(SETTINGS, steps=1, precision=precision)
        losses[precision] = train(Denoising(training_copy(backbone)), data(), settings).losses[0]
        objective = Denoising(training_copy(backbone))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            assert losses[precision] == objective.loss(Draws(data(), objective, settings, Alone()).at(0)).item()
    assert losses["float32"] != losses["bfloat16"]


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    class Second(Alone):
        rank, processes = 1, 2
    log = train(Line(), data(), SETTINGS, tmp_path / "state.pt", runner=Second())
    assert len(log.losses) == 5 and not list(tmp_path.iterdir())


def test_validation_without_pictures_is_no_number():
    draws = Draws(data(), Line(), SETTINGS, Alone())
    assert math.isnan(validate(draws.objective, draws, Alone()))


# --- what is written, and when --------------------------------------------------------------------------------------

def test_a_state_is_written_every_so_many_steps_and_at_the_end(tmp_path):
    path, seen = tmp_path / "state.pt", []

    def watch(done, log):
        assert (tmp_path / ".state.pt.lock").exists()
        seen.append((done, torch.load(path, weights_only=True)["step"], len(log.losses)))
    log = train(Line(), data(), replace(SETTINGS, validation=2), path, watch=watch, every=2)
    assert seen == [(1, 0, 1), (2, 0, 2), (3, 2, 3), (4, 2, 4), (5, 4, 5)] and torch.load(path, weights_only=True)["step"] == 5
    assert log.validation == [(0, 1.0), (2, 1.0), (4, 1.0), (5, 1.0)]
    seen.clear()
    log = train(Line(), data(), replace(SETTINGS, validation=2, steps=8), path, resume=True, watch=watch, every=2)
    assert seen == [(6, 5, 6), (7, 6, 7), (8, 6, 8)] and [step for step, _ in log.validation] == [0, 2, 4, 5, 6, 8]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.pt"]
    once = train(Line(), data(), replace(SETTINGS, steps=8), path, watch=watch)
    assert seen[3:] == [(done, 0, done) for done in range(1, 9)] and once.seconds > 0  # by default every 50 steps


def test_the_names_in_a_state_s_file(backbone, tmp_path):
    both = replace(SETTINGS, optimizer="muon", ema=0.9)
    for settings, names in ((SETTINGS, {"optimizer", "schedule"}), (both, {"optimizer", "optimizer2", "schedule", "schedule2", "average"})):
        train(Denoising(training_copy(backbone)), data(), replace(settings, steps=1), tmp_path / "state.pt")
        kept = torch.load(tmp_path / "state.pt", weights_only=True)
        assert kept.keys() == names | {"step", "settings", "log", "parameters"}


def test_seconds_go_on_where_they_stopped(tmp_path, monkeypatch):
    clock = itertools.count(100.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    seen = []
    train(Line(), data(), replace(SETTINGS, steps=3), tmp_path / "state.pt", watch=lambda _, log: seen.append(log.seconds))
    train(Line(), data(), SETTINGS, tmp_path / "state.pt", resume=True, watch=lambda _, log: seen.append(log.seconds))
    assert seen == [1, 2, 3, 4, 5]


def test_a_resumed_run_has_the_weights_moments_and_rate_of_an_unbroken_one(tmp_path):
    settings, weights = replace(SETTINGS, steps=8, scheduler="cosine", warmup=2, ema=0.9), []
    for name, parts in (("whole", (8,)), ("halves", (3, 8))):
        for number, steps in enumerate(parts):
            objective = Line(range(100) if not number else itertools.count(3))
            with suppress(StopTraining):
                train(objective, data(), settings, tmp_path / name, resume=bool(number), watch=stop_at(steps))
        weights.append(objective.weight.detach())
    assert torch.equal(*weights)


class StopTraining(BaseException):
    pass


def stop_at(step: int):
    def watch(done, _):
        if done == step < 8:
            raise StopTraining
    return watch


# --- how it stops ---------------------------------------------------------------------------------------------------

def test_one_that_is_stopped_says_where_it_goes_on(tmp_path, caplog):
    path, objective = tmp_path / "state.pt", Line([1.0, 2.0, KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        train(objective, data(), SETTINGS, path)
    assert [record.getMessage() for record in caplog.records] == [
        f"training stopped at step 2 of 5; its state of step 2 is in {path}, and resume continues from there"]
    kept = torch.load(path, weights_only=True)
    assert kept["step"] == 2 and torch.equal(kept["parameters"]["weight"], objective.weight) and objective.weight.grad is None
    caplog.clear()
    # before a step of its own there is nothing to write or to tell
    for given in (dict(state=path, resume=True), dict(state=tmp_path / "other.pt"), {}):
        objective = Line([KeyboardInterrupt()])
        with pytest.raises(KeyboardInterrupt):
            train(objective, data(), SETTINGS, **given)
        assert objective.weight.grad is None
    with pytest.raises(KeyboardInterrupt):
        train(Line([1.0, KeyboardInterrupt()]), data(), SETTINGS)  # without a state
    assert not caplog.records and [file.name for file in tmp_path.iterdir()] == ["state.pt"]


class SteepAtTheThird(Line):
    """Its loss is finite, its gradient is not."""

    def loss(self, batch):
        given = super().loss(batch)
        return given + (self.weight - self.weight.detach()).clamp_min(0).sqrt().sum() if given >= 3 else given


@pytest.mark.parametrize("kind,losses,says", [
    (Line, [1.0, 2.0, math.nan], "the loss of step 3 is nan, its gradient's norm 1.41"),
    (Line, [1.0, 2.0, math.inf], "the loss of step 3 is inf, its gradient's norm 1.41"),
    (SteepAtTheThird, [1.0, 2.0, 3.0], "the loss of step 3 is 3.0, its gradient's norm inf")])
def test_what_is_not_finite_goes_back_to_the_last_good_state(tmp_path, kind, losses, says):
    path, objective, seen = tmp_path / "state.pt", kind(losses), []
    watch = lambda *_: seen.append(objective.weight.detach().clone())  # noqa: E731
    told = line(TrainingError, train, objective, data(), SETTINGS, path, watch=watch, every=1)
    assert told.startswith(says) and told.endswith(f": learning_rate 0.001 is too high; the last good state, of step 1, is in {path}")
    assert torch.equal(objective.weight, seen[0]) and torch.load(path, weights_only=True)["step"] == 1
    assert line(TrainingError, train, kind(losses), data(), SETTINGS).endswith(": learning_rate 0.001 is too high")


# --- states ---------------------------------------------------------------------------------------------------------

def kept(step, count, weight=1.0, loss=0.5) -> dict:
    return {"step": step, "log": {"losses": [loss] * count}, "parameters": {"a": [torch.ones(2), (torch.full((2,), weight),)]}}


def test_a_state_is_as_far_as_its_log():
    for step, count in ((0, 0), (3, 3), (4, 3)):
        states.check_whole(kept(step, count))
    for step, count, shown in ((5, 3, "5"), (2, 3, "2"), (3.0, 3, "3.0"), (True, 1, "True")):
        assert line(ValueError, states.check_whole, kept(step, count)) == f"its step is {shown}, its log is of {count} steps"
    for one in (kept(3, 3, weight=math.nan), kept(3, 3, weight=math.inf), kept(3, 3, loss=math.nan)):
        assert line(ValueError, states.check_whole, one) == "it holds parameters or losses that are NaN or infinite"
    with pytest.raises((ValueError, TypeError)):
        states.check_whole({**kept(1, 1), "log": {"losses": "x"}})


def test_moments_are_of_the_parameters_they_stand_at():
    parameters = [torch.zeros(2, 3), torch.zeros(1)]
    fits = {0: {"step": torch.tensor(3.0), "m": torch.zeros(2, 3)}, 1: {"m": torch.zeros(1)}}
    states.check_moments(fits, parameters)
    for wrong, shown in (({0: {"m": torch.zeros(3, 2)}}, "0"), ({2: {}}, "2"), ({-1: {}}, "-1"), ({"0": {}}, "'0'"), ({True: {}}, "True"),
                         (fits | {1: {"m": torch.zeros(2)}}, "1")):
        assert line(ValueError, states.check_moments, wrong, parameters) == \
            f"moments of parameter {shown}, of another shape or of none there is"


def test_a_state_is_held_by_a_lock_beside_it(tmp_path, monkeypatch, caplog):
    path, lock = tmp_path / "new" / "state.pt", tmp_path / "new" / ".state.pt.lock"
    taken = f"another training is writing {path}: wait until it has ended, or choose another name"

    def hold(at=path):
        with held(at):
            assert at is not path or lock.exists()
    with held(path):
        assert lock.exists() and line(TrainingError, hold) == taken
    assert not lock.exists() and hold() is None
    with pytest.raises(KeyError), held(path):
        raise KeyError
    assert not lock.exists()
    (tmp_path / "file").write_text("")
    assert line(TrainingError, hold, tmp_path / "file" / "state.pt") == f"{tmp_path / 'file' / 'state.pt'} can't be written: File exists"
    own, error = states.fcntl.flock, None

    def flock(file, how):
        if error is None:
            lock.unlink()  # by the training that has just ended
        else:
            raise OSError(error, "")
        own(file, how)
    monkeypatch.setattr(states.fcntl, "flock", flock)
    assert line(TrainingError, hold) == taken
    for error in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
        assert line(TrainingError, hold) == taken
    assert not caplog.records
    error = errno.ENOLCK
    with caplog.at_level(logging.WARNING):
        hold()
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: this disk knows no locks, so that another training of the same name is not noticed"]


class Doubling(Alone):
    """Its parts of a tensor are the whole tensor, twice as large."""

    def placed(self, value, parameter):
        return value * 2


def state_of(path, objective=None, runner=Alone(), settings=SETTINGS, **parts) -> State:
    return State(path, objective or Line(), parts, settings, runner)


def test_tensors_of_a_state_are_placed_as_their_parameters(tmp_path):
    state = state_of(tmp_path / "x", runner=Doubling())
    step = torch.tensor(3.0)
    moments = {"state": {0: {"step": step, "m": torch.ones(2), "kind": "x"}}, "param_groups": [1]}
    placed = state._placed(moments)
    assert placed["param_groups"] == [1] and placed["state"][0]["step"] is step and placed["state"][0]["kind"] == "x"
    assert placed["state"][0]["m"].tolist() == [2, 2] and moments["state"][0]["m"].tolist() == [1, 1]
    average = state._placed({"decay": 0.9, "shadow_params": [torch.ones(2)]})
    assert average["decay"] == 0.9 and average["shadow_params"][0].tolist() == [2, 2] and state._placed({"last": 3}) == {"last": 3}


def test_what_a_state_holds_and_puts_back(tmp_path):
    path, objective = tmp_path / "state.pt", Line()
    optimizer = torch.optim.AdamW([objective.weight])
    log = Log([1.0, 2.0], [3.0, 4.0], [(0, 5.0)], 6.0, "earlier trouble")
    written = state_of(path, objective, optimizer=optimizer)
    assert written.account == asdict(SETTINGS) | {"scope": "all"} and written.defaults == asdict(Settings()) and written.step is None
    written.keep(2, log)
    assert written.step == 2 and log.unsaved == ""
    kept = torch.load(path, weights_only=True)
    assert kept["settings"] == written.account and kept["log"] == asdict(log)
    assert kept.keys() == {"step", "settings", "log", "parameters", "optimizer"}
    other = Line()
    other.weight.data.zero_()
    read = state_of(path, other, Doubling(), optimizer=torch.optim.AdamW([other.weight]))
    step, told = read.restore()
    assert (step, told, read.step) == (2, log, 2) and type(told.validation[0]) is tuple and other.weight.tolist() == [2, 4]
    assert state_of(None).keep(1, log) is None and state_of(None).begin(1, log) is None
    assert str(state_of(path).back("it broke")) == "it broke"
    assert str(written.back("it broke")) == f"it broke; the last good state, of step 2, is in {path}"


def test_states_that_are_another_s_say_what_differs(tmp_path):
    path, objective = tmp_path / "state.pt", Line()
    state_of(path, objective, optimizer=torch.optim.AdamW([objective.weight])).keep(0, Log())
    say = lambda state: line(TrainingError, state.restore)  # noqa: E731
    assert say(state_of(path, settings=replace(SETTINGS, seed=3))) == "resume goes on with the settings it began with: seed was 0, not 3"
    for free in (dict(steps=9), dict(precision="bfloat16"), dict(checkpointing=True)):
        state_of(path, settings=replace(SETTINGS, **free)).restore()
    larger = Line()
    larger.trained = {"weight": torch.zeros(3)}
    assert say(state_of(path, larger)) == f"{path} is of another model or scope: its 1 parameters are not the 1 trained here"
    more = Line()
    more.trained = {"weight": more.weight, "bias": torch.zeros(1)}
    assert say(state_of(path, more)) == f"{path} is of another model or scope: its 1 parameters are not the 2 trained here"
    assert say(state_of(path, schedule=torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]))) == \
        f"{path} is no state of this training: its schedule does not fit ('schedule')"
    kept = torch.load(path, weights_only=True)
    for change, why in (({"state": {1: {}}}, "moments of parameter 1, of another shape or of none there is"),
                        ({"state": {0: {"m": math.nan}}}, "other entries, or numbers that are NaN or infinite"),
                        ({"more": 1}, "other entries, or numbers that are NaN or infinite")):
        torch.save(kept | {"optimizer": kept["optimizer"] | change}, path)
        own = Line()
        assert say(state_of(path, own, optimizer=torch.optim.AdamW([own.weight]))) == \
            f"{path} is no state of this training: its optimizer does not fit ({why})"
    torch.save({"step": 0}, path)
    assert say(state_of(path)) == f"{path} is no state of a training: 'log' is missing"
    torch.save(kept | {"log": {"losses": [], "other": 1}}, path)
    told = say(state_of(path))
    assert told.startswith(f"{path} is no state of a training: ") and "other" in told and len(told) <= len(str(path)) + 130


def test_a_disk_that_fails_at_the_first_state_stops_a_training_and_later_only_is_told(tmp_path, caplog):
    state, log = state_of(tmp_path / "none" / "state.pt"), Log()
    (tmp_path / "none").write_text("")
    assert "state.pt can't be written: " in line(TrainingError, state.begin, 0, log)
    state.step = 4
    state.keep(7, log)
    assert log.unsaved.endswith("; the state there is of step 4") and caplog.records[-1].getMessage() == f"step 7: {log.unsaved}"
