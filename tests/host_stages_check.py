"""Runs under ComfyUI's Python: every stage adapter against the forward it follows. One line of JSON a case: {"case", "error"}.

    python tests/host_stages_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

import sys

from everywhere import some
from host_models import MODELS, ksampler, run_cases, start
import torch

REPLACEABLE = ("sd3", "sd35_medium", "flux_dev", "flux_schnell", "flux2", "auraflow", "qwen_image", "wan",
               "wan_i2v")  # have patches_replace
CONTROLLED = {"sd3": ("output",), "flux_dev": ("input", "output"), "qwen_image": ("input",)}  # take ControlNet residuals
PATCHED = {"flux_dev": ("post_input",), "lumina2": ("noise_refiner", "double_block"), "z_image": ("noise_refiner", "double_block"),
           "qwen_image": ("post_input", "double_block"), "wan": ("double_block",)}
REFERENCED = {  # take reference latents, by these methods
    "flux_dev": ("offset", "index", "uxo"), "flux2": ("offset", "index", "uxo", "index_timestep_zero"),
    "qwen_image": ("offset", "index", "negative_index", "index_timestep_zero")}


def stages_of(model):
    from dit_blocks.nodes.comfyui.stages import stages_of
    return stages_of(model.model.diffusion_model)


def refused(run, *words: str) -> None:
    from dit_blocks.dit_impl.errors import StagesError
    try:
        run()
    except StagesError as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing and "\n" not in str(error), f"{error!r} does not say {missing}"
    else:
        raise AssertionError("not refused")


def in_place_of_forward(model, forward, run):
    """Run with another forward."""
    diffusion_model, calls = model.model.diffusion_model, []

    def counted(*args, **kwargs):
        calls.append((args, kwargs))
        return forward(*args, **kwargs)
    diffusion_model.forward = counted
    try:
        return run(), calls
    finally:
        del diffusion_model.forward


def same_as_ksampler(made, **how) -> None:
    model = made[0]
    expected = ksampler(*made, **how)
    actual, calls = in_place_of_forward(model, stages_of(model).forward, lambda: ksampler(*made, **how))
    assert calls and torch.equal(expected, actual), f"differs by {(expected - actual).abs().max()} after {len(calls)} calls"


def a_call(made) -> tuple[tuple, dict]:
    """What the diffusion model is called with in a step: (x, timesteps), the rest."""
    model = made[0]
    _, calls = in_place_of_forward(model, model.model.diffusion_model.forward, lambda: ksampler(*made, steps=1))
    args, kwargs = calls[0]
    return args, {**kwargs, "transformer_options": {**kwargs["transformer_options"], "patches_replace": {}}}


def tensors(value, path="") -> dict:
    """All tensors inside, by path, those of modules left out."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif hasattr(value, "__dataclass_fields__"):
        items = vars(value).items()
    else:
        return {}
    return {key: tensor for name, item in items for key, tensor in tensors(item, f"{path}.{name}").items()}


def lora(made):
    """The model with a LoRA on one weight of its blocks."""
    import comfy.sd
    model, *rest = made
    key = next(key for key, value in model.model_state_dict().items()
               if value.ndim == 2 and ("block" in key or "layers" in key) and key.endswith(".weight"))
    rows, columns = model.model_state_dict()[key].shape
    name = key.removesuffix(".weight")
    weights = {f"{name}.lora_up.weight": torch.randn(rows, 4), f"{name}.lora_down.weight": torch.randn(4, columns)}
    patched, _ = comfy.sd.load_lora_for_models(model, None, weights, 1.0, 0)
    assert not torch.equal(ksampler(*made), ksampler(patched, *rest)), "the LoRA changes nothing"
    return patched, *rest


def other_text_length(made):
    model, positive, negative, latent = made
    return model, positive, [[torch.cat([text, text[:, :3]], dim=1), values] for text, values in negative], latent


def stages_leave_their_inputs(name, make):
    made = make()
    args, kwargs = a_call(made)
    stages = stages_of(made[0])
    steps = [stages.patch_embed, stages.position_embed, *(lambda h, i=i: stages.run_blocks(h, [i]) for i in range(len(stages.kinds))),
             stages.head]
    given, step = (args, kwargs), lambda call: stages.condition(*call[0], **call[1])
    for following in [*steps, None]:
        before = {path: value.clone() for path, value in tensors(given).items()}
        result = step(given)
        changed = [path for path, value in tensors(given).items() if not torch.equal(value, before[path])]
        assert not changed, f"{step} changed {changed}"
        given, step = result, following
    expected = made[0].model.diffusion_model(*args, **kwargs)
    assert torch.equal(expected, given), "blocks one by one differ from forward"


def blocks_in_any_order(name, make):
    made = make()
    args, kwargs = a_call(made)
    stages = stages_of(made[0])
    embedded = stages.position_embed(stages.patch_embed(stages.condition(*args, **kwargs)))
    last = len(stages.kinds) - 1
    order = [1, 0, 0, last - 1] if name.startswith("sd3") else [last, 0, 0, *range(last + 1)]
    at_once, one_by_one = stages.run_blocks(embedded, order), embedded
    for i in order:
        one_by_one = stages.run_blocks(one_by_one, [i])
    assert at_once.index == one_by_one.index == order[-1] + 1
    outputs = [stages.head(hidden) for hidden in (at_once, one_by_one)]
    assert torch.equal(*outputs) and outputs[0].isfinite().all()
    assert stages.run_blocks(embedded, []) is embedded
    refused(lambda: stages.run_blocks(embedded, [0, last + 1]), stages.name, f"0 to {last}", f"no block {last + 1}")


def a_skip_is_a_replacement_that_returns_its_inputs(name, make):
    made = make(batch=2)
    args, kwargs = a_call(made)
    stages = stages_of(made[0])
    hidden = stages.position_embed(stages.patch_embed(stages.condition(*args, **kwargs)))
    for skipped in range(len(stages.kinds) - name.startswith("sd3")):  # SD3's last block drops the text
        kind, number = stages.kinds[skipped], skipped - stages.kinds.index(stages.kinds[skipped])
        key = ("single_block" if kind == "single" else "double_block", number)
        kwargs["transformer_options"]["patches_replace"] = {"dit": {key: lambda given, extra: given}}
        expected = made[0].model.diffusion_model(*args, **kwargs)
        left = [i for i in range(len(stages.kinds)) if i != skipped]
        assert torch.equal(expected, stages.head(stages.run_blocks(hidden, left))), f"skipping block {skipped} differs"
        assert torch.equal(expected, stages.forward(*args, **kwargs)), f"replacing block {skipped} differs"


def replaced_blocks(name, make):
    made = make()
    args, kwargs = a_call(made)
    stages = stages_of(made[0])

    def wrapped(given, extra):
        out = extra["original_block"]({**given, "img": given["img"] * 1.5})
        return {**out, "img": out["img"] - given["img"]}
    keys = [(kind, i) for kind in ("double_block", "single_block") for i in range(4)]
    kwargs["transformer_options"]["patches_replace"] = {"dit": {key: wrapped for key in keys}}
    expected = made[0].model.diffusion_model(*args, **kwargs)
    assert torch.equal(expected, stages.forward(*args, **kwargs))


def control_residuals(name, make):
    made = make()
    args, kwargs = a_call(made)
    stages = stages_of(made[0])
    embedded = stages.patch_embed(stages.condition(*args, **kwargs)).x
    kwargs["control"] = {side: [None, torch.randn_like(embedded), torch.randn_like(embedded)] for side in CONTROLLED[name]}
    expected = made[0].model.diffusion_model(*args, **kwargs)
    assert torch.equal(expected, stages.forward(*args, **kwargs))
    assert not torch.equal(expected, stages.forward(*args, **{**kwargs, "control": None}))


def patches(name, make):
    made = make()
    args, kwargs = a_call(made)
    stages = stages_of(made[0])
    plain = stages.forward(*args, **kwargs)
    for kind in PATCHED[name]:
        seen = []

        def patch(given):
            seen.append({key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in given.items()
                         if key != "transformer_options"})
            given["img"] *= 1.25  # in place, as core's own patches do
            return {key: value for key, value in given.items() if key != "transformer_options"}
        kwargs["transformer_options"]["patches"] = {kind: [patch]}
        expected, theirs, seen = made[0].model.diffusion_model(*args, **kwargs), seen, []
        assert torch.equal(expected, stages.forward(*args, **kwargs)) and not torch.equal(expected, plain), kind
        assert len(seen) == len(theirs) > 0
        for ours, given in zip(seen, theirs):
            assert ours.keys() == given.keys(), ours.keys() ^ given.keys()
            wrong = [key for key in given if not (torch.equal(ours[key], given[key]) if isinstance(given[key], torch.Tensor)
                                                  else ours[key] == given[key])]
            assert not wrong, f"{kind} is given another {wrong}"


def a_wrapper_is_refused(name, make):
    made = make()
    args, kwargs = a_call(made)
    kwargs["transformer_options"]["wrappers"] = {"diffusion_model": {"EasyCache": [lambda executor, *a, **k: executor(*a, **k)]}}
    refused(lambda: stages_of(made[0]).condition(*args, **kwargs), "EasyCache", "use DiT Denoise Step")


def a_missing_attribute_is_refused(name, make):
    from comfyui_version import __version__
    model = make()[0]
    diffusion_model, adapter = model.model.diffusion_model, type(stages_of(model))
    for attribute in adapter.needs:
        if attribute in diffusion_model._modules:
            module = diffusion_model._modules.pop(attribute)
            refused(lambda: adapter(diffusion_model), type(diffusion_model).__name__, attribute, __version__)
            assert is_generic(model)
            diffusion_model._modules[attribute] = module
    assert not is_generic(model)


def is_generic(model) -> bool:
    from dit_blocks.nodes.comfyui.stages import GenericStages
    return isinstance(stages_of(model), GenericStages)


def another_forward_is_refused(name, make):
    model = make()[0]
    diffusion_model, adapter = model.model.diffusion_model, type(stages_of(model))
    for method in adapter.rewritten:
        cls = type(diffusion_model)
        diffusion_model.__class__ = type("Other", (cls,), {method: lambda self, *args, **kwargs: None})
        refused(lambda: adapter(diffusion_model), f"Other.{method}", "use DiT Denoise Step")
        assert is_generic(model)
        diffusion_model.__class__ = type("Same", (cls,), {})
        assert not is_generic(model)
        diffusion_model.__class__ = cls
        setattr(diffusion_model, method, lambda *args, **kwargs: None)
        refused(lambda: adapter(diffusion_model), method)
        assert is_generic(model)
        delattr(diffusion_model, method)


def nothing_runs_after_the_text_is_dropped(name, make):
    made = make()
    args, kwargs = a_call(made)
    stages = stages_of(made[0])
    hidden = stages.position_embed(stages.patch_embed(stages.condition(*args, **kwargs)))
    done = stages.run_blocks(hidden, [2])
    assert done.context is None and done.index == 3
    refused(lambda: stages.run_blocks(done, [1]), "block 1 needs the text tokens", "last block (2)")


def reference_latents(name, make):
    made = make()
    args, kwargs = a_call(made)
    stages = stages_of(made[0])
    batch, channels, *_, height, width = args[0].shape
    shapes = [(height, width), (height - 2, width + 5), (6, 4)]
    kwargs["ref_latents"] = [torch.randn(batch, channels, *[1] * (args[0].ndim - 4), *shape) for shape in shapes]
    results = []
    for method in REFERENCED[name]:
        kwargs["ref_latents_method"] = method
        if name == "flux2":
            kwargs["guidance"] = None  # with which upstream cannot add up a batch at two times
        expected = made[0].model.diffusion_model(*args, **kwargs)
        assert torch.equal(expected, stages.forward(*args, **kwargs)), method
        assert not any(torch.equal(expected, other) for other in results), f"{method} changes nothing"
        results.append(expected)


def refused_reference_latents(name, make):
    made = make()
    args, kwargs = a_call(made)
    refused(lambda: stages_of(made[0]).condition(*args, **kwargs, ref_latents=[args[0]]), "no reference latents")


def inputs_of_wan(name, make):
    made = make()
    (x, timesteps), kwargs = a_call(made)
    stages, forward = stages_of(made[0]), made[0].model.diffusion_model
    ones = [dict(time_dim_concat=torch.randn_like(x)), dict(context_latents=[x[:, :, :1] * 2, x[..., :5]])]
    for more in (*ones, ones[0] | ones[1]):
        assert torch.equal(forward(x, timesteps, **kwargs, **more), stages.forward(x, timesteps, **kwargs, **more)), more.keys()
    frames = timesteps[:, None].expand(-1, x.shape[2]) * torch.tensor([0.0, 0.5, 1.0])  # a time for each frame, as Wan 2.2 has them
    assert torch.equal(forward(x, frames, **kwargs), stages.forward(x, frames, **kwargs))


def begun(model, samples, steps=4):
    """A MODEL as a DIT, its noise levels, and noisy tokens at the first."""
    from dit_blocks.nodes.denoise import AddNoise, Schedule
    from dit_blocks.nodes.model import FromModel
    dit, = FromModel.execute(model=model).result
    sigmas, = Schedule.execute(dit=dit, steps=steps, scheduler="simple", denoise=1.0).result
    return dit, sigmas, AddNoise.execute(dit=dit, tokens=dit.fold({"samples": samples}), sigmas=sigmas, step=0, seed=5).result[0]


def by_stages(dit, tokens, sigmas, positive, negative=None, blocks="all"):
    """The prediction of the first step."""
    from dit_blocks.dit_impl.step import stages as step_stages
    hidden = step_stages.condition(dit, tokens, positive, negative, sigmas, 0)
    hidden = step_stages.position_embed(dit, step_stages.patch_embed(dit, hidden))
    return step_stages.final_layer(dit, step_stages.run_blocks(dit, hidden, blocks))


def a_branch_for_each_conditioning(name, make):
    """It differs from the batch in the order of sums alone: as a share of the largest value, for PixArt's x0 at σ = 157 reach 1,500."""
    from dit_blocks.dit_impl.step.guidance import guide
    model, positive, negative, samples = make(batch=2)
    dit, sigmas, tokens = begun(model, samples)
    together = by_stages(dit, tokens, sigmas, positive, negative)
    branches = {"cond": by_stages(dit, tokens, sigmas, positive), "uncond": by_stages(dit, tokens, sigmas, negative)}
    parts = dict(zip(together["call"].layout, together["tokens"].chunk(2)))
    apart, batched = guide(branches["cond"], 4.0, branches["uncond"]), guide(together, 4.0)
    errors = {part: relative(branches[part]["tokens"], answer) for part, answer in parts.items()}
    errors["x0"] = relative(apart["tokens"], batched["tokens"])
    assert max(errors.values()) < 1e-5, errors
    assert relative(parts["cond"], parts["uncond"]) > 1e-3, "the text changes nothing"


def relative(x, y) -> float:
    """Largest difference as a share of the largest value."""
    return float((x - y).abs().max() / y.abs().max())


def skip_lists_are_read_by_core(name, make):
    """Skip-layer guidance by core's node, given Block Ablation's lists, is g + s·(c − w) of the wires, given its other list."""
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    from dit_blocks.dit_impl.step.guidance import guide
    from dit_blocks.nodes.probe import BlockAblation
    model, positive, negative, samples = make(batch=2)
    dit, sigmas, tokens = begun(model, samples)
    chosen = dict(dit=dit, tokens=dit.fold({"samples": samples}), sigmas=sigmas, positive=positive, cfg=1.0, levels=1, skip=2, seed=0)
    _, double, single, blocks, *_ = BlockAblation.execute(**chosen).result
    guiding = SkipLayerGuidanceDiT.execute(model, 1.5, 0.0, 1.0, double_layers=double, single_layers=single).result[0]
    x0 = begun(guiding, samples)[0].denoise(tokens, sigmas, positive, negative, 4.0, start_step=0, end_step=1)[1]["tokens"]
    prediction, worse = by_stages(dit, tokens, sigmas, positive, negative), by_stages(dit, tokens, sigmas, positive, blocks=blocks)
    guided, cond, skipped = (guide(*one)["tokens"] for one in ((prediction, 4.0), (prediction, 1.0), (worse, 1.0)))
    assert relative(guided + 1.5 * (cond - skipped), x0) < 1e-5 and relative(guided, x0) > 1e-3


def other_models_go_the_generic_way(name=None, make=None):
    from comfy.ldm.flux.controlnet import ControlNetFlux
    from comfy.ldm.lumina.model import NextDiTPixelSpace
    from comfy.ldm.qwen_image.controlnet import QwenImageControlNetModel
    from comfy.ldm.wan.model import WanModel

    from dit_blocks.nodes.comfyui.stages import GenericStages, stages_of
    for cls in (ControlNetFlux, NextDiTPixelSpace, QwenImageControlNetModel, *WanModel.__subclasses__()):
        assert isinstance(stages_of(cls.__new__(cls)), GenericStages), cls
    linear = torch.nn.Linear(2, 2)
    assert isinstance(stages_of(linear), GenericStages)
    refused(lambda: stages_of(linear).condition(torch.ones(1, 2, 4, 4), transformer_options={}), "Linear can't be taken apart", "use DiT Denoise Step")


CHECKS = {
    "euler": lambda name, make: same_as_ksampler(make()),
    "dpmpp_2m": lambda name, make: same_as_ksampler(make(), sampler="dpmpp_2m"),
    "cfg 1": lambda name, make: same_as_ksampler(make(), cfg=1.0),
    "batch of 2": lambda name, make: same_as_ksampler(make(batch=2)),
    "image to image": lambda name, make: same_as_ksampler(make(batch=2), denoise=0.6, sampler="dpmpp_2m"),
    "even size": lambda name, make: same_as_ksampler(make(size=(44, 36) if name.startswith("pixart") else (8, 12))),
    "texts of two lengths": lambda name, make: same_as_ksampler(other_text_length(make())),
    "bfloat16 weights": lambda name, make: same_as_ksampler(make(dtype=torch.bfloat16)),
    "LoRA": lambda name, make: same_as_ksampler(lora(make())),
    "a branch for each conditioning": a_branch_for_each_conditioning,
    "stages leave their inputs": stages_leave_their_inputs,
    "blocks in any order": blocks_in_any_order,
    "a wrapper is refused": a_wrapper_is_refused,
    "a missing attribute is refused": a_missing_attribute_is_refused,
    "another forward is refused": another_forward_is_refused,
}
SOME = {  # checks of some models
    "a skip is a replacement": (a_skip_is_a_replacement_that_returns_its_inputs, REPLACEABLE),
    "skip lists": (skip_lists_are_read_by_core, REPLACEABLE),
    "replaced blocks": (replaced_blocks, REPLACEABLE),
    "control residuals": (control_residuals, CONTROLLED),
    "patches": (patches, PATCHED),
    "reference latents": (reference_latents, REFERENCED),
    "reference latents are refused": (refused_reference_latents, ("lumina2", "z_image")),
    "more inputs": (inputs_of_wan, ("wan", "wan_i2v")),
    "dropped text": (nothing_runs_after_the_text_is_dropped, ("sd3", "sd35_medium")),
}
CASES = {f"{name}: {title}": (check, name) for i, (title, check) in enumerate(CHECKS.items()) for name in some(MODELS, i, ("sd3",))}
CASES |= {f"{name}: {title}": (check, name) for title, (check, names) in SOME.items() for name in names}
CASES["other models"] = (other_models_go_the_generic_way, None)


if __name__ == "__main__":
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])
