"""Some of the specs again, on a newer front end than the one that ComfyUI pins: what changed there is met here first.

`.ci/run` puts its files where they are looked for. All specs on it, or on any other: `FRONT_END=folder pytest tests/browser`.
"""

import json
import os
from pathlib import Path
import sys

from browser.gestures import complaints_of, known_to
from browser.test_editing import test_run_on_change_draws_again_by_itself  # noqa: F401
from browser.test_widgets import (  # noqa: F401
    page,
    test_an_error_is_told_on_its_node_and_in_comfyui_s_message,
    test_sockets_and_widgets_of_a_subgraph_speak_chinese,
    test_the_grid_tells_the_arithmetic_before_any_run,
    test_the_slider_walks_through_the_steps,
    test_tokens_are_chosen_by_mouse_and_keys,
)
from comfyui_host import ROOT
from everywhere import EVERYWHERE
import pytest
from serve_host import TYPES, Serve

FILES = Path(os.environ.get("NEWEST_FRONT_END", Path(sys.prefix) / "newest_front_end" / "comfyui_frontend_package" / "static"))
BOTH_RENDERERS = True  # conftest.py
pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason=f"no newer front end at {FILES} (.ci/run puts one there; or set NEWEST_FRONT_END)")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    running = Serve(tmp_path_factory.mktemp("newest"), "--front-end", str(FILES))
    running.post("/settings/Comfy.TutorialCompleted", True)
    yield running
    running.stop()


def test_every_example_loads_without_a_complaint(page, load):
    """In Nodes 2.0, whose elements are what changes; in the canvas renderer every fourth, or with EVERYWHERE=1 all."""
    some = 1 if EVERYWHERE or page.evaluate("LiteGraph.vueNodesMode") else 4
    workflows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "example_workflows").glob("*.json"))]
    known = [one for one in workflows if known_to(TYPES, one)]
    assert len(known) >= len(workflows) - 5
    with complaints_of(page) as complaints:
        for workflow in known[::some]:
            load(workflow)
            assert not complaints, workflow["id"]
