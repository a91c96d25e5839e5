"""Every architecture of ComfyUI that samples, small and random: the wires give KSampler's latent bit for bit, and patches of another size
run or are refused in one line. Runs under ComfyUI's Python: host_zoo_check.py COMFYUI PACKS [words].

A case is an architecture. What core itself can't sample in some way is left out of that way.
"""

from contextlib import contextmanager, suppress
import importlib
from pathlib import Path
import re
import sys

from host_models import costs_untold, run_cases, start
import torch

FILES = ("host_zoo_unets", "host_zoo_transformers", "host_zoo_videos", "host_zoo_sounds")
NAMES = [name for file in FILES for name in re.findall(r"^@arch\ndef (\w+)", (Path(__file__).parent / f"{file}.py").read_text(), re.M)]
SEED, STEPS = 5, 3
# cfg 1 and 4, batches of 1 and 2, empty and given latents, a mask, every solver and several schedules, whole and step by step
WAYS = {
    "empty": dict(empty=True),
    "image to image, cfg 1": dict(batch=2, cfg=1.0, sampler="heun", scheduler="normal", denoise=0.6),
    "a mask": dict(batch=2, mask=True, sampler="dpmpp_2m", scheduler="karras", denoise=0.7),
    "a chain": dict(chain=True, sampler="dpmpp_2m", scheduler="sgm_uniform"),
    "ddim": dict(mask=True, sampler="ddim"),
    "stages": dict(stages=True, batch=2, steps=2),
    "generic stages": dict(stages=True, batch=2, steps=2, generic=True),  # of an architecture that has an adapter
}
# whose blocks keep a memory of their own, or are not run by a call of each
WHOLE_ONLY = ("seedvr2", "wan_animate2")
REFUSED = {"minimax_h3": "on scales of their own"}  # whole steps too, in a line with these words
# cells that share a token, where it is not what the model's patch_size says
PATCHES = {"krea2": 2, "anima": 2, "cosmos_t2v": 2, "cosmos_i2v": 2, "cosmos_predict2": 2, "cosmos_predict2_i2v": 2, "seedvr2": 2,
           "ideogram4": 1, "lens": 1, "ace_step": 1, "cogvideox15_i2v": 2, "hidream_o1": 32, "sd15": 1, "sdxl": 1, "ltxv": 1,
           "stable_audio": 1, "stable_audio3": 1, "ace_step15": 1, "minimax_music3": 1, "hunyuan3d": 1, "hunyuan3d_21": 1}
MANY = 90  # architectures whose stages are compared, at least


def out(node, **inputs):
    return node.execute(**inputs).result


def by_core(model, positive, negative, latent, cfg, sampler, scheduler, denoise, steps=STEPS):
    import nodes as core
    return core.common_ksampler(model, SEED, steps, cfg, sampler, scheduler, positive, negative, dict(latent), denoise=denoise)[0]["samples"]


@contextmanager
def generically(chosen: bool):
    """While it lasts, architectures with a stage adapter go the generic way too."""
    from dit_blocks.nodes.comfyui import handle_of_model
    from dit_blocks.nodes.comfyui.stages import GenericStages
    own = handle_of_model.stages_of
    handle_of_model.stages_of = GenericStages if chosen else own
    try:
        yield
    finally:
        handle_of_model.stages_of = own


def by_wires(*made, generic=False, **how):
    with generically(generic), costs_untold():
        return wired(*made, **how)


def wired(model, positive, negative, latent, cfg, sampler, scheduler, denoise, steps=STEPS, chain=False, stages=False,
          patch_size=0):
    from dit_blocks.nodes.denoise import AddNoise, Denoise, DenoiseStep, Schedule
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify, Unpatchify
    (dit,) = out(FromModel, model=model)
    tokens, *_ = out(Patchify, latent=dict(latent), patch_size=patch_size, dit=dit)
    (sigmas,) = out(Schedule, dit=dit, steps=steps, scheduler=scheduler, denoise=denoise)
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=SEED)
    how = dict(dit=dit, sigmas=sigmas, positive=positive, negative=negative, cfg=cfg, solver=sampler)
    for step in range(steps) if chain else ():
        tokens, _ = out(DenoiseStep, tokens=tokens, step=step, **how)
    for step in range(steps) if stages else ():
        tokens = by_stages(tokens=tokens, step=step, **how)
    if not (chain or stages):
        tokens, *_ = out(Denoise, tokens=tokens, start_step=0, end_step=steps, **how)
    return out(Unpatchify, tokens=tokens)[0]["samples"]


def by_stages(dit, tokens, sigmas, step, positive, negative, cfg, solver):
    from dit_blocks.nodes.transformer import Condition, FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks, SamplerStep
    (hidden,) = out(Condition, dit=dit, x=tokens, positive=positive, negative=negative, sigmas=sigmas, step=step)
    (hidden,) = out(PatchEmbed, dit=dit, x=hidden)
    (hidden,) = out(PositionEmbed, dit=dit, hidden=hidden, mode="model", seed=0)
    (hidden,) = out(RunBlocks, dit=dit, hidden=hidden, blocks="all", strength=1.0)
    (prediction,) = out(FinalLayer, dit=dit, hidden=hidden)
    (prediction,) = out(Guidance, prediction=prediction, cfg=cfg)
    return out(SamplerStep, dit=dit, tokens=tokens, prediction=prediction, sigmas=sigmas, step=step, solver=solver)[0]


def latents(shape, batch: int = 1, empty: bool = False, mask: bool = False):
    """A LATENT; where a shape is a list of shapes, one of several tensors."""
    from comfy.nested_tensor import NestedTensor
    from host_zoo import rnd
    made = [rnd(batch, *one, seed=3 + i) * (not empty) for i, one in enumerate(shape if isinstance(shape, list) else [shape])]
    latent = {"samples": NestedTensor(made) if isinstance(shape, list) else made[0]}
    return {**latent, "noise_mask": torch.arange(256).view(1, 16, 16) % 7 / 6} if mask else latent


def same(a, b) -> bool:
    if getattr(a, "is_nested", False):
        return all(same(one, other) for one, other in zip(a.unbind(), b.unbind(), strict=True))
    return a.shape == b.shape and torch.equal(a, b)


def refused(error: Exception) -> str:
    text = str(error)
    assert isinstance(error, ValueError) and "\n" not in text and len(text) < 400, repr(error)[:1000]
    return text


def core_draws(model, positive, negative, shape, batch: int, empty: bool, mask: bool, how: dict):
    """→ LATENT, what KSampler makes of it, or None where core can't. Some models core itself can't sample in batches."""
    for count in (batch, 1):
        latent = latents(shape, count, empty, mask)
        with suppress(Exception):
            return latent, by_core(model, positive, negative, latent, **how)
    return latent, None


def equals_ksampler(name: str, _=None) -> None:
    from host_zoo import ZOO

    from dit_blocks.nodes.comfyui.stages import GenericStages, stages_of
    model, positive, negative, shape = ZOO[name]()
    if name in REFUSED:
        return not_begun(REFUSED[name], model, positive, negative, latents(shape))
    found, compared, drawn = {}, 0, {}
    no_adapter = isinstance(stages_of(model.model.diffusion_model), GenericStages)
    for way, asked in WAYS.items():
        asked = dict(asked)
        if asked.get("generic") and no_adapter:
            continue
        given = asked.pop("batch", 1), asked.pop("empty", False), asked.pop("mask", False)
        how = dict(cfg=4.0, sampler="euler", scheduler="simple", denoise=1.0, steps=STEPS)
        how |= {key: asked.pop(key) for key in how if key in asked}
        key = given, tuple(how.values())
        if key not in drawn:
            drawn[key] = core_draws(model, positive, negative, shape, *given, how)
        latent, expected = drawn[key]
        if expected is None:  # core can't: not ours to compare
            continue
        try:
            actual = by_wires(model, positive, negative, latent, **how, **asked)
        except ValueError as error:
            line = refused(error)
            known = (way == "ddim" and "ddim is for DDPM" in line
                     or way == "stages" and name in WHOLE_ONLY and line.endswith("use DiT Denoise Step"))
            found |= {} if known else {way: line}
            continue
        compared += 1
        if not same(expected, actual):
            found[way] = f"differs: {(expected - actual).abs().max():.3g} of {expected.std():.3g}" if torch.is_tensor(actual) else "differs"
    assert not found, found
    assert compared, "core can't sample it"
    coarse(name, model, positive, negative, shape)


def not_begun(words: str, *made) -> None:
    try:
        by_wires(*made, cfg=4.0, sampler="euler", scheduler="simple", denoise=1.0)
    except ValueError as error:
        assert words in refused(error), error
    else:
        raise AssertionError("not refused")


def coarse(name: str, model, positive, negative, shape) -> None:
    """The model's own patch size is told rightly; twice it, by resampling, runs or is refused in one line."""
    from dit_blocks.nodes.model import FromModel
    (dit,) = out(FromModel, model=model)
    assert dit.patch_size == PATCHES.get(name, dit.patch_size), dit.patch_size
    latent, how = latents(shape), dict(cfg=4.0, sampler="euler", scheduler="simple", denoise=1.0)
    try:
        assert by_wires(model, positive, negative, latent, **how, patch_size=2 * dit.patch_size).isfinite().all()
    except ValueError as error:
        refused(error)


assert len(NAMES) - len(WHOLE_ONLY) >= MANY
CASES = {name: (equals_ksampler, name) for name in NAMES}


def main(comfyui: str, packs: str, *only: str) -> None:
    start(comfyui, packs)
    import comfy.utils
    comfy.utils.PROGRESS_BAR_ENABLED = False
    for file in FILES:
        importlib.import_module(file)
    run_cases({case: ((lambda name, make, what=case: equals_ksampler(what)), None) for case in CASES}, *only)


if __name__ == "__main__":
    main(*sys.argv[1:])
