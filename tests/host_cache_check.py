"""Runs under ComfyUI's Python: KSampler over Step Cache (MODEL), on every architecture of the zoo and beside DiT Denoise. One line of JSON a case.

    python tests/host_cache_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks [words]
"""

import importlib
import sys

from everywhere import some
from host_blocks_check import by_stages, picture, planned, refused
from host_model_check import out
from host_models import ksampler, run_cases, start
from host_stages_check import lora
from host_zoo_check import FILES, NAMES, WHOLE_ONLY, by_core, latents, same
import torch

STEPS, SEED = 6, 5
NEVER, ALWAYS = 1e-9, 1e9  # thresholds
NESTED = ("ltxav_with_sound", "triposplat", "minimax_h3")  # a latent of several tensors, such as a film with its sound


def caching(model, threshold, start=0.0, end=1.0):
    """→ the MODEL with a cache, what it tells after each run."""
    from dit_blocks.dit_impl.handle.step_cache import StepCache
    from dit_blocks.nodes.comfyui.planned_blocks import with_step_cache
    said = []
    return with_step_cache(model, StepCache(threshold, start, end), lambda told, sigmas: said.append(list(told))), said


def hits(said) -> list[bool]:
    return [one.reused for one in said[-1]]


def some_thresholds(made, cfg=4.0) -> list[float]:
    """Some of the changes that are there, so that some steps fall below each of them and some do not."""
    model, said = caching(made[0], NEVER)
    ksampler(model, *made[1:], cfg=cfg, steps=STEPS)
    changes = sorted(one.change for one in said[-1] if one.change is not None)
    return [changes[len(changes) * part // 4] * 1.001 for part in (1, 2, 3)]


def left_on(model) -> list:
    """What a run could have left on a MODEL and on its modules."""
    modules = model.model.diffusion_model.modules()
    return [name for module in modules for name in vars(module) if name == "forward"] + [
        sorted(model.wrappers), sorted(model.model_options), sorted(model.model_options.get("transformer_options", {})),
        sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.model.diffusion_model.modules())]


def of_the_zoo(name: str) -> None:
    """Threshold 0 and one that nothing falls below are KSampler bit for bit; above all, every step but the first leaves blocks out."""
    from host_zoo import ZOO

    from dit_blocks.nodes.step_cache import StepCacheModel
    model, positive, negative, shape = ZOO[name]()
    latent, how = latents(shape), dict(cfg=4.0, sampler="euler", scheduler="simple", denoise=1.0)

    def drawn(model):
        return by_core(model, positive, negative, latent, **how)
    try:
        plain = drawn(model)
    except Exception:  # core can't: not ours to compare
        return
    before = left_on(model)
    (zero,) = out(StepCacheModel, model=model, threshold=0.0, start_percent=0.0, end_percent=1.0)
    assert same(drawn(zero), plain), "threshold 0 changes the picture"
    always, said = caching(model, ALWAYS)
    if name in (*WHOLE_ONLY, *NESTED):
        return refused("Step Cache: ", lambda: drawn(always))
    never, told = caching(model, NEVER)
    assert same(drawn(never), plain) and told and not any(hits(told)), "nothing is left out, and the picture is another"
    kept = left_on(always)
    changed = drawn(always)
    assert changed.isfinite().all() and not same(changed, plain)
    calls = hits(said)
    assert any(calls) and calls == [False] * calls.index(True) + [True] * (len(calls) - calls.index(True)), calls
    assert same(drawn(always), changed) and hits(said) == calls, "a second run is another"
    assert left_on(always) == kept and left_on(model) == before and same(drawn(model), plain), "something is left"


def _denoised(made, cfg=4.0, chain=False, steps=STEPS, sampler="euler"):
    from dit_blocks.nodes.denoise import AddNoise, Denoise, DenoiseStep, Schedule
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify, Unpatchify
    model, positive, negative, samples = made
    (dit,) = out(FromModel, model=model)
    tokens, *_ = out(Patchify, latent={"samples": samples}, patch_size=0, dit=dit)
    (sigmas,) = out(Schedule, dit=dit, steps=steps, scheduler="simple", denoise=1.0)
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=SEED)
    how = dict(dit=dit, sigmas=sigmas, positive=positive, negative=negative, cfg=cfg, solver=sampler)
    if not chain:
        tokens, *_ = out(Denoise, tokens=tokens, start_step=0, end_step=steps, **how)
    for step in range(steps) if chain else ():
        tokens, _ = out(DenoiseStep, tokens=tokens, step=step, **how)
    return out(Unpatchify, tokens=tokens)[0]["samples"], tokens


def drawn_alike(name, make):
    """KSampler, DiT Denoise and a chain of DiT Denoise Step: the same picture and the same hits, guided and not, one and two pictures."""
    for batch, cfg in ((1, 1.0), (2, 4.0)):
        made = make(batch=batch)
        model, said = caching(made[0], some_thresholds(made, cfg)[1])
        for sampler in ("euler", "dpmpp_2m"):
            expected = ksampler(model, *made[1:], cfg=cfg, steps=STEPS, sampler=sampler)
            runs, calls = len(said), hits(said)
            for chain in (False, True):
                found, tokens = _denoised((model, *made[1:]), cfg, chain, sampler=sampler)
                assert torch.equal(expected, found), f"chain {chain}: differs by {(expected - found).abs().max()}"
                assert [one.reused for one in tokens["hits"]] == calls and "remembered" not in tokens
            assert len(said) == runs  # which DiT Denoise tells itself
            assert any(calls)


def by_hand(made, threshold, cfg=4.0):
    """KSampler's euler with a first block and a rest for each batch of prompts, told apart by their texts. → the picture, hits."""
    from dit_blocks.nodes.comfyui.stages import stages_of
    model, positive, negative, samples = made
    module, memory, said = model.model.diffusion_model, {}, []

    def forward(*args, **kwargs):
        del vars(module)["forward"]
        try:
            texts = tuple(kwargs["context"].flatten().tolist())
            stages = stages_of(module)
            before = stages.position_embed(stages.patch_embed(stages.condition(*args, **kwargs)))
            first = stages.run_blocks(before, [0])
            added, known = first.x - before.x, memory.get(texts)
            near = known is not None and max(((a - b).abs().mean() / b.abs().mean()).item() for a, b in zip(added, known[0])) < threshold
            said.append(near)
            if near:
                return stages.head(first.but(x=first.x + known[1]))
            done = stages.run_blocks(first, range(1, len(stages.kinds)))
            memory[texts] = added, done.x - first.x
            return stages.head(done)
        finally:
            vars(module)["forward"] = forward
    vars(module)["forward"] = forward
    try:
        return ksampler(model, positive, negative, samples, cfg=cfg, steps=STEPS), said
    finally:
        vars(module).pop("forward", None)


def each_side_goes_by_its_own(name, make):
    """Positive and negative in one model call, and in a call each as their texts share no batch, of which one falls away half-way: what the
    rule gives by hand."""
    made = make()
    apart = [[torch.cat([text, text[:, :6]], dim=1), extras] for text, extras in made[2]]
    until_half = [[text, {**extras, "end_percent": 0.5}] for text, extras in apart]
    third = [[torch.cat([text, text[:, :4]], dim=1), extras] for text, extras in made[2]]
    for positive, negative, count in ((made[1], made[2], STEPS), (made[1], apart, 2 * STEPS), ([*made[1], *until_half], third, None),
                                      ([*until_half, *made[1]], third, None)):
        asked = made[0], positive, negative, made[3]
        found = 0
        for threshold in (*some_thresholds(asked), ALWAYS):
            model, said = caching(made[0], threshold)
            expected, calls = by_hand(asked, threshold)
            actual = ksampler(model, *asked[1:], steps=STEPS)
            assert hits(said) == calls and (len(calls) == count if count else 2 * STEPS < len(calls) < 3 * STEPS), (threshold, hits(said), calls)
            assert torch.equal(expected, actual), f"differs by {(expected - actual).abs().max()}"
            found += sum(calls)
        assert found


def the_generic_way_is_the_adapter_s(name, make):
    """A model that has an adapter, by replaying its forward: the same tokens are kept and added again."""
    from dit_blocks.nodes.comfyui import planned_blocks
    from dit_blocks.nodes.comfyui.stages import GenericStages
    made, own = make(batch=2), planned_blocks.stages_of
    for threshold in (*some_thresholds(made), ALWAYS):
        model, said = caching(made[0], threshold)
        expected, calls = ksampler(model, *made[1:], steps=STEPS), hits(said)
        planned_blocks.stages_of = GenericStages
        try:
            actual = ksampler(model, *made[1:], steps=STEPS)
        finally:
            planned_blocks.stages_of = own
        assert any(calls) and hits(said) == calls and torch.equal(expected, actual), f"differs by {(expected - actual).abs().max()}"


def with_a_plan(name, make):
    """A plan of blocks and a cache: the plan's first block decides, and where nothing falls below the threshold it is the plan alone."""
    made = make()
    skipping = planned(made[0], "all but 1")
    expected = picture(skipping, made)
    never, _ = caching(skipping, NEVER)
    assert torch.equal(picture(never, made), expected)
    assert torch.equal(picture(planned(caching(made[0], NEVER)[0], "all but 1"), made), expected)
    always, said = caching(skipping, ALWAYS)
    assert not torch.equal(picture(always, made), expected) and hits(said) == [False, True, True, True]
    half, said = caching(planned(made[0], "all but 1", end_percent=0.5), ALWAYS)
    picture(half, made)
    assert hits(said).count(False) == 2  # another plan is begun anew


def within_its_share(name, make):
    made = make()
    model, said = caching(made[0], ALWAYS, 0.3, 0.8)
    sampling = made[0].get_model_object("model_sampling")
    found = ksampler(model, *made[1:], steps=STEPS)
    inside = [sampling.percent_to_sigma(0.8) <= one.sigma <= sampling.percent_to_sigma(0.3) for one in said[-1]]
    inside[inside.index(True)] = False
    assert hits(said) == inside and sum(inside) > 1 and len(inside) == STEPS and found.isfinite().all()


def refusals(name, make):
    from comfy.patcher_extension import WrappersMP

    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.step_cache import StepCache, StepCacheModel
    model, *given = make()

    def node(model, threshold=0.1, start_percent=0.0, end_percent=1.0):
        return out(StepCacheModel, model=model, threshold=threshold, start_percent=start_percent, end_percent=end_percent)[0]
    refused("Step Cache (MODEL): threshold is 0 or more, not -1", lambda: node(model, -1.0))
    refused("Step Cache (MODEL): start_percent 0.5 is after end_percent 0.2", lambda: node(model, 0.1, 0.5, 0.2))
    patched = model.clone()
    patched.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", "double_block", 1)
    refused("Step Cache (MODEL): this MODEL carries patches inside its blocks (patches_replace of dit)", lambda: node(patched))
    later = node(model)
    later.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", "double_block", 1)
    refused("Step Cache: this MODEL carries patches inside its blocks (patches_replace of dit)", lambda: ksampler(later, *given))
    wrapped = node(model)
    wrapped.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", lambda executor, *args, **kwargs: executor(*args, **kwargs))
    refused("Step Cache: this MODEL carries a wrapper around the whole diffusion model (other)", lambda: ksampler(wrapped, *given))
    (dit,) = out(FromModel, model=node(model))
    assert "stages run all blocks" in dit.remark
    (again,) = out(StepCache, dit=out(FromModel, model=model)[0], threshold=0.1, start_percent=0.0, end_percent=1.0)
    assert "stages run all blocks" in again.remark and not out(FromModel, model=model)[0].remark
    assert torch.equal(by_stages((node(model, 1e9), *given), [("all", 1.0)]), ksampler(model, *given))


def patches_of_one_call(name, make):
    """Core's SkipLayerGuidanceDiT asks once more with patches inside blocks: that call runs whole, and both are told of."""
    from host_riders import extra
    made = make()
    guided = extra("nodes_slg", "SkipLayerGuidanceDiT", made[0], 3.0, 0.0, 0.9, "1")
    plain = ksampler(guided, *made[1:], steps=STEPS)
    never, _ = caching(guided, NEVER)
    assert torch.equal(plain, ksampler(never, *made[1:], steps=STEPS))
    always, said = caching(guided, ALWAYS)
    assert not torch.equal(plain, ksampler(always, *made[1:], steps=STEPS))
    assert sum(hits(said)) == STEPS - 1 and len(hits(said)) > STEPS


def clones_of_other_weights(name, make):
    """A chain over two clones of a MODEL, one with a LoRA: what the other's blocks added is not taken for its own; over one clone it is."""
    from dit_blocks.nodes.denoise import AddNoise, DenoiseStep, Schedule
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify
    made = make()
    plain, other = (caching(one[0], ALWAYS)[0] for one in (made, lora(made)))
    (dit,), (changed,) = out(FromModel, model=plain), out(FromModel, model=other)
    tokens, *_ = out(Patchify, latent={"samples": made[3]}, patch_size=0, dit=dit)
    (sigmas,) = out(Schedule, dit=dit, steps=STEPS, scheduler="simple", denoise=1.0)
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=SEED)
    for step, one in enumerate((dit, dit, changed, changed)):
        tokens, _ = out(DenoiseStep, dit=one, tokens=tokens, step=step, sigmas=sigmas, positive=made[1], negative=made[2], cfg=4.0, solver="euler")
    assert [one.reused for one in tokens["hits"]] == [False, True, False, True], tokens["hits"]


def the_pack_s_own_model(name=None, make=None):
    """The default model: a cache on its DIT, on its MODEL, and on the DIT before it becomes a MODEL are one."""
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import ToModel
    from dit_blocks.nodes.step_cache import StepCache
    dit, clip, _ = out(LoadEmbedded)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a large red circle", "a blue square"))
    given = positive, negative, torch.zeros(1, dit.channels, 16, 16)
    (model,) = out(ToModel, dit=dit)
    on_model, said = caching(model, 0.3)
    expected = ksampler(on_model, *given, steps=12, seed=SEED)
    calls = hits(said)
    assert any(calls) and not torch.equal(expected, ksampler(model, *given, steps=12, seed=SEED))
    (cached,) = out(StepCache, dit=dit, threshold=0.3, start_percent=0.0, end_percent=1.0)
    assert torch.equal(expected, ksampler(out(ToModel, dit=cached)[0], *given, steps=12, seed=SEED))
    assert not out(ToModel, dit=dit)[0].model_options.get("dit_blocks_step_cache")
    from dit_blocks.nodes.denoise import AddNoise, Denoise
    (sigmas,) = (dit.schedule(12),)
    tokens, _ = out(AddNoise, dit=cached, tokens=cached.fold({"samples": given[2]}), sigmas=sigmas, step=0, seed=SEED)
    tokens, *_ = out(Denoise, dit=cached, tokens=tokens, sigmas=sigmas, start_step=0, end_step=12, positive=positive, negative=negative, cfg=4.0,
                     solver="euler")
    assert [one.reused for one in tokens["hits"]] == calls


SOME = ("sd3", "flux_dev", "pixart", "wan")
CASES = {f"zoo {name}": (lambda _, make, name=name: of_the_zoo(name), None) for name in some(NAMES, 1)}
CASES |= {f"{name}: {title}": (check, name) for name in SOME for title, check in {
    "drawn alike": drawn_alike, "each side goes by its own": each_side_goes_by_its_own,
    "the generic way": the_generic_way_is_the_adapter_s}.items()}
CASES |= {"sd3: with a plan": (with_a_plan, "sd3"), "sd3: within its share": (within_its_share, "sd3"), "sd3: refusals": (refusals, "sd3"),
          "sd3: clones of other weights": (clones_of_other_weights, "sd3"),
          "sd3: patches of one call": (patches_of_one_call, "sd3"), "the pack's own model": (the_pack_s_own_model, None)}


if __name__ == "__main__":
    start(*sys.argv[1:3])
    import comfy.utils
    comfy.utils.PROGRESS_BAR_ENABLED = False
    for file in FILES:
        importlib.import_module(file)
    run_cases(CASES, *sys.argv[3:])
