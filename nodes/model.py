"""From ComfyUI's MODEL to DIT and back."""

from comfy_api.v0_0_2 import io

from .wires import DitSocket, dit_input, names_errors


class FromModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksFromModel",
            display_name="DiT from MODEL",
            category="DiT Blocks",
            description="Use any diffusion transformer that ComfyUI has loaded as a DIT: the same weights without a copy, with all patches "
                        "of the MODEL. The steps give the same result as KSampler, bit for bit.",
            search_aliases=["model to dit", "SD3", "Flux", "Qwen-Image", "Wan"],
            inputs=[io.Model.Input("model", tooltip="From any loader, LoRA or model patch.")],
            outputs=[DitSocket.Output("dit", display_name="dit", tooltip="The MODEL's transformer.")],
        )

    @classmethod
    @names_errors
    def execute(cls, model) -> io.NodeOutput:
        from .comfyui.handle_of_model import HandleOfModel  # there is no MODEL outside ComfyUI
        return io.NodeOutput(HandleOfModel(model))


class ToModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksToModel",
            display_name="DiT to MODEL",
            category="DiT Blocks",
            description="Use a DIT as a MODEL, for KSampler, SamplerCustomAdvanced and other nodes. Also for diffusers models and for "
                        "models you trained.",
            search_aliases=["dit to model", "KSampler"],
            inputs=[dit_input(tooltip="The DIT. It is sampled at its own patch size.")],
            outputs=[io.Model.Output("model", display_name="model", tooltip="The same weights as a MODEL.")],
        )

    @classmethod
    @names_errors
    def execute(cls, dit) -> io.NodeOutput:
        from .comfyui.model_of_dit import as_model  # MODEL is ComfyUI's own
        return io.NodeOutput(as_model(dit))
