"""All that the nodes ask of the program they run in: device, progress with previews, interruption. Only this file touches `comfy`."""

from typing import Callable

import torch
from torch import Tensor, nn

try:
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.utils
except ImportError:  # outside ComfyUI
    management = None

_progress: Callable | None = None
_interrupted: Callable[[], bool] | None = None
PREVIEW_SIDE = 256


class Interrupted(Exception):
    """The run was cancelled, outside ComfyUI."""


def listen(progress: Callable | None = None, interrupted: Callable[[], bool] | None = None) -> None:
    """Outside ComfyUI: who hears of progress(done, of, preview or None), and who says that a run is cancelled."""
    global _progress, _interrupted
    _progress, _interrupted = progress, interrupted


def load(modules: list[nn.Module]) -> None:
    """Bring the pack's own models to the device that computes. ComfyUI's memory management holds them from then on."""
    if management and modules:
        for module in modules:
            if not hasattr(module, "comfy_patcher"):
                module.comfy_patcher = comfy.model_patcher.CoreModelPatcher(
                    module, management.get_torch_device(), management.unet_offload_device())
        management.load_models_gpu([module.comfy_patcher for module in modules])


def device() -> torch.device:
    """Where models run."""
    return management.get_torch_device() if management else torch.device("cpu")


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
