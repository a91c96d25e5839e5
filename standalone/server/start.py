"""Starting the server: what it needs, where it listens, and how it ends."""

from argparse import Namespace
import asyncio
from contextlib import suppress
import errno
import importlib.util
import logging
from pathlib import Path
import socket
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
import webbrowser

from ..errors import WorkflowError, one_line
from ..folders import Folders, private_temp

if TYPE_CHECKING:
    from aiohttp import web

MOST_MB = 10_000
LONGEST_WAIT = 20  # seconds for a browser's first request to be whole
FRONT_END = "comfyui_frontend_package"


def serve(arguments: Namespace) -> None:
    """Serve until Ctrl-C. Raises WorkflowError if something is missing."""
    for option in ("input", "out", "models", "user"):
        folder = getattr(arguments, option)
        if folder.exists() and not folder.is_dir():
            raise WorkflowError(f"--{option} {folder}: it is a file, not a folder")
    if not 0 < arguments.max_upload <= MOST_MB:
        raise WorkflowError(f"--max-upload {arguments.max_upload:g}: it is not between 0 and {MOST_MB} MB")
    front_end = _front_end(arguments.front_end)
    if importlib.util.find_spec("aiohttp") is None:
        raise WorkflowError("serve needs aiohttp: pip install aiohttp")
    # Before torch is loaded: a port that is taken is told at once.
    listening = _listen(arguments.listen, arguments.port)
    url = _url(arguments.listen, listening.getsockname()[1])
    from aiohttp import web

    from .. import pack
    from ..executor import Executor
    from .app import make
    from .jobs import Jobs
    from .sockets import Sockets
    from .state import MB, State

    async def tell(app: web.Application) -> None:
        print(f"DiT Blocks is at {url} (Ctrl-C stops it)", flush=True)
        if arguments.open == "yes":
            webbrowser.open(url)

    sockets = Sockets()
    jobs = Jobs(lambda: sockets.send("status", {"status": jobs.status()}))
    # A job that has not stopped yet may still write there.
    with TemporaryDirectory(dir=private_temp(), ignore_cleanup_errors=True) as temp:
        folders = Folders(arguments.input.absolute(), arguments.out.absolute(), Path(temp), arguments.models.absolute())
        executor = Executor(pack.load(), folders, jobs.is_interrupted)
        app = make(State(executor, jobs, sockets, arguments.user.absolute(), front_end, round(arguments.max_upload * MB),
                         _is_local(listening)))
        app.on_startup.append(tell)
        with suppress(web.GracefulExit, KeyboardInterrupt):
            asyncio.run(listen(app, listening))


async def listen(app: "web.Application", listening: socket.socket, longest_wait: float = LONGEST_WAIT) -> None:
    """Serve until this is cancelled. A connection over which no whole request comes is closed."""
    from aiohttp import web
    from aiohttp.http_exceptions import HttpProcessingError

    from .state import STATE

    # What is no HTTP is answered so, and is no error of the server's.
    logging.getLogger("aiohttp.server").addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
    silent = app[STATE].silent
    runner = web.AppRunner(app, handle_signals=True, access_log=None, shutdown_timeout=5, keepalive_timeout=75)
    await runner.setup()
    loop = asyncio.get_running_loop()

    def connection() -> asyncio.Protocol:
        made = runner.server()
        silent.add(made)
        loop.call_later(longest_wait, close_if_silent, made)
        return made

    def close_if_silent(made) -> None:
        if made in silent:
            silent.discard(made)
            made.force_close()

    server = await loop.create_server(connection, sock=listening)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        await runner.cleanup()


def _front_end(folder: Path | None) -> Path:
    """The folder of the front end's files: the given one, or the installed package's. Raises WorkflowError."""
    if folder is not None:
        if not (folder / "index.html").is_file():
            raise WorkflowError(f"--front-end {folder}: there is no index.html in it")
        return folder.absolute()
    package = importlib.util.find_spec(FRONT_END)
    if package is None or package.origin is None:
        raise WorkflowError("serve needs ComfyUI's front end: pip install comfyui-frontend-package, or name its folder with --front-end")
    return Path(package.origin).parent / "static"


def _listen(address: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise WorkflowError(f"port {port} is taken: choose another with --port") from error
        raise WorkflowError(f"cannot listen on {address}, port {port}: {one_line(error)}") from error


def _is_local(listening: socket.socket) -> bool:
    address = listening.getsockname()[0]
    return address == "::1" or address.startswith("127.")


def _url(address: str, port: int) -> str:
    """The address of the server for a browser on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{address}]" if ":" in address else address)
    return f"http://{name}:{port}"
