"""DiT Blocks: the diffusion-transformer pipeline as wires, for ComfyUI."""

WEB_DIRECTORY = "./web"
__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    """What ComfyUI calls to learn the pack's nodes."""
    from comfy_api.v0_0_2 import ComfyExtension

    from .nodes import NODES
    from .nodes.comfyui import host
    from .nodes.replacements import RENAMED
    from .nodes.routes import ROUTES

    class DiTBlocks(ComfyExtension):
        async def on_load(self):
            host.serve(ROUTES)
            await host.replace(RENAMED)

        async def get_node_list(self):
            return NODES
    return DiTBlocks()
