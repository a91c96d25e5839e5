"""A patch size for each step, for DiT Denoise and for a MODEL."""

from comfy_api.v0_0_2 import io

from ..dit_impl.handle.patch_schedule import parse_schedule
from .wires import PatchScheduleSocket, names_errors, patch_method_input

CATEGORY = "DiT Blocks/patch size"


def _rows_input():
    return io.String.Input("rows", default="4 until 50%, then 2", multiline=True,
                           tooltip="Each row is a patch size and where it ends: '4 until 50%' of the steps, or '4 until sigma 0.6'. The last "
                                   "row is a size alone. Coarse patches must come first.")


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
            ],
            outputs=[PatchScheduleSocket.Output("patch_schedule", display_name="patch_schedule", tooltip="For DiT Denoise.")],
        )

    @classmethod
    @names_errors
    def execute(cls, rows, patch_method="auto", coarse_cfg=1.0) -> io.NodeOutput:
        return io.NodeOutput(parse_schedule(rows, patch_method, coarse_cfg))


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
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The same model with a patch size for each step.")],
        )

    @classmethod
    @names_errors
    def execute(cls, model, rows, patch_method="auto", enabled=True, coarse_cfg=1.0) -> io.NodeOutput:
        from .comfyui.patched_model import with_patch_schedule  # there is no MODEL outside ComfyUI
        return io.NodeOutput(with_patch_schedule(model, parse_schedule(rows, patch_method, coarse_cfg)) if enabled else model)
