"""The permutation between a latent and its tokens."""

from comfy_api.v0_0_2 import io, ui

from ..dit_impl import tokens as wire
from .wires import Tokens, dit_input, names_errors, tokens_input


class Patchify(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPatchify",
            display_name="Patchify",
            category="DiT Blocks/patch",
            description="Cut a latent into p×p patches, each one a token. A permutation: nothing is learned and nothing is lost.",
            search_aliases=["patch embedding", "tokens", "patch size", "块嵌入"],
            has_intermediate_output=True,  # the report is shown again when the result comes from the cache
            inputs=[
                io.Latent.Input("latent", tooltip="The latent to cut."),
                io.Int.Input("patch_size", default=0, min=0, max=64,
                             tooltip="Side of a patch in latent cells; 0 is the model's own. Half the size is four times the tokens."),
                dit_input(optional=True, tooltip="The model the tokens are for; without it the latent is taken as it is."),
            ],
            outputs=[Tokens.Output("tokens", display_name="tokens", tooltip="Raw patch tokens.")],
        )

    @classmethod
    @names_errors
    def execute(cls, latent, patch_size, dit=None) -> io.NodeOutput:
        if patch_size == 0 and dit is None:
            raise ValueError("patch_size 0 means the model's own: wire a dit, or give a size")
        tokens = dit.fold(latent, patch_size) if dit else wire.fold(latent["samples"], patch_size)
        return io.NodeOutput(tokens, ui=ui.PreviewText(wire.describe(tokens)))


class Unpatchify(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksUnpatchify",
            display_name="Unpatchify",
            category="DiT Blocks/patch",
            description="Lay tokens back out as a latent: Patchify reversed.",
            inputs=[tokens_input()],
            outputs=[io.Latent.Output("latent", display_name="latent", tooltip="The latent, for VAE Decode or any LATENT node.")],
        )

    @classmethod
    @names_errors
    def execute(cls, tokens) -> io.NodeOutput:
        carried = {name: tokens[name] for name in wire.CARRIED if name in tokens}
        return io.NodeOutput({"samples": wire.unfold(tokens), **carried})
