"""What the stages of every architecture of the zoo can do, and what they refuse in one line. Runs under ComfyUI's Python:
host_abilities_check.py COMFYUI PACKS [words].

`--page` prints docs/what_stages_can_do.md instead; the last case compares the page with what was found.
"""

from functools import cache
import importlib
import json
from pathlib import Path
import sys

from everywhere import EVERYWHERE, some
from host_models import run_cases, start
from host_zoo_check import FILES, NAMES, latents, out
import torch

PAGE = Path(__file__).parents[1] / "docs" / "what_stages_can_do.md"
HEAD = """# What stages can do

The stages of every transformer that ComfyUI 0.33 loads, tried on small random models. Seven families have a stage adapter, written by hand;
all others go the generic way: their own forward runs again, with blocks left out, repeated or answered for. *Stages*: all blocks in a row
give the model's own answer, bit for bit. *Blocks*: the lists they are in; in the nodes they have numbers through all lists. The next columns
say how many of the blocks can be left out, run twice, be the last one before an early Final Layer; how many lists can run reversed; after how
many blocks the picture's tokens are known, which Token PCA, Token Similarity and a graft need; how many blocks show their attention, and
how many take the mode "itself". Where that is less than all, the line is what the node says. This page is written by a test
(`tests/host_abilities_check.py --page`), which also compares it with what it finds.

| transformer | in the zoo as | stages | blocks | left out | twice | early end | reversed | tokens known | Block Ablation | Attention Map | "itself" | in one line |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def one_line(error: Exception) -> str:
    text = str(error)
    assert isinstance(error, ValueError) and "\n" not in text and len(text) < 400, repr(error)
    return text


def made(name: str):
    from host_zoo import ZOO
    return ZOO[name]()


@cache
def families() -> dict[str, list[str]]:
    """Name of a transformer's class → its architectures in the zoo."""
    found: dict[str, list[str]] = {}
    for name in NAMES:
        found.setdefault(type(made(name)[0].model.diffusion_model).__name__, []).append(name)
    return found


class Tried:
    """The stages of one step, and what they refuse."""

    def __init__(self, model, positive, negative, shape):
        from dit_blocks.dit_impl.step import stages as steps
        from dit_blocks.nodes.denoise import AddNoise, Schedule
        from dit_blocks.nodes.model import FromModel
        self.steps, self.lines, self.positive, self.negative = steps, [], positive, negative
        (self.dit,) = out(FromModel, model=model)
        (self.sigmas,) = out(Schedule, dit=self.dit, steps=4, scheduler="simple", denoise=1.0)
        self.clean = self.dit.fold(latents(shape, 2))
        tokens, _ = out(AddNoise, dit=self.dit, tokens=self.clean, sigmas=self.sigmas, step=0, seed=5)
        wire = steps.condition(self.dit, tokens, self.positive, self.negative, self.sigmas, 0)
        self.begun = steps.position_embed(self.dit, steps.patch_embed(self.dit, wire))
        self.whole = self.answer(steps.run_blocks(self.dit, self.begun))
        self.kinds = self.dit.stages.over(self.begun["hidden"]).kinds

    def answer(self, wire):
        answer = self.steps.final_layer(self.dit, wire)["tokens"]
        assert answer.isfinite().all()
        return answer

    def can(self, run) -> bool:
        """Whether this runs, or is refused in one line."""
        try:
            run()
            return True
        except ValueError as error:
            self.lines.append(one_line(error))
            return False

    def among(self, whole: int, can: list[bool]) -> str:
        return "all" if sum(can) == whole else f"{sum(can)} of {whole}"

    def run(self, *blocks: int, wire=None, **how):
        return self.steps.run_blocks(self.dit, self.begun if wire is None else wire, ",".join(map(str, blocks)), **how)

    def leaves_out(self, block: int) -> None:
        left = [one for one in range(len(self.kinds)) if one != block]
        assert not torch.equal(self.answer(self.run(*left)), self.whole), f"block {block} changes nothing"

    def reverses(self, blocks: list[int]) -> None:
        self.answer(self.run(*range(blocks[0]), *blocks[::-1], *range(blocks[-1] + 1, len(self.kinds))))

    def knows_tokens(self, wire, block: int) -> None:
        """By Token PCA, Token Similarity and a graft of the picture's own tokens, which changes nothing."""
        from dit_blocks.dit_impl.see import similarity
        assert similarity.pca(wire) and similarity.token_similarity(wire, 1)
        grafted = self.steps.run_blocks(self.dit, wire, "", graft=wire, mask=torch.ones(1, 8, 8))
        assert torch.equal(self.answer(self.run(*range(block + 1, len(self.kinds)), wire=grafted)), self.whole)

    def shows_attention(self, block: int) -> None:
        from dit_blocks.dit_impl.see import attention_maps
        before = self.run(*range(block))
        after, seen = attention_maps.attention_map(self.dit, before, attention_maps.Question(block, -1, "image to image", 1), 1e12)
        assert (seen.rows.sums - 1).abs().max() < 1e-4 and torch.equal(after["hidden"].x, self.run(block, wire=before)["hidden"].x)

    def ablates(self) -> None:
        from dit_blocks.dit_impl.step.probe import ablate
        done = ablate(self.dit, self.clean, self.sigmas, 1, self.positive, None, 1.0, 0)
        assert done.change.nan_to_num().max() > 0 and done.skip_lists(1) and done.ranked()

    def row(self) -> list[str]:
        count, lists = len(self.kinds), {}
        for block, kind in enumerate(self.kinds):
            lists.setdefault(kind, []).append(block)
        several = [blocks for blocks in lists.values() if len(blocks) > 1 and blocks == list(range(blocks[0], blocks[-1] + 1))]
        left = self.among(count, [self.can(lambda i=i: self.leaves_out(i)) for i in range(count)])
        twice = self.among(count, [self.can(lambda i=i: self.answer(self.run(*range(i + 1), *range(i, count)))) for i in range(count)])
        early = self.among(count, [self.can(lambda i=i: self.answer(self.run(*range(i + 1)))) for i in range(count)])
        turned = self.among(len(several), [self.can(lambda one=one: self.reverses(one)) for one in several]) if several else "–"
        known, wire = [self.can(lambda: self.knows_tokens(self.begun, -1))], self.begun
        for block in range(count):
            wire = self.run(block, wire=wire)
            known.append(self.can(lambda wire=wire, block=block: self.knows_tokens(wire, block)))
        seen = self.among(count, [self.can(lambda i=i: self.shows_attention(i)) for i in range(count)])
        itself = self.among(count, [self.can(lambda i=i: self.run(*range(i + 1), attention="itself")) for i in range(count)])
        tokens = "all" if all(known) else f"{sum(known)} of {count + 1}"
        blocks = ", ".join(f"{len(numbers)} {kind}" for kind, numbers in lists.items())
        return [blocks, left, twice, early, turned, tokens, "yes" if self.can(self.ablates) else "no", seen, itself]


@cache
def row(family: str, *names: str) -> list[str]:
    from dit_blocks.nodes.comfyui.stages import GenericStages, stages_of
    shown = [family, ", ".join(names).replace("_", "\\_")]
    model, *conditionings, shape = made(names[0])
    kind = "generic" if isinstance(stages_of(model.model.diffusion_model), GenericStages) else "by hand"
    try:
        tried = Tried(model, *conditionings, shape)
    except ValueError as error:
        return [*shown, "none", *"–––––––––", one_line(error)]
    cells = tried.row()
    lines = list(dict.fromkeys(line.replace(tried.dit.name, family) for line in tried.lines))
    return [*shown, kind, *cells, lines[0] + (f" (and {len(lines) - 1} more like it)" if len(lines) > 1 else "") if lines else ""]


def page() -> str:
    return HEAD + "".join(f"{line_of(family)}\n" for family in families())


def line_of(family: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row(family, *families()[family])) + " |"


def the_page(name=None, make=None) -> None:
    told = PAGE.read_text(encoding="utf-8")
    if EVERYWHERE:
        assert told == page(), "write it anew with --page"
    rows = told.removeprefix(HEAD).splitlines()
    assert told.startswith(HEAD) and len(rows) == len(families()), "write it anew with --page"
    for family in some(families(), 2):
        assert line_of(family) in rows, f"{family}: write it anew with --page"


CASES = {"abilities: the page": (the_page, None)}


def main(comfyui: str, packs: str, *only: str) -> None:
    start(comfyui, packs)
    for file in FILES:
        importlib.import_module(file)
    with torch.inference_mode():
        if only[:1] == ("--page",):
            return print(page(), end="")
        if only[:1] == ("--rows",):
            for name in only[1:]:
                print(json.dumps(row(type(made(name)[0].model.diffusion_model).__name__, name)), flush=True)
            return None
    run_cases(CASES, *only)


if __name__ == "__main__":
    main(*sys.argv[1:])
