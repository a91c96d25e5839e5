"""A small stand-in for `comfy_api`: what V3 nodes import, where there is no ComfyUI."""

from abc import ABC, abstractmethod
import importlib.util
import sys
from types import ModuleType

from . import graph_utils, io, ui

IO, UI = io, ui


class ComfyExtension(ABC):
    """What a pack's `comfy_entrypoint` answers."""

    async def on_load(self) -> None:
        """Called once, before the nodes are asked for."""

    @abstractmethod
    async def get_node_list(self) -> list[type[io.ComfyNode]]: ...


def install() -> None:
    """Make `comfy_api` and `comfy_execution.graph_utils` importable; a real ComfyUI on the path goes first."""
    if "comfy_api" in sys.modules or importlib.util.find_spec("comfy_api") is not None:
        return
    here = sys.modules[__name__]
    for package, module in (("comfy_api", None), ("comfy_api.v0_0_2", here), ("comfy_api.latest", here),
                            ("comfy_execution", None), ("comfy_execution.graph_utils", graph_utils)):
        if module is None:
            module = ModuleType(package)
            module.__path__ = []
        sys.modules[package] = module
        parent, _, name = package.rpartition(".")
        if parent:
            setattr(sys.modules[parent], name, module)
