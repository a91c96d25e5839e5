"""What the examples draw, against what is kept of it: a small overview in tests/pictures, or where there is none the example's own .jpg, which
then shows nothing but the pictures it saves, as tiles.

`python tests/example_pictures.py [EXAMPLE ...]` draws them and keeps their overviews anew.
`python tests/example_pictures.py thumbnails EXAMPLE ...` makes the .jpg by which the template browser shows them: the last picture that an
example saves, or for one that needs other models, a card with the numbers of its way.
"""

import contextlib
import fcntl
import io
import json
import os
from pathlib import Path
import sys
import tempfile

import numpy as np
from PIL import Image, ImageDraw

from dit_blocks.dit_impl.drawing import charts
from dit_blocks.standalone.cli import main

HERE = Path(__file__).parent
EXAMPLES, KEPT = HERE.parent / "example_workflows", HERE / "pictures"
ELSEWHERE = ("sd3_5", "flux_dev", "steer_a_style", "ksampler_parity", "train_from_scratch",
             "pixels_without_vae")  # test_host_workflows.py, test_train_nodes.py
BRIEFLY = {"new_patch_size_adapter": {"5": {"count": 16}, "16:6": {"steps": 4, "batch": 4, "validation": 2}},  # test_train_nodes.py trains longer
           "train_from_scratch": {"4": {"count": 16}, "10:6": {"steps": 4, "batch": 4, "validation": 2, "sample_every": 2}},
           "pixels_without_vae": {"5": {"count": 16}, "23:6": {"steps": 4, "batch": 4, "validation": 2}}}
HEIGHT, GAP = 72, 8
# dB. Tiles drawn anew have 35 and more, those of other examples 24 at most, a black one 11; overviews drawn anew have 32 and more.
LEAST, LEAST_OF_OVERVIEWS = 30, 24


def briefly(example: str) -> list[str]:
    """The command's arguments for a run of seconds rather than minutes."""
    return [part for id, inputs in BRIEFLY.get(example, {}).items() for name, value in inputs.items()
            for part in ("--set", f"{id}.{name}={value}")]


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of one size."""
    error = np.mean((np.asarray(a.convert("RGB"), np.float64) - np.asarray(b.convert("RGB"), np.float64)) ** 2)
    return float(10 * np.log10(255 ** 2 / max(error, 1e-3)))


def overview(pictures: list[Image.Image]) -> Image.Image:
    """All of them side by side, one height."""
    small = [one.convert("RGB").resize((max(1, round(one.width * HEIGHT / one.height)), HEIGHT), Image.Resampling.BOX) for one in pictures]
    sheet = Image.new("RGB", (sum(one.width for one in small), HEIGHT))
    for i, one in enumerate(small):
        sheet.paste(one, (sum(before.width for before in small[:i]), 0))
    return sheet


def tiles(shown: Image.Image, size: tuple[int, int]) -> list[Image.Image]:
    """A picture cut into tiles of a size, with or without gaps between them; none where it is not made of such tiles."""
    for gap in (GAP, 0):
        columns, rows = ((length + gap) / (side + gap) for length, side in zip(shown.size, size))
        if columns == int(columns) and rows == int(rows):
            corners = [(x, y) for y in range(0, shown.height, size[1] + gap) for x in range(0, shown.width, size[0] + gap)]
            return [shown.crop((x, y, x + size[0], y + size[1])) for x, y in corners]
    return []


def likeness(example: str, files: list[str]) -> dict[str, float]:
    """What is kept of an example against what it drew now: → what was compared, dB."""
    drawn, kept = [Image.open(file).convert("RGB") for file in files], KEPT / f"{example}.jpg"
    if kept.exists():
        then, now = Image.open(kept), overview(drawn)
        return {f"tests/pictures/{example}.jpg": psnr(then, now) if then.size == now.size else 0.0}
    own = tiles(Image.open(EXAMPLES / f"{example}.jpg"), drawn[0].size) if len({one.size for one in drawn}) == 1 else []
    if len(own) != len(drawn):
        return {f"tests/pictures/{example}.jpg, which is missing": 0.0}
    return {f"tile {i} of {example}.jpg": max(psnr(tile, one) for one in drawn) for i, tile in enumerate(own)} \
        | {Path(file).name: max(psnr(one, tile) for tile in own) for file, one in zip(files, drawn)}  # in whatever order


def unlike(example: str, files: list[str]) -> dict[str, float]:
    """What of an example is not as it is kept: → what, dB."""
    found = likeness(example, files)
    return {what: dB for what, dB in found.items() if dB < (LEAST_OF_OVERVIEWS if what.startswith("tests/") else LEAST)}


def draw(example: str, folder: Path) -> list[str]:
    """Run an example → the files of its pictures."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["run", str(EXAMPLES / f"{example}.json"), "--out", str(folder), "--input", str(folder), *briefly(example), "--json"]) == 0
    return json.loads(said.getvalue().strip().splitlines()[-1])["images"]


def drawn_once(example: str, folders) -> list[str]:
    """What an example draws in standalone, once for all processes of a run of tests: → the files of its pictures. folders: tmp_path_factory."""
    base = folders.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "standalone" / example
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "pictures.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_text(json.dumps(draw(example, folder)))
    return json.loads(kept.read_text())


def beside_standalone(example: str, entry: dict, base: Path, folders) -> dict[str, float]:
    """What a host saved of an example, against what standalone draws: prefix → mean difference of 0 to 255. entry: of the host's history;
    base: its folder; folders: tmp_path_factory."""
    saved = [image for output in entry["outputs"].values() for image in output.get("images", ()) if image["type"] == "output"]
    ours = {Path(file).name.rsplit("_", 2)[0]: file for file in drawn_once(example, folders) if not Path(file).name.startswith("ComfyUI_temp")}
    assert len(saved) == len(ours) > 0
    pairs = {image["filename"].rsplit("_", 2)[0]: base / "output" / image["subfolder"] / image["filename"] for image in saved}
    return {name: float(np.abs(np.asarray(Image.open(file), float) - np.asarray(Image.open(ours[name]), float)).mean()) for name, file in pairs.items()}


CARDS = {"sd3_5": "SD3.5 as wires", "flux_dev": "Flux.1 dev as wires", "steer_a_style": "A style, steered"}


def card(title: str, pixels: int = 1024, cell: int = 8, channels: int = 16, p: int = 2) -> Image.Image:
    """A card for an example whose model is not here: from pixels to tokens, in boxes."""
    side = pixels // cell
    boxes = [("prompt", "text"), ("latent", f"{side}×{side}×{channels}"), ("Patchify", f"p = {p}"),
             ("tokens", f"{(side // p) ** 2:,} of {channels * p * p}"), ("picture", f"{pixels}×{pixels}")]
    whole = Image.new("RGB", (512, 512), "#1d1d22")
    draw = ImageDraw.Draw(whole)
    large, small = (charts.font(size, False) for size in (34, 24))
    draw.text((32, 28), title, fill="#ffffff", font=large)
    colours = ("#e69f00", "#c79fc9", "#8ab6d6", "#56b4e9", "#8fcfa3")
    for i, ((name, said), colour) in enumerate(zip(boxes, colours)):
        top = 96 + 82 * i
        draw.rounded_rectangle((32, top, 480, top + 60), 10, fill="#2b2b33", outline=colour, width=3)
        draw.text((52, top + 15), name, fill=colour, font=small)
        draw.text((250, top + 15), said, fill="#ffffff", font=small)
        if i:
            draw.line((256, top - 22, 256, top), fill="#888888", width=3)
    return whole


def thumbnail(example: str) -> None:
    """Make an example's .jpg."""
    path = EXAMPLES / f"{example}.jpg"
    if example in CARDS:
        card(CARDS[example]).save(path, quality=88)
        return
    with tempfile.TemporaryDirectory() as folder:
        Image.open(draw(example, Path(folder))[-1]).convert("RGB").save(path, quality=92)


if __name__ == "__main__":
    if sys.argv[1:2] == ["thumbnails"]:
        for name in sys.argv[2:]:
            thumbnail(name)
        sys.exit()
    KEPT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or [path.stem for path in sorted(EXAMPLES.glob("*.json")) if path.stem not in ELSEWHERE]:
        with tempfile.TemporaryDirectory() as folder:
            files = draw(name, Path(folder))
            (KEPT / f"{name}.jpg").unlink(missing_ok=True)
            if unlike(name, files):  # its own .jpg shows something else, or noise, which a .jpg does not keep
                overview([Image.open(file) for file in files]).save(KEPT / f"{name}.jpg", quality=88, subsampling=0, optimize=True)
            print(name, {what: round(dB, 1) for what, dB in likeness(name, files).items()}, flush=True)
