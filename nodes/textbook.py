"""One training step as wires: what learns, noise at a time, the loss, and the step back."""

from comfy_api.v0_0_2 import io, ui

from ..dit_impl.training import textbook
from ..dit_impl.training.losses import TARGETS, TIMES, WEIGHTINGS
from ..dit_impl.training.objectives import SCOPES
from .comfyui import host
from .wires import DitSocket, LossSocket, TokensSocket, dit_input, keeps_gradients, names_errors, tokens_input

CATEGORY = "DiT Blocks/train"


def scope_input(*more: str):
    return io.Combo.Input("scope", options=[*SCOPES, *more], default=SCOPES[0],
                          tooltip="Which parameters learn: all of them, or the patch embedding and the head alone" +
                          (", or an adapter for a patch size that the model has not" if more else "") + ".")


def loss_inputs():
    return [
        io.Combo.Input("target", options=list(TARGETS), default="own", tooltip="What the error is measured in: what the model itself answers, or "
                       "the velocity, the noise ε, the clean tokens x0, or v. The same error, times a factor of the noise level."),
        io.Combo.Input("weighting", options=list(WEIGHTINGS), default="none", tooltip="How noise levels count: all alike, or as SD3 tried, "
                       "1/σ² or cosmap. Rectified flows only."),
    ]


def times_input():
    return io.Combo.Input("times", options=list(TIMES), default="logit_normal",
                          tooltip="How random times are drawn for a rectified flow: SD3's logit-normal, uniform, or mode. A DDPM's are uniform.")


class Trainable(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTrainable",
            display_name="Trainable DiT",
            category=CATEGORY,
            description="A copy of the model whose parameters learn: the stage nodes record what they compute with it, and Train Step goes back "
                        "along the wires. The model that came in stays as it was.",
            search_aliases=["requires_grad", "autograd", "unfreeze"],
            inputs=[dit_input(tooltip="From New DiT, or any model of the pack's own."), scope_input()],
            outputs=[DitSocket.Output("trainable", display_name="dit", tooltip="The copy that learns.")],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, scope) -> io.NodeOutput:
        made = textbook.learner(dit, scope)
        count = sum(parameter.numel() for parameter in made.trained.values())
        whole = sum(parameter.numel() for parameter in made.model.parameters())
        return io.NodeOutput(made, ui=ui.PreviewText(f"{count:,} of {whole:,} parameters learn"))


class NoiseAtTime(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksNoiseAtTime",
            display_name="Noise at a Time",
            category=CATEGORY,
            description="Clean tokens with noise at one time, random or chosen: what a model is shown in training. Rectified flow: x = (1 − σ)·x0 + "
                        "σ·ε. DDPM: z_t = √ᾱ_t·z0 + √(1−ᾱ_t)·ε.",
            search_aliases=["forward process", "q_sample", "add noise", "random timestep"],
            inputs=[
                dit_input(),
                tokens_input("Clean tokens of training pictures, from Patchify."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                             tooltip="Of the noise, and of the time where it is random."),
                io.Float.Input("time", default=-1.0, min=-1.0, max=1.0, step=0.01, round=0.001,
                               tooltip="0 is data, 1 is noise; -1 draws it, which is what training does."),
                times_input(),
            ],
            outputs=[
                TokensSocket.Output("noisy", display_name="tokens", tooltip="The tokens with noise; they remember what they were."),
                TokensSocket.Output("noise", display_name="noise", tooltip="The noise ε alone."),
                io.Sigmas.Output("sigmas", display_name="sigmas", tooltip="The noise level, then 0: for Condition, with step 0."),
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
            description="How wrong the prediction is: the mean squared error to what the model should have answered. The one task that teaches "
                        "patch embedding, blocks and head together.",
            search_aliases=["MSE", "denoising loss", "training loss", "损失"],
            is_output_node=True,
            inputs=[dit_input(tooltip="The model that the prediction comes from."),
                    TokensSocket.Input("prediction", tooltip="From Final Layer, without Guidance; its tokens from Noise at a Time."), *loss_inputs()],
            outputs=[
                LossSocket.Output("loss", display_name="loss", tooltip="For Train Step."),
                io.Float.Output("value", display_name="value", tooltip="The loss as a number."),
                io.Image.Output("map", display_name="map", tooltip="The error of each token, white where it is largest."),
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
            description="Back along the wires from the loss to every parameter that learns, and one step of AdamW. The model that comes out has "
                        "learnt; the one that came in is left as it was.",
            search_aliases=["backward", "optimizer step", "AdamW", "gradient descent"],
            is_output_node=True,
            inputs=[
                dit_input(tooltip="The same Trainable DiT that the loss comes from."),
                LossSocket.Input("loss", tooltip="From Diffusion Loss."),
                io.Float.Input("learning_rate", default=1e-3, min=0.0, max=10.0, step=1e-5, round=1e-8, tooltip="How far a step goes."),
                io.Float.Input("weight_decay", default=0.01, min=0.0, max=1.0, step=0.001, round=1e-6, tooltip="How fast weights fade."),
                io.Float.Input("clip", default=1.0, min=0.0, max=1000.0, step=0.1, round=0.001,
                               tooltip="A gradient longer than this is brought down to it."),
            ],
            outputs=[
                DitSocket.Output("taught", display_name="dit", tooltip="The model after the step; it learns on, with AdamW's memory."),
                io.Float.Output("value", display_name="loss", tooltip="The loss before the step."),
                io.Float.Output("norm", display_name="gradient_norm", tooltip="How long the gradient was, before it was clipped."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, loss, learning_rate, weight_decay, clip) -> io.NodeOutput:
        host.throw_if_interrupted()
        taught, norm = textbook.train_step(dit, loss, learning_rate, weight_decay, clip)
        value = loss["loss"].item()
        return io.NodeOutput(taught, value, norm, ui=ui.PreviewText(f"loss {value:.6g}, gradient norm {norm:.4g}"))
