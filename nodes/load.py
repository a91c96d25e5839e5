"""Loads models as DIT, and saves them."""

from pathlib import Path

from comfy_api.v0_0_2 import io, ui

from ..dit_impl.sources.diffusers_folder import load_folder
from ..dit_impl.sources.dit_file import load_dit, save_dit
from ..dit_impl.sources.embedded import load_embedded
from .comfyui import host
from .wires import DitSocket, dit_input, names_errors


def _pick(name: str, known: dict[str, Path], what: str, where: str) -> Path:
    """The path of a listed name. Raises ValueError for all others, so nothing outside ComfyUI's folders is read."""
    if name not in known:
        some = ", ".join(list(known)[:10]) or "empty"
        raise ValueError(f"{what} is one of those in {where} ({some}), not {name!r}")
    return known[name]


class LoadEmbedded(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksLoadEmbedded",
            display_name="Load Embedded DiT",
            category="DiT Blocks",
            description="The small default model that comes with the pack. It draws one to three things or coloured shapes, at patch "
                        "sizes 2, 4 and 8. Example prompt: a large cat at the left and a small red apple at the top right on a navy background.",
            search_aliases=["default model", "DiT loader", "patch embedding", "块嵌入"],
            outputs=[
                DitSocket.Output("dit", display_name="dit", tooltip="The diffusion transformer."),
                io.Clip.Output("clip", display_name="clip", tooltip="Its text encoder, for core's CLIP Text Encode."),
                io.Vae.Output("vae", display_name="vae", tooltip="Its VAE, 8 pixels to a latent cell. Works with core's VAE nodes too."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_embedded())


class LoadDiffusers(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksLoadDiffusers",
            display_name="Load DiT (diffusers)",
            category="DiT Blocks",
            description="Load a model in the format of the diffusers library, with its text encoders and VAE: SD3, SD3.5, DiT, PixArt or Flux. "
                        "Nothing is downloaded, and pickle files are never opened.",
            search_aliases=["DiffusersLoader", "Hugging Face", "SD3", "Flux", "PixArt", "DiT-XL", "ImageNet", "块嵌入"],
            inputs=[io.Combo.Input("folder", options=list(host.diffusers_folders()),
                                   tooltip="A folder in models/diffusers with a model_index.json.")],
            outputs=[
                DitSocket.Output("dit", display_name="dit", tooltip="The diffusion transformer. Its weights keep the number type of the file."),
                io.Clip.Output("clip", display_name="clip", tooltip="Its text encoders, for core's CLIP Text Encode. They are loaded with the "
                               "first prompt. A class-conditional DiT has none: use Class Label."),
                io.Vae.Output("vae", display_name="vae", tooltip="Its VAE. Also works with core's VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, folder) -> io.NodeOutput:
        path = _pick(folder, host.diffusers_folders(), "folder", "models/diffusers")
        return io.NodeOutput(*load_folder(path, host.ops(), host.device(), host.load, host.vae))


class LoadCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksLoadCheckpoint",
            display_name="Load DiT",
            category="DiT Blocks",
            description="Load a diffusion transformer from one safetensors file: from Save DiT, or a published SD3, SD3.5 or DiT.",
            search_aliases=["DiT loader", "checkpoint", "load diffusion model", "SD3", "DiT-XL", "块嵌入"],
            inputs=[io.Combo.Input("file", options=list(host.dit_files()),
                                   tooltip="A .safetensors file in models/diffusion_models. Pickle files are never opened.")],
            outputs=[DitSocket.Output("dit", display_name="dit", tooltip="The diffusion transformer. Its weights keep the number type of the file.")],
        )

    @classmethod
    @names_errors
    def execute(cls, file) -> io.NodeOutput:
        return io.NodeOutput(load_dit(_pick(file, host.dit_files(), "file", "models/diffusion_models"), host.ops(), host.device()))


class SaveCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksSaveCheckpoint",
            display_name="Save DiT",
            category="DiT Blocks",
            description="Save a DIT as one safetensors file in the output folder, with all that Load DiT needs. To load it, move it to "
                        "models/diffusion_models.",
            search_aliases=["save model", "export", "checkpoint"],
            is_output_node=True,
            inputs=[
                dit_input(tooltip="The model to save."),
                io.String.Input("filename_prefix", default="dit_blocks/dit",
                                tooltip="Folder and beginning of the file name, inside the output folder. A number is added."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, filename_prefix) -> io.NodeOutput:
        path = host.save_new(filename_prefix, lambda path: save_dit(dit, path))
        return io.NodeOutput(ui=ui.PreviewText(f"saved as {path}"))
