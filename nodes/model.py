"""Between ComfyUI's MODEL and DIT."""

from comfy_api.v0_0_2 import io

from .wires import DitSocket, dit_input, names_errors


class FromModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksFromModel",
            display_name="DiT from MODEL",
            category="DiT Blocks",
            description="Any diffusion model that ComfyUI has loaded, as a DIT: the same weights, no second copy, and with all that rides "
                        "on the MODEL. The steps give, bit for bit, what KSampler gives.",
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
            description="A DIT of the pack, of diffusers or of a training node as a MODEL, for KSampler, SamplerCustomAdvanced and the rest.",
            search_aliases=["dit to model", "KSampler"],
            inputs=[dit_input(tooltip="The DIT, sampled at its own patch size.")],
            outputs=[io.Model.Output("model", display_name="model", tooltip="The same weights as a MODEL.")],
        )

    @classmethod
    @names_errors
    def execute(cls, dit) -> io.NodeOutput:
        from .comfyui.model_of_dit import as_model  # MODEL is ComfyUI's own
        return io.NodeOutput(as_model(dit))
