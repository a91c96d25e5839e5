"""The user's settings and files: saved workflows, styles, whatever the front end keeps."""

import json
from pathlib import Path

from aiohttp import web

from ...dit_impl.sources.atomic import reason, replace_atomically
from ..errors import shown
from .state import STATE, Route, bad, inside, json_body, json_object, missing

SETTINGS = "comfy.settings.json"
# Files that the front end reads unasked, and what it finds where the user has none.
EMPTY = {"user.css": "", "comfy.templates.json": "[]", "workflows/.index.json": '{"favorites": []}'}


def home(request: web.Request) -> Path:
    """The folder of the only user, named as in ComfyUI."""
    return request.app[STATE].user / "default"


async def get_user(request: web.Request) -> web.Response:
    return web.json_response({"storage": "server", "migrated": home(request).is_dir()})


# --- settings ---

def settings(request: web.Request) -> dict:
    """The user's settings; empty if the file is missing or broken."""
    try:
        found = json.loads((home(request) / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _save(request: web.Request, changed: dict) -> web.Response:
    _write(home(request) / SETTINGS, json.dumps(settings(request) | changed, indent=4).encode())
    return web.Response()


def _write(path: Path, data: bytes) -> None:
    try:
        replace_atomically(path, lambda aside: aside.write_bytes(data))
    except OSError as error:
        raise bad(f"{shown(path.name)} cannot be saved: {reason(error)}") from error


async def get_settings(request: web.Request) -> web.Response:
    return web.json_response(settings(request))


async def get_setting(request: web.Request) -> web.Response:
    return web.json_response(settings(request).get(request.match_info["id"]))


async def post_settings(request: web.Request) -> web.Response:
    return _save(request, await json_object(request))


async def post_setting(request: web.Request) -> web.Response:
    return _save(request, {request.match_info["id"]: await json_body(request)})


# --- files ---

def _file(request: web.Request, name: str = "file", exists: bool = True) -> Path:
    path = inside(home(request), request.match_info[name])
    if exists and not path.is_file():
        raise missing(f"there is no file {shown(request.match_info[name])}")
    own = home(request).resolve()
    # The user's folder need not be there yet, nor the settings; a file in place of the one, or below the other, would keep both away.
    if path.is_dir() or path == own or own / SETTINGS in path.parents:
        raise bad(f"{shown(request.match_info[name])} is the name of a folder, or below a file")
    return path


def _named(request: web.Request, path: Path, below: Path | None = None) -> dict | str:
    """A file's path, or with `full_info` also its size and times."""
    name = path.relative_to((below or home(request)).resolve()).as_posix()
    if request.query.get("full_info", "").lower() != "true":
        return name
    facts = path.stat()
    return {"path": name, "size": facts.st_size, "modified": int(facts.st_mtime * 1000), "created": int(facts.st_ctime * 1000)}


def _free(request: web.Request, path: Path) -> None:
    if path.exists() and request.query.get("overwrite") == "false":
        raise web.HTTPConflict(text=f"there is a file {shown(path.name)} already")


async def list_files(request: web.Request) -> web.Response:
    """The files of a folder; with `recurse`, those of the folders in it too; with `split`, each with the parts of its path. Hidden
    ones are the front end's own, and over links none can be read."""
    if not request.query.get("dir"):
        raise bad("dir is missing: the folder to list")
    folder = inside(home(request), request.query["dir"])
    pattern = "**/*" if request.query.get("recurse", "").lower() == "true" else "*"
    files = sorted(path for path in folder.glob(pattern) if path.is_file() and path.resolve() == path)
    names = [_named(request, path, folder) for path in files if "/." not in f"/{path.relative_to(folder).as_posix()}"]
    if request.query.get("split", "").lower() == "true":
        names = [[name, *name.split("/")] if isinstance(name, str) else name for name in names]
    return web.json_response(names)


async def get_file(request: web.Request) -> web.StreamResponse:
    """Send a file as a download, so that nothing a user saved runs as a page of this server. Only style sheets are shown."""
    name = request.match_info["file"]
    kinds = {".json": "application/json"} | ({".css": "text/css"} if name in EMPTY else {})
    kind = kinds.get(Path(name).suffix, "application/octet-stream")
    if name in EMPTY and not inside(home(request), name).is_file():
        return web.Response(text=EMPTY[name], content_type=kind)
    return web.FileResponse(_file(request), headers={
        "Content-Type": kind, "Content-Disposition": "inline" if kind == "text/css" else "attachment",
        "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"})


async def post_file(request: web.Request) -> web.Response:
    path = _file(request, exists=False)
    _free(request, path)
    _write(path, await request.read())
    return web.json_response(_named(request, path))


async def delete_file(request: web.Request) -> web.Response:
    _file(request).unlink()
    return web.Response(status=204)


async def move_file(request: web.Request) -> web.Response:
    source, target = _file(request), _file(request, "target", exists=False)
    _free(request, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    except OSError as error:
        raise bad(f"{shown(request.match_info['target'])} cannot be saved: {reason(error)}") from error
    return web.json_response(_named(request, target))


ROUTES: list[Route] = [
    ("GET", "/users", get_user),
    ("GET", "/settings", get_settings), ("POST", "/settings", post_settings),
    ("GET", "/settings/{id}", get_setting), ("POST", "/settings/{id}", post_setting),
    ("GET", "/userdata", list_files), ("GET", "/userdata/{file}", get_file), ("POST", "/userdata/{file}", post_file),
    ("DELETE", "/userdata/{file}", delete_file), ("POST", "/userdata/{file}/move/{target}", move_file),
]
