"""Runs under ComfyUI's Python: hidden states of one MODEL go on in another of its shape. One line of JSON a case: {"case", "error"}.

    python tests/host_stitching_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

import sys

from host_models import MODELS, run_cases, start
from host_stages_check import begun, lora, refused
import torch


def blocks_by_two_models(name, make):
    """The first block by one model, the others by another of its shape: each with its own weights, in either order, and with a LoRA on some."""
    from dit_blocks.nodes.transformer import Condition, FinalLayer, PatchEmbed, PositionEmbed, RunBlocks
    out = lambda node, **inputs: node.execute(**inputs).result[0]  # noqa: E731
    made = make()
    other, *_ = make()
    for weight in other.model.diffusion_model.parameters():
        weight.data = weight.data * 1.1
    with_lora, *_ = lora(made)
    models = {"own": made[0], "other": other, "LoRA": with_lora}
    dits = {what: begun(model, made[3])[0] for what, model in models.items()}
    _, sigmas, tokens = begun(made[0], made[3])
    last = len(dits["own"].stages.kinds) - 1

    def run(first: str, then: str) -> torch.Tensor:
        hidden = out(Condition, dit=dits[first], x=tokens, positive=made[1], sigmas=sigmas, step=0)
        hidden = out(PatchEmbed, dit=dits[first], x=hidden)
        hidden = out(PositionEmbed, dit=dits[first], hidden=hidden, mode="model", seed=0)
        for what, blocks in ((first, "0"), (then, f"1-{last}")):
            hidden = out(RunBlocks, dit=dits[what], hidden=hidden, blocks=blocks, strength=1.0)
        return out(FinalLayer, dit=dits[then], hidden=hidden)["tokens"]
    answers = {(first, then): run(first, then) for first in models for then in models}
    assert all(answer.isfinite().all() for answer in answers.values())
    assert all(torch.equal(answer, run(*ways)) for ways, answer in reversed(answers.items())), "a model is left half-patched"
    assert torch.equal(answers["own", "LoRA"], answers["own", "own"]), "the LoRA is on the first block alone"
    different = [answers["own", "own"], answers["own", "other"], answers["other", "own"], answers["other", "other"], answers["LoRA", "own"]]
    assert not any(torch.equal(one, two) for i, one in enumerate(different) for two in different[i + 1:])


def replayed_blocks_stay_with_their_model(name, make):
    from dit_blocks.dit_impl.step import stages as step_stages
    from dit_blocks.nodes.comfyui import handle_of_model
    from dit_blocks.nodes.comfyui.stages import GenericStages
    own = handle_of_model.stages_of
    handle_of_model.stages_of = GenericStages
    try:
        made = make()
        (dit, sigmas, tokens), (other, *_) = begun(made[0], made[3]), begun(make()[0], made[3])
        hidden = step_stages.patch_embed(dit, step_stages.condition(dit, tokens, made[1], None, sigmas, 0))
        refused(lambda: step_stages.run_blocks(other, hidden), "replaying its own forward", "go on in no other model")
        step_stages.run_blocks(begun(made[0].clone(), made[3])[0], hidden)
    finally:
        handle_of_model.stages_of = own


CHECKS = {"blocks by two models": blocks_by_two_models, "replayed blocks stay with their model": replayed_blocks_stay_with_their_model}
CASES = {f"{name}: {title}": (check, name) for title, check in CHECKS.items() for name in MODELS}


if __name__ == "__main__":
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])
