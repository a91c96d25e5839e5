"""MODELs of a real ComfyUI, small and random: stages in a row are the model's own forward, and the wires give what KSampler gives.

ComfyUI is looked for as in test_host.py. All cases of a script run in one process under its Python; the scripts say what each does.
"""

import json
import os
from pathlib import Path
import runpy
import subprocess
import sys

import pytest

import dit_blocks

ROOT = Path(dit_blocks.__file__).parent
HERE = Path(__file__).parent
COMFYUI = Path(os.environ.get("COMFYUI_DIR", Path.home() / "comfy" / "ComfyUI"))
PYTHON = Path(os.environ.get("COMFYUI_PYTHON", COMFYUI / ".venv" / "bin" / "python"))

pytestmark = [pytest.mark.host, pytest.mark.skipif(
    not (COMFYUI / "main.py").exists() or not PYTHON.exists(),
    reason=f"no ComfyUI at {COMFYUI} with a Python at {PYTHON} (set COMFYUI_DIR and COMFYUI_PYTHON)")]


SCRIPTS = ("host_stages_check.py", "host_model_check.py")


def cases(script: str) -> list[str]:
    """The names of all cases, read as the other Python will read them."""
    sys.path.insert(0, str(HERE))
    try:
        return list(runpy.run_path(str(HERE / script))["CASES"])
    finally:
        sys.path.remove(str(HERE))


@pytest.fixture(scope="module", params=SCRIPTS)
def errors(request, tmp_path_factory) -> dict[str, str | None]:
    """Case → None, or how it failed."""
    packs = tmp_path_factory.mktemp("packs")
    (packs / "dit_blocks").symlink_to(ROOT, target_is_directory=True)
    done = subprocess.run([PYTHON, HERE / request.param, COMFYUI, packs], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    return {line["case"]: line["error"] for line in lines}


@pytest.mark.parametrize("errors,case", [(script, case) for script in SCRIPTS for case in cases(script)], indirect=["errors"])
def test_case(errors, case):
    assert errors[case] is None, errors[case]
