"""What the editor is told of costs: the same numbers as Patch Budget's, for any latent, and one line for a question that makes no sense."""

import asyncio
import json
import shutil
import subprocess

import pytest
from test_web import ROOT, needs_node
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dit_blocks.dit_impl.cost import answers
from dit_blocks.dit_impl.cost.arithmetic import PRESETS, CountedArchitecture, architecture, budget
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.handle.patch_schedule import parse_schedule
from dit_blocks.dit_impl.model.mmdit import MMDiTConfig
from dit_blocks.dit_impl.see import compare
from dit_blocks.dit_impl.sources.checkpoints import skeleton
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.tokens.patch import token_grid
from dit_blocks.dit_impl.tokens.wire import identity_format
from dit_blocks.nodes import routes
from dit_blocks.nodes.denoise import Denoise

WALK = {"steps": 6, "scheduler": "simple", "denoise": 1.0, "rows": "2"}


def walked(**given) -> dict:
    """The answer's walk over a latent of 16×16 cells of the default model."""
    of_all = {name: given.pop(name) for name in ("batch", "cfg") if name in given}
    return answers.cost_answer({"shape": "embedded", "size": [16, 16], **of_all, "walk": WALK | given})["walk"]


@pytest.mark.parametrize("name,size", [("SD3-medium", (128, 128)), ("DiT-XL/2", (32, 40)), ("Flux-dev", (90, 64))])
@pytest.mark.parametrize("batch,guided", [(1, None), (3, False), (2, True)])
def test_every_patch_size_costs_what_budget_says(name, size, batch, guided):
    shape = PRESETS[name]
    told = answers.by_patch_size(shape, size, batch, guided)
    assert list(told) == list(range(1, min(*size, 64) + 1)) and told[shape.patch_size]["share"] == 1
    for p, one in told.items():
        step = budget(shape, size[1] * shape.downscale, size[0] * shape.downscale, p, batch, guided=guided)
        assert one["flops"] == 2 * step.macs and tuple(one["grid"]) == step.grid and one["values"] == shape.channels * p * p
        assert one["tokens"] == -(-size[0] // p) * -(-size[1] // p)


def test_an_sd3_reads_its_own_text(backbone):
    """154 tokens of CLIP and T5, as the preset of the same shape has; a model of this library reads what the default text encoder gives."""
    c = PRESETS["SD3-medium"]
    model = skeleton(MMDiTConfig((2,), c.channels, c.width, c.blocks, c.width // 64))
    dit = Backbone(model, identity_format(c.channels), name=c.name)
    told, known = (answers.by_patch_size(shape, (128, 128))[2]["flops"] for shape in (architecture(dit), c))
    assert told == known
    assert architecture(backbone).text == len(load_embedded()[1].tokenize("a red circle")["words"][0])


def test_a_denoising_costs_what_compare_says():
    dit, sigmas = load_embedded()[0], torch.linspace(1, 0, 21)
    plan, whole = parse_schedule("8 until 25%, 4 until 70%, then 2"), parse_schedule("2")
    shares = [compare.cost(dit, one, sigmas, (256, 256), 1, True)[1] for one in (plan, whole)]
    told = answers.of_walk(architecture(dit), (32, 32), plan, sigmas, cfg=3)
    assert told["flops"] == 2 * shares[0] and told["share"] == pytest.approx(shares[0] / shares[1])
    assert [(one["patch_size"], one["steps"], one["tokens"]) for one in told["stretches"]] == [(8, 5, 16), (4, 9, 64), (2, 6, 256)]


@pytest.mark.parametrize("given", [
    {}, {"cfg": 1.0}, {"solver": "heun"}, {"solver": "heun", "end_step": 3}, {"start_step": 2, "end_step": 5}, {"batch": 2},
    {"capture_blocks": True}, {"capture_blocks": True, "solver": "heun", "cfg": 1.0, "batch": 2},
    {"rows": "4 until 50%, then 2", "coarse_cfg": 0.5, "cfg": 2.0}, {"rows": "4 until sigma 0.8, then 2"}], ids=str)
def test_torch_counts_the_same_for_a_whole_denoising(given):
    dit, clip, _ = load_embedded()
    asked = {"cfg": 3.0, "solver": "euler", "start_step": 0, "end_step": 10000, "batch": 1, "coarse_cfg": 1.0} | given
    plan = parse_schedule(asked.get("rows", "2"), coarse_cfg=asked["coarse_cfg"])
    sigmas = dit.schedule(WALK["steps"], WALK["scheduler"])
    tokens = dit.fold({"samples": torch.randn(asked["batch"], 16, 16, 16)}, plan.rows[0].patch_size)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red circle", ""))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the counter knows no CPU kernel of attention
        Denoise.execute(dit, tokens, sigmas, asked["start_step"], asked["end_step"], positive, asked["cfg"], asked["solver"], negative,
                        patch_schedule=plan, capture_blocks=asked.get("capture_blocks", False))
    told = walked(**asked)
    assert told["flops"] == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert told["steps"] == min(asked["end_step"], 6) - asked["start_step"] == sum(one["steps"] for one in told["stretches"])
    if asked["solver"] != "heun":
        assert told["flops"] == sum(one["steps"] * one["flops"] for one in told["stretches"])


def test_a_model_whose_layers_were_counted_is_told_of_too():
    shape = CountedArchitecture("Flux (MODEL)", 64, 2, channels=4, text=20, guided=False, image_weights=5000, text_weights=4000, text_embedding=300,
                                fixed_weights=70, joint=128, registers=3, multiple=32)
    told = answers.cost_answer(json.loads(json.dumps({"shape": answers.plain(shape), "size": [16, 16]})))
    assert told["own"] == 2 and told["sizes"][2]["flops"] == 2 * budget(shape, 128, 128).macs and told["sizes"][4]["share"] < 1


def test_an_answer_is_plain_json_and_reads_its_own_shapes():
    shape = answers.shape_of(load_embedded()[0])
    asked = {"shape": "embedded", "size": [32, 32], "walk": {"steps": 20, "rows": "4 until 50%, then 2"}}
    told = json.loads(json.dumps(answers.cost_answer(asked)))
    by_shape = {**asked, "shape": json.loads(json.dumps(shape)), "native": [2, 4, 8]}
    assert told == json.loads(json.dumps(answers.cost_answer(by_shape))) and told["sizes"]["8"]["method"] == "native"
    assert told["own"] == 2 and told["sizes"]["4"]["tokens"] == 64 and 0 < told["walk"]["share"] < 1
    by_size = [answers.cost_answer({**asked, "walk": {"steps": 20, **given}})["walk"] for given in ({"patch_size": 2}, {"patch_size": 0}, {"rows": "2"}, {})]
    assert all(walk == by_size[0] and walk["share"] == 1 for walk in by_size)


def test_without_a_shape_there_are_tokens_and_values():
    told = answers.cost_answer({"shape": None, "channels": 5, "size": [9, 20]})
    assert told["sizes"][4] == {"grid": (3, 5), "tokens": 15, "values": 80} and len(told["sizes"]) == 9


@needs_node
def test_the_page_s_grid_is_the_model_s():
    """The grid is drawn without asking, so that it follows a slider."""
    cases = [(h, w, p) for h in (1, 7, 32, 90, 128) for w in (1, 9, 32, 64, 127) for p in (1, 2, 3, 5, 8, 16, 64)]
    script = (f"import {{ gridOf }} from '{(ROOT / 'web' / 'grid.js').as_uri()}';"
              f"console.log(JSON.stringify({json.dumps(cases)}.map(([h, w, p]) => gridOf([h, w], p))))")
    done = subprocess.run([shutil.which("node"), "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [list(token_grid(*case)) for case in cases]


LEAST = {"name": "x", "kind": "mmdit", "width": 64, "blocks": 1}


@pytest.mark.parametrize("question,says", [
    ([], "a question is"), ({"size": [8, 8]}, "a shape is"), ({"shape": {"name": "x"}, "size": [8, 8]}, "a shape is"),
    *(({"shape": LEAST | {name: value}, "size": [8, 8]}, f"a shape's {name} is") for name, value in
      [("width", "wide"), ("width", 0), ("blocks", 0), ("patch_size", 0), ("channels", 0), ("downscale", 0), ("text", -1), ("guided", 1),
       ("name", 3), ("kind", "unet"), ("kind", [])]),
    ({"shape": LEAST | {"head": 2}, "size": [8, 8]}, "a mmdit shape has no setting 'head'"),
    ({"shape": LEAST | {"kind": "dit", "head": 0}, "size": [8, 8]}, "a shape's head is"),
    ({"shape": "embedded"}, "size is"), ({"shape": "embedded", "size": [0, 8]}, "size is"), ({"shape": "embedded", "size": [8, 0]}, "size is"),
    ({"shape": "embedded", "size": [8, 9999]}, "size is"), ({"channels": 0, "size": [8, 8]}, "channels is"),
    *(({"shape": "embedded", "size": [8, 8], name: value}, f"{name} is") for name, value in
      [("batch", 0), ("batch", 1.5), ("cfg", "high"), ("cfg", float("nan")), ("cfg", 10 ** 400)]),
    *(({"shape": "embedded", "size": [8, 8], "walk": walk}, says) for walk, says in
      [([], "walk is a table"), ({}, "steps is missing: it is a whole number from 1"), ({"steps": 0}, "steps is"), ({"steps": 4, "rows": "x"}, "a row is"), ({"steps": 4, "rows": 2}, "rows is"),
       ({"steps": 4, "rows": ""}, "the patch schedule is empty"), ({"steps": 4, "patch_size": 16}, "patch_size 16 does not fit"),
       ({"steps": 4, "patch_size": -1}, "patch_size is"), ({"steps": 4, "rows": "16"}, "patch_size 16 does not fit"), ({"steps": 4, "solver": "best"}, "solver is"),
       ({"steps": 4, "denoise": 0}, "denoise is"), ({"steps": 4, "scheduler": "best"}, "scheduler is"),
       ({"steps": 4, "scheduler": []}, "scheduler is"), ({"steps": 4, "start_step": 4}, "step 4 is outside"), ({"steps": 4, "start_step": 2, "end_step": 1}, "end_step 1 is not after")])], ids=str)
def test_a_question_that_makes_no_sense_is_one_line(question, says):
    with pytest.raises(ValueError, match=f"^{says}") as error:
        answers.cost_answer(question)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("body,status,says", [
    (json.dumps({"shape": "embedded", "size": [32, 32]}), 200, '"own": 2'),
    (json.dumps({"shape": LEAST | {"width": 0}, "size": [8, 8]}), 400, "a shape's width is a whole number from 1"), ("{", 400, "Expecting")])
def test_the_route_answers_with_the_line(body, status, says):
    class Request:
        async def read(self):
            return body.encode()
    answer = asyncio.run(routes.cost(Request()))
    assert answer.status == status and says in answer.text and "\n" not in answer.text
