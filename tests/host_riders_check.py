"""What rides along with a MODEL or a conditioning: KSampler's picture by DiT Denoise, by a chain of DiT Denoise Steps and by the stages, or
one line that refuses, or that tells what the stages do without. Runs under ComfyUI's Python: host_riders_check.py COMFYUI PACKS [words].

`--page` prints docs/what_rides_along.md instead; the last case compares the page with what was found.
"""

from functools import cache
import json
from pathlib import Path
import sys

from host_model_check import inside, wires
from host_models import ksampler, run_cases, start
from host_riders import RIDERS, base, compiled, controlled, extra, longer, seeded, windows
import torch

WAYS = ("DiT Denoise", "a chain of DiT Denoise Steps", "stages")
PAGE = Path(__file__).parents[1] / "docs" / "what_rides_along.md"
HEAD = """# What rides along

What a MODEL or a conditioning carries into KSampler, and what comes of it by the wires of **DiT from MODEL**: *equal* is `torch.equal` to
KSampler's latent. Else the wires refuse in one line, or the stages do without it and say so, with the latent that KSampler gives
without it: no cell differs. Small random models of ComfyUI 0.33, {steps} steps, cfg 4. This page is written by a test
(`tests/host_riders_check.py --page`), which also compares it with what it finds.

| what rides along | on | DiT Denoise | a chain of DiT Denoise Steps | stages |
|---|---|---|---|---|
"""
STEPS = 5


def one_line(error: Exception) -> str:
    text = str(error)
    assert isinstance(error, ValueError) and "\n" not in text and len(text) < 400, repr(error)
    return text


@cache
def row(rider: str) -> tuple[str, ...]:
    """What comes of each way: "equal", "without: what is said of it", "refused: the line" or "differs …"."""
    on = RIDERS[rider][0]
    ways = (wires, lambda *made, **how: wires(*made, chain=True, **how), inside)
    found = []
    for way in ways:
        made, how = seeded(rider)  # anew, so that no way sees what another left behind
        expected = ksampler(*made, steps=STEPS, **how)
        assert expected.isfinite().all(), f"KSampler over {on} with {rider} is not finite"
        made, how = seeded(rider)
        try:
            actual = way(*made, steps=STEPS, **how)
            remark = remark_of(made[0]) if way is inside else ""
            found.append("equal" if torch.equal(expected, actual.to(expected)) else
                         f"without: {remark}" if remark and torch.equal(ksampler(*base(on), steps=STEPS), actual.to(expected)) else
                         f"differs by {(expected - actual).abs().max():.3g} of {expected.std():.3g}")
        except ValueError as error:
            found.append(f"refused: {one_line(error)}")
    return tuple(found)


def remark_of(model) -> str:
    """What DiT Condition says of stages of a MODEL."""
    from dit_blocks.nodes.model import FromModel
    return out(FromModel, model=model)[0].remark


def equal_or_refused(rider: str, _=None) -> None:
    found = dict(zip(WAYS, row(rider)))
    wrong = {way: what for way, what in found.items() if what.startswith("differs")}
    assert not wrong, wrong
    assert found["DiT Denoise"] == "equal", found


def page() -> str:
    lines = []
    for rider, (on, _) in RIDERS.items():
        lines.append(" | ".join(["| " + rider, on.replace("_", " "), *(cell.replace("|", "\\|") for cell in row(rider))]) + " |")
    return HEAD.format(steps=STEPS) + "\n".join(lines) + "\n"


def the_page(name=None, make=None) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew with --page"


def differ_from_without(name=None, make=None) -> None:
    """A rider that changes nothing would prove nothing."""
    for rider in ("hooks with keyframes", "APG with momentum", "EasyCache", "LazyCache", "Context Windows with FreeNoise", "ToMe",
                  "HyperTile", "SkipLayerGuidanceSD3", "ControlNet", "Conditioning (Set Area)", "timestep ranges", "Steer (MODEL)",
                  "Stages (MODEL)", "Step Cache (MODEL)"):
        (model, *made), how = seeded(rider)
        plain = base(RIDERS[rider][0])[:3] if rider != "Context Windows with FreeNoise" else (windows(False, 7)[1]()[0][0], *made[:2])
        assert not torch.equal(ksampler(model, *made, steps=STEPS, **how), ksampler(*plain, made[-1], steps=STEPS, **how)), rider


def out(node, **inputs):
    return node.execute(**inputs).result


def run_of(made, steps: int = STEPS):
    """→ dit, tokens at the first noise level, sigmas, what else DiT Denoise takes."""
    from dit_blocks.nodes.denoise import AddNoise, Schedule
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify
    model, positive, negative, latent = made
    (dit,) = out(FromModel, model=model)
    (sigmas,) = out(Schedule, dit=dit, steps=steps, scheduler="simple", denoise=1.0)
    tokens, *_ = out(Patchify, latent={"samples": latent}, patch_size=0, dit=dit)
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=5)
    return dit, tokens, sigmas, {"dit": dit, "sigmas": sigmas, "positive": positive, "negative": negative, "cfg": 4.0, "solver": "euler"}


def latent_of(tokens) -> torch.Tensor:
    from dit_blocks.nodes.patch import Unpatchify
    return out(Unpatchify, tokens=tokens)[0]["samples"]


def a_step_again(name=None, make=None) -> None:
    """ComfyUI runs the last step alone where only that was changed: functions that remember go on from what the step before left."""
    from dit_blocks.nodes.denoise import DenoiseStep
    made, _ = seeded("APG with momentum")
    _, tokens, _, how = run_of(made)
    steps = [tokens]
    for step in range(STEPS):
        steps.append(out(DenoiseStep, tokens=steps[-1], step=step, **how)[0])
    again = out(DenoiseStep, tokens=steps[-2], step=STEPS - 1, **how)[0]
    assert torch.equal(again["tokens"], steps[-1]["tokens"]) and torch.equal(latent_of(again), ksampler(*made, steps=STEPS))


def in_two_stretches(name=None, make=None) -> None:
    from dit_blocks.nodes.denoise import Denoise
    for rider in ("APG with momentum", "hooks with keyframes", "ToMe"):
        made, _ = seeded(rider)
        expected = ksampler(*made, steps=STEPS)
        _, tokens, _, how = run_of(made)
        for start_step, end_step in ((0, 2), (2, STEPS)):
            tokens = out(Denoise, tokens=tokens, start_step=start_step, end_step=end_step, **how)[0]
        assert torch.equal(expected, latent_of(tokens)), rider


def captured_blocks(name=None, make=None) -> None:
    """Looking at x0 after each block changes nothing, or is refused."""
    from dit_blocks.nodes.denoise import Denoise
    made, _ = seeded("APG with momentum")
    _, tokens, _, how = run_of(made)
    tokens = out(Denoise, tokens=tokens, start_step=0, end_step=STEPS, capture_blocks=True, quick_look=True, **how)[0]
    assert torch.equal(ksampler(*made, steps=STEPS), latent_of(tokens))
    for rider in ("EasyCache", "LazyCache"):
        _, tokens, _, how = run_of(seeded(rider)[0])
        try:
            out(Denoise, tokens=tokens, start_step=0, end_step=STEPS, capture_blocks=True, **how)
        except ValueError as error:
            assert rider in one_line(error)
        else:
            raise AssertionError(f"{rider} is not refused")


def half_by_core(name=None, make=None) -> None:
    """KSampler (Advanced) and the wires take over from each other, as near to one run as two of core's runs are."""
    import comfy.sample

    from dit_blocks.nodes.denoise import Denoise
    from dit_blocks.nodes.patch import Patchify
    for kind in ("sd3", "flux_dev", "wan", "pixart", "a UNet"):
        made = model, positive, negative, latent = base(kind)
        dit, noisy, _, how = run_of(made)
        noise = comfy.sample.prepare_noise(latent, 5)

        def core(x, first, last):
            given = noise if first == 0 else torch.zeros_like(noise)
            return comfy.sample.sample(model, given, STEPS, 4.0, "euler", "simple", positive, negative, x, disable_noise=first > 0, start_step=first, last_step=last, force_full_denoise=last == STEPS,
                                       disable_pbar=True, seed=5)

        def ours(x, first, last):
            tokens = noisy if first == 0 else out(Patchify, latent={"samples": x}, patch_size=0, dit=dit)[0]
            return latent_of(out(Denoise, tokens=tokens, start_step=first, end_step=last, **how)[0])
        whole, cut = ksampler(*made, steps=STEPS), core(latent, 0, 2)
        allowed = 4 * (whole - core(cut, 2, STEPS)).abs().max() + 1e-6
        assert torch.allclose(cut, ours(latent, 0, 2), rtol=1e-6), kind
        for both in (ours(cut, 2, STEPS), core(ours(latent, 0, 2), 2, STEPS)):
            assert (whole - both).abs().max() <= allowed, (kind, (whole - both).abs().max(), allowed)


def little_memory(name=None, make=None) -> None:
    """Where memory is short a step is a model call for each conditioning: the stages run each."""
    for kind in ("sd3", "z_image"):
        made = base(kind)
        made[0].model.memory_required = lambda *args, **kwargs: 1e30
        made[0].get_free_memory = lambda *args: 0.0
        expected = ksampler(*made, steps=2)
        assert torch.equal(expected, inside(*made, steps=2)), kind


def one_by_a_float_node(name=None, make=None) -> None:
    model, positive, _, latent = base("sd3")
    near = 1.0000000000000002
    assert torch.equal(ksampler(model, positive, [], latent, cfg=near), wires(model, positive, None, latent, cfg=near))


def cfg_overridden(name=None, make=None) -> None:
    """A MODEL whose cfg is another than the node's reads the negative although the node's is 1, and is refused without one."""
    from dit_blocks.nodes.denoise import Denoise
    model, *rest = base("sd3")
    made = extra("nodes_custom_sampler", "CFGOverride", model, 3.0, 0.0, 1.0), *rest
    expected = ksampler(*made, cfg=1.0, steps=2)
    assert torch.equal(expected, wires(*made, cfg=1.0, steps=2)) and not torch.equal(expected, ksampler(model, *rest, cfg=1.0, steps=2))
    _, tokens, _, how = run_of(made, 2)
    tokens = out(Denoise, tokens=tokens, start_step=0, end_step=2, capture_blocks=True, **{**how, "cfg": 1.0})[0]
    assert torch.equal(expected, latent_of(tokens))
    for way in (wires, inside):
        try:
            way(made[0], made[1], None, made[3], cfg=1.0, steps=2)
        except ValueError as error:
            assert "cfg 3" in one_line(error) and "negative" in str(error), error
        else:
            raise AssertionError("not refused")


def controlnets_run_once(name=None, make=None) -> None:
    """Stages ask a ControlNet as often as KSampler does, also where only one side has one, or each side another."""
    for change in (lambda positive, negative: (positive, negative), lambda positive, negative: (positive, [[negative[0][0], {
            key: value for key, value in negative[0][1].items() if key != "control"}]]), lambda positive, negative: (longer(positive), negative)):
        counted = []
        for way in (ksampler, inside):
            calls = []
            (model, positive, negative, latent), _ = controlled(calls)
            counted.append((way(model, *change(positive, negative), latent, steps=2), sorted(calls)))
        (expected, theirs), (found, ours) = counted
        assert torch.equal(expected, found) and theirs and theirs == ours, (theirs, ours)


def a_compiled_model(name=None, make=None) -> None:
    """Whole steps run what torch.compile made. Stages compile nothing, give KSampler's picture, and the node says so."""
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.transformer import Condition
    expected = ksampler(*base("sd3"), steps=2)
    for way, compiles in ((inside, False), (wires, True)):
        calls = []
        made, _ = compiled(calls)
        assert torch.equal(expected, way(*made, steps=2)) and bool(calls) == compiles, (way, len(calls))
    dit, tokens, sigmas, _ = run_of(made, 2)
    said = Condition.execute(dit=dit, x=tokens, positive=made[1], negative=made[2], sigmas=sigmas, step=0).ui["text"]
    assert said == ("stages run without this MODEL's torch.compile: only DiT Denoise and DiT Denoise Step use it",), said
    assert not out(FromModel, model=base("sd3")[0])[0].remark


def edits_of_several_calls(name=None, make=None) -> None:
    """A change of tokens reaches every model call of a step, and so does a look at them; areas have no one grid to change."""
    from dit_blocks.nodes.attention import AttentionMap
    from dit_blocks.nodes.tokens import ScaleTokens
    from dit_blocks.nodes.transformer import Condition, PatchEmbed, PositionEmbed
    for rider, calls in (("a negative of another length", 2), ("Conditioning (Set Area)", 2)):
        made, _ = seeded(rider)
        dit, tokens, sigmas, how = run_of(made)
        (hidden,) = out(Condition, dit=dit, x=tokens, positive=made[1], negative=made[2], sigmas=sigmas, step=0)
        (hidden,) = out(PatchEmbed, dit=dit, x=hidden)
        assert 1 + len(hidden["others"]) == calls, rider
        try:
            (scaled,) = out(ScaleTokens, x=hidden, factor=0.5)
        except ValueError as error:
            assert "Area" in rider and "areas of the picture" in one_line(error)
            continue
        assert "Area" not in rider
        for before, after in zip((hidden, *hidden["others"]), (scaled, *scaled["others"])):
            count = len(tokens["tokens"][0])
            assert torch.allclose(before["hidden"].x[:, :count] * 0.5, after["hidden"].x[:, :count])
        (hidden,) = out(PositionEmbed, dit=dit, hidden=hidden, mode="model", seed=0)
        after = out(AttentionMap, dit=dit, hidden=hidden, block=0, head=-1, direction="image to image", query=0, word="",
                    language="English")
        assert len(next(one for one in after if isinstance(one, dict) and "hidden" in one)["others"]) == calls - 1


CASES = {f"rider: {rider}": (equal_or_refused, rider) for rider in RIDERS}
CASES |= {"riders do something": (differ_from_without, None), "the page": (the_page, None), "a step again": (a_step_again, None),
          "in two stretches": (in_two_stretches, None), "captured blocks": (captured_blocks, None), "half by core": (half_by_core, None),
          "cfg overridden": (cfg_overridden, None), "little memory": (little_memory, None),
          "one by a float node": (one_by_a_float_node, None),
          "ControlNets run once": (controlnets_run_once, None), "a compiled model": (a_compiled_model, None), "edits of several calls": (edits_of_several_calls, None)}


def main(comfyui: str, packs: str, *only: str) -> None:
    start(comfyui, packs)
    if only == ("--page",):
        with torch.inference_mode():
            return print(page(), end="")
    if only[:1] == ("--rows",):
        with torch.inference_mode():
            for rider in RIDERS:
                if len(only) == 1 or any(word in rider for word in only[1:]):
                    try:
                        print(json.dumps({rider: row(rider)}), flush=True)
                    except Exception as error:
                        print(json.dumps({rider: repr(error)[:600]}), flush=True)
        return None
    run_cases({case: ((lambda name, make, check=check, what=name: check(what)), None) for case, (check, name) in CASES.items()}, *only)


if __name__ == "__main__":
    main(*sys.argv[1:])
