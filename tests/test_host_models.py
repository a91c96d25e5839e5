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
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # the models are so small that threads would only wait for each other
CASES = [(script, case) for script in SCRIPTS for case in importlib.import_module(script).CASES]


ALONE = ("host_attention_check",)  # which chooses ComfyUI's attention, before ComfyUI is imported


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """A folder that holds the pack under its package name."""
    folder = tmp_path_factory.mktemp("packs")
    (folder / "dit_blocks").symlink_to(ROOT, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def started():
    """ComfyUI's modules, imported once: see host_run.py. Started when it is first asked."""
    running = []

    def ask(script: str, packs, printed) -> int:
        if not running:
            running.append(subprocess.Popen([PYTHON, HERE / "host_run.py", COMFYUI, packs], env=ENVIRONMENT, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, text=True))
        running[0].stdin.write(json.dumps([script, str(printed)]) + "\n")
        running[0].stdin.flush()
        return int(running[0].stdout.readline())
    yield ask
    for one in running:
        one.communicate()


@pytest.fixture(scope="module")
def errors(packs, started, tmp_path_factory):
    """errors(script) → case → None, or how it failed. A script runs once, however many cases ask."""
    @functools.cache
    def run(script: str) -> dict[str, str | None]:
        printed = tmp_path_factory.mktemp(script) / "printed"
        if script in ALONE:
            with printed.open("w") as out, printed.with_suffix(".err").open("w") as err:
                status = subprocess.run([PYTHON, HERE / f"{script}.py", COMFYUI, packs], stdout=out, stderr=err, env=ENVIRONMENT, timeout=1800).returncode
        else:
            status = started(script, packs, printed)
        assert status == 0, printed.with_suffix(".err").read_text()[-3000:]
        lines = [json.loads(line) for line in printed.read_text().splitlines() if line.startswith('{"case"')]
        return {line["case"]: line["error"] for line in lines}
    return run


@pytest.mark.parametrize("script,case", CASES)
def test_case(errors, script, case):
    error = errors(script)[case]
    assert error is None, error
