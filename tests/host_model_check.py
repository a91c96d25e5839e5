"""Runs under ComfyUI's Python: the pipeline as wires over a MODEL against core's KSampler. One line of JSON a case: {"case", "error"}.

    python tests/host_model_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

import gc
import os
from pathlib import Path
import resource
import subprocess
import sys

from everywhere import some
from host_models import MODELS, costs_untold, ksampler, run_cases, start
from host_stages_check import lora
import torch


def out(node, **inputs) -> tuple:
    return node.execute(**inputs).result


def wires(model, positive, negative, samples, sampler="euler", cfg=4.0, denoise=1.0, steps=4, seed=5, chain=False, mask=None, rows=None,
          scheduler="simple", dit=None, skip_penultimate=False, **latent):
    """The same as `ksampler`, node by node. rows: of a patch schedule; dit: in place of the MODEL."""
    from dit_blocks.nodes.denoise import AddNoise, Denoise, DenoiseStep, Schedule
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify, Unpatchify
    from dit_blocks.nodes.patch_schedule import PatchSchedule
    dit = dit or out(FromModel, model=model)[0]
    latent |= {"samples": samples} | ({} if mask is None else {"noise_mask": mask})
    tokens, _ = out(Patchify, latent=latent, patch_size=0, dit=dit)
    (sigmas,) = out(Schedule, dit=dit, steps=steps, scheduler=scheduler, denoise=denoise, skip_penultimate=skip_penultimate)
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=seed)
    common = {"dit": dit, "sigmas": sigmas, "positive": positive, "negative": negative, "cfg": cfg, "solver": sampler}
    if chain:
        for step in range(steps):
            tokens, _ = out(DenoiseStep, tokens=tokens, step=step, **common)
    else:
        plan = out(PatchSchedule, **rows)[0] if rows else None
        tokens, *_ = out(Denoise, tokens=tokens, start_step=0, end_step=10000, patch_schedule=plan, **common)
    return out(Unpatchify, tokens=tokens)[0]["samples"]


def same(made, mask=None, chain=False, batch_index=None, **how) -> None:
    import comfy.sample
    model, positive, negative, samples = made
    noise = comfy.sample.prepare_noise(samples, how.get("seed", 5), batch_index)
    kept = comfy.sample.prepare_noise
    comfy.sample.prepare_noise = lambda *_: noise
    try:
        expected = ksampler(*made, mask=mask, **how)
    finally:
        comfy.sample.prepare_noise = kept
    before = samples.clone()
    more = {} if batch_index is None else {"batch_index": batch_index}
    actual = wires(*made, mask=mask, chain=chain, skip_penultimate=how.get("sampler") == "uni_pc", **how, **more)
    assert torch.equal(expected, actual), f"differs by {(expected - actual).abs().max()}"
    assert torch.equal(before, samples) and expected.isfinite().all()


def inside(model, positive, negative, samples, sampler="euler", cfg=4.0, denoise=1.0, steps=4, seed=5, mask=None, dit=None):
    """The same as `ksampler`, every step by its stages. dit: in place of the MODEL."""
    from dit_blocks.nodes.denoise import AddNoise, Schedule
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify, Unpatchify
    from dit_blocks.nodes.transformer import Condition, FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks, SamplerStep
    dit = dit or out(FromModel, model=model)[0]
    tokens, _ = out(Patchify, latent={"samples": samples} | ({} if mask is None else {"noise_mask": mask}), patch_size=0, dit=dit)
    (sigmas,) = out(Schedule, dit=dit, steps=steps, scheduler="simple", denoise=denoise, skip_penultimate=sampler == "uni_pc")
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=seed)
    negative = None if cfg == 1 else negative
    for step in range(steps):
        (hidden,) = out(Condition, dit=dit, x=tokens, positive=positive, negative=negative, sigmas=sigmas, step=step)
        (hidden,) = out(PatchEmbed, dit=dit, x=hidden)
        (hidden,) = out(PositionEmbed, dit=dit, hidden=hidden, mode="model", seed=0)
        for blocks in ("0", f"1-{len(dit.stages.over(hidden['hidden']).kinds) - 1}"):
            (hidden,) = out(RunBlocks, dit=dit, hidden=hidden, blocks=blocks, strength=1.0)
        (prediction,) = out(FinalLayer, dit=dit, hidden=hidden)
        (prediction,) = out(Guidance, prediction=prediction, cfg=cfg)
        tokens, _ = out(SamplerStep, dit=dit, tokens=tokens, prediction=prediction, sigmas=sigmas, step=step, solver=sampler)
    return out(Unpatchify, tokens=tokens)[0]["samples"]


def same_inside(made, **how) -> None:
    expected, actual = ksampler(*made, **how), inside(*made, **how)
    assert torch.equal(expected, actual), f"differs by {(expected - actual).abs().max()}"


def inside_with_patches(name, make):
    made = make()
    changed, calls = patched(made)
    same_inside(changed)
    assert calls


def patched(made):
    """The model with a function wrapper, a CFG function, a post-CFG function and another shift, as packs add them."""
    model, *rest = made
    model = model.clone()
    calls = []

    def wrapper(apply_model, args):
        calls.append("wrapper")
        return apply_model(args["input"], args["timestep"], **args["c"]) * 0.9
    model.set_model_unet_function_wrapper(wrapper)
    model.set_model_sampler_cfg_function(lambda args: args["cond"] + (args["cond"] - args["uncond"]) * 0.5)
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 1.01)
    return (model, *rest), calls


def keeps_patches(name, make):
    made = make()
    changed, calls = patched(made)
    same(changed)
    assert calls and not torch.equal(ksampler(*made), ksampler(*changed))


def keeps_regions_and_windows(name, make):
    model, positive, negative, samples = make()
    text, values = positive[0]
    left = torch.zeros(1, *samples.shape[-2:])
    left[..., :3] = 1
    regional = [[text, {**values, "mask": left, "mask_strength": 0.7}], [text * 0.5, {**values, "start_percent": 0.2, "end_percent": 0.8}]]
    made = (model, regional, negative, samples)
    same(made)
    assert not torch.equal(ksampler(*made), ksampler(model, positive, negative, samples))


def keeps_what_it_samples(name, make):
    """A cancelled or failed run leaves the MODEL as it was, and memory does not grow."""
    from comfy.model_management import InterruptProcessingException

    from dit_blocks.nodes.comfyui import host
    made = make(batch=2)
    expected, kept = ksampler(*made), host.throw_if_interrupted

    def cancel_at(count):
        seen = iter(range(count))

        def check():
            if next(seen, None) is None:
                raise InterruptProcessingException
        return check
    sizes = []
    for i in range(12):
        try:
            host.throw_if_interrupted = cancel_at(2) if i % 2 else kept
            wires(*made)
            assert not i % 2, "not cancelled"
        except InterruptProcessingException:
            pass
        finally:
            host.throw_if_interrupted = kept
        gc.collect()
        sizes.append(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize())
    assert torch.equal(expected, ksampler(*made))
    assert not made[0].patches and not made[0].model.diffusion_model._forward_hooks
    assert sizes[-1] <= sizes[3] * 1.02, sizes


def as_many_calls_as_ksampler(name, make):
    """DiT Denoise asks the model as often as KSampler, for as many pictures at once. What it tries out first on shapes has another size."""
    made = make(batch=2)
    calls = {wires: [], ksampler: []}
    for run, shapes in calls.items():
        hook = made[0].model.diffusion_model.register_forward_pre_hook(lambda _, args, shapes=shapes: shapes.append(args[0].shape))
        with costs_untold():
            run(*made, sampler="heun")
        hook.remove()
    ours, core = ([shape for shape in shapes if shape[2:] == made[3].shape[2:]] for shapes in calls.values())
    assert ours == core and len(ours) > 4, calls


def peak_memory(run) -> int:
    """Bytes that 2 steps by `run` take at most, each in a process of its own."""
    # memory that is freed goes back at once: by itself glibc keeps up to a twentieth, now more, now less
    done = subprocess.run([sys.executable, *sys.argv[:3], "--peak", run.__name__], capture_output=True, text=True, check=True,
                          env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"})
    return int(done.stdout.splitlines()[-1])


def print_peak(run) -> None:
    import dit_blocks.nodes.denoise  # noqa: F401  code is no part of the measure
    model, positive, negative, _ = MODELS["flux_dev"]()
    run(model, positive, negative, torch.randn(1, 16, 96, 96), steps=2)
    # VmHWM, for what getrusage tells begins with what the process had that started this one
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak) * 1024)


def as_small_as_ksampler(name, make):
    ours, core = peak_memory(wires), peak_memory(ksampler)
    assert ours <= core * 1.02, (ours, core)


def unet():
    """A small SD1-like UNet as a MODEL: epsilon prediction, no patches."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    config = comfy.supported_models.SD15(dict(
        image_size=8, in_channels=4, model_channels=32, out_channels=4, num_res_blocks=[1], channel_mult=(1,), num_heads=2,
        use_spatial_transformer=True, transformer_depth=[1], transformer_depth_middle=1, transformer_depth_output=[1, 1], context_dim=16,
        dtype=torch.float32))
    torch.manual_seed(0)
    model = comfy.model_base.BaseModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    cpu = torch.device("cpu")
    text = [torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    positive, negative = ([[one, {}]] for one in text)
    return comfy.model_patcher.CoreModelPatcher(model, cpu, cpu), positive, negative, torch.randn(1, 4, 9, 7)


def a_unet_has_steps_and_stages(name=None, make=None):
    made = unet()
    same(made)
    same(made, sampler="dpmpp_2m", denoise=0.6, chain=True)
    assert torch.equal(ksampler(*made), wires(*made, sampler="ddim"))
    assert torch.equal(ksampler(*made), inside(*made))


def tokens_of_another_model(name=None, make=None):
    from dit_blocks.nodes.denoise import DenoiseStep
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify
    (sd3, positive, negative, samples), flux = MODELS["sd3"](), MODELS["flux_dev"]()[0]
    sd3, flux = (out(FromModel, model=model)[0] for model in (sd3, flux))
    tokens, _ = out(Patchify, latent={"samples": samples}, patch_size=0, dit=flux)
    try:
        out(DenoiseStep, dit=sd3, tokens=tokens, sigmas=sd3.schedule(4), step=0, positive=positive, negative=negative, cfg=4.0, solver="euler")
    except ValueError as error:
        assert str(error) == "DiT Denoise Step: the tokens are not in the latent space of SD3 (MODEL): wire its dit into Patchify"
    else:
        raise AssertionError("not refused")


def dit_to_model(name=None, make=None):
    """KSampler on the embedded model draws what Denoise draws; a LoRA on that MODEL leaves the DIT as it was."""
    import comfy.sd

    from dit_blocks.nodes.denoise import AddNoise, Denoise, Schedule
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import FromModel, ToModel
    from dit_blocks.nodes.patch import Patchify, Unpatchify
    dit, clip, vae = out(LoadEmbedded)
    (model,) = out(ToModel, dit=dit)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text))
                          for text in ("a large red circle at the top left on a navy background", ""))
    empty = torch.zeros(1, 16, 32, 32)

    def denoise():
        tokens, _ = out(Patchify, latent={"samples": empty}, patch_size=0, dit=dit)
        (sigmas,) = out(Schedule, dit=dit, steps=8, scheduler="simple", denoise=1.0)
        tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=5)
        tokens, *_ = out(Denoise, dit=dit, tokens=tokens, sigmas=sigmas, positive=positive, negative=negative, cfg=3.0, solver="euler",
                        start_step=0, end_step=8)
        return out(Unpatchify, tokens=tokens)[0]["samples"]
    ours = denoise()
    core = ksampler(model, positive, negative, empty, steps=8, cfg=3.0)
    difference = (vae.decode(ours) - vae.decode(core)).abs().mean().item()
    assert difference <= 1 / 255, difference
    key = "diffusion_model.model.joint_blocks.0.x_block.mlp.fc1.weight"
    rows, columns = model.model_state_dict()[key].shape
    changed = model.clone()
    assert changed.add_patches({key: ("diff", (torch.randn(rows, columns),))})
    assert not torch.equal(core, ksampler(changed, positive, negative, empty, steps=8, cfg=3.0))
    assert torch.equal(ours, denoise())
    try:
        out(ToModel, dit=out(FromModel, model=model)[0])
    except ValueError as error:
        assert "is a MODEL already" in str(error)
    else:
        raise AssertionError("not refused")


def refusals(name, make):
    model, positive, negative, samples = make()

    def refused(message, **changes):
        try:
            wires(**{**dict(model=model, positive=positive, negative=negative, samples=samples), **changes})
        except ValueError as error:
            assert str(error).startswith(message) and "\n" not in str(error), error
        else:
            raise AssertionError(f"not refused: {message}")
    refused("Patchify: the model's latents have 16 channels, this one has 4", samples=torch.randn(1, 4, 8, 8))
    refused("DiT Denoise: cfg 4 needs a negative", negative=None)
    refused("DiT Denoise: positive conditioning has width 33, SD3 (MODEL) reads width 32", positive=[[torch.zeros(1, 7, 33), {}]])
    refused("DiT Denoise: ddim is for DDPM models", sampler="ddim")


CHECKS = {
    "euler": lambda name, make: same(make()),
    "dpmpp_2m": lambda name, make: same(make(), sampler="dpmpp_2m"),
    "cfg 1": lambda name, make: same(make(), cfg=1.0, sampler="heun"),
    "batch of 2": lambda name, make: same(make(batch=2)),
    "image to image": lambda name, make: same(make(batch=2), denoise=0.6, sampler="dpmpp_2m"),
    "a step a node": lambda name, make: same(make(), sampler="dpmpp_2m", chain=True),
    "noise mask": lambda name, make: same(make(batch=2), mask=(torch.arange(256).view(1, 16, 16) % 7 / 6), denoise=0.6),
    "bfloat16 weights": lambda name, make: same(make(dtype=torch.bfloat16)),
    "stages": lambda name, make: same_inside(make(batch=2)),
    "stages, image to image": lambda name, make: same_inside(lora(make()), denoise=0.6, sampler="dpmpp_2m",
                                                              mask=torch.arange(256).view(1, 16, 16) % 7 / 6),
    "stages, cfg 1": lambda name, make: same_inside(make(dtype=torch.bfloat16), cfg=1.0),
    "LoRA": lambda name, make: same(lora(make())),
}
SOME = {
    "patches are kept": (keeps_patches, ("sd3", "flux_dev", "wan")),
    "stages with patches": (inside_with_patches, ("sd3", "flux_dev", "wan")),
    "regions are kept": (keeps_regions_and_windows, ("sd3", "flux_dev")),
    "cancelled runs": (keeps_what_it_samples, ("sd3",)),
    "peak memory": (as_small_as_ksampler, ("flux_dev",)),
    "as many calls": (as_many_calls_as_ksampler, ("sd3", "flux_dev")),
    "refusals": (refusals, ("sd3",)),
    "batch index": (lambda name, make: same(make(batch=2), batch_index=[3, 1]), ("sd3",)),
}
CASES = {f"{name}: {title}": (check, name) for i, (title, check) in enumerate(CHECKS.items()) for name in some(MODELS, i, ("sd3",))}
CASES |= {f"{name}: {title}": (check, name) for title, (check, names) in SOME.items() for name in names}
CASES |= {"DiT to MODEL": (dit_to_model, None), "a UNet": (a_unet_has_steps_and_stages, None),
          "tokens of another model": (tokens_of_another_model, None)}


def main(comfyui: str, packs: str, *only: str) -> None:
    start(comfyui, packs)
    if only[:1] == ("--peak",):
        with torch.inference_mode():
            return print_peak({run.__name__: run for run in (wires, ksampler)}[only[1]])
    run_cases(CASES, *only)


if __name__ == "__main__":
    main(*sys.argv[1:])
