"""Where a DIT comes from."""

from comfy_api.v0_0_2 import io

from ..dit_impl.embedded import load_embedded
from .wires import Dit, names_errors


class LoadEmbedded(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksLoadEmbedded",
            display_name="Load Embedded DiT",
            category="DiT Blocks",
            description="The small default model that ships with the pack: it draws one or two coloured shapes at patch sizes 2, 4 "
                        "and 8. Example prompt: a large red circle at the top left on a navy background.",
            search_aliases=["default model", "DiT loader", "patch embedding", "块嵌入"],
            outputs=[
                Dit.Output("dit", display_name="dit", tooltip="The diffusion transformer."),
                io.Clip.Output("clip", display_name="clip", tooltip="Its text encoder; also for core's CLIP Text Encode."),
                io.Vae.Output("vae", display_name="vae", tooltip="Its VAE, 8x down; also for core's VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_embedded())
