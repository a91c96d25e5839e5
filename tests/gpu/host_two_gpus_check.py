"""Runs under ComfyUI's Python: a MODEL on two simulated GPUs by core's MultiGPU CFG Split. One line of JSON a case: {"case", "error"}.

    python tests/gpu/host_two_gpus_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks MODE DTYPE [WORDS]

MODE: normal, or dynamic: some of the weights stay on each GPU. DTYPE: bf16 or fp16.
"""

from contextlib import contextmanager
import json
from pathlib import Path
import sys
import traceback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gpu import comfyui, device  # noqa: E402
from host_models import MODELS, ksampler, latent, start  # noqa: E402
import torch  # noqa: E402

BOTH = {device.GPU, device.SECOND}


def equal(a, b, what):
    assert torch.equal(a.cpu(), b.cpu()), f"{what} differs by {(a.cpu().float() - b.cpu().float()).abs().max()}"


def split(make, batch=1, **how):
    """A model of host_models on both GPUs: → MODEL, positive, negative, latent."""
    from comfy_extras.nodes_multigpu import MultiGPUCFGSplitNode
    model, *given = make(batch=batch, **how)
    model.cached_patcher_init = lambda: make(batch=batch, **how)[0], ()  # as core's loaders have it
    return (MultiGPUCFGSplitNode.execute(model, 2).result[0], *given)


@contextmanager
def seen():
    """Where the model's blocks are called while it lasts: yields a set of devices."""
    import comfy.model_base
    where, own = set(), comfy.model_base.BaseModel._apply_model

    def apply(self, x, *args, **kwargs):
        if type(x).__name__ != "Blank":  # what costs are counted on, which has no values
            where.add(x.device)
        return own(self, x, *args, **kwargs)
    comfy.model_base.BaseModel._apply_model = apply
    try:
        yield where
    finally:
        comfy.model_base.BaseModel._apply_model = own


def on(devices: set, what: str, run, *args, **kwargs):
    with seen() as where:
        found = run(*args, **kwargs)
    assert where == devices, f"{what} ran on {where}"
    return found


def draws(make, cfg, batch):
    """KSampler's picture, and on the GPUs that KSampler uses: whole, in a chain, by stages."""
    import host_model_check as wires
    made = split(make, batch)
    devices = BOTH if cfg > 1 else {device.GPU}
    expected = on(devices, "KSampler", ksampler, *made, cfg=cfg)
    assert expected.isfinite().all()
    equal(on(devices, "DiT Denoise", wires.wires, *made, cfg=cfg), expected, "DiT Denoise")
    equal(on(devices, "a chain", wires.wires, *made, cfg=cfg, chain=True), expected, "a chain of steps")
    equal(wires.inside(*made, cfg=cfg), expected, "stages")
    equal(ksampler(*made, cfg=cfg), expected, "KSampler afterwards")


def several_prompts(name):
    """Three prompts, of which two share a GPU and one has an area."""
    import host_model_check as wires
    model, positive, negative, samples = split(MODELS[name], 2)
    (text, values), = positive
    positive = [[text, values], [text * 0.5, {**values, "area": (4, 4, 2, 2), "strength": 0.7}]]
    made = model, positive, negative, samples
    expected = on(BOTH, "KSampler", ksampler, *made)
    equal(wires.wires(*made), expected, "DiT Denoise")
    equal(wires.inside(*made), expected, "stages")


def on_the_second(name):
    """A MODEL that core's Select Model Device lays on the second GPU."""
    from comfy_extras.nodes_multigpu import SelectModelDeviceNode
    import host_model_check as wires
    make = MODELS[name]
    model, *given = make(batch=2)
    model.cached_patcher_init = lambda: make(batch=2)[0], ()
    made = SelectModelDeviceNode.execute(model, "gpu:1").result[0], *given
    expected = on({device.SECOND}, "KSampler", ksampler, *made)
    equal(on({device.SECOND}, "DiT Denoise", wires.wires, *made), expected, "DiT Denoise")
    equal(on({device.SECOND}, "a chain", wires.wires, *made, chain=True), expected, "a chain of steps")
    equal(on({device.SECOND}, "stages", wires.inside, *made), expected, "stages")


def remarks(name):
    """The node says that stages leave the second GPU out."""
    from dit_blocks.nodes.model import FromModel
    model, *_ = split(MODELS[name])
    (dit,) = FromModel.execute(model=model).result
    assert "stages run on the first GPU" in dit.remark, dit.remark


def riders(name):
    """A plan of blocks, a cache over the steps, another patch size and an adapter ride on both GPUs."""
    from host_adapter_check import adapter_for, own_size, with_adapter, with_table
    from host_blocks_check import planned
    from host_cache_check import ALWAYS, caching
    import host_model_check as wires
    from host_patch_check import scheduled
    model, *given = split(with_table(MODELS[name]), size=(12, 10))
    plain = ksampler(model, *given)
    p = own_size(model) + 1
    for what, ridden in (("a plan", planned(model, "all but 1")), ("a cache", caching(model, ALWAYS)[0]), ("a patch size", scheduled(model, "4")),
                         ("an adapter", scheduled(with_adapter(model, adapter_for(model, p)), f"{p}"))):
        expected = on(BOTH, what, ksampler, ridden, *given)
        assert expected.isfinite().all() and not torch.equal(expected, plain), f"{what} changes nothing"
        equal(ksampler(ridden, *given), expected, f"{what}, again")
        equal(on(BOTH, what, wires.wires, ridden, *given), expected, f"DiT Denoise with {what}")
        equal(wires.wires(ridden, *given, chain=True), expected, f"a chain with {what}")
    equal(ksampler(model, *given), plain, "the MODEL afterwards")


def attention(name):
    """What is captured while two GPUs sample is what stages show at that step, and what one GPU shows."""
    from host_model_check import out

    from dit_blocks.dit_impl.see.attention_maps import Question, over_steps
    from dit_blocks.nodes.denoise import AddNoise, Schedule
    from dit_blocks.nodes.model import FromModel
    from dit_blocks.nodes.patch import Patchify, Unpatchify
    found = []
    for make in (split, lambda make: make()):
        model, positive, negative, samples = make(MODELS[name])
        (dit,) = out(FromModel, model=model)
        tokens, *_ = out(Patchify, latent={"samples": samples}, patch_size=0, dit=dit)
        (sigmas,) = out(Schedule, dit=dit, steps=4, scheduler="simple", denoise=1.0)
        tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=5)
        with seen() as where:
            tokens, _, answers = over_steps(dit, tokens, sigmas, positive, negative, 4.0, "euler", 0, 4, Question(1, -1, "image to image", 3), "0, 2", 1e9)
        assert where == (BOTH if make is split else {device.GPU}) and list(answers) == [0, 2]
        if make is split:
            equal(out(Unpatchify, tokens=tokens)[0]["samples"], ksampler(model, positive, negative, samples), "what is sampled meanwhile")
        found.append(answers)
    for step in (0, 2):
        torch.testing.assert_close(found[0][step].maps, found[1][step].maps, rtol=2e-2, atol=1e-3)


def zoo(name):
    """An architecture of the zoo as a model of host_models."""
    from host_zoo import ZOO
    import host_zoo_unets  # noqa: F401  which fills it

    def make(batch=1, dtype=None):
        model, positive, negative, shape = ZOO[name]()
        model.load_device = device.GPU  # it was built for the CPU
        return model, positive, negative, latent(batch, *shape)
    return make


CASES = {f"{name}, cfg {cfg:g}, batch {batch}": lambda name=name, cfg=cfg, batch=batch: draws(MODELS[name], cfg, batch)
         for name in ("sd3", "flux_dev", "wan") for cfg in (1.0, 4.0) for batch in (1, 2)}
CASES["chroma: by generic stages"] = lambda: draws(zoo("chroma"), 4.0, 2)
CASES |= {f"{name}: {check.__name__}": lambda check=check, name=name: check(name)
          for check in (several_prompts, on_the_second, remarks, riders, attention) for name in ("sd3", "flux_dev")}

if __name__ == "__main__":
    comfyui_dir, packs, MODE, DTYPE, *words = sys.argv[1:]
    start(comfyui_dir, packs)
    comfyui.install(dtype=DTYPE, count=2, **{"normal": {}, "dynamic": {"dynamic": "some"}}[MODE])
    for case, check in CASES.items():
        case, error = f"{MODE} {DTYPE} {case}", None
        if words and not any(word in case for word in words):
            continue
        with torch.inference_mode(), device.on(total=comfyui.VRAM):
            try:
                check()
            except Exception:
                error = traceback.format_exc()
        print(json.dumps({"case": case, "error": error}), flush=True)
