"""Two tests of a model: whether the wires compute what it computes, and which blocks matter most."""

from comfy_api.v0_0_2 import io, ui

from ..dit_impl.step import probe
from .comfyui import host
from .wires import TokensSocket, dit_input, language_input, names_errors, sigmas_input, step_input, tokens_input

CATEGORY = "DiT Blocks/probe"


class Parity(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksParity",
            display_name="Wires = KSampler?",
            category=CATEGORY,
            description="Compare the prediction from your wires with the whole model's own, for the same tokens: how large the difference is, and "
                        "after which stage it begins.",
            search_aliases=["compare", "bit-exact", "parity badge", "parity", "compare with KSampler", "一致性"],
            is_output_node=True,
            inputs=[
                dit_input(),
                TokensSocket.Input("prediction", tooltip="From Guidance, or from Final Layer if there is only one conditioning."),
                sigmas_input(),
                step_input("The step that the prediction is for."),
                io.Conditioning.Input("positive", tooltip="As in DiT Condition."),
                io.Float.Input("cfg", default=3.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="As in DiT Guidance."),
                io.Conditioning.Input("negative", optional=True, tooltip="As in DiT Condition."),
            ],
            outputs=[io.Float.Output("largest", display_name="largest difference",
                                     tooltip="The largest difference in x0. 0 means equal, bit for bit.")],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, prediction, sigmas, step, positive, cfg, negative=None) -> io.NodeOutput:
        host.load(dit.modules(), *dit.room(prediction))
        parity = probe.parity(dit, prediction, sigmas, step, positive, negative, cfg)
        return io.NodeOutput(parity.largest, ui=ui.PreviewText(str(parity)))


class BlockAblation(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksBlockAblation",
            display_name="Block Ablation",
            category=CATEGORY,
            description="Leave out each block in turn at a few noise levels, and rank the blocks by how much x0 changes: a chart, and skip lists "
                        "of the least important blocks.",
            search_aliases=["layer importance", "skip layer guidance", "SLG"],
            inputs=[
                dit_input(),
                tokens_input("Clean tokens, of a picture or after denoising."),
                sigmas_input(),
                io.Conditioning.Input("positive", tooltip="What the picture shows."),
                io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance. 1 uses only positive, "
                                                                                                     "in half the time."),
                io.Int.Input("levels", default=3, min=1, max=50, tooltip="How many noise levels, spread over the schedule."),
                io.Int.Input("skip", default=1, min=0, max=100, tooltip="How many blocks are in the skip lists."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Seed of the noise."),
                io.Conditioning.Input("negative", optional=True, tooltip="What the picture should not show. Needed if cfg is not 1."),
                language_input(),
            ],
            outputs=[
                io.Image.Output("chart", display_name="chart", tooltip="A bar for each block."),
                io.String.Output("double_layers", display_name="double_layers", tooltip="The least important blocks, for SkipLayerGuidanceDiT."),
                io.String.Output("single_layers", display_name="single_layers", tooltip="The least important single-stream blocks, from 0."),
                io.String.Output("blocks", display_name="blocks", tooltip="All other blocks, for DiT Blocks."),
                io.String.Output("ranking", display_name="ranking", tooltip="A line for each block, the least important first: number, "
                                                                           "kind, change of x0."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, tokens, sigmas, positive, cfg, levels, skip, seed, negative=None, language="English") -> io.NodeOutput:
        host.load(dit.modules(), *dit.room(tokens))
        ablation = probe.ablate(dit, tokens, sigmas, levels, positive, negative, cfg, seed, host.reporter)
        return io.NodeOutput(probe.bar_chart(ablation, language), *ablation.skip_lists(skip), ablation.ranked())
