"""What a class-conditional DiT draws."""

from comfy_api.v0_0_2 import io

from .wires import dit_input, names_errors


class ClassLabel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksClassLabel",
            display_name="Class Label",
            category="DiT Blocks",
            description="What a class-conditional DiT draws, in the place of a prompt: one of the classes it was trained on.",
            search_aliases=["ImageNet", "class-conditional", "label", "DiT-XL", "类别"],
            inputs=[
                dit_input(tooltip="A class-conditional DiT, from Load DiT (diffusers) or Load DiT."),
                io.String.Input("label", default="", tooltip="A class by its number, or by its name where the model brings names, such as "
                                "golden retriever. Empty is no class, what guidance goes away from."),
            ],
            outputs=[io.Conditioning.Output("conditioning", display_name="conditioning", tooltip="The class, for positive or negative.")],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, label) -> io.NodeOutput:
        return io.NodeOutput(dit.class_conditioning(label))
