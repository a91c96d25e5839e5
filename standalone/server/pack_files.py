"""What the browser loads: the front end's own files, and what this pack adds to them."""

import hashlib
import json
from pathlib import Path
import re
from typing import Any, Container

from aiohttp import web

from .. import pack
from .state import STATE, Route, inside, missing

ROOT = Path(__file__).parents[2]
# The pack's folder in ComfyUI, and the module whose last part the front end takes for it when it looks for a help page.
PACK, MODULE = "dit-blocks", pack.PYTHON_MODULE.rpartition(".")[2]
WEB, EXAMPLES, SUBGRAPHS, LOCALES = ROOT / "web", ROOT / "example_workflows", ROOT / "subgraphs", ROOT / "locales"
FIRST_EXAMPLE = "start_here"
BEEN_HERE = "dit-blocks-been-here"


def send(folder: Path, name: str) -> web.FileResponse:
    """Send a file below `folder`. The browser asks for it again each time, because it may have been edited."""
    path = inside(folder, name)
    if not path.is_file():
        raise missing(f"there is no file {name!r}")
    return web.FileResponse(path, headers={"Cache-Control": "no-cache"})


# --- the front end ---

async def start_page(request: web.Request) -> web.StreamResponse:
    """Send the front end. A browser that comes for the first time would show ComfyUI's own first workflow, whose nodes are not here."""
    if not request.query_string and BEEN_HERE not in request.cookies:
        first = web.Response(status=302, headers={"Location": f"/?template={FIRST_EXAMPLE}&source={PACK}"})
        # A browser that has something of its own to restore never gets these settings, and should not be sent here twice.
        first.set_cookie(BEEN_HERE, "yes", samesite="Strict")
        return first
    return send(request.app[STATE].front_end, "index.html")


async def front_end(request: web.Request) -> web.StreamResponse:
    return send(request.app[STATE].front_end, request.match_info["path"])


async def no_styles(request: web.Request) -> web.Response:
    """An empty style sheet: the page asks for user styles."""
    return web.Response(content_type="text/css")


async def core_templates(request: web.Request) -> web.StreamResponse:
    """The index of templates, with one of this pack in place of ComfyUI's, whose nodes are not here."""
    name = request.match_info["name"]
    if name == "index_logo.json":
        return web.json_response({})
    if name.startswith("index"):
        return web.json_response(_categories(request.app[STATE].executor.classes))
    return send(EXAMPLES, name.replace("-1.jpg", ".jpg"))


def _title(workflow: dict, name: str) -> tuple[str, str]:
    """An example's title and its first sentence, as its note says them; its name where it has no note."""
    note = next((node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"), "")
    heading, _, rest = note.partition("\n")
    said = re.sub(r"[*_]|\[|\]\([^)]*\)", "", rest.strip().partition("\n")[0])
    return heading.lstrip("# ").replace(" · ", " ") or name, said


def _runnable(classes: Container[str]) -> dict[str, dict]:
    """The examples of which all nodes are here: name → workflow, Start here and the lessons first."""
    found = {}
    for path in sorted(EXAMPLES.glob("*.json"), key=lambda path: (path.stem != FIRST_EXAMPLE, not path.stem.startswith("learn_"), path.stem)):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        subgraphs = workflow.get("definitions", {}).get("subgraphs", [])
        own = {"MarkdownNote", *(one["id"] for one in subgraphs)}
        if all(node["type"] in own or node["type"] in classes for one in (workflow, *subgraphs) for node in one["nodes"]):
            found[path.stem] = workflow
    return found


def _categories(classes: Container[str]) -> list[dict]:
    """The front end's index of templates: the course, and the other examples, by their titles."""
    course, others = [], []
    for name, workflow in _runnable(classes).items():
        title, description = _title(workflow, name)
        is_lesson = name == FIRST_EXAMPLE or name.startswith("learn_")
        (course if is_lesson else others).append({"name": name, "title": title, "description": description,
                                                  "mediaType": "image", "mediaSubtype": "jpg"})
    return [{"moduleName": "default", "title": title, "type": "image", "isEssential": title == "Course", "templates": templates}
            for title, templates in (("Course", course), ("Examples", others))]


# --- the pack ---

async def extensions(request: web.Request) -> web.Response:
    """The addresses of the pack's JavaScript files."""
    return web.json_response([f"/extensions/{PACK}/{path.relative_to(WEB).as_posix()}" for path in sorted(WEB.rglob("*.js"))])


async def extension_file(request: web.Request) -> web.StreamResponse:
    return send(WEB, request.match_info["path"])


async def templates(request: web.Request) -> web.Response:
    return web.json_response({PACK: list(_runnable(request.app[STATE].executor.classes))})


async def template_file(request: web.Request) -> web.StreamResponse:
    return send(EXAMPLES, request.match_info["path"])


def _blueprints() -> dict[str, Path]:
    """The subgraphs by the ids that the front end knows them by."""
    return {hashlib.sha256(f"{PACK}/{path.name}".encode()).hexdigest(): path for path in sorted(SUBGRAPHS.glob("*.json"))}


def _described(path: Path) -> dict:
    return {"source": "custom_node", "name": path.stem, "info": {"node_pack": f"custom_nodes.{PACK}"}}


async def subgraphs(request: web.Request) -> web.Response:
    return web.json_response({id: _described(path) for id, path in _blueprints().items()})


async def subgraph(request: web.Request) -> web.Response:
    path = _blueprints().get(request.match_info["id"])
    if path is None:
        raise missing(f"there is no subgraph {request.match_info['id']!r}")
    return web.json_response(_described(path) | {"data": path.read_text(encoding="utf-8")})


async def translations(request: web.Request) -> web.Response:
    """Language → the texts in locales/: those of main.json, and of the other files under their names."""
    languages = sorted(folder for folder in LOCALES.iterdir() if folder.is_dir()) if LOCALES.is_dir() else []
    return web.json_response({folder.name: texts for folder in languages if (texts := _texts(folder))})


def _texts(folder: Path) -> dict[str, Any]:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    return found.pop("main", {}) | {name: found[name] for name in ("nodeDefs", "commands", "settings") if found.get(name)}


async def replacements(request: web.Request) -> web.Response:
    """Old id → the nodes that take its place."""
    return web.json_response({entry["old_node_id"]: [entry] for entry in pack.renamed()})


ROUTES: list[Route] = [
    ("GET", "/extensions", extensions), ("GET", "/workflow_templates", templates),
    ("GET", f"/workflow_templates/{PACK}/{{path:.+}}", template_file),
    ("GET", "/global_subgraphs", subgraphs), ("GET", "/global_subgraphs/{id}", subgraph),
    ("GET", "/i18n", translations), ("GET", "/node_replacements", replacements),
]
# Asked for without /api: what is named last answers whatever nothing else has.
PAGES: list[Route] = [
    ("GET", "/", start_page), ("GET", "/user.css", no_styles), ("GET", "/templates/{name}", core_templates),
    ("GET", f"/extensions/{{pack:{PACK}|{MODULE}}}/{{path:.+}}", extension_file),
    ("GET", "/{path:(?!api/|internal/).+}", front_end),
]
