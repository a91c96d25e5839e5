"""Workflows of earlier releases load, give the same prompts and run; widgets keep their places; renamed nodes are replaced.

`python tests/test_sharing.py widgets` adds new nodes and new last widgets to widget_order.json, and refuses any other change. Its keys
are the ids that nodes keep for good.
`python tests/test_sharing.py release` keeps the examples as they are, and their prompts, as those of the version in pyproject.toml:
until it is released, whenever an example changes. After a release the next version is put there first, and the folder of the old one
is left as it is.
"""

from collections.abc import Collection
import json
from pathlib import Path
import shutil
import sys

from browser.layouts import parts
import pytest

from dit_blocks.standalone import comfy_api_standin, pack
from dit_blocks.standalone.executor import Executor
from dit_blocks.standalone.folders import Folders
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.replace import in_prompt
from dit_blocks.standalone.validate import check
from dit_blocks.standalone.workflow import read_workflow

comfy_api_standin.install()
from dit_blocks.nodes.routes import own_version  # noqa: E402 (as a script, no conftest has put comfy_api in place)

HERE = Path(__file__).parent
ROOT = HERE.parent
GOLDEN, WIDGETS = HERE / "golden", HERE / "widget_order.json"
CLASSES = pack.load()
TYPES = {name: NodeType(name, cls) for name, cls in CLASSES.items()}
RELEASES = sorted(path for path in GOLDEN.glob("*/*.json") if path.stem != "prompts")
# What is run is small: the same wires, fewer pixels, fewer steps of training.
SMALL = {"width": 64, "height": 64}
BRIEF = {"DiTBlocksTrain": {"steps": 2, "validation": 2}, "DiTBlocksTrainingScenes": {"count": 24}}


def prompt_of(path: Path) -> dict[str, dict]:
    """Node id → class and inputs: the part of a workflow that is ours to keep."""
    return {id: {"class_type": node["class_type"], "inputs": node["inputs"]} for id, node in read_workflow(path, TYPES).prompt.items()
            if node["class_type"].startswith("DiTBlocks")}


def widgets() -> dict[str, list[str]]:
    """Node → its widgets in the order in which their values are saved."""
    return {name: [socket.name for socket in kind.sockets.values() if socket.is_widget] for name, kind in TYPES.items()
            if name.startswith("DiTBlocks")}


@pytest.fixture(scope="module")
def executor(tmp_path_factory) -> Executor:
    base = tmp_path_factory.mktemp("sharing")
    return Executor(CLASSES, Folders(base / "input", base / "output", base / "temp", base / "models"))


@pytest.mark.parametrize("path", RELEASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_workflow_of_a_release_gives_the_same_prompt(path):
    known = json.loads((path.parent / "prompts.json").read_text(encoding="utf-8"))[path.stem]
    now = prompt_of(path)
    before = in_prompt(known, pack.renamed(), TYPES)
    assert now.keys() == before.keys()
    for id, node in before.items():
        assert now[id]["class_type"] == node["class_type"]
        # Widgets that came later stand at their defaults.
        later = {name: socket.options.get("default") for name, socket in TYPES[node["class_type"]].sockets.items()
                 if name not in node["inputs"] and name in now[id]["inputs"]}
        # A workflow that held no language had English; it follows the editor now, and is English without one.
        said = {"language": "auto"} if node["inputs"].get("language") == "English" and now[id]["inputs"].get("language") == "auto" else {}
        assert now[id]["inputs"] == later | node["inputs"] | said, id


def changed_since(path: Path) -> bool:
    """Whether an example is another one now, or gone: else test_embedded.py runs it."""
    shipped = ROOT / "example_workflows" / path.name
    return not shipped.exists() or shipped.read_bytes() != path.read_bytes()


@pytest.mark.parametrize("path", list(filter(changed_since, RELEASES)), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_workflow_of_a_release_runs(path, executor):
    prompt = read_workflow(path, TYPES).prompt
    if not all(node["class_type"] in TYPES for node in prompt.values()):
        pytest.skip("it needs ComfyUI's own nodes")
    check(prompt, TYPES)
    for node in prompt.values():
        less = SMALL | BRIEF.get(node["class_type"], {})
        node["inputs"] |= {name: min(value, least) for name, least in less.items() if isinstance(value := node["inputs"].get(name), int)}
    assert executor.run(prompt).ui


def test_each_release_is_kept_whole():
    assert (GOLDEN / own_version()).is_dir(), "run `python tests/test_sharing.py release`"
    for folder in GOLDEN.iterdir():
        kept = {path.stem for path in folder.glob("*.json")} - {"prompts"}
        assert kept == json.loads((folder / "prompts.json").read_text(encoding="utf-8")).keys() and kept


def test_the_examples_are_kept_as_they_are():
    shipped, kept = ({path.name: path.read_bytes() for path in folder.glob("*.json") if path.stem != "prompts"}
                     for folder in (ROOT / "example_workflows", GOLDEN / own_version()))
    changed = sorted(name for name in shipped.keys() | kept.keys() if shipped.get(name) != kept.get(name))
    assert not changed, (f"examples that differ from their copies of {own_version()}: run `python tests/test_sharing.py release`; "
                         "where that version has been released already, put the next one into pyproject.toml first")


def test_nodes_have_the_parts_that_they_had_when_the_examples_were_laid_out():
    known = json.loads((HERE / "browser" / "laid_out.json").read_text(encoding="utf-8"))
    now = {path.stem: parts(json.loads(path.read_text(encoding="utf-8")), TYPES) for path in (ROOT / "example_workflows").glob("*.json")}
    changed = sorted(name for name in known.keys() | now.keys() if known.get(name) != now.get(name))
    assert not changed, f"their nodes have other sizes now: run `python tests/browser/lay_out.py {' '.join(changed)}`"


# --- the order of widgets ---

def misplaced(known: dict[str, list[str]], now: dict[str, list[str]]) -> list[str]:
    """Nodes whose widgets do not begin with those that they have had."""
    return [name for name, order in known.items() if name in now and now[name][:len(order)] != order]


def gone(known: dict[str, list[str]], now: dict[str, list[str]], renamed: Collection[str]) -> list[str]:
    """Nodes that saved workflows name, and that neither are there nor have a replacement."""
    return [name for name in known if name not in now and name not in renamed]


def test_node_ids_are_kept_for_good():
    known, now = json.loads(WIDGETS.read_text(encoding="utf-8")), widgets()
    assert not gone(known, now, [one["old_node_id"] for one in pack.renamed()])
    assert list(known) == [name for name in now if name in known], "not in the order of the menu: run `python tests/test_sharing.py widgets`"


def test_widgets_keep_their_places():
    known, now = json.loads(WIDGETS.read_text(encoding="utf-8")), widgets()
    assert not misplaced(known, now), "saved workflows keep values by place: new widgets go last"
    assert known == {name: now[name] for name in known if name in now}, "new widgets: run `python tests/test_sharing.py widgets`"


def test_a_widget_that_moved_is_noticed():
    assert misplaced({"A": ["x", "y"], "B": []}, {"A": ["x", "y", "z"], "B": ["q"]}) == []
    assert gone({"A": [], "B": [], "C": []}, {"A": []}, ["C"]) == ["B"]
    assert misplaced({"A": ["x", "y"]}, {"A": ["y", "x"]}) == misplaced({"A": ["x", "y"]}, {"A": ["x"]}) == ["A"]


# --- keeping ---

def keep_widgets() -> None:
    known, now = json.loads(WIDGETS.read_text(encoding="utf-8")) if WIDGETS.exists() else {}, widgets()
    moved = misplaced(known, now)
    if moved:
        sys.exit(f"not written, for saved workflows keep values by place: {', '.join(moved)}; new widgets go last")
    if lost := gone(known, now, [one["old_node_id"] for one in pack.renamed()]):
        sys.exit(f"not written, for saved workflows name them: {', '.join(lost)}; a node that is renamed is listed in nodes/replacements.py")
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(order)}" for name, order in now.items())
    WIDGETS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def keep_release() -> None:
    folder = GOLDEN / own_version()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()  # also of examples that are no longer shipped
    paths = sorted((ROOT / "example_workflows").glob("*.json"))
    for path in paths:
        shutil.copy(path, folder / path.name)
    prompts = ",\n".join(f"  {json.dumps(path.stem)}: {json.dumps(prompt_of(path), ensure_ascii=False)}" for path in paths)
    (folder / "prompts.json").write_text(f"{{\n{prompts}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    {"widgets": keep_widgets, "release": keep_release}[sys.argv[1]]()
