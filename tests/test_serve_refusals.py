"""What `dit-blocks serve` keeps for its user, and what it refuses, each time in one line."""

import asyncio
import importlib.util
import io
import json
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import quote
import urllib.request

from PIL import Image, PngImagePlugin
import pytest
from yarl import URL

from dit_blocks.standalone import cli

aiohttp = pytest.importorskip("aiohttp", reason="no aiohttp (pip install 'dit-blocks[standalone]')")
pytest.importorskip("comfyui_frontend_package", reason="no front end (pip install 'dit-blocks[standalone]')")

from serve_host import Serve, asked, prompt, view  # noqa: E402

SERVE = [sys.executable, "-m", "dit_blocks.standalone.cli", "serve"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Serve(tmp_path_factory.mktemp("serve"), "--max-upload", "0.1")
    (running.base / "secret.json").write_text('"the secret"')
    for folder in ("input", "output", "user/default"):
        (running.base / folder).mkdir(parents=True, exist_ok=True)
        (running.base / folder / "link.json").symlink_to(running.base / "secret.json")
    yield running
    running.stop()
    assert running.process.returncode == 0 and len(running.log().splitlines()) == 1, running.log()


def refused(answer: tuple, status: int, why: str = "") -> bool:
    """Whether this is a refusal in one line that says why."""
    assert answer[0] == status and why in answer[1] and len(answer[1].splitlines()) == 1, answer
    return True


def png(size=(6, 4), color=(200, 100, 50), **texts: str) -> bytes:
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGBA" if len(color) == 4 else "RGB", size, color).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def upload(server, data: bytes, name="x.png", route="/api/upload/image", **fields) -> tuple:
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("image", data, filename=name)
    for field, value in fields.items():
        form.add_field(field, value)
    return asked(server, "POST", route, data=form)


# --- settings and files ---

def test_settings_are_kept(server):
    server.post("/api/settings", {"a": 1, "b": [2]})
    server.post("/settings/b", {"c": None})
    assert server.get("/settings") == server.get("/api/settings") == {"a": 1, "b": {"c": None}}
    assert server.get("/api/settings/b") == {"c": None} and server.get("/settings/none") is None
    kept = server.base / "user" / "default" / "comfy.settings.json"
    assert json.loads(kept.read_text()) == {"a": 1, "b": {"c": None}}
    kept.write_text("{spoiled")
    assert server.get("/settings") == {}


def test_workflows_are_saved_listed_moved_and_deleted(server):
    name = quote("workflows/dir/a b.json", safe="")
    assert asked(server, "POST", f"/api/userdata/{name}?full_info=true", data=b'{"x": 1}')[1]["path"] == "workflows/dir/a b.json"
    assert asked(server, "POST", f"/userdata/{name}?overwrite=true", data=b'{"x": 2}') == (200, "workflows/dir/a b.json")
    assert refused(asked(server, "POST", f"/api/userdata/{name}?overwrite=false", data=b"{}"), 409, "a b.json")
    assert asked(server, "GET", f"/api/userdata/{name}") == (200, {"x": 2})
    assert asked(server, "GET", "/api/userdata/" + quote("workflows/.index.json", safe="")) == (200, {"favorites": []})
    assert asked(server, "POST", "/api/userdata/" + quote("workflows/.index.json", safe=""), data=b"[]")[0] == 200
    (listed,) = server.get("/api/userdata?dir=workflows&recurse=true&split=false&full_info=true")
    assert listed["path"] == "dir/a b.json" and listed["size"] == 8 and listed["modified"] > 1e12
    assert server.get("/userdata?dir=workflows") == [] == server.get("/userdata?dir=none&recurse=true")
    assert server.get("/userdata?dir=workflows&recurse=true&split=true") == [["dir/a b.json", "dir", "a b.json"]]
    moved = quote("workflows/b.json", safe="")
    assert asked(server, "POST", f"/api/userdata/{name}/move/{moved}?overwrite=false") == (200, "workflows/b.json")
    assert asked(server, "GET", f"/userdata/{name}")[0] == 404
    assert asked(server, "DELETE", f"/api/userdata/{moved}")[0] == 204
    assert refused(asked(server, "DELETE", f"/api/userdata/{moved}"), 404)
    assert refused(asked(server, "GET", "/userdata"), 400, "dir is missing")


# --- pictures ---

def test_pictures_are_uploaded_and_shown(server):
    assert upload(server, png()) == (200, {"name": "x.png", "subfolder": "", "type": "input"})
    assert upload(server, png())[1]["name"] == "x.png", "the same picture is not kept twice"
    assert upload(server, png(color=(0, 0, 0)))[1]["name"] == "x (1).png"
    assert upload(server, png(color=(1, 1, 1)), overwrite="true")[1]["name"] == "x.png"
    assert upload(server, png(color=(9, 8, 7, 128)), subfolder="below", type="output", route="/upload/image")[0] == 200
    assert "x.png [input]" in server.get("/internal/files/input")
    names = server.get("/api/object_info")["LoadImage"]["input"]["required"]["image"][0]
    assert {"x.png", "x (1).png"} <= set(names)

    assert Image.open(io.BytesIO(view(server, filename="example.png", type="input")[1])).size == (768, 768)
    whole = {"filename": "x.png", "subfolder": "below", "type": "output"}
    assert Image.open(io.BytesIO(view(server, **whole)[1])).getpixel((0, 0)) == (9, 8, 7, 128)
    assert view(server, filename="below/x.png [output]")[0] == 200
    assert Image.open(io.BytesIO(view(server, **whole, channel="rgb")[1])).mode == "RGB"
    assert Image.open(io.BytesIO(view(server, **whole, channel="a")[1])).getpixel((0, 0))[3] == 128
    assert Image.open(io.BytesIO(view(server, **whole, preview="webp;90")[1])).format == "WEBP"
    assert Image.open(io.BytesIO(view(server, **whole, preview="jpeg")[1])).format == "JPEG"


def test_a_mask_becomes_the_pictures_alpha(server):
    upload(server, png(prompt="words"), name="drawn.png")
    named = json.dumps({"filename": "drawn.png", "subfolder": "", "type": "input"})
    assert upload(server, png(color=(0, 0, 0, 77)), "masked.png", "/api/upload/mask", original_ref=named)[0] == 200
    masked = Image.open(server.base / "input" / "masked.png")
    assert masked.getpixel((0, 0)) == (200, 100, 50, 77) and masked.text["prompt"] == "words"
    for wrong in ("", "[]", json.dumps({"filename": "../secret.json", "type": "input"}), json.dumps({"filename": "none.png"})):
        status, why = upload(server, png(), "m.png", "/upload/mask", original_ref=wrong)
        assert status in (400, 403, 404) and len(why.splitlines()) == 1
    assert refused(upload(server, png((9, 9)), "m.png", "/upload/mask", original_ref=named), 400, "the mask is 9×9, the picture 6×4")


@pytest.mark.parametrize("data, name, status, why", [
    (b"no picture", "x.png", 400, "it is not a picture"),
    (png((64, 64))[:80], "x.png", 400, "x.png: "),
    (png(), "x.html", 400, "only pictures"),
    (b"<svg onload='alert()'/>", "x.svg", 400, "only pictures"),
    (bytes(200_000), "x.png", 413, "larger than 0.1 MB, the most that --max-upload allows"),
    (png(), "../x.png", 403, "leaves the folder"),
])
def test_uploads_that_are_refused(server, data, name, status, why):
    assert refused(upload(server, data, name), status, why)
    assert not (server.base / "x.png").exists()


def test_the_reason_beside_the_number_says_why(server):
    async def reason(data: bytes, name: str) -> str:
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("image", data, filename=name)
        async with aiohttp.ClientSession(server.url) as session, session.post("/api/upload/image", data=form) as answer:
            assert answer.reason == (await answer.text()).encode("ascii", "replace").decode()
            return answer.reason
    assert asyncio.run(reason(bytes(200_000), "x.png")) == "this is larger than 0.1 MB, the most that --max-upload allows"
    assert asyncio.run(reason(b"words", "猫.png")) == "?.png: it is not a picture that can be read"


def test_uploads_without_a_picture(server):
    assert refused(asked(server, "POST", "/api/upload/image"), 400, "no file named image")
    assert refused(upload(server, png(), type="models"), 400, "'models' is not one of input, output, temp")
    assert refused(upload(server, png(), subfolder="../.."), 403, "leaves the folder")
    broken = {"data": b"xx", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}
    assert refused(asked(server, "POST", "/api/upload/image", **broken), 400)


# --- paths that lead out ---

@pytest.mark.parametrize("path", ["../../secret.json", "../secret.json", "{base}/secret.json", "link.json", "a/../../../secret.json",
                                  "..", "/etc/passwd", "a\0b"])
def test_no_path_leads_out(server, path):
    path = path.format(base=server.base)
    whole = quote(path, safe="")
    for method, address in [
        ("GET", f"/view?filename={whole}&type=input"), ("GET", f"/api/view?filename={whole}&type=output&preview=webp"),
        ("GET", f"/view?filename=x.png&subfolder={whole}"), ("GET", f"/api/view?filename={whole}%20%5Btemp%5D"),
        ("GET", f"/userdata/{whole}"), ("POST", f"/api/userdata/{whole}"), ("DELETE", f"/userdata/{whole}"),
        ("POST", f"/api/userdata/comfy.settings.json/move/{whole}"), ("POST", f"/userdata/{whole}/move/x.json"),
        ("GET", f"/userdata?dir={whole}"), ("GET", f"/assets/{whole}"), ("GET", f"/extensions/dit-blocks/{whole}"),
        ("GET", f"/api/workflow_templates/dit-blocks/{whole}"), ("GET", f"/templates/{whole}"),
        ("GET", f"/view_metadata/diffusers?filename={whole}"),
    ]:
        # As it is written: a client would tidy the path up.
        status, answer = asked(server, method, URL(server.url + address, encoded=True))
        assert status in (400, 403, 404, 405), (method, address, status)
        assert "the secret" not in answer and "root:" not in answer and len(answer.splitlines()) <= 1
    assert json.loads((server.base / "secret.json").read_text()) == "the secret"


def test_other_paths_that_are_refused(server):
    assert refused(asked(server, "GET", "/view?filename=x.png&type=models"), 400, "'models'")
    assert refused(asked(server, "GET", "/view"), 400, "filename is missing")
    assert refused(asked(server, "GET", "/view?filename=none.png"), 404, "none.png")
    (server.base / "output" / "text.html").write_text("<script>")
    with urllib.request.urlopen(server.url + "/view?filename=text.html") as answer:
        assert answer.headers["Content-Disposition"] == "attachment" and answer.headers["Content-Type"] == "application/octet-stream"


# --- prompts ---

def picture(**inputs) -> dict:
    return {"1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1} | inputs},
            "2": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["3", 2]}},
            "3": {"class_type": "DiTBlocksLoadEmbedded", "inputs": {}},
            "4": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "p"}}}


@pytest.mark.parametrize("body, kind, why, node, input", [
    ({}, "no_prompt", "No prompt provided", None, None),
    ([], "invalid_prompt", "not a JSON object", None, None),
    ({"prompt": {}}, "prompt_no_outputs", "no output node", None, None),
    ({"prompt": 5}, "invalid_prompt", "not a workflow", None, None),
    ({"prompt": {"1": {"class_type": "SaveImage", "inputs": []}}}, "invalid_prompt", "node 1", None, None),
    ({"prompt": picture() | {"5": {"class_type": "NoSuchNode", "inputs": {}}}}, "missing_node_type", "NoSuchNode", None, None),
    ({"prompt": picture(), "prompt_id": "x"}, "invalid_prompt_id", "'x' is not a UUID", None, None),
    ({"prompt": picture(), "extra_data": [1]}, "invalid_prompt", "extra_data", None, None),
    ({"prompt": picture(width=7)}, "value_smaller_than_min", "width = 7 is below its least value, 16", "1", "width"),
    ({"prompt": picture(batch_size="x")}, "custom_validation_failed", "batch_size = 'x' is not INT", "1", "batch_size"),
    ({"prompt": picture(width=["9", 0])}, "custom_validation_failed", "wired to node 9, which does not exist", "1", "width"),
    ({"prompt": picture(width=["2", 0])}, "return_type_mismatch", "takes INT, but is wired to IMAGE", "1", "width"),
    ({"prompt": {**picture(), "2": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0]}}}}, "required_input_missing",
     "'vae' is required", "2", "vae"),
    ({"prompt": {"1": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0]}}, "2": {"class_type": "VAEEncode", "inputs": {
        "pixels": ["1", 0]}}, "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}}}, "dependency_cycle", "circle", None, None),
])
def test_prompts_that_are_refused(server, body, kind, why, node, input):
    status, answer = asked(server, "POST", "/api/prompt", json=body)
    assert status == 400 and set(answer) == {"error", "node_errors"}
    assert set(answer["error"]) == {"type", "message", "details", "extra_info"}
    if node is None:
        assert answer["error"]["type"] == kind and why in answer["error"]["message"] and answer["node_errors"] == {}
    else:
        assert answer["error"]["type"] == "prompt_outputs_failed_validation" and why in answer["error"]["details"]
        (error,) = answer["node_errors"][node]["errors"]
        assert error["type"] == kind and why in error["message"] and error["extra_info"] == {"input_name": input}
        assert kind != "custom_validation_failed" or error["details"].startswith(f"{input} - ") and why in error["details"]
    assert server.get("/queue") == {"queue_running": [], "queue_pending": []}


@pytest.mark.parametrize("path", ["/settings", "/settings/a", "/queue", "/history", "/interrupt", "/free", "/jobs/cancel"])
def test_broken_json_is_refused(server, path):
    assert refused(asked(server, "POST", f"/api{path}", data=b"{broken"), 400, "not JSON")


def test_broken_json_in_place_of_a_prompt(server):
    status, answer = asked(server, "POST", "/prompt", data=b"{broken")
    assert status == 400 and "not JSON" in answer["error"]["message"]


def test_a_large_workflow_is_refused(server):
    assert refused(asked(server, "POST", "/userdata/big.json", data=bytes(200_000)), 413, "--max-upload")


# --- who may ask, and how it starts ---

@pytest.mark.parametrize("headers", [{"Origin": "http://elsewhere.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
                                     {"Host": "elsewhere.example"}, {"Host": "[odd"}, {"Host": "127.0.0.1.elsewhere.example"}, {"Host": "elsewhere.example:80", "Origin": "http://elsewhere.example:80"}])
def test_pages_of_other_sites_may_not_ask(server, headers):
    for path in ("/", "/api/users", "/ws"):
        assert refused(asked(server, "GET", path, headers=headers), 403)


def test_its_own_page_may_ask(server):
    assert asked(server, "GET", "/api/users", headers={"Origin": server.url, "Sec-Fetch-Site": "same-origin"})[0] == 200
    port = server.url.rsplit(":")[-1]
    assert asked(server, "GET", "/api/users", headers={"Host": f"localhost:{port}"})[0] == 200


def fails(arguments: list[str], folder) -> str:
    done = subprocess.run([*SERVE, *arguments], capture_output=True, text=True, cwd=folder, timeout=60)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done
    return done.stderr


def test_what_keeps_it_from_starting_is_one_line(server, tmp_path):
    port = server.url.rsplit(":")[-1]
    assert fails(["--port", port], tmp_path) == f"dit-blocks: port {port} is taken: choose another with --port\n"
    assert "no index.html" in fails(["--front-end", str(tmp_path)], tmp_path)
    assert "99999" in fails(["--port", "99999"], tmp_path)
    (tmp_path / "user").write_text("")
    assert "--user user: it is a file" in fails([], tmp_path)
    assert "--max-upload nan" in fails(["--max-upload", "nan", "--user", "mine"], tmp_path)


def test_what_is_not_installed_is_one_line(monkeypatch, capsys):
    found = importlib.util.find_spec
    for missing, why in (("comfyui_frontend_package", "ComfyUI's front end"), ("aiohttp", "aiohttp")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == missing else found(name, *more))
        assert cli.main(["serve", "--port", "0"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"dit-blocks: serve needs {why}: pip install") and len(err.splitlines()) == 1


def test_ctrl_c_ends_it_with_browsers_and_jobs_still_there(tmp_path):
    running = Serve(tmp_path)
    connection = socket.create_connection(("127.0.0.1", int(running.url.rsplit(":")[-1])))
    connection.sendall(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
    assert b"101" in connection.recv(100)
    running.post("/prompt", {"prompt": prompt(steps=1000)})
    while running.get("/queue")["queue_running"] == []:
        time.sleep(0.1)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(15) == 0 and len(running.log().splitlines()) == 1, running.log()
    connection.close()
