"""Between ComfyUI's MODEL and DIT."""

from comfy_api.v0_0_2 import io

from .wires import Dit, names_errors


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
            outputs=[Dit.Output("dit", display_name="dit", tooltip="The MODEL's transformer.")],
        )

    @classmethod
    @names_errors
    def execute(cls, model) -> io.NodeOutput:
        from .model_dit import ModelDit  # there is no MODEL outside ComfyUI
        return io.NodeOutput(ModelDit(model))
