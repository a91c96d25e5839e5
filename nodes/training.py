"""Training nodes: a new model, a training set, and the training loop."""

from comfy_api.v0_0_2 import io, ui

from ..dit_impl.errors import TrainingError
from ..dit_impl.sources import new_dit
from ..dit_impl.training import run, sets
from ..dit_impl.training.default_model import things
from ..dit_impl.training.loop import PRECISIONS, SCHEDULERS, Settings
from ..dit_impl.training.mixes import read_mixes
from ..dit_impl.training.optimizers import OPTIMIZERS
from ..dit_impl.training.run import ADAPTER
from .comfyui import host
from .textbook import CATEGORY, loss_inputs, scope_input, times_input
from .wires import DitSocket, TrainingSetSocket, dit_input, language_input, names_errors, sound


class NewDiT(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksNewDiT",
            display_name="New DiT",
            category=CATEGORY,
            description="Make a diffusion transformer with random weights, to train: an MM-DiT for text, a DiT for classes or no conditioning. "
                        "Before training it predicts zeros.",
            search_aliases=["random init", "from scratch", "empty model"],
            inputs=[
                io.Int.Input("width", default=128, min=8, max=8192, step=8, tooltip="D, how many values a token has inside the model."),
                io.Int.Input("depth", default=4, min=1, max=128, tooltip="How many blocks."),
                io.Int.Input("heads", default=4, min=1, max=128, tooltip="Attention heads. The width must be a multiple of this."),
                io.String.Input("patch_sizes", default="2", tooltip='Its own first: "2", or several for a flexible model, "2, 4".'),
                io.Int.Input("latent_channels", default=0, min=0, max=1024, tooltip="C, the channels of the latent. 0 takes those of like."),
                io.Combo.Input("position", options=list(new_dit.POSITIONS), default="sincos",
                               tooltip="Position embedding: fixed 2-D sines and cosines, a learned table, or none."),
                io.Combo.Input("conditioning", options=list(new_dit.CONDITIONINGS), default="text",
                               tooltip="What it is conditioned on: text, a class, or nothing."),
                io.Int.Input("classes", default=10, min=1, max=100000, tooltip="How many classes, if it is conditioned on classes."),
                io.Combo.Input("prediction", options=list(new_dit.PREDICTIONS), default="velocity",
                               tooltip="What it predicts. velocity and x0 make a rectified flow, epsilon and v make a DDPM."),
                io.Int.Input("picture_size", default=256, min=16, max=8192, step=8, tooltip="Side of its pictures, in pixels."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Seed of the random weights."),
                DitSocket.Input("like", optional=True, tooltip="A model with the same latent space and previews."),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder for its prompts."),
                io.Int.Input("pixels_to_cell", default=0, min=0, max=64, optional=True,
                             tooltip="Pixels to a latent cell, each way. 1 is a model of pixels, without a VAE: with latent_channels 3 and Pixel Space. "
                                     "0 is that of like, else 8."),
            ],
            outputs=[DitSocket.Output("dit", display_name="dit", tooltip="The untrained model.")],
        )

    @classmethod
    def validate_inputs(cls, patch_sizes=None):
        return sound(new_dit.parse_sizes, patch_sizes)

    @classmethod
    @names_errors
    def execute(cls, width, depth, heads, patch_sizes, latent_channels, position, conditioning, classes, prediction, picture_size, seed,
                like=None, clip=None, pixels_to_cell=0) -> io.NodeOutput:
        widths = new_dit.text_widths(clip) if clip is not None and conditioning == "text" else None
        model = new_dit.new_dit(width, depth, heads, new_dit.parse_sizes(patch_sizes), latent_channels, position, conditioning, classes,
                                prediction, seed, like, widths, picture_size, host.free_ram(), pixels_to_cell)
        return io.NodeOutput(model, ui=ui.PreviewText(new_dit.describe(model)))


class TrainingSet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTrainingSet",
            display_name="Training Set",
            category=CATEGORY,
            description="Prepare pictures for training. They are encoded once by the VAE, which is not trained. Takes lists of images and captions "
                        "from Load Image-Text (from Folder), an image batch, or latents and conditionings from core's training nodes.",
            search_aliases=["dataset", "training data", "captions", "训练集"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", optional=True, tooltip="Pictures of any sizes: a list, a batch, or both."),
                io.String.Input("captions", optional=True, force_input=True,
                                tooltip="One for each picture, one for all, or one text with a line for each."),
                io.Vae.Input("vae", optional=True, tooltip="Encodes the pictures. It is not trained."),
                io.Clip.Input("clip", optional=True, tooltip="Encodes the captions."),
                io.Latent.Input("latents", optional=True, tooltip="Instead of images: latents from Make Training Dataset."),
                io.Conditioning.Input("conditioning", optional=True, tooltip="One for each latent."),
                io.String.Input("cache", default="", optional=True, tooltip="A name for a file in the output folder that keeps the latents, for large "
                                "sets. Empty keeps them in memory."),
            ],
            outputs=[TrainingSetSocket.Output("training_set", display_name="training_set", tooltip="For Train DiT.")],
        )

    @classmethod
    @names_errors
    def execute(cls, images=None, captions=None, vae=None, clip=None, latents=None, conditioning=None, cache=("",)) -> io.NodeOutput:
        vae, clip, cache = (one[0] if one else None for one in (vae, clip, cache))
        if (images is None) == (latents is None):
            raise ValueError("wire either images or latents")
        if images is not None:
            if vae is None:
                raise ValueError("images need a vae to encode them: wire one")
            if captions and len(captions) == 1 and "\n" in captions[0].strip():
                captions = captions[0].strip().split("\n")
            report = host.reporter(sum(len(batch) for batch in images))
            prepared = sets.from_pictures(images, vae, captions, clip, host.output_folder("sets", cache) if cache else None,
                                          lambda done, _: report(done))
        else:
            prepared = sets.from_latents(latents, conditioning, clip)
        return io.NodeOutput(prepared, ui=ui.PreviewText(str(prepared)))


class TrainingScenes(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTrainingScenes",
            display_name="Training Scenes",
            category=CATEGORY,
            description="Draw new pictures with captions, of the kind that the default model was trained on: coloured shapes at nine places on "
                        "plain backgrounds, and small pictures of things if their font is installed.",
            search_aliases=["procedural dataset", "toy dataset", "shapes", "emoji"],
            inputs=[
                io.Vae.Input("vae", tooltip="Encodes the pictures. It is not trained."),
                io.Int.Input("count", default=256, min=1, max=100000, tooltip="How many pictures."),
                io.Int.Input("size", default=128, min=32, max=1024, step=8, tooltip="Side of the pictures in pixels."),
                io.Int.Input("shapes", default=1, min=1, max=2, tooltip="The largest number of shapes or things in a picture."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Seed of the pictures."),
                io.Clip.Input("clip", optional=True, tooltip="Encodes the captions. Leave it out for a model without text."),
                io.Int.Input("zoom", default=1, min=1, max=4, optional=True,
                             tooltip="Above 1: one shape in the middle, enlarged by this factor. Small models learn it sooner."),
                io.Combo.Input("kinds", options=list(sets.KINDS), default="shapes", optional=True,
                               tooltip="Shapes, pictures of things (needs the font fonts-noto-color-emoji), or both. With things, backgrounds may be "
                                       "gradients."),
            ],
            outputs=[
                TrainingSetSocket.Output("training_set", display_name="training_set", tooltip="For Train DiT."),
                io.Image.Output("images", display_name="images", tooltip="The first pictures, at most 16."),
                io.String.Output("captions", display_name="captions", is_output_list=True, tooltip="The captions of these pictures, as a list."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, vae, count, size, shapes, seed, clip=None, zoom=1, kinds="shapes") -> io.NodeOutput:
        report = host.reporter(count)
        prepared, pictures = sets.procedural(vae, clip, count, size, seed, shapes, zoom, kinds, lambda done, _: report(done), host.free_ram())
        said = f"{prepared}; {things.INSTALL}" if kinds != "shapes" and not things.font_path() else str(prepared)
        return io.NodeOutput(prepared, pictures, list(prepared.captions[:len(pictures)]), ui=ui.PreviewText(said))


class Train(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTrain",
            display_name="Train DiT",
            category=CATEGORY,
            description="Train a model to denoise: all of it, only its patch embedding and head, or a small adapter for a new patch size. The VAE "
                        "is not trained. If you cancel, the state is kept, and resume continues from it.",
            search_aliases=["trainer", "fine-tune", "training loop", "patch size adapter", "训练"],
            is_output_node=True,
            inputs=[
                dit_input(tooltip="The model to train. It is not changed: a copy learns."),
                TrainingSetSocket.Input("training_set", tooltip="From Training Set or Training Scenes."),
                io.String.Input("name", default="my_dit", tooltip="Folder for state and log, inside output/dit_blocks/training."),
                scope_input(ADAPTER),
                io.Int.Input("steps", default=500, min=1, max=10_000_000, tooltip="Steps of the optimizer in all, including those before a resume."),
                io.Int.Input("batch", default=8, min=1, max=4096, tooltip="Pictures for each step."),
                io.Float.Input("learning_rate", default=1e-3, min=0.0, max=10.0, step=1e-5, round=1e-8, tooltip="The highest learning rate."),
                io.Combo.Input("scheduler", options=list(SCHEDULERS), default="cosine", tooltip="How the learning rate changes over the steps."),
                io.Int.Input("warmup", default=20, min=0, max=1_000_000, tooltip="Steps over which the learning rate rises from 0."),
                io.Combo.Input("precision", options=list(PRECISIONS), default="float32",
                               tooltip="Number type of the computation. Weights stay float32."),
                io.Int.Input("accumulate", default=1, min=1, max=4096, tooltip="Batches for each step: a larger step in the same memory."),
                io.Boolean.Input("checkpointing", default=False, tooltip="Save memory: blocks run twice instead of keeping their results."),
                io.Float.Input("ema", default=0.0, min=0.0, max=0.99999, step=0.001, round=1e-5,
                               tooltip="Decay of the running average of weights, which becomes the result. 0 gives the last weights."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFF, tooltip="Seed of order, noise and times."),
                io.Boolean.Input("resume", default=False, tooltip="Continue from the saved state with this name."),
                io.Float.Input("drop", default=0.1, min=0.0, max=0.9, step=0.05, round=0.001,
                               tooltip="Share of captions left out in training. Guidance needs this."),
                io.Int.Input("validation", default=0, min=0, max=100000,
                             tooltip="How many pictures, from the end of the set, are kept for a validation loss and never trained on."),
                *loss_inputs(), times_input(),
                io.Int.Input("patch_size", default=16, min=1, max=64, tooltip="For an adapter: its new patch size."),
                io.Int.Input("rank", default=8, min=1, max=512, tooltip="For an adapter: its LoRA rank."),
                io.Int.Input("sample_every", default=0, min=0, max=1_000_000, tooltip="How many steps between samples. 0 draws none."),
                io.Conditioning.Input("positive", optional=True, tooltip="What the samples show."),
                io.Vae.Input("vae", optional=True, tooltip="Decodes the samples. Without it they are rough."),
                language_input(),
                io.Combo.Input("optimizer", options=list(OPTIMIZERS), default="adamw", optional=True,
                               tooltip="adamw for all weights, or muon for the matrices of attention, MLPs, patch embedding and head: fewer, "
                                       "slower steps."),
                io.String.Input("mix", default="", optional=True, tooltip='Patch sizes of one sequence, coarse to fine, for a quarter of the batches: "4-2", or '
                                'several, "4-2, 8-4-2". Empty is one size in each.'),
            ],
            outputs=[
                DitSocket.Output("taught", display_name="dit", tooltip="The trained model, or the input model with its new adapter."),
                io.Custom("LOSS_MAP").Output("loss_map", display_name="loss_map", tooltip="For core's Plot Loss Graph."),
                io.Image.Output("filters", display_name="filters", tooltip="The patch embedding's filters as they change: a batch of pictures."),
                io.Image.Output("samples", display_name="samples", tooltip="The samples in order. The filters if there are no samples."),
                io.Image.Output("chart", display_name="chart", tooltip="Loss curve, last filters and last sample."),
                io.String.Output("log", display_name="log", tooltip="Path of the log, a CSV file with a line for each step."),
            ],
        )

    @classmethod
    def validate_inputs(cls, mix=None):
        return sound(read_mixes, mix)

    @classmethod
    @names_errors
    def execute(cls, dit, training_set, name, scope, steps, batch, learning_rate, scheduler, warmup, precision, accumulate, checkpointing, ema,
                seed, resume, drop, validation, target, weighting, times, patch_size, rank, sample_every, positive=None, vae=None,
                language="English", optimizer="adamw", mix="") -> io.NodeOutput:
        folder = host.output_folder("training", name)
        settings = Settings(steps, batch, learning_rate, scheduler, warmup, precision, accumulate, checkpointing, ema, seed, drop, validation,
                            optimizer=optimizer, mix=mix)
        report = host.reporter(steps)
        host.load(dit.modules())
        sample = None
        if sample_every:
            if positive is None and dit.unconditional is None:
                raise TrainingError("samples need a positive conditioning: wire one, or set sample_every to 0")
            size = training_set.sizes.most_common(1)[0][0]
            sample = run.drawn(positive or dit.unconditional, size, vae and vae.decode, seed)
        if scope == ADAPTER:
            done = run.run_adapter(dit, training_set, settings, patch_size, rank, times, folder, resume, sample, sample_every, report,
                                   language=language)
        else:
            done = run.run(dit, training_set, settings, scope, target, weighting, times, folder, resume, sample, sample_every, report,
                           language=language)
        said = f"{len(done.log.losses)} steps in {done.log.seconds:.0f} s, loss {done.log.losses[0]:.4g} → {done.log.losses[-1]:.4g}"
        if done.log.validation:
            said += f"; validation {done.log.validation[0][1]:.4g} → {done.log.validation[-1][1]:.4g}"
        samples = done.filters if done.samples is None else done.samples
        shown = {**ui.PreviewImage(done.picture[None]).as_dict(), **ui.PreviewText(f"{said}\n{done.log.unsaved or f'state and log: {folder}'}").as_dict()}
        return io.NodeOutput(done.dit, {"loss": done.log.losses}, done.filters, samples, done.picture[None], str(folder / run.TABLE), ui=shown)
