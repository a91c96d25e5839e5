"""A patch size for each step, for DiT Denoise and for a MODEL."""

from dataclasses import replace

from comfy_api.v0_0_2 import io

from ..dit_impl.handle.patch_schedule import NO_OTHER, parse_schedule
from .wires import DitSocket, PatchScheduleSocket, names_errors, patch_method_input, sound

CATEGORY = "DiT Blocks/patch size"


def _rows_input():
    return io.String.Input("rows", default="4 until 50%, then 2", multiline=True,
                           tooltip="Each row is a patch size and where it ends: '4 until 50%' of the steps, or '4 until sigma 0.6'. The last "
                                   "row is a size alone. Coarse patches must come first. '4 with 2 on 25%' splits the patches with most "
                                   "detail, '4 with 2 on the mask' those under the mask.")


def _coarse_cfg_input():
    return io.Float.Input("coarse_cfg", default=1.0, min=0.1, max=10.0, step=0.05, round=0.01, optional=True,
                          tooltip="A factor on cfg for all steps but those with the finest patches. Coarse steps need a little more guidance, "
                                  "such as 1.1.")


class PatchSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPatchSchedule",
            display_name="Patch Schedule",
            category=CATEGORY,
            description="Choose a patch size for each step: coarse patches for the layout of the picture, fine ones for detail. Fewer tokens, "
                        "so it is faster.",
            search_aliases=["FlexiDiT", "patch size", "faster"],
            inputs=[
                _rows_input(),
                patch_method_input(),
                _coarse_cfg_input(),
                io.Mask.Input("mask", optional=True, tooltip="For rows such as '4 with 2 on the mask': where patches are fine."),
                DitSocket.Input("other", optional=True, tooltip="For rows such as '32 of other until 40%': a second model of the same family, such as "
                                "one with larger patches. It takes those steps."),
            ],
            outputs=[PatchScheduleSocket.Output("patch_schedule", display_name="patch_schedule", tooltip="For DiT Denoise.")],
        )

    @classmethod
    def validate_inputs(cls, rows=None):
        return sound(parse_schedule, rows)

    @classmethod
    @names_errors
    def execute(cls, rows, patch_method="auto", coarse_cfg=1.0, mask=None, other=None) -> io.NodeOutput:
        plan = parse_schedule(rows, patch_method, coarse_cfg)
        if plan.names_other and other is None:
            raise ValueError(NO_OTHER)
        if other is not None and not plan.names_other:
            raise ValueError("a model is wired into other, and no row names it: write '4 of other until 50%', or take the wire away")
        return io.NodeOutput(replace(plan, mask=mask, other=other))


class PatchRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPatchRegions",
            display_name="Patch Regions",
            category=CATEGORY,
            description="Choose where patches are fine: under a mask, or where the picture so far has most detail. Coarse and fine patches stand "
                        "in one sequence, so that tokens go where they matter.",
            search_aliases=["mixed patch sizes", "adaptive patches", "quadtree", "faster", "patch size"],
            inputs=[
                io.Int.Input("coarse", default=4, min=1, max=64, tooltip="The patch size everywhere else, and of the steps before."),
                io.Int.Input("fine", default=2, min=1, max=64, tooltip="The patch size where it matters. It divides coarse."),
                io.Combo.Input("where", options=["detail", "mask"], default="detail",
                               tooltip="detail: the patches whose x0 of the step before varies most. mask: the patches that the mask touches."),
                io.Float.Input("share", default=0.25, min=0.0, max=1.0, step=0.05, round=0.001,
                               tooltip="By detail: how many of the coarse patches are split. A mask has its own size."),
                io.Float.Input("start_percent", default=0.3, min=0.0, max=1.0, step=0.05, round=0.001,
                               tooltip="From which part of the steps on. Before, all patches are coarse."),
                io.Mask.Input("mask", optional=True, tooltip="Where patches are fine, for the whole picture: painted, or from Token Mask."),
            ],
            outputs=[PatchScheduleSocket.Output("patch_schedule", display_name="patch_schedule", tooltip="For DiT Denoise.")],
        )

    @classmethod
    @names_errors
    def execute(cls, coarse, fine, where, share, start_percent, mask=None) -> io.NodeOutput:
        if where == "mask" and mask is None:
            raise ValueError("where is mask, and no mask is wired: wire one, or choose detail")
        before = f"{coarse} until {100 * start_percent:g}%, then " if start_percent else ""
        plan = parse_schedule(f"{before}{coarse} with {fine} on {'the mask' if where == 'mask' else f'{100 * share:g}%'}", "native")
        return io.NodeOutput(replace(plan, mask=mask))


class PatchScheduleModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPatchScheduleModel",
            display_name="Patch Schedule (MODEL)",
            category=CATEGORY,
            description="Choose a patch size for each step of KSampler. Put it between the loader and the sampler. Steps at the model's own "
                        "patch size do not change, bit for bit.",
            search_aliases=["FlexiDiT", "KSampler", "faster", "patch size"],
            inputs=[
                io.Model.Input("model", tooltip="Any diffusion transformer that ComfyUI has loaded. It is not changed."),
                _rows_input(),
                patch_method_input(),
                io.Boolean.Input("enabled", default=True, optional=True, tooltip="Off: the model passes through without change."),
                _coarse_cfg_input(),
                io.Mask.Input("mask", optional=True, tooltip="For rows such as '4 with 2 on the mask': where patches are fine."),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The same model with a patch size for each step.")],
        )

    @classmethod
    def validate_inputs(cls, rows=None):
        return sound(cls._plan, rows)

    @classmethod
    def _plan(cls, rows, patch_method="auto", coarse_cfg=1.0):
        return parse_schedule(rows, patch_method, coarse_cfg).of_one_model("KSampler")

    @classmethod
    @names_errors
    def execute(cls, model, rows, patch_method="auto", enabled=True, coarse_cfg=1.0, mask=None) -> io.NodeOutput:
        from .comfyui.patched_model import with_patch_schedule  # there is no MODEL outside ComfyUI
        plan = replace(cls._plan(rows, patch_method, coarse_cfg), mask=mask)
        return io.NodeOutput(with_patch_schedule(model, plan) if enabled else model)
