"""Bad inputs by the hundred, made from a seed: workflows for `dit-blocks run`, files for every loader, requests to `dit-blocks serve`.

    python tests/fuzz.py --seed 1 --run 1000 --files 1000 --http 1000

Each is well met if it ends within 20 seconds of the processor's time in status 0, 1 or 2 (a loader: in a ValueError or OSError; a request: in a status below 500)
with at most one printable line of under 500 letters, and all together take less than 500 MB more than the first. What is badly met is
printed, one JSON object a line, and the exit status is 1.
"""

import argparse
import asyncio
import contextlib
import copy
import io
import json
import os
from pathlib import Path
import random
import resource
import signal
import sys
import tempfile
import time
import traceback

LONGEST, SECONDS, MEGABYTES = 500, 20, 500
# Of the processor's time, so that a busy machine fails nothing; and much more of anybody's, for what waits for ever.
CLOCKS = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, 15 * SECONDS))
DEEP = "[" * 2000 + "]" * 2000
NUMBERS = [0, -1, 1, 2, 7, 0.5, -0.0, 1e-300, 1e300, 2 ** 31, 2 ** 63, 2 ** 64, 10 ** 30, float("nan"), float("inf")]
TEXTS = ["", " ", "x", "\0", "\x1b[2J\x07", "\u202e\u2028", "\ud800", "a\nb\r\n", "../../x", "/etc/passwd", "x" * 300, "y" * 200_000, "猫", "%s%n{0}", "NaN",
         "0-9999", "all," * 500, "/*a" * 5000, "{a|" * 2000, "[output]", "example.png", "C:\\x", "-1", "1e999", "2, 4, 0", "CON", ".", "..", "~"]


class Hang(BaseException):
    """A case took too long."""


class Case:
    """One run of a case: what it did, told if it is bad."""

    def __init__(self, kind: str, number: int, bad: list):
        self.kind, self.number, self.bad = kind, number, bad

    def complain(self, why: str, what: object) -> None:
        self.bad.append({"kind": self.kind, "case": self.number, "why": why, "what": str(what)[-1500:]})

    @contextlib.contextmanager
    def guarded(self):
        """Within the time; whatever else comes out of it is bad."""
        def ring(*_):
            raise Hang
        for number, clock, seconds in CLOCKS:
            signal.signal(number, ring)
            signal.setitimer(clock, seconds)
        try:
            yield
        except Hang:
            self.complain(f"not ended in {SECONDS} s", traceback.format_exc())
        except Exception:
            self.complain("an error of Python's", traceback.format_exc())
        finally:
            for _, clock, _ in CLOCKS:
                signal.setitimer(clock, 0)

    def check_line(self, text: str) -> None:
        line = text.strip("\n")
        if not line or "\n" in line or not line.isprintable() or len(line) >= LONGEST:
            self.complain("not one printable line", text)


# --- bad values -----------------------------------------------------------------------------------------------------------------------

def nasty(rng: random.Random):
    """Any value that JSON has, and some that it has not."""
    return rng.choice([lambda: rng.choice(NUMBERS), lambda: rng.choice(NUMBERS), lambda: rng.choice(TEXTS), lambda: rng.choice(TEXTS), lambda: None,
                       lambda: rng.random() < 0.5, lambda: [], lambda: {}, lambda: ["1", 0], lambda: [["1", 0]], lambda: {"__value__": [1]},
                       lambda: [nasty(rng) for _ in range(3)], lambda: {rng.choice(TEXTS): nasty(rng)}, lambda: list(range(1000))])()


def places(value, path=()) -> list[tuple]:
    """The paths to all entries of nested lists and dicts."""
    found = []
    for key, inner in (value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()):
        found += [(*path, key), *places(inner, (*path, key))]
    return found


def mutate(value, rng: random.Random, times: int) -> None:
    """Change some entries somewhere inside, in place."""
    for _ in range(times):
        found = places(value)
        if not found:
            return
        *path, key = rng.choice(found)
        holder = value
        for step in path:
            holder = holder[step]
        change = rng.randrange(6)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif change == 2 and isinstance(holder, dict):
            holder[rng.choice(TEXTS)] = holder.pop(key)
        elif change == 3 and type(holder[key]) in (int, float):
            holder[key] = rng.choice(NUMBERS)
        elif change == 4:
            holder[key] = copy.deepcopy(rng.choice([inner for inner in _values(value)]))
        else:
            holder[key] = nasty(rng)


def _values(value) -> list:
    found = [value] if not isinstance(value, (dict, list)) else []
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        found += _values(inner)
    return found or [None]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes cut, doubled or changed."""
    data = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) or 1)
        change = rng.randrange(4)
        if change == 0:
            del data[at:at + rng.choice([1, 8, 100, len(data)])]
        elif change == 1:
            data[at:at] = rng.choice([b"\0" * 8, b"\xff" * 8, b"[" * 3000, data[at:at + 50], b'"', b"{"])
        else:
            for where in range(at, min(at + rng.choice([1, 1, 4]), len(data))):
                data[where] = rng.randrange(256)
    return bytes(data)


def as_bytes(value, rng: random.Random) -> bytes:
    """A JSON text in one of the encodings, now and then damaged."""
    text = json.dumps(value)
    data = text.encode(rng.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le"]), "surrogatepass")
    return damaged(data, rng) if rng.random() < 0.15 else data


# --- dit-blocks run -------------------------------------------------------------------------------------------------------------------

SMALL = {"steps": 1, "width": 64, "height": 64, "batch_size": 1, "mode.num_iterations": 1}
FORMS = ("text_to_image", "image_round_trip", "swap_patch_size", "denoise_loop", "learn_02_latents_to_patches")


def small(path: Path, types: dict):
    """An example with small pictures and few steps: → as the front end saves it, and as the API takes it."""
    from dit_blocks.standalone.workflow import override, read_workflow
    workflow = read_workflow(path, types)
    for id, node in workflow.prompt.items():
        for name in SMALL.keys() & node["inputs"].keys():
            if not isinstance(node["inputs"][name], list):
                override(workflow, f"{id}.{name}={SMALL[name]}", types)
    return workflow.saved, workflow.prompt


def run_cases(count: int, seed: int, folder: Path, bad: list) -> None:
    from dit_blocks.standalone import cli, pack
    from dit_blocks.standalone.node_types import NodeType
    import dit_blocks
    types = {name: NodeType(name, cls) for name, cls in pack.load().items()}
    examples = Path(dit_blocks.__file__).parent / "example_workflows"
    made = [small(path, types) for path in sorted(examples.glob("*.json"))[:12] + [examples / f"{name}.json" for name in FORMS]]
    saved = [one for one, _ in made[-len(FORMS):]]
    prompts = [prompt for _, prompt in made if not any("Train" in node["class_type"] for node in prompt.values())]
    path = folder / "workflow.json"
    for number in range(count):
        rng, case = random.Random(f"{seed} run {number}"), Case("run", number, bad)
        value = copy.deepcopy(rng.choice(prompts if rng.random() < 0.7 else saved))
        mutate(value, rng, rng.choice([1, 1, 2, 3, 8]))
        path.write_bytes(as_bytes(value, rng))
        options = ["--set", f"{rng.choice(TEXTS)}.{rng.choice(TEXTS)}={rng.choice(TEXTS)}"] if rng.random() < 0.1 else []
        out, err = io.StringIO(), io.StringIO()
        status = None
        with case.guarded(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(["run", str(path), "--out", str(folder / "out"), "--input", str(folder / "in"), "--models", str(folder / "models"), *options])
        if status in (1, 2):
            case.check_line("\n".join(line for line in err.getvalue().splitlines() if line.startswith("dit-blocks: ") and "saved with" not in line))
        if status not in (None, 0, 1, 2) or "Traceback" in err.getvalue():
            case.complain(f"status {status}", err.getvalue())
        _remember(case)


# --- loaders --------------------------------------------------------------------------------------------------------------------------

def changed_metadata(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header says other things."""
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8:8 + size])
    told = head.get("__metadata__", {})
    if told and rng.random() < 0.8:
        key = rng.choice(sorted(told))
        try:
            inner = json.loads(told[key])
            mutate(inner, rng, rng.choice([1, 2]))
            told[key] = json.dumps(inner)
        except (ValueError, TypeError):
            told[key] = rng.choice([DEEP, "", "{}", "[]", "null", "5"])
    else:
        mutate(head, rng, 1)
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size:]


def loaders(folder: Path) -> list[tuple[str, bytes, object]]:
    """(name of a file, its bytes, what reads it)."""
    from PIL import Image, PngImagePlugin
    from dit_blocks.dit_impl.sources import adapters, adapter_layers, dit_file, new_dit
    from dit_blocks.dit_impl.training.toml import read_toml
    from dit_blocks.standalone.images import load_picture
    from dit_blocks.standalone.workflow import read_workflow
    dit = new_dit.new_dit(32, 1, 2, (2,), 4, conditioning="none", picture_size=64)
    dit_file.save_dit(dit, folder / "dit.safetensors")
    weights = {name: p.detach() for name, p in adapter_layers.new_parameters(adapter_layers.extended(dit.model, 4, 2, 2)).items()}
    made = adapters.Adapter(4, 2, 2, 0, adapters.fingerprint(dit.model.state_dict()), "x", {}, {}, weights)
    adapters.save_adapter(made, folder / "adapter.safetensors")
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", '{"1": {"class_type": "SaveImage", "inputs": {}}}')
    for name, format in (("x.png", "PNG"), ("x.gif", "GIF"), ("x.webp", "WEBP"), ("x.tiff", "TIFF")):
        frames = [Image.new("RGB", (16, 16), (at * 50, 0, 0)) for at in range(3)]
        frames[0].save(folder / name, format, **({"pnginfo": info} if format == "PNG" else {"save_all": True, "append_images": frames[1:]}))
    (folder / "x.toml").write_text('[model]\nwidth = 16\npatch_sizes = [2]\n[set]\nscenes = 4\n[train]\nsteps = 1\nlearning_rate = 1e-3\n')
    found = [(name, reader) for name, reader in (
        ("dit.safetensors", dit_file.load_dit), ("dit.safetensors", dit_file.load_dit),
        ("adapter.safetensors", lambda path: adapters.apply_adapter(dit, adapters.load_adapter(path))), ("x.png", load_picture),
        ("x.png", lambda path: read_workflow(path, {})), ("x.gif", load_picture), ("x.webp", load_picture), ("x.tiff", load_picture), ("x.toml", read_toml))]
    return [(name, (folder / name).read_bytes(), reader) for name, reader in found]


def file_cases(count: int, seed: int, folder: Path, bad: list) -> None:
    from dit_blocks.standalone.errors import WorkflowError
    kinds = loaders(folder)
    for number in range(count):
        rng, case = random.Random(f"{seed} file {number}"), Case("file", number, bad)
        name, data, reader = kinds[number % len(kinds)]
        data = changed_metadata(data, rng) if name.endswith(".safetensors") and rng.random() < 0.7 else damaged(data, rng)
        path = folder / f"bad_{name}"
        path.write_bytes(data)
        with case.guarded():
            try:
                reader(path)
            except (ValueError, OSError, WorkflowError) as error:
                if "\n" in str(error).strip() or not str(error) or len(str(error)) > LONGEST + len(str(path)):
                    case.complain("not one line", error)
        _remember(case)


# --- dit-blocks serve -------------------------------------------------------------------------------------------------------------------

ROUTES = ["/", "/api/prompt", "/api/queue", "/api/history", "/api/history/x", "/api/jobs", "/api/jobs/x", "/api/jobs/cancel", "/api/jobs/x/cancel",
          "/api/interrupt", "/api/free", "/api/settings", "/api/settings/x", "/api/userdata", "/api/userdata/x.json", "/api/userdata/x.json/move/y.json",
          "/api/view", "/api/upload/image", "/api/upload/mask", "/api/object_info", "/api/system_stats", "/api/features", "/api/users", "/api/i18n",
          "/api/extensions", "/api/global_subgraphs", "/api/global_subgraphs/x", "/api/view_metadata/diffusers", "/api/experiment/models/diffusers",
          "/api/workflow_templates/dit-blocks/x", "/templates/x", "/internal/files/input", "/internal/logs/raw", "/dit_blocks/cost", "/dit_blocks/blocks",
          "/extensions/dit-blocks/x.js", "/assets/x", "/api/node_replacements", "/api/embeddings"]
KEYS = ["filename", "type", "subfolder", "preview", "channel", "dir", "recurse", "split", "full_info", "max_items", "offset", "limit", "status", "overwrite"]
BODIES = [{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
                      "2": {"class_type": "LoadImage", "inputs": {"image": "example.png"}}}, "client_id": "x", "number": 1, "extra_data": {}},
          {"clear": True, "delete": ["x"]}, {"job_ids": ["x"]}, {"kinds": "embedded", "blocks": "0-2,all"},
          {"shape": "embedded", "size": [32, 32], "batch": 1, "cfg": 2, "walk": {"steps": 4, "solver": "euler", "rows": "4 until 50%\n2"}},
          {"shape": {"name": "x", "kind": "dit", "width": 64, "blocks": 2}, "size": [8, 8]}, {"Comfy.Locale": "zh", "x": [1, {"y": None}]}]


async def ask(session, url, rng: random.Random, case: Case) -> None:
    from aiohttp import ClientTimeout
    from urllib.parse import quote
    from yarl import URL
    path = rng.choice(ROUTES)
    if rng.random() < 0.4:
        path = path.replace("x", quote(rng.choice(TEXTS).encode("utf-8", "replace")[:3000], safe=rng.choice(["", "/"])))
    query = "&".join(f"{key}={quote(str(nasty(rng)).encode('utf-8', 'replace')[:2000])}" for key in rng.sample(KEYS, rng.randrange(4)))
    body = copy.deepcopy(rng.choice(BODIES))
    mutate(body, rng, rng.choice([0, 1, 1, 3]))
    data = rng.choice([as_bytes(body, rng)] * 6 + [None, b"", DEEP.encode(), b"\xff" * 50])
    method = rng.choice(["GET", "POST", "POST", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"])
    headers = {"Content-Type": rng.choice(["application/json", "application/json", "text/plain", "multipart/form-data; boundary=b", "x/y; charset=zz"])}
    try:
        async with session.request(method, URL(f"{url}{path}?{query}", encoded=True), data=data, headers=headers,
                                   timeout=ClientTimeout(total=SECONDS), allow_redirects=False) as answer:
            text = (await answer.read()).decode("utf-8", "replace")
            if answer.status >= 500 or len(text) > 20 * 2 ** 20:
                case.complain(f"status {answer.status}, {len(text)} letters", f"{method} {path}?{query} {data!r} → {text[:500]}")
            elif answer.status >= 400 and method != "HEAD" and answer.content_type == "text/plain" and text:
                case.check_line(text)
    except TimeoutError:
        case.complain(f"no answer in {SECONDS} s", f"{method} {path}?{query} {data!r}")


def http_cases(count: int, seed: int, folder: Path, bad: list) -> None:
    import aiohttp
    from serve_host import Serve
    running = Serve(folder / "serve")

    async def all_of_them() -> None:
        async with aiohttp.ClientSession() as session:
            for number in range(count):
                rng, case = random.Random(f"{seed} http {number}"), Case("http", number, bad)
                try:
                    await ask(session, running.url, rng, case)
                except (aiohttp.ClientError, ValueError) as error:
                    if not isinstance(error, (aiohttp.InvalidURL, ValueError)) and running.process.poll() is not None:
                        case.complain("the server has ended", running.log())
                        return
    try:
        asyncio.run(all_of_them())
        after = Case("http", count, bad)
        if running.get("/api/users")["storage"] != "server":
            after.complain("it no longer answers", "")
        peak = next(int(line.split()[1]) for line in Path(f"/proc/{running.process.pid}/status").read_text().splitlines() if line.startswith("VmHWM")) \
            if Path("/proc/self/status").exists() else 0
        if "Traceback" in running.log():
            after.complain("an error in its log", running.log())
        print(f"serve: at most {peak // 1024} MB", file=sys.stderr)
    finally:
        running.stop()


# --- all together -----------------------------------------------------------------------------------------------------------------------

_most = {"memory": 0.0}


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2 ** 20)


def _remember(case: Case) -> None:
    """Complain of the case that takes the memory past its bound, once."""
    now = _megabytes()
    if _most["memory"] and now > _most["memory"] + MEGABYTES:
        case.complain(f"{now - _most['memory']:.0f} MB more than before", "")
        _most["memory"] = now
    _most["memory"] = _most["memory"] or now


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    for name, count in (("run", 200), ("files", 60), ("http", 60)):
        parser.add_argument(f"--{name}", type=int, default=count, help=f"how many of these ({count})")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    bad: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        for kind, make in (("run", run_cases), ("files", file_cases), ("http", http_cases)):
            began, count = time.process_time(), getattr(arguments, kind)
            (Path(folder) / kind).mkdir()
            make(count, arguments.seed, Path(folder) / kind, bad) if count else None
            print(f"{kind}: {count} cases, {time.process_time() - began:.0f} s of the processor's time, at most {_megabytes():.0f} MB", file=sys.stderr)
    for one in bad:
        print(json.dumps(one))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
