"""Runs under ComfyUI's Python: patch sizes over the steps of a MODEL. One line of JSON a case: {"case", "error"}.

    python tests/host_patch_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

import sys

from everywhere import some
from host_model_check import out, unet, wires
from host_models import MODELS, ksampler, refused, run_cases, start
import torch


def scheduled(model, rows: str, **more):
    from dit_blocks.nodes.patch_schedule import PatchScheduleModel
    return out(PatchScheduleModel, model=model, rows=rows, **more)[0]


def own_size(model) -> int:
    from dit_blocks.nodes.comfyui.patched_model import patch_sizes_of
    return patch_sizes_of(model)[0][0]


def own_patches_change_nothing(name, make):
    made = model, *rest = make()
    expected, own = ksampler(*made), own_size(model)
    for patched in (scheduled(model, f"{own}"), scheduled(model, f"{own} until 50%, then {own}"), scheduled(model, "99", enabled=False)):
        assert torch.equal(expected, ksampler(patched, *rest))


def wires_are_ksampler(name, make, method="auto", times=2, **size):
    """Denoise with a schedule gives what KSampler gives on the MODEL with it, and the MODEL is left as it was."""
    if name and name.startswith("pixart"):  # upstream's positions need an even number of cells, and more than 32, a side
        size = {"size": (108, 102), **size}
    made = model, *rest = make(**size)
    own = own_size(model)
    plain, rows = ksampler(*made), f"{times * own} until 50%, then {own}"
    patched = ksampler(scheduled(model, rows, patch_method=method), *rest)
    assert patched.isfinite().all() and not torch.equal(plain, patched)
    assert torch.equal(patched, wires(*made, rows={"rows": rows, "patch_method": method}))
    assert torch.equal(plain, ksampler(*made))


def coarse_steps_take_their_own_guidance(name, make):
    made = model, *rest = make()
    own = own_size(model)
    rows = {"rows": f"{2 * own} until 50%, then {own}", "coarse_cfg": 1.5}
    patched = ksampler(scheduled(model, **rows), *rest)
    assert not torch.equal(patched, ksampler(scheduled(model, rows["rows"]), *rest))
    torch.testing.assert_close(patched, wires(*made, rows=rows), atol=1e-4, rtol=1e-4)
    assert torch.equal(ksampler(scheduled(model, f"{own}", coarse_cfg=1.5), *rest), ksampler(*made))


def fewer_tokens(name, make):
    """The transformer sees a quarter of the tokens in the coarse steps, and only there."""
    model, *rest = make(size=(16, 16))
    own, seen = own_size(model), []
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2:]))
    ksampler(scheduled(model, f"{2 * own} until 50%, then {own}"), *rest)
    hook.remove()
    assert seen[0] == (8, 8) and seen[-1] == (16, 16) and seen == sorted(seen), seen


def wrappers_are_chained(name, make):
    model, *rest = make()
    calls, own = [], own_size(model)

    def wrapper(apply_model, args):
        calls.append(args["input"].shape[-2:])
        return apply_model(args["input"], args["timestep"], **args["c"]) * 0.9
    wrapped = model.clone()
    wrapped.set_model_unet_function_wrapper(wrapper)
    patched = ksampler(scheduled(wrapped, f"{2 * own} until 50%, then {own}"), *rest)
    assert len(set(calls)) == 2 and not torch.equal(patched, ksampler(scheduled(model, f"{2 * own} until 50%, then {own}"), *rest))


def by_core(first, last, positive, negative, latent, cut, sampler, steps=4) -> torch.Tensor:
    """KSampler (Advanced) twice: one MODEL hands its noise on to the other."""
    import comfy.sample
    how = {"steps": steps, "cfg": 4.0, "sampler_name": sampler, "scheduler": "simple", "positive": positive, "negative": negative, "seed": 5,
           "disable_pbar": True}
    half = comfy.sample.sample(first, comfy.sample.prepare_noise(latent, 5), latent_image=latent, start_step=0, last_step=cut, **how)
    return comfy.sample.sample(last, torch.zeros_like(half), latent_image=half, start_step=cut, last_step=10000, force_full_denoise=True,
                               disable_noise=True, **how)


def in_a_row(first, last, positive, negative, latent, cut, sampler, sizes, steps=4) -> torch.Tensor:
    """DiT Denoise twice, each with its own MODEL as dit and patches of its own size."""
    from dit_blocks.dit_impl.tokens.other_sizes import repatch
    from dit_blocks.nodes.denoise import AddNoise, Denoise, Schedule
    from dit_blocks.nodes.patch import Patchify, Unpatchify
    tokens = out(Patchify, latent={"samples": latent}, patch_size=sizes[0], dit=first)[0]
    (sigmas,) = out(Schedule, dit=last, steps=steps, scheduler="simple", denoise=1.0)
    tokens, _ = out(AddNoise, dit=last, tokens=tokens, sigmas=sigmas, step=0, seed=5)
    for dit, size, start, end in ((first, sizes[0], 0, cut), (last, sizes[1], cut, 10000)):
        tokens, *_ = out(Denoise, dit=dit, tokens=repatch(tokens, size), sigmas=sigmas, start_step=start, end_step=end, positive=positive,
                         negative=negative, cfg=4.0, solver=sampler)
    return out(Unpatchify, tokens=tokens)[0]["samples"]


def two_models_take_turns(make, rows: str, other) -> None:
    """Rows 'of other' are DiT Denoise on the other MODEL, then on this one, bit for bit, and KSampler (Advanced) so to rounding; neither
    MODEL is changed."""
    from dit_blocks.nodes.model import FromModel
    made = model, positive, negative, latent = make()
    theirs, ours = (out(FromModel, model=one)[0] for one in (other, model))
    sizes = int(rows.split()[0]), int(rows.split()[-1])
    before = [ksampler(one, positive, negative, latent) for one in (model, other)]
    found = {}
    for sampler in ("euler", "heun"):
        found[sampler] = wires(*made, sampler=sampler, rows={"rows": rows, "other": theirs})
        assert torch.equal(found[sampler], in_a_row(theirs.reading(sizes[0]), ours, positive, negative, latent, 2, sampler, sizes))
        if sizes[0] == own_size(other):
            torch.testing.assert_close(found[sampler], by_core(other, model, positive, negative, latent, 2, sampler), atol=1e-4, rtol=1e-4)
    assert found["euler"].isfinite().all() and not any(torch.equal(found["euler"], one) for one in before)
    assert all(torch.equal(then, ksampler(one, positive, negative, latent)) for then, one in zip(before, (model, other)))


def another_of_its_family(name, make):
    two_models_take_turns(make, "2 of other until 50%, then 2", MODELS["sd35_medium"]()[0])
    two_models_take_turns(make, "4 of other until 50%, then 2", MODELS["sd35_medium"]()[0])


def radiance_at_two_patch_sizes(name, make):
    """Chroma Radiance reads pixels; its two checkpoints differ in the patch size."""
    import comfy.supported_models as supported
    from host_zoo import build, cond
    from host_zoo_unets import RADIANCE
    fine, coarse = (build(supported.ChromaRadiance, {**RADIANCE, "patch_size": p}) for p in (4, 8))
    assert (own_size(fine), own_size(coarse)) == (4, 8)
    pixels = torch.zeros(1, 3, 24, 16)
    two_models_take_turns(lambda: (fine, cond(1, 32), cond(2, 32), pixels), "8 of other until 50%, then 4", coarse)


def own_models_take_turns(name, make):
    """The pack's own models, which ComfyUI's memory management loads one after the other; a MODEL is of another family."""
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import FromModel, ToModel
    from dit_blocks.nodes.training import NewDiT
    dit, clip, _ = out(LoadEmbedded)
    (other,) = out(NewDiT, width=64, depth=2, heads=2, patch_sizes="8", latent_channels=0, position="sincos", conditioning="text", classes=10,
                   prediction="x0", picture_size=256, seed=0, like=dit, clip=clip)
    made = None, *(clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a large red circle in the center", "")), torch.zeros(1, dit.channels, 16, 16)
    rows = "8 of other until 50%, then 4"
    assert torch.equal(wires(*made, dit=dit, rows={"rows": rows, "other": other}), in_a_row(other, dit, *made[1:], 2, "euler", (8, 4)))
    as_model = out(FromModel, model=out(ToModel, dit=other)[0])[0]
    try:
        wires(*made, dit=dit, rows={"rows": rows, "other": as_model})
    except ValueError as error:
        assert "'of other' takes a model of the same family" in str(error), error
    else:
        raise AssertionError("not refused: a MODEL beside a DIT")


def no_family(name, make):
    from dit_blocks.nodes.model import FromModel
    made = make()
    for other, message in ((MODELS["flux_dev"]()[0], "other (Flux (MODEL)) has prompts: prompts of Flux"),
                           (MODELS["wan"]()[0], "DiT Denoise: 'of other' takes a model of the same family: other (WAN21")):
        theirs = out(FromModel, model=other)[0]
        try:
            wires(*made, rows={"rows": "2 of other until 50%, then 2", "other": theirs})
        except ValueError as error:
            assert message in str(error) and "\n" not in str(error), error
        else:
            raise AssertionError(f"not refused: {message}")


def refusals(name, make):
    model, positive, negative, latent = make()
    own = own_size(model)

    refused(f"Patch Schedule (MODEL): resample takes multiples of SD3 (MODEL)'s own patch size {own}, not 3",
            lambda: scheduled(model, "3 until 50%, then 2", patch_method="resample"))
    refused("Patch Schedule (MODEL): SD3 (MODEL) knows patch sizes 2, not 4", lambda: scheduled(model, "4 until 50%, then 2", patch_method="native"))
    refused("Patch Schedule (MODEL): KSampler runs one model, and the rows say 'of other'", lambda: scheduled(model, "4 of other until 50%, then 2"))
    refused("Patch Schedule (MODEL): the patch schedule does not cover the last steps", lambda: scheduled(model, "4 until 50%"))
    refused("smaller than patch size 64", lambda: ksampler(scheduled(model, "64 until 50%, then 2"), positive, negative, latent))
    assert torch.equal(ksampler(model, positive, negative, latent), wires(model, positive, negative, latent))


def the_embedded_model_is_native(name, make):
    """The default model as a MODEL reads its own three sizes by their own weights: KSampler is Denoise with the same schedule."""
    from dit_blocks.dit_impl.handle import patch_schedule
    from dit_blocks.dit_impl.tokens.wire import unfold
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import ToModel
    dit, clip, vae = out(LoadEmbedded)
    (model,) = out(ToModel, dit=dit)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a large red circle in the center", ""))
    empty, rows, sigmas = torch.zeros(1, dit.channels, 32, 32), "8 until 20%, then 4 until 50%, then 2", dit.schedule(10)
    tokens, _ = dit.add_noise(dit.fold({"samples": empty}), sigmas, 0, 5)
    for method in ("native", "resample"):  # also where it has weights that are not to be used
        core = ksampler(scheduled(model, rows, patch_method=method), positive, negative, empty, steps=10, cfg=2.0)
        plan = patch_schedule.parse_schedule(rows, method)
        ours, _, approximate = patch_schedule.denoise_by_schedule(dit, tokens, plan, sigmas, positive, negative, 2.0, "euler", 0, 10)
        assert bool(approximate) == (method == "resample")
        difference = (vae.decode(unfold(ours)) - vae.decode(core)).abs().mean().item()
        assert difference <= 1 / 255, (method, difference)


CHECKS = {
    "own patches": own_patches_change_nothing,
    "resample": wires_are_ksampler,
    "pi_resize": lambda name, make: wires_are_ksampler(name, make, "pi_resize", times=3),
}
SOME = {
    "resample, batch of 2 with frames": (lambda name, make: wires_are_ksampler(name, make, batch=2), ("sd3", "wan", "qwen_image")),
    "guidance of coarse steps": (coarse_steps_take_their_own_guidance, ("sd3", "wan")),
    "fewer tokens": (fewer_tokens, ("sd3", "flux_dev")),
    "wrappers are chained": (wrappers_are_chained, ("sd3", "flux_dev")),
    "another of its family": (another_of_its_family, ("sd3",)),
    "no family": (no_family, ("sd3",)),
    "refused": (refusals, ("sd3",)),
}
CASES = {f"{name}: {what}": (check, name) for i, (what, check) in enumerate(CHECKS.items()) for name in some(MODELS, i, ("sd3",))}
CASES |= {f"{name}: {what}": (check, name) for what, (check, names) in SOME.items() for name in names}
CASES |= {"a UNet: resample": (lambda name, make: wires_are_ksampler(name, lambda: unet()), None),
          "two models of the pack": (own_models_take_turns, None),
          "Radiance at two patch sizes": (radiance_at_two_patch_sizes, None),
          "the embedded model: native": (the_embedded_model_is_native, None)}

if __name__ == "__main__":
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])
