"""Runs under ComfyUI's Python: the pack's own DITs as wires against KSampler over DiT to MODEL, bit for bit, and core's nodes on what comes
with them. One line of JSON a case: {"case", "error"}.

    python tests/host_own_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

from pathlib import Path
import sys
import tempfile

from host_model_check import inside, out, wires
from host_models import conditioning, ksampler, run_cases, start
import torch

CAPTIONS = ("a large red circle at the left on a navy background", "a large yellow cross at the right on a navy background", "")


def default(side=32, batch=1):
    """The default model: → dit, the MODEL over it, two prompts and the negative, an empty latent."""
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import ToModel
    dit, clip, _ = out(LoadEmbedded)
    prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in CAPTIONS]
    return dit, out(ToModel, dit=dit)[0], *prompts, torch.zeros(batch, dit.channels, side, side)


def small(flow, text: bool, dtype=torch.float32):
    """A random model of this library in ComfyUI's layers: → dit, the MODEL over it, positive and negative."""
    from dit_blocks.dit_impl.handle.backbone import Backbone
    from dit_blocks.dit_impl.model.dit import DiT, DiTConfig
    from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
    from dit_blocks.dit_impl.tokens.wire import latent_format
    from dit_blocks.nodes.comfyui import host
    from dit_blocks.nodes.model import ToModel
    torch.manual_seed(0)
    with torch.inference_mode(False):
        if text:
            model = MMDiT(MMDiTConfig((2, 4), 4, 64, 2, 2, context_width=32, pooled_width=48, qk_norm=True, position="picture",
                                      position_base=8.0), host.ops())
        else:
            model = DiT(DiTConfig(in_channels=4, width=64, depth=3, heads=2, classes=10), host.ops())
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        model = model.eval().requires_grad_(False).to(dtype)
    dit = Backbone(model, latent_format(torch.full((4,), 1.3), torch.full((4,), 0.1)), flow, "a small DiT", picture_size=64).settle()
    given = (conditioning(1, 48), conditioning(2, 48)) if text else (dit.class_conditioning("3"), dit.class_conditioning(""))
    return dit, out(ToModel, dit=dit)[0], *given


def equal(dit, model, positive, negative, samples, way=wires, **how) -> None:
    core = {name: value for name, value in how.items() if name != "chain"}
    expected, actual = ksampler(model, positive, negative, samples, **core), way(model, positive, negative, samples, dit=dit, **how)
    assert torch.equal(expected, actual), f"differs by {(expected - actual).abs().max()} of {expected.std()}"
    assert expected.isfinite().all() and expected.std() > 0.05


def at_every_size(name=None, make=None):
    for side, sampler in ((32, "heun"), (33, "dpmpp_2m"), (25, "euler")):  # 256², 264², 200²
        dit, model, positive, _, negative, empty = default(side)
        equal(dit, model, positive, negative, empty, sampler=sampler, cfg=3.0, steps=3)
        if sampler != "heun":
            equal(dit, model, positive, negative, empty, sampler=sampler, way=inside, cfg=3.0, steps=2)
            equal(dit, model, positive, negative, empty, sampler=sampler, chain=True, cfg=3.0, steps=2)


def a_region_of_the_default_model(name=None, make=None):
    import nodes as core
    dit, model, red, yellow, negative, empty = default()
    area = core.ConditioningSetArea().append(yellow, 128, 256, 128, 0, 4.0)[0]
    equal(dit, model, red + area, negative, empty, cfg=3.0, steps=3)


def regions() -> dict:
    """Conditionings as core's nodes make them: what → (positive, negative)."""
    import comfy.hooks

    import nodes as core
    red, yellow, negative = (conditioning(seed, 48) for seed in (1, 2, 3))
    where = torch.linspace(0, 1, 64).expand(2, 64, 64).clone()
    corner = torch.zeros(1, 64, 64)
    corner[:, 40:50, 2:9] = 1
    area = core.ConditioningSetArea().append(yellow, 128, 256, 128, 0, 4.0)[0]
    share = core.ConditioningSetAreaPercentage().append(yellow, 0.5, 0.4, 0.3, 0.5, 1.5)[0]
    mask = core.ConditioningSetMask().append(yellow, where, "default", 1.3)[0]
    bounds = core.ConditioningSetMask().append(yellow, corner, "mask bounds", 0.7)[0]
    some = core.ConditioningSetTimestepRange().set_range(yellow, 0.3, 0.6)[0]
    strong = core.ConditioningSetAreaStrength().append(yellow, 2.5)[0]
    (rest,) = comfy.hooks.set_default_conds_and_combine(conds=[mask], new_conds=[red])
    return {"two prompts": (red + yellow, negative), "three and two": (red + yellow + strong, negative + red), "an area": (red + area, negative),
            "an area alone": (area, negative), "an area in shares": (red + share, negative), "an area of the negative": (red, negative + area),
            "a mask": (red + mask, negative), "a mask's bounds": (red + bounds, negative), "a range of steps": (red + some, negative),
            "an area's strength": (red + strong, negative), "a default": (rest, negative),
            "all at once": (red + area + share + mask + bounds + some, negative + some + bounds)}


def every_region(name=None, make=None):
    """KSampler's picture by DiT Denoise and by the stages, whatever a conditioning asks for."""
    dit, model, *_ = small(flows()["x0"], True)
    empty = torch.zeros(2, dit.channels, 33, 30)
    for what, (positive, negative) in regions().items():
        for cfg in (3.0, 1.0):
            for way in (wires, inside) if what != "an area of the negative" or cfg != 1 else (wires,):  # which stages at cfg 1 leave out
                try:
                    equal(dit, model, positive, negative, empty, way=way, cfg=cfg)
                except AssertionError as error:
                    raise AssertionError(f"{what}, cfg {cfg}, by {way.__name__}: {error}") from None
    positive, negative = regions()["all at once"]
    taken = torch.randn(2, dit.channels, 33, 30, generator=torch.Generator().manual_seed(1))
    for how in ({"denoise": 0.6}, {"mask": torch.rand(1, 66, 60), "sampler": "dpmpp_2m"}, {"scheduler": "karras", "sampler": "heun"}):
        equal(dit, model, positive, negative, taken, **how)


def flows() -> dict:
    from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
    return {"epsilon": DDPM(), "v": DDPM("v", beta_schedule="scaled_linear"), "velocity": RectifiedFlow(shift=3.0), "x0": RectifiedFlow("x0", 2.0)}


def every_flow(name=None, make=None):
    """Each prediction, in each type of weights, from text and from a class, by each solver; KSampler's schedules too."""
    import comfy.samplers
    taken, mask = torch.randn(2, 4, 15, 13, generator=torch.Generator().manual_seed(1)), torch.arange(780).view(1, 30, 26) % 7 / 6
    for kind, flow in flows().items():
        for text, dtypes in ((True, (torch.float32, torch.float8_e4m3fn)), (False, (torch.bfloat16, torch.float16))):
            for dtype in dtypes:
                made = small(flow, text, dtype)
                for sampler in ("euler", "heun", "dpmpp_2m", *(("ddim",) if kind in ("epsilon", "v") else ())):
                    equal(*made, taken, sampler=sampler, mask=mask, denoise=0.5, steps=3)
                equal(*made, torch.zeros_like(taken), sampler="dpmpp_2m", steps=3)
                equal(*made, taken, way=inside, denoise=0.5, steps=2)
            for scheduler in ("simple", "normal", "sgm_uniform", "karras", "exponential"):
                for steps, denoise in ((7, 1.0), (30, 0.02), (1001, 1.0), (12, 0.37), (3, 1.0000000000000002)):
                    core = comfy.samplers.KSampler(made[1], steps, torch.device("cpu"), "euler", scheduler, denoise).sigmas
                    assert torch.equal(core, made[0].schedule(steps, scheduler, denoise)), (kind, scheduler, steps, denoise)


def texts_of_two_lengths(name=None, make=None):
    """In one call, repeated to a common length, or in two: as KSampler decides."""
    dit, model, *_ = small(flows()["velocity"], True)
    generator = torch.Generator().manual_seed(1)
    for lengths in ((5, 5), (5, 10), (5, 25), (5, 7), (4, 6)):
        given = [[[torch.randn(1, length, 32, generator=generator), {"pooled_output": torch.randn(1, 48, generator=generator)}]] for length in lengths]
        for way in (wires, inside):
            equal(dit, model, *given, torch.zeros(1, 4, 15, 13), way=way)


def more_steps_than_levels(name=None, make=None):
    """Equal neighbours in a schedule, where core's dpmpp_2m gives NaN."""
    dit, model, *given = small(flows()["velocity"], True)
    taken = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    equal(dit, model, *given, taken, cfg=1.0000000000000002, steps=30, denoise=0.02)
    assert wires(model, *given, taken, dit=dit, sampler="dpmpp_2m", steps=30, denoise=0.02).isfinite().all()


def to_the_noise_and_back(name=None, make=None):
    """Core's Flip Sigmas: the noise that a picture would come from, as core's sampler finds it until its last division by 0, and back."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import FlipSigmas

    from dit_blocks.nodes.denoise import Denoise
    from dit_blocks.nodes.patch import Patchify, Unpatchify
    dit, model, *given = small(flows()["velocity"], True)
    taken = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    falling = dit.schedule(200)
    rising = FlipSigmas.execute(falling).result[0]
    tokens, _ = out(Patchify, latent={"samples": taken}, patch_size=0, dit=dit)
    common = {"dit": dit, "positive": given[0], "cfg": 1.0, "solver": "euler", "start_step": 0}
    some, *_ = out(Denoise, tokens=tokens, sigmas=rising, end_step=150, **common)
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": given[0]})
    core = guider.sample(torch.zeros_like(taken), taken, comfy.samplers.ksampler("euler"), rising[:151], disable_pbar=True)
    assert torch.equal(out(Unpatchify, tokens=some)[0]["samples"], core)
    noise, *_ = out(Denoise, tokens=tokens, sigmas=rising, end_step=200, **common)
    again, *_ = out(Denoise, tokens=noise, sigmas=falling, end_step=200, **common)
    back = out(Unpatchify, tokens=again)[0]["samples"]
    assert (back - taken).abs().max() < 0.05 < (noise["tokens"] - tokens["tokens"]).abs().max(), (back - taken).abs().max()


def refused(message: str, run) -> None:
    try:
        run()
    except Exception as error:
        assert message in str(error) and "\n" not in str(error) and len(str(error)) < 250, str(error)
    else:
        raise AssertionError(f"not refused: {message}")


def what_it_has_no_place_for(name=None, make=None):
    dit, model, positive, _, negative, empty = default()
    for key, line in (("control", "a ControlNet, which the embedded DiT has no place for"), ("gligen", "GLIGEN boxes, which the embedded DiT")):
        asked = [[positive[0][0], {**positive[0][1], key: object()}]]
        refused(line, lambda: wires(model, asked, negative, empty, dit=dit))
    asked = [[positive[0][0], {**positive[0][1], "gligen": ("position", object(), [])}]]
    refused("GLIGEN boxes, which the embedded DiT has no place for", lambda: dit_model(model).extra_conds(cross_attn=asked[0][0], **asked[0][1]))
    refused("hooks, which change a MODEL", lambda: wires(model, [[positive[0][0], {**positive[0][1], "hooks": object()}]], negative, empty, dit=dit))


def dit_model(model):
    return model.model


def hooks_over_the_model(name=None, make=None):
    """A LoRA as a hook on a conditioning: KSampler over DiT to MODEL takes it, and DiT Denoise on DiT from MODEL gives the same."""
    import comfy.hooks
    _, model, positive, _, negative, empty = default()
    key = "diffusion_model.model.joint_blocks.0.x_block.mlp.fc1"
    rows, columns = model.model_state_dict()[f"{key}.weight"].shape
    generator = torch.Generator().manual_seed(3)
    lora = {f"{key}.lora_up.weight": torch.randn(rows, 2, generator=generator), f"{key}.lora_down.weight": torch.randn(2, columns, generator=generator)}
    hooked = comfy.hooks.set_conds_props(conds=[positive], strength=1.0, set_cond_area="default",
                                         hooks=comfy.hooks.create_hook_lora(lora, 1.0, 1.0))[0]
    core = ksampler(model, hooked, negative, empty)
    assert not torch.equal(core, ksampler(model, positive, negative, empty))
    assert torch.equal(core, wires(model, hooked, negative, empty))


def another_type(name=None, make=None):
    """Model Compute Dtype and a core ModelSampling node after DiT to MODEL."""
    from comfy_extras.nodes_model_advanced import ModelComputeDtype, ModelSamplingSD3
    for model, positive, negative, empty in (default()[1:3] + default()[4:], (*small(flows()["x0"], True)[1:], torch.zeros(1, 4, 8, 8))):
        plain = ksampler(model, positive, negative, empty)
        for dtype in ("bf16", "fp16", "fp32"):
            (changed,) = ModelComputeDtype().patch(model, dtype)
            drawn = ksampler(changed, positive, negative, empty)
            assert drawn.isfinite().all() and torch.equal(drawn, wires(changed, positive, negative, empty))
            assert torch.equal(drawn, plain) == (dtype == "fp32") and (drawn - plain).abs().mean() < 0.2 * plain.std()
        (shifted,) = ModelSamplingSD3().patch(model, 2.0)  # asks for the velocity, by the same shift
        assert (ksampler(shifted, positive, negative, empty) - plain).abs().max() < 1e-3
        assert torch.equal(ksampler(shifted, positive, negative, empty), wires(shifted, positive, negative, empty))


def core_nodes_on_clip_and_vae(name=None, make=None):
    from comfy_extras.nodes_flux import CLIPTextEncodeFlux
    from comfy_extras.nodes_model_merging import CheckpointSave, CLIPSave, ModelSave, VAESave
    from comfy_extras.nodes_sd3 import CLIPTextEncodeSD3
    import folder_paths
    from safetensors.torch import save_file

    from dit_blocks.nodes.load import LoadEmbedded
    import nodes as core
    dit, model, positive, *_ = default()
    _, clip, vae = out(LoadEmbedded)
    encode = lambda given: core.CLIPTextEncode().encode(given, CAPTIONS[0])[0]  # noqa: E731
    (last,), (earlier,) = (core.CLIPSetLastLayer().set_last_layer(clip, layer) for layer in (-1, -2))
    assert torch.equal(encode(last)[0][0], positive[0][0]) and not torch.equal(encode(earlier)[0][0], positive[0][0])
    assert torch.equal(encode(earlier)[0][1]["pooled_output"], positive[0][1]["pooled_output"])
    assert torch.equal(encode(clip)[0][0], positive[0][0])  # the clip that came in stays as it was
    refused("has 2 layers: stop_at_clip_layer is from -2 to -1, not -3", lambda: core.CLIPSetLastLayer().set_last_layer(clip, -3))
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.add_model_folder_path("loras", folder)
        folder_paths.set_output_directory(folder)
        weight = torch.ones(model.model_state_dict()["diffusion_model.model.joint_blocks.0.x_block.mlp.fc1.weight"].shape)
        for where, name in (("diffusion_model.model.joint_blocks.0.x_block.mlp.fc1", "dit"), ("text_encoders.layers.0.attn.qkv", "text")):
            rows, columns = weight.shape if name == "dit" else clip.encoder.layers[0].attn.qkv.weight.shape
            save_file({f"{where}.lora_up.weight": torch.ones(rows, 1), f"{where}.lora_down.weight": torch.ones(1, columns)},
                      Path(folder) / f"{name}.safetensors", metadata={"made": "here"})
        changed, same = core.LoraLoader().load_lora(model, clip, "dit.safetensors", 1.0, 1.0)
        assert changed.patches and torch.equal(encode(same)[0][0], positive[0][0])
        refused("this LoRA changes the text encoder of the embedded DiT", lambda: core.LoraLoader().load_lora(model, clip, "text.safetensors", 1.0, 1.0))
        core.LoraLoader().load_lora(model, clip, "text.safetensors", 1.0, 0.0)
        before = sorted(Path(folder).rglob("*"))
        refused("is no CLIP that ComfyUI's loaders know", lambda: CheckpointSave().save(model, clip, vae, "x"))
        refused("save it with Save DiT", lambda: ModelSave().save(model, "x"))
        refused("is no CLIP that ComfyUI's loaders know", lambda: CLIPSave().save(clip, "x"))
        refused("is no VAE that ComfyUI's loaders know", lambda: VAESave().save(vae, "x"))
        assert sorted(Path(folder).rglob("*")) == before
    refused("one text encoder, and no tokens for 'l': use CLIP Text Encode",
            lambda: CLIPTextEncodeSD3.execute(clip, "a", "b", "c", "empty_prompt"))
    refused("one text encoder, and no tokens for 't5xxl': use CLIP Text Encode", lambda: CLIPTextEncodeFlux.execute(clip, "a", "b", 3.5))
    refused("the VAE of the embedded DiT encodes and decodes pictures, and has no first_stage_model", lambda: vae.first_stage_model)
    assert not hasattr(clip, "generate") and not hasattr(vae, "patcher")


CASES = {
    "every size": at_every_size, "a region": a_region_of_the_default_model, "regions": every_region, "every flow": every_flow, "texts of two lengths": texts_of_two_lengths,
    "more steps than levels": more_steps_than_levels, "to the noise and back": to_the_noise_and_back,
    "no place for": what_it_has_no_place_for, "hooks over the MODEL": hooks_over_the_model, "another type": another_type,
    "core's nodes on clip and vae": core_nodes_on_clip_and_vae,
}
CASES = {f"own DITs: {title}": (check, None) for title, check in CASES.items()}


def main(comfyui: str, packs: str, *only: str) -> None:
    start(comfyui, packs)
    run_cases(CASES, *only)


if __name__ == "__main__":
    main(*sys.argv[1:])
