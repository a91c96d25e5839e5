"""The web application: its routes, and which requests are refused."""

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
                    "style-src 'self' 'unsafe-inline'", "img-src 'self' data: blob:", "media-src 'self' data: blob:",
                    "font-src 'self' data:", "connect-src 'self' data: blob:", "worker-src 'self' blob:", "object-src 'none'",
                    "base-uri 'self'", "form-action 'self'", "frame-ancestors 'self'"))


def make(state: State) -> web.Application:
    """Make the application. The pack must be loaded before, because its routes are included."""
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
    """Run the job thread as long as the server runs."""
    state = app[STATE]
    state.sockets.loop = asyncio.get_running_loop()
    worker = Worker(state.executor, state.jobs, state.sockets)
    worker.start()
    yield
    await asyncio.to_thread(worker.join, LONGEST_STEP)


async def _leave(app: web.Application) -> None:
    """Stop jobs and close websockets, which would keep the server running."""
    app[STATE].jobs.close()
    await app[STATE].sockets.close()


# --- who may use it, and how it is refused ---

async def _keep_to_own_files(request: web.Request, response: web.StreamResponse) -> None:
    """Allow pages to load scripts from this server only and to connect only to it, even if a workflow brings foreign HTML."""
    response.headers.setdefault("Content-Security-Policy", POLICY)


@web.middleware
async def own_pages_only(request: web.Request, handler) -> web.StreamResponse:
    """Refuse requests from pages of other sites, also under a foreign host name that resolves to this machine."""
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
    """Whether `name:port` is localhost or a loopback address."""
    with suppress(ValueError):
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    return False


@web.middleware
async def one_line_refusals(request: web.Request, handler) -> web.StreamResponse:
    """Put the cause of a refusal into the HTTP reason, because the front end shows only that. A body that is too large is told in
    megabytes, with the option that allows more."""
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
    """Use this server's folders while a request is answered: nodes list their files as choices."""
    with use(request.app[STATE].folders):
        return await handler(request)
