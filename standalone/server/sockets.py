"""The websockets of browsers. Messages may be sent from any thread and arrive in order."""

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
import json
import struct
from typing import Any, AsyncIterator, Mapping

from aiohttp import web
from PIL import Image

# Numbers that ComfyUI gives to its binary messages and, in the first of them, to JPEG.
PREVIEW, PREVIEW_WITH_METADATA = 1, 4
JPEG = 1
# Seconds. A browser that vanished does not say so: it answers no ping within half of the first, or takes no message within the second.
HEARTBEAT, LONGEST_SEND = 30, 10
# Seconds for all browsers together to say good-bye when the server stops.
LONGEST_CLOSE = 2


@dataclass
class Browser:
    """A websocket and the messages that wait for it."""

    socket: web.WebSocketResponse
    waiting: asyncio.Queue[str | bytes] = field(default_factory=asyncio.Queue)

    async def deliver(self, transport: asyncio.Transport) -> None:
        """Send waiting messages until the browser leaves. A browser that stops reading is disconnected."""
        with suppress(ConnectionError, RuntimeError):
            while True:
                message = await self.waiting.get()
                try:
                    async with asyncio.timeout(LONGEST_SEND):
                        await (self.socket.send_str(message) if isinstance(message, str) else self.socket.send_bytes(message))
                except TimeoutError:
                    transport.abort()
                    return


class Sockets:
    def __init__(self):
        self.open: dict[str, Browser] = {}
        self.take_metadata: set[str] = set()
        self.loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def listening(self, client: str, request: web.Request) -> AsyncIterator[web.WebSocketResponse]:
        """Open a websocket for the messages to `client`, and close it at the end."""
        browser = Browser(web.WebSocketResponse(heartbeat=HEARTBEAT))
        await browser.socket.prepare(request)
        self.open[client] = browser
        self.take_metadata.discard(client)
        delivering = asyncio.create_task(browser.deliver(request.transport))
        try:
            yield browser.socket
        finally:
            delivering.cancel()
            # The same browser may have come back over another socket already.
            if self.open.get(client) is browser:
                del self.open[client]

    def send(self, kind: str, data: Any, client: str | None = None) -> None:
        """A message to one browser, or to all of them."""
        self._post(json.dumps({"type": kind, "data": data}), client)

    def send_preview(self, picture: Image.Image, metadata: Mapping[str, Any], client: str) -> None:
        """Send the preview of a step, with the node that drew it if the browser supports that."""
        if client not in self.open:
            return
        file = BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=95)
        if client in self.take_metadata:
            head = json.dumps({**metadata, "image_type": "image/jpeg"}).encode()
            frame = struct.pack(">II", PREVIEW_WITH_METADATA, len(head)) + head
        else:
            frame = struct.pack(">II", PREVIEW, JPEG)
        self._post(frame + file.getvalue(), client)

    def _post(self, message: str | bytes, client: str | None) -> None:
        # A job may outlive the server that was stopped.
        if self.loop and not self.loop.is_closed():
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._put, message, client)

    def _put(self, message: str | bytes, client: str | None) -> None:
        for browser in self.open.values() if client is None else filter(None, [self.open.get(client)]):
            browser.waiting.put_nowait(message)

    def hear(self, client: str, text: str, features: Mapping[str, Any]) -> None:
        """Read a message of a browser: for its feature flags it gets those of the server."""
        with suppress(ValueError, AttributeError, RecursionError):
            message = json.loads(text)
            if message.get("type") == "feature_flags":
                if message.get("data", {}).get("supports_preview_metadata") is True:
                    self.take_metadata.add(client)
                self.send("feature_flags", dict(features), client)

    async def close(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_CLOSE):
                await asyncio.gather(*(browser.socket.close() for browser in self.open.values()), return_exceptions=True)
