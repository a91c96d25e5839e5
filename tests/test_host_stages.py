"""The stage adapters inside a real ComfyUI, on small random models: all stages in a row are the model's own forward, bit for bit.

ComfyUI is looked for as in test_host.py. All cases run in one process under its Python (host_stages_check.py says what each does).
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


def cases() -> list[str]:
    """The names of all cases, read as the other Python will read them."""
    sys.path.insert(0, str(HERE))
    try:
        return list(runpy.run_path(str(HERE / "host_stages_check.py"))["CASES"])
    finally:
        sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def errors(tmp_path_factory) -> dict[str, str | None]:
    """Case → None, or how it failed."""
    packs = tmp_path_factory.mktemp("packs")
    (packs / "dit_blocks").symlink_to(ROOT, target_is_directory=True)
    done = subprocess.run([PYTHON, HERE / "host_stages_check.py", COMFYUI, packs], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    return {line["case"]: line["error"] for line in lines}


@pytest.mark.parametrize("case", cases())
def test_stages(errors, case):
    assert errors[case] is None, errors[case]
