"""The examples that guide by wiring against their formulas, over whole models that were made worse by hand."""

from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dit_blocks
from dit_blocks.dit_impl.model import blocks
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.standalone import pack
from dit_blocks.standalone.executor import Executor
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.workflow import read_workflow

EXAMPLES = Path(dit_blocks.__file__).parent / "example_workflows"
PROMPT, OTHER = (f"a large {colour} cross in the center on a beige background" for colour in ("purple", "green"))
TOKENS = 4 * 6  # of a picture of 64×96 pixels


def guided(example: str) -> dict[str, dict]:
    """What each DiT Guidance of an example gives, on a small picture: title → prediction on the wire."""
    seen = {}

    class Sink:
        RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "take", True

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"tokens": ("DIT_TOKENS",), "title": ("STRING",)}}

        def take(self, tokens, title):
            seen[title] = tokens
            return ()
    classes = pack.load()
    prompt = read_workflow(EXAMPLES / f"{example}.json", {name: NodeType(name, cls) for name, cls in classes.items()}).prompt
    graph = {id: node for id, node in prompt.items() if node["class_type"] != "SaveImage"}
    for id, node in prompt.items():
        if node["class_type"] == "DiTBlocksEmptyLatent":
            node["inputs"] |= {"width": 64, "height": 96}
        if node["class_type"] == "DiTBlocksGuidance":
            title = node["_meta"]["title"]
            graph[f"sink {id}"] = {"class_type": "Sink", "inputs": {"tokens": [id, 0], "title": "CFG" if title == "DiT Guidance" else title}}
    Executor(classes | {"Sink": Sink}).run(graph)
    return seen


def x0_of(wire: dict, text: str, worse=lambda model: nullcontext()) -> Tensor:
    """The whole model's x0 of the step that a prediction is for, for one prompt, of a model that may be made worse."""
    dit, clip, _ = load_embedded()
    with torch.inference_mode(), worse(dit.model):
        return dit.denoiser(wire, clip.encode_from_tokens_scheduled(clip.tokenize(text)))(wire["call"].x, wire["call"].sigma)


@contextmanager
def hooked(modules, hook):
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def without_block_3(model):
    return hooked([model.joint_blocks[3]], lambda block, given, answer: given[:2])


def weakened(model):
    """Every block adds four fifths of what it would."""
    def hook(block, given, answer):
        return tuple(new if new is None else old + 0.8 * (new - old) for old, new in zip(given, answer))
    return hooked(model.joint_blocks, hook)


@contextmanager
def perturbed(model):
    """In block 3 the attention map of image tokens among themselves is the identity, up to the text that is read too."""
    block = model.joint_blocks[3]

    def masked(q, k, v):
        text = q.shape[-2] - TOKENS
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        scores[..., text:, text:].masked_fill_(~torch.eye(TOKENS, dtype=torch.bool), float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    with pytest.MonkeyPatch.context() as patched:
        before = block.register_forward_pre_hook(lambda *_: patched.setattr(blocks, "attention", masked))
        after = block.register_forward_hook(lambda *_: patched.undo())
        try:
            yield
        finally:
            before.remove(), after.remove()


def agree(wire: dict, expected: Tensor) -> None:
    assert wire["guided"] and wire["tokens"].shape[1] == TOKENS
    torch.testing.assert_close(wire["tokens"], expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("example, title, worse", [
    ("skip_layer_guidance", "Away from the worse model", without_block_3),
    ("perturbed_attention_guidance", "Away from the perturbed model", perturbed)])
def test_away_from_a_worse_model(example, title, worse):
    """x0 = g + 0.5·(g − w): g is guided as ever, u + 2·(c − u); w is what the worse model sees of the prompt."""
    seen = guided(example)
    cond, uncond = (x0_of(seen["CFG"], text) for text in (PROMPT, ""))
    worse_cond = x0_of(seen["CFG"], PROMPT, worse)
    guided_x0 = uncond + 2 * (cond - uncond)
    assert (worse_cond - cond).abs().max() > 0.05
    agree(seen["CFG"], guided_x0)
    agree(seen[title], guided_x0 + 0.5 * (guided_x0 - worse_cond))


def test_cfg_variants():
    seen = guided("cfg_variants")
    wire = seen["CFG"]
    cond, uncond, other, weak = (x0_of(wire, PROMPT), x0_of(wire, ""), x0_of(wire, OTHER), x0_of(wire, PROMPT, weakened))
    assert min((one - cond).abs().max() for one in (uncond, other, weak)) > 0.05
    expected = {"No guidance": cond, "CFG": uncond + 2 * (cond - uncond), "CFG of two branches": uncond + 2 * (cond - uncond),
                "Autoguidance": weak + 2 * (cond - weak), "Halfway": other + 0.5 * (cond - other)}
    assert expected.keys() == seen.keys()
    for title, x0 in expected.items():
        agree(seen[title], x0)
