"""The permutation between a latent and its tokens."""

from comfy_api.v0_0_2 import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..dit_impl.cost.answers import shape_of
from ..dit_impl.sampling.level import handed_on
from ..dit_impl.tokens import select, wire
from .wires import TokensSocket, dit_input, names_errors, tokens_input


class Patchify(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPatchify",
            display_name="Patchify",
            category="DiT Blocks/patches",
            description="Cut a latent into p×p patches, each one a token. A permutation: nothing is learned and nothing is lost.",
            search_aliases=["patch embedding", "tokens", "patch size", "块嵌入"],
            has_intermediate_output=True,  # the report is shown again when the result comes from the cache
            inputs=[
                io.Latent.Input("latent", tooltip="The latent to cut."),
                io.Int.Input("patch_size", default=0, min=0, max=64,
                             tooltip="Side of a patch in latent cells; 0 is the model's own. Half the size is four times the tokens."),
                dit_input(optional=True, tooltip="The model the tokens are for; without it the latent is taken as it is."),
                io.String.Input("selection", default="", optional=True,
                                tooltip="Tokens by their numbers in reading order, as in 0-3,16-19; click or drag on the grid to choose. Empty "
                                        "is all of them."),
            ],
            outputs=[
                TokensSocket.Output("tokens", display_name="tokens", tooltip="Raw patch tokens."),
                io.Mask.Output("selected", display_name="selection", tooltip="1 for each chosen token, for the mask of the token nodes."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, latent, patch_size, dit=None, selection="") -> io.NodeOutput:
        if patch_size == 0 and dit is None:
            raise ValueError("patch_size 0 means the model's own: wire a dit, or give a size")
        tokens = dit.fold(latent, patch_size) if dit else wire.fold(latent["samples"], patch_size)
        mask = select.selection(tokens, selection)
        return io.NodeOutput(tokens, mask, ui={"text": (wire.describe(tokens),), "dit_blocks": (_facts(tokens, dit),)})


def _facts(tokens: wire.DitTokens, dit) -> dict:
    """What the grid on the node is drawn from: the latent's size, values a cell (of all frames of a patch) and picture, and the shape
    that costs are counted for."""
    batch, _, values = tokens["tokens"].shape
    facts = {"size": tokens["size"][-2:], "channels": values // tokens["patch_size"] ** 2, "patch_size": tokens["patch_size"], "batch": batch,
             "shape": shape_of(dit) if dit else None}
    if tokens["tokens"].any():
        picture = dit.picture(tokens, tokens["tokens"]) if dit else wire.grey_picture(tokens, tokens["tokens"])
        facts["picture"] = ui.PreviewImage(picture[None]).as_dict()["images"][0]
    return facts


class PatchifyImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPatchifyImage",
            display_name="Patchify Image",
            category="DiT Blocks/patches",
            description="Cut a picture itself into p×p patches, without a model, as a Vision Transformer does. A DiT cuts latents.",
            search_aliases=["ViT", "pixel patches", "image patches", "patch embedding"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image", tooltip="The picture to cut."),
                io.Int.Input("patch_size", default=16, min=1, max=512, tooltip="Side of a patch in pixels. Half the size is four times the "
                                                                               "tokens."),
            ],
            outputs=[TokensSocket.Output("tokens", display_name="tokens", tooltip="Patches of pixels, for the token nodes and Unpatchify.")],
        )

    @classmethod
    @names_errors
    def execute(cls, image, patch_size) -> io.NodeOutput:
        tokens = wire.fold_image(image, patch_size)
        return io.NodeOutput(tokens, ui=ui.PreviewText(wire.describe(tokens)))


class Unpatchify(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksUnpatchify",
            display_name="Unpatchify",
            category="DiT Blocks/patches",
            description="Lay tokens back out as a latent, and pixel patches as a picture: Patchify and Patchify Image reversed.",
            inputs=[tokens_input()],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="The latent, for VAE Decode or any LATENT node."),
                io.Image.Output("image", display_name="image", tooltip="The picture, of tokens from Patchify Image. A latent's tokens give "
                                                                      "none: their picture comes from VAE Decode."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, tokens) -> io.NodeOutput:
        carried = {name: tokens[name] for name in wire.CARRIED if name in tokens}
        laid_out = wire.unfold(handed_on(tokens))
        # A node that takes a latent's tokens for a picture is told so; one that takes their latent is not held up.
        image = laid_out.movedim(1, -1) if "pixels" in tokens else ExecutionBlocker(
            "Unpatchify: tokens are a latent's, not an image's: wire latent into VAE Decode")
        return io.NodeOutput({"samples": laid_out, **carried}, image)
