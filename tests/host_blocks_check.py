"""Runs under ComfyUI's Python: KSampler over DiT Blocks (MODEL) against the same plan laid out as stages. One line of JSON a case.

    python tests/host_blocks_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

import sys

from host_model_check import out, patched
from host_models import MODELS, ksampler, run_cases, start
from host_riders import hooked
from host_stages_check import lora
import torch

STEPS, SEED = 4, 5


def planned(model, blocks="all", strength=1.0, start_percent=0.0, end_percent=1.0):
    from dit_blocks.nodes.transformer import BlocksModel
    return out(BlocksModel, model=model, blocks=blocks, strength=strength, start_percent=start_percent, end_percent=end_percent)[0]


def blocks_of(model) -> int:
    from dit_blocks.nodes.comfyui.stages import stages_of
    return len(stages_of(model.model.diffusion_model).kinds)


def by_stages(made, parts, steps=range(STEPS)):
    """KSampler's picture, every step by stages: in `steps` with these parts (blocks, strength) of the blocks, in others with all."""
    from dit_blocks.nodes.denoise import AddNoise, Schedule
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify, Unpatchify
    from dit_blocks.nodes.transformer import Condition, FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks, SamplerStep
    model, positive, negative, samples = made
    (dit,) = out(FromModel, model=model)
    tokens, *_ = out(Patchify, latent={"samples": samples}, patch_size=0, dit=dit)
    (sigmas,) = out(Schedule, dit=dit, steps=STEPS, scheduler="simple", denoise=1.0)
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=SEED)
    for step in range(STEPS):
        (hidden,) = out(Condition, dit=dit, x=tokens, positive=positive, negative=negative, sigmas=sigmas, step=step)
        (hidden,) = out(PatchEmbed, dit=dit, x=hidden)
        (hidden,) = out(PositionEmbed, dit=dit, hidden=hidden, mode="model", seed=0)
        for blocks, strength in parts if step in steps else (("all", 1.0),):
            (hidden,) = out(RunBlocks, dit=dit, hidden=hidden, blocks=blocks, strength=strength)
        (prediction,) = out(FinalLayer, dit=dit, hidden=hidden)
        (prediction,) = out(Guidance, prediction=prediction, cfg=4.0)
        tokens, _ = out(SamplerStep, dit=dit, tokens=tokens, prediction=prediction, sigmas=sigmas, step=step, solver="euler")
    return out(Unpatchify, tokens=tokens)[0]["samples"]


def picture(model, made):
    return ksampler(model, *made[1:])


def same(one, other) -> None:
    assert one.isfinite().all() and torch.equal(one, other), f"differs by {(one - other).abs().max()}"


def a_plan_is_its_stages(name, make):
    """Blocks left out, repeated, reversed and weakened, in all steps: what the stages give."""
    made, last = make(batch=2), blocks_of(make()[0]) - 1
    plain = picture(made[0], made)
    plans = {
        "all but 1": dict(blocks="all but 1"), "0,1": dict(blocks=f"0,2-{last}" if last > 1 else "0"),
        "weak": dict(blocks="all", strength=0.5),
        "one weak": dict(blocks=f"0*0.5,1-{last}"),
        "twice": dict(blocks=f"0,0-{last}"),
        "reversed": dict(blocks=f"{last - 1}-0,{last}")}
    parts = {
        "all but 1": [("all but 1", 1.0)], "0,1": [(plans["0,1"]["blocks"], 1.0)], "weak": [("all", 0.5)],
        "one weak": [("0", 0.5), (f"1-{last}", 1.0)], "twice": [(f"0,0-{last}", 1.0)], "reversed": [(plans["reversed"]["blocks"], 1.0)]}
    for what, plan in plans.items():
        changed = picture(planned(made[0], **plan), made)
        try:
            same(by_stages(made, parts[what]), changed)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error
        assert not torch.equal(changed, plain), what
    same(plain, picture(made[0], made))


def all_blocks_are_the_model(name, make):
    made = lora(make())
    plain, last = picture(made[0], made), blocks_of(made[0]) - 1
    for plan in (dict(), dict(blocks=f"0-{last}"), dict(blocks=f"0*1,1-{last}"), dict(blocks="all but 0", start_percent=1.0)):
        same(plain, picture(planned(made[0], **plan), made))
    half = planned(planned(made[0], blocks="all", strength=0.5), blocks="all", strength=2.0)
    same(plain, picture(half, made))


def from_a_percent_to_another(name, make):
    """The plan holds in the steps of its range, and two nodes work beside each other and together."""
    made = make()
    sigmas = made[0].get_model_object("model_sampling").percent_to_sigma
    from dit_blocks.nodes.comfyui.handle_of_model import HandleOfModel
    levels = HandleOfModel(made[0]).schedule(STEPS)
    inside = [i for i in range(STEPS) if sigmas(0.6) <= levels[i] <= sigmas(0.2)]
    assert 0 < len(inside) < STEPS
    skipped = planned(made[0], "all but 1", start_percent=0.2, end_percent=0.6)
    same(by_stages(made, [("all but 1", 1.0)], inside), picture(skipped, made))
    last = blocks_of(made[0]) - 1
    both = planned(skipped, f"0*0.5,1-{last}", start_percent=0.2, end_percent=0.6)
    same(by_stages(made, [("0", 0.5), (f"2-{last}", 1.0)] if last > 1 else [("0", 0.5)], inside), picture(both, made))
    same(by_stages(made, [("all but 1", 1.0)], inside), picture(skipped, made))  # which the second node left as it was


def leaves_nothing(name, make):
    """Neither a run nor a run that fails leaves anything on the MODEL."""
    made = make()
    plain, module = picture(made[0], made), made[0].model.diffusion_model
    changed = planned(made[0], "all but 1")
    expected = picture(changed, made)
    block = changed.model.diffusion_model.get_submodule("joint_blocks.0")
    hook = block.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("on its way")))
    try:
        picture(changed, made)
        raise AssertionError("did not fail")
    except RuntimeError as error:
        assert str(error) == "on its way"
    hook.remove()
    assert "forward" not in vars(module) and not made[0].wrappers and not made[0].patches and not made[0].model_options.get("dit_blocks_plans")
    same(plain, picture(made[0], made))
    same(expected, picture(changed, made))
    seen, forward = [], type(module).forward.__get__(module)

    def own(*args, **kwargs):  # of another pack
        seen.append(1)
        return forward(*args, **kwargs)
    vars(module)["forward"] = own
    try:
        same(expected, picture(changed, made))
        assert seen and vars(module)["forward"] is own
    finally:
        del vars(module)["forward"]


def rides_along(name, make):
    """A function wrapper, CFG functions, hooks on a conditioning: with the plan as without it."""
    changed, calls = patched(make())
    skipping = planned(changed[0], "all but 1")
    same(by_stages(changed, [("all but 1", 1.0)]), picture(skipping, changed))
    made, _ = hooked(False)[1]()
    replaced = made[0].clone()
    replaced.set_model_patch_replace(lambda args, _: args, "dit", "double_block", 1)
    expected = picture(replaced, made)
    same(expected, picture(planned(made[0], "all but 1"), made))
    assert not torch.equal(expected, picture(planned(make()[0], "all but 1"), make()))


def refused(message: str, run) -> None:
    try:
        run()
    except ValueError as error:
        assert str(error).startswith(message) and "\n" not in str(error) and len(str(error)) < 350, error
    else:
        raise AssertionError(f"not refused: {message}")


def refusals(name, make):
    from comfy.patcher_extension import WrappersMP

    from dit_blocks.nodes.model import FromModel
    made = model, positive, negative, samples = make()
    refused("DiT Blocks (MODEL): this model has blocks 0 to 4, there is no block 7", lambda: planned(model, "all but 7"))
    refused("DiT Blocks (MODEL): blocks are numbers and ranges", lambda: planned(model, "first"))
    refused('DiT Blocks (MODEL): blocks: a factor is a number after *, as in "7*0.5", not', lambda: planned(model, "0*half"))
    refused("DiT Blocks (MODEL): start_percent 0.5 is after end_percent 0.2", lambda: planned(model, "0", start_percent=0.5, end_percent=0.2))
    wrapped = planned(model, "all but 1")
    wrapped.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", lambda executor, *args, **kwargs: executor(*args, **kwargs))
    refused("DiT Blocks (MODEL): this MODEL carries a wrapper around the whole diffusion model (other), which a plan", lambda: picture(wrapped, made))
    refused("DiT Condition: this MODEL carries DiT Blocks (MODEL), whose plan stages would leave out",
            lambda: by_stages((planned(model, "all but 1"), *made[1:]), [("all", 1.0)]))
    (dit,) = out(FromModel, model=planned(model, "all but 1"))
    assert dit.stages.kinds  # DiT Denoise samples by the plan
    from host_samplers_check import by_wires
    expected = ksampler(planned(model, "all but 1"), positive, negative, samples, sampler="euler")
    assert torch.equal(expected, by_wires((planned(model, "all but 1"), positive, negative, samples), negative=negative)[0])


def by_the_generic_way(name, make=None):
    """A model without a stage adapter."""
    import importlib
    for file in ("host_zoo_unets", "host_zoo_transformers", "host_zoo_videos"):
        importlib.import_module(file)
    from host_zoo import ZOO, rnd
    model, positive, negative, shape = ZOO[name]()
    made = model, positive, negative, rnd(1, *shape, seed=3)
    plain, skipped = picture(model, made), picture(planned(model, "all but 1"), made)
    same(plain, picture(planned(model), made))
    same(by_stages(made, [("all but 1", 1.0)]), skipped)
    weak = picture(planned(model, "0*0.5"), made)
    assert weak.isfinite().all() and not torch.equal(plain, skipped) and not torch.equal(weak, plain)
    same(plain, picture(model, made))
    refused("DiT Blocks (MODEL): this model has blocks 0 to", lambda: picture(planned(model, "all but 99"), made))


def the_pack_s_own_model(name=None, make=None):
    """The default model by DiT to MODEL: a plan is what DiT Blocks do on its DIT, and its MODEL has stages."""
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import ToModel
    dit, clip, _ = out(LoadEmbedded)
    (model,) = out(ToModel, dit=dit)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a large red circle", "a blue square"))
    made = model, positive, negative, torch.randn(1, 16, 9, 8)
    plain = picture(model, made)
    same(plain, by_stages(made, [("all", 1.0)]))
    same(plain, picture(planned(model), made))
    changed = picture(planned(model, "all but 2"), made)
    same(by_stages(made, [("all but 2", 1.0)]), changed)
    assert not torch.equal(plain, changed)


CASES = {f"{name}: a plan is its stages": (a_plan_is_its_stages, name) for name in MODELS}
CASES |= {f"{name}: {title}": (check, name) for name in ("sd3", "flux_dev", "pixart", "wan") for title, check in {
    "all blocks": all_blocks_are_the_model, "percents": from_a_percent_to_another}.items()}
CASES |= {f"{name}: generic": (by_the_generic_way, name) for name in ("chroma", "krea2", "omnigen2", "hunyuan_video")}
CASES |= {"sd3: rides along": (rides_along, "sd3"), "sd3: nothing is left": (leaves_nothing, "sd3"), "flux_dev: refusals": (refusals, "flux_dev"),
          "the pack's own model": (the_pack_s_own_model, None)}


if __name__ == "__main__":
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])
