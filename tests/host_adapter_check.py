"""Runs under ComfyUI's Python: patch-size adapters on a MODEL. One line of JSON a case: {"case", "error"}.

    python tests/host_adapter_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

from pathlib import Path
import sys
import tempfile

from host_model_check import out, unet, wires
from host_models import ksampler, refused, run_cases, start
from host_patch_check import own_size, scheduled
import torch


def dit_of(model):
    from dit_blocks.nodes.model import FromModel
    return out(FromModel, model=model)[0]


def adapter_for(model, patch_size, change=0.05, rank=2):
    """An adapter of a MODEL that has learnt something; with change 0 one that has not."""
    from dit_blocks.dit_impl.training.adapter import Distilling
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):
        objective = Distilling(dit_of(model), patch_size, rank)
        with torch.no_grad():
            for parameter in objective.trained.values():
                parameter.add_((torch.randn(parameter.shape, generator=generator) * change).to(parameter))
        return objective.adapter()


def with_adapter(model, adapter):
    """Through the nodes' own calls: DiT from MODEL, Load Adapter, DiT to MODEL."""
    from dit_blocks.dit_impl.sources.adapters import apply_adapter
    from dit_blocks.nodes.model import ToModel
    return out(ToModel, dit=apply_adapter(dit_of(model), adapter))[0]


def attributes(model) -> dict:
    """What hangs on the modules of a transformer beside parameters and submodules."""
    return {name: set(vars(module)) for name, module in model.model.diffusion_model.named_modules()}


def own_patches_stay(name, make):
    """Bit for bit with an adapter on the clone, before, between and after steps of the new size, and nothing is left on the modules."""
    made = model, *rest = make(size=(12, 10))
    own = own_size(model)
    weights = {key: value.clone() for key, value in model.model.state_dict().items()}
    expected, before = ksampler(*made), attributes(model)
    adapted = with_adapter(model, adapter_for(model, own + 1))
    assert torch.equal(expected, ksampler(adapted, *rest))
    other = ksampler(scheduled(adapted, f"{own + 1}"), *rest)
    assert other.isfinite().all() and not torch.equal(other, expected)
    assert torch.equal(expected, ksampler(adapted, *rest)) and torch.equal(expected, ksampler(*made))
    assert attributes(model) == before
    assert all(torch.equal(value, weights[key]) for key, value in model.model.state_dict().items())


def an_error_leaves_nothing(name, make):
    made = model, positive, negative, latent = make(size=(12, 10))
    own, expected, before = own_size(model), ksampler(*made), attributes(model)
    adapted = with_adapter(model, adapter_for(model, own + 1))
    broken = [[context[..., :-1], extras] for context, extras in positive]
    try:
        ksampler(scheduled(adapted, f"{own + 1}"), broken, negative, latent)
    except Exception:
        pass
    else:
        raise AssertionError("text of another width was taken")
    assert attributes(model) == before and torch.equal(expected, ksampler(*made))


def schedules_are_wires(name, make):
    """KSampler with a schedule over both sizes gives what Denoise with it gives, and differs from each size alone."""
    made = model, *rest = make(size=(12, 10))
    own = own_size(model)
    adapted, rows = with_adapter(model, adapter_for(model, own + 1)), f"{own + 1} until 50%, then {own}"
    core = ksampler(scheduled(adapted, rows, patch_method="native"), *rest)
    assert torch.equal(core, wires(adapted, *rest, rows={"rows": rows, "patch_method": "native"}))
    assert not torch.equal(core, ksampler(adapted, *rest)) and not torch.equal(core, ksampler(scheduled(adapted, f"{own + 1}"), *rest))
    assert torch.equal(ksampler(*made), wires(adapted, *rest))


def stages_are_the_whole(name, make):
    from dit_blocks.dit_impl.step import stages as step_stages
    from dit_blocks.dit_impl.step.guidance import guide
    from dit_blocks.nodes.denoise import AddNoise, Schedule
    from dit_blocks.nodes.patch import Patchify
    model, positive, negative, samples = make(size=(12, 10))
    ksampler(model, positive, negative, samples)
    before = attributes(model)
    dit = dit_of(with_adapter(model, adapter_for(model, own_size(model) + 1)))
    for p in dit.patch_sizes:
        tokens, _ = out(Patchify, latent={"samples": samples}, patch_size=p, dit=dit)
        (sigmas,) = out(Schedule, dit=dit, steps=4, scheduler="simple", denoise=1.0)
        tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=5)
        wire = step_stages.condition(dit, tokens, positive, negative, sigmas, 0)
        wire = step_stages.position_embed(dit, step_stages.patch_embed(dit, wire))
        prediction = guide(step_stages.final_layer(dit, step_stages.run_blocks(dit, wire, "all")), 4.0)
        _, x0 = dit.denoise(tokens, sigmas, positive, negative, 4.0, "euler", 0, 1)
        assert torch.equal(prediction["tokens"], x0["tokens"]), (p, (prediction["tokens"] - x0["tokens"]).abs().max())
    assert attributes(model) == before


def untaught_at_its_own_size_is_the_model(name, make):
    """The ways through the adapter at the model's own patch size, with nothing learnt, answer what the model answers."""
    from dit_blocks.nodes.comfyui.applied_adapters import kind_of
    model, positive, negative, samples = make(size=(12, 10))
    transformer, own = model.model.diffusion_model, own_size(model)
    kind = kind_of(transformer, "it")
    ksampler(model, positive, negative, samples)
    context, extras = positive[0]
    call = dict(context=context, y=extras.get("pooled_output"), transformer_options={})
    if name.startswith("flux"):
        call["guidance"] = torch.tensor([3.0])
    x, t = torch.randn(1, samples.shape[1], 12, 10), torch.tensor([0.6 if name.startswith("flux") else 600.0])
    expected = transformer(x, t, **call)
    with kind(own, kind.fresh(transformer, own, own, 2)).on(transformer):
        actual = transformer(x, t, **call)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def other_patches_stay(name, make):
    """A LoRA and a function wrapper on the MODEL go on working under the adapter."""
    model, *rest = make(size=(12, 10))
    adapter, own, calls = adapter_for(model, own_size(model) + 1), own_size(model), []

    def wrapper(apply_model, args):
        calls.append(1)
        return apply_model(args["input"], args["timestep"], **args["c"]) * 0.9
    changed = model.clone()
    key = "diffusion_model.final_layer.adaLN_modulation.1.weight"
    changed.add_patches({key: ("diff", (torch.randn(changed.model.state_dict()[key].shape) * 0.1,))})
    changed.set_model_unet_function_wrapper(wrapper)
    for rows in (f"{own}", f"{own + 1}"):
        plain = ksampler(scheduled(with_adapter(model, adapter), rows), *rest)
        calls.clear()
        assert not torch.equal(plain, ksampler(scheduled(with_adapter(changed, adapter), rows), *rest)) and len(calls) == 4


def it_learns(name, make):
    """Teach a MODEL a patch size, in inference mode as nodes run: the loss falls, the MODEL stays as it was."""
    from dit_blocks.dit_impl.sources.adapters import adapter_of
    from dit_blocks.dit_impl.training.adapter import teach_patch_size
    from dit_blocks.dit_impl.training.loop import Settings
    from dit_blocks.dit_impl.training.sets import TrainingSet
    made = model, positive, negative, samples = make(size=(12, 10), batch=4)
    expected, told = ksampler(*made), []
    before = attributes(model)
    data = TrainingSet(samples, [positive] * 4, (), negative)
    dit = teach_patch_size(dit_of(model), data, own_size(model) + 1, 4, Settings(steps=30, batch=4, learning_rate=3e-3, warmup=1),
                           watch=lambda done, log: told.append(log.losses[-1]))
    assert sum(told[-5:]) < 0.9 * sum(told[:5]), told
    assert attributes(model) == before and torch.equal(expected, ksampler(*made))
    assert dit.patch_sizes == (own_size(model), own_size(model) + 1) and adapter_of(dit).facts["steps"] == 30
    assert torch.equal(expected, ksampler(out_model(dit), positive, negative, samples))


def checkpointing_changes_the_memory_not_the_gradient(name, make):
    """Blocks that write into their tokens run again in the backward pass, with the adapter on; of the graph little is kept meanwhile."""
    from dit_blocks.dit_impl.training.adapter import Distilling
    from dit_blocks.dit_impl.training.loop import Alone, Draws, Settings
    from dit_blocks.dit_impl.training.sets import TrainingSet
    model, positive, negative, latent = make(size=(12, 10))
    data, before, grads, kept = TrainingSet(latent.repeat(2, 1, 1, 1), [positive] * 2, (), negative), attributes(model), [], []
    trained = adapter_for(model, own_size(model) + 1)
    for checkpointing in (False, True):
        with torch.inference_mode(False):
            objective = Distilling(dit_of(model), own_size(model) + 1, 2, checkpointing=checkpointing)
            with torch.no_grad():  # so that every part of it changes what comes out
                for weight_name, parameter in objective.trained.items():
                    parameter.copy_(trained.weights[weight_name.removeprefix("learnt.").replace("|", ".")])
            loss = objective.loss(Draws(data, objective, Settings(batch=2), Alone()).at(0))
            kept.append(nodes_of(loss))
            loss.backward()
        assert attributes(model) == before
        grads.append({key: parameter.grad for key, parameter in objective.trained.items()})
    assert all(one is not None and one.any() for one in grads[0].values()), [key for key, one in grads[0].items() if one is None or not one.any()]
    for key, one in grads[0].items():
        torch.testing.assert_close(one, grads[1][key], rtol=1e-4, atol=1e-6)
    assert kept[1] * 2 < kept[0], kept


def nodes_of(loss) -> int:
    """How many operations of a graph wait for the backward pass."""
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [one for one, _ in node.next_functions]
    return len(seen)


def the_node_teaches_it(name, make, dtype=None):
    """Train DiT over a MODEL: it learns, is seen as it learns, at its new size, and is left as it was."""
    import folder_paths

    from dit_blocks.dit_impl.sources.adapters import adapter_of
    from dit_blocks.dit_impl.training.sets import TrainingSet
    from dit_blocks.nodes.training import Train
    made = model, positive, negative, samples = make(size=(12, 10), batch=4, dtype=dtype)
    expected, before, p = ksampler(*made), attributes(model), own_size(model) + 1
    how = dict(scope="patch-size adapter", batch=4, learning_rate=3e-3, scheduler="cosine", warmup=1, precision="float32", accumulate=1,
               checkpointing=False, ema=0.0, seed=0, drop=0.1, validation=0, target="own", weighting="none", times="logit_normal", patch_size=p,
               rank=4, sample_every=15, positive=positive, dit=dit_of(model), training_set=TrainingSet(samples, [positive] * 4, (), negative))
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_output_directory(folder)
        dit, losses, filters, drawn, _, log = out(Train, name=name, steps=30, resume=False, **how)
        again, more, *_ = out(Train, name=name, steps=30, resume=True, **how)
        assert len(Path(log).read_text().splitlines()) == 31
    losses = losses["loss"]
    assert losses == more["loss"] and sum(losses[-5:]) < 0.9 * sum(losses[:5]), losses
    assert len(drawn) == 3 and drawn.isfinite().all() and not torch.equal(drawn[0], drawn[-1]) and not torch.equal(filters[0], filters[-1])
    assert dit.patch_sizes == again.patch_sizes == (p - 1, p) and adapter_of(dit).facts["steps"] == 30
    assert all(torch.equal(weight, adapter_of(again).weights[key]) for key, weight in adapter_of(dit).weights.items())
    assert attributes(model) == before and torch.equal(expected, ksampler(*made))
    assert ksampler(scheduled(out_model(dit), f"{p}"), positive, negative, samples).isfinite().all()


def the_node_teaches_it_in_bfloat16(name, make):
    the_node_teaches_it(name, with_table(make), torch.bfloat16)


def out_model(dit):
    from dit_blocks.nodes.model import ToModel
    return out(ToModel, dit=dit)[0]


def a_dit_and_a_model_share_it(name, make):
    """An adapter of SD3 as a DIT of the pack's own fits the same weights as a MODEL, and both draw the same by it."""
    from dit_blocks.dit_impl.handle.backbone import Backbone
    from dit_blocks.dit_impl.sources.adapters import apply_adapter
    from dit_blocks.dit_impl.sources.checkpoints import load_model
    model, positive, negative, samples = make(size=(12, 9))  # whole patches: a DIT keeps what it padded, a MODEL pads anew at each step
    state = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    as_model = dit_of(model)
    own = Backbone(load_model(state).eval().requires_grad_(False), as_model.latent_format, name="SD3")
    adapter = adapter_for(model, 3)
    one, other = apply_adapter(own, adapter), apply_adapter(as_model, adapter)
    sigmas = other.schedule(4)
    answers = []
    for dit in (one, other):
        noisy, _ = dit.add_noise(dit.fold({"samples": torch.zeros_like(samples)}, 3), sigmas, 0, 5)
        tokens, _ = dit.denoise(noisy, sigmas, positive, negative, 3.0, "euler", 0, 2)
        answers.append(tokens["tokens"])
    torch.testing.assert_close(*answers, atol=1e-3, rtol=1e-3)


def refusals(name, make):
    from host_models import MODELS

    from dit_blocks.dit_impl.sources.adapters import apply_adapter
    from dit_blocks.dit_impl.training.adapter import Distilling

    sd3, flux = with_table(MODELS["sd3"])()[0], MODELS["flux_dev"]()[0]
    adapter = adapter_for(sd3, 3)
    refused("the adapter for patch size 3 is for SD3 (MODEL)", lambda: apply_adapter(dit_of(flux), adapter))
    refused("can have no patch-size adapter: it is for SD3, SD3.5 and Flux", lambda: apply_adapter(dit_of(MODELS["wan"]()[0]), adapter))
    refused("can have no patch-size adapter", lambda: Distilling(dit_of(unet()[0]), 3, 2))
    refused("has patch sizes 2 already: choose another patch_size, not 2", lambda: Distilling(dit_of(sd3), 2, 2))


def other_number_types(name, make):
    """An adapter of a model in bfloat16 goes on the same model in float8, scaled float8 and float16, draws there, and on no other model."""
    import comfy.sd

    from dit_blocks.dit_impl.errors import CheckpointError
    from dit_blocks.dit_impl.sources.adapters import apply_adapter
    model, *rest = make(size=(12, 10), dtype=torch.bfloat16)
    p, state = own_size(model) + 1, {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    adapter, scaled = adapter_for(model, p), {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for key, value in state.items():
        scale = value.float().abs().amax() / 448 if value.dim() == 2 and "blocks." in key else None
        scaled[key] = value if scale is None else (value.float() / scale).to(torch.float8_e4m3fn)
        scaled |= {} if scale is None else {key.removesuffix("weight") + "scale_weight": scale}
    others = [comfy.sd.load_diffusion_model_state_dict(scaled)]
    others += [make(size=(12, 10), dtype=kind)[0] for kind in (torch.float8_e4m3fn, torch.float16)]
    for other in others:
        drawn = ksampler(scheduled(with_adapter(other, adapter), f"{p}"), *rest)
        assert drawn.isfinite().all()
    changed = comfy.sd.load_diffusion_model_state_dict({key: value.flip(0) if "blocks." in key else value for key, value in state.items()},
                                                       model_options={"dtype": torch.float16})
    try:
        apply_adapter(dit_of(changed), adapter)
    except CheckpointError as error:
        assert "is for" in str(error)
    else:
        raise AssertionError("it was put on another model")


def with_table(make):
    """Of an SD3: the position table that published ones have, coordinates i / 3 from a centre crop."""
    def made(**how):
        from dit_blocks.dit_impl.model.position import sincos_2d
        model, *rest = make(**how)
        transformer = model.model.diffusion_model
        if hasattr(transformer, "pos_embed"):
            axis = torch.arange(24) / 3 - 2
            transformer.pos_embed.copy_(sincos_2d(192, axis, axis)[None])
        return (model, *rest)
    return made


CHECKS = {"own patches stay": own_patches_stay, "an error leaves nothing": an_error_leaves_nothing, "schedules": schedules_are_wires,
          "stages": stages_are_the_whole, "untaught": untaught_at_its_own_size_is_the_model, "other patches": other_patches_stay,
          "training": it_learns, "checkpointing": checkpointing_changes_the_memory_not_the_gradient, "the node": the_node_teaches_it}
CASES = {f"{name}: {what}": (lambda name, make, check=check: check(name, with_table(make)), name)
         for what, check in CHECKS.items() for name in ("sd3", "sd35_medium", "flux_dev", "flux2")}
CASES |= {f"{name}: a DIT and a MODEL": (lambda name, make: a_dit_and_a_model_share_it(name, with_table(make)), name)
          for name in ("sd3", "sd35_medium")}
CASES |= {f"{name}: the node in bfloat16": (the_node_teaches_it_in_bfloat16, name) for name in ("sd3", "flux_dev")}
CASES |= {f"{name}: other number types": (lambda name, make: other_number_types(name, with_table(make)), name) for name in ("sd3", "flux_dev")}
CASES |= {"refused": (refusals, None)}

if __name__ == "__main__":
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])
