"""What is measured of the default model, beside how often it draws what was asked for."""

import builtins
import random

import pytest
import torch

from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.tokens import mixed
from dit_blocks.dit_impl.training.default_model import evaluate, evaluate_mixed, scenes, things
from dit_blocks.dit_impl.training.default_model.evaluate_mixed import Split

RED = scenes.Scene((scenes.Thing("large", "red", "circle", "left"),), "navy")


def test_a_background_is_uneven_where_nothing_stands():
    picture = scenes.draw(RED, 128)
    noise = torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(0))
    on_object = torch.zeros(128, 128)
    on_object[55:73, 15:33] = 1
    assert evaluate.unevenness([RED], (picture + 0.1 * noise * on_object)[None]) < 1e-6
    assert evaluate.unevenness([RED], (picture + 0.02 * noise)[None]) == pytest.approx(0.02, rel=0.05)


def test_what_has_most_detail_gets_the_finest_patches():
    picture = torch.zeros(2, 4, 32, 32)
    picture[0, :, 8:16, 16:24], picture[1, :, 24:32, 0:8] = (torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    mix = evaluate_mixed.by_detail(picture, Split((8, 4, 2), (1 / 16, 1.0)))
    assert mix.counts == {8: 15, 2: 16}
    marks = mixed.scatter({p: torch.full((2, n, 4 * p * p), float(p)) for p, n in mix.counts.items()}, mix)
    assert (marks[0, :, 8:16, 16:24] == 2).all() and (marks[1, :, 24:32, 0:8] == 2).all() and (marks == 2).float().mean() == 1 / 16


def test_a_quarter_split_after_three_tenths_of_the_steps_has_so_many_tokens():
    split = Split((4, 2), (0.25,))
    assert evaluate_mixed.token_share(split, 32, 2) == pytest.approx((0.3 * 64 + 0.7 * (48 + 64)) / 256)


def test_drawing_with_one_size_is_the_plain_way_and_costs_less_the_coarser():
    parts = load_embedded()
    prompt = [scenes.caption(RED)]
    mixed_way = evaluate_mixed.draw_mixed(prompt, Split((8,), ()), evaluate.STEPS, evaluate.CFG, 3, parts)
    plain, _ = evaluate.draw_prompts(prompt, evaluate.parse_schedule("8"), 3)
    torch.testing.assert_close(mixed_way, plain, atol=1e-5, rtol=0)
    costs = [evaluate_mixed.flops(Split(*how), 10, parts) for how in (((8,), ()), ((8, 4, 2), (0.5, 0.5)), ((2,), ()))]
    assert costs == sorted(costs) and costs[0] < 0.3 * costs[2]


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
    drawn = [scenes.draw(scene, 128) for scene in (*wanted[:3], RED, RED)]
    assert evaluate.share_right(wanted, lambda prompts, seed: torch.stack(drawn)) == 0.6
