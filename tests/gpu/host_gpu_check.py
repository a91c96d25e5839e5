"""Runs under ComfyUI's Python: MODELs on a simulated GPU under ComfyUI's own memory management. One line of JSON a case: {"case", "error"}.

    python tests/gpu/host_gpu_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks MODE DTYPE [WORDS]

MODE: normal, dynamic (some of the weights stay on the device), novram, gpuonly. DTYPE: bf16, fp16, fp8, of the weights; fp8 computes in bf16.
"""

import functools
import gc
import json
from pathlib import Path
import sys
import traceback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gpu import comfyui, device  # noqa: E402
from host_models import MODELS, ksampler, start  # noqa: E402
import torch  # noqa: E402

MODES = {"normal": {}, "dynamic": {"dynamic": "some"}, "novram": {"vram_state": "NO_VRAM"}, "gpuonly": {"gpu_only": True}}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}
FAMILIES = ("sd3", "sd35_medium", "flux_dev", "pixart", "auraflow", "lumina2", "z_image", "qwen_image", "wan")
LARGE = 48, 40  # latent cells, so that what is computed outweighs the weights
WIRES_KEEP = 64 * 1024  # bytes of the device that a step's wires may hold: sigmas and what else a host puts into its options


def equal(a, b, what):
    assert torch.equal(a.cpu(), b.cpu()), f"{what} differs by {(a.cpu().float() - b.cpu().float()).abs().max()}"


def draws_what_ksampler_draws(model, *rest):
    """Whole, in a chain of steps and by stages. It computes in the type that the case is about."""
    import host_model_check as wires
    made = (model, *rest)
    want = torch.float16 if DTYPE == "fp16" else torch.bfloat16
    assert model.model.get_dtype_inference() == want, model.model.get_dtype_inference()
    expected = ksampler(*made)
    assert expected.isfinite().all()
    equal(wires.wires(*made), expected, "DiT Denoise")
    equal(wires.wires(*made, chain=True), expected, "a chain of steps")
    equal(wires.inside(*made), expected, "stages")


def wires_hold_nothing_of_the_device(model, positive, negative, latent):
    from gpu.wires import away
    import host_model_check as wires
    made = (model, positive, negative, latent)
    ksampler(*made)
    held, kept = device.counts.live, []
    out, waits = wires.out, []

    def keeping(node, **inputs):
        device.counts.restart()
        kept.append(out(node, **inputs))
        waits.append((node.__name__, device.counts.waits))
        return kept[-1]
    wires.out = keeping
    try:
        wires.inside(*made, steps=2)
    finally:
        wires.out = out
    if MODE != "gpuonly":
        assert not away(kept), away(kept)
        grew = device.counts.live - held
        assert grew <= WIRES_KEEP, f"{grew} bytes are left on the device"


def waits_no_more_than_ksampler(model, *rest):
    import host_model_check as wires
    made = (model, *rest)
    counted = []
    for run in (ksampler, wires.wires):
        run(*made, steps=2)
        for steps in (2, 6):
            device.counts.restart()
            run(*made, steps=steps)
            counted.append(device.counts.waits)
    ksamplers, ours = counted[1] - counted[0], counted[3] - counted[2]
    assert ours <= ksamplers + 4 * 3, f"in 4 steps the CPU waits {ours} times, KSampler {ksamplers} times: {device.counts.syncs.most_common(8)}"


def needs_no_more_memory_than_ksampler(model, positive, negative, latent):
    """The most that lies on the device at once: whole, in a chain and by stages; and what is brought to it."""
    import host_model_check as wires
    made = model, positive, negative, torch.randn(2, *latent.shape[1:-2], *LARGE, generator=torch.Generator().manual_seed(3))
    ways = {"KSampler": ksampler, "DiT Denoise": wires.wires, "a chain of steps": functools.partial(wires.wires, chain=True), "stages": wires.inside}
    found = {}
    for way, run in ways.items():
        run(*made, steps=1)
        gc.collect()
        device.counts.restart()
        run(*made, steps=4)
        found[way] = device.counts.peak, device.counts.up
    peak, up = found.pop("KSampler")
    assert all(most <= 1.02 * peak for most, _ in found.values()), (peak, found)
    one = made[3].numel() * 4  # bytes of a latent: beside the weights, which are there, nothing else is brought
    more = {way: (brought - up) / one for way, (_, brought) in found.items()}
    assert more["DiT Denoise"] <= 6 and more["a chain of steps"] <= 4 * 6, more


def teaches_and_wears_an_adapter(model, positive, negative, latent):
    """Of a MODEL: learnt on the device, applied whole and in stages, on a clone whose module is another, and the MODEL left as it was."""
    from host_adapter_check import adapter_for, attributes, dit_of, own_size, with_adapter
    from host_patch_check import scheduled

    from dit_blocks.dit_impl.sources.adapters import adapter_of
    from dit_blocks.dit_impl.training.adapter import teach_patch_size
    from dit_blocks.dit_impl.training.loop import Settings
    from dit_blocks.dit_impl.training.sets import TrainingSet
    made, p = (model, positive, negative, latent), own_size(model) + 1
    expected = ksampler(*made)
    before = attributes(model)
    if LEARNS:
        data = TrainingSet(latent.repeat(2, 1, 1, 1), [positive] * 2, (), negative)
        dit = teach_patch_size(dit_of(model), data, p, 2, Settings(steps=2, batch=2, learning_rate=1e-3, warmup=1))
        adapter = adapter_of(dit)
        assert any(weight.any() for name, weight in adapter.weights.items() if name.endswith(".b")), "nothing was learnt"
    else:
        adapter = adapter_for(model, p)
    equal(ksampler(*made), expected, "the MODEL after it was taught from")
    assert attributes(model) == before
    adapted = with_adapter(model, adapter)
    equal(ksampler(adapted, *made[1:]), expected, "its own size")
    other = ksampler(scheduled(adapted, f"{p}"), *made[1:])
    assert other.isfinite().all() and not torch.equal(other.cpu(), expected.cpu())


def the_default_model(*_):
    """From its loader to the picture, by steps and by stages, as a MODEL, and a step of training: on the device, and the same each time."""
    import host_model_check as wires

    from dit_blocks.dit_impl.sources.embedded import load_embedded
    from dit_blocks.nodes.load import LoadEmbedded
    from dit_blocks.nodes.model import ToModel
    from dit_blocks.nodes.textbook import DiffusionLoss, NoiseAtTime, Trainable, TrainStep
    from dit_blocks.nodes.transformer import Condition, FinalLayer, PatchEmbed, PositionEmbed, RunBlocks
    from dit_blocks.nodes.vae import VAEDecode, VAEEncode
    out = wires.out
    load_embedded.cache_clear()
    dit, clip, vae = out(LoadEmbedded)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a large red circle in the center", ""))
    made = None, positive, negative, torch.zeros(1, dit.channels, 16, 16)
    whole = wires.wires(*made, dit=dit, steps=3, cfg=3.0)
    assert dit.compute_device == device.GPU and dit.like().device == device.GPU
    equal(wires.inside(*made, dit=dit, steps=3, cfg=3.0), whole, "stages")
    (model,) = out(ToModel, dit=dit)
    drawn = ksampler(model, positive, negative, made[3], steps=3, cfg=3.0)
    torch.testing.assert_close(drawn.cpu(), whole.cpu(), atol=1e-4, rtol=1e-4)
    home = device.GPU if MODE == "gpuonly" else torch.device("cpu")
    (picture,) = out(VAEDecode, latent={"samples": whole}, vae=vae)
    (latent,) = out(VAEEncode, pixels=picture, vae=vae)
    assert picture.device == latent["samples"].device == home and picture.isfinite().all()
    if not LEARNS:
        return
    (learner,) = out(Trainable, dit=dit, scope="everything")
    clean = dit.fold({"samples": whole})
    noisy, _, sigmas = out(NoiseAtTime, dit=learner, tokens=clean, seed=1, time=0.5, times="logit_normal")
    (hidden,) = out(Condition, dit=learner, x=noisy, positive=positive, sigmas=sigmas, step=0)
    (hidden,) = out(PatchEmbed, dit=learner, x=hidden)
    (hidden,) = out(PositionEmbed, dit=learner, hidden=hidden, mode="model", seed=0)
    (hidden,) = out(RunBlocks, dit=learner, hidden=hidden, blocks="all", strength=1.0)
    (prediction,) = out(FinalLayer, dit=learner, hidden=hidden)
    loss, *_ = out(DiffusionLoss, dit=learner, prediction=prediction, target="own", weighting="none")
    taught, _, norm = out(TrainStep, dit=learner, loss=loss, learning_rate=1e-3, weight_decay=0.0, clip=1.0)
    changed = [name for name, weight in taught.model.named_parameters() if not torch.equal(weight.cpu(), dict(learner.model.named_parameters())[name].cpu())]
    assert norm > 0 and len(changed) > 20 and taught.compute_device == device.GPU, (norm, len(changed))
    equal(wires.wires(*made, dit=dit, steps=3, cfg=3.0), whole, "the model after a copy of it learnt")


CHECKS = {"default": the_default_model, "draws": draws_what_ksampler_draws, "wires": wires_hold_nothing_of_the_device, "waits": waits_no_more_than_ksampler,
          "memory": needs_no_more_memory_than_ksampler, "adapter": teaches_and_wears_an_adapter}
CASES = [(check, name) for check in CHECKS for name in FAMILIES
         if check == "draws" or name in ("sd3", "flux_dev", "wan")[:{"adapter": 2, "default": 1}.get(check, 3)]]

if __name__ == "__main__":
    comfyui_dir, packs, MODE, DTYPE, *words = sys.argv[1:]
    LEARNS = device.GPU.type == "lazy"
    start(comfyui_dir, packs)
    from host_adapter_check import with_table
    comfyui.install(dtype=DTYPE, **MODES[MODE])
    for check, name in CASES:
        case, error = f"{MODE} {DTYPE} {name}: {check}", None
        if words and not any(word in case for word in words):
            continue
        with torch.inference_mode(), device.on(total=comfyui.VRAM, float64=DTYPE != "bf16" or MODE != "novram"):
            try:
                size = {"size": (12, 10)} if check == "adapter" else {}
                make = with_table(MODELS[name]) if check == "adapter" else MODELS[name]
                CHECKS[check](*(() if check == "default" else make(dtype=DTYPES[DTYPE], **size)))
            except Exception:
                error = traceback.format_exc()
        print(json.dumps({"case": case, "error": error}), flush=True)
