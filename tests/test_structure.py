"""The rules of the layout: who imports whom, what runs at import, and that a node's sockets are its parameters."""

import ast
import asyncio
import inspect
import os
from pathlib import Path
import subprocess
import sys
import tomllib

import pytest

import dit_blocks
from dit_blocks import comfy_entrypoint

ROOT = Path(dit_blocks.__file__).parent
LAYERS = {"dit_impl": {"dit_impl"}, "nodes": {"nodes", "dit_impl"}, "standalone": {"standalone", "nodes", "dit_impl"}}
ROOMS = ("errors", "libraries", "reading", "drawing", "tokens", "model", "sampling", "handle", "step", "sources", "cost", "see", "training")  # bottom up
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def nodes() -> list[type]:
    async def listed():
        return await (await comfy_entrypoint()).get_node_list()
    return asyncio.run(listed())


def imports(path: Path) -> list[tuple[int, str]]:
    """(level, module) of every import in a file; a name taken from a package counts as a module of it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, ".".join(filter(None, (node.module, alias.name)))) for alias in node.names]
    return found


def inside_the_pack(path: Path) -> set[Path]:
    """The pack's own files that a file imports."""
    folder = path.relative_to(ROOT).parent.parts
    found = set()
    for level, module in imports(path):
        if level:
            target = ROOT.joinpath(*folder[:len(folder) - level + 1], *module.split("."))
            found |= {file for file in (target.with_suffix(".py"), target.parent.with_suffix(".py")) if file in FILES}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    inside = path.relative_to(ROOT).parts
    for level, module in imports(path):
        top = module.split(".")[0]
        assert top != "dit_blocks", f"{path}: imports inside the pack are relative"
        if level:
            target = (*inside[:len(inside) - level], *module.split("."))
            assert target[0] in LAYERS[inside[0]] | {"comfy_entrypoint"}, f"{path} imports {'.'.join(target)}"
        if inside[0] == "dit_impl":
            assert top not in ("comfy", "comfy_api", "folder_paths", "nodes"), f"{path} imports the host"
        if inside[0] == "nodes" and inside[1] != "comfyui" and not level:
            assert top not in ("comfy", "folder_paths"), f"{path} imports the host; only nodes/comfyui does"


@pytest.mark.parametrize("path", [path for path in FILES if path.is_relative_to(ROOT / "dit_impl")], ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_of_the_library_import_downward_only(path):
    def floor(file: Path) -> int:
        return ROOMS.index(file.relative_to(ROOT / "dit_impl").parts[0].removesuffix(".py"))
    if path == ROOT / "dit_impl" / "__init__.py":
        return
    for target in inside_the_pack(path):
        assert floor(target) <= floor(path), f"{path.relative_to(ROOT)} imports {target.relative_to(ROOT)}, which is above it"


def test_every_folder_is_packaged():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"])
    folders = {".".join(("dit_blocks", *path.relative_to(ROOT).parent.parts)) for path in FILES}
    assert listed == folders | {"dit_blocks"}


def test_every_file_is_short():
    for path in [*FILES, *(ROOT / "tests").glob("*.py"), *(ROOT / "web").glob("*.js")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_importing_the_pack_and_the_library_needs_no_host_and_says_nothing():
    code = ("import sys; import dit_blocks, dit_blocks.dit_impl.sources.embedded, dit_blocks.standalone.cli; "
            "assert not {'comfy', 'comfy_api', 'dit_blocks.nodes', 'diffusers'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("cls", nodes(), ids=lambda cls: cls.__name__)
def test_sockets_are_the_parameters_of_execute(cls):
    schema = cls.define_schema()
    parameters = inspect.signature(cls.execute).parameters
    assert set(parameters) == {socket.id for socket in schema.inputs}
    for socket in schema.inputs:
        has_default = parameters[socket.id].default is not inspect.Parameter.empty
        assert has_default == bool(socket.optional), f"{socket.id}: a default exactly where the input is optional"
        assert socket.tooltip, f"{socket.id} has no tooltip"
    assert all(output.tooltip for output in schema.outputs) and schema.description


def test_no_file_imports_itself_by_way_of_others():
    safe = set()

    def circle(path: Path, way: tuple[Path, ...]) -> tuple[Path, ...]:
        if path in way:
            return (*way[way.index(path):], path)
        for other in sorted(inside_the_pack(path) - safe):
            if found := circle(other, (*way, path)):
                return found
        safe.add(path)
        return ()
    for path in FILES:
        assert not (found := circle(path, ())), " imports ".join(str(each.relative_to(ROOT)) for each in found)


def test_wires_have_the_keys_that_their_types_name(tmp_path):
    (tmp_path / "dit_blocks").symlink_to(ROOT)  # the pack's folder may have another name
    done = subprocess.run([sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path / "cache"],
                          cwd=tmp_path, env={**os.environ, "MYPYPATH": str(tmp_path)}, capture_output=True, text=True)
    assert "checked" in done.stdout, done.stdout[-2000:] + done.stderr  # it ran to its end
    assert [line for line in done.stdout.splitlines() if "[typeddict-" in line] == []
