"""Runs under ComfyUI's Python: patches of several sizes in one sequence of a MODEL. One line of JSON a case: {"case", "error"}.

    python tests/host_regions_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

from contextlib import ExitStack
from dataclasses import replace
import sys

from host_adapter_check import adapter_for, attributes, dit_of, with_adapter, with_table
from host_model_check import out, wires
from host_models import MODELS, ksampler, refused, run_cases, start
from host_patch_check import own_size, scheduled
import torch
import torch.nn.functional as F

SIZE = (16, 12)


def adapted(make, times=(2,), **how):
    """→ model with adapters for so many times its own patch size, positive, negative, latent, its own size."""
    model, *rest = make(**{"size": SIZE, **how})
    own, made = own_size(model), model
    for one in times:
        made = with_adapter(made, adapter_for(model, one * own))
    return made, *rest, own


def mask_of(*cells, size=SIZE):
    mask = torch.zeros(1, *size)
    for top, left in cells:
        mask[:, top:top + 4, left:left + 4] = 1
    return mask


HALF = ((0, 0), (8, 4), (12, 8))


def rows_of(own, text):
    """`P` and `p` in a schedule, for the coarse and the fine size."""
    return text.replace("P", str(2 * own)).replace("p", str(own))


def one_size_everywhere_is_that_size(name, make):
    """Bit for bit, by KSampler and by the wires: nothing split, and everything split."""
    model, *rest, own = adapted(make)
    plain = {size: ksampler(scheduled(model, str(size), patch_method="native"), *rest) for size in (own, 2 * own)}
    for text, mask, size in (("P with p on the mask", mask_of(), 2 * own), ("P with p on 0%", None, 2 * own),
                             ("P with p on the mask", torch.ones(1, *SIZE), own)):
        rows = {"rows": rows_of(own, text), "mask": mask}
        for method in ("auto", "resample"):  # which is for sizes that stand alone in a row
            assert torch.equal(ksampler(scheduled(model, patch_method=method, **rows), *rest), plain[size]), (text, size, method)
        assert torch.equal(wires(model, *rest, rows=rows), plain[size]), (text, size)
    whole = rows_of(own, "p until 25%, then P with p on 100%")  # detail needs an x0
    assert torch.equal(ksampler(scheduled(model, whole), *rest), plain[own])
    assert torch.equal(wires(model, *rest, rows={"rows": whole}), plain[own])


def wires_are_ksampler(name, make, **how):
    made, *rest, own = adapted(make, **how)
    expected = ksampler(made, *rest)
    before = attributes(made)
    plain = [ksampler(scheduled(made, str(size)), *rest) for size in (own, 2 * own)]
    seen = []
    for text in ("P until 50%, then P with p on 25%", "P with p on the mask", "p until 25%, then P with p on 50% until 75%, then p"):
        rows = {"rows": rows_of(own, text), "mask": mask_of(*HALF)}
        core = ksampler(scheduled(made, **rows), *rest)
        assert core.isfinite().all() and torch.equal(core, wires(made, *rest, rows=rows)), text
        assert not any(torch.equal(core, one) for one in (*plain, *seen)), text
        seen.append(core)
    assert attributes(made) == before and torch.equal(expected, ksampler(made, *rest))


def a_run_in_two_parts_is_one_run(name, make):
    """Detail of the step before travels on the wire."""
    from dit_blocks.nodes.denoise import AddNoise, Denoise, Schedule
    from dit_blocks.nodes.patch import Patchify
    from dit_blocks.nodes.patch_schedule import PatchSchedule
    model, positive, negative, latent, own = adapted(make, batch=2)
    rows = rows_of(own, "P with p on 25%")
    dits = dit_of(model), dit_of(scheduled(model, rows))
    (sigmas,) = out(Schedule, dit=dits[0], steps=4, scheduler="simple", denoise=1.0)
    (plan,) = out(PatchSchedule, rows=rows)
    for solver in ("euler", "heun", "dpmpp_2m"):
        for dit, way in zip(dits, (plan, None)):
            found = []
            for cuts in ((0, 4), (0, 1, 3, 4)):
                tokens, _ = out(Patchify, latent={"samples": latent}, patch_size=own, dit=dit)
                tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=5)
                for begin, end in zip(cuts, cuts[1:]):
                    tokens, *_ = out(Denoise, dit=dit, tokens=tokens, sigmas=sigmas, start_step=begin, end_step=end, patch_schedule=way,
                                     positive=positive, negative=negative, cfg=4.0, solver=solver)
                found.append(tokens["tokens"])
            assert torch.equal(*found), (solver, way)


def fewer_tokens(name, make):
    """The blocks get a token for each patch of the mix, and no more."""
    model, *rest, own = adapted(make)
    transformer, seen = model.model.diffusion_model, set()
    block = transformer.joint_blocks[0] if hasattr(transformer, "joint_blocks") else transformer.double_blocks[0]
    hook = block.register_forward_pre_hook(lambda _, args, kwargs: seen.add((kwargs["img"] if "img" in kwargs else args[1]).shape[1]),
                                           with_kwargs=True)
    ksampler(scheduled(model, rows_of(own, "P with p on the mask"), mask=mask_of(*HALF)), *rest)
    hook.remove()
    coarse = SIZE[0] * SIZE[1] // (4 * own * own)
    split = int(F.avg_pool2d(mask_of(*HALF), 2 * own).sum())
    assert seen == {coarse + 3 * split}, seen


def a_mix(own, batch=1):
    from dit_blocks.dit_impl.tokens.mixed import Mixture, Split, mix_of
    return mix_of(Mixture(2 * own, (Split(own),)), torch.zeros(batch, 4, *SIZE), None, mask_of(*HALF))


def called(model, mix, x, t, positive):
    """The transformer of a MODEL on a mix, as the adapter's wrapper calls it."""
    from dit_blocks.nodes.comfyui.mixed_model import mixed
    from dit_blocks.nodes.comfyui.patched_model import ADAPTERS
    from dit_blocks.nodes.comfyui.stages.base import changed
    taught, transformer = model.model_options[ADAPTERS], model.model.diffusion_model
    context, extras = positive[0]
    call = {"context": context.clone(), "transformer_options": {}}
    call |= {"y": extras["pooled_output"]} if "pooled_output" in extras else {}
    call |= {"guidance": torch.tensor([extras["guidance"]])} if "guidance" in extras else {}
    with changed(mixed(mix, own_size(model), {p: one for p, (_, one) in taught.items()}).changes(transformer)):
        return transformer(x, t, **call)


def each_token_has_what_is_of_its_size(name, make):
    """Low-rank additions: coarse tokens have them, fine ones have none, text the share of coarse tokens in the picture."""
    from dit_blocks.nodes.comfyui.patched_model import ADAPTERS
    model, positive, negative, latent, own = adapted(make)
    ksampler(model, positive, negative, latent)
    mix, transformer = a_mix(own), model.model.diffusion_model
    _, applied = model.model_options[ADAPTERS][2 * own]
    share, found = mix.counts[2 * own] / len(mix), {}

    def look(path):
        def hook(layer, args, answer):
            x, found_in = args[0], found.setdefault(path, [])
            extra, whole = answer - F.linear(x, layer.weight, layer.bias), applied.added(path, x)
            factor = (extra * whole).sum(-1) / whole.square().sum(-1)
            torch.testing.assert_close(extra, factor[..., None] * whole, atol=1e-5, rtol=1e-4)
            found_in.extend(factor[0].tolist())
        return hook
    with ExitStack() as stack:
        for path in applied.low_ranks:
            hook = transformer.get_submodule(path).register_forward_hook(look(path))
            stack.callback(hook.remove)
        t = torch.tensor([600.0 if name.startswith("sd3") else 0.6])
        called(model, mix, latent, t, positive)
    for path, factors in found.items():
        text = 7 if "context" in path or "txt" in path else 0 if "x_block" in path or "img" in path else len(factors) - len(mix)
        image = factors[text:] if "context" not in path and "txt" not in path else []
        assert all(abs(one - share) < 1e-3 for one in factors[:text]) and (text or image), path
        assert not image or [round(one) for one in image] == [1] * mix.counts[2 * own] + [0] * mix.counts[own], path
        assert all(abs(one - round(one)) < 1e-3 for one in image), path
    assert len(found) == len(applied.low_ranks)


def sd3_is_the_pack_s_own_model(name, make):
    """With an adapter of no low-rank additions: the same weights in the pack's MM-DiT, which has a vector for each patch size."""
    from dit_blocks.dit_impl.model.mmdit import MMDiT
    from dit_blocks.dit_impl.sources.adapters import apply_adapter
    from dit_blocks.dit_impl.sources.checkpoints import load_model
    from dit_blocks.dit_impl.tokens.mixed import gather, scatter
    from dit_blocks.nodes.model import ToModel
    plain, positive, negative, latent = make(size=SIZE, batch=2)
    adapter = adapter_for(plain, 4)
    adapter = replace(adapter, weights={key: value * (not key.endswith(".b")) for key, value in adapter.weights.items()})
    model = out(ToModel, dit=apply_adapter(dit_of(plain), adapter))[0]
    ksampler(model, positive, negative, latent)
    base = load_model({key: value.clone() for key, value in plain.model.diffusion_model.state_dict().items()})
    own, kept = MMDiT(replace(base.config, patch_sizes=(2, 4))).eval(), adapter.weights
    state = base.state_dict() | {key: value for key, value in kept.items() if key.startswith(("x_embedder.4.", "final_layer.linear.4."))}
    state["patch_embedder.weight"] = torch.stack([torch.zeros(base.config.width), kept["patch_embedder.vector"]])
    own.load_state_dict(state)
    mix, (context, extras) = a_mix(2, 2), positive[0]
    mix.places[2][1], mix.places[4][1] = mix.places[2][1].flip(0), mix.places[4][1].flip(0)  # each sample has places of its own
    t = torch.tensor([600.0, 300.0])
    context, pooled = context.expand(2, -1, -1), extras["pooled_output"].expand(2, -1)
    actual = called(model, mix, latent, t, [[context, {"pooled_output": pooled}]])
    expected = own.forward_mixed(gather(latent, mix), mix, t, context, pooled)
    torch.testing.assert_close(actual, scatter(expected, mix), atol=2e-4, rtol=1e-3)


def flux_places_and_modulates_each_size(name, make):
    """Rotary positions are the centres of patches on the fine grid; the first blocks modulate each token by its own size's vector."""
    model, positive, negative, latent, own = adapted(make)
    ksampler(model, positive, negative, latent)
    mix, transformer, seen = a_mix(own), model.model.diffusion_model, {}
    from dit_blocks.nodes.comfyui.patched_model import ADAPTERS
    _, applied = model.model_options[ADAPTERS][2 * own]
    vector = applied.weights["patch_embedder.vector"]
    double, single, text = transformer.double_blocks[0], transformer.single_blocks[0], 7
    watched = {"ids": transformer.pe_embedder, "time": transformer.time_in, "double": double, "qkv": double.img_attn.qkv, "single": single,
               "linear": single.linear1, "txt": double.txt_attn.qkv}

    def look(what, which):
        def hook(_, args, kwargs):  # blocks write into what they are given
            seen.setdefault(what, (args[0] if args else kwargs[which]).clone())
        return hook
    with ExitStack() as stack:
        for what, module, which in (*((*one, "img") for one in watched.items()), ("text", double, "txt")):
            stack.callback(module.register_forward_pre_hook(look(what, which), with_kwargs=True).remove)
        called(model, mix, latent, torch.tensor([0.6]), positive)
    places = torch.cat([torch.stack([one // (SIZE[1] // p), one % (SIZE[1] // p)], 1) * p / own + (p / own - 1) / 2
                        for p, (one, *_) in mix.places.items()])
    torch.testing.assert_close(seen["ids"][0, text:, 1:3], places)
    times = transformer.time_in(seen["time"])
    times = times + transformer.guidance_in(_sinusoids(3.0)) if transformer.params.guidance_embed else times
    if transformer.vector_in is not None:
        times = times + transformer.vector_in(positive[0][1]["pooled_output"])
    share = mix.counts[2 * own] / len(mix)
    each = torch.cat([(times + factor * vector).expand(count, -1)
                      for factor, count in ((share, text), (1, mix.counts[2 * own]), (0, mix.counts[own]))])

    def modulated(x, modulation, vectors):
        first, _ = modulation(vectors[None])
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + first.scale) + first.shift
    if transformer.params.global_modulation:
        of_image, of_text = transformer.double_stream_modulation_img, transformer.double_stream_modulation_txt
        of_all = transformer.single_stream_modulation
    else:
        of_image, of_text, of_all = double.img_mod, double.txt_mod, single.modulation
    torch.testing.assert_close(seen["qkv"], modulated(seen["double"], of_image, each[text:]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen["txt"], modulated(seen["text"], of_text, each[:text]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen["linear"], modulated(seen["single"], of_all, each), atol=1e-4, rtol=1e-4)


def _sinusoids(guidance):
    from comfy.ldm.flux.layers import timestep_embedding
    return timestep_embedding(torch.tensor([guidance]), 256)


def three_sizes(name, make):
    model, *rest, own = adapted(make, (2, 4), size=(16, 16))
    rows = {"rows": f"{4 * own} with {2 * own} on 50% with {own} on the mask", "mask": mask_of(*HALF, size=(16, 16))}
    core = ksampler(scheduled(model, **rows), *rest)
    assert core.isfinite().all() and torch.equal(core, wires(model, *rest, rows=rows))


def other_patches_stay(name, make):
    """A LoRA, a function wrapper, a plan of blocks and guidance of coarse steps go on working."""
    from dit_blocks.nodes.transformer import BlocksModel
    model, *rest, own = adapted(make)
    rows = {"rows": rows_of(own, "P until 50%, then P with p on the mask"), "mask": mask_of(*HALF)}
    plain, calls = ksampler(scheduled(model, **rows), *rest), []

    def wrapper(apply_model, args):
        calls.append(1)
        return apply_model(args["input"], args["timestep"], **args["c"]) * 0.9
    wrapped, changed = model.clone(), model.clone()
    wrapped.set_model_unet_function_wrapper(wrapper)
    key = "diffusion_model.final_layer.adaLN_modulation.1.weight"
    changed.add_patches({key: ("diff", (torch.randn(model.model.state_dict()[key].shape) * 0.1,))})
    whole = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    planned, all_of_it = (out(BlocksModel, model=model, blocks=blocks, **whole)[0] for blocks in ("all but 1", "all"))
    for one in (wrapped, changed, planned):
        assert not torch.equal(plain, ksampler(scheduled(one, **rows), *rest))
    assert len(calls) == 4
    assert torch.equal(plain, ksampler(scheduled(all_of_it, **rows), *rest))
    assert not torch.equal(plain, ksampler(scheduled(model, coarse_cfg=1.5, **rows), *rest))


def refusals(name, make):
    from dit_blocks.dit_impl.step.stages import condition
    from dit_blocks.nodes.denoise import AddNoise, Schedule
    from dit_blocks.nodes.patch import Patchify
    from dit_blocks.nodes.step_cache import StepCacheModel

    model, positive, negative, latent, own = adapted(make)
    bare, rows, mask = make(size=SIZE)[0], rows_of(own, "P with p on the mask"), mask_of(*HALF)
    missing = f"knows patch sizes {own}, not {2 * own}: in one sequence each size needs weights of its own, which Load Adapter or Train DiT"
    refused(missing, lambda: scheduled(bare, rows, mask=mask))
    refused(missing, lambda: wires(bare, positive, negative, latent, rows={"rows": rows, "mask": mask}))
    wan = MODELS["wan"]()
    refused("knows patch sizes 2, not 4", lambda: wires(*wan, rows={"rows": "4 with 2 on 25%"}))
    refused("there is no mask", lambda: scheduled(model, rows))
    ksampler(model, positive, negative, latent)
    before, mixes = attributes(model), scheduled(model, rows, mask=mask)
    area = [[context, {**extras, "area": (8, 8, 0, 0)}] for context, extras in positive]
    refused("and a conditioning with an area are not possible together", lambda: ksampler(mixes, area, negative, latent))
    references = [[context, {**extras, "reference_latents": [latent]}] for context, extras in positive]
    refused("and reference latents are not possible together", lambda: ksampler(mixes, references, negative, latent))
    if name.startswith("flux"):
        grid = tuple(side // own for side in SIZE)
        length = 7 + grid[0] * grid[1]
        covered = {"attention_mask": torch.ones(1, length, length), "attention_mask_img_shape": grid}
        masked = [[context, {**extras, **covered}] for context, extras in positive]
        refused("an attention mask and patches of several sizes are not possible together", lambda: ksampler(mixes, masked, negative, latent))
    cached = out(StepCacheModel, model=mixes, threshold=0.1, start_percent=0.0, end_percent=1.0)[0]
    refused("a Step Cache, and patches of several sizes", lambda: ksampler(cached, positive, negative, latent))
    if own > 1:
        refused("of 14×12 cells is not a multiple of 4", lambda: ksampler(mixes, positive, negative, latent[..., :14, :]))
    dit = dit_of(mixes)
    tokens, _ = out(Patchify, latent={"samples": latent}, patch_size=own, dit=dit)
    (sigmas,) = out(Schedule, dit=dit, steps=4, scheduler="simple", denoise=1.0)
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=5)
    refused("reads patches of several sizes in this step, which has no stages of its own",
            lambda: condition(dit, tokens, positive, negative, sigmas, 0))
    assert attributes(model) == before


def drawn_on_the_grid_that_was_read(name, make):
    """Stages of a MODEL whose schedule reads coarse patches have their grid. Of several sizes there are none."""
    from dit_blocks.dit_impl.step import stages
    from dit_blocks.dit_impl.step.guidance import guide
    from dit_blocks.nodes.attention import AttentionMap, AttentionSteps
    from dit_blocks.nodes.denoise import AddNoise, Denoise, Schedule
    from dit_blocks.nodes.patch import Patchify
    from dit_blocks.nodes.pictures import TokenPCA
    model, positive, negative, latent, own = adapted(make)
    (sigmas,) = out(Schedule, dit=dit_of(model), steps=4, scheduler="simple", denoise=1.0)
    how = {"positive": positive, "negative": negative, "sigmas": sigmas}
    look = {"block": 0, "head": -1, "direction": "image to image", "query": 0, "word": "", "language": "English"}
    for rows in ("P until 50%, then p", "P with p on 25%"):  # before the first x0 all patches are coarse
        dit = dit_of(scheduled(model, rows_of(own, rows)))
        tokens, _ = out(Patchify, latent={"samples": latent}, patch_size=own, dit=dit)
        tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=5)
        wire = stages.condition(dit, tokens, positive, negative, sigmas, 0)
        wire = stages.position_embed(dit, stages.patch_embed(dit, wire))
        rows_and_columns = tuple(side // (2 * own) for side in SIZE)
        assert wire["tokens"]["grid"] == rows_and_columns and wire["hidden"].x.shape[1] == rows_and_columns[0] * rows_and_columns[1]
        out(AttentionMap, dit=dit, hidden=wire, **look)
        out(TokenPCA, x=wire)
        prediction = guide(stages.final_layer(dit, stages.run_blocks(dit, wire, "all")), 4.0)
        _, x0 = dit.denoise(tokens, sigmas, positive, negative, 4.0, "euler", 0, 1)
        assert torch.equal(prediction["tokens"], x0["tokens"])
    run = {**how, "cfg": 4.0, "solver": "euler", "start_step": 0, "end_step": 4}
    for node, more, line in (
            (AttentionSteps, {**look, "at_steps": "0-3"}, "a patch on the MODEL changes what it sees"),
            (Denoise, {"capture_blocks": True}, "reads patches of several sizes in this step, which has no stages of its own")):
        try:
            out(node, dit=dit, tokens=tokens, **run, **more)
        except ValueError as error:
            assert line in str(error) and "\n" not in str(error), error
        else:
            raise AssertionError(f"{node} drew patches of several sizes")


def the_embedded_model(name, make):
    """The default model as a MODEL: KSampler on a schedule by regions is Denoise with the same on its DIT."""
    from dit_blocks.dit_impl.handle import patch_schedule
    from dit_blocks.dit_impl.tokens.wire import unfold
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import ToModel
    dit, clip, vae = out(LoadEmbedded)
    (model,) = out(ToModel, dit=dit)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a large red circle in the center", ""))
    empty, sigmas, mask = torch.zeros(1, dit.channels, 32, 32), dit.schedule(6), torch.zeros(1, 32, 32)
    mask[:, 8:24, 8:24] = 1
    tokens, _ = dit.add_noise(dit.fold({"samples": empty}), sigmas, 0, 5)
    for rows in ("4 until 30%, then 4 with 2 on 25%", "8 with 4 on 50% with 2 on the mask"):
        core = ksampler(scheduled(model, rows, mask=mask), positive, negative, empty, steps=6, cfg=2.0)
        plan = replace(patch_schedule.parse_schedule(rows), mask=mask)
        ours, *_ = patch_schedule.denoise_by_schedule(dit, tokens, plan, sigmas, positive, negative, 2.0, "euler", 0, 6)
        difference = (vae.decode(unfold(ours)) - vae.decode(core)).abs().mean().item()
        assert difference <= 1 / 255, (rows, difference)
        assert torch.equal(core, ksampler(scheduled(model, rows, mask=mask), positive, negative, empty, steps=6, cfg=2.0))


FAMILIES = ("sd3", "sd35_medium", "flux_dev", "flux2")
CHECKS = {"one size everywhere": one_size_everywhere_is_that_size, "wires": wires_are_ksampler,
          "a batch of two": lambda name, make: wires_are_ksampler(name, make, batch=2), "two parts": a_run_in_two_parts_is_one_run,
          "fewer tokens": fewer_tokens, "low-rank additions": each_token_has_what_is_of_its_size, "three sizes": three_sizes,
          "other patches": other_patches_stay, "drawn": drawn_on_the_grid_that_was_read, "refused": refusals}
CASES = {f"{name}: {what}": (lambda name, make, check=check: check(name, with_table(make)), name)
         for what, check in CHECKS.items() for name in FAMILIES}
CASES |= {f"{name}: the pack's own": (lambda name, make: sd3_is_the_pack_s_own_model(name, with_table(make)), name)
          for name in ("sd3", "sd35_medium")}
CASES |= {f"{name}: places": (flux_places_and_modulates_each_size, name) for name in ("flux_dev", "flux2")}
CASES |= {"the embedded model": (the_embedded_model, None)}

if __name__ == "__main__":
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])
