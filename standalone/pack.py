"""Loads the node pack without ComfyUI."""

import asyncio
from pathlib import Path
from typing import Callable

from . import comfy_api_standin, core_nodes, dataset_nodes, images, loops
from .folders import current

PYTHON_MODULE = "custom_nodes.dit_blocks"


def load() -> dict[str, type]:
    """Node classes by their id: the pack's own, and those of ComfyUI's core that its workflows use."""
    comfy_api_standin.install()
    from .. import comfy_entrypoint
    from ..nodes.comfyui import host

    host.keep_in(lambda: current().models, _numbered, lambda: current().output)

    async def nodes() -> list[type]:
        extension = await comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    own = {}
    for cls in asyncio.run(nodes()):
        cls.RELATIVE_PYTHON_MODULE = PYTHON_MODULE
        own[cls.GET_SCHEMA().node_id] = cls
    return core_nodes.NODES | dataset_nodes.NODES | loops.NODES | own


def renamed() -> list[dict]:
    """The nodes whose id has changed. See `nodes.replacements`."""
    comfy_api_standin.install()
    from ..nodes.replacements import RENAMED

    return RENAMED


def own_version() -> str:
    """The pack's version."""
    comfy_api_standin.install()
    from ..nodes.routes import own_version

    return own_version()


def _numbered(prefix: str) -> tuple[Path, str, int]:
    """A filename_prefix → the folder of the run's output that it names, the beginning of the files' names, and the next number."""
    below, stem, last = images.numbered(prefix, "output", current().output)
    return current().output / below, stem, last + 1


def listen(progress: Callable | None, interrupted: Callable[[], bool] | None = None) -> None:
    """Set who hears of the progress of long-running nodes: progress(value, total, preview or None)."""
    from ..nodes.comfyui import host

    host.listen(progress=progress, interrupted=interrupted)


def free_ram() -> float:
    """Bytes of main memory that are free."""
    comfy_api_standin.install()
    from ..nodes.comfyui import host

    return host.free_ram()


def device() -> str:
    """The device that the pack computes on."""
    from ..nodes.comfyui import host

    return str(host.device())
