"""What all routes share."""

from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any, Awaitable, Callable

from aiohttp import web

from ..errors import one_line
from ..executor import Executor
from ..folders import Folders
from .jobs import Jobs
from .sockets import Sockets

MB = 1024 * 1024
Route = tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]


@dataclass
class State:
    """`user` holds settings and saved workflows, `front_end` the front end's files; `max_upload` is in bytes; `local`: only
    this machine can reach the server."""

    executor: Executor
    jobs: Jobs
    sockets: Sockets
    user: Path
    front_end: Path
    max_upload: int
    local: bool

    @property
    def folders(self) -> Folders:
        return self.executor.folders


STATE = web.AppKey("state", State)


def inside(folder: Path, *parts: str) -> Path:
    """The path of `parts` below `folder`; 403 where it leaves it, by `..`, as an absolute path or over a link."""
    try:
        path = Path(folder, *parts).resolve()
    except (ValueError, OSError, RuntimeError) as error:
        raise web.HTTPBadRequest(text=f"path {'/'.join(parts)!r}: {one_line(error)}") from error
    if not path.is_relative_to(folder.resolve()):
        raise web.HTTPForbidden(text=f"path {'/'.join(parts)!r} leaves the folder {folder.name}")
    return path


async def json_body(request: web.Request) -> Any:
    """The JSON in a request's body; 400 where it is none."""
    try:
        return json.loads(await request.text())
    except (ValueError, RecursionError, LookupError) as error:
        raise web.HTTPBadRequest(text=f"the request's body is not JSON: {one_line(error)}") from error


async def json_object(request: web.Request) -> dict:
    """The JSON object in a request's body, an empty one where there is no body; 400 for anything else."""
    body = await json_body(request) if request.can_read_body else {}
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the request's body is not a JSON object")
    return body
