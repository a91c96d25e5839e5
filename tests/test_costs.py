"""What the editor is told of costs: the same numbers as Budget's, for any latent, and one line for a question that makes no sense."""

import json

import pytest
import torch

from dit_blocks.dit_impl import compare, costs
from dit_blocks.dit_impl.budget import PRESETS, architecture, budget
from dit_blocks.dit_impl.embedded import load_embedded
from dit_blocks.dit_impl.patch_schedule import parse_schedule


@pytest.mark.parametrize("name,size", [("SD3-medium", (128, 128)), ("DiT-XL/2", (32, 40)), ("Flux-dev", (90, 64))])
def test_every_patch_size_costs_what_budget_says(name, size):
    shape = PRESETS[name]
    told = costs.by_patch_size(shape, size)
    assert list(told) == list(range(1, min(*size, 64) + 1)) and told[shape.patch_size]["share"] == 1
    for p, one in told.items():
        step = budget(shape, size[1] * shape.downscale, size[0] * shape.downscale, p)
        assert one["flops"] == 2 * step.macs and tuple(one["grid"]) == step.grid and one["values"] == shape.channels * p * p
        assert one["tokens"] == -(-size[0] // p) * -(-size[1] // p)


def test_a_denoising_costs_what_compare_says():
    dit, sigmas = load_embedded()[0], torch.linspace(1, 0, 21)
    plan, whole = parse_schedule("8 until 25%, 4 until 70%, then 2"), parse_schedule("2")
    shares = [compare.cost(dit, one, sigmas, (256, 256), 1, True)[1] for one in (plan, whole)]
    told = costs.of_steps(architecture(dit), (32, 32), plan, 20)
    assert told["flops"] == 2 * shares[0] and told["share"] == pytest.approx(shares[0] / shares[1])


def test_an_answer_is_plain_json_and_reads_its_own_shapes():
    shape = costs.shape_of(load_embedded()[0])
    asked = {"shape": "embedded", "size": [32, 32], "steps": 20, "schedule": "4 until 50%, then 2"}
    told = json.loads(json.dumps(costs.answer(asked)))
    assert told == json.loads(json.dumps(costs.answer({**asked, "shape": json.loads(json.dumps(shape))})))
    assert told["own"] == 2 and told["sizes"]["4"]["tokens"] == 64 and 0 < told["denoising"]["share"] < 1


@pytest.mark.parametrize("question,says", [
    ([], "a question is"), ({}, "a shape is"), ({"shape": {"name": "x"}, "size": [8, 8]}, "a shape is"),
    ({"shape": {"name": "x", "kind": "dit", "width": "wide", "blocks": 1}, "size": [8, 8]}, "a shape's width"),
    ({"shape": "embedded"}, "size is"), ({"shape": "embedded", "size": [0, 8]}, "size is"), ({"shape": "embedded", "size": [8, 9999]}, "size is"),
    ({"shape": "embedded", "size": [8, 8], "steps": 0}, "steps is"), ({"shape": "embedded", "size": [8, 8], "steps": 4, "schedule": "x"}, "a row is"),
    ({"shape": "embedded", "size": [8, 8], "steps": 4, "schedule": "16"}, "patch_size 16 does not fit")])
def test_a_question_that_makes_no_sense_is_one_line(question, says):
    with pytest.raises(ValueError, match=f"^{says}") as error:
        costs.answer(question)
    assert "\n" not in str(error.value)
