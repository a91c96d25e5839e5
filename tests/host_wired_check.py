"""Runs under ComfyUI's Python: KSampler over Stages (MODEL) against the same wires laid out for each step. One line of JSON a case.

    python tests/host_wired_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks [words]
"""

import importlib
import sys

from host_adapter_check import adapter_for, with_adapter
from host_blocks_check import STEPS, blocks_of, picture, planned, refused, same
from host_cache_check import ALWAYS, caching
from host_model_check import out
from host_models import MODELS, run_cases, start
from host_patch_check import own_size, scheduled
from host_stages_check import lora
from host_steering_check import CORNER, begun, drawn_by_dits, prepared, steered, vector, width_of
import torch


def blocks(dit, hidden, which="all", strength=1.0, **more):
    from dit_blocks.nodes.transformer import RunBlocks
    return out(RunBlocks, dit=dit, hidden=hidden, blocks=which, strength=strength, **more)[0]


def as_the_model(dit, hidden):
    return blocks(dit, hidden)


def some_blocks(dit, hidden):
    """The first, the last, and between them one half as strong."""
    last = len(dit.stages.over(hidden["hidden"]).kinds) - 1
    return blocks(dit, blocks(dit, blocks(dit, hidden, "0"), "1", 0.5), str(last))


def grafted(dit, hidden):
    last = len(dit.stages.over(hidden["hidden"]).kinds) - 1
    return blocks(dit, blocks(dit, hidden, f"0-{last - 1}"), str(last), graft=blocks(dit, hidden, "0"), graft_mask=CORNER)


def edited(dit, hidden):
    from dit_blocks.nodes.steering import Steer
    from dit_blocks.nodes.tokens import ScaleTokens, ShuffleTokens
    (hidden,) = out(ShuffleTokens, x=hidden, seed=3, mask=CORNER)
    (hidden,) = out(ScaleTokens, x=blocks(dit, hidden, "0"), factor=0.5, mask=1 - CORNER)
    one = vector(1, hidden["hidden"].x.shape[-1])
    return blocks(dit, out(Steer, hidden=hidden, vector=one, strength=2.0, rows="positive", mask=CORNER)[0], f"1-{len(dit.stages.kinds) - 1}")


def places(mode, **more):
    """Position Embed in another mode: → a wiring that begins before it."""
    def wired(dit, hidden):
        from dit_blocks.nodes.transformer import PositionEmbed
        return blocks(dit, out(PositionEmbed, dit=dit, hidden=hidden, mode=mode, seed=3, **more)[0])
    wired.begins = "patches"
    return wired


def wire(made, wired, tokens=None, step=0):
    """→ dit, hidden states of a step that go into Final Layer."""
    from dit_blocks.nodes.transformer import Condition, PatchEmbed
    dit, hidden = begun(made, tokens, step)
    if getattr(wired, "begins", "") == "patches":
        _, first, sigmas = prepared(made)
        (hidden,) = out(Condition, dit=dit, x=first if tokens is None else tokens, positive=made[1], negative=made[2], sigmas=sigmas, step=step)
        (hidden,) = out(PatchEmbed, dit=dit, x=hidden)
    return dit, wired(dit, hidden)


def by_wires(made, wired, steps=range(STEPS), patch_size=0):
    """KSampler's picture, every step by stages: in `steps` as wired, in others as the model has them."""
    from dit_blocks.nodes.patch import Unpatchify
    from dit_blocks.nodes.transformer import FinalLayer, Guidance, SamplerStep
    _, tokens, sigmas = prepared(made, patch_size)
    for step in range(STEPS):
        dit, hidden = wire(made, wired if step in steps else as_the_model, tokens, step)
        (prediction,) = out(Guidance, prediction=out(FinalLayer, dit=dit, hidden=hidden)[0], cfg=4.0)
        tokens, _ = out(SamplerStep, dit=dit, tokens=tokens, prediction=prediction, sigmas=sigmas, step=step, solver="euler")
    return out(Unpatchify, tokens=tokens)[0]["samples"]


def every(model, hidden, start_percent=0.0, end_percent=1.0):
    from dit_blocks.nodes.transformer import StagesModel
    return out(StagesModel, model=model, hidden=hidden, start_percent=start_percent, end_percent=end_percent)[0]


def alone(made):
    """The same without a negative, one picture: what the plan is wired with need not be what it runs on."""
    return made[0], made[1], None, made[3][:1]


def wires_are_the_model(name, make):
    made = make(batch=2)
    plain = picture(made[0], made)
    same(plain, picture(every(made[0], wire(alone(made), as_the_model)[1]), made))
    for wired in (some_blocks, grafted, edited):
        changed = picture(every(made[0], wire(alone(made), wired)[1]), made)
        try:
            same(by_wires(made, wired), changed)
        except AssertionError as error:
            raise AssertionError(f"{wired.__name__}: {error}") from error
        assert not torch.equal(plain, changed)
    same(plain, picture(made[0], made))


def other_positions(name, make):
    made, rotary = make(), name not in ("sd3", "pixart", "auraflow")
    plain = picture(made[0], made)
    for mode, more in (("none", {}), ("shuffled", {}), *((("shifted", {"shift": 3.0}), ("DyPE", {"scale": 2.0})) if rotary else (("1-D", {}),))):
        changed = picture(every(made[0], wire(alone(made), places(mode, **more))[1]), made)
        same(by_wires(made, places(mode, **more)), changed)
        assert not torch.equal(plain, changed), mode


def shares(name, make):
    """One plan in the middle of sampling, and another after it, under a LoRA and with prompts that share no batch."""
    made = lora(make())
    (text, extras), = made[2]
    made = *made[:2], [[torch.cat([text, text[:, :3]], dim=1), extras]], made[3]
    sigma_at = made[0].get_model_object("model_sampling").percent_to_sigma
    from dit_blocks.nodes.comfyui.handle_of_model import HandleOfModel
    levels = HandleOfModel(made[0]).schedule(STEPS).tolist()
    inside = [i for i in range(STEPS) if sigma_at(0.6) <= levels[i] <= sigma_at(0.2)]
    assert 0 < len(inside) < STEPS
    part = every(made[0], wire(alone(made), grafted)[1], 0.2, 0.6)
    same(by_wires(made, grafted, inside), picture(part, made))
    both = every(every(made[0], wire(alone(made), some_blocks)[1], 0.5), wire(alone(made), as_the_model)[1], 0.0, 0.5)
    same(by_wires(made, some_blocks, [i for i in range(STEPS) if levels[i] <= sigma_at(0.5)]), picture(both, made))


def same_as_its_own_nodes(name, make):
    """What DiT Blocks (MODEL) and Steer (MODEL) do, by wires."""
    made = make()
    last, one = blocks_of(made[0]) - 1, vector(1, width_of(made))
    same(picture(planned(made[0], "all but 1"), made),
         picture(every(made[0], wire(alone(made), lambda dit, hidden: blocks(dit, hidden, "all but 1"))[1]), made))

    def turned(dit, hidden):
        from dit_blocks.nodes.steering import Steer
        return blocks(dit, out(Steer, hidden=blocks(dit, hidden, "0"), vector=one, strength=2.0, rows="positive", mask=CORNER)[0], f"1-{last}")
    same(picture(steered(made[0], one, rows="positive", mask=CORNER), made), picture(every(made[0], wire(alone(made), turned)[1]), made))


def by_the_dit(name, make):
    """Over the MODEL that carries wired stages, and over the DIT of Stages Every Step."""
    from dit_blocks.nodes.transformer import StagesSteps
    made = make(batch=2)
    hidden = wire(alone(made), edited)[1]
    model = every(made[0], hidden, end_percent=0.7)
    led = out(StagesSteps, dit=prepared(made)[0], hidden=hidden, start_percent=0.0, end_percent=0.7)[0]
    drawn_by_dits(made, model, prepared((model, *made[1:]))[0], led)


def an_adapter_s_patches(name, make):
    """A patch size that an adapter taught, before or after the wired stages, which are of the MODEL's own size."""
    made, hidden = make(), wire(alone(make()), some_blocks)[1]
    size = own_size(made[0]) + 1
    adapter = adapter_for(made[0], size)
    adapted = with_adapter(made[0], adapter)
    expected = by_wires((adapted, *made[1:]), some_blocks, patch_size=size)
    assert not torch.equal(expected, picture(scheduled(adapted, f"{size}", patch_method="native"), made))
    for model in (every(adapted, hidden), with_adapter(every(made[0], hidden), adapter)):
        same(expected, picture(scheduled(model, f"{size}", patch_method="native"), made))


def leaves_nothing(name, make):
    made = make()
    plain, module = picture(made[0], made), made[0].model.diffusion_model
    before = sorted(made[0].model_options), sorted(made[0].model_options.get("transformer_options", {}))
    model = every(made[0], wire(alone(made), grafted)[1])
    same(picture(model, made), picture(model, made))
    assert "forward" not in vars(module) and not made[0].wrappers
    assert before == (sorted(made[0].model_options), sorted(made[0].model_options.get("transformer_options", {})))
    same(plain, picture(made[0], made))


def refusals(name, make):
    made = model, positive, negative, samples = make()
    plain = wire(alone(made), as_the_model)[1]
    other = MODELS["lumina2"](batch=1)
    refused("Stages (MODEL): hidden comes from a model of another shape: Flux of 5 blocks", lambda: every(other[0], plain))
    refused("Stages (MODEL): start_percent 0.5 is after end_percent 0.2", lambda: every(model, plain, 0.5, 0.2))
    once = every(model, plain)
    one, steer, plan = vector(1, 128), "Steer Every Step or Steer (MODEL)", "DiT Blocks (MODEL)"
    for node, act, what in (("Stages (MODEL): ", lambda: every(once, plain), "another one"), ("Steer (MODEL): ", lambda: steered(once, one), steer),
                            ("Stages (MODEL): ", lambda: every(steered(model, one), plain), steer),
                            ("", lambda: caching(once, ALWAYS), "Step Cache"), ("DiT Blocks (MODEL): ", lambda: planned(once, "0-1"), plan),
                            ("Stages (MODEL): ", lambda: every(planned(model, "0-1"), plain), plan)):
        refused(f"{node}Stages Every Step or Stages (MODEL) runs the whole of a step, so that {what} can't hold at the same time", act)
    refused("DiT Condition: Flux (MODEL) runs the stages that were wired for one step in every step", lambda: begun((once, *made[1:])))
    area = [[positive[0][0], {**positive[0][1], "area": (4, 4, 0, 0)}], *positive]
    moved = every(model, wire(alone(made), edited)[1])
    refused('Stages (MODEL): a mask, rows "positive" and edited tokens are for prompts of the whole picture: leave',
            lambda: picture(moved, (model, area, *made[2:])))
    same(picture(once, (model, area, *made[2:])), picture(model, (model, area, *made[2:])))


def by_the_generic_way(name, make=None):
    for file in ("host_zoo_unets", "host_zoo_transformers", "host_zoo_videos"):
        importlib.import_module(file)
    from host_zoo import ZOO, rnd
    model, positive, negative, shape = ZOO[name]()
    made = model, positive, negative, rnd(1, *shape, seed=3)
    plain = picture(model, made)
    same(plain, picture(every(model, wire(alone(made), as_the_model)[1]), made))
    changed = picture(every(model, wire(alone(made), some_blocks)[1]), made)
    same(by_wires(made, some_blocks), changed)
    assert not torch.equal(plain, changed)


def the_pack_s_own_model(name=None, make=None):
    """The default model by DiT to MODEL: Stages (MODEL), and Stages Every Step before it."""
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import ToModel
    from dit_blocks.nodes.transformer import StagesSteps
    dit, clip, _ = out(LoadEmbedded)
    (model,) = out(ToModel, dit=dit)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a large red circle", "a blue square"))
    made = model, positive, negative, torch.randn(1, dit.channels, 9, 8)
    plain, hidden = picture(model, made), wire(alone(made), grafted)[1]
    changed = picture(every(model, hidden), made)
    same(by_wires(made, grafted), changed)
    assert not torch.equal(plain, changed)
    (led,) = out(StagesSteps, dit=dit, hidden=hidden, start_percent=0.0, end_percent=1.0)
    same(changed, picture(out(ToModel, dit=led)[0], made))
    same(plain, picture(out(ToModel, dit=dit)[0], made))


CASES = {f"{name}: wires are the model": (wires_are_the_model, name) for name in MODELS}
CASES |= {f"{name}: {title}": (check, name) for name in ("sd3", "flux_dev", "wan") for title, check in {
    "other positions": other_positions, "shares": shares, "its own nodes": same_as_its_own_nodes, "by the dit": by_the_dit}.items()}
CASES |= {"flux_dev: leaves nothing": (leaves_nothing, "flux_dev"), "flux_dev: an adapter's patches": (an_adapter_s_patches, "flux_dev"),
          "flux_dev: refusals": (refusals, "flux_dev")}
CASES |= {f"zoo: {name}": (by_the_generic_way, name) for name in ("chroma", "hunyuan_video", "cosmos_predict2")}
CASES["the pack's own model"] = (the_pack_s_own_model, None)


if __name__ == "__main__":
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])
