"""Loads the node pack without ComfyUI."""

import asyncio
from typing import Callable

from . import comfy_api_standin, core_nodes

PYTHON_MODULE = "custom_nodes.dit_blocks"


def load() -> dict[str, type]:
    """Node classes by their id: the pack's own, and those of ComfyUI's core that its workflows use."""
    comfy_api_standin.install()
    from .. import comfy_entrypoint

    async def nodes() -> list[type]:
        extension = await comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    own = {}
    for cls in asyncio.run(nodes()):
        cls.RELATIVE_PYTHON_MODULE = PYTHON_MODULE
        own[cls.GET_SCHEMA().node_id] = cls
    return core_nodes.NODES | own


def listen(progress: Callable | None, interrupted: Callable[[], bool] | None = None) -> None:
    """Have the pack's long-running nodes tell how far they are: progress(value, total, preview or None)."""
    from ..nodes import host

    host.listen(progress=progress, interrupted=interrupted)


def device() -> str:
    """The device that the pack computes on."""
    from ..nodes import host

    return str(host.device())
