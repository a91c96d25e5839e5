"""What all tests share: small random models, and how they are dealt out to several processes."""

from dataclasses import replace
import os

import hypothesis
import pytest
import torch

from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.model.dit import DiT, DiTConfig
from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.tokens.wire import identity_format
from dit_blocks.standalone import comfy_api_standin

comfy_api_standin.install()

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: each takes one core
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start


# No test is red because the machine is busy.
hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any machine")

# Files, and tests by the start of their names, that take seconds: `make check` leaves them out.
SLOW = {"test_adapter", "test_blueprint", "test_diffusers_folder", "test_diffusers_text", "test_guidance_examples", "test_loops",
        "test_parity_diffusers", "test_quick_look", "test_serve", "test_serve_refusals", "test_serve_sockets", "test_standalone_cli",
        "test_textbook", "test_train_nodes", "test_training", "test_training_launch", "test_training_loop", "test_training_models"}
SLOW_TESTS = ("test_a_workflow_of_a_release_runs", "test_an_example_runs_there", "test_capturing_", "test_every_example_runs",
              "test_held_out_", "test_inputs_are_left_as_they_were", "test_over_steps_denoises_as_denoise_does",
              "test_programs_that_save", "test_the_matcher_reads", "test_the_report_has_its_keys",
              "test_the_same_seed_is_the_same_picture", "test_torch_counts_the_same", "test_training_and_adapters",
              "test_wires_have_the_keys")


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """Mark what is slow. With `pytest -n 2 --dist loadgroup`, tests that share a server, a script in ComfyUI or a page go to one process,
    and the others to whichever is free; what takes minutes is begun first, so that no process works on it alone at the end."""
    for item in items:
        host, browser = bool(item.get_closest_marker("host")), "browser" in item.path.parts
        if host or browser or item.path.stem in SLOW or item.name.startswith(SLOW_TESTS):
            item.add_marker(pytest.mark.slow)
        if config.pluginmanager.hasplugin("xdist"):
            fixtures = (one for known in item._fixtureinfo.name2fixturedefs.values() for one in known)
            shared = any(one.baseid and one.scope in ("module", "session") for one in fixtures)
            given = item.callspec.params if hasattr(item, "callspec") else {}
            together = ("host", "tab") if browser else ("script",) if host else ()  # one process has a page, or the cases of a script
            if browser or host or shared:
                item.add_marker(pytest.mark.xdist_group(" ".join([item.path.stem, *(str(given.get(name)) for name in together)])))
    done = yield
    if config.pluginmanager.hasplugin("xdist"):
        items.sort(key=lambda item: 0 if "browser" in item.path.parts else 1 if item.get_closest_marker("host") else
                   2 if item.get_closest_marker("slow") else 3)
    return done


def pytest_collection_finish(session):
    """Several processes are of use only where xdist deals out groups, which not every pytest lets it do."""
    grouped = next((item for item in session.items if item.get_closest_marker("xdist_group")), None)
    if getattr(session.config.option, "loadgroup", False) and grouped and "@" not in grouped.nodeid:
        pytest.exit("this pytest-xdist does not group tests under this pytest: see [project.optional-dependencies] test", 2)


@pytest.fixture
def backbone() -> Backbone:
    """A small random MM-DiT with patch sizes 2 and 4 on 4-channel latents."""
    torch.manual_seed(0)
    config = MMDiTConfig(patch_sizes=(2, 4), in_channels=4, width=64, depth=2, heads=2, context_width=32, pooled_width=16,
                         qk_norm=True, position="picture", position_table=8, position_base=8.0)
    model = MMDiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return Backbone(model.eval().requires_grad_(False), identity_format(4), RectifiedFlow(), "a small DiT", picture_size=64)


@pytest.fixture
def four_blocks(backbone) -> Backbone:
    """The same with four blocks, whose answers are louder."""
    torch.manual_seed(2)
    model = MMDiT(replace(backbone.model.config, depth=4)).initialise()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return Backbone(model.eval().requires_grad_(False), identity_format(4), backbone.flow, "a DiT of four blocks")


@pytest.fixture
def class_dit() -> Backbone:
    """A small random class-conditional DiT with DDPM's noise levels."""
    torch.manual_seed(0)
    model = DiT(DiTConfig(in_channels=4, width=64, depth=3, heads=2, classes=10))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return Backbone(model.eval().requires_grad_(False), identity_format(4), DDPM(), "a small DiT", picture_size=64)


def conditioning(seed: int, batch: int = 1) -> list:
    """Random CONDITIONING that fits the small backbone."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(batch, 5, 32, generator=generator), {"pooled_output": torch.randn(batch, 16, generator=generator)}]]


@pytest.fixture
def positive() -> list:
    return conditioning(1)


@pytest.fixture
def negative() -> list:
    return conditioning(2)
