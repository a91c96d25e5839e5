"""A pack that makes the ComfyUI it is loaded into believe in a simulated GPU while it runs a prompt. SIMULATED_MODE: one of MODES."""

import os
from pathlib import Path
import sys

sys.path.insert(0, str(Path(os.path.realpath(__file__)).parents[1]))
import execution  # noqa: E402
from gpu import comfyui, device  # noqa: E402

MODES = {"normal": {}, "dynamic": {"dynamic": "some"}, "no float64": {}, "gpuonly": {"gpu_only": True}}
MODE = os.environ["SIMULATED_MODE"]
NODE_CLASS_MAPPINGS = {}

comfyui.install(**MODES[MODE])
execute = execution.PromptExecutor.execute


def on_the_device(self, *args, **kwargs):
    with device.on(total=comfyui.VRAM, float64=MODE != "no float64") as counts:
        execute(self, *args, **kwargs)
        print(f"simulated GPU: {counts.peak} bytes at most, {counts.up} brought there", flush=True)


execution.PromptExecutor.execute = on_the_device
