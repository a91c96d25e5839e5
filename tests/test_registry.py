"""What the Comfy registry and ComfyUI-Manager read: the fields of pyproject.toml, by comfy-cli's rules, the pictures, and the archive."""

import ast
from pathlib import Path
import re
import subprocess
import tomllib

from PIL import Image
import pytest

import dit_blocks

ROOT = Path(dit_blocks.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMFY = PROJECT["tool"]["comfy"]
SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")
ACCELERATORS = {"GPU :: NVIDIA CUDA", "GPU :: AMD ROCm", "GPU :: Intel Arc", "NPU :: Huawei Ascend", "GPU :: Apple Metal"}
AT_RUN_TIME = {"__init__.py", "dit_impl", "nodes", "standalone", "web", "locales", "example_workflows", "subgraphs", "models"}
TO_READ = {"pyproject.toml", "requirements.txt", "README.md", "README.zh.md", "CHANGELOG.md", "LICENSE"}


def values(prefix: str) -> list[str]:
    return [each.removeprefix(prefix) for each in PROJECT["project"]["classifiers"] if each.startswith(prefix)]


def picture(url: str) -> Image.Image:
    """The file in this repository that an address on GitHub shows."""
    start = PROJECT["project"]["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
    assert url.startswith(start), url
    path = ROOT / url.removeprefix(start)
    assert path.stat().st_size <= 64 * 1024
    return Image.open(path)


def test_diffusers_is_all_that_the_pack_brings_and_it_has_no_upper_bound():
    assert "dynamic" not in PROJECT["project"]  # the registry would read an empty list
    (only,) = PROJECT["project"]["dependencies"]
    assert re.fullmatch(r"diffusers>=\d+\.\d+", only)


def test_requirements_for_cloned_packs_are_the_same():
    assert (ROOT / "requirements.txt").read_text(encoding="utf-8").split() == PROJECT["project"]["dependencies"]


def test_the_fields_of_the_registry():
    project = PROJECT["project"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", project["name"]) and "comfyui" not in project["name"] and len(project["name"]) < 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (ROOT / project["license"]["file"]).is_file() and project["description"]
    assert COMFY["PublisherId"] and COMFY["DisplayName"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", COMFY["requires-comfyui"])
    assert "web" not in COMFY and dit_blocks.WEB_DIRECTORY  # both, and every script is loaded twice


def test_classifiers_are_of_those_that_the_registry_takes():
    """One that it does not know empties the whole list."""
    systems, accelerators = values("Operating System :: "), values("Environment :: ")
    assert systems and all(system.startswith(SYSTEMS) for system in systems)
    assert accelerators and set(accelerators) <= ACCELERATORS


def test_icon_and_banner():
    icon, banner = picture(COMFY["Icon"]), picture(COMFY["Banner"])
    assert icon.format == banner.format == "PNG"
    assert icon.size == (400, 400) and banner.width / banner.height == pytest.approx(21 / 9)


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert first == PROJECT["project"]["version"]


def test_comfy_cli_reads_what_is_written():
    parser = pytest.importorskip("comfy_cli.registry.config_parser", reason="no comfy-cli (pip install comfy-cli)")
    project, comfy = (read := parser.extract_node_configuration(str(ROOT / "pyproject.toml"))).project, read.tool_comfy
    assert (project.name, project.version) == (PROJECT["project"]["name"], PROJECT["project"]["version"])
    assert list(project.dependencies) == PROJECT["project"]["dependencies"]
    assert (project.supported_os, project.supported_accelerators) == (values("Operating System :: "), values("Environment :: "))
    assert project.supported_comfyui_version == COMFY["requires-comfyui"] and project.license.file == "LICENSE"
    assert project.urls.repository == PROJECT["project"]["urls"]["Repository"]
    assert (comfy.publisher_id, comfy.display_name) == (COMFY["PublisherId"], COMFY["DisplayName"])
    assert (comfy.icon, comfy.banner_url) == (COMFY["Icon"], COMFY["Banner"])


def listed(*options: str) -> set[str]:
    """Files of the repository, as git lists them."""
    try:
        done = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", *options], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git repository here")
    return set(filter(None, done.stdout.split("\0")))


def test_the_archive_holds_what_runs_and_no_more():
    packed = listed() - listed("--cached", "--ignored", f"--exclude-from={ROOT / '.comfyignore'}")
    packed = {name for name in packed if (ROOT / name).exists()}
    assert {name.split("/")[0] for name in packed} == AT_RUN_TIME | TO_READ
    assert all(name in packed for name in listed(*AT_RUN_TIME) if (ROOT / name).exists())
    assert {f"models/embedded/{part}.safetensors" for part in ("dit", "vae", "text")} <= packed
    assert sum((ROOT / name).stat().st_size for name in packed) < 40e6


def test_no_code_that_the_registry_warns_of():
    """Its check is ruff's S102, S307 and E702: exec, eval, several statements in a line."""
    for path in sorted(path for folder in ("dit_impl", "nodes", "standalone") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("exec", "eval")), path
            for body in (getattr(node, part, None) for part in ("body", "orelse", "finalbody")):
                lines = [statement.lineno for statement in body] if isinstance(body, list) else []
                assert len(lines) == len(set(lines)), f"{path}: two statements in line {lines}"
