"""The official front end in a browser, in both renderers, over a real ComfyUI and over `dit-blocks serve`."""

import os
import shutil
import time

from browser.gestures import COUNT_QUESTIONS, settle
from comfyui_host import INSTALLED, Host, needs_comfyui
from everywhere import EVERYWHERE
import pytest
from serve_host import Serve

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
sync_api.expect.set_options(timeout=20_000)  # a busy machine shows late what was asked for
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FRONT_END = os.environ.get("FRONT_END")  # a folder of another front end's files than the installed one's


def pytest_collection_modifyitems(items):
    """A page on a busy machine may lag behind the mouse: a browser test that fails is tried once more, and the summary names it."""
    for item in items:
        if "tab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))


@pytest.fixture(scope="session", params=["standalone", pytest.param("comfyui", marks=needs_comfyui)])
def host(request, tmp_path_factory):
    base = tmp_path_factory.mktemp(request.param)
    host, option = (Host, "--front-end-root") if request.param == "comfyui" else (Serve, "--front-end")
    running = host(base, *([option, FRONT_END] if FRONT_END else []))
    running.post("/settings/Comfy.TutorialCompleted", True)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser():
    """Closed after each file: while it is open, its event loop is the only one that this process can have."""
    if not CHROMIUM:
        pytest.skip("no Chromium (set CHROMIUM, or apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes 2.0"])
def tab(request, host, browser):
    """The front end, loaded. What goes wrong in the page is in `tab.errors`.

    Each renderer and each host once: the canvas over standalone, Nodes 2.0 over ComfyUI, if there is one. EVERYWHERE=1: both over both.
    BOTH_RENDERERS in a file: both over standalone.
    """
    standalone = isinstance(host, Serve)
    if not (EVERYWHERE or request.param != standalone or standalone and (not INSTALLED or getattr(request.module, "BOTH_RENDERERS", False))):
        pytest.skip("this renderer over the other host: set EVERYWHERE=1")
    host.post("/settings/Comfy.VueNodes.Enabled", request.param)
    host.post("/settings/Comfy.RightSidePanel.IsOpen", False)  # which a file before may have opened: it takes a third of the canvas
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(error.stack or str(error)))
    page.context.add_cookies([{"name": "dit-blocks-been-here", "value": "yes", "url": host.url}])
    page.add_init_script(COUNT_QUESTIONS)
    page.goto(host.url)
    page.wait_for_function("window.app?.extensionManager?.workflow?.activeWorkflow && app.canvas", timeout=90_000)
    yield page
    page.close()


@pytest.fixture
def page(tab, tmp_path):
    """The front end as the spec before left it: nothing may go wrong in it, and how it looked at the end is kept."""
    yield tab
    tab.screenshot(path=tmp_path / "page.png")
    assert not tab.errors


def _load(tab, workflow: dict) -> None:
    tab.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    tab.wait_for_function("count => app.rootGraph.nodes.length === count", arg=len(workflow["nodes"]))
    settle(tab)


@pytest.fixture
def load(tab):
    """load(workflow): put it on the canvas."""
    return lambda workflow: _load(tab, workflow)


@pytest.fixture
def run(tab, host):
    """run(): queue what is on the canvas and wait until it has run and the page has been told → its history entry."""
    def queue(act=lambda: tab.evaluate("app.queuePrompt(0)")) -> dict:
        before = host.get("/history")
        tab.evaluate("window.ended = false; app.api.addEventListener('execution_success', () => (window.ended = true), { once: true })")
        act()
        deadline = time.monotonic() + 120
        while not (fresh := host.get("/history").keys() - before.keys()):
            assert time.monotonic() < deadline, "the prompt did not run"
            time.sleep(0.2)
        entry = host.wait(*fresh)
        assert entry["status"]["status_str"] == "success", entry["status"]
        tab.wait_for_function("window.ended")
        outside = [id for id in entry["outputs"] if ":" not in id]  # of subgraphs
        tab.wait_for_function("ids => ids.every((id) => id in app.nodeOutputs)", arg=outside)
        return entry
    return queue
