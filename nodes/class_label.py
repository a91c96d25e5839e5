"""A class for a class-conditional DiT."""

from comfy_api.v0_0_2 import io

from .wires import dit_input, names_errors


class ClassLabel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksClassLabel",
            display_name="Class Label",
            category="DiT Blocks",
            description="Choose what a class-conditional DiT draws: one of the classes it was trained on. It takes the place of a prompt.",
            search_aliases=["ImageNet", "class-conditional", "label", "DiT-XL", "类别"],
            inputs=[
                dit_input(tooltip="A class-conditional DiT, from Load DiT (diffusers) or Load DiT."),
                io.String.Input("label", default="", tooltip="A class by its number, or by its name if the model has names, such as "
                                "golden retriever. Empty is no class, for negative."),
            ],
            outputs=[io.Conditioning.Output("conditioning", display_name="conditioning", tooltip="The class, for positive or negative.")],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, label) -> io.NodeOutput:
        return io.NodeOutput(dit.class_conditioning(label))
