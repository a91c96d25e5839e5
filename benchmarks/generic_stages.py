"""The generic stages against the model's own forward: time and peak memory, as ratios of one run. Runs under ComfyUI's Python:

    cd FOLDER_THAT_HOLDS_dit_blocks; COMFYUI_DIR=~/comfy/ComfyUI ~/comfy/ComfyUI/.venv/bin/python dit_blocks/benchmarks/generic_stages.py

Transformers of ComfyUI with random weights, wide enough that their blocks are what takes the time; batch 2. Turn and turn about, median of
ROUNDS; processor time, so that it does not feel what else the machine does. Memory is what PyTorch allocates beyond what was there.
"""

import os
from pathlib import Path
import statistics
import sys
import time

HERE = Path(__file__).absolute().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent.parent)]
ROUNDS = 5

from host_models import start  # noqa: E402

start(os.environ.get("COMFYUI_DIR", "~/comfy/ComfyUI"), HERE.parent.parent)

import torch  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from dit_blocks.nodes.comfyui.stages import GenericStages  # noqa: E402


def flux():
    from comfy.ldm.flux.model import Flux
    import comfy.ops
    return Flux(in_channels=16, out_channels=16, vec_in_dim=48, context_in_dim=32, hidden_size=768, mlp_ratio=4.0, num_heads=6, depth=2,
                depth_single_blocks=4, axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=False, txt_ids_dims=[],
                dtype=torch.float32, operations=comfy.ops.disable_weight_init), {"y": torch.randn(2, 48)}


def wan():
    from comfy.ldm.wan.model import WanModel
    import comfy.ops
    return WanModel(dim=512, ffn_dim=2048, num_heads=4, num_layers=8, in_dim=16, out_dim=16, text_dim=32, dtype=torch.float32,
                    operations=comfy.ops.disable_weight_init), {}


MODELS = {"Flux, 2 + 4 blocks of width 768, 256 tokens": (flux, (2, 16, 32, 32)), "Wan, 8 blocks of width 512, 3 × 64 tokens": (wan, (2, 16, 3, 16, 16))}


def peak(run) -> int:
    """The most bytes that PyTorch has allocated at once while it runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = run()
    events = sorted((event.start_ns(), event.nbytes()) for event in seen.profiler.kineto_results.events() if event.name() == "[memory]")
    del kept
    now = most = 0
    for _, bytes in events:
        now += bytes
        most = max(most, now)
    return most


def measure(name: str) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model, more = make()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    model.requires_grad_(False)
    args, kwargs = (torch.randn(shape), torch.full((2,), 0.5)), {"context": torch.randn(2, 77, 32), "transformer_options": {}, **more}

    def plain():
        return model(*args, **kwargs)

    def by_stages():
        stages = GenericStages(model)
        hidden = stages.position_embed(stages.patch_embed(stages.condition(*args, **kwargs)))
        hidden = stages.run_blocks(hidden, range(len(stages.over(hidden).kinds)))
        return stages.head(hidden), hidden

    def seconds(run) -> float:
        began = time.process_time()
        run()
        return time.process_time() - began
    assert torch.equal(plain(), by_stages()[0])
    rounds = [(seconds(plain), seconds(by_stages)) for _ in range(ROUNDS)]
    one, many = (statistics.median(side) for side in zip(*rounds))
    captured = sum(leaf.numel() * leaf.element_size() for leaf in [by_stages()[1].x])
    low, high = peak(plain), peak(by_stages)
    print(f"| {name} | {many / one:.3f} | {high / low:.3f} | {(high - captured) / low:.3f} |", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        print("| model | time | peak memory | peak memory without what is captured |\n|---|---|---|---|")
        for one in MODELS:
            measure(one)
