"""The front-end extension: formatted, linted, typed, and its pure logic tested by Node (`npm ci` brings the tools)."""

from pathlib import Path
import shutil
import subprocess

import pytest

import dit_blocks

ROOT = Path(dit_blocks.__file__).parent
TOOLS = ROOT / "node_modules" / ".bin"
LOGIC = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "web").glob("*.test.js"))

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="no node (install Node.js 20 or newer)")
needs_tools = pytest.mark.skipif(not TOOLS.exists(), reason="no node_modules (npm ci)")


@pytest.mark.parametrize("command", [
    pytest.param(["node", "--test", *LOGIC], marks=needs_node, id="logic"),
    pytest.param([TOOLS / "biome", "ci", "--error-on-warnings", "--colors=off", "."], marks=[needs_node, needs_tools], id="biome"),
    pytest.param([TOOLS / "tsc", "-p", "."], marks=[needs_node, needs_tools], id="tsc")])
def test_web(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
