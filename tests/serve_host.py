"""The front end's server as a host for tests, with what tests/comfyui_host.py gives of a real ComfyUI."""

import asyncio
import copy
import json
from pathlib import Path
import re
import subprocess
import sys
import time

import aiohttp
from comfyui_host import ROOT, Host

from dit_blocks.standalone import pack
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.workflow import read_workflow

TYPES = {name: NodeType(name, cls) for name, cls in pack.load().items()}
EXAMPLE = ROOT / "example_workflows" / "text_to_image.json"
FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


class Serve(Host):
    """A running `dit-blocks serve`."""

    def __init__(self, base: Path, *options: str):
        """`base` becomes its folder of models, inputs, outputs and settings."""
        self.base, self.log_path = base, base / "log.txt"
        base.mkdir(parents=True, exist_ok=True)
        folders = [word for name, below in (("input", "input"), ("out", "output"), ("models", "models"), ("user", "user"))
                   for word in (f"--{name}", str(base / below))]
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "dit_blocks.standalone.cli", "serve", "--port", "0", *folders,
                                             *options], stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 120
        while not (found := re.search(r"http://\S+", self.log())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dit-blocks serve did not start:\n{self.log()[-3000:]}")
            time.sleep(0.1)
        self.url = found[0]


def prompt(path: Path = EXAMPLE, **inputs) -> dict:
    """An example, small and short, with some inputs set wherever they are."""
    nodes = copy.deepcopy(read_workflow(path, TYPES).prompt)
    for node in nodes.values():
        for name, value in ({"steps": 2, "width": 64, "height": 64} | inputs).items():
            if name in node["inputs"]:
                node["inputs"][name] = value
    return nodes


async def ask(session, method: str, path: str, **options) -> tuple[int, str | dict]:
    async with session.request(method, path, **options) as answer:
        text = await answer.text(errors="replace")
        return answer.status, json.loads(text) if answer.content_type == "application/json" else text


def asked(server, method: str, path: str, **options) -> tuple[int, str | dict]:
    async def once():
        async with aiohttp.ClientSession(server.url) as session:
            return await ask(session, method, path, **options)
    return asyncio.run(once())


def view(server, **query) -> tuple[int, bytes]:
    async def once():
        async with aiohttp.ClientSession(server.url) as session, session.get("/api/view", params=query) as answer:
            return answer.status, await answer.read()
    return asyncio.run(once())


class Browser:
    """A websocket, and the session to ask in beside it."""

    def __init__(self, server, client="one", flags=True):
        self.server, self.client, self.flags = server, client, flags

    async def __aenter__(self):
        self.session = aiohttp.ClientSession(self.server.url)
        self.socket = await self.session.ws_connect(f"/ws?clientId={self.client}")
        assert (await self.hear())[1]["sid"] == self.client
        if self.flags:
            await self.socket.send_json(FLAGS)
            assert (await self.hear())[0] == "feature_flags"
        return self

    async def __aexit__(self, *error):
        await self.session.close()

    async def hear(self) -> tuple[str, dict | bytes]:
        message = await self.socket.receive(60)
        if message.type == aiohttp.WSMsgType.BINARY:
            return "picture", message.data
        assert message.type == aiohttp.WSMsgType.TEXT, message
        return tuple(json.loads(message.data).values())

    async def queue(self, nodes: dict, **more) -> str:
        status, answer = await ask(self.session, "POST", "/api/prompt", json={"prompt": nodes, "client_id": self.client, **more})
        assert status == 200 and answer["node_errors"] == {}, answer
        return answer["prompt_id"]

    async def hear_until(self, last: str) -> list[tuple[str, dict | bytes]]:
        heard = []
        while not heard or heard[-1][0] != last:
            heard.append(await self.hear())
        return heard

    async def run(self, nodes: dict, **more) -> tuple[str, list]:
        """→ the job's id and all that was heard of it."""
        id, heard = await self.queue(nodes, **more), []
        while not heard or heard[-1][0] != "executing" or heard[-1][1]["node"] is not None:
            heard.append(await self.hear())
        return id, heard
