"""One training step as wires: a model that learns, noise at a time, the loss, and the optimizer step."""

from comfy_api.v0_0_2 import io, ui

from ..dit_impl.training import textbook
from ..dit_impl.training.losses import TARGETS, TIMES, WEIGHTINGS
from ..dit_impl.training.objectives import SCOPES
from .comfyui import host
from .wires import DitSocket, LossSocket, TokensSocket, dit_input, keeps_gradients, names_errors, tokens_input

CATEGORY = "DiT Blocks/train"


def scope_input(*more: str):
    return io.Combo.Input("scope", options=[*SCOPES, *more], default=SCOPES[0],
                          tooltip="Which parameters learn: all, or only the patch embedding and the head" +
                          (", or an adapter for a new patch size" if more else "") + ".")


def loss_inputs():
    return [
        io.Combo.Input("target", options=list(TARGETS), default="own", tooltip="What the error is measured in: own is what the model itself "
                       "predicts; or velocity, noise ε, clean tokens x0, or v. The choice changes the error by a factor for each noise level."),
        io.Combo.Input("weighting", options=list(WEIGHTINGS), default="none", tooltip="How much each noise level counts: all the same, or as in the "
                       "SD3 paper, 1/σ² or cosmap. Only for rectified flows."),
    ]


def times_input():
    return io.Combo.Input("times", options=list(TIMES), default="logit_normal",
                          tooltip="How random times are drawn for a rectified flow: logit-normal as in SD3, uniform, or mode. A DDPM always has "
                                  "uniform ones.")


class Trainable(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTrainable",
            display_name="Trainable DiT",
            category=CATEGORY,
            description="Make a copy of the model that can learn. The stage nodes record what they compute with it, and Train Step uses this to "
                        "find the gradients. The input model does not change.",
            search_aliases=["requires_grad", "autograd", "unfreeze"],
            inputs=[dit_input(tooltip="From New DiT, or any other model of the pack. A MODEL does not work here."), scope_input()],
            outputs=[DitSocket.Output("trainable", display_name="dit", tooltip="The copy that learns.")],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, scope) -> io.NodeOutput:
        host.load(dit.modules())  # the copy is made where it computes
        learning = textbook.learner(dit, scope)
        count = sum(parameter.numel() for parameter in learning.trained.values())
        whole = sum(parameter.numel() for parameter in learning.model.parameters())
        return io.NodeOutput(learning, ui=ui.PreviewText(f"{count:,} of {whole:,} parameters learn"))


class NoiseAtTime(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksNoiseAtTime",
            display_name="Add Noise at Time",
            category=CATEGORY,
            description="Add noise to clean tokens at one time, random or chosen, as in training. Rectified flow: x = (1 − σ)·x0 + "
                        "σ·ε. DDPM: z_t = √ᾱ_t·z0 + √(1−ᾱ_t)·ε.",
            search_aliases=["forward process", "q_sample", "add noise", "random timestep", "noise at a time"],
            inputs=[
                dit_input(),
                tokens_input("Clean tokens of training pictures, from Patchify."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                             tooltip="Seed of the noise, and of the time if it is random."),
                io.Float.Input("time", default=-1.0, min=-1.0, max=1.0, step=0.01, round=0.001,
                               tooltip="0 is the clean picture, 1 is pure noise. -1 draws a random time, as in training."),
                times_input(),
            ],
            outputs=[
                TokensSocket.Output("noisy", display_name="tokens", tooltip="The tokens with noise. They also carry their clean values."),
                TokensSocket.Output("noise", display_name="noise", tooltip="The noise ε alone."),
                io.Sigmas.Output("sigmas", display_name="sigmas", tooltip="The noise level, then 0. For DiT Condition, with step 0."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, tokens, seed, time, times) -> io.NodeOutput:
        noisy, noise, sigmas = textbook.noise_at(dit, tokens, seed, time, times)
        return io.NodeOutput(noisy, noise, sigmas, ui=ui.PreviewText(f"σ = {sigmas[0]:.3f}"))


class DiffusionLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksDiffusionLoss",
            display_name="Diffusion Loss",
            category=CATEGORY,
            description="The mean squared error between the prediction and what the model should predict. This one loss trains patch embedding, "
                        "blocks and head together.",
            search_aliases=["MSE", "denoising loss", "training loss", "损失"],
            is_output_node=True,
            inputs=[dit_input(tooltip="The model that the prediction comes from."),
                    TokensSocket.Input("prediction", tooltip="From Final Layer, without DiT Guidance, for tokens from Add Noise at Time."), *loss_inputs()],
            outputs=[
                LossSocket.Output("loss", display_name="loss", tooltip="For Train Step."),
                io.Float.Output("value", display_name="value", tooltip="The loss as a number."),
                io.Image.Output("map", display_name="map", tooltip="The error of each token. White is the largest."),
            ],
        )

    @classmethod
    @names_errors
    @keeps_gradients
    def execute(cls, dit, prediction, target, weighting) -> io.NodeOutput:
        loss, pictures = textbook.diffusion_loss(dit, prediction, target, weighting)
        value = loss["loss"].item()
        return io.NodeOutput(loss, value, pictures, ui=ui.PreviewText(f"loss {value:.6g}"))


class TrainStep(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTrainStep",
            display_name="Train Step",
            category=CATEGORY,
            description="Compute the gradient of the loss for every parameter that learns, and take one step of AdamW. The output is the model "
                        "after the step. The input model does not change.",
            search_aliases=["backward", "optimizer step", "AdamW", "gradient descent"],
            is_output_node=True,
            inputs=[
                dit_input(tooltip="The same Trainable DiT that the loss comes from."),
                LossSocket.Input("loss", tooltip="From Diffusion Loss."),
                io.Float.Input("learning_rate", default=1e-3, min=0.0, max=10.0, step=1e-5, round=1e-8, tooltip="How large a step is."),
                io.Float.Input("weight_decay", default=0.01, min=0.0, max=1.0, step=0.001, round=1e-6, tooltip="How fast weights shrink towards 0."),
                io.Float.Input("clip", default=1.0, min=0.0, max=1000.0, step=0.1, round=0.001,
                               tooltip="A gradient with a larger norm is scaled down to this."),
            ],
            outputs=[
                DitSocket.Output("taught", display_name="dit", tooltip="The model after the step, for the next step. It carries AdamW's state."),
                io.Float.Output("value", display_name="loss", tooltip="The loss before the step."),
                io.Float.Output("norm", display_name="gradient_norm", tooltip="The norm of the gradient before clipping."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, loss, learning_rate, weight_decay, clip) -> io.NodeOutput:
        host.throw_if_interrupted()
        taught, norm = textbook.train_step(dit, loss, learning_rate, weight_decay, clip)
        value = loss["loss"].item()
        return io.NodeOutput(taught, value, norm, ui=ui.PreviewText(f"loss {value:.6g}, gradient norm {norm:.4g}"))
