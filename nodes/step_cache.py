"""A cache over the steps, for a DIT and for a MODEL."""

import logging

from comfy_api.v0_0_2 import io

from ..dit_impl.handle import step_cache
from ..dit_impl.see.cache_hits import by_step, in_words
from .comfyui import host
from .wires import DitSocket, dit_input, names_errors, sound

CATEGORY = "DiT Blocks/denoise"
EVENT = "dit_blocks.step_cache"


def _inputs():
    return [
        io.Float.Input("threshold", default=0.1, min=0.0, max=10.0, step=0.01, round=0.0001,
                       tooltip="How much the first block's answer may have changed since all blocks ran, as a share, for the others to be left "
                               "out. 0 leaves out none: the same picture, bit for bit."),
        io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.001, tooltip="From where in sampling on. 0 is the first step."),
        io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.001, tooltip="Until where in sampling. 1 is the last step."),
    ]


class StepCache(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksStepCache",
            display_name="Step Cache",
            category=CATEGORY,
            description="In steps that hardly differ from one before, run the first block only and add again what the other blocks added then. "
                        "Faster, and a little different. DiT Denoise tells in how many steps.",
            search_aliases=["first block cache", "FBCache", "TeaCache", "EasyCache", "faster", "缓存"],
            inputs=[dit_input(), *_inputs()],
            outputs=[DitSocket.Output("dit_out", display_name="dit", tooltip="The same model with a cache, for DiT Denoise and DiT Denoise Step.")],
        )

    @classmethod
    def validate_inputs(cls, threshold=None, start_percent=None, end_percent=None):
        return sound(step_cache.StepCache, threshold, start_percent, end_percent)

    @classmethod
    @names_errors
    def execute(cls, dit, threshold, start_percent, end_percent) -> io.NodeOutput:
        return io.NodeOutput(dit.with_cache(step_cache.StepCache(threshold, start_percent, end_percent)))


class StepCacheModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksStepCacheModel",
            display_name="Step Cache (MODEL)",
            category=CATEGORY,
            description="In steps of KSampler that hardly differ from one before, run the first block only and add again what the other blocks "
                        "added then. Put it between the loader and the sampler. After a run it tells in how many steps.",
            search_aliases=["first block cache", "FBCache", "TeaCache", "EasyCache", "WaveSpeed", "faster", "KSampler"],
            inputs=[io.Model.Input("model", tooltip="Any diffusion transformer that ComfyUI has loaded. It is not changed."), *_inputs()],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The same model with a cache.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, threshold=None, start_percent=None, end_percent=None):
        return sound(step_cache.StepCache, threshold, start_percent, end_percent)

    @classmethod
    @names_errors
    def execute(cls, model, threshold, start_percent, end_percent) -> io.NodeOutput:
        from .comfyui.planned_blocks import with_step_cache  # there is no MODEL outside ComfyUI
        node = getattr(cls.hidden, "unique_id", None)  # none where no server runs it

        def tell(told, sigmas) -> None:
            hits = by_step(told, sigmas)
            logging.info("Step Cache: %s", in_words(hits))
            host.tell(EVENT, {"node": node, "hits": hits})
        return io.NodeOutput(with_step_cache(model, step_cache.StepCache(threshold, start_percent, end_percent), tell))
