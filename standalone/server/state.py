"""What all routes share: the server's state, paths that stay inside a folder, and JSON that can be written out again."""

import asyncio
from dataclasses import dataclass, field
import errno
import json
import math
from pathlib import Path
from typing import Any, Awaitable, Callable

from aiohttp import web

from ..errors import one_line, plain, shown
from ..executor import Executor
from ..folders import Folders
from .jobs import Jobs
from .sockets import Sockets

MB = 1024 * 1024
DEEPEST = 100  # lists in lists: a workflow has some ten
Route = tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]


@dataclass
class State:
    """`user` holds settings and saved workflows, `front_end` the front end's files; `max_upload` is in bytes; `local`: only
    this machine can reach the server; `silent`: new connections over which no request has come."""

    executor: Executor
    jobs: Jobs
    sockets: Sockets
    user: Path
    front_end: Path
    max_upload: int
    local: bool
    silent: set[asyncio.Protocol] = field(default_factory=set)

    @property
    def folders(self) -> Folders:
        return self.executor.folders


STATE = web.AppKey("state", State)


def bad(why: str) -> web.HTTPBadRequest:
    """400 with a reason, in one line whatever values are in it."""
    return web.HTTPBadRequest(text=plain(why))


def missing(why: str) -> web.HTTPNotFound:
    """404 with a reason, in one line whatever values are in it."""
    return web.HTTPNotFound(text=plain(why))


def inside(folder: Path, *parts: str) -> Path:
    """The path of `parts` below `folder`; 403 if it leaves the folder (by `..`, as an absolute path or over a link), 400 if no file can
    have this name."""
    name = shown("/".join(parts))
    try:
        path = Path(folder, *parts).resolve()
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (ValueError, OSError, RuntimeError) as error:
        too_long = getattr(error, "errno", None) == errno.ENAMETOOLONG
        raise bad(f"path {name}: {'the name is too long' if too_long else one_line(error)}") from error
    if not path.is_relative_to(folder.resolve()):
        raise web.HTTPForbidden(text=f"path {name} leaves the folder {folder.name}")
    return path


async def json_body(request: web.Request) -> Any:
    """The JSON in a request's body; 400 if it is none, or can't be written out again as JSON: a browser could not read the answer."""
    try:
        body = json.loads(await request.text(), parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError, LookupError) as error:
        raise bad(f"the request's body is not JSON: {one_line(error)}") from error
    level, depth = [body], 0
    while level:
        holders = [value.values() if isinstance(value, dict) else value for value in level if isinstance(value, (list, dict))]
        level, depth = [item for holder in holders for item in holder], depth + 1
        if depth > DEEPEST:
            raise bad(f"the request's body is nested more than {DEEPEST} deep")
    return body


def _number(text: str) -> float:
    """Python also reads and writes NaN and Infinity, which are no JSON."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{plain(text, 20)} is no number in JSON")
    return value


async def json_object(request: web.Request) -> dict:
    """The JSON object in a request's body, an empty one if there is no body; 400 for anything else."""
    body = await json_body(request) if request.can_read_body else {}
    if not isinstance(body, dict):
        raise bad("the request's body is not a JSON object")
    return body
