"""What patch sizes, methods and schedules cost and give: `python -m benchmarks.patch_size [--prompts N] [--write] [--json]`.

The default model, 20 Euler steps, cfg 2, 256×256, held-out single-object prompts; every batch is drawn in every way before the next, so
that times compare. Accuracy is the verifier's, dB are against p = 2 of the same seed, FLOPs and seconds are of the denoising, as ratios to p = 2.
`--write` brings the figures into the pages that show them, and draws the plot anew.
"""

import argparse
from collections.abc import Callable
from itertools import chain
import json
import math
from pathlib import Path
import re
import statistics

import torch

from dit_blocks.dit_impl.see.compare import cost, parse_rows
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.training.default_model import scenes
from dit_blocks.dit_impl.training.default_model.evaluate import BATCH, CFG, STEPS, draw_prompts
from dit_blocks.dit_impl.training.default_model.reader import read_scene, same_scene
from dit_blocks.standalone.sweep.drive import each_in

ROOT = Path(__file__).parents[1]
PAGES = ("benchmarks/RESULTS.md", "docs/nodes.md", "docs/zh/nodes.md",
         "web/docs/DiTBlocksPatchSchedule.md", "web/docs/DiTBlocksPatchSchedule/zh.md")
FIGURES = re.compile(r"<!-- patch-size figures -->.*?<!-- end of figures -->", re.DOTALL)
PLOT = "benchmarks/patch_size.png"
ROWS = """2
4
8
4 by resample
8 by resample
4 by pi_resize
8 by pi_resize
4 until 25%, then 2
4 until 50%, then 2
4 until 70%, then 2
4 until 75%, then 2
8 until 25%, then 4 until 50%, then 2
8 until 25%, then 2
4 until 50%, then 2 by resample
4 until 50%, then 2 by pi_resize"""


def measure(prompts: int, each: Callable = map) -> list[dict]:
    """→ a dict a row: name, accuracy, flops and seconds (ratios to p = 2), decibels against p = 2 (None for itself). each: draws batches."""
    dit, *_ = load_embedded()
    rows, wanted = parse_rows(ROWS), scenes.held_out()[0][:prompts]
    sigmas = dit.schedule(STEPS)
    right, seconds, errors = ({name: [] for name, _ in rows} for _ in range(3))

    def draw(start: int) -> list[tuple[str, float, list[bool], list[float]]]:
        batch, reference, drawn = wanted[start:start + BATCH], None, []
        for name, plan in rows:
            pictures, took = draw_prompts([scenes.caption(scene) for scene in batch], plan, seed=start)
            reference = pictures if reference is None else reference
            drawn.append((name, took / len(batch), [same_scene(read_scene(picture), scene) for picture, scene in zip(pictures, batch)],
                          (pictures - reference).square().mean((1, 2, 3)).tolist()))
        return drawn
    for name, took, found, off in chain.from_iterable(each(draw, range(0, len(wanted), BATCH))):
        seconds[name].append(took)
        right[name] += found
        errors[name] += off
    macs = {name: cost(dit, plan, sigmas, (256, 256), 1, CFG != 1)[1] for name, plan in rows}
    own = rows[0][0]
    return [{"name": name, "accuracy": round(sum(right[name]) / len(wanted), 4), "flops": round(macs[name] / macs[own], 4),
             "seconds": round(statistics.median(a / b for a, b in zip(seconds[name], seconds[own])), 4),
             "decibels": None if name == own else round(-10 * math.log10(statistics.mean(errors[name])), 2)} for name, _ in rows]


def table(rows: list[dict]) -> str:
    """Markdown."""
    return "\n".join(["| patch size | right | FLOPs | seconds | dB to p = 2 |", "|---|---|---|---|---|", *map(line, rows)])


def line(row: dict) -> str:
    return f"| {row['name']} | {row['accuracy']:.0%} | {row['flops']:.0%} | {row['seconds']:.0%} | {row['decibels'] or '—'} |"


def rewritten(text: str, rows: list[dict], prompts: int) -> str:
    """A page with these figures in its block: the rows that it shows, in its order, and the number of prompts; all else stays."""
    lines = {row["name"]: line(row) for row in rows}

    def block(match: re.Match) -> str:
        found = re.sub(r"^\| (\d[^|]*?) \|.*$", lambda old: lines[old[1]], match[0], flags=re.MULTILINE)
        return re.sub(r"\d+( held-out prompts| 条未参加训练)|(?<=--prompts )\d+", lambda old: f"{prompts}{old[1] or ''}", found)
    return FIGURES.sub(block, text)


def plot(rows: list[dict], path: Path, width: int = 1000, height: int = 460) -> None:
    """Accuracy over FLOPs, the rows by number."""
    from PIL import Image, ImageDraw
    picture = Image.new("RGB", (width, height), "white")
    draw, left, right, top, bottom = ImageDraw.Draw(picture), 60, 640, 40, height - 40
    for tick in range(0, 101, 20):
        x, y = left + tick / 100 * (right - left), bottom - tick / 100 * (bottom - top)
        draw.line([(left, y), (right, y)], fill=(225, 225, 225))
        draw.text((left - 36, y - 6), f"{tick}%", fill="gray")
        draw.text((x - 10, bottom + 8), f"{tick}%", fill="gray")
    draw.text((left, 12), "prompts drawn right, over FLOPs as a share of p = 2", fill="black")
    for number, r in enumerate(rows, 1):
        colour = (200, 110, 20) if "resample" in r["name"] else (120, 120, 120) if "pi_resize" in r["name"] else (40, 90, 170)
        x, y = left + r["flops"] * (right - left), bottom - r["accuracy"] * (bottom - top)
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
        # numbers of neighbours stand above and below by turns
        draw.text((x - 6, y - 20 if number % 2 else y + 8), str(number), fill=colour)
        draw.text((right + 30, top + 26 * (number - 1)), f"{number}  {r['name']}", fill=colour)
    picture.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--prompts", type=int, default=100, help="how many held-out prompts, at most 300")
    parser.add_argument("--json", action="store_true", help="print one object, last")
    parser.add_argument("--plot", type=Path, help="write a plot there")
    parser.add_argument("--write", action="store_true", help="write the figures into the documentation, and its plot")
    parser.add_argument("--workers", type=int, default=0, help="draw in so many processes by Ray (0: in this one)")
    options = parser.parse_args()
    with torch.inference_mode(), each_in(options.workers) as each:
        rows = measure(options.prompts, each)
    if options.plot:
        plot(rows, options.plot)
    if options.write:
        plot(rows, ROOT / PLOT)
        for page in (ROOT / name for name in PAGES):
            page.write_text(rewritten(page.read_text(encoding="utf-8"), rows, options.prompts), encoding="utf-8")
    print(json.dumps({"rows": rows}) if options.json else table(rows))


if __name__ == "__main__":
    main()
