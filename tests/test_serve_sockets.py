"""Browsers that vanish without a word: a cut cable, a machine put to sleep. No close, no reset, no answer."""

import asyncio
from contextlib import asynccontextmanager
import json
import socket

import pytest

aiohttp = pytest.importorskip("aiohttp", reason="no aiohttp (pip install 'dit-blocks[standalone]')")

from aiohttp import web  # noqa: E402
from aiohttp.test_utils import TestServer  # noqa: E402

from dit_blocks.standalone.server import sockets as module  # noqa: E402

LARGE = "x" * 1_000_000


@asynccontextmanager
async def serving():
    """→ Sockets behind a server that only listens, and the server."""
    sockets = module.Sockets()

    async def listen(request):
        async with sockets.listening(request.query["clientId"], request) as heard:
            async for _ in heard:
                pass
        return heard
    app = web.Application()
    app.add_routes([web.get("/ws", listen)])
    async with TestServer(app) as server:
        sockets.loop = asyncio.get_running_loop()
        yield sockets, server


def vanished(server, client: str) -> socket.socket:
    """A browser of which nothing is left but its open connection: it neither reads nor answers."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((server.host, server.port))
    connection.sendall(f"GET /ws?clientId={client} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode())
    return connection


async def until(held) -> None:
    async with asyncio.timeout(20):
        while not held():
            await asyncio.sleep(0.02)


def test_one_that_takes_no_message_holds_no_other_and_is_cut_off(monkeypatch):
    monkeypatch.setattr(module, "LONGEST_SEND", 1)

    async def run():
        async with serving() as (sockets, server), aiohttp.ClientSession() as session:
            with vanished(server, "gone"):
                await until(lambda: "gone" in sockets.open)
                other = await session.ws_connect(server.make_url("/ws?clientId=other"), max_msg_size=0)
                await until(lambda: "other" in sockets.open)
                for _ in range(20):
                    sockets.send("step", LARGE)
                sockets.send("last", {})
                heard = [json.loads((await other.receive(20)).data)["type"] for _ in range(21)]
                held = "gone" in sockets.open
                await until(lambda: "gone" not in sockets.open)
                sockets.send("after", {})
                return [*heard, json.loads((await other.receive(20)).data)["type"]], held
    assert asyncio.run(run()) == (20 * ["step"] + ["last", "after"], True)


def test_one_that_answers_no_ping_is_forgotten(monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.4)

    async def run():
        async with serving() as (sockets, server), aiohttp.ClientSession() as session:
            with vanished(server, "gone"):
                other = await session.ws_connect(server.make_url("/ws?clientId=other"))
                listening = asyncio.create_task(other.receive())  # and so answers pings
                await until(lambda: len(sockets.open) == 2)
                await until(lambda: "gone" not in sockets.open)
                await asyncio.sleep(1)
                assert "other" in sockets.open and not listening.done()
                listening.cancel()
    asyncio.run(run())


def test_the_server_stops_though_browsers_never_say_good_bye(monkeypatch):
    monkeypatch.setattr(module, "LONGEST_CLOSE", 0.5)
    left = []

    async def never(socket):
        try:
            await asyncio.Event().wait()
        finally:
            left.append(socket)

    async def run():
        async with serving() as (sockets, server):
            with vanished(server, "a"), vanished(server, "b"):
                await until(lambda: len(sockets.open) == 2)
                with monkeypatch.context() as patched:
                    patched.setattr(web.WebSocketResponse, "close", never)
                    async with asyncio.timeout(60):
                        await sockets.close()
                assert len(left) == 2
    asyncio.run(run())
