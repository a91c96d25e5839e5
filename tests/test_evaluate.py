"""What is measured of the default model, beside how often it draws what was asked for."""

import builtins
import random

import pytest
import torch

from dit_blocks.dit_impl.handle.patch_schedule import parse_schedule
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.training import precision
from dit_blocks.dit_impl.training.default_model import evaluate, scenes, things

RED = scenes.Scene((scenes.Thing("large", "red", "circle", "left"),), "navy")


def test_a_background_is_uneven_where_nothing_stands():
    picture = scenes.draw(RED, 128)
    noise = torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(0))
    on_object = torch.zeros(128, 128)
    on_object[55:73, 15:33] = 1
    assert evaluate.unevenness([RED], (picture + 0.1 * noise * on_object)[None]) < 1e-6
    assert evaluate.unevenness([RED], (picture + 0.02 * noise)[None]) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("said,quick", [({"avx512_bf16": True}, True), ({"amx_bf16": True, "avx512_bf16": False}, True),
                                        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, False), ({}, False), (None, False)])
def test_a_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(monkeypatch, said, quick):
    if said is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: said, raising=False)
    with precision.quick(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if quick else torch.float32)
    assert precision.multiplies_bfloat16(torch.device("cuda"))


def test_a_quarter_split_after_three_tenths_of_the_steps_has_so_many_tokens():
    dit = load_embedded()[0]
    spent = {name: evaluate.spent(dit, parse_schedule(rows)) for name, rows in evaluate.MIXED.items()}
    assert spent["4-2"]["tokens"] == pytest.approx((0.3 * 64 + 0.7 * (48 + 64)) / 256)
    assert spent["8-4-2"]["tokens"] == pytest.approx((0.3 * 16 + 0.7 * (8 + 16 + 64)) / 256)
    assert spent["8-4-2"]["flops"] < 0.28 and spent["4-2"]["flops"] < 0.38 and evaluate.spent(dit, parse_schedule("2")) == {"flops": 1, "tokens": 1}


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


def test_prompts_of_a_batch_have_texts_of_one_length():
    """A joined batch repeats the shorter texts, and a prompt said three times draws worse than one said once."""
    wanted = [*scenes.held_out()[0][:30], *scenes.held_out()[1][:3]]
    batches = evaluate.batches_of(wanted)
    assert [len(batch) for batch in batches] == [20, 10, 3] and [scene for batch in batches for scene in batch] == wanted
    clip = load_embedded()[1]
    assert all(len({len(clip.tokenize(scenes.caption(scene))["words"][0]) for scene in batch}) == 1 for batch in batches)


def test_share_right_counts_what_is_read_right():
    wanted = [scenes.random_scene(random.Random(i), 1) for i in range(5)]
    drawn = {scenes.caption(scene): scenes.draw(other, 128) for scene, other in zip(wanted, (*wanted[:3], RED, RED))}
    assert evaluate.share_right(wanted, lambda prompts, seed: torch.stack([drawn[prompt] for prompt in prompts])) == 0.6
