"""Pictures of what a model does: filters, tokens as colours, the way from noise to picture, what each wire holds, content and place."""

from comfy_api.v0_0_2 import io, ui

from ..dit_impl.drawing import charts
from ..dit_impl.sampling.solvers import SOLVERS
from ..dit_impl.sampling.walk import last_step
from ..dit_impl.see import content_place, filters, report, responses, similarity, trajectory
from ..dit_impl.tokens.numbers import check_ranges
from .comfyui import host
from .wires import (
    STEP_MAX,
    DitSocket,
    HiddenSocket,
    TokensSocket,
    decoder,
    dit_input,
    language_input,
    map_sheet_shown,
    names_errors,
    sigmas_input,
    sound,
    step_input,
    tokens_input,
    tokens_or_hidden_input,
)

CATEGORY = "DiT Blocks/visualize"
TOKEN_MAX = 2 ** 20


def _query_input(tooltip: str):
    return io.Int.Input("query", default=0, min=0, max=TOKEN_MAX, tooltip=tooltip)


def _shown(cls, picture, text: str = "") -> dict:
    """A preview on the node: a picture, and text below it."""
    return ui.PreviewImage(picture, cls=cls).as_dict() | (ui.PreviewText(text).as_dict() if text else {})


class PatchFilters(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPatchFilters",
            display_name="Patch Filters",
            category=CATEGORY,
            description="Show the filters of the patch embedding as pictures, strongest first: each shows what one value of an embedded token "
                        "responds to. Optionally beside another model, such as the same one before training.",
            search_aliases=["patch embedding filters", "x_embedder weights", "visualize weights", "滤波器"],
            is_output_node=True,
            inputs=[
                dit_input(),
                io.Int.Input("patch_size", default=0, min=0, max=64, tooltip="Which of the model's patch embeddings. 0 is its own size."),
                io.Int.Input("count", default=96, min=1, max=4096, tooltip="How many filters: those with the largest norm."),
                DitSocket.Input("before", optional=True, tooltip="A second model with this patch size, shown on the left."),
                language_input(),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The filters, with norms and statistics."),
                io.Float.Output("low", display_name="low_frequency", tooltip="Energy at the lowest spatial frequency, relative to white noise: "
                                                                              "1 is like noise, p·p is flat."),
                io.Float.Output("rank", display_name="effective_rank", tooltip="How many independent directions the filters have."),
                io.String.Output("text", display_name="text", tooltip="The same as text."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, patch_size, count, before=None, language="English") -> io.NodeOutput:
        host.load(dit.modules() + (before.modules() if before is not None else []))
        weights = filters.filters_of(dit, patch_size, host.device())
        picture = filters.filters_picture(dit, patch_size, count, language, before=before, device=host.device())[None]
        spectrum, text = filters.spectrum_statistic(weights), filters.numbers(weights, language)
        return io.NodeOutput(picture, spectrum.low, spectrum.rank, text, ui=_shown(cls, picture, text))


class TokenPCA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTokenPCA",
            display_name="Token PCA",
            category=CATEGORY,
            description="Show the three directions in which tokens differ most as colours: dark to light, blue to yellow, green to red, with the "
                        "share of the variance that each explains. Beside it, the norm of each token. Similar colours mean similar tokens.",
            search_aliases=["principal components", "feature map", "token norm", "主成分"],
            is_output_node=True,
            inputs=[tokens_or_hidden_input("Tokens to look at: raw, or hidden states after any stage."), language_input()],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The picture with labels, one for each part of the batch, uncond first."),
                io.Image.Output("colours", display_name="colours", tooltip="The colours alone, with a pixel for each token."),
                io.Mask.Output("norms", display_name="norms", tooltip="The norm of each token. The largest is 1."),
                io.Float.Output("explained", display_name="explained", tooltip="Share of the variance that all three explain, 0 to 1."),
                io.String.Output("text", display_name="text", tooltip="Explained variance and norms as text."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, x, language="English") -> io.NodeOutput:
        seen = similarity.pca(x, language)
        norms = seen.norms / seen.norms.max().clamp_min(1e-12)
        return io.NodeOutput(seen.image, seen.colours, norms, seen.shares.sum().item(), seen.said, ui=map_sheet_shown(cls, seen.sheet, None))


class ResponseMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksResponseMaps",
            display_name="Response Maps",
            category=CATEGORY,
            description="Show single numbers of the tokens as maps over the grid: how far each token is from the mean, in standard deviations. "
                        "After Patch Embed they show what each row of the patch embedding answers to: areas, edges, directions.",
            search_aliases=["feature maps", "activations", "patch embedding", "channels", "响应图"],
            is_output_node=True,
            inputs=[
                tokens_or_hidden_input("Tokens to look at: raw, or hidden states after any stage. Of a batch [uncond, cond], only cond is shown."),
                io.Int.Input("count", default=12, min=1, max=256, tooltip="How many maps, evenly spread from the smoothest to the roughest."),
                language_input(),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The maps with labels."),
                io.Mask.Output("maps", display_name="maps", tooltip="The maps, with a value for each token: 0.5 is the mean, 0 and 1 are three "
                                                                    "standard deviations away."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, x, count, language="English") -> io.NodeOutput:
        seen = responses.response_maps(x, count, language)
        return io.NodeOutput(seen.sheet.image, (0.5 + seen.maps / (2 * responses.FARTHEST)).clamp(0, 1), ui=map_sheet_shown(cls, seen.sheet, None))


class TokenSimilarity(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTokenSimilarity",
            display_name="Token Similarity",
            category=CATEGORY,
            description="Show the cosine of every token to one token, as a map. On the node, the map follows the mouse; click to choose the token.",
            search_aliases=["cosine similarity", "token alike", "nearest patch", "余弦相似度"],
            is_output_node=True,
            inputs=[
                tokens_or_hidden_input("Tokens to compare: raw, or hidden states after any stage. Of a batch [uncond, cond], only cond is shown."),
                _query_input("Number of the token to compare with, in reading order from 0."),
                io.Boolean.Input("centred", default=False, tooltip="Subtract the mean token first. After a few blocks all tokens share it."),
                io.Image.Input("picture", optional=True, tooltip="The picture of the tokens, to show beside the map."),
                language_input(),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The map with labels. A frame marks the query."),
                io.Mask.Output("map", display_name="map", tooltip="The map, with a value for each token: 1 is similar, 0 is different or opposite."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, x, query, centred, picture=None, language="English") -> io.NodeOutput:
        seen, grid = similarity.token_similarity(x, query, centred, language, picture), similarity.grid_of(x)
        rows = ui.PreviewImage(charts.colours(seen.rows, -1.0, 1.0, signed=True)[None]).as_dict()["images"][0]
        facts = {"grid": [grid.t * grid.h, grid.w], "query": query, "rows": rows, "live": len(seen.rows) > 1 or grid.count == 1}
        return io.NodeOutput(seen.image, seen.map.clamp(0, 1), ui={"dit_blocks": (facts,)})


class Trajectory(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksTrajectory",
            display_name="Trajectory",
            category=CATEGORY,
            description="Denoise as DiT Denoise does, and show some of the steps: the noisy input x, the clean picture x0 that the model predicts, "
                        "and the velocity between them, all decoded.",
            search_aliases=["denoising steps", "x0 prediction", "velocity", "intermediate images", "轨迹"],
            is_output_node=True,
            inputs=[
                dit_input(),
                tokens_input("Tokens at the noise level of the first step, from Add Noise."),
                sigmas_input(),
                io.Conditioning.Input("positive", tooltip="What the picture shows."),
                io.Vae.Input("vae", tooltip="Decodes the latents."),
                io.Float.Input("cfg", default=3.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance, as in DiT Denoise."),
                io.Combo.Input("solver", options=list(SOLVERS), default="euler", tooltip="The rule for moving to the next noise level."),
                io.String.Input("at_steps", default="", tooltip='Which steps: "0,5,10-12" or "all". Empty: up to 4, evenly spread.'),
                io.Conditioning.Input("negative", optional=True, tooltip="What the picture should not show. Needed if cfg is not 1."),
                io.Int.Input("start_step", default=0, min=0, max=STEP_MAX, optional=True, tooltip="The first step to take."),
                io.Int.Input("end_step", default=STEP_MAX, min=1, max=STEP_MAX, optional=True,
                             tooltip="The step to stop before. A larger number than the schedule has means its end."),
                language_input(),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="A contact sheet with sigma below each picture."),
                io.Image.Output("x", display_name="x", tooltip="The model's input at each chosen step."),
                io.Image.Output("x0", display_name="x0", tooltip="The clean picture that the model predicts there."),
                io.Image.Output("velocity", display_name="velocity", tooltip="(x − x0)/σ."),
                TokensSocket.Output("denoised_tokens", display_name="tokens",
                                    tooltip="Tokens at the last noise level, the same as from DiT Denoise."),
            ],
        )

    @classmethod
    def validate_inputs(cls, at_steps=None):
        return sound(check_ranges, at_steps, "step")

    @classmethod
    @names_errors
    def execute(cls, dit, tokens, sigmas, positive, vae, cfg, solver, at_steps, negative=None, start_step=0, end_step=STEP_MAX,
                language="English") -> io.NodeOutput:
        dit.away_from(negative, cfg)  # refuse guidance without a negative before anything is loaded
        report_step = host.reporter(last_step(start_step, end_step, sigmas) - start_step)
        host.load(dit.modules(), *dit.room(tokens))
        host.throw_if_interrupted()
        chosen, end, _ = trajectory.moments(dit, tokens, sigmas, positive, negative, cfg, solver, at_steps, start_step, end_step,
                                            lambda done, wire, x0: report_step(done, dit.preview(wire, x0)))
        decoded = trajectory.decoded(chosen, decoder(vae))
        picture = trajectory.contact_sheet(chosen, decoded, sigmas, solver, cfg, language)
        return io.NodeOutput(picture, decoded["x"], decoded["x0"], decoded["velocity"], end, ui=_shown(cls, picture))


class PipelineReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPipelineReport",
            display_name="Pipeline Report",
            category=CATEGORY,
            description="Show what each wire holds: shapes, values, how much the VAE compresses, how many tokens there are with and without VAE "
                        "and patches, and what a step costs.",
            search_aliases=["shapes", "compression", "sequence length", "FLOPs", "报告"],
            is_output_node=True,
            inputs=[
                io.Image.Input("image", optional=True, tooltip="The picture."),
                io.Latent.Input("latent", optional=True, tooltip="The latent, from a VAE."),
                TokensSocket.Input("tokens", optional=True, tooltip="The tokens, from Patchify."),
                HiddenSocket.Input("hidden", optional=True, tooltip="The embedded tokens, from any stage."),
                dit_input(optional=True, tooltip="The model, for FLOPs and the size of a latent cell."),
                language_input(),
            ],
            outputs=[
                io.Image.Output("image_out", display_name="image", tooltip="The report as a picture."),
                io.String.Output("text", display_name="text", tooltip="The same as text."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, image=None, latent=None, tokens=None, hidden=None, dit=None, language="English") -> io.NodeOutput:
        said, shown = (report.collect(image, latent, tokens, hidden, dit, one) for one in (language, charts.drawable(language)))
        picture, text = report.drawing(shown, language), report.text(said, language)
        return io.NodeOutput(picture, text, ui=_shown(cls, picture, text))


class ContentAndPlace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksContentAndPlace",
            display_name="What vs Where",
            category=CATEGORY,
            description="Split embedded tokens into content (what a patch shows) and place (where it is). Shows norms and similarity maps of both, "
                        "and the picture that the model predicts if one of them is removed, shuffled, or taken from another picture.",
            search_aliases=["patch embedding", "position embedding", "ablate positions", "位置嵌入", "content against place", "content and position"],
            is_output_node=True,
            inputs=[
                dit_input(),
                tokens_input("Clean tokens of a picture."),
                sigmas_input(),
                step_input("The step whose noise level the picture gets, from 0."),
                io.Conditioning.Input("positive", tooltip="What the picture shows. With an empty prompt only the tokens count."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                _query_input("Number of the token to show, in reading order from 0."),
                io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance. 1 uses only positive."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Seed of the noise and of the shuffles."),
                io.Conditioning.Input("negative", optional=True, tooltip="What the picture should not show. Needed if cfg is not 1."),
                TokensSocket.Input("other", optional=True, tooltip="Clean tokens of another picture of the same size."),
                language_input(),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="Maps, norms and pictures with labels."),
                io.Image.Output("pictures", display_name="pictures", tooltip="The pictures alone: the noisy input, then x0: unchanged, without "
                                                                             "place, place shuffled, without content, content shuffled, and "
                                                                             "with content or place of the other picture."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, tokens, sigmas, step, positive, vae, query, cfg, seed, negative=None, other=None, language="English") -> io.NodeOutput:
        dit.away_from(negative, cfg)  # refuse guidance without a negative before anything is loaded
        host.load(dit.modules(), *dit.room(tokens))
        host.throw_if_interrupted()
        answer = content_place.take_and_replace(dit, tokens, sigmas, step, positive, negative, cfg, seed, query, other)
        decoded = content_place.pictures(answer, decoder(vae))
        sheet = content_place.drawing(answer, decoded, language)
        return io.NodeOutput(sheet.image, charts.batch(list(decoded.values())), ui=map_sheet_shown(cls, sheet, query))
