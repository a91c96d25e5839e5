"""The web application: all routes, and who may use them."""

import asyncio
from contextlib import suppress
import ipaddress
from typing import AsyncIterator
from urllib.parse import urlsplit

from aiohttp import web

from ..errors import shown
from ..folders import use
from . import about, files, job_routes, pack_files, user
from .state import MB, STATE, State
from .worker import Worker

# Seconds to wait, when the server stops, for the step that a job is at.
LONGEST_STEP = 5
# What the front end's pages may load: it compiles shaders and templates ('unsafe-eval'), and has programs and styles in its HTML.
POLICY = "; ".join(("default-src 'self'", "script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:",
                    "style-src 'self' 'unsafe-inline'", "img-src 'self' data: blob:", "media-src 'self' data: blob:", "font-src 'self' data:",
                    "connect-src 'self' data: blob:", "worker-src 'self' blob:", "object-src 'none'", "base-uri 'self'", "form-action 'self'",
                    "frame-ancestors 'self'"))


def make(state: State) -> web.Application:
    """The pack has to be loaded: its own routes are among these."""
    from ...nodes.routes import ROUTES

    app = web.Application(middlewares=[own_pages_only, one_line_refusals, in_folders], client_max_size=state.max_upload)
    app[STATE] = state
    routes = [*about.ROUTES, *files.ROUTES, *job_routes.ROUTES, *pack_files.ROUTES, *user.ROUTES, *ROUTES]
    both = [(method, before + path, handler) for before in ("/api", "") for method, path, handler in routes]
    app.add_routes([web.route(method, path, handler) for method, path, handler in [*both, *pack_files.PAGES]])
    app.on_response_prepare.append(_keep_to_own_files)
    app.cleanup_ctx.append(_work)
    app.on_shutdown.append(_leave)
    return app


async def _work(app: web.Application) -> AsyncIterator[None]:
    """While the server runs, so does the thread that runs jobs."""
    state = app[STATE]
    state.sockets.loop = asyncio.get_running_loop()
    worker = Worker(state.executor, state.jobs, state.sockets)
    worker.start()
    yield
    await asyncio.to_thread(worker.join, LONGEST_STEP)


async def _leave(app: web.Application) -> None:
    """Browsers and jobs would keep the server from stopping."""
    app[STATE].jobs.close()
    await app[STATE].sockets.close()


# --- who may use it, and how it is refused ---

async def _keep_to_own_files(request: web.Request, response: web.StreamResponse) -> None:
    """No page runs a program, or talks to a server, that is not this one's: not even if a workflow gets foreign HTML into it."""
    response.headers.setdefault("Content-Security-Policy", POLICY)


@web.middleware
async def own_pages_only(request: web.Request, handler) -> web.StreamResponse:
    """A page of another site may not use a server on its reader's machine, not even under a name that leads here."""
    request.app[STATE].silent.discard(request.protocol)
    host = request.host.lower()
    if request.app[STATE].local and not _is_loopback(host):
        raise web.HTTPForbidden(text=f"host {shown(host)} is not this machine; to be reached under other names, start with --listen")
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin.lower().partition("://")[2] != host
    if foreign or request.headers.get("Sec-Fetch-Site") == "cross-site":
        raise web.HTTPForbidden(text=f"a page of another site asks: {shown(origin) if origin else 'its origin is not told'}")
    return await handler(request)


def _is_loopback(host: str) -> bool:
    """Whether `name:port` is this machine under a name that no one else can give it."""
    with suppress(ValueError):
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    return False


@web.middleware
async def one_line_refusals(request: web.Request, handler) -> web.StreamResponse:
    """What is too large is told in megabytes, and with the option that allows more. The front end shows its user no more of a
    refusal than the reason beside its number: why it is refused stands there too."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        most = request.app[STATE].max_upload
        refusal = web.HTTPRequestEntityTooLarge(most, most, text=f"this is larger than {most / MB:g} MB, the most that --max-upload allows")
    except web.HTTPClientError as error:
        refusal = error
    refusal.set_status(refusal.status, " ".join(refusal.text.encode("ascii", "replace").decode().split()))
    raise refusal


@web.middleware
async def in_folders(request: web.Request, handler) -> web.StreamResponse:
    """Nodes that are asked for their inputs list the files of this server's folders."""
    with use(request.app[STATE].folders):
        return await handler(request)
