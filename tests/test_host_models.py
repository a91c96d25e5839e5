"""MODELs of a real ComfyUI, small and random: stages in a row are the model's own forward, and the wires give what KSampler gives.

All cases of a script run in one process under ComfyUI's Python; the scripts say what each does.
"""

import functools
import importlib
import json
import os
import subprocess

from comfyui_host import COMFYUI, HERE, PYTHON, ROOT, needs_comfyui
import pytest

pytestmark = needs_comfyui
SCRIPTS = ("host_stages_check", "host_generic_check", "host_abilities_check", "host_model_check", "host_patch_check", "host_attention_check",
           "host_see_check", "host_adapter_check", "host_riders_check", "host_zoo_check", "host_own_check", "host_samplers_check",
           "host_blocks_check", "host_cache_check", "host_steering_check", "host_wired_check", "host_positions_check", "host_stitching_check",
           "host_budget_check", "host_regions_check")
CASES = [(script, case) for script in SCRIPTS for case in importlib.import_module(script).CASES]


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """A folder that holds the pack under its package name."""
    folder = tmp_path_factory.mktemp("packs")
    (folder / "dit_blocks").symlink_to(ROOT, target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def errors(packs):
    """errors(script) → case → None, or how it failed. A script runs once, however many cases ask."""
    @functools.cache
    def run(script: str) -> dict[str, str | None]:
        # one thread: the models are so small that threads would only wait for each other
        done = subprocess.run([PYTHON, HERE / f"{script}.py", COMFYUI, packs], capture_output=True, text=True, timeout=1800,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
        return {line["case"]: line["error"] for line in lines}
    return run


@pytest.mark.parametrize("script,case", CASES)
def test_case(errors, script, case):
    error = errors(script)[case]
    assert error is None, error
