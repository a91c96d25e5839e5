"""Runs under ComfyUI's Python: MODELs of real size, without values, on simulated cards of 8 to 24 GB under ComfyUI's own memory
management: KSampler against DiT Denoise, a chain of steps and stages. One line of JSON a case: {"case", "error", "found"}.

    python tests/gpu/host_sizes_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks MODE DTYPE [WORDS]

MODE: normal, dynamic (dynamic VRAM). DTYPE: bf16, fp8, of the weights; both compute in bf16. found: way → for two steps from an empty
card, bytes there at most (peak) and at last (kept: weights), bytes brought there (up), bytes that nodes were given (wires), and how
often the CPU waited (waits) but for what nodes hand on. None: out of memory.
"""

import functools
import gc
import json
from pathlib import Path
import sys
import traceback
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gpu import comfyui, device, shapes  # noqa: E402
from gpu.wires import size  # noqa: E402
import host_models  # noqa: E402
import torch  # noqa: E402

CARDS, STEPS = (8, 12, 16, 24), 2
MODES = {"normal": {}, "dynamic": {"dynamic": "fits"}}
DTYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
BORDERS = "dit_impl/tokens/places.py"
WAITS = 12  # a step: tokens come and go, previews, whether all numbers are finite


def load(cls: type, config: dict):
    """→ ModelPatcher, by core's loader."""
    import comfy.model_base

    def without_values(module):
        return {name: torch.empty(weight.shape) for name, weight in module.state_dict().items()}
    with shapes.mode, patch.object(host_models, "random_weights", without_values):
        patcher = host_models.load(cls, config, dtype=DTYPES[DTYPE])
    model = patcher.model
    model.model_sampling = comfy.model_base.model_sampling(model.model_config, model.model_type)  # its noise levels have values
    return patcher


def conditioning(seed: int, tokens: int, width: int, pooled: int | None = None, **values) -> list:
    """CONDITIONING of random numbers."""
    with patch.object(host_models, "TEXT", tokens):
        return host_models.conditioning(seed, pooled, width, **values)


def sd35_large():
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
    return load(OpenAISignatureMMDITWrapper, {
        "input_size": None, "in_channels": 16, "depth": 38, "num_patches": 192 ** 2, "pos_embed_max_size": 192, "adm_in_channels": 2048,
        "qk_norm": "rms", "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 2432}}})


def flux_dev():
    from comfy.ldm.flux.model import Flux
    return load(Flux, {
        "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072, "mlp_ratio": 4.0,
        "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2,
        "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []})


def qwen_image():
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
    return load(QwenImageTransformer2DModel, {"in_channels": 64, "num_layers": 60})


def z_image():
    from comfy.ldm.lumina.model import NextDiT
    return load(NextDiT, {
        "patch_size": 2, "in_channels": 16, "dim": 3840, "cap_feat_dim": 2560, "n_layers": 30, "qk_norm": True, "n_heads": 30,
        "n_kv_heads": 30, "axes_dims": [32, 48, 48], "ffn_dim_multiplier": 8 / 3,
        "rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0,
        "pad_tokens_multiple": 32})


def wan_14b():
    from comfy.ldm.wan.model import WanModel
    return load(WanModel, {
        "model_type": "t2v", "in_dim": 16, "dim": 5120, "ffn_dim": 13824, "text_dim": 4096, "out_dim": 16, "num_heads": 40,
        "num_layers": 40})


# how it is made; tokens of a prompt, their width, that of its pooled text; the latent without its cells; cfg; sizes in pixels
MODELS = {
    "sd35_large": (sd35_large, (154, 4096, 2048), (16,), 4.0, ((1024, 1024),)),
    "flux_dev": (flux_dev, (256, 4096, 768), (16,), 1.0, ((1024, 1024), (2048, 2048))),
    "qwen_image": (qwen_image, (64, 3584), (16, 1), 4.0, ((1024, 1024),)),
    "z_image": (z_image, (128, 2560), (16,), 4.0, ((1024, 1024),)),
    "wan_14b": (wan_14b, (512, 4096), (16, 21), 4.0, ((832, 480), (1280, 720)))}


def measured(way: str, run, made, cfg: float) -> dict[str, int] | None:
    """From a card on which nothing is, for two steps."""
    import comfy.model_management
    import host_model_check as nodes
    counts, out, wires = device.counts, nodes.out, 0
    comfy.model_management.unload_all_models()
    gc.collect()
    assert counts.live < comfyui.LEFT, f"{counts.live} bytes are left on the card"
    counts.restart()

    def weighed(node, **inputs):
        nonlocal wires
        wires += size(inputs)
        return out(node, **inputs)
    try:
        with patch.object(nodes, "out", weighed):
            run(*made, steps=STEPS, cfg=cfg)
    except torch.OutOfMemoryError:
        return None
    gc.collect()
    inside = sum(often for (site, _), often in counts.syncs.items() if not site.startswith(BORDERS))
    return {"peak": counts.peak, "kept": counts.live, "up": counts.up, "wires": wires, "waits": inside}


def check(made, cfg: float, found: dict) -> None:
    """As much memory and traffic as KSampler."""
    import host_model_check as nodes
    ways = {"KSampler": host_models.ksampler, "DiT Denoise": nodes.wires, "a chain of steps": functools.partial(nodes.wires, chain=True),
            "stages": nodes.inside}
    for way, run in ways.items():
        found[way] = measured(way, run, made, cfg)
    if found["KSampler"] is None:
        return
    for way in [*ways][1:]:
        theirs, ours = found["KSampler"], found[way]
        assert ours is not None, f"{way} runs out of memory, and KSampler does not"
        assert ours["peak"] <= 1.02 * theirs["peak"], f"{way} holds {ours['peak']} bytes at once, KSampler {theirs['peak']}"
        assert ours["up"] <= 1.05 * theirs["up"] + ours["wires"], f"{way} brings {ours['up']} bytes to the card, KSampler {theirs['up']}"
        assert ours["waits"] <= theirs["waits"] + WAITS * STEPS, f"{way} waits {ours['waits']} times, KSampler {theirs['waits']} times"


if __name__ == "__main__":
    comfyui_dir, packs, MODE, DTYPE, *words = sys.argv[1:]
    sys.path.insert(0, comfyui_dir)
    from comfy.cli_args import args
    args.use_pytorch_cross_attention = True
    host_models.start(comfyui_dir, packs)
    comfyui.install(dtype=DTYPE, **MODES[MODE])
    import comfy.model_management
    comfy.model_management.is_nvidia = lambda: True  # whose attention makes no scores of all pairs: the estimates of memory go by that
    for name, (make, text, latent, cfg, sizes) in MODELS.items():
        wanted = [(width, height, card) for width, height in sizes for card in CARDS
                  if not words or any(word in f"{MODE} {DTYPE} {name} {width}x{height} {card} GB" for word in words)]
        if not wanted:
            continue
        with torch.inference_mode(), shapes.on(), device.on(total=CARDS[-1] << 30):
            model = make()
        values = {"guidance": 3.5} if name == "flux_dev" else {}
        prompts = [conditioning(seed, *text, **values) for seed in (1, 2)]
        for width, height, card in wanted:
            error, found = None, {}
            with torch.inference_mode(), shapes.on(), device.on(total=card << 30):
                try:
                    check((model, *prompts, torch.zeros(1, *latent, height // 8, width // 8)), cfg, found)
                except Exception:
                    error = traceback.format_exc()
            print(json.dumps({"case": f"{MODE} {DTYPE} {name} {width}x{height} {card} GB", "error": error, "found": found}), flush=True)
