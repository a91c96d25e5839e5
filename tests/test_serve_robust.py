"""What strangers' requests can't do to `dit-blocks serve`: no error of its own, nothing kept from working, no answer without end."""

import asyncio
import io
import socket
from urllib.parse import quote
import urllib.request

from PIL import Image
import pytest
from yarl import URL

aiohttp = pytest.importorskip("aiohttp", reason="no aiohttp (pip install 'dit-blocks[standalone]')")
pytest.importorskip("comfyui_frontend_package", reason="no front end (pip install 'dit-blocks[standalone]')")

from serve_host import Serve, asked, view  # noqa: E402


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Serve(tmp_path_factory.mktemp("serve"))
    (running.base / "output").mkdir()
    yield running
    running.stop()
    assert running.process.returncode == 0 and len(running.log().splitlines()) == 1, running.log()


def png(color=(200, 100, 50)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(file, "PNG")
    return file.getvalue()


# --- what would keep it from working ---------------------------------------------------------------------------------------------------

def test_no_file_takes_the_place_of_the_users_folder(tmp_path):
    running = Serve(tmp_path)
    for name in (".", "x/..", "comfy.settings.json/x", "./"):
        status, why = asked(running, "POST", URL(f"{running.url}/userdata/{quote(name, safe='').replace('.', '%2E')}", encoded=True), data=b"x")
        assert status == 400 and "the name of a folder, or below a file" in why, (name, status, why)
    assert not (tmp_path / "user" / "default").is_file()
    running.post("/api/settings", {"a": 1})
    assert running.get("/settings") == {"a": 1}
    assert asked(running, "POST", "/userdata/x.json", data=b"{}")[0] == 200
    running.stop()


LONG = "x" * 300


@pytest.mark.parametrize("method, path, body", [
    ("GET", f"/view?filename={LONG}.png", None), ("GET", f"/userdata/{LONG}", None), ("POST", f"/userdata/{LONG}", b"x"),
    ("DELETE", f"/userdata/{LONG}", None), ("GET", f"/userdata?dir={LONG}", None), ("GET", f"/userdata?dir={LONG}&recurse=true", None),
    ("POST", f"/userdata/comfy.settings.json/move/{LONG}", None), ("GET", f"/assets/{LONG}", None), ("GET", f"/templates/{LONG}", None),
    ("GET", f"/view_metadata/diffusers?filename={LONG}.safetensors", None), ("GET", f"/view?filename=a&subfolder={LONG}", None),
    ("GET", "/view?filename=a%00b.png", None), ("GET", "/userdata?dir=a%00b", None), ("POST", "/settings", b"[" * 100_000),
    ("POST", "/settings/a", b"[" * 900 + b"]" * 900), ("POST", "/settings/a", b"NaN"), ("POST", "/settings/a", b"[1e999]"),
    ("POST", "/settings/a", b"9" * 5000), ("POST", "/queue", b'{"delete": NaN}'), ("POST", "/jobs/cancel", b'{"job_ids": [' + b"[" * 500 + b"]" * 500 + b"]}"),
    ("GET", f"/history?max_items={'9' * 5000}", None), ("GET", "/jobs?limit=%C2%B2", None), ("GET", f"/jobs?status={LONG * 20}", None),
    ("GET", "/settings/%ED%A0%80", None)])
def test_what_no_file_or_number_can_be_is_refused(server, method, path, body):
    status, answer = asked(server, method, URL(server.url + path, encoded=True), data=body)
    assert status in (200, 400, 403, 404), (status, answer)
    assert status == 200 or len(answer.splitlines()) == 1 and len(answer) < 500 and answer.isprintable(), answer


@pytest.mark.parametrize("path", ["/dit_blocks/cost", "/dit_blocks/blocks"])
@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"kinds": ["a"], "blocks": "' + b"all," * 20_000 + b'"}', b'{"kinds": "embedded", "blocks": "' + b"9" * 9_000 + b'"}',
                                  b'{"kinds": 5}', b'{"shape": {"name": "x", "kind": "dit", "width": 9e99, "blocks": 1}, "size": [8, 8]}', b"\xff"])
def test_questions_of_the_editor_are_answered_in_short(server, path, body):
    status, answer = asked(server, "POST", path, data=body)
    assert status == 400 and len(answer["error"]) <= 400


@pytest.mark.parametrize("path", ["/dit_blocks/cost", "/dit_blocks/blocks", "/prompt"])
def test_a_charset_that_nobody_knows_is_no_error_of_the_server(server, path):
    assert asked(server, "POST", path, data=b"{}", headers={"Content-Type": "x/y; charset=zz"})[0] == 400


@pytest.mark.parametrize("preview", ["webp;²", "webp;99999999999", "jpeg;-1", "webp;", ";", "avif;x", "webp;٣"])
@pytest.mark.parametrize("mode", ["I;16", "L", "LA", "P", "1", "CMYK", "F", "RGBA"])
def test_previews_of_any_picture(server, mode, preview):
    format = "TIFF" if mode in ("CMYK", "F") else "PNG"
    Image.new(mode, (8, 8)).save(server.base / "output" / f"mode.{format.lower()}", format)
    for channel in ("", "rgb", "a"):
        assert view(server, filename=f"mode.{format.lower()}", preview=preview, channel=channel)[0] in (200, 400)


def test_pages_load_nothing_from_elsewhere(server):
    with urllib.request.urlopen(server.url + "/?x=1") as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "object-src 'none'" in policy and "http" not in policy


def test_a_connection_without_a_whole_request_is_closed():
    from aiohttp import web

    from dit_blocks.standalone.server.start import listen
    from dit_blocks.standalone.server.state import STATE, State

    async def hello(request: web.Request) -> web.Response:
        request.app[STATE].silent.discard(request.protocol)  # as app.own_pages_only
        return web.Response(text="hello")

    async def play() -> None:
        app, listening = web.Application(), socket.create_server(("127.0.0.1", 0))
        app[STATE] = State(None, None, None, None, None, 0, True)
        app.router.add_get("/", hello)
        serving = asyncio.create_task(listen(app, listening, 1.0))
        slow, whole = [await asyncio.open_connection(*listening.getsockname()) for _ in range(2)]
        slow[1].write(b"GET / HTTP/1.1\r\nHost: x")
        whole[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await whole[0].readuntil(b"hello")).endswith(b"hello")
        assert await asyncio.wait_for(slow[0].read(), 20) == b""  # it has ended
        await asyncio.sleep(0.2)
        whole[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await whole[0].readuntil(b"hello")).endswith(b"hello")
        assert app[STATE].silent == set()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    asyncio.run(play())


def test_two_uploads_at_once_keep_both(server):
    async def both() -> list:
        async with aiohttp.ClientSession(server.url) as session:
            forms = [aiohttp.FormData() for _ in range(6)]
            for at, form in enumerate(forms):
                form.add_field("image", png(color=(at, at, at)), filename="same.png")
            answers = await asyncio.gather(*(session.post("/upload/image", data=form) for form in forms))
            return [(await answer.json())["name"] for answer in answers]
    names = asyncio.run(both())
    assert sorted(names) == ["same (1).png", "same (2).png", "same (3).png", "same (4).png", "same (5).png", "same.png"]
    assert {Image.open(server.base / "input" / name).getpixel((0, 0)) for name in names} == {(at, at, at) for at in range(6)}
