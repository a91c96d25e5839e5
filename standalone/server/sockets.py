"""The browsers that listen, and the messages on their way to them: sent from any thread, delivered in order."""

import asyncio
from contextlib import suppress
from io import BytesIO
import json
import struct
from typing import Any, Mapping

from aiohttp import web
from PIL import Image

# Numbers that ComfyUI gives to its binary messages and, in the first of them, to JPEG.
PREVIEW, PREVIEW_WITH_METADATA = 1, 4
JPEG = 1


class Sockets:
    def __init__(self):
        self.open: dict[str, web.WebSocketResponse] = {}
        self.take_metadata: set[str] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waiting: asyncio.Queue[tuple[str | None, str | bytes]] = asyncio.Queue()

    def send(self, kind: str, data: Any, client: str | None = None) -> None:
        """A message to one browser, or to all of them."""
        self._post(json.dumps({"type": kind, "data": data}), client)

    def send_preview(self, picture: Image.Image, metadata: Mapping[str, Any], client: str) -> None:
        """A picture of a step; a browser that can take it learns the node that drew it."""
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
                self.loop.call_soon_threadsafe(self.waiting.put_nowait, (client, message))

    async def deliver(self) -> None:
        """Send what is waiting, for ever."""
        while True:
            client, message = await self.waiting.get()
            for socket in list(self.open.values()) if client is None else [self.open.get(client)]:
                # A browser may leave at any moment; its handler notices.
                with suppress(ConnectionError, RuntimeError):
                    if socket is not None:
                        await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))

    def hear(self, client: str, text: str, features: Mapping[str, Any]) -> None:
        """A browser says what it can take, and is told what the server can do."""
        with suppress(ValueError, AttributeError):
            message = json.loads(text)
            if message.get("type") == "feature_flags":
                if message.get("data", {}).get("supports_preview_metadata") is True:
                    self.take_metadata.add(client)
                self.send("feature_flags", dict(features), client)

    async def close(self) -> None:
        for socket in list(self.open.values()):
            await socket.close()
