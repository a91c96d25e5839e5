"""Cuts latents and pictures into tokens, and puts them together again."""

from comfy_api.v0_0_2 import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..dit_impl.cost.answers import shape_of
from ..dit_impl.sampling.level import handed_on
from ..dit_impl.tokens import select, wire
from ..dit_impl.tokens.numbers import check_ranges
from .wires import TokensSocket, dit_input, names_errors, sound, tokens_input


class Patchify(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPatchify",
            display_name="Patchify",
            category="DiT Blocks/patches",
            description="Cut a latent into p×p patches. Each patch is a token. Values are only reordered: nothing is learned and nothing is lost.",
            search_aliases=["patch embedding", "tokens", "patch size", "块嵌入", "切块", "分块"],
            has_intermediate_output=True,  # so that the report also shows when the result comes from the cache
            inputs=[
                io.Latent.Input("latent", tooltip="The latent to cut."),
                io.Int.Input("patch_size", default=0, min=0, max=64,
                             tooltip="Side of a patch in latent cells. 0 is the model's own. Half the size gives four times the tokens."),
                dit_input(optional=True, tooltip="The model that the tokens are for. Without it the latent's values are not scaled."),
                io.String.Input("selection", default="", optional=True,
                                tooltip="Numbers of tokens in reading order, such as 0-3,16-19. You can also click or drag on the grid. Empty "
                                        "selects all."),
            ],
            outputs=[
                TokensSocket.Output("tokens", display_name="tokens", tooltip="Raw patch tokens."),
                io.Mask.Output("selected", display_name="selection", tooltip="A mask that is 1 for each selected token, for the token nodes."),
            ],
        )

    @classmethod
    def validate_inputs(cls, selection=None):
        return sound(check_ranges, selection, "token")

    @classmethod
    @names_errors
    def execute(cls, latent, patch_size, dit=None, selection="") -> io.NodeOutput:
        if patch_size == 0 and dit is None:
            raise ValueError("patch_size 0 means the model's own: wire a dit, or set a size")
        tokens = dit.fold(latent, patch_size) if dit else wire.fold(latent["samples"], patch_size)
        mask = select.selection(tokens, selection)
        return io.NodeOutput(tokens, mask, ui={"text": (wire.describe(tokens),), "dit_blocks": (_facts(tokens, dit),)})


def _facts(tokens: wire.DitTokens, dit) -> dict:
    """Facts for the grid on the node: the latent's size, values in a cell (of all frames in a patch), a picture, and the architecture that
    costs depend on."""
    batch, _, values = tokens["tokens"].shape
    facts = {"size": tokens["size"][-2:], "channels": values // tokens["patch_size"] ** 2, "patch_size": tokens["patch_size"], "batch": batch,
             "shape": shape_of(dit, tokens) if dit else None, "native": dit.patch_sizes if dit else None}
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
            description="Cut a picture into p×p patches of pixels, without a model, as a Vision Transformer does. A DiT cuts latents instead.",
            search_aliases=["ViT", "pixel patches", "image patches", "patch embedding"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image", tooltip="The picture to cut."),
                io.Int.Input("patch_size", default=16, min=1, max=512, tooltip="Side of a patch in pixels. Half the size gives four times the "
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
            description="Put tokens together again: a latent from Patchify's tokens, a picture from Patchify Image's.",
            search_aliases=["tokens to latent", "depatchify", "拼回"],
            inputs=[tokens_input()],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="The latent, for VAE Decode or any LATENT node."),
                io.Image.Output("image", display_name="image", tooltip="The picture, for tokens from Patchify Image. For a latent's tokens "
                                                                      "there is none: use latent and VAE Decode."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, tokens) -> io.NodeOutput:
        carried = {name: tokens[name] for name in wire.CARRIED if name in tokens}
        laid_out = wire.unfold(handed_on(tokens))
        # A node that uses `image` for a latent's tokens gets an error; nodes that use `latent` run as usual.
        image = laid_out.movedim(1, -1) if "pixels" in tokens else ExecutionBlocker(
            "Unpatchify: the tokens come from a latent, not from an image: wire latent into VAE Decode")
        return io.NodeOutput({"samples": laid_out, **carried}, image)
