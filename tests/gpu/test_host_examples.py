"""Every example workflow in a real ComfyUI that believes in a simulated GPU, by its own server and executor: it draws what standalone draws on the
CPU, under each way of keeping weights, and without float64."""

import functools

from comfyui_host import HERE, ROOT, Host, needs_comfyui
from everywhere import EVERYWHERE
from example_pictures import BRIEFLY, beside_standalone
import pytest

from dit_blocks.standalone import pack
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.workflow import read_workflow

pytestmark = needs_comfyui
NEED_MODELS = ("sd3_5", "flux_dev", "steer_a_style", "ksampler_parity")  # test_host_workflows.py
EXAMPLES = [path.stem for path in sorted((ROOT / "example_workflows").glob("*.json")) if path.stem not in NEED_MODELS]
MODES = ("normal", "dynamic", "no float64", "gpuonly")  # host_pack.py
RUNS = [(mode, name) for mode in MODES for name in EXAMPLES] if EVERYWHERE else [  # all of them take an hour
    ("dynamic", "exploded_step"), ("dynamic", "train_from_scratch"), ("dynamic", "image_to_image")]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """hosts(mode): a ComfyUI on the simulated GPU, one at a time. "lazy" is a device that knows a backward pass."""
    @functools.lru_cache(maxsize=1)
    def running(mode: str) -> Host:
        for other in started:
            other.stop()
        with pytest.MonkeyPatch.context() as patched:
            for name, value in {"SIMULATED_MODE": mode, "SIMULATED_DEVICE": "lazy", "OMP_NUM_THREADS": "1"}.items():
                patched.setenv(name, value)
            started[:] = [Host(tmp_path_factory.mktemp("comfyui") / "base", **{"simulated_gpu.py": HERE / "gpu" / "host_pack.py"})]
        return started[0]
    started: list[Host] = []
    yield running
    for one in started:
        one.stop()


@pytest.fixture(scope="module")
def types() -> dict[str, NodeType]:
    return {name: NodeType(name, cls) for name, cls in pack.load().items()}


@pytest.mark.parametrize("mode,name", RUNS)
def test_an_example_draws_what_it_draws_on_the_cpu(hosts, types, mode, name, tmp_path_factory):
    path, host = ROOT / "example_workflows" / f"{name}.json", hosts(mode)
    prompt = read_workflow(path, types).prompt
    if any(node["class_type"] == "StartLoop" for node in prompt.values()) and "StartLoop" not in host.get("/object_info"):
        pytest.skip("this ComfyUI has no Start Loop")
    for id, inputs in BRIEFLY.get(name, {}).items():
        prompt[id]["inputs"] |= inputs
    entry = host.run(prompt, timeout=1200)
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert "bytes at most" in host.log(), "it did not run on the simulated GPU"
    found = beside_standalone(name, entry, host.base, tmp_path_factory)
    assert max(found.values()) <= 1, found
