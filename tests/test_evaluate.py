"""What is measured of the default model, beside how often it draws what was asked for."""

import builtins
import random

import pytest
import torch

from dit_blocks.dit_impl.handle.patch_schedule import parse_schedule
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.training.default_model import evaluate, scenes, things

RED = scenes.Scene((scenes.Thing("large", "red", "circle", "left"),), "navy")


def test_a_background_is_uneven_where_nothing_stands():
    picture = scenes.draw(RED, 128)
    noise = torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(0))
    on_object = torch.zeros(128, 128)
    on_object[55:73, 15:33] = 1
    assert evaluate.unevenness([RED], (picture + 0.1 * noise * on_object)[None]) < 1e-6
    assert evaluate.unevenness([RED], (picture + 0.02 * noise)[None]) == pytest.approx(0.02, rel=0.05)


def test_a_quarter_split_after_three_tenths_of_the_steps_has_so_many_tokens():
    dit = load_embedded()[0]
    spent = {name: evaluate.spent(dit, parse_schedule(rows)) for name, rows in evaluate.MIXED.items()}
    assert spent["4-2"]["tokens"] == pytest.approx((0.3 * 64 + 0.7 * (48 + 64)) / 256)
    assert spent["8-4-2"]["tokens"] == pytest.approx((0.3 * 16 + 0.7 * (8 + 16 + 64)) / 256)
    assert spent["8-4-2"]["flops"] < spent["4-2"]["flops"] < 0.6 and evaluate.spent(dit, parse_schedule("2")) == {"flops": 1, "tokens": 1}


def test_things_are_measured_where_model_and_machine_know_them(monkeypatch, tmp_path):
    parts = load_embedded()
    known = set(things.WORDS) <= set(parts[1].encoder.config.vocabulary)
    assert ("no words for things" in evaluate.things_unknown(parts)) != known
    monkeypatch.setattr(things, "WORDS", ("red",))
    monkeypatch.setenv(things.FONT, str(tmp_path / "none.ttf"))
    assert evaluate.things_unknown(parts).startswith("not measured: ") and "fonts-noto-color-emoji" in evaluate.things_unknown(parts)


def test_the_report_has_its_keys_and_says_what_to_install(monkeypatch, tmp_path):
    def no_skimage(name, *rest, real=builtins.__import__):
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *rest)
    monkeypatch.setattr(builtins, "__import__", no_skimage)
    monkeypatch.setattr(evaluate, "procedural", lambda: torch.rand(1, 3, 32, 32))
    monkeypatch.setattr(evaluate, "STEPS", 2)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(scenes.caption(RED))
    report = evaluate.evaluate_embedded(prompts)
    assert set(report) >= {"accuracy", "mixed", "background", "psnr", "bytes", "prompts"}
    assert set(report["accuracy"]["single"]) == set(report["background"]) == {"2", "4", "8"} and report["prompts"] == 1
    assert set(report["mixed"]) == {"4-2", "8-4-2"} and report["mixed"]["4-2"]["flops"] < 0.6
    assert "pip install scikit-image" in report["psnr"]["photographs"]


def test_share_right_counts_what_is_read_right():
    wanted = [scenes.random_scene(random.Random(i), 1) for i in range(5)]
    drawn = {scenes.caption(scene): scenes.draw(other, 128) for scene, other in zip(wanted, (*wanted[:3], RED, RED))}
    assert evaluate.share_right(wanted, lambda prompts, seed: torch.stack([drawn[prompt] for prompt in prompts])) == 0.6
