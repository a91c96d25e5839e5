"""What ways to spend less cost and give: `python -m benchmarks.patch_size [--prompts N] [--write] [--json]`.

The default model, 20 Euler steps, cfg 2, 256×256, held-out prompts with one object: half of them shapes, half pictured things (which need the
font that `things.py` names; without it, all are shapes). Every batch is drawn in every way before the next, so that times compare. Accuracy is
the verifier's, dB are against p = 2 of the same seed, FLOPs and seconds are of the denoising, as ratios to p = 2.
The control of a way is fewer steps at p = 2: of those that are drawn, the number whose seconds are nearest to its own.
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

from dit_blocks.dit_impl.see.compare import cost
from dit_blocks.dit_impl.see.ways import parse_ways
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.training.default_model import matcher, scenes, things
from dit_blocks.dit_impl.training.default_model.evaluate import BATCH, CFG, STEPS, batches_of, draw_in_steps
from dit_blocks.dit_impl.training.default_model.reader import read_scene, same_scene
from dit_blocks.standalone.sweep.drive import each_in

ROOT = Path(__file__).parents[1]
PAGES = ("benchmarks/RESULTS.md", "docs/nodes.md", "docs/zh/nodes.md",
         "web/docs/DiTBlocksPatchSchedule.md", "web/docs/DiTBlocksPatchSchedule/zh.md")
FIGURES = re.compile(r"<!-- patch-size figures -->.*?<!-- end of figures -->", re.DOTALL)
WAYS_FIGURES = re.compile(r"(?<=<!-- ways figures -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)
PLOT = "benchmarks/patch_size.png"
ROWS = """2
4
8
4 by resample
8 by resample
4 until 50%, then 2
8 until 50%, then 4 until 75%, then 2"""
WAYS = """regions 25%
8 until 30%, then 8 with 4 on 50% with 2 on 50%
cache 0.2
8 steps + cache 0.2
4 until 50%, then 2 + 8 steps
regions 25% + 8 steps
8 until 30%, then 8 with 4 on 50% with 2 on 50% + 8 steps
8 until 30%, then 8 with 4 on 50% with 2 on 50% + 6 steps"""
CONTROLS = "\n".join(f"{count} steps" for count in (10, 8, 6, 5, 4, 3, 2))
FLOPS, SECONDS, POINT = 0.30, 0.35, 0.01  # what a way may spend, as shares of p = 2, and by how much it may be less often right
NORMAL = 1.96  # standard deviations on either side of 95% of a normal distribution


def interval(right: float, prompts: int) -> tuple[float, float]:
    """Between which shares the true one lies with 95% confidence. Wilson 1927."""
    spread = NORMAL ** 2 / prompts
    centre, half = (right + spread / 2) / (1 + spread), math.sqrt(right * (1 - right) * spread + spread ** 2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def asked(prompts: int) -> list[tuple[list[scenes.Scene], Callable]]:
    """So many held-out scenes in batches, each with what reads pictures of it."""
    pictured = scenes.held_out_things()[0][:prompts // 2] if things.font_path() else []
    kinds = (scenes.held_out()[0][:prompts - len(pictured)], read_scene), (pictured, matcher.read_scene)
    return [(batch, read) for wanted, read in kinds for batch in batches_of(wanted)]


def measure(prompts: int, each: Callable = map, ways: str = f"{ROWS}\n{WAYS}\n{CONTROLS}") -> list[dict]:
    """→ a dict a row: name, prompts, accuracy, its interval, of shapes and of things, flops and seconds (ratios to the first row), decibels
    against it (None for itself). each: draws batches."""
    dit, *_ = load_embedded()
    rows, wanted = parse_ways(ways), asked(prompts)
    own, names, shapes = rows[0].label, [row.label for row in rows], sum(len(batch) for batch, read in wanted if read is read_scene)
    right, seconds, errors, macs = ({name: [] for name in names} for _ in range(4))

    def draw(start: int) -> list[tuple[str, float, list[bool], list[float], int]]:
        (batch, read), reference, drawn = wanted[start], None, []
        for row in rows:
            steps, plan = row.steps or STEPS, row.plan(dit)
            pictures, took, hits = draw_in_steps([scenes.caption(scene) for scene in batch], plan, steps, start * BATCH, row.handle(dit))
            reference = pictures if reference is None else reference
            spent = cost(dit, plan, dit.schedule(steps), (256, 256), 1, CFG != 1, row.skip or "", hits)[1]
            drawn.append((row.label, took / len(batch), [same_scene(read(picture), scene) for picture, scene in zip(pictures, batch)],
                          (pictures - reference).square().mean((1, 2, 3)).tolist(), spent))
        return drawn
    for name, took, found, off, spent in chain.from_iterable(each(draw, range(len(wanted)))):
        seconds[name].append(took)
        right[name] += found
        errors[name] += off
        macs[name].append(spent)

    def row_of(name: str) -> dict:
        accuracy, error, count = statistics.mean(right[name]), statistics.mean(errors[name]), len(right[name])
        by_kind = {kind: round(statistics.mean(found), 4) for kind, found in (
            ("shapes", right[name][:shapes]), ("things", right[name][shapes:])) if found}
        return {"name": name, "prompts": count, "accuracy": round(accuracy, 4), "interval": [round(end, 4) for end in interval(accuracy, count)], **by_kind,
                "flops": round(sum(macs[name]) / sum(macs[own]), 4),
                "seconds": round(statistics.median(a / b for a, b in zip(seconds[name], seconds[own])), 4),
                "decibels": None if name == own else round(-10 * math.log10(max(error, 1e-12)), 2)}
    return [row_of(name) for name in names]


def table(rows: list[dict]) -> str:
    """Markdown of patch sizes, methods and schedules."""
    return "\n".join(["| patch size | right | FLOPs | seconds | dB to p = 2 |", "|---|---|---|---|---|", *map(line, rows)])


def line(row: dict) -> str:
    return f"| {row['name']} | {row['accuracy']:.0%} | {row['flops']:.0%} | {row['seconds']:.0%} | {row['decibels'] or '—'} |"


def control_of(row: dict, rows: list[dict]) -> dict | None:
    """The row of fewer steps whose seconds are nearest to a way's. None for a row that is no way to spend less, or fewer steps itself."""
    fewer = [one for one in rows if one["name"] in CONTROLS.split("\n")]
    if not fewer or row["name"] == rows[0]["name"] or row in fewer:
        return None
    return min([rows[0], *fewer], key=lambda one: abs(one["seconds"] - row["seconds"]))


def beside_controls(rows: list[dict]) -> str:
    """Markdown of every way beside fewer steps at the same seconds, and what that says."""
    def share(row: dict) -> str:
        return f"{row['accuracy']:.1%} ({row['interval'][0]:.0%}–{row['interval'][1]:.0%})"
    lines = ["| way | right | FLOPs | seconds | dB to p = 2 | fewer steps | their seconds | right | dB |", "|---|---|---|---|---|---|---|---|---|"]
    better, worse, alike, aimed = [], [], [], []
    for row in rows:
        control = control_of(row, rows)
        if control is None:
            continue
        steps = f"{STEPS} steps" if control is rows[0] else control["name"]
        lines.append(f"| {row['name']} | {share(row)} | {row['flops']:.0%} | {row['seconds']:.0%} | {row['decibels']} | {steps} | {control['seconds']:.0%} | "
                     f"{share(control)} | {control['decibels'] or '—'} |")
        apart = row["interval"][0] > control["interval"][1], control["interval"][0] > row["interval"][1]
        (better if apart[0] else worse if apart[1] else alike).append(f"`{row['name']}`")
        if apart[0] and row["flops"] <= FLOPS and row["seconds"] <= SECONDS and row["accuracy"] >= rows[0]["accuracy"] - POINT:
            aimed.append(f"`{row['name']}`")
    said = [f"**{what}** {', '.join(names) or 'none'}." for what, names in (
        ("More right than fewer steps at the same seconds:", better), ("Fewer right, so that fewer steps win:", worse),
        ("No difference that so many prompts show:", alike),
        (f"More right than fewer steps, within {100 * POINT:g} point of p = 2, at no more than {FLOPS:.0%} of its FLOPs and {SECONDS:.0%} of its time:",
         aimed))]
    count = rows[0]["prompts"]
    kinds = ", ".join(f"{rows[0][kind]:.1%} of {kind}" for kind in ("shapes", "things") if kind in rows[0])
    note = (f"*The default model on {count} held-out prompts with one object, half of them shapes and half pictured things (p = 2 draws "
            f"{rows[0]['accuracy']:.1%} right: {kinds}), {STEPS} Euler steps where a row says nothing else, one run: "
            f"`python -m benchmarks.patch_size --prompts {count} --write`. In brackets: 95% intervals (Wilson). A batch of {BATCH} leaves blocks out only "
            "where all its pictures may.*")
    return "\n".join([*lines, "", "\n\n".join(said), "", note, ""])


def rewritten(text: str, rows: list[dict], prompts: int) -> str:
    """A page with these figures in its blocks: the rows that it shows, in its order, and the number of prompts; all else stays."""
    lines = {row["name"]: line(row) for row in rows}

    def block(match: re.Match) -> str:
        found = re.sub(r"^\| (\d[^|]*?) \|.*$", lambda old: lines[old[1]], match[0], flags=re.MULTILINE)
        return re.sub(r"\d+( held-out prompts| 条未参加训练)|(?<=--prompts )\d+", lambda old: f"{prompts}{old[1] or ''}", found)
    text = FIGURES.sub(block, text)
    controlled = any(control_of(row, rows) for row in rows)
    return WAYS_FIGURES.sub(lambda _: beside_controls(rows), text) if controlled else text


def plot(rows: list[dict], path: Path, width: int = 1100) -> None:
    """Accuracy over seconds with 95% intervals, the ways by number, and fewer steps as a curve."""
    from PIL import Image, ImageDraw
    ways = [row for row in rows if row["name"] not in CONTROLS.split("\n")]
    height = max(460, 80 + 20 * len(ways))
    picture = Image.new("RGB", (width, height), "white")
    draw, left, right, top, bottom = ImageDraw.Draw(picture), 60, 640, 40, height - 40

    def place(row: dict, accuracy: float) -> tuple[float, float]:
        return left + min(row["seconds"], 1.05) * (right - left), bottom - accuracy * (bottom - top)

    def mark(row: dict, colour: tuple[int, int, int], size: int) -> tuple[float, float]:
        x, y = place(row, row["accuracy"])
        draw.line([place(row, row["interval"][0]), place(row, row["interval"][1])], fill=colour)
        draw.ellipse([x - size, y - size, x + size, y + size], fill=colour)
        return x, y
    for tick in range(0, 101, 20):
        x, y = left + tick / 100 * (right - left), bottom - tick / 100 * (bottom - top)
        draw.line([(left, y), (right, y)], fill=(225, 225, 225))
        draw.text((left - 36, y - 6), f"{tick}%", fill="gray")
        draw.text((x - 10, bottom + 8), f"{tick}%", fill="gray")
    draw.text((left, 12), "prompts drawn right, over seconds as a share of p = 2 in 20 steps; bars: 95% intervals; line: fewer steps at p = 2", fill="black")
    curve, black = [rows[0], *(row for row in rows if row not in ways)], (60, 60, 60)
    draw.line([place(row, row["accuracy"]) for row in curve], fill=black, width=2)
    for row in curve[1:]:
        mark(row, black, 3)
    for number, row in enumerate(ways, 1):
        name = row["name"]
        colour = ((200, 110, 20) if "resample" in name else (150, 150, 150) if "pi_resize" in name else (30, 140, 90) if "cache" in name
                  else (170, 40, 120) if "skip" in name else (40, 90, 170))
        x, y = mark(row, colour, 4)
        # numbers of neighbours stand above and below by turns
        draw.text((x - 6, y - 20 if number % 2 else y + 8), str(number), fill=colour)
        draw.text((right + 40, top + 20 * (number - 1)), f"{number}  {name}", fill=colour)
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
    print(json.dumps({"rows": rows}) if options.json else f"{table(rows)}\n\n{beside_controls(rows)}")


if __name__ == "__main__":
    main()
