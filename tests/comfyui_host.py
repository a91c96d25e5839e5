"""A real ComfyUI with the pack linked in, for host tests.

ComfyUI is looked for at COMFYUI_DIR, or where comfy-cli puts it; its Python is COMFYUI_PYTHON, or that folder's .venv.
"""

import io
import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from PIL import Image
import pytest

import dit_blocks
from dit_blocks.standalone import core_nodes

ROOT = Path(dit_blocks.__file__).parent
HERE = Path(__file__).parent
COMFYUI = Path(os.environ.get("COMFYUI_DIR", Path.home() / "comfy" / "ComfyUI"))
PYTHON = Path(os.environ.get("COMFYUI_PYTHON", COMFYUI / ".venv" / "bin" / "python"))
INSTALLED = (COMFYUI / "main.py").exists() and PYTHON.exists()
needs_comfyui = [pytest.mark.host, pytest.mark.skipif(
    not INSTALLED, reason=f"no ComfyUI at {COMFYUI} with a Python at {PYTHON} (set COMFYUI_DIR and COMFYUI_PYTHON)")]


def example_png() -> bytes:
    """The picture that standalone gives for ComfyUI's own example.png, as a file."""
    pixels = (core_nodes.draw_example()[0] * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Host:
    """A running ComfyUI."""

    def __init__(self, base: Path, *options: str, **packs: Path):
        """`base` becomes its folder of models, inputs and outputs; `options` are ComfyUI's; `packs` are loaded beside ours, by name."""
        self.base = base
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        (base / "custom_nodes").mkdir(parents=True)
        for name, folder in {"dit-blocks": ROOT, **packs}.items():
            (base / "custom_nodes" / name).symlink_to(folder, target_is_directory=folder.is_dir())
        (base / "input").mkdir()
        (base / "input" / "example.png").write_bytes(example_png())
        self.log_path = base / "log.txt"
        self.process = subprocess.Popen(
            [PYTHON, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", self.url.rsplit(":")[-1], "--base-directory", base,
             "--database-url", "sqlite:///:memory:", "--disable-api-nodes", *options],
            cwd=COMFYUI, stdout=self.log_path.open("w"), stderr=subprocess.STDOUT)
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the host did not start:\n{self.log()[-3000:]}") from None
                time.sleep(0.3)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def run(self, prompt: dict, timeout: float = 120) -> dict:
        """Queue a prompt and wait: → its history entry."""
        prompt_id = self.post("/prompt", {"prompt": prompt})["prompt_id"]
        return self.wait(prompt_id, timeout)

    def wait(self, prompt_id: str, timeout: float = 120) -> dict:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.1)
        raise TimeoutError(prompt_id)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
