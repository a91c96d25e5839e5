"""Runs under ComfyUI's Python: the generic stages beside the stage adapters, on the models that have one. One line of JSON a case: {"case",
"error"}.

    python tests/host_generic_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

import sys

from everywhere import some
from host_models import MODELS, run_cases, start
from host_stages_check import a_call, refused, stages_of, tensors
import torch


class Beside:
    """A call of a model by its adapter and by the generic way, which may have more blocks: the refiners of Lumina 2."""

    def __init__(self, made):
        from dit_blocks.nodes.comfyui.stages import GenericStages
        self.args, self.kwargs = a_call(made)
        self.transformer = made[0].model.diffusion_model
        self.adapter, self.generic = stages_of(made[0]), GenericStages(self.transformer)
        theirs, ours = (self.begun(stages) for stages in (self.adapter, self.generic))
        self.generic = self.generic.over(ours)
        places = [list(self.generic.blocks).index(block) for block in self.adapter.blocks]
        self.before, self.count = places[0], len(places)
        assert places == list(range(places[0], places[0] + self.count)), places
        self.begins = theirs, self.generic.run_blocks(ours, range(self.before))
        self.same_tokens(*self.begins)

    def begun(self, stages):
        return stages.position_embed(stages.patch_embed(stages.condition(*self.args, **self.kwargs)))

    def picture(self, theirs) -> slice:
        """Where the picture's own tokens are among the adapter's, which may have reference pictures and padding beside them."""
        first = theirs.extra.get("img_offset", 0)
        return slice(first, first + self.count_tokens)

    def same_tokens(self, theirs, ours):
        self.count_tokens = ours.x.shape[1]
        assert torch.equal(theirs.x[:, self.picture(theirs)], ours.x), "the picture's tokens differ"

    def run(self, *nodes, strength=1.0):
        """Blocks by one node after another, either way: → both hidden states, after they were found to be the same."""
        theirs, ours = self.begins
        for blocks in nodes:
            theirs = self.adapter.run_blocks(theirs, blocks, strength)
            ours = self.generic.run_blocks(ours, [block + self.before for block in blocks], strength)
            self.same_tokens(theirs, ours)
        self.same_answer(theirs, ours)
        return theirs, ours

    def same_answer(self, theirs, ours):
        expected, actual = self.adapter.head(theirs), self.generic.head(ours)
        assert torch.equal(expected, actual) and actual.isfinite().all(), f"differs by {(expected - actual).abs().max()}"

    def lists(self, drops_text: bool) -> list[list[int]]:
        """The blocks by their lists, without one that drops the text."""
        found: dict[str, list[int]] = {}
        for block in range(self.count - drops_text):
            found.setdefault(self.generic.kinds[block + self.before], []).append(block)
        return list(found.values())


def any_blocks(name, make):
    """All at once and one by one, each left out, run twice and run alone before an early head, each list reversed, in one node and in several."""
    beside = Beside(make(batch=2))
    every, drops = list(range(beside.count)), name.startswith("sd3")
    whole = beside.transformer(*beside.args, **beside.kwargs)
    assert torch.equal(beside.generic.head(beside.run(every)[1]), whole)
    beside.run(*[[block] for block in every])
    beside.run([])
    for block in every[:len(every) - drops]:
        beside.run([one for one in every if one != block])
        beside.run([*every[:block + 1], *every[block:]])
        beside.run(every[:block], [block], [block], every[block + 1:])
        beside.run(every[:block + 1])
    for strength in (0.0, 0.5, -1.5):
        beside.run(every[:-1], every[-1:], strength=strength)
    turned = [blocks[::-1] for blocks in beside.lists(drops)]
    rest = every[len(every) - drops:]
    beside.run([block for blocks in turned for block in blocks] + rest)
    beside.run(*[[block] for blocks in turned for block in blocks], rest)
    first = beside.lists(drops)[0]
    beside.run([first[-1], first[0], first[-1], first[-1], *every[first[-1] + 1:]])


def other_tokens(name, make):
    """Tokens that a node has changed, before the first block and after it."""
    beside = Beside(make(batch=2))
    last = beside.count - 1
    for runs in ([], [0]):
        theirs, ours = beside.run(runs)
        x, whole = torch.randn(ours.x.shape, generator=torch.Generator().manual_seed(1)), theirs.x.clone()
        whole[:, beside.picture(theirs)] = x
        begins, beside.begins = beside.begins, (theirs.but(x=whole), ours.but(x=x))
        beside.run([0, last])
        beside.run([])
        beside.begins = begins


def inputs_stay(name, make):
    """No stage changes what it is given, and the model is left as it was."""
    made = make()
    beside = Beside(made)
    before = {module: (dict(vars(module)), len(module._forward_hooks) + len(module._forward_pre_hooks)) for module in beside.transformer.modules()}
    given = {"args": beside.args, "kwargs": beside.kwargs}
    copies = {path: value.clone() for path, value in tensors(given).items()}
    stages, hidden = beside.generic, beside.begins[1]
    for stage in (lambda h: stages.run_blocks(h, [beside.before]), lambda h: stages.run_blocks(h, [beside.before] * 2, 0.5), stages.head):
        held = {**tensors(hidden.extra["state"].outs), "x": hidden.x}
        kept = {path: value.clone() for path, value in held.items()}
        result = stage(hidden)
        assert all(torch.equal(held[path], kept[path]) for path in kept)
        hidden = hidden if torch.is_tensor(result) else result
    assert all(torch.equal(value, copies[path]) for path, value in tensors(given).items())
    for module, (entries, hooks) in before.items():
        assert vars(module).keys() == entries.keys() and "forward" not in vars(module)
        assert len(module._forward_hooks) + len(module._forward_pre_hooks) == hooks


def what_cannot_be_done(name, make):
    beside = Beside(make())
    stages, hidden = beside.generic, beside.begins[1]
    last = beside.before + beside.count - 1
    refused(lambda: stages.run_blocks(hidden, [last + 1]), f"0 to {last}", f"no block {last + 1}")
    if len(beside.lists(False)) > 1:
        done = stages.run_blocks(hidden, [last])
        refused(lambda: stages.run_blocks(done, [beside.before]), f"block {beside.before} of", "takes other tokens")
    if name.startswith("sd3"):
        done = stages.run_blocks(hidden, [last])
        refused(lambda: stages.run_blocks(done, [0]), "needs tokens that the block before drops", "run that one last")
    kwargs = {**beside.kwargs, "transformer_options": {"wrappers": {"diffusion_model": {"EasyCache": [lambda executor, *a, **k: executor(*a, **k)]}}}}
    refused(lambda: stages.condition(*beside.args, **kwargs), "EasyCache", "use DiT Denoise Step")


def attentions_are_where_the_adapter_says(name, make):
    beside = Beside(make(batch=2))
    if name.startswith("pixart"):  # whose blocks do not hand on their options
        return refused(lambda: beside.generic.attentions(beside.begins[1], 0, 0), "can't be seen")
    theirs, ours = beside.begins
    tokens = ours.x.shape[1]
    for block in range(beside.count):
        expected = beside.adapter.attentions(theirs, tokens, block)
        actual = beside.generic.attentions(ours, tokens, block + beside.before)
        assert beside.generic.heads_of(block + beside.before) == beside.adapter.heads
        for one, other in zip(expected, actual):
            assert one.length == other.length and {**one.queries, **other.queries} == other.queries, (block, one, other)
            assert {**one.keys, **other.keys} == other.keys, (block, one, other)


CHECKS = {
    "any blocks": any_blocks,
    "other tokens": other_tokens,
    "inputs stay": inputs_stay,
    "what can't be done": what_cannot_be_done,
    "attentions": attentions_are_where_the_adapter_says,
}
CASES = {f"{name}: {title}": (check, name) for i, (title, check) in enumerate(CHECKS.items()) for name in some(MODELS, i, ("sd3",))}


if __name__ == "__main__":
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])
