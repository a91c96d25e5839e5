"""Maps of a block's attention, also over steps, and maps of position embeddings."""

from comfy_api.v0_0_2 import io

from ..dit_impl.sampling.solvers import SOLVERS
from ..dit_impl.sampling.walk import last_step
from ..dit_impl.see import attention_maps, attention_pictures, position_similarity
from ..dit_impl.see.attention_maps import DIRECTIONS, Question
from ..dit_impl.tokens.numbers import check_ranges
from .comfyui import host
from .wires import (
    STEP_MAX,
    HiddenSocket,
    TokensSocket,
    dit_input,
    keeps_gradients,
    language_input,
    map_sheet_shown,
    names_errors,
    sigmas_input,
    sound,
    tokens_input,
    tokens_or_hidden_input,
)

CATEGORY = "DiT Blocks/visualize"
TOKEN_MAX = 2 ** 20


def _question_inputs():
    return [
        io.Int.Input("block", default=0, min=0, max=1000, tooltip="Which block, from 0."),
        io.Int.Input("head", default=-1, min=-1, max=1000, tooltip="Which attention head, from 0. -1 is the mean of all heads."),
        io.Combo.Input("direction", options=list(DIRECTIONS), default="image to image",
                       tooltip="Which tokens attend to which. image to image: one image token to all others. image to text: one image token to each "
                               "word, or every image token to one word if word is filled in. text to image: a word to all image tokens."),
        io.Int.Input("query", default=0, min=0, max=TOKEN_MAX,
                     tooltip="Number of the token that attends, from 0: an image token in reading order, or a text token for text to image."),
        io.String.Input("word", default="", tooltip="For directions with text: words of the prompt, or numbers of text tokens such as 3 or 3-5. "
                                                    "With a MODEL only numbers work."),
    ]


class AttentionMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksAttentionMap",
            display_name="Attention Map",
            category=CATEGORY,
            description="Run one block and show what a token attends to, as a map over the picture or as bars over the text. The result of the "
                        "block does not change. Only the attention you ask for is stored.",
            search_aliases=["cross-attention map", "DAAM", "attention heat map", "注意力图"],
            is_output_node=True,
            inputs=[
                dit_input(),
                HiddenSocket.Input("hidden", tooltip="Hidden states before the block, as DiT Blocks takes them."),
                *_question_inputs(),
                language_input(optional=False),
                io.Boolean.Input("every_query", default=False, optional=True,
                                 tooltip="Keep the maps of all queries. map is then a batch with one for each query (from image to text, one for "
                                         "each text token). It takes N² numbers, and is refused if memory is too small."),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The map or the bars, with a scale in percent."),
                io.Mask.Output("map", display_name="map", tooltip="The map on the token grid; its largest value is 1. If there is no map, it marks "
                                                                  "the query."),
                HiddenSocket.Output("hidden_out", display_name="hidden", tooltip="Hidden states after the block, the same as from DiT Blocks."),
                io.String.Output("text", display_name="text", tooltip="Sums of the rows, the largest shares, and the memory used."),
            ],
        )

    @classmethod
    @names_errors
    @keeps_gradients
    def execute(cls, dit, hidden, block, head, direction, query, word, language, every_query=False) -> io.NodeOutput:
        host.load(dit.modules(), *dit.room(hidden))
        host.throw_if_interrupted()
        asked = Question(block, head, direction, query, word, every_query)
        after, seen = attention_maps.attention_map(dit, hidden, asked, host.free_memory())
        sheet, text = attention_pictures.drawing(seen, language), attention_pictures.described(seen, language)
        return io.NodeOutput(sheet.image, attention_pictures.masks(seen), after, text, ui=map_sheet_shown(cls, sheet, asked.of_picture(), text))


class AttentionSteps(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksAttentionSteps",
            display_name="Attention over Steps",
            category=CATEGORY,
            description="Denoise as DiT Denoise does, and show one token's attention in one block at some of the steps, as a contact sheet.",
            search_aliases=["attention over time", "cross-attention steps", "注意力随步变化"],
            inputs=[
                dit_input(),
                tokens_input("Tokens at the noise level of the first step, as DiT Denoise takes them."),
                sigmas_input(),
                io.Conditioning.Input("positive", tooltip="What the picture shows."),
                io.Float.Input("cfg", default=3.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance, as in DiT Denoise."),
                io.Combo.Input("solver", options=list(SOLVERS), default="euler", tooltip="How a step is taken."),
                *_question_inputs(),
                io.String.Input("at_steps", default="", tooltip='Which steps: "0,5,10-12" or "all". Empty: up to 8, evenly spread.'),
                language_input(optional=False),
                io.Conditioning.Input("negative", optional=True, tooltip="What the picture should not show. Needed if cfg is not 1."),
                io.Int.Input("start_step", default=0, min=0, max=STEP_MAX, optional=True, tooltip="The first step to take."),
                io.Int.Input("end_step", default=STEP_MAX, min=1, max=STEP_MAX, optional=True,
                             tooltip="The step to stop before. A larger number than the schedule has means its end."),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="A map or bars for each chosen step, with its sigma."),
                io.Mask.Output("maps", display_name="maps",
                               tooltip="The maps on the token grid, one for each step. The largest value of each is 1."),
                TokensSocket.Output("denoised_tokens", display_name="tokens",
                                    tooltip="Tokens at the last noise level, the same as from DiT Denoise."),
                TokensSocket.Output("denoised", display_name="denoised", tooltip="x0 at the last step, the same as from DiT Denoise."),
            ],
        )

    @classmethod
    def validate_inputs(cls, at_steps=None):
        return sound(check_ranges, at_steps, "step")

    @classmethod
    @names_errors
    def execute(cls, dit, tokens, sigmas, positive, cfg, solver, block, head, direction, query, word, at_steps, language, negative=None,
                start_step=0, end_step=STEP_MAX) -> io.NodeOutput:
        dit.away_from(negative, cfg)  # refuse guidance without a negative before anything is loaded
        report, asked = host.reporter(last_step(start_step, end_step, sigmas) - start_step), Question(block, head, direction, query, word)
        host.load(dit.modules(), *dit.room(tokens))
        host.throw_if_interrupted()
        tokens, x0, answers = attention_maps.over_steps(
            dit, tokens, sigmas, positive, negative, cfg, solver, start_step, end_step, asked, at_steps,
            host.free_memory(), lambda done, wire, x0: report(done, dit.preview(wire, x0)))
        sheet = attention_pictures.over_steps(answers, sigmas, language)
        shown = map_sheet_shown(cls, sheet, asked.of_picture())
        return io.NodeOutput(sheet.image, attention_pictures.masks(*answers.values()), tokens, x0, ui=shown)


class PositionSimilarity(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPositionSimilarity",
            display_name="Position Similarity",
            category=CATEGORY,
            description="How similar the position embedding of one token is to that of every other token, beside the 1-D positions of a text model. "
                        "Rotary positions are compared by the attention score they cause.",
            search_aliases=["positional encoding", "RoPE", "sincos", "位置编码"],
            is_output_node=True,
            inputs=[
                dit_input(),
                tokens_or_hidden_input("Tokens, for their grid. For a MODEL: hidden states after Patch Embed or Position Embed."),
                io.Int.Input("query", default=0, min=0, max=TOKEN_MAX,
                             tooltip="Which image token's position is compared, by its number in reading order."),
                language_input(optional=False),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="Both maps side by side, on the same colour scale."),
                io.Mask.Output("map", display_name="map", tooltip="The model's own map on the token grid, 0 to 1. Negative values become 0."),
                io.String.Output("text", display_name="text", tooltip="How similar the neighbours in the row and in the column are."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, x, query, language) -> io.NodeOutput:
        host.load(dit.modules(), *dit.room(x))
        compared = position_similarity.compare_positions(dit, x, query)
        sheet, text = position_similarity.drawing(compared, language), position_similarity.described(compared, language)
        return io.NodeOutput(sheet.image, position_similarity.maps(compared), text, ui=map_sheet_shown(cls, sheet, query, text))
