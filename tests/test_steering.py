"""Steering: a direction between two runs, added to a third, and the file that it is kept in."""

from dataclasses import replace

from measures import benchmark
import pytest
from safetensors.torch import save_file
from test_token_ops import CORNER, INSIDE, embedded, out, raw
import torch

from dit_blocks.dit_impl.errors import CheckpointError
from dit_blocks.dit_impl.sources.steering_file import load_vector, save_vector
from dit_blocks.nodes.denoise import AddNoise
from dit_blocks.nodes.steering import LoadSteeringVector, SaveSteeringVector, Steer, SteeringVector
from dit_blocks.nodes.transformer import FinalLayer, Guidance, RunBlocks
from dit_blocks.standalone import folders, pack


@pytest.fixture
def pair(backbone, positive, negative) -> list[dict]:
    """Hidden states [uncond, cond] of two pictures: of noise, and of another."""
    return [embedded(backbone, positive, negative, 2, seed) for seed in (0, 1)]


def x(wire) -> torch.Tensor:
    return wire["hidden"].x


def test_a_vector_is_the_mean_difference_of_the_positive_rows(pair):
    towards, away = pair
    vector = out(SteeringVector, towards=towards, away=away)
    torch.testing.assert_close(vector.direction, (x(towards) - x(away))[2:].mean((0, 1)))
    inside = out(SteeringVector, towards=towards, away=away, mask=CORNER)
    torch.testing.assert_close(inside.direction, (x(towards) - x(away))[2:, INSIDE].mean((0, 1)))
    assert (vector.tokens, inside.tokens, vector.block) == (24, 8, 0)
    assert str(vector).startswith("64 numbers of length ") and str(vector).endswith("before block 0 of a small DiT, from 1 pair of runs, 24 tokens")


def test_more_vectors_are_averaged_by_their_tokens(pair):
    towards, away = pair
    inside = out(SteeringVector, towards=towards, away=away, mask=CORNER)
    both = out(SteeringVector, towards=away, away=towards, more=inside)
    torch.testing.assert_close(both.direction, (x(away) - x(towards))[2:].mean((0, 1)) * 24 / 32 + inside.direction * 8 / 32)
    assert (both.pairs, both.tokens) == (2, 32)


def test_steering_by_the_difference_takes_one_run_to_the_other_in_the_mean(pair):
    towards, away = pair
    vector = out(SteeringVector, towards=towards, away=away)
    steered = out(Steer, hidden=away, vector=vector, strength=1.0, rows="both")
    torch.testing.assert_close(x(steered)[2:].mean((0, 1)), x(towards)[2:].mean((0, 1)))
    assert out(Steer, hidden=away, vector=vector, strength=0.0, rows="both") is away


@pytest.mark.parametrize("rows", ["both", "positive"])
def test_only_the_rows_and_tokens_that_are_asked_for_turn(pair, rows):
    towards, away = pair
    vector = out(SteeringVector, towards=towards, away=away)
    steered = x(out(Steer, hidden=away, vector=vector, strength=2.0, rows=rows, mask=CORNER)) - x(away)
    assert not steered[:, ~INSIDE].any()
    torch.testing.assert_close(steered[2:, INSIDE], (2 * vector.direction).expand(2, 4, -1))
    torch.testing.assert_close(steered[:2, INSIDE], (2 * vector.direction * (rows == "both")).expand(2, 4, -1))


def test_a_steered_step_goes_on_to_x0(backbone, positive, negative, pair):
    vector = out(SteeringVector, towards=pair[0], away=pair[1])
    noisy = AddNoise.execute(dit=backbone, tokens=raw(), sigmas=backbone.schedule(4), step=0, seed=0).result[0]
    hidden = embedded(backbone, positive, negative)
    answers = []
    for strength in (0.0, 1.0):
        steered = out(Steer, hidden=hidden, vector=vector, strength=strength, rows="both")
        guided = out(Guidance, prediction=out(FinalLayer, dit=backbone, hidden=out(RunBlocks, dit=backbone, hidden=steered, blocks="all", strength=1.0)), cfg=2.0)
        answers.append(guided["tokens"])
    assert answers[0].shape == noisy["tokens"].shape and not torch.equal(*answers)


def test_what_does_not_belong_together_is_refused(backbone, pair):
    towards, away = pair
    vector, after = out(SteeringVector, towards=towards, away=away), out(RunBlocks, dit=backbone, hidden=away, blocks="0", strength=1.0)
    for node, inputs, line in (
            (SteeringVector, dict(towards=towards, away=after), "Steering Vector: towards is taken before block 0, away before block 1: take both"),
            (SteeringVector, dict(towards=towards, away={**away, "model": "another"}), "towards comes from a small DiT, away from another"),
            (SteeringVector, dict(towards=towards, away=away, mask=torch.zeros(1, 4, 3)), "the mask covers no token"),
            (SteeringVector, dict(towards=after, away=out(RunBlocks, dit=backbone, hidden=towards, blocks="0", strength=1.0), more=vector),
             "vectors that are averaged are taken at one place"),
            (SteeringVector, dict(towards=raw(), away=away), "DIT_HIDDEN|hidden states"),
            (Steer, dict(hidden=away, vector=replace(vector, direction=torch.ones(32)), strength=1.0, rows="both"),
             "Steer: the vector has 32 numbers, for a small DiT; tokens of a small DiT have 64"),
            (Steer, dict(hidden=away, vector=vector, strength=1.0, rows="none"), "rows is both or positive, not 'none'")):
        with pytest.raises(ValueError, match=line):
            out(node, **inputs)


def test_a_vector_is_saved_and_loaded_whole(pair, tmp_path):
    vector = out(SteeringVector, towards=pair[0], away=pair[1])
    pack.load()  # which tells the nodes where files lie
    own = folders.Folders(output=tmp_path, models=tmp_path / "models")
    with folders.use(own):
        said = SaveSteeringVector.execute(vector=vector, filename_prefix="dit_blocks/red").ui.as_dict()["text"][0]
        (saved,) = (tmp_path / "dit_blocks").iterdir()
        assert str(saved) in said and "64 numbers" in said
        (tmp_path / "models" / "loras").mkdir(parents=True)
        saved.rename(tmp_path / "models" / "loras" / "red.safetensors")
        loaded = out(LoadSteeringVector, file="red.safetensors")
        assert torch.equal(loaded.direction, vector.direction) and str(loaded) == str(vector)
        with pytest.raises(ValueError, match="^Load Steering Vector: file is one of those in models/loras .red.safetensors., not '../x'"):
            out(LoadSteeringVector, file="../x")
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize("change, line", [
    ({"direction": torch.full((4,), float("nan"))}, "not a list of finite numbers"), ({"direction": torch.ones(2, 2)}, "not a list of finite numbers"),
    ({"other": torch.ones(4)}, "'direction' is missing"), ({"metadata": {}}, "no steering vector"),
    ({"metadata": {"steering_vector": "["}}, "does not describe a vector"), ({"metadata": {"steering_vector": '{"model": 3}'}}, "model is text, not 3"),
    ({"metadata": {"steering_vector": '{"model": "x", "block": -1, "tokens": 1, "pairs": 1}'}}, "block is a whole number from 0")])
def test_a_file_of_something_else_is_one_line(tmp_path, change, line):
    tensors = {name: value for name, value in change.items() if name != "metadata"} or {"direction": torch.ones(4)}
    told = {"steering_vector": '{"model": "x", "block": 1, "tokens": 8, "pairs": 1}'}
    save_file(tensors, tmp_path / "v.safetensors", metadata=change.get("metadata", told))
    with pytest.raises(CheckpointError, match=line) as error:
        load_vector(tmp_path / "v.safetensors")
    assert "\n" not in str(error.value)


def test_a_disk_that_is_full_leaves_what_was_there(pair, tmp_path, monkeypatch):
    vector = out(SteeringVector, towards=pair[0], away=pair[1])
    save_vector(vector, tmp_path / "v.safetensors")
    monkeypatch.setattr("dit_blocks.dit_impl.sources.steering_file.save_file", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="can't be written: No space left"):
        save_vector(vector, tmp_path / "v.safetensors")
    assert torch.equal(load_vector(tmp_path / "v.safetensors").direction, vector.direction)


@pytest.mark.slow
def test_a_vector_turns_red_objects_of_the_default_model_blue():
    """84 of 100 prompts, with 24 scenes for the vector: benchmarks/RESULTS.md."""
    found = benchmark("steering").measure(6, pairs=6)
    assert found["turned"] >= 4 / 6 and found["control"] >= 5 / 6
