"""Small random models that ComfyUI's own loader accepts, one function an architecture. Runs under ComfyUI's Python, without pytest.

    start("~/comfy/ComfyUI", "folder of dit_blocks")         # before anything imports comfy
    model, positive, negative, latent = flux_dev(size=(9, 7), batch=2)

model is a ModelPatcher, positive and negative are CONDITIONING, latent is a random tensor [B, C, H, W] ([B, C, T, H, W] for Qwen-Image
and Wan), as LATENT["samples"] holds it. Weights and inputs are the same on every call.
"""

import atexit
from contextlib import ExitStack, contextmanager
import json
import logging
from pathlib import Path
import sys
import tempfile
import traceback
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor, nn

TEXT = 7  # text tokens
WIDTH = 32  # width of a text token


def start(comfyui: str | Path, packs: str | Path) -> None:
    """Put ComfyUI and the pack on the path and let ComfyUI run on the CPU, with no server. packs holds the folder dit_blocks."""
    sys.path[:0] = [str(Path(comfyui).expanduser()), str(packs)]
    from comfy.cli_args import args
    args.cpu = True
    import comfy.sd  # noqa: F401  sets up logging
    logging.getLogger().setLevel(logging.ERROR)
    previews = ExitStack()
    previews.enter_context(own_previews())
    atexit.register(previews.close)


@contextmanager
def own_previews():
    """While it lasts, previews go to a folder of their own: ComfyUI reads the names of all that lie there before it saves one."""
    import folder_paths
    with tempfile.TemporaryDirectory() as folder, patch.object(folder_paths, "temp_directory", folder):
        yield


def run_cases(cases: dict, *only: str) -> None:
    """Run case → (check, name of a model) and print a line of JSON for each: {"case", "error"}. only: words to choose cases by."""
    for case, (check, name) in cases.items():
        if only and not any(word in case for word in only):
            continue
        error = None
        try:
            with torch.inference_mode():
                check(name, MODELS.get(name))
        except Exception:
            error = traceback.format_exc()
        print(json.dumps({"case": case, "error": error}), flush=True)


def refused(message: str, run) -> None:
    """run() raises ValueError in one line that says this."""
    try:
        run()
    except ValueError as error:
        assert message in str(error) and "\n" not in str(error), error
    else:
        raise AssertionError(f"not refused: {message}")


@contextmanager
def costs_untold():
    """While it lasts, DiT Denoise does not count what its model costs, which takes a second: host_budget_check.py has every architecture's."""
    from dit_blocks.nodes import denoise
    with patch.object(denoise, "shape_of", lambda *_: None):
        yield


def random_weights(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """A state dict of the shapes of a module on the meta device, scaled so that activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, like in module.state_dict().items():
        value = torch.randn(like.shape, generator=generator)
        if like.ndim > 1:
            value *= like[0].numel() ** -0.5
        elif name.endswith("weight"):  # the scale of a norm
            value = 1 + 0.1 * value
        else:
            value *= 0.1
        weights[name] = value
    return weights


def load(cls: type, config: dict, undetected: dict | None = None, extra: dict | None = None, dtype: torch.dtype | None = None):
    """→ ModelPatcher, by core's loader. `undetected` are sizes that core does not read off the weights but takes as known."""
    import comfy.memory_management
    import comfy.model_detection
    import comfy.ops
    import comfy.sd
    undetected = undetected or {}
    with patch.object(comfy.memory_management, "aimdo_enabled", False):  # with dynamic VRAM, layers have no weights before they are loaded
        module = cls(**config, **undetected, dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init)
    weights = random_weights(module) | (extra or {})
    if dtype:
        weights = {name: value.to(dtype) for name, value in weights.items()}
    detect = comfy.model_detection.detect_unet_config

    def detect_small(*args, **kwargs):
        return {**detect(*args, **kwargs), **undetected}
    with patch.object(comfy.model_detection, "detect_unet_config", detect_small):
        return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype} if dtype else {})


def conditioning(seed: int, pooled: int | None = None, text_width: int = WIDTH, **values) -> list:
    """CONDITIONING of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    if pooled:
        values["pooled_output"] = torch.randn(1, pooled, generator=generator)
    return [[torch.randn(1, TEXT, text_width, generator=generator), values]]


def latent(batch: int, *shape: int) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(3))


def _mmdit(size, batch, dtype, **config):
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
    context = {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 192}}
    model = load(OpenAISignatureMMDITWrapper, dict(
        input_size=None, in_channels=16, depth=3, num_patches=24 ** 2, pos_embed_max_size=24, adm_in_channels=48,
        context_embedder_config=context, **config), dtype=dtype)
    return model, conditioning(1, 48), conditioning(2, 48), latent(batch, 16, *size)


def sd3(size=(9, 7), batch=1, dtype=None):
    return _mmdit(size, batch, dtype)


def sd35_medium(size=(9, 7), batch=1, dtype=None):
    return _mmdit(size, batch, dtype, qk_norm="rms", x_block_self_attn_layers=[0, 1])


def _flux(size, batch, dtype, guidance: bool):
    from comfy.ldm.flux.model import Flux
    model = load(Flux, dict(
        in_channels=16, out_channels=16, vec_in_dim=48, context_in_dim=WIDTH, hidden_size=128, mlp_ratio=4.0, num_heads=1, depth=2,
        depth_single_blocks=3, axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=guidance, txt_ids_dims=[]),
        dtype=dtype)
    values = {"guidance": 3.0} if guidance else {}
    return model, conditioning(1, 48, **values), conditioning(2, 48, **values), latent(batch, 16, *size)


def flux_dev(size=(9, 7), batch=1, dtype=None):
    return _flux(size, batch, dtype, guidance=True)


def flux_schnell(size=(9, 7), batch=1, dtype=None):
    return _flux(size, batch, dtype, guidance=False)


def flux2(size=(9, 7), batch=1, dtype=None):
    from comfy.ldm.flux.model import Flux
    model = load(Flux, dict(
        in_channels=128, hidden_size=128, depth=2, depth_single_blocks=3, vec_in_dim=None, context_in_dim=WIDTH, out_channels=128,
        axes_dim=[32, 32, 32, 32], num_heads=1, mlp_ratio=3.0, theta=2000, global_modulation=True, mlp_silu_act=True, qkv_bias=False,
        ops_bias=False, txt_ids_dims=[3], patch_size=1, guidance_embed=True), dtype=dtype)
    return model, conditioning(1, guidance=3.0), conditioning(2, guidance=3.0), latent(batch, 128, *size)


def _pixart(size, batch, dtype, alpha: bool):
    from comfy.ldm.pixart.pixartms import PixArtMS
    model = load(PixArtMS, dict(depth=3, model_max_length=20, micro_condition=alpha),
                 dict(hidden_size=96, num_heads=4, caption_channels=WIDTH), dtype=dtype)
    values = {"width": 64, "height": 48} if alpha else {}
    return model, conditioning(1, **values), conditioning(2, **values), latent(batch, 4, *size)


def pixart(size=(40, 34), batch=1, dtype=None):
    """PixArt-Σ. Upstream takes even sizes of more than 32 on average only."""
    return _pixart(size, batch, dtype, alpha=False)


def pixart_alpha(size=(40, 34), batch=1, dtype=None):
    """PixArt-α, which embeds the picture's size. Sizes as for PixArt-Σ."""
    return _pixart(size, batch, dtype, alpha=True)


def auraflow(size=(9, 7), batch=1, dtype=None):
    from comfy.ldm.aura.mmdit import MMDiT
    model = load(MMDiT, dict(max_seq=64, cond_seq_dim=2048, n_double_layers=2, n_layers=4), dict(dim=64, n_heads=2, global_conddim=64),
                 dtype=dtype)
    return model, conditioning(1, text_width=2048), conditioning(2, text_width=2048), latent(batch, 4, *size)


def _lumina(size, batch, dtype, dim: int, **undetected):
    from comfy.ldm.lumina.model import NextDiT
    model = load(NextDiT, dict(patch_size=2, in_channels=16, dim=dim, cap_feat_dim=WIDTH, n_layers=3, qk_norm=True), undetected,
                 dtype=dtype)
    return model, conditioning(1), conditioning(2), latent(batch, 16, *size)


def lumina2(size=(9, 7), batch=1, dtype=None):
    return _lumina(size, batch, dtype, 64, n_heads=4, n_kv_heads=2, axes_dims=[4, 6, 6], ffn_dim_multiplier=4.0)


def z_image(size=(9, 7), batch=1, dtype=None):
    return _lumina(size, batch, dtype, 256, n_heads=4, n_kv_heads=4, axes_dims=[16, 24, 24], ffn_dim_multiplier=8 / 3, rope_theta=256.0,
                   z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32)


def qwen_image(size=(9, 7), batch=1, dtype=None):
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
    model = load(QwenImageTransformer2DModel, dict(in_channels=64, num_layers=3), dict(
        attention_head_dim=32, num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(8, 12, 12)), dtype=dtype)
    return model, conditioning(1), conditioning(2), latent(batch, 16, 1, *size)


def _wan(batch, size, dtype, **config):
    from comfy.ldm.wan.model import WanModel
    model = load(WanModel, dict(dim=128, ffn_dim=256, num_heads=1, num_layers=3, out_dim=16, **config), dict(text_dim=WIDTH), dtype=dtype)
    return model, latent(batch, 16, 3, *size)


def wan(size=(9, 7), batch=1, dtype=None):
    """Wan 2.1 text to video, 3 latent frames."""
    model, video = _wan(batch, size, dtype, in_dim=16)
    return model, conditioning(1), conditioning(2), video


def wan_i2v(size=(9, 7), batch=1, dtype=None):
    """Wan 2.1 image to video, 3 latent frames: a start image, its CLIP vision embedding and a reference latent."""
    model, video = _wan(batch, size, dtype, model_type="i2v", in_dim=36, in_dim_ref_conv=16)
    generator = torch.Generator().manual_seed(4)
    image = SimpleNamespace(penultimate_hidden_states=torch.randn(1, 257, 1280, generator=generator))
    even = [side + side % 2 for side in size]  # upstream pads the video, not the reference
    values = {"clip_vision_output": image, "concat_latent_image": latent(1, 16, 3, *size), "reference_latents": [latent(1, 16, 1, *even)]}
    return model, conditioning(1, **values), conditioning(2, **values), video


MODELS = {make.__name__: make for make in (
    sd3, sd35_medium, flux_dev, flux_schnell, flux2, pixart, pixart_alpha, auraflow, lumina2, z_image, qwen_image, wan, wan_i2v)}


def ksampler(model, positive, negative, latent_image, sampler="euler", cfg=4.0, denoise=1.0, steps=4, seed=5, scheduler="simple",
             mask=None) -> Tensor:
    """What core's KSampler node gives."""
    import comfy.sample
    noise = comfy.sample.prepare_noise(latent_image, seed)
    return comfy.sample.sample(model, noise, steps, cfg, sampler, scheduler, positive, negative, latent_image, denoise=denoise,
                               noise_mask=mask, disable_pbar=True, seed=seed)
