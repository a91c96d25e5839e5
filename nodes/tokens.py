"""Token nodes: choose, change, move and show the tokens of a picture, raw or between the transformer's stages."""

from comfy_api.v0_0_2 import io

from ..dit_impl.see import token_map
from ..dit_impl.tokens import edit
from .wires import TokensOrHiddenSocket, names_errors, tokens_or_hidden_input

CATEGORY = "DiT Blocks/tokens"
GRID_MAX = 4096


def _mask_input(tooltip: str):
    return io.Mask.Input("mask", optional=True, tooltip=f"{tooltip} All tokens without it. A token counts where the mask covers most of it.")


def _grid_input(id: str, tooltip: str, default: int = 0, min: int = 0):
    return io.Int.Input(id, default=default, min=min, max=GRID_MAX, tooltip=tooltip)


def _output(tooltip: str):
    return TokensOrHiddenSocket.Output("x_out", display_name="x", tooltip=f"{tooltip} Raw tokens or hidden states, as they came in.")


class TokenMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTokenMask",
            display_name="Token Mask",
            category=CATEGORY,
            description="Select tokens by a rectangle of the grid, and within it by a MASK: a mask with one cell for each token.",
            search_aliases=["select tokens", "mask tokens", "grid rectangle"],
            inputs=[
                tokens_or_hidden_input("Tokens to choose from."),
                _grid_input("column", "The rectangle's first column of tokens."),
                _grid_input("row", "The rectangle's first row of tokens."),
                _grid_input("width", "Columns of tokens; 0 is all as far as the edge."),
                _grid_input("height", "Rows of tokens; 0 is all as far as the edge."),
                io.Mask.Input("mask", optional=True, tooltip="A MASK of any size over the whole picture. Tokens that it covers for the most "
                                                            "part are chosen."),
            ],
            outputs=[io.Mask.Output("token_mask", display_name="mask", tooltip="1 for each chosen token, 0 for the others.")],
        )

    @classmethod
    @names_errors
    def execute(cls, x, column, row, width, height, mask=None) -> io.NodeOutput:
        return io.NodeOutput(edit.select(x, column, row, width, height, mask))


class MixTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksMixTokens",
            display_name="Mix Tokens",
            category=CATEGORY,
            description="Blend the tokens of two wires, each with the one at its own place: a + (b − a)·amount.",
            search_aliases=["blend tokens", "interpolate tokens", "lerp"],
            inputs=[
                tokens_or_hidden_input("Where the blend starts from. Its grid and its step are kept.", "a"),
                tokens_or_hidden_input("Where it goes to. A smaller batch repeats.", "b"),
                io.Float.Input("amount", default=0.5, min=-10.0, max=10.0, step=0.05, round=0.001,
                               tooltip="0 is a, 1 is b, beyond them goes on past."),
                _mask_input("Which tokens are blended."),
            ],
            outputs=[_output("The blend.")],
        )

    @classmethod
    @names_errors
    def execute(cls, a, b, amount, mask=None) -> io.NodeOutput:
        return io.NodeOutput(edit.mix(a, b, amount, mask))


class SwapTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksSwapTokens",
            display_name="Swap Tokens",
            category=CATEGORY,
            description="Exchange two rectangles of tokens of one picture. To exchange tokens of two wires, cross two Replace Tokens.",
            search_aliases=["exchange tokens", "exchange patches"],
            inputs=[
                tokens_or_hidden_input("Tokens to exchange."),
                _grid_input("column", "The first rectangle's first column."),
                _grid_input("row", "The first rectangle's first row."),
                _grid_input("to_column", "The second rectangle's first column.", default=1),
                _grid_input("to_row", "The second rectangle's first row."),
                _grid_input("width", "Columns of tokens in either rectangle.", default=1, min=1),
                _grid_input("height", "Rows of tokens in either rectangle.", default=1, min=1),
            ],
            outputs=[_output("The same tokens, the two rectangles exchanged.")],
        )

    @classmethod
    @names_errors
    def execute(cls, x, column, row, to_column, to_row, width, height) -> io.NodeOutput:
        return io.NodeOutput(edit.swap(x, column, row, to_column, to_row, width, height))


class RollTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksRollTokens",
            display_name="Roll Tokens",
            category=CATEGORY,
            description="Shift all tokens over the grid; what leaves on one side comes in on the other.",
            search_aliases=["shift tokens", "seamless", "tiling"],
            inputs=[
                tokens_or_hidden_input("Tokens to shift."),
                io.Int.Input("rows", default=0, min=-GRID_MAX, max=GRID_MAX, tooltip="Rows of tokens down; up where negative."),
                io.Int.Input("columns", default=1, min=-GRID_MAX, max=GRID_MAX, tooltip="Columns of tokens to the right; to the left where "
                                                                                       "negative."),
            ],
            outputs=[_output("The same tokens, shifted.")],
        )

    @classmethod
    @names_errors
    def execute(cls, x, rows, columns) -> io.NodeOutput:
        return io.NodeOutput(edit.roll(x, rows, columns))


class ShuffleTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksShuffleTokens",
            display_name="Shuffle Tokens",
            category=CATEGORY,
            description="Exchange tokens at random, the same way for the same seed. What does a transformer still see?",
            search_aliases=["permute tokens", "random order", "jigsaw"],
            inputs=[
                tokens_or_hidden_input("Tokens to shuffle."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Of the order they come in."),
                _mask_input("Which tokens change places among themselves."),
            ],
            outputs=[_output("The same tokens in another order.")],
        )

    @classmethod
    @names_errors
    def execute(cls, x, seed, mask=None) -> io.NodeOutput:
        return io.NodeOutput(edit.shuffle(x, seed, mask))


class ScaleTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksScaleTokens",
            display_name="Scale Tokens",
            category=CATEGORY,
            description="Multiply tokens by a number: weaken them, make them louder, turn them round.",
            search_aliases=["multiply tokens", "weight tokens"],
            inputs=[
                tokens_or_hidden_input("Tokens to multiply."),
                io.Float.Input("factor", default=1.0, min=-100.0, max=100.0, step=0.05, round=0.001, tooltip="1 leaves them, 0 empties them."),
                _mask_input("Which tokens are multiplied."),
            ],
            outputs=[_output("The multiplied tokens.")],
        )

    @classmethod
    @names_errors
    def execute(cls, x, factor, mask=None) -> io.NodeOutput:
        return io.NodeOutput(edit.scale(x, factor, mask))


class ReplaceTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksReplaceTokens",
            display_name="Replace Tokens",
            category=CATEGORY,
            description="Put other tokens in the place of these: those of another picture, one token everywhere, their mean, or nothing.",
            search_aliases=["paste tokens", "swap tokens between pictures", "ablate tokens", "zero tokens", "mean token"],
            inputs=[
                tokens_or_hidden_input("Tokens to replace."),
                io.Combo.Input("fill", options=list(edit.FILLS), default="same place",
                               tooltip="same place: the source's tokens, each at its own place. one token: the source's token at row and "
                                       "column. mean: of all the source's tokens. zeros: nothing."),
                _grid_input("row", 'Row of the "one token".'),
                _grid_input("column", 'Column of the "one token".'),
                tokens_or_hidden_input("Where the new tokens come from; x itself without it. A smaller batch repeats.", "source",
                                       optional=True),
                _mask_input("Which tokens are replaced."),
            ],
            outputs=[_output("Tokens with others in their place.")],
        )

    @classmethod
    @names_errors
    def execute(cls, x, fill, row, column, source=None, mask=None) -> io.NodeOutput:
        return io.NodeOutput(edit.replace(x, fill, row, column, source, mask))


class TokenMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTokenMap",
            display_name="Token Map",
            category=CATEGORY,
            description="A picture of the tokens, one square each: how long each is as a vector, or which tokens are alike. One picture for "
                        "each part of the batch, on one scale.",
            search_aliases=["preview tokens", "token norm", "PCA", "feature map"],
            inputs=[
                tokens_or_hidden_input("Tokens to look at."),
                io.Combo.Input("show", options=list(token_map.MAPS), default="principal components",
                               tooltip="norm: each token's length as grey. principal components: the three directions in which they differ "
                                       "most, as red, green and blue."),
                io.Int.Input("scale", default=16, min=1, max=128, tooltip="Pixels along a token's side."),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The map, for Preview Image or any IMAGE node.")],
        )

    @classmethod
    @names_errors
    def execute(cls, x, show, scale) -> io.NodeOutput:
        return io.NodeOutput(token_map.token_map(x, show, scale))
