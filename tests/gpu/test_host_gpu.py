"""MODELs and the default model of a real ComfyUI on a simulated GPU: whole, in a chain of steps and by stages they give what KSampler gives there,
whatever of the weights is on the device; nothing of it is left on wires; adapters are learnt and worn there."""

import functools
import json
import os
import subprocess

from comfyui_host import COMFYUI, HERE, PYTHON, ROOT, needs_comfyui
from everywhere import EVERYWHERE
import pytest

pytestmark = needs_comfyui
# mode, number type, words to choose checks by, the device: "lazy" knows a backward pass, "cuda" is what ComfyUI asks for
RUNS = (("normal", "fp16", (), "cuda"), ("dynamic", "fp8", (), "cuda"), ("novram", "bf16", ("draws",), "cuda"), ("gpuonly", "bf16", ("sd3", "wan"), "cuda"),
        ("normal", "bf16", ("adapter", "default"), "lazy"), ("dynamic", "bf16", ("adapter", "default"), "lazy")) if EVERYWHERE else (
    ("normal", "fp16", ("sd3: draws", "flux_dev: wires", "sd3: memory"), "cuda"), ("dynamic", "fp8", ("flux_dev: draws",), "cuda"),
    ("dynamic", "bf16", ("sd3: adapter", "default"), "lazy"))
MODELS = ("sd35_large", "flux_dev", "qwen_image", "z_image", "wan_14b")
SIZES = [(mode, dtype, name) for mode in ("normal", "dynamic") for dtype in ("bf16", "fp8") for name in MODELS] if EVERYWHERE else [
    ("normal", "bf16", "wan_14b 832x480 8 GB"), ("dynamic", "bf16", "z_image 1024x1024 8 GB")]
TWO_GPUS = (("normal", "fp16"), ("dynamic", "bf16")) if EVERYWHERE else (("normal", "fp16", "cfg 4, batch 2", "remarks", "sd3: riders"),)


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """errors(run) → case → None, or how it failed. Everything of a run is in one process."""
    packs = tmp_path_factory.mktemp("packs")
    (packs / "dit_blocks").symlink_to(ROOT, target_is_directory=True)

    @functools.cache
    def run(mode: str, dtype: str, words: tuple[str, ...], kind: str, script: str = "host_gpu_check") -> dict[str, str | None]:
        done = subprocess.run([PYTHON, HERE / "gpu" / f"{script}.py", COMFYUI, packs, mode, dtype, *words], capture_output=True, text=True,
                              timeout=1800, env={**os.environ, "OMP_NUM_THREADS": "1", "SIMULATED_DEVICE": kind})
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
        return {line["case"]: line["error"] for line in lines}
    return run


@pytest.mark.parametrize("run", RUNS, ids=lambda run: " ".join((*run[:2], *run[2], run[3])))
def test_on_the_simulated_gpu(errors, run):
    found = errors(*run)
    assert found and not any(found.values()), "\n".join(f"{case}\n{error}" for case, error in found.items() if error)


@pytest.mark.parametrize("mode,dtype,words", [(mode, dtype, tuple(words)) for mode, dtype, *words in TWO_GPUS], ids=lambda value: str(value))
def test_on_two_simulated_gpus(errors, mode, dtype, words):
    """What ComfyUI divides among GPUs: its picture, whole, in a chain of steps and by stages, with what rides along."""
    found = errors(mode, dtype, words, "cuda", "host_two_gpus_check")
    assert found and not any(found.values()), "\n".join(f"{case}\n{error}" for case, error in found.items() if error)


@pytest.mark.parametrize("mode,dtype,words", SIZES)
def test_models_of_real_size_fit_where_ksampler_does(errors, mode, dtype, words):
    """On cards of 8 to 24 GB, without values: at most 1.02 of KSampler's memory, 1.05 of what it brings to the card, and few waits more."""
    found = errors(mode, dtype, (words,), "cuda", "host_sizes_check")
    assert found and not any(found.values()), "\n".join(f"{case}\n{error}" for case, error in found.items() if error)


def test_the_benchmark_runs_in_small(tmp_path):
    command = [PYTHON, ROOT / "benchmarks" / "gpu.py", "--comfyui", COMFYUI, "--out", tmp_path, "--small"]
    chosen = ("parity", "speed sd35_medium", "own", "adapter") if EVERYWHERE else ("own",)
    sections = [word for one in chosen for word in ("--section", one)]
    done = subprocess.run([*command, *sections, "--minutes", "30"], capture_output=True, text=True, timeout=1800, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert sum(line["what"].endswith("equals KSampler") for line in lines) >= (16 if EVERYWHERE else 0)
    assert all(line["value"] for line in lines if line["what"].endswith("equals KSampler"))
    wanted = {"KSampler: a step", "stages: a step", "ours: a step", "a step of training"} if EVERYWHERE else {"ours: a step"}
    assert wanted <= {line["what"] for line in lines}
