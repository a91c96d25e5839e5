"""How much faster a sweep is than one process that draws one cell after another: `python -m benchmarks.sweep [--prompts N] [--workers N]`.

The example `text_to_image` over prompts × 5 seeds × 4 schedules, on this machine. Both ways load the models themselves. With `--kill` the
sweep is killed (kill -9) when half of it is done, and started again: no cell may be lost or drawn twice.
"""

import argparse
from collections import Counter
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import time

import dit_blocks

ROOT = Path(dit_blocks.__file__).parent
PROMPTS = [f"a {size} {colour} {shape} {place} on a {ground} background" for size, colour, shape, place, ground in (
    ("large", "red", "circle", "in the center", "white"), ("small", "blue", "square", "at the top left", "black"),
    ("large", "green", "triangle", "at the bottom right", "white"), ("small", "yellow", "ring", "at the right", "navy"),
    ("large", "orange", "star", "at the left", "black"), ("small", "purple", "cross", "at the top", "white"),
    ("large", "cyan", "diamond", "at the bottom", "navy"), ("small", "red", "square", "at the top right", "white"),
    ("large", "blue", "ring", "at the bottom left", "white"), ("small", "green", "circle", "in the center", "black"))]


def written(folder: Path, prompts: int, workers: int) -> Path:
    """A sweep's file."""
    (folder / "prompts.txt").write_text("\n".join(PROMPTS[:prompts]))
    file = folder / f"workers_{workers}.toml"
    file.write_text(f'workflow = "{(ROOT / "example_workflows" / "text_to_image.json").as_posix()}"\n[workers]\ncount = {workers}\n[grid]\n'
                    '"Prompt.text" = {file = "prompts.txt"}\n"Add Noise (DiT).seed" = {from = 1, to = 5}\n'
                    '"Sigma Schedule.scheduler" = ["simple", "normal", "karras", "beta"]\n')
    return file


def swept(file: Path, kill: bool) -> float:
    """Run a sweep: → seconds."""
    command, began = [sys.executable, "-m", "dit_blocks.standalone.cli", "sweep", str(file)], time.perf_counter()
    lines = file.with_suffix("") / "cells.jsonl"
    if kill:
        from dit_blocks.standalone.sweep.plan import read_plan
        half, first = len(read_plan(file)) // 2, subprocess.Popen(command)
        while not lines.exists() or lines.read_bytes().count(b"\n") < half:
            time.sleep(0.1)
        first.send_signal(signal.SIGKILL)
        first.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def one_after_another(file: Path) -> float:
    """All cells in this process, with as many threads as torch takes: → seconds."""
    from dit_blocks.standalone.sweep.plan import read_plan
    from dit_blocks.standalone.sweep.worker import Worker
    began, plan = time.perf_counter(), read_plan(file)
    worker = Worker(plan.workflow, (file.parent, file.parent))
    for cell in plan.cells():
        worker.run(cell)
    worker.close()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--prompts", type=int, default=10, help="how many prompts, each of 20 cells (10)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of the sweep (one a core)")
    parser.add_argument("--kill", action="store_true", help="kill the sweep when half of it is done")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = written(Path(folder), options.prompts, options.workers)
        alone = one_after_another(file)
        together = swept(file, options.kill)
        rows = [json.loads(line) for line in (file.with_suffix("") / "cells.jsonl").read_text().splitlines()]
        twice = sum(count - 1 for count in Counter(json.dumps(row["cell"]) for row in rows).values())
        print(f"{len(rows)} cells, {sum(bool(row['error']) for row in rows)} failed, {twice} twice; one after another {alone:.0f} s, "
              f"{options.workers} workers {together:.0f} s: {alone / together:.2f} times as fast")


if __name__ == "__main__":
    main()
