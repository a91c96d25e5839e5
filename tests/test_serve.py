"""`dit-blocks serve`: what a browser asks it, hears from it, and may not do with it."""

import asyncio
import io
import json
import struct

from comfyui_host import ROOT
from PIL import Image
import pytest

from dit_blocks.standalone import cli

aiohttp = pytest.importorskip("aiohttp", reason="no aiohttp (pip install 'dit-blocks[standalone]')")
pytest.importorskip("comfyui_frontend_package", reason="no front end (pip install 'dit-blocks[standalone]')")

from serve_host import EXAMPLE, TYPES, Browser, Serve, ask, asked, prompt, view  # noqa: E402


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Serve(tmp_path_factory.mktemp("serve"), "--max-upload", "1")
    yield running
    running.stop()
    assert running.process.returncode == 0 and len(running.log().splitlines()) == 1, running.log()


def of_type(nodes: dict, class_type: str) -> str:
    return next(id for id, node in nodes.items() if node["class_type"] == class_type)


# --- what it tells of itself ---

def test_nodes_are_those_of_the_nodes_command(server, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["nodes", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert server.get("/object_info") == server.get("/api/object_info") == printed


def test_calls_on_load_are_answered(server):
    for path in ("features", "users", "settings", "userdata?dir=workflows&recurse=true&full_info=true", "i18n",
                 "extensions", "global_subgraphs", "jobs?status=completed&limit=9&offset=0", "node_replacements", "embeddings",
                 "experiment/models", "workflow_templates", "queue", "history", "prompt"):
        assert server.get(f"/{path}") == server.get(f"/api/{path}"), path
    for path in ("/internal/folder_paths", "/internal/logs/raw", "/internal/files/input", "/templates/index.json"):
        server.get(path)
    assert server.get("/features")["max_upload_size"] == 1024 * 1024
    stats = server.get("/system_stats")
    assert stats["devices"][0]["type"] == "cpu" and stats["system"]["pytorch_version"]


def test_the_page_and_the_packs_files(server):
    assert "<div id=\"vue-app\">" in asked(server, "GET", "/?template=x")[1]
    assert asked(server, "GET", "/user.css")[0] == asked(server, "GET", "/api/userdata/user.css")[0] == 200
    programs = server.get("/extensions")
    assert {"/extensions/dit-blocks/" + path.relative_to(ROOT / "web").as_posix()
            for path in (ROOT / "web").rglob("*.js")} == set(programs)
    for path in (*programs, "/scripts/app.js"):
        assert asked(server, "GET", path)[0] == 200, path
    page = next((ROOT / "web" / "docs").glob("*.md"))
    # The front end looks for help below the last part of python_module.
    assert asked(server, "GET", f"/extensions/dit_blocks/docs/{page.name}") == (200, page.read_text(encoding="utf-8"))
    assert asked(server, "GET", "/no/such/file")[0] == asked(server, "GET", "/api/no")[0] == 404


def test_templates_subgraphs_and_translations(server):
    names = server.get("/api/workflow_templates")["dit-blocks"]
    # Only what can be run here: these need ComfyUI's own loaders and samplers.
    assert names[0] == "start_here" and set(names) == {path.stem for path in EXAMPLE.parent.glob("*.json")} - {"flux_dev", "sd3_5", "steer_a_style", "ksampler_parity"}
    titles = [one["title"] for one in server.get("/templates/index.json")[0]["templates"]]
    assert titles[:3] == ["Start here", "1 Pixels to latents", "2 Latents to patches"] and len(titles) == 11
    assert server.get("/api/workflow_templates/dit-blocks/text_to_image.json") == json.loads(EXAMPLE.read_text(encoding="utf-8"))
    assert asked(server, "GET", "/api/workflow_templates/dit-blocks/text_to_image.jpg")[0] == 200
    first = server.get("/templates/index.zh.json")[0]["templates"][0]["name"]
    assert asked(server, "GET", f"/templates/{first}-1.jpg")[0] == asked(server, "GET", f"/templates/{first}.json")[0] == 200
    for id, listed in server.get("/global_subgraphs").items():
        found = server.get(f"/global_subgraphs/{id}")
        assert found["name"] == listed["name"] and json.loads(found["data"])["nodes"]
    for language, texts in server.get("/i18n").items():
        main = ROOT / "locales" / language / "main.json"
        assert not main.exists() or json.loads(main.read_text(encoding="utf-8")).items() <= texts.items()


def test_the_packs_own_routes(server):
    from dit_blocks.nodes.routes import ROUTES
    for method, path, _ in ROUTES:
        assert asked(server, method, path, json={})[0] == asked(server, method, f"/api{path}", json={})[0] not in (404, 405, 500)


def test_which_blocks_run_is_told_before_a_run(server):
    def told(kinds, blocks):
        return asked(server, "POST", "/dit_blocks/blocks", json={"kinds": kinds, "blocks": blocks})
    assert told("embedded", "0-2,4") == (200, {"groups": [[0, 5, "joint"]], "runs": [0, 1, 2, 4]})
    assert told(["double", "double", "single"], "2,0") == (200, {"groups": [[0, 1, "double"], [2, 2, "single"]], "runs": [2, 0]})
    assert told("embedded", "0-6") == (400, {"error": "this model has blocks 0 to 5, there is no block 6"})
    assert told(None, "0") == (400, {"error": "kinds is 'embedded' or a list, each text, not None"})
    assert told("single", "0") == (400, {"error": "kinds is 'embedded' or a list, each text, not 'single'"})
    assert told("embedded", 0) == (400, {"error": "blocks is text, not 0"})


def test_a_new_browser_meets_an_example_once(server):
    async def visit():
        async with aiohttp.ClientSession(server.url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            async with session.get("/", allow_redirects=False) as answer:
                first = answer.status, answer.headers.get("Location")
            async with session.get("/", allow_redirects=False) as answer:
                return first, answer.status
    for _ in range(2):  # also a second browser, for which the first has left settings
        assert asyncio.run(visit()) == ((302, "/?template=start_here&source=dit-blocks"), 200)
        server.post("/settings/Comfy.TutorialCompleted", True)
    assert asked(server, "GET", "/?again", allow_redirects=False)[0] == 200


# --- running ---

def test_a_run_is_told_as_comfyui_tells_it(server):
    async def run():
        async with Browser(server) as browser:
            nodes = prompt(seed=11)
            id, heard = await browser.run(nodes, extra_data={"extra_pnginfo": {"workflow": {"id": "mine"}}, "api_key_comfy_org": "secret"})
            _, history = await ask(browser.session, "GET", f"/history/{id}")
            _, again = await browser.run(prompt(seed=12))
            _, same = await browser.run(prompt(seed=12))
            return nodes, id, heard, history[id], again, same

    nodes, id, heard, entry, again, same = asyncio.run(run())
    kinds = [kind for kind, _ in heard]
    assert kinds[:4] == ["status", "status", "execution_start", "execution_cached"]
    assert kinds[-3:] == ["execution_success", "status", "executing"]
    denoise, save = of_type(nodes, "DiTBlocksDenoise"), of_type(nodes, "SaveImage")
    begin = next(i for i, (kind, data) in enumerate(heard) if kind == "executing" and data["node"] == denoise)
    assert kinds[begin - 1:begin + 7] == ["progress_state", "executing", *2 * ["progress_state", "picture", "progress"]]
    assert heard[begin + 3][1] == {"value": 1, "max": 2, "prompt_id": id, "node": denoise}
    running = heard[begin + 1][1]["nodes"][denoise]
    assert running == {"value": 1, "max": 2, "state": "running", "node_id": denoise, "prompt_id": id, "display_node_id": denoise,
                       "parent_node_id": None, "real_node_id": denoise}
    form, length = struct.unpack(">II", heard[begin + 2][1][:8])
    said = json.loads(heard[begin + 2][1][8:8 + length])
    assert form == 4 and said["node_id"] == denoise and said["image_type"] == "image/jpeg"
    Image.open(io.BytesIO(heard[begin + 2][1][8 + length:])).load()

    (shown,) = [data for kind, data in heard if kind == "executed" and data["node"] == save]
    (image,) = shown["output"]["images"]
    assert image["type"] == "output"
    assert entry["outputs"][save] == shown["output"] and entry["meta"][save]["real_node_id"] == save
    assert entry["status"]["status_str"] == "success" and [kind for kind, _ in entry["status"]["messages"]] == [
        "execution_start", "execution_cached", "execution_success"]
    assert entry["prompt"][1:3] == [id, nodes] and entry["prompt"][4] == [save]
    assert "api_key_comfy_org" not in entry["prompt"][3] and entry["prompt"][3]["create_time"]

    reused = dict(again)["execution_cached"]["nodes"]
    assert of_type(nodes, "DiTBlocksLoadEmbedded") in reused and denoise not in reused
    assert set(dict(same)["execution_cached"]["nodes"]) == {id for id, node in nodes.items()}
    ran = [data["node"] for kind, data in same if kind == "executing"]
    resent = {data["node"] for kind, data in same if kind == "executed"}
    assert ran == [None] and resent == {save} | {
        id for id, node in nodes.items() if TYPES[node["class_type"]].info().get("has_intermediate_output")}

    _, bytes_ = view(server, **image)
    saved = Image.open(io.BytesIO(bytes_))
    assert saved.size == (64, 64) and json.loads(saved.text["workflow"]) == {"id": "mine"} and json.loads(saved.text["prompt"]) == nodes


def test_jobs_are_listed_in_short_and_in_full(server):
    server.run(prompt(seed=21))
    id = list(server.get("/history"))[-1]
    listed = server.get("/api/jobs?status=completed&limit=1")
    assert [job["id"] for job in listed["jobs"]] == [id] and listed["pagination"]["limit"] == 1
    job = server.get(f"/api/jobs/{id}")
    assert job["status"] == "completed" and job["preview_output"]["filename"].endswith(".png")
    assert job["outputs"] and job["workflow"]["prompt"] and job["execution_end_time"] >= job["execution_start_time"]
    server.post("/history", {"delete": [id]})
    assert asked(server, "GET", f"/api/jobs/{id}")[0] == 404 and server.get(f"/history/{id}") == {}
    assert asked(server, "GET", "/api/jobs?status=odd")[0] == asked(server, "GET", "/api/jobs?limit=x")[0] == 400


def test_a_browser_that_takes_no_metadata_gets_plain_previews(server):
    async def run():
        async with Browser(server, "plain", flags=False) as browser:
            return await browser.run(prompt(seed=31))
    heard = asyncio.run(run())[1]
    kinds = [kind for kind, _ in heard]
    picture = dict(heard)["picture"]
    assert kinds.count("picture") == 2 and struct.unpack(">II", picture[:8]) == (1, 1)
    Image.open(io.BytesIO(picture[8:])).load()


def test_a_run_is_cancelled_within_a_step(server):
    async def run():
        async with Browser(server, "cancels") as browser:
            long = await browser.queue(prompt(steps=1000, seed=41))
            waiting = [await browser.queue(prompt(steps=1000, seed=seed)) for seed in (42, 43, 44)]
            await browser.hear_until("progress")
            asks = [await ask(browser.session, "POST", path, json=body) for path, body in (
                ("/queue", {"delete": waiting[:1]}), (f"/api/jobs/{waiting[1]}/cancel", {}), ("/api/interrupt", {"prompt_id": "other"}),
                ("/api/jobs/cancel", {"job_ids": [waiting[2], "gone"]}))]
            await browser.hear_until("progress")
            asks.append(await ask(browser.session, "POST", "/api/interrupt", json={"prompt_id": long}))
            heard = await browser.hear_until("execution_interrupted")
            await browser.hear_until("executing")
            return long, asks, heard

    long, asks, heard = asyncio.run(run())
    assert [answer[0] for answer in asks] == [200] * 5 and asks[1][1] == asks[3][1] == {"cancelled": True}
    assert sum(kind == "progress" for kind, _ in heard) < 20
    told = heard[-1][1]
    assert told["prompt_id"] == long and told["node_type"] == "DiTBlocksDenoise" and told["executed"]
    assert server.get(f"/history/{long}")[long]["status"]["status_str"] == "error"
    assert server.get(f"/api/jobs/{long}")["status"] == "cancelled"
    assert server.get("/queue") == {"queue_running": [], "queue_pending": []}
    # The next job is not cancelled with it.
    assert server.run(prompt(seed=45))["status"]["status_str"] == "success"


def test_a_run_goes_on_without_its_browser(server):
    async def leave():
        async with Browser(server, "leaves") as browser:
            id = await browser.queue(prompt(steps=30, seed=51))
            await browser.hear_until("progress")
            return id
    entry = server.wait(asyncio.run(leave()))
    assert entry["status"]["status_str"] == "success" and server.get("/prompt") == {"exec_info": {"queue_remaining": 0}}


def test_a_node_that_fails_is_named(server):
    nodes = prompt(seed=61)
    patchify = of_type(nodes, "DiTBlocksPatchify")
    nodes[patchify]["inputs"] = {"latent": nodes[patchify]["inputs"]["latent"], "patch_size": 0}

    async def run():
        async with Browser(server, "fails") as browser:
            return await browser.run(nodes)
    id, heard = asyncio.run(run())
    told = dict(heard)["execution_error"]
    assert told["node_id"] == patchify and told["node_type"] == "DiTBlocksPatchify" and told["traceback"] == []
    assert told["exception_message"].startswith("Patchify: ") and told["exception_type"] == "ValueError"
    assert server.get(f"/api/jobs/{id}")["execution_error"]["node_id"] == patchify


def test_a_loop_shows_its_iterations_at_its_own_nodes(server):
    nodes = prompt(ROOT / "example_workflows" / "denoise_loop.json", **{"mode.num_iterations": 2})

    async def run():
        async with Browser(server, "loops") as browser:
            return await browser.run(nodes)
    heard = asyncio.run(run())[1]
    step = of_type(nodes, "DiTBlocksRunBlocks")
    called = [data["node"] for kind, data in heard if kind == "executing" and data.get("display_node") == step]
    assert len(called) == 2 and step not in called


def test_a_part_of_a_prompt_is_run(server):
    nodes = prompt(seed=71) | {"show": {"class_type": "PreviewImage", "inputs": {"images": ["load", 0]}},
                               "load": {"class_type": "LoadImage", "inputs": {"image": "example.png"}}}

    async def run():
        async with Browser(server, "parts") as browser:
            return await browser.run(nodes, partial_execution_targets=["show"])
    heard = asyncio.run(run())[1]
    assert [data["node"] for kind, data in heard if kind == "executing"] == ["load", "show", None]
    (image,) = dict(heard)["executed"]["output"]["images"]
    assert image["type"] == "temp" and view(server, **image, preview="webp;50")[0] == 200


def test_forgetting_what_was_computed(server):
    server.run(prompt(seed=81))
    server.post("/api/free", {"unload_models": True, "free_memory": True})
    messages = dict(server.run(prompt(seed=81))["status"]["messages"])
    assert messages["execution_cached"]["nodes"] == []
