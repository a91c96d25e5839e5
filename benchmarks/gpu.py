"""The pack on a real GPU, beside KSampler: `python benchmarks/gpu.py --comfyui DIR --out DIR`, at most 8 minutes on one large NVIDIA card.

Nothing comes from outside: weights are random, made on the device; carried along are ComfyUI's own folders and files (`CARRIED`) and, where
that machine's Python lacks them, the wheels of `WHEELS` in --wheels. First it is checked that all ways give what KSampler gives, bit for bit, at
real width; then what each costs. It writes gpu.json and gpu.txt into --out and prints the table. --small runs everything in small, also on a CPU.

Every section runs in a process of its own: one that runs out of memory or time leaves the others' results.
"""

import argparse
from contextlib import contextmanager
import gc
import json
import math
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
CARRIED = ("comfy", "comfy_api", "comfy_execution", "utils", "folder_paths.py", "latent_preview.py", "node_helpers.py", "comfyui_version.py", "protocol.py")
WHEELS = ("comfy-aimdo", "comfy-kitchen", "einops", "torchsde", "trampoline", "transformers", "tokenizers", "huggingface-hub", "safetensors", "scipy",
          "psutil", "av", "pyyaml", "regex", "tqdm", "pillow", "diffusers")
SPEED = ("flux_dev", "sd35_large", "sd35_medium", "z_image")
PARITY = ("sd35_medium", "flux_dev", "pixart", "auraflow", "z_image", "qwen_image", "wan")
SECTIONS = ("parity", "parity dynamic", *(f"speed {name}" for name in SPEED), "card 16 GB", "own", "adapter")
AIMS = {"DiT Denoise": 1.03, "stages": 1.05}  # of KSampler's milliseconds a step
OWN_AIM = 30.0  # milliseconds a step of our own SD3-medium at 1024², with CFG, on one H200


# --- models of random weights -----------------------------------------------------------------------------------------

def shapes(name: str, small: bool, whole: bool) -> tuple:
    """→ class, configuration, what the loader does not read off the weights, text width, text tokens, pooled width, the latent's leading sides.
    whole: of all blocks; else of a few, at real width."""
    def sized(real: int, few: int) -> int:
        return real if whole and not small else few
    if name in ("sd3_medium", "sd35_medium", "sd35_large"):
        from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper as cls
        depth = 3 if small else 38 if name == "sd35_large" else 24  # its width is 64 for each block
        text, pooled, side = (32, 48, 24) if small else (4096, 2048, 384 if name == "sd35_medium" else 192)
        more = {"x_block_self_attn_layers": list(range(2 if small else 13))} if name == "sd35_medium" else {}
        context = {"target": "torch.nn.Linear", "params": {"in_features": text, "out_features": 64 * depth}}
        return cls, dict(input_size=None, in_channels=16, depth=depth, num_patches=side ** 2, pos_embed_max_size=side, adm_in_channels=pooled,
                         context_embedder_config=context, **({"qk_norm": "rms"} if name != "sd3_medium" else {}), **more), {}, text, 154, pooled, (16,)
    if name == "flux_dev":
        from comfy.ldm.flux.model import Flux as cls
        text, pooled, width = (32, 48, 128) if small else (4096, 768, 3072)
        return cls, dict(in_channels=16, out_channels=16, vec_in_dim=pooled, context_in_dim=text, hidden_size=width, mlp_ratio=4.0,
                         num_heads=width // 128, depth=sized(19, 2), depth_single_blocks=sized(38, 3), axes_dim=[16, 56, 56], theta=10000,
                         patch_size=2, qkv_bias=True, guidance_embed=True, txt_ids_dims=[]), {}, text, 256, pooled, (16,)
    if name == "z_image":
        from comfy.ldm.lumina.model import NextDiT as cls
        text, width, heads, axes = (32, 256, 4, [16, 24, 24]) if small else (2560, 3840, 30, [32, 48, 48])
        return cls, dict(patch_size=2, in_channels=16, dim=width, cap_feat_dim=text, n_layers=sized(30, 3), qk_norm=True), dict(
            n_heads=heads, n_kv_heads=heads, axes_dims=axes, ffn_dim_multiplier=8 / 3, rope_theta=256.0, z_image_modulation=True,
            time_scale=1000.0, pad_tokens_multiple=32), text, 128, None, (16,)
    if name == "pixart":
        from comfy.ldm.pixart.pixartms import PixArtMS as cls
        return cls, dict(depth=3, model_max_length=20 if small else 300, micro_condition=False), (
            dict(hidden_size=96, num_heads=4, caption_channels=32) if small else dict(hidden_size=1152, num_heads=16, caption_channels=4096)), \
            32 if small else 4096, 20 if small else 300, None, (4,)
    if name == "auraflow":
        from comfy.ldm.aura.mmdit import MMDiT as cls
        return cls, dict(max_seq=64 if small else 9216, cond_seq_dim=2048, n_double_layers=2, n_layers=4), (
            dict(dim=64, n_heads=2, global_conddim=64) if small else dict(dim=3072, n_heads=12, global_conddim=3072)), 2048, 256, None, (4,)
    if name == "qwen_image":
        from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel as cls
        return cls, dict(in_channels=64, num_layers=3), dict(attention_head_dim=32, num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(
            8, 12, 12)) if small else {}, 32 if small else 3584, 64, None, (16, 1)
    from comfy.ldm.wan.model import WanModel as cls
    width, ffn, text = (128, 256, 32) if small else (5120, 13824, 4096)
    return cls, dict(dim=width, ffn_dim=ffn, num_heads=width // 128, num_layers=3, out_dim=16, in_dim=16), dict(text_dim=text), text, 64, None, (16, 3)


def weights_of(cls: type, config: dict, undetected: dict, place, dtype, scaled: bool) -> dict:
    """A state dict of random weights, made on the device. scaled: matrices of blocks in 8 bits with a scale, as published files have them."""
    import comfy.memory_management
    import comfy.ops
    import torch
    enabled, comfy.memory_management.aimdo_enabled = comfy.memory_management.aimdo_enabled, False
    module = cls(**config, **undetected, dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init)
    comfy.memory_management.aimdo_enabled = enabled
    generator, made = torch.Generator(place).manual_seed(0), {}
    for key, like in module.state_dict().items():
        value = torch.randn(like.shape, generator=generator, device=place, dtype=torch.float32)
        value = value * like[0].numel() ** -0.5 if like.dim() > 1 else 1 + 0.1 * value if key.endswith("weight") else 0.1 * value
        if scaled and like.dim() == 2 and key.endswith(".weight") and "blocks" in key or scaled and "layers." in key and like.dim() == 2:
            scale = value.abs().amax() / 448
            made[key], made[key.removesuffix("weight") + "scale_weight"] = (value / scale).to(torch.float8_e4m3fn).cpu(), scale.cpu()
        else:
            made[key] = value.to(dtype).cpu()
    if scaled:
        made["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    return made


def build(name: str, run, whole: bool, scaled: bool = False, pixels: int = 1024) -> tuple:
    """→ MODEL, positive, negative, an empty latent of a picture of so many pixels."""
    import comfy.model_detection
    import comfy.sd
    import torch
    cls, config, undetected, text, tokens, pooled, lead = shapes(name, run.small, whole)
    detect = comfy.model_detection.detect_unet_config
    comfy.model_detection.detect_unet_config = lambda *args, **kwargs: {**detect(*args, **kwargs), **undetected}
    try:
        state = weights_of(cls, config, undetected, run.device, torch.bfloat16, scaled)
        model = comfy.sd.load_diffusion_model_state_dict(state, model_options={} if scaled else {"dtype": torch.bfloat16})
    finally:
        comfy.model_detection.detect_unet_config = detect
    generator = torch.Generator().manual_seed(1)

    def conditioning() -> list:
        values = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
        return [[torch.randn(1, tokens, text, generator=generator), values | ({"guidance": 3.5} if name == "flux_dev" else {})]]
    side = (40 if name == "pixart" else 12) if run.small else pixels // 8
    return model, conditioning(), conditioning(), torch.zeros(1, *lead, side, side)


# --- sections ---------------------------------------------------------------------------------------------------------

def tell(section: str, name: str, what: str, value, unit: str = "") -> None:
    """A line of the result."""
    print(json.dumps({"section": section, "name": name, "what": what, "value": value, "unit": unit}), flush=True)


def ways(run, cfg: float) -> dict:
    """What is compared: → call(made, steps) by name."""
    import host_model_check as by_wires
    from host_models import ksampler
    found = {"KSampler": lambda made, steps: ksampler(*made, steps=steps, cfg=cfg), "DiT Denoise": lambda made, steps: by_wires.wires(*made, steps=steps, cfg=cfg),
             "chain": lambda made, steps: by_wires.wires(*made, steps=steps, cfg=cfg, chain=True),
             "stages": lambda made, steps: by_wires.inside(*made, steps=steps, cfg=cfg)}
    from dit_blocks.nodes.comfyui import stages

    def generic(made, steps):
        """By the way that needs no adapter."""
        known, stages.ADAPTERS = stages.ADAPTERS, ()
        try:
            return by_wires.inside(*made, steps=steps, cfg=cfg)
        finally:
            stages.ADAPTERS = known
    found["generic stages"] = generic
    try:
        from dit_blocks.nodes.step_cache import StepCache

        def cached(made, steps):
            model = StepCache.execute(model=made[0], threshold=0.1, start_percent=0.1, end_percent=1.0).result[0]
            return by_wires.wires(model, *made[1:], steps=steps, cfg=cfg)
        found["Step Cache"] = cached
    except ImportError:
        pass
    return found


def parity(run, section: str) -> None:
    """Whether every way gives KSampler's latent bit for bit, with KSampler against itself as control."""
    import torch
    for scaled in (False, True):
        for name in PARITY[:2] if run.small else PARITY:
            kind = f"{name} {'scaled fp8' if scaled else 'bf16'}"
            try:
                made = build(name, run, whole=False, scaled=scaled, pixels=512)
                known = ways(run, 4.0)
                expected = known["KSampler"](made, 2)
                tell(section, kind, "finite", bool(expected.isfinite().all()))
                for what in ("KSampler", "DiT Denoise", "chain", "stages"):
                    tell(section, kind, f"{what} equals KSampler", bool(torch.equal(known[what](made, 2), expected)))
            except Exception as error:  # one family says nothing of the others
                tell(section, kind, "failed", f"{type(error).__name__}: {error}"[:300])
            made = None
            run.forget()


def speed(run, section: str, vram: float = 0) -> None:
    """Milliseconds a step, the highest memory, and what is left on the device by a step's wires."""
    import torch
    name = section.split()[1] if section.startswith("speed") else "flux_dev"
    cfg = 1.0 if name == "flux_dev" else 4.0
    made = build(name, run, whole=True)
    base, less, more = None, *((1, 3) if run.small else (1, 5))
    for what, call in ways(run, cfg).items():
        try:
            call(made, 1)
            held, times = run.forget(), []
            for steps in (less, more):
                began = run.now()
                answer = call(made, steps)
                times.append(run.now() - began)
            each = 1000 * (times[1] - times[0]) / (more - less)
            base = base or each
            tell(section, name, f"{what}: a step", round(each, 3), "ms")
            tell(section, name, f"{what}: of KSampler's", round(each / base, 4))
            tell(section, name, f"{what}: highest memory", run.peak(), "GiB")
            tell(section, name, f"{what}: left on the device", round((run.forget() - held) / 2 ** 30, 4), "GiB")
            if what in AIMS and not run.small:
                tell(section, name, f"{what}: at most {AIMS[what]} of KSampler's", each / base <= AIMS[what])
            del answer
        except torch.cuda.OutOfMemoryError:
            tell(section, name, what, "out of memory")
            run.forget()


def card(run, section: str) -> None:
    """Flux-dev where no more than 16 GB of the card may be used."""
    import comfy.model_management as management
    import torch
    if run.device.type == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(16e9 / total, 0)
        free = management.get_free_memory

        def left(place=None, torch_free_too=False):
            found = free(place, torch_free_too)
            taken = 0 if getattr(place, "type", "cuda") == "cpu" else total - 16e9
            return tuple(one - taken for one in found) if torch_free_too else found - taken
        management.get_free_memory = left
        management.get_total_memory = lambda place=None, torch_total_too=False: (16e9, 16e9) if torch_total_too else 16e9
    speed(run, section)


def own(run, section: str) -> None:
    """Our own SD3-medium at 1024² with CFG, and diffusers' in eager and compiled."""
    import torch

    from dit_blocks.dit_impl.handle.backbone import Backbone
    from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
    from dit_blocks.dit_impl.tokens.wire import identity_format
    depth, text, pooled = (3, 32, 48) if run.small else (24, 4096, 2048)
    side, latent = (24, 16) if run.small else (192, 128)
    with torch.inference_mode(False), torch.device(run.device):
        torch.manual_seed(0)
        model = MMDiT(MMDiTConfig(patch_sizes=(2,), in_channels=16, width=64 * depth, depth=depth, heads=depth, context_width=text, pooled_width=pooled,
                                  position="cropped", position_table=side, position_base=64.0))
        model = model.to(torch.bfloat16).eval().requires_grad_(False)
        conditionings = [[[torch.randn(1, 154, text), {"pooled_output": torch.randn(1, pooled)}]] for _ in range(2)]
    dit = Backbone(model, identity_format(16), name="SD3-medium")
    tokens = dit.fold({"samples": torch.randn(1, 16, latent, latent)})

    def ours(steps: int):
        sigmas = dit.schedule(steps)
        noisy, _ = dit.add_noise(tokens, sigmas, 0, 0)
        return dit.denoise(noisy, sigmas, *conditionings, 4.0)
    with torch.inference_mode():
        each = run.a_step(ours)
    tell(section, "SD3-medium", "ours: a step", round(each, 3), "ms")
    if not run.small:
        tell(section, "SD3-medium", f"ours: at most {OWN_AIM:g} ms", each <= OWN_AIM)
    try:
        from diffusers import SD3Transformer2DModel
    except ImportError:
        tell(section, "SD3-medium", "diffusers", "not installed")
        return
    with torch.device(run.device):
        theirs = SD3Transformer2DModel(sample_size=latent, num_layers=depth, num_attention_heads=depth, attention_head_dim=64, caption_projection_dim=64 * depth,
                                       joint_attention_dim=text, pooled_projection_dim=pooled, pos_embed_max_size=side).to(torch.bfloat16).eval()
        given = dict(hidden_states=torch.randn(2, 16, latent, latent, dtype=torch.bfloat16), encoder_hidden_states=torch.randn(2, 154, text, dtype=torch.bfloat16),
                     pooled_projections=torch.randn(2, pooled, dtype=torch.bfloat16), timestep=torch.full((2,), 500.0))
    for what, called in (("eager", theirs), *(() if run.small else (("compiled", torch.compile(theirs)),))):
        with torch.inference_mode():
            tell(section, "SD3-medium", f"diffusers {what}: a step", round(run.a_step(lambda steps: [called(**given) for _ in range(steps)]), 3), "ms")


def adapter(run, section: str) -> None:
    """A step of training a patch-size adapter for SD3.5-medium."""
    import torch

    from dit_blocks.dit_impl.training.adapter import Distilling
    from dit_blocks.dit_impl.training.loop import Settings, train
    from dit_blocks.dit_impl.training.sets import TrainingSet
    from dit_blocks.nodes.comfyui import host
    from dit_blocks.nodes.model import FromModel
    model, positive, negative, latent = build("sd35_medium", run, whole=True)
    # the position table that published models have
    from dit_blocks.dit_impl.model.position import sincos_2d
    table = model.model.diffusion_model.pos_embed
    axis = torch.arange(math.isqrt(table.shape[1])) / 3 - 2
    table.copy_(sincos_2d(table.shape[-1], axis, axis)[None])
    dit = FromModel.execute(model=model).result[0]
    host.load(dit.modules())
    with torch.inference_mode(False):
        objective = Distilling(dit, 4, 8)
    data = TrainingSet(torch.randn(2, *latent.shape[1:]), [positive, negative], (), negative)
    run.forget()
    each = run.a_step(lambda steps: train(objective, data, Settings(steps=steps, batch=1, warmup=1)))
    tell(section, "SD3.5-medium", "a step of training", round(each, 3), "ms")
    tell(section, "SD3.5-medium", "highest memory", run.peak(), "GiB")


# --- running ----------------------------------------------------------------------------------------------------------

class Run(SimpleNamespace):
    """The device of this process and its clock. small: on whatever there is."""

    def now(self) -> float:
        import torch
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def a_step(self, call) -> float:
        """Milliseconds of one step: of many less one, after a first."""
        call(1)
        times = []
        for steps in (1, 3 if self.small else 6):
            began = self.now()
            call(steps)
            times.append(self.now() - began)
        return 1000 * (times[1] - times[0]) / (2 if self.small else 5)

    def forget(self) -> int:
        """Count the highest memory anew: → bytes that are held."""
        import torch
        gc.collect()
        if self.device.type != "cuda":
            return 0
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak(self) -> float:
        import torch
        return round(torch.cuda.max_memory_allocated() / 2 ** 30, 3) if self.device.type == "cuda" else 0.0


@contextmanager
def prepared(comfyui: Path, wheels: Path | None, small: bool, dynamic: bool):
    """ComfyUI and the pack on the path, and a device."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dit_blocks").symlink_to(ROOT, target_is_directory=True)
        sys.path[:0] = [str(comfyui), folder, str(ROOT / "tests")]
        sys.path += [str(wheels)] if wheels else []
        from comfy.cli_args import args
        import torch
        args.cpu = not torch.cuda.is_available()
        dynamic = dynamic and not args.cpu
        if dynamic:
            import comfy_aimdo.control
            comfy_aimdo.control.init()
        import comfy.model_management as management
        import comfy.sd  # noqa: F401
        if dynamic:  # as ComfyUI's main.py begins
            import comfy.memory_management
            import comfy.model_patcher
            places = management.get_all_torch_devices()
            try:
                begun = comfy_aimdo.control.init_devices((place.index, 0) for place in places)
            except TypeError:  # of older versions
                begun = comfy_aimdo.control.init_devices(place.index for place in places)
            if not begun:
                raise RuntimeError("comfy-aimdo finds no device")
            comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
            comfy.memory_management.aimdo_enabled = True
        yield Run(device=management.get_torch_device(), small=small)


def one_section(section: str, options) -> None:
    with prepared(options.comfyui, options.wheels, options.small, section.endswith("dynamic")) as run:
        import torch
        call = {"parity": parity, "speed": speed, "card": card, "own": own, "adapter": adapter}[section.split()[0]]
        tell(section, "device", "name", torch.cuda.get_device_name(0) if run.device.type == "cuda" else "CPU")
        with torch.inference_mode():
            call(run, section)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--section", action="append", help=f"only these, of: {', '.join(SECTIONS)}")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        one_section(options.inside, options)
        return 0
    ends, results = time.monotonic() + 60 * options.minutes - 5, []
    for section in options.section or SECTIONS:
        command = [sys.executable, __file__, "--comfyui", options.comfyui, "--inside", section, *(["--small"] if options.small else []),
                   *(["--wheels", options.wheels] if options.wheels else [])]
        try:
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=max(1, ends - time.monotonic()), env={**os.environ})
            said, why = done.stdout, (done.stderr.strip().splitlines() or ["?"])[-1] if done.returncode else ""
        except subprocess.TimeoutExpired as error:
            said, why = (error.stdout or b"").decode(), "out of time"
        results += [json.loads(line) for line in said.splitlines() if line.startswith('{"section"')]
        if why:
            results.append({"section": section, "name": "", "what": "failed", "value": why[:300], "unit": ""})
    lines = [f"{one['section']:20} {one['name']:24} {one['what']:44} {one['value']} {one['unit']}".rstrip() for one in results]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "gpu.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return int(any(one["what"] == "failed" or one["value"] is False for one in results))


if __name__ == "__main__":
    sys.exit(main())
