"""Token nodes: select, change, move and show tokens, raw or between the stages of a transformer."""

from comfy_api.v0_0_2 import io

from ..dit_impl.see import token_map
from ..dit_impl.tokens import edit
from .wires import TokensOrHiddenSocket, names_errors, tokens_or_hidden_input

CATEGORY = "DiT Blocks/tokens"
GRID_MAX = 4096


def _mask_input(tooltip: str):
    return io.Mask.Input("mask", optional=True, tooltip=f"{tooltip} Without it, all. A token is inside if the mask covers more than half.")


def _grid_input(id: str, tooltip: str, default: int = 0, min: int = 0):
    return io.Int.Input(id, default=default, min=min, max=GRID_MAX, tooltip=tooltip)


def _output(tooltip: str):
    return TokensOrHiddenSocket.Output("x_out", display_name="x", tooltip=f"{tooltip} Raw tokens or hidden states, the same kind as the input.")


class TokenMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTokenMask",
            display_name="Token Mask",
            category=CATEGORY,
            description="Select tokens by a rectangle of the grid, and inside it by a MASK. The result is a mask with one cell for each token.",
            search_aliases=["select tokens", "mask tokens", "grid rectangle"],
            inputs=[
                tokens_or_hidden_input("Tokens to select from."),
                _grid_input("column", "The rectangle's first column of tokens."),
                _grid_input("row", "The rectangle's first row of tokens."),
                _grid_input("width", "How many columns of tokens. 0 reaches to the edge."),
                _grid_input("height", "How many rows of tokens. 0 reaches to the edge."),
                io.Mask.Input("mask", optional=True, tooltip="A MASK of any size over the whole picture. Tokens are selected if it covers "
                                                            "more than half of them."),
            ],
            outputs=[io.Mask.Output("token_mask", display_name="mask", tooltip="1 for each selected token, 0 for the others.")],
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
            description="Blend the tokens of two wires, each with the token at the same place: a + (b − a)·amount.",
            search_aliases=["blend tokens", "interpolate tokens", "lerp"],
            inputs=[
                tokens_or_hidden_input("The tokens for amount 0. Their grid and step are kept.", "a"),
                tokens_or_hidden_input("The tokens for amount 1. A smaller batch repeats.", "b"),
                io.Float.Input("amount", default=0.5, min=-10.0, max=10.0, step=0.05, round=0.001,
                               tooltip="0 is a, 1 is b. Values outside 0 to 1 extrapolate."),
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
            description="Exchange two rectangles of tokens in one picture. To exchange tokens between two wires, use two Replace Tokens nodes.",
            search_aliases=["exchange tokens", "exchange patches"],
            inputs=[
                tokens_or_hidden_input("Tokens to exchange."),
                _grid_input("column", "The first rectangle's first column."),
                _grid_input("row", "The first rectangle's first row."),
                _grid_input("to_column", "The second rectangle's first column.", default=1),
                _grid_input("to_row", "The second rectangle's first row."),
                _grid_input("width", "Columns of tokens in each rectangle.", default=1, min=1),
                _grid_input("height", "Rows of tokens in each rectangle.", default=1, min=1),
            ],
            outputs=[_output("The same tokens with the two rectangles exchanged.")],
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
            description="Shift all tokens over the grid. Tokens that leave on one side come in on the other.",
            search_aliases=["shift tokens", "seamless", "tiling"],
            inputs=[
                tokens_or_hidden_input("Tokens to shift."),
                io.Int.Input("rows", default=0, min=-GRID_MAX, max=GRID_MAX, tooltip="How many rows down. Negative is up."),
                io.Int.Input("columns", default=1, min=-GRID_MAX, max=GRID_MAX, tooltip="How many columns to the right. Negative is left."),
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
            description="Shuffle tokens at random, in the same way for the same seed. What does a transformer still see?",
            search_aliases=["permute tokens", "random order", "jigsaw"],
            inputs=[
                tokens_or_hidden_input("Tokens to shuffle."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Seed of the new order."),
                _mask_input("Which tokens are shuffled among themselves."),
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
            description="Multiply tokens by a number: weaken them, strengthen them, or flip their sign.",
            search_aliases=["multiply tokens", "weight tokens"],
            inputs=[
                tokens_or_hidden_input("Tokens to multiply."),
                io.Float.Input("factor", default=1.0, min=-100.0, max=100.0, step=0.05, round=0.001,
                               tooltip="1 changes nothing, 0 sets them to zero."),
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
            description="Replace tokens: by those of another picture, by one token everywhere, by the mean, or by zeros.",
            search_aliases=["paste tokens", "swap tokens between pictures", "ablate tokens", "zero tokens", "mean token"],
            inputs=[
                tokens_or_hidden_input("Tokens to replace."),
                io.Combo.Input("fill", options=list(edit.FILLS), default="same place",
                               tooltip="same place: each by the source's token at the same place. one token: all by the source's token at row and "
                                       "column. mean: all by the mean of the source's tokens. zeros: all by zeros."),
                _grid_input("row", 'Row of the "one token".'),
                _grid_input("column", 'Column of the "one token".'),
                tokens_or_hidden_input("Where the new tokens come from. Without it, x itself. A smaller batch repeats.", "source",
                                       optional=True),
                _mask_input("Which tokens are replaced."),
            ],
            outputs=[_output("The tokens after replacement.")],
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
            description="Show tokens as a picture with a square for each: the norm of each token, or which tokens are similar. One picture for "
                        "each part of the batch, all on one scale.",
            search_aliases=["preview tokens", "token norm", "PCA", "feature map"],
            inputs=[
                tokens_or_hidden_input("Tokens to look at."),
                io.Combo.Input("show", options=list(token_map.MAPS), default="principal components",
                               tooltip="norm: the length of each token, as grey. principal components: the three directions in which tokens "
                                       "differ most, as red, green and blue."),
                io.Int.Input("scale", default=16, min=1, max=128, tooltip="Side of a token's square in pixels."),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The map, for Preview Image or any IMAGE node.")],
        )

    @classmethod
    @names_errors
    def execute(cls, x, show, scale) -> io.NodeOutput:
        return io.NodeOutput(token_map.token_map(x, show, scale))
