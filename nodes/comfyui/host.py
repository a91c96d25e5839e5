"""All that the nodes ask of the program they run in: device, progress with previews, interruption, folders. Only this file touches
`comfy` and `folder_paths`."""

import os
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor, nn

from ...dit_impl.sources.atomic import write_new

try:
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.ops
    import comfy.utils
    import folder_paths
except ImportError:  # outside ComfyUI
    management = None

_progress: Callable | None = None
_interrupted: Callable[[], bool] | None = None
_models: Callable[[], Path] = lambda: Path("models")
_numbered: Callable[[str], tuple[Path, str, int]] | None = None
_output: Callable[[], Path] = lambda: Path("output")
PREVIEW_SIDE = 256


class Interrupted(Exception):
    """The run was cancelled, outside ComfyUI."""


def listen(progress: Callable | None = None, interrupted: Callable[[], bool] | None = None) -> None:
    """Outside ComfyUI: who hears of progress(done, of, preview or None), and who says that a run is cancelled."""
    global _progress, _interrupted
    _progress, _interrupted = progress, interrupted


def keep_in(models: Callable[[], Path], numbered: Callable[[str], tuple[Path, str, int]], output: Callable[[], Path]) -> None:
    """Outside ComfyUI: the folder of models; a prefix → folder, stem and number of the next file that is saved; the output folder."""
    global _models, _numbered, _output
    _models, _numbered, _output = models, numbered, output


def _files(kind: str, ending: str) -> dict[str, Path]:
    """Files whose names end so, anywhere below the folders for this kind of model, by their path below it."""
    roots = folder_paths.get_folder_paths(kind) if management else [_models() / kind]
    found = {}
    for root in roots:
        for folder, _, names in os.walk(root, followlinks=True):
            for name in names:
                if name.endswith(ending):
                    path = os.path.join(folder, name)
                    found.setdefault(os.path.relpath(path, root), Path(path))
    return dict(sorted(found.items()))


def diffusers_folders() -> dict[str, Path]:
    """The folders below models/diffusers that hold a model_index.json, by the name that a user picks."""
    return {os.path.dirname(name) or ".": path.parent for name, path in _files("diffusers", "model_index.json").items()}


def dit_files() -> dict[str, Path]:
    """The safetensors files below models/diffusion_models, by the name that a user picks."""
    return _files("diffusion_models", ".safetensors")


def adapter_files() -> dict[str, Path]:
    """The safetensors files below models/loras, where small additions to a model are kept, by the name that a user picks."""
    return _files("loras", ".safetensors")


def save_new(prefix: str, write: Callable[[Path], None]) -> Path:
    """Let `write` fill `<prefix>_00001_.safetensors` in the output folder, or the first later number that is free: → its path. Raises
    ValueError for a prefix that leaves the folder, OSError."""
    if management:
        output = folder_paths.get_output_directory()
        if not folder_paths.is_within_directory(output, os.path.join(output, os.path.dirname(os.path.normpath(prefix)))):
            raise ValueError(f"filename_prefix {prefix!r} leaves the output folder")
        folder, stem, number, _, _ = folder_paths.get_save_image_path(prefix, output)
    else:
        folder, stem, number = _numbered(prefix)
    return write_new(lambda at: Path(folder) / f"{stem}_{at:05}_.safetensors", number, write)


def output_folder(kind: str, name: str) -> Path:
    """A folder of this name in dit_blocks/<kind> of the output folder. It need not be there. Raises ValueError for a name that leaves it."""
    output = Path(folder_paths.get_output_directory()) if management else _output()
    root = Path(os.path.abspath(output / "dit_blocks" / kind))
    path = Path(os.path.abspath(root / name))
    if path == root or not path.is_relative_to(root):
        raise ValueError(f"name {name!r} is no folder inside {root}")
    return path


def ops():
    """Where models take their layers from: ComfyUI's cast and offload their weights."""
    return comfy.ops.manual_cast if management else nn


def vae(tensors: dict[str, Tensor]):
    """ComfyUI's own VAE over these weights, in diffusers' names; None outside ComfyUI."""
    if not management:
        return None
    import comfy.sd
    made = comfy.sd.VAE(sd=tensors)
    made.throw_exception_if_invalid()
    return made


def castable(module: nn.Module) -> nn.Module:
    """The same module, whose layers ComfyUI casts, and keeps in main memory until they are called. It is changed."""
    if management:
        for layer in module.modules():
            if type(layer).__module__.startswith("torch.nn.") and hasattr(comfy.ops.manual_cast, type(layer).__name__):
                layer.__class__ = getattr(comfy.ops.manual_cast, type(layer).__name__)
                layer.bias = getattr(layer, "bias", None)  # ComfyUI asks every layer for it
    return module


def load(modules: list[nn.Module], memory: float = 0, least: float | None = None) -> None:
    """Bring models to the device that computes, with room for `memory` bytes beside them, or `least` where that is too much. ComfyUI's
    memory management holds them from then on."""
    if management and modules:
        for module in modules:
            if getattr(module, "comfy_patcher", None) is None:  # a copy of a module has none of its own yet
                module.comfy_patcher = comfy.model_patcher.CoreModelPatcher(
                    castable(module), management.get_torch_device(), management.unet_offload_device())
        management.load_models_gpu([module.comfy_patcher for module in modules], memory_required=memory, minimum_memory_required=least)


def serve(routes: list[tuple[str, str, Callable]]) -> None:
    """Have ComfyUI's server answer (method, path, handler) too. Elsewhere whoever serves the pack reads the list itself."""
    if not management:
        return
    from server import PromptServer
    running = getattr(PromptServer, "instance", None)  # none where nodes run without a server
    for method, path, handler in routes if running else ():
        running.routes.route(method, path)(handler)


def tell(event: str, said: dict) -> None:
    """Send the editor an event of the pack's own. Nothing where there is no server."""
    if management:
        from server import PromptServer
        running = getattr(PromptServer, "instance", None)
        if running:
            running.send_sync(event, said)


async def replace(renamed: list[dict]) -> None:
    """Have ComfyUI give workflows the new nodes for these old ones. Elsewhere whoever reads workflows reads the list itself."""
    if not management or not renamed:
        return
    from comfy_api.v0_0_2 import ComfyAPI, io
    from server import PromptServer
    if getattr(PromptServer, "instance", None):
        for fields in renamed:
            await ComfyAPI().node_replacement.register(io.NodeReplace(**fields))


def home() -> torch.device:
    """Where values lie between nodes, as LATENTs do."""
    return management.intermediate_device() if management else torch.device("cpu")


def in_home_type(value):
    """A LATENT or an IMAGE in the number type that the host keeps them in (`--fp16-intermediates`)."""
    if not management or management.intermediate_dtype() == torch.float32:
        return value
    if isinstance(value, dict) and isinstance(value.get("samples"), Tensor):
        return {**value, "samples": in_home_type(value["samples"])}
    return value.to(management.intermediate_dtype()) if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def device() -> torch.device:
    """Where models run."""
    return management.get_torch_device() if management else torch.device("cpu")


def free_memory(device: torch.device | None = None) -> float:
    """Bytes that are free on a device, by default where models run; infinite if the system does not tell."""
    if management:
        return management.get_free_memory(device or management.get_torch_device())
    try:
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return 1024 * float(told["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return float("inf")


def free_ram() -> float:
    """Bytes of main memory that are free; infinite if the system does not tell."""
    return free_memory(torch.device("cpu"))


def throw_if_interrupted() -> None:
    """Raise the host's own exception when the user has cancelled the run."""
    if management:
        management.throw_exception_if_processing_interrupted()
    elif _interrupted and _interrupted():
        raise Interrupted("cancelled")


def _as_picture(preview: Tensor):
    from PIL import Image
    picture = Image.fromarray((preview * 255).round().byte().numpy())
    scale = max(1, PREVIEW_SIDE // max(picture.size))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BILINEAR)


def reporter(total: int) -> Callable[[int, Tensor | None], None]:
    """→ report(done, preview [H, W, 3] in 0..1 or None): shows progress, and stops the run if it was cancelled."""
    bar = comfy.utils.ProgressBar(total) if management else None

    def report(done: int, preview: Tensor | None = None) -> None:
        picture = None if preview is None or not (bar or _progress) else _as_picture(preview)
        if bar:
            bar.update_absolute(done, total, picture and ("JPEG", picture, None))
        elif _progress:
            _progress(done, total, picture)
        throw_if_interrupted()
    return report
