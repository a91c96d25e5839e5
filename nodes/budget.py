"""What a step costs at each patch size, in numbers and in pictures."""

from dataclasses import replace

from comfy_api.v0_0_2 import io, ui

from ..dit_impl.cost import arithmetic, pictures
from ..dit_impl.drawing import charts
from ..dit_impl.sampling.solvers import SOLVERS
from ..dit_impl.see import compare
from ..dit_impl.see.ways import parse_ways
from .comfyui import host
from .patch_schedule import CATEGORY
from .wires import decoder, dit_input, language_input, names_errors, sigmas_input, sound


class Budget(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksBudget",
            display_name="Patch Budget",
            category=CATEGORY,
            description="What a step costs at a patch size: tokens, FLOPs and memory, with and without patches. Only arithmetic: no model runs.",
            search_aliases=["FLOPs", "tokens", "cost", "why patches", "budget", "开销"],
            is_output_node=True,
            inputs=[
                io.Combo.Input("preset", options=list(arithmetic.PRESETS), default="SD3-medium", tooltip="A known model. Not used if dit is wired."),
                io.Int.Input("width", default=1024, min=8, max=16384, step=8, tooltip="Of the picture, in pixels."),
                io.Int.Input("height", default=1024, min=8, max=16384, step=8, tooltip="Of the picture, in pixels."),
                io.Int.Input("patch_size", default=0, min=0, max=256, tooltip="0 is the model's own."),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Pictures at once."),
                io.Combo.Input("unit", options=["FLOPs", "MACs"], default="FLOPs",
                               tooltip="A multiply-add (MAC) is two FLOPs. The DiT paper calls multiply-adds Gflops."),
                dit_input(optional=True, tooltip="The default model, a SD3 or DiT file, or any MODEL: its own forward is counted, without running it."),
                io.Int.Input("vae_factor", default=0, min=0, max=64, optional=True,
                             tooltip="How many pixels wide and high a latent cell is. 0 is the model's own."),
                io.Int.Input("text_tokens", default=-1, min=-1, max=4096, optional=True,
                             tooltip="Length of the prompt in tokens. -1 is what is usual for the model."),
                language_input(),
                io.Int.Input("frames", default=1, min=1, max=16384, optional=True,
                             tooltip="How many pictures a film has. A video model packs several into a frame of its latent: Wan 4, after the first."),
                io.Conditioning.Input("positive", optional=True, tooltip="A prompt, with all that rides on it, such as reference pictures. A MODEL is "
                                                                         "then counted with it, and text_tokens is not used."),
            ],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="The table."),
                io.Image.Output("chart", display_name="chart", tooltip="A bar for each row, on a logarithmic axis."),
                io.Int.Output("count", display_name="tokens", tooltip="Tokens of a picture."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, preset, width, height, patch_size, batch_size, unit, dit=None, vae_factor=0, text_tokens=-1,
                language="English", frames=1, positive=None) -> io.NodeOutput:
        text = None if text_tokens < 0 else text_tokens
        if dit is not None:
            shape = arithmetic.architecture(dit, dit.latent_frames(frames), positive, text)
        elif frames == 1:
            shape = arithmetic.PRESETS[preset]
        else:
            raise ValueError(f"{preset} draws single pictures, not films: frames is 1, not {frames}")
        if vae_factor:
            shape = replace(shape, downscale=vae_factor)
        how = {"batch": batch_size, "text": text, "pictures": frames}
        rows, shown = (pictures.why_patches(shape, width, height, patch_size, one, **how) for one in (language, charts.drawable(language)))
        title = charts.in_language({"en": f"{shape.name}, {width}×{height} pixels", "zh": f"{shape.name}，{width}×{height} 像素"}, language)
        words = f"{title}\n{pictures.table(rows, unit, language)}\n\n{pictures.by_stage(rows[0][1], unit, language)}"
        return io.NodeOutput(words, pictures.chart(shown, unit, language), rows[0][1].tokens, ui=ui.PreviewText(words))


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksCompare",
            display_name="Compare Patch Sizes",
            category=CATEGORY,
            description="Draw one prompt and noise in several ways to spend less: patch sizes, regions, fewer steps, a step cache, blocks left out. "
                        "Below each picture: time, tokens, FLOPs, memory and the difference from the full run; beside it, fewer steps at the same time.",
            search_aliases=["XY plot", "patch size", "benchmark", "step cache", "skip blocks", "faster"],
            inputs=[
                dit_input(),
                io.Latent.Input("latent", tooltip="An empty latent, or a picture to start from."),
                sigmas_input(),
                io.Conditioning.Input("positive", tooltip="What the picture shows."),
                io.Vae.Input("vae", tooltip="Decodes each picture."),
                io.String.Input("rows", default="2\n4\n4 until 50%, then 2\n4 by resample", multiline=True,
                                tooltip="A line for each picture: a patch size or a schedule, and 'by' with a method if it is not auto; '8 steps', "
                                        "'regions 25%', 'cache 0.1', 'skip 3-4'; or several of them with +. All are compared with the full run."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip="Seed of the noise."),
                io.Float.Input("cfg", default=3.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance, as in DiT Denoise."),
                io.Combo.Input("solver", options=list(SOLVERS), default="euler", tooltip="The rule for moving to the next noise level."),
                io.Conditioning.Input("negative", optional=True, tooltip="What the picture should not show. Needed if cfg is not 1."),
                language_input(),
                io.Boolean.Input("controls", default=True, optional=True, tooltip="Beside each way that is faster, draw fewer steps that take the "
                                 "same time: what it has to beat."),
            ],
            outputs=[
                io.Image.Output("sheet", display_name="sheet", tooltip="All pictures with labels."),
                io.String.Output("text", display_name="text", tooltip="The labels."),
            ],
        )

    @classmethod
    def validate_inputs(cls, rows=None):
        return sound(parse_ways, rows)

    @classmethod
    @names_errors
    def execute(cls, dit, latent, sigmas, positive, vae, rows, seed, cfg, solver, negative=None, language="English", controls=True) -> io.NodeOutput:
        dit.away_from(negative, cfg)  # refuse guidance without a negative before anything is loaded
        ways = parse_ways(rows)
        host.load(dit.modules(), *dit.room(dit.fold(latent)))
        steps = sum(way.steps or len(sigmas) - 1 for way in ways)
        runs = compare.compare(dit, vae, decoder(vae), latent, ways, sigmas, seed, positive, negative, cfg, solver,
                               host.reporter(steps * (2 if controls else 1)), controls)
        words = compare.in_words(runs, language)
        return io.NodeOutput(compare.sheet(runs, language), words, ui=ui.PreviewText(words))
