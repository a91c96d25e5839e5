"""Bad inputs of one seed, cheap enough for every run; `python tests/fuzz.py --seed N --run 1000` tries more by hand."""

import json
from pathlib import Path
import subprocess
import sys

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")


@pytest.mark.parametrize("kind, count", [("run", 100), ("files", 60), ("http", 60)])
def test_bad_inputs_are_well_met(kind, count):
    if kind == "http":
        pytest.importorskip("aiohttp", reason="no aiohttp (pip install 'dit-blocks[standalone]')")
        pytest.importorskip("comfyui_frontend_package", reason="no front end (pip install 'dit-blocks[standalone]')")
    counts = [word for name in ("run", "files", "http") for word in (f"--{name}", str(count if name == kind else 0))]
    done = subprocess.run([sys.executable, str(FUZZ), *counts], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, [json.loads(line) for line in done.stdout.splitlines()][:5] or done.stderr[-3000:]
    assert f"{kind}: {count} cases" in done.stderr
