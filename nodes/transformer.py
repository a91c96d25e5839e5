"""One step from the inside: nodes for the transformer's stages, guidance and the solver."""

from comfy_api.v0_0_2 import io

from ..dit_impl.handle.block_plan import BlockPlan, check_share
from ..dit_impl.handle.stage_plan import StagePlan
from ..dit_impl.sampling.solvers import ONE_CALL
from ..dit_impl.step import stages as step_stages
from ..dit_impl.step.guidance import guide
from ..dit_impl.tokens.numbers import check_ranges
from .comfyui import host
from .wires import (
    DitSocket,
    HiddenSocket,
    TokensSocket,
    dit_input,
    keeps_gradients,
    names_errors,
    share_inputs,
    sigmas_input,
    sound,
    step_input,
    tokens_input,
    tokens_or_hidden_input,
)

CATEGORY = "DiT Blocks/stages"


def _hidden_input(tooltip: str = "Hidden states from the stage before."):
    return HiddenSocket.Input("hidden", tooltip=tooltip)


def _hidden_output(tooltip: str):
    return HiddenSocket.Output("hidden_out", display_name="hidden", tooltip=tooltip)


class Condition(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksCondition",
            display_name="DiT Condition",
            category=CATEGORY,
            description="Begin a step: lay out its batch [uncond, cond] as KSampler does, and embed time and text. Put it first to get the same "
                        "result as KSampler, bit for bit.",
            search_aliases=["timestep embedding", "adaLN", "conditioning", "time embedding", "条件"],
            inputs=[
                dit_input(),
                tokens_or_hidden_input("Tokens at the noise level of the step, or hidden states from Patch Embed."),
                io.Conditioning.Input("positive", tooltip="What the picture shows."),
                sigmas_input(),
                step_input("Which step of the schedule, from 0."),
                io.Conditioning.Input("negative", optional=True, tooltip="What the picture should not show. Leave it out for cfg 1, or if "
                                                                        "negative has its own branch of nodes."),
            ],
            outputs=[_hidden_output("Tokens that are not embedded yet, with text tokens and conditioning vector.")],
        )

    @classmethod
    @names_errors
    @keeps_gradients
    def execute(cls, dit, x, positive, sigmas, step, negative=None) -> io.NodeOutput:
        host.load(dit.modules(), *dit.room(x))
        begun = step_stages.condition(dit, x, positive, negative, sigmas, step)
        return io.NodeOutput(begun, ui={"text": (dit.remark,)} if dit.remark else None)


class PatchEmbed(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPatchEmbed",
            display_name="Patch Embed",
            category=CATEGORY,
            description="Multiply each raw patch by one learned matrix: its p·p·C values become a vector of the model's width. It holds what the "
                        "patch shows, not where it is.",
            search_aliases=["patch embedding", "块嵌入", "x_embedder"],
            inputs=[dit_input(), tokens_or_hidden_input("Hidden states after DiT Condition, or raw tokens to condition later.")],
            outputs=[_hidden_output("Image tokens of the model's width, without positions.")],
        )

    @classmethod
    @names_errors
    @keeps_gradients
    def execute(cls, dit, x) -> io.NodeOutput:
        host.load(dit.modules(), *dit.room(x))
        return io.NodeOutput(step_stages.patch_embed(dit, x))


class PositionEmbed(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPositionEmbed",
            display_name="Position Embed",
            category=CATEGORY,
            description="Tell the model where each patch is. Without positions, attention sees patches in no order. Positions are added to the "
                        "tokens, or (rotary) turn queries and keys inside attention.",
            search_aliases=["positional encoding", "位置嵌入", "sincos", "position embedding", "positional", "位置编码"],
            inputs=[
                dit_input(),
                _hidden_input("Embedded patches."),
                io.Combo.Input("mode", options=list(step_stages.POSITION_MODES), default="model",
                               tooltip="model: the model's own. none: no positions. shuffled: its own in random order. 1-D: only the reading order. "
                                       "scaled: the trained grid stretched over this one. Only rotary: shifted; NTK, YaRN, DyPE, other ways to fit a larger grid."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Seed of the shuffle."),
                io.Float.Input("shift", default=8.0, min=-1000.0, max=1000.0, step=1.0, round=0.001, optional=True,
                               tooltip="For shifted: by how many patches, down and to the right."),
                io.Float.Input("scale", default=0.0, min=0.0, max=16.0, step=0.1, round=0.001, optional=True,
                               tooltip="For scaled, NTK, YaRN and DyPE on rotary models: how many times the trained grid this one is. 1 changes "
                                       "nothing. 0: as the sizes are."),
            ],
            outputs=[_hidden_output("Image tokens with positions.")],
        )

    @classmethod
    @names_errors
    @keeps_gradients
    def execute(cls, dit, hidden, mode, seed, shift=8.0, scale=0.0) -> io.NodeOutput:
        host.load(dit.modules(), *dit.room(hidden))
        return io.NodeOutput(step_stages.position_embed(dit, hidden, mode, seed, shift, scale))


class RunBlocks(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksRunBlocks",
            display_name="DiT Blocks",
            category=CATEGORY,
            description="Run transformer blocks, any of them in any order: skip, repeat, reverse or weaken them. Before they run, tokens of another "
                        "run can replace these (graft).",
            search_aliases=["layer skip", "transformer blocks", "SLG", "PAG", "perturbed attention", "skip block", "flux blocks", "跳过块"],
            has_intermediate_output=True,
            inputs=[
                dit_input(),
                _hidden_input("Conditioned and embedded hidden states."),
                io.String.Input("blocks", default="all", tooltip='Which blocks, in order: "all", "all but 7", "0-11", "0,2,4-7", "11-0". Empty: none.'),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.05, round=0.001,
                               tooltip="A factor on what each block adds to its input: 1 is normal, 0 skips it."),
                HiddenSocket.Input("graft", optional=True,
                                   tooltip="Hidden states of another run. Their image tokens replace these before the blocks run."),
                io.Mask.Input("graft_mask", optional=True, tooltip="Which tokens are replaced by graft. Without it, all."),
                io.Combo.Input("attention", options=list(step_stages.ATTENTION_MODES), default="full", optional=True,
                               tooltip="full: as in the model. itself: each image token reads only itself and the text (perturbed attention)."),
            ],
            outputs=[_hidden_output("Hidden states after these blocks.")],
        )

    @classmethod
    def validate_inputs(cls, blocks=None):
        return sound(check_ranges, blocks, "block")

    @classmethod
    @names_errors
    @keeps_gradients
    def execute(cls, dit, hidden, blocks, strength, graft=None, graft_mask=None, attention="full") -> io.NodeOutput:
        host.load(dit.modules(), *dit.room(hidden))
        host.throw_if_interrupted()
        done = step_stages.run_blocks(dit, hidden, blocks, strength, graft, graft_mask, attention)
        return io.NodeOutput(done, ui={"dit_blocks": ({"kinds": dit.stages.over(done["hidden"]).kinds},)})


class BlocksModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksBlocksModel",
            display_name="DiT Blocks (MODEL)",
            category=CATEGORY,
            description="Choose which transformer blocks run in KSampler, and how strong, in all steps or from one percent of sampling to another. "
                        "Put it between the loader and the sampler. A plan of all blocks at strength 1 changes nothing, bit for bit.",
            search_aliases=["skip layer", "layer skip", "skip blocks", "SLG", "block weights"],
            inputs=[
                io.Model.Input("model", tooltip="Any diffusion transformer that ComfyUI has loaded. It is not changed."),
                io.String.Input("blocks", default="all", tooltip='Which blocks, in order: "all but 7", "0-11", "0,2,4-7", "11-0". A part may have a '
                                                                'strength of its own: "0-6,7*0.5,8-18". Empty: none.'),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.05, round=0.001,
                               tooltip="A factor on what each of these blocks adds to its input: 1 is normal."),
                *share_inputs(),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The same model with a plan of its blocks.")],
        )

    @classmethod
    def validate_inputs(cls, blocks=None):
        return sound(lambda text: BlockPlan(text).check(), blocks)

    @classmethod
    @names_errors
    def execute(cls, model, blocks, strength, start_percent, end_percent) -> io.NodeOutput:
        check_share(start_percent, end_percent)
        from .comfyui.planned_blocks import with_block_plan  # there is no MODEL outside ComfyUI
        return io.NodeOutput(with_block_plan(model, BlockPlan(blocks, strength, start_percent, end_percent)))


def _wired_step_input():
    return _hidden_input("Hidden states as they go into Final Layer, of one step. All that is wired from DiT Condition to here runs again in each step, "
                         "with the sampler's own prompts.")


class StagesSteps(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksStagesSteps",
            display_name="Stages Every Step",
            category=CATEGORY,
            description="Run in every step of DiT Denoise what is wired for one step, from DiT Condition to Final Layer: position modes, blocks in any "
                        "order, grafts, steering, edits of tokens.",
            search_aliases=["custom model", "wires as a model", "every step"],
            inputs=[dit_input(), _wired_step_input(), *share_inputs()],
            outputs=[DitSocket.Output("dit_out", display_name="dit", tooltip="The same model, whose steps run as they are wired.")],
        )

    @classmethod
    def validate_inputs(cls, start_percent=None, end_percent=None):
        return sound(check_share, start_percent, end_percent)

    @classmethod
    @names_errors
    def execute(cls, dit, hidden, start_percent, end_percent) -> io.NodeOutput:
        return io.NodeOutput(dit.with_turn(StagePlan.of(hidden, start_percent, end_percent)))


class StagesModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksStagesModel",
            display_name="Stages (MODEL)",
            category=CATEGORY,
            description="Run in every step of KSampler what is wired for one step, from DiT Condition to Final Layer. Put it between the loader and the "
                        "sampler. Stages wired as the model has them change nothing, bit for bit.",
            search_aliases=["custom model", "wires as a model", "every step", "KSampler"],
            inputs=[io.Model.Input("model", tooltip="The model whose stages are wired, or one of the same shape. It is not changed."),
                    _wired_step_input(), *share_inputs()],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The same model, whose steps run as they are wired.")],
        )

    @classmethod
    def validate_inputs(cls, start_percent=None, end_percent=None):
        return sound(check_share, start_percent, end_percent)

    @classmethod
    @names_errors
    def execute(cls, model, hidden, start_percent, end_percent) -> io.NodeOutput:
        from .comfyui.planned_blocks import with_turn  # there is no MODEL outside ComfyUI
        return io.NodeOutput(with_turn(model, StagePlan.of(hidden, start_percent, end_percent)))


class FinalLayer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksFinalLayer",
            display_name="Final Layer",
            category=CATEGORY,
            description="Turn image tokens back into patch values, by a norm and one linear map: the model's prediction for each conditioning.",
            search_aliases=["output head", "proj_out", "输出层"],
            inputs=[dit_input(), _hidden_input("Hidden states after the last block that should run.")],
            outputs=[TokensSocket.Output("prediction", display_name="prediction", tooltip="The prediction for the whole batch, for DiT Guidance.")],
        )

    @classmethod
    @names_errors
    @keeps_gradients
    def execute(cls, dit, hidden) -> io.NodeOutput:
        host.load(dit.modules(), *dit.room(hidden))
        return io.NodeOutput(step_stages.final_layer(dit, hidden))


class Guidance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksGuidance",
            display_name="DiT Guidance",
            category=CATEGORY,
            description="Classifier-free guidance: move from the unconditional prediction towards the conditional one and beyond. For a MODEL its "
                        "own CFG functions are used.",
            search_aliases=["CFG", "classifier-free guidance", "引导"],
            inputs=[
                TokensSocket.Input("prediction", tooltip="From Final Layer."),
                io.Float.Input("cfg", default=3.0, min=-100.0, max=100.0, step=0.1, round=0.01, tooltip="How far to move. 1 is the "
                                                                                                         "conditional prediction itself."),
                TokensSocket.Input("negative", optional=True, tooltip="A prediction from another branch of nodes to move away from: a negative "
                                                                "prompt, skipped blocks, or another guidance."),
            ],
            outputs=[TokensSocket.Output("guided", display_name="prediction", tooltip="One prediction, x0.")],
        )

    @classmethod
    @names_errors
    def execute(cls, prediction, cfg, negative=None) -> io.NodeOutput:
        return io.NodeOutput(guide(prediction, cfg, negative))


class SamplerStep(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksSamplerStep",
            display_name="Sampler Step",
            category=CATEGORY,
            description="Let the solver move the tokens to the next noise level, with the prediction.",
            search_aliases=["solver", "Euler step", "求解器"],
            inputs=[
                dit_input(),
                tokens_input("The tokens that the step started from."),
                TokensSocket.Input("prediction", tooltip="From Guidance, or from Final Layer if there is only one conditioning."),
                sigmas_input(),
                step_input("The step that the prediction is for."),
                io.Combo.Input("solver", options=list(ONE_CALL), default="euler", tooltip="The rule for moving to the next noise level."),
            ],
            outputs=[
                TokensSocket.Output("stepped", display_name="tokens", tooltip="Tokens at the next noise level."),
                TokensSocket.Output("denoised", display_name="denoised", tooltip="x0: the clean tokens that the model predicts."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, tokens, prediction, sigmas, step, solver) -> io.NodeOutput:
        moved, x0 = step_stages.sampler_step(dit, tokens, prediction, sigmas, step, solver)
        host.reporter(1)(1, dit.preview(x0, x0["tokens"]))
        return io.NodeOutput(moved, x0)
