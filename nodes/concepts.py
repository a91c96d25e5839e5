"""Concept maps: where a model sees what words name, as masks."""

from comfy_api.v0_0_2 import io

from ..dit_impl.see import concept_map, concept_pictures
from ..dit_impl.see.concept_words import read_concepts
from .comfyui import host
from .wires import HiddenSocket, dit_input, keeps_gradients, language_input, map_sheet_shown, names_errors


class ConceptMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksConceptMap",
            display_name="Concept Map",
            category="DiT Blocks/visualize",
            description="Run all blocks and show where the model sees what each word names, as maps and masks. The words need not be in the prompt: "
                        "they read the picture and are not read by it, so the result does not change.",
            search_aliases=["ConceptAttention", "word mask", "segment by text", "saliency map", "heat map of a word", "概念图"],
            is_output_node=True,
            inputs=[
                dit_input(),
                HiddenSocket.Input("hidden", tooltip="Hidden states before the first block, as DiT Blocks takes them."),
                io.Clip.Input("clip", tooltip="The text encoder of this model: it encodes the concepts."),
                io.String.Input("concepts", default="red circle\nblue square", multiline=True, tooltip="Things to look for, one on each line: a word or a few."),
                io.String.Input("against", default="background", multiline=True,
                                tooltip="What else is in the picture, one on each line: concepts compete with it, and it gets no map."),
                io.String.Input("blocks", default="all", tooltip="Which blocks count for the maps: all, or numbers such as 0-3,7. All of them run."),
                io.Int.Input("concept", default=0, min=0, max=1000, tooltip="Whose mask to give: the number of its line, from 0."),
                io.Float.Input("threshold", default=0.5, min=0.0, max=1.0, step=0.05, round=0.001,
                               tooltip="mask holds the places where the concept has more than this share."),
                io.Int.Input("grow", default=0, min=0, max=64, tooltip="mask also holds so many tokens around them, such as 1 to paint a thing anew."),
                language_input(),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="A map for each concept, with its name."),
                io.Mask.Output("masks", display_name="masks", tooltip="The share of each concept at every place, 0 to 1, on the token grid: a batch in "
                                                                      "the order of the lines."),
                io.Mask.Output("mask", display_name="mask", tooltip="The chosen concept alone, 0 or 1."),
                HiddenSocket.Output("hidden_out", display_name="hidden", tooltip="Hidden states after all blocks, the same as from DiT Blocks."),
                io.String.Output("text", display_name="text", tooltip="How much of the picture each concept covers."),
            ],
        )

    @classmethod
    @names_errors
    @keeps_gradients
    def execute(cls, dit, hidden, clip, concepts, against, blocks, concept, threshold, grow, language="auto") -> io.NodeOutput:
        asked = read_concepts(clip, concepts, against)
        host.load(dit.modules(), *dit.room(hidden))
        host.throw_if_interrupted()
        after, maps = concept_map.concept_maps(dit, hidden, asked, blocks)
        mask = maps.mask(concept, threshold, grow)
        sheet, text = concept_pictures.drawing(maps, language), concept_pictures.described(maps, threshold, language)
        return io.NodeOutput(sheet.image, maps.shares, mask, after, text, ui=map_sheet_shown(cls, sheet, None, text))
