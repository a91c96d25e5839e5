"""Token Journey: one token through one step, in numbers."""

from comfy_api.v0_0_2 import io

from ..dit_impl.see import journey
from .comfyui import host
from .wires import HiddenSocket, dit_input, keeps_gradients, language_input, names_errors


class TokenJourney(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTokenJourney",
            display_name="Token Journey",
            category="DiT Blocks/visualize",
            description="Follow one token through a step in numbers: its values, a row of the patch embedding times them, its place, its length after "
                        "each block, the words it reads, and what the head answers. Click a token on any panel of the graph to follow it.",
            search_aliases=["arithmetic", "patch embedding by hand", "token explained", "step by step numbers", "算式", "token 的旅程"],
            is_output_node=True,
            inputs=[
                dit_input(),
                HiddenSocket.Input("hidden", tooltip="The step as DiT Condition lays it out, before Patch Embed."),
                io.Int.Input("token", default=0, min=0, max=2 ** 20, tooltip="Number of the token to follow, in reading order from 0."),
                io.Int.Input("number", default=0, min=0, max=2 ** 20,
                             tooltip="Which of the embedded token's D numbers is worked out by hand: the row of the patch embedding."),
                language_input(),
                io.Combo.Input("show", options=list(journey.PARTS), default="all", optional=True, tooltip="Which part of the journey is shown."),
            ],
            outputs=[
                HiddenSocket.Output("hidden_out", display_name="hidden", tooltip="Hidden states after all blocks, the same as by Patch Embed, "
                                                                                 "Position Embed and DiT Blocks."),
                io.String.Output("text", display_name="text", tooltip="The journey in words and numbers, a line for each stage."),
            ],
        )

    @classmethod
    @names_errors
    @keeps_gradients
    def execute(cls, dit, hidden, token, number, language="auto", show="all") -> io.NodeOutput:
        host.load(dit.modules(), *dit.room(hidden))
        host.throw_if_interrupted()
        after, told = journey.journeys(dit, hidden, token, number)
        text = journey.described(told, token, number, language, show)
        return io.NodeOutput(after, text, ui={"dit_blocks": (told.facts(token, number),)})
