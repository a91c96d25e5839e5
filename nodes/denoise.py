"""Noise levels, noise, and the steps that remove it."""

from comfy_api.v0_0_2 import io, ui
from comfy_execution.graph_utils import ExecutionBlocker
import torch

from ..dit_impl.cost.answers import shape_of
from ..dit_impl.handle import patch_schedule
from ..dit_impl.handle.patch_schedule import PatchSchedule, Row
from ..dit_impl.handle.step_cache import told_between
from ..dit_impl.sampling.level import astray, is_walked
from ..dit_impl.sampling.schedules import SCHEDULERS
from ..dit_impl.sampling.solvers import SOLVERS
from ..dit_impl.sampling.walk import last_step
from ..dit_impl.see.cache_hits import by_step, in_words
from ..dit_impl.step.by_block import by_block
from ..dit_impl.tokens.wire import check_finite
from .comfyui import host
from .wires import (
    STEP_MAX,
    PatchScheduleSocket,
    TokensSocket,
    dit_input,
    follows,
    names_errors,
    patch_method_input,
    sigmas_input,
    sound,
    step_input,
    tokens_input,
)

FRAMES = 64  # of a trajectory shown on the node, at most


class Schedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksSchedule",
            display_name="Sigma Schedule",
            category="DiT Blocks/denoise",
            description="The noise levels of the steps, from the model's highest down to 0.",
            search_aliases=["scheduler", "sigmas", "BasicScheduler", "noise schedule", "噪声调度", "调度器"],
            inputs=[
                dit_input(),
                io.Int.Input("steps", default=20, min=1, max=STEP_MAX, tooltip="How many steps."),
                io.Combo.Input("scheduler", options=list(SCHEDULERS), default="simple",
                               tooltip="How the levels are spaced: KSampler's nine, and linear. ddim_uniform and beta may have some steps more or "
                                       "less."),
                io.Float.Input("denoise", default=1.0, min=0.01, max=1.0, step=0.01,
                               tooltip="Below 1, only the last part of a longer schedule: to change a picture instead of making a new one."),
                io.Boolean.Input("skip_penultimate", default=False, optional=True,
                                 tooltip="Leave out the last level above 0 of a schedule with one step more, as KSampler does for uni_pc and dpm_2."),
            ],
            outputs=[io.Sigmas.Output("sigmas", display_name="sigmas", tooltip="The noise levels, steps + 1 of them, from high to low.")],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, steps, scheduler, denoise, skip_penultimate=False) -> io.NodeOutput:
        return io.NodeOutput(dit.schedule(steps, scheduler, denoise, skip_penultimate))


class AddNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksAddNoise",
            display_name="Add Noise (DiT)",
            category="DiT Blocks/denoise",
            description="Add noise to clean tokens, for the noise level of a step. At every patch size it is the noise that KSampler uses for "
                        "the same seed.",
            search_aliases=["noise", "random noise", "加噪"],
            inputs=[
                dit_input(),
                tokens_input("Clean tokens. To start from pure noise, use tokens of an empty latent."),
                sigmas_input(),
                step_input("The step whose noise level the tokens get. 0 is the first."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                             tooltip="Which noise."),
            ],
            outputs=[
                TokensSocket.Output("noisy", display_name="tokens", tooltip="The tokens with noise."),
                TokensSocket.Output("noise", display_name="noise", tooltip="The noise alone."),
            ],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, tokens, sigmas, step, seed) -> io.NodeOutput:
        dit.check_space(tokens)
        return io.NodeOutput(*dit.add_noise(tokens, sigmas, step, seed))


def _denoise_inputs(*steps):
    return [
        dit_input(),
        tokens_input("Tokens at the noise level of the first step, from Add Noise or an earlier step."),
        sigmas_input(),
        *steps,
        io.Conditioning.Input("positive", tooltip="What the picture shows."),
        io.Float.Input("cfg", default=3.0, min=0.0, max=100.0, step=0.1, round=0.01,
                       tooltip="Guidance: how strongly to move from negative towards positive. 1 does not use negative."),
        io.Combo.Input("solver", options=list(SOLVERS), default="euler",
                       tooltip="The rule for moving to the next noise level. heun calls the model twice for each step. ddim is for DDPM models. "
                               "euler_ancestral and dpmpp_2m_sde add noise by Add Noise's seed."),
        io.Conditioning.Input("negative", optional=True, tooltip="What the picture should not show. Needed if cfg is not 1, except for a "
                              "class-conditional DiT, which has a class for it."),
        patch_method_input(),
    ]


def _denoise_outputs():
    return [
        TokensSocket.Output("denoised_tokens", display_name="tokens", tooltip="Tokens at the next noise level."),
        TokensSocket.Output("denoised", display_name="denoised", tooltip="x0: the clean tokens that the model predicts at the last step."),
    ]


def _run(dit, tokens, sigmas, positive, negative, cfg, solver, start_step, end_step, plan, seen=lambda *_: None, quick_look=False,
         before=None):
    """→ tokens, x0, a note on approximate patch sizes. seen(done, wire, x0) is called after every step, before(step, wire, cfg) before it."""
    dit.away_from(negative, cfg)  # refuse guidance without a negative before anything is loaded
    report = host.reporter(last_step(start_step, end_step, sigmas) - start_step)

    def load(model):
        host.load(model.modules(), *model.room(tokens))
        host.throw_if_interrupted()
    if quick_look:
        load(dit)
        report(0, patch_schedule.quick_look(dit, tokens, sigmas, positive, negative, cfg, start_step, end_step))

    def tell(done, wire, x0):
        seen(done, wire, x0)
        report(done, dit.preview(wire, x0))
    done = patch_schedule.denoise_by_schedule(dit, tokens, plan, sigmas, positive, negative, cfg, solver, start_step, end_step, tell, before, load)
    check_finite(done[0]["tokens"], "model's answer")
    return done


def _remarks(approximate: str, *conditionings, ignored_cfg: float = 0, hits: list[float] = ()) -> tuple[str, ...]:
    """Notes on a run for the user: approximate patch sizes, words that the text encoder does not know, a cfg that a GUIDER replaced, what
    Step Cache left out."""
    ignored = [word for one in conditionings for _, said in one or () for word in said.get("ignored", ())]
    return tuple(filter(None, (approximate, hits and f"Step Cache: {in_words(hits)}", ignored and f"words ignored, because the text encoder does not know them: {', '.join(ignored)}",
                               ignored_cfg and f"cfg {ignored_cfg:g} is not used: the guider has its own")))


def _one_size(tokens, patch_method) -> PatchSchedule:
    return PatchSchedule((Row(tokens["patch_size"]),), patch_method)


def _given(dit, tokens, sigmas, start_step, end_step, positive, negative, plan, capture_blocks, sampler, guider):
    """The dit as one that this SAMPLER, this GUIDER or both sample. Raises ValueError where they can't."""
    what = "sampler" if sampler is not None else "guider"
    if host.management is None:
        raise ValueError(f"{what} is for ComfyUI's own samplers and guiders: run this workflow in ComfyUI, or leave {what} unwired")
    if capture_blocks:
        raise ValueError(f"capture_blocks reads single steps from the inside, without the {what}: turn it off, or leave {what} unwired")
    if plan.names_other:
        raise ValueError(f"the {what} goes with one model, and the patch_schedule says 'of other': leave {what} unwired, or 'of other' out")
    sizes = plan.stretches(sigmas, start_step, last_step(start_step, end_step, sigmas))
    if sampler is not None and len(sizes) > 1:
        raise ValueError(f"a sampler takes its steps without a break, and the patch_schedule changes the size from {sizes[0][0]} to {sizes[1][0]} "
                         "on the way: use Patch Schedule (MODEL) before DiT from MODEL, or leave sampler unwired")
    from .comfyui.any_sampler import sampled_by  # there is no SAMPLER outside ComfyUI
    return sampled_by(dit, sampler, guider, positive, negative)


class DenoiseStep(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksDenoiseStep",
            display_name="DiT Denoise Step",
            category="DiT Blocks/denoise",
            description="One denoising step in token space: the model predicts the clean tokens, and the solver moves to the next noise level.",
            search_aliases=["KSampler step", "KSampler steps", "one step"],
            inputs=_denoise_inputs(step_input("Which step of the schedule, from 0.")),
            outputs=_denoise_outputs(),
        )

    @classmethod
    @names_errors
    def execute(cls, dit, tokens, sigmas, step, positive, cfg, solver, negative=None, patch_method="auto") -> io.NodeOutput:
        reason = step < len(sigmas) - 1 and astray(tokens, sigmas, step)
        if reason:  # what the model answers when it is told another noise level is worth a look; tokens made with it would be spoilt
            tokens = dit.standing(tokens, sigmas[step], is_walked(tokens))
        done, x0, approximate = _run(dit, tokens, sigmas, positive, negative, cfg, solver, step, step + 1, _one_size(tokens, patch_method))
        hits = by_step(told_between(tokens, done), sigmas)
        remarks = (*_remarks(approximate, positive, negative, hits=hits), *([f"{reason}, or use denoised alone"] if reason else ()))
        if reason:  # a node that uses `tokens` gets an error; nodes that use `denoised` run as usual
            done = ExecutionBlocker(f"DiT Denoise Step: {reason}, or use denoised alone")
        return io.NodeOutput(done, x0, ui={"text": remarks})


class Denoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksDenoise",
            display_name="DiT Denoise",
            category="DiT Blocks/denoise",
            description="All steps of a schedule, or some in a row, in token space. The same as a row of DiT Denoise Step nodes.",
            search_aliases=["KSampler", "sampler"],
            inputs=_denoise_inputs(
                io.Int.Input("start_step", default=0, min=0, max=STEP_MAX, tooltip="The first step to take."),
                io.Int.Input("end_step", default=STEP_MAX, min=1, max=STEP_MAX,
                             tooltip="The step to stop before; anything past the schedule means its end."),
            ) + [PatchScheduleSocket.Input("patch_schedule", optional=True, tooltip="A patch size for each step, in place of the tokens' own. "
                                         "Its patch_method is used, not this node's."),
                 io.Boolean.Input("quick_look", default=False, optional=True,
                                  tooltip="First show a rough picture, made with the coarsest patches in 4 steps."),
                 io.Boolean.Input("capture_blocks", default=False, optional=True,
                                  tooltip="Also compute x0 after every block, for a second slider on the node. Every step then runs twice."),
                 io.Sampler.Input("sampler", optional=True, tooltip="From KSamplerSelect or another sampler node of ComfyUI. It takes all the "
                                  "steps, in place of solver."),
                 io.Guider.Input("guider", optional=True, tooltip="From CFGGuider or another guider of ComfyUI, over the same model. Its prompts "
                                 "and its cfg count, not this node's.")],
            outputs=[*_denoise_outputs(), io.Image.Output("trajectory", display_name="trajectory", tooltip="x0 after each step as a small "
                                                          "picture, with a pixel for each latent cell. The slider on the node shows them."),
                     io.Image.Output("by_block", display_name="by_block", tooltip="With capture_blocks: x0 after each block, step by step. "
                                                                                  "Without: the same as trajectory.")],
            has_intermediate_output=True,  # so that the slider also fills when the result comes from the cache
        )

    @classmethod
    def validate_inputs(cls, start_step=None, end_step=None):
        return sound(follows, start_step, end_step)

    @classmethod
    @names_errors
    def execute(cls, dit, tokens, sigmas, start_step, end_step, positive, cfg, solver, negative=None, patch_method="auto",
                patch_schedule=None, quick_look=False, capture_blocks=False, sampler=None, guider=None) -> io.NodeOutput:
        pictures, blocks = {}, []

        def capture(step, wire, guidance):
            blocks.append(by_block(dit, wire, sigmas, step, positive, negative, guidance))
        plan = patch_schedule or _one_size(tokens, patch_method)
        if capture_blocks and plan.names_other:
            raise ValueError("capture_blocks shows the blocks of one model, and the patch_schedule says 'of other': leave one of the two out")
        if capture_blocks and (mixed := next((str(row.sizes) for row in plan.rows if row.splits), None)):
            raise ValueError("capture_blocks shows the blocks of one patch size, and a step of the patch_schedule has several "
                             f"({mixed}): leave one of the two out")
        facts = {"size": tokens["size"][-2:], "shape": shape_of(dit, tokens, positive), "native": dit.patch_sizes, "batch": len(tokens["tokens"])}
        if plan.other is not None:
            facts["other"] = shape_of(plan.other, tokens, positive)
        if sampler is not None or guider is not None:
            dit = _given(dit, tokens, sigmas, start_step, end_step, positive, negative, plan, capture_blocks, sampler, guider)
        done, x0, approximate = _run(dit, tokens, sigmas, positive, negative, cfg, solver, start_step, end_step, plan,
                                     lambda done, wire, x0: pictures.update({done: dit.picture(wire, x0)}), quick_look,
                                     capture if capture_blocks else None)
        pictures = pictures or {1: dit.picture(x0, x0["tokens"])}  # a SAMPLER may say nothing on its way
        trajectory = torch.stack(list(pictures.values()))
        places = torch.linspace(0, len(pictures) - 1, min(len(pictures), FRAMES)).round().long()
        steps = [start_step - 1 + list(pictures)[place] for place in places]
        facts |= {"steps": steps, "sigmas": sigmas[steps].tolist(), "schedule": len(sigmas) - 1, "blocks": list(blocks[0]) if blocks else []}
        inside = torch.stack([torch.stack(list(step.values())) for step in blocks]) if blocks else trajectory[:, None]
        facts["trajectory"] = _strip(inside[places])
        hits = by_step(told_between(tokens, done), sigmas)
        if hits:
            facts["hits"] = hits
        facts["remarks"] = remarks = _remarks(approximate, positive, negative, ignored_cfg=guider is not None and cfg != guider.cfg and cfg, hits=hits)
        shown = {"text": remarks, "dit_blocks": (facts,)}  # every item of a list needs the same keys
        return io.NodeOutput(done, x0, trajectory, inside.flatten(0, 1), ui=shown)


def _strip(pictures: torch.Tensor) -> dict:
    """Save pictures [frames, rows, H, W, 3] side by side in one temporary file, each at most 128 pixels wide: → its place."""
    frames, rows, height, width, _ = pictures.shape
    wide = width / 128
    if wide > 1:
        height, width = (max(1, round(length / wide)) for length in (height, width))
        small = torch.nn.functional.interpolate(pictures.flatten(0, 1).movedim(-1, 1), size=(height, width), mode="area")
        pictures = small.movedim(1, -1).unflatten(0, (frames, rows))
    strip = pictures.permute(1, 2, 0, 3, 4).reshape(1, rows * height, frames * width, 3)
    return ui.PreviewImage(strip).as_dict()["images"][0]
