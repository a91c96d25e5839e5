"""Steering: a direction between the hidden states of two runs, which is added to those of a third."""

from comfy_api.v0_0_2 import io, ui

from ..dit_impl.handle.block_plan import check_share
from ..dit_impl.handle.steering_plan import Turn
from ..dit_impl.sources.steering_file import load_vector, save_vector
from ..dit_impl.tokens import steering
from .comfyui import host
from .load import _pick
from .wires import DitSocket, HiddenSocket, SteeringSocket, dit_input, names_errors, share_inputs, sound

CATEGORY = "DiT Blocks/tokens"


def _vector_output():
    return SteeringSocket.Output("direction", display_name="vector", tooltip="The direction, one number for each of the model's width.")


def _turn_inputs():
    return [
        SteeringSocket.Input("vector", tooltip="From Steering Vector or Load Steering Vector."),
        io.Float.Input("strength", default=1.0, min=-100.0, max=100.0, step=0.1, round=0.001,
                       tooltip="A factor on the direction. 1 adds the mean difference itself, a negative number turns the other way."),
        io.Combo.Input("rows", options=list(steering.ROWS), default="both",
                       tooltip="both: positive and negative prompt alike. positive: that one alone, so that cfg multiplies the turn."),
    ]


def _mask_input():
    return io.Mask.Input("mask", optional=True, tooltip="Which tokens turn. Without it, all. A token is inside if the mask covers more than half.")


class SteeringVector(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksSteeringVector",
            display_name="Steering Vector",
            category=CATEGORY,
            description="The mean difference between the hidden states of two runs, such as of a red and a blue circle, as a direction for Steer.",
            search_aliases=["activation addition", "control vector", "concept slider", "difference of means"],
            has_intermediate_output=True,
            inputs=[
                HiddenSocket.Input("towards", tooltip="Hidden states of the run that has what you want."),
                HiddenSocket.Input("away", tooltip="Hidden states of the same step and place of a run that has something else instead."),
                io.Mask.Input("mask", optional=True, tooltip="Which tokens count, such as those of the object. Without it, all."),
                SteeringSocket.Input("more", optional=True, tooltip="Another vector to average with: of other prompts, places or steps."),
            ],
            outputs=[_vector_output()],
        )

    @classmethod
    @names_errors
    def execute(cls, towards, away, mask=None, more=None) -> io.NodeOutput:
        vector = steering.steering_vector(towards, away, mask, more)
        return io.NodeOutput(vector, ui={"text": (str(vector),)})


class Steer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksSteer",
            display_name="Steer",
            category=CATEGORY,
            description="Add a direction to the hidden states, so that the picture turns that way without a word in the prompt.",
            search_aliases=["steering", "activation addition", "control vector", "concept slider"],
            inputs=[
                HiddenSocket.Input("hidden", tooltip="Hidden states at the place that the vector was taken from."),
                *_turn_inputs(), _mask_input(),
            ],
            outputs=[HiddenSocket.Output("hidden_out", display_name="hidden", tooltip="Hidden states with the direction added.")],
        )

    @classmethod
    @names_errors
    def execute(cls, hidden, vector, strength, rows, mask=None) -> io.NodeOutput:
        return io.NodeOutput(steering.steer(hidden, vector, strength, mask, rows))


class SteerSteps(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksSteerSteps",
            display_name="Steer Every Step",
            category=CATEGORY,
            description="Add a direction to the hidden states in every step of DiT Denoise, at the place among the blocks that it was taken from.",
            search_aliases=["steering", "activation addition", "control vector", "concept slider"],
            inputs=[dit_input(), *_turn_inputs(), *share_inputs(), _mask_input()],
            outputs=[DitSocket.Output("dit_out", display_name="dit", tooltip="The same model, steered in DiT Denoise and DiT Denoise Step.")],
        )

    @classmethod
    def validate_inputs(cls, start_percent=None, end_percent=None):
        return sound(check_share, start_percent, end_percent)

    @classmethod
    @names_errors
    def execute(cls, dit, vector, strength, rows, start_percent, end_percent, mask=None) -> io.NodeOutput:
        return io.NodeOutput(dit.with_turn(Turn(vector, strength, rows, mask, start_percent, end_percent)))


class SteerModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksSteerModel",
            display_name="Steer (MODEL)",
            category=CATEGORY,
            description="Add a direction to the hidden states in every step of KSampler, at the place among the blocks that it was taken from. Put it "
                        "between the loader and the sampler. At strength 0 nothing changes, bit for bit.",
            search_aliases=["steering", "activation addition", "control vector", "concept slider", "KSampler"],
            inputs=[io.Model.Input("model", tooltip="Any diffusion transformer that ComfyUI has loaded. It is not changed."),
                    *_turn_inputs(), *share_inputs(), _mask_input()],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The same model, steered.")],
        )

    @classmethod
    def validate_inputs(cls, start_percent=None, end_percent=None):
        return sound(check_share, start_percent, end_percent)

    @classmethod
    @names_errors
    def execute(cls, model, vector, strength, rows, start_percent, end_percent, mask=None) -> io.NodeOutput:
        from .comfyui.planned_blocks import with_turn  # there is no MODEL outside ComfyUI
        return io.NodeOutput(with_turn(model, Turn(vector, strength, rows, mask, start_percent, end_percent)))


class SaveSteeringVector(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksSaveSteeringVector",
            display_name="Save Steering Vector",
            category=CATEGORY,
            description="Save a steering vector as a small safetensors file in the output folder. To load it, move it to models/loras.",
            search_aliases=["export", "control vector"],
            is_output_node=True,
            inputs=[
                SteeringSocket.Input("vector", tooltip="From Steering Vector."),
                io.String.Input("filename_prefix", default="dit_blocks/steering",
                                tooltip="Folder and beginning of the file name, inside the output folder. A number is added."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, vector, filename_prefix) -> io.NodeOutput:
        path = host.save_new(filename_prefix, lambda path: save_vector(vector, path))
        return io.NodeOutput(ui=ui.PreviewText(f"saved as {path}\n{vector}"))


class LoadSteeringVector(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksLoadSteeringVector",
            display_name="Load Steering Vector",
            category=CATEGORY,
            description="Load a steering vector that Save Steering Vector wrote.",
            search_aliases=["control vector"],
            inputs=[io.Combo.Input("file", options=list(host.adapter_files()),
                                   tooltip="A .safetensors file in models/loras, as Save Steering Vector writes it.")],
            outputs=[_vector_output()],
        )

    @classmethod
    @names_errors
    def execute(cls, file) -> io.NodeOutput:
        vector = load_vector(_pick(file, host.adapter_files(), "file", "models/loras"))
        return io.NodeOutput(vector, ui=ui.PreviewText(str(vector)))
