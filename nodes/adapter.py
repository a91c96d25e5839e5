"""Loads and saves patch-size adapters: small files that give a model one more patch size."""

from comfy_api.v0_0_2 import io, ui

from ..dit_impl.sources.adapters import adapter_of, apply_adapter, load_adapter, save_adapter
from .comfyui import host
from .load import _pick
from .wires import DitSocket, dit_input, names_errors

CATEGORY = "DiT Blocks/train"


class LoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksLoadAdapter",
            display_name="Load Adapter",
            category=CATEGORY,
            description="Give a model one more patch size from an adapter file. Its own sizes stay the same, bit for bit. The new size works like "
                        "them: in whole steps, in stages and in patch schedules.",
            search_aliases=["patch size adapter", "FlexiDiT", "lora", "patch embedding"],
            inputs=[
                dit_input(tooltip="The model that the adapter was trained for. It is not changed."),
                io.Combo.Input("file", options=list(host.adapter_files()),
                               tooltip="A .safetensors file in models/loras, as Save Adapter writes it."),
            ],
            outputs=[DitSocket.Output("adapted", display_name="dit", tooltip="The same model with one more patch size.")],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, file) -> io.NodeOutput:
        adapter = load_adapter(_pick(file, host.adapter_files(), "file", "models/loras"))
        host.load(dit.modules())  # this removes a LoRA that a MODEL has put into these weights
        return io.NodeOutput(apply_adapter(dit, adapter), ui=ui.PreviewText(str(adapter)))


class SaveAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksSaveAdapter",
            display_name="Save Adapter",
            category=CATEGORY,
            description="Save a model's patch-size adapter as one small safetensors file in the output folder. To load it, move it to "
                        "models/loras.",
            search_aliases=["patch size adapter", "export", "save lora"],
            is_output_node=True,
            inputs=[
                dit_input(tooltip="A model with an adapter, from Train DiT or Load Adapter."),
                io.String.Input("filename_prefix", default="dit_blocks/adapter",
                                tooltip="Folder and beginning of the file name, inside the output folder. A number is added."),
                io.Int.Input("patch_size", default=0, min=0, max=64, optional=True,
                             tooltip="Which adapter, if the model has several. 0 is the last one."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, filename_prefix, patch_size=0) -> io.NodeOutput:
        adapter = adapter_of(dit, patch_size)
        path = host.save_new(filename_prefix, lambda path: save_adapter(adapter, path))
        return io.NodeOutput(ui=ui.PreviewText(f"saved as {path}\n{adapter}"))
