"""The training loop against a plain one, written as diffusers' own scripts are, on the same SD3 weights: `python -m benchmarks.training`.

Steps a second: turn and turn about in one process, median of the rounds. Peak memory: each loop in a process of its own, what it takes over
the loaded model. The plain loop is train_dreambooth_sd3.py's: logit-normal times, AdamW, gradient clipping, a cosine schedule.
"""

import argparse
import json
import os
from pathlib import Path
import re
import statistics
import subprocess
import sys
import time

import torch

from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.sampling.flow import RectifiedFlow
from dit_blocks.dit_impl.sources.checkpoints import load_model
from dit_blocks.dit_impl.tokens.wire import identity_format
from dit_blocks.dit_impl.training.loop import Settings, train
from dit_blocks.dit_impl.training.objectives import Denoising, training_copy
from dit_blocks.dit_impl.training.sets import TrainingSet

SIDE, BATCH, TEXT, WIDTH, DEPTH = 32, 8, 32, 384, 6
PLAIN, OURS = "plain loop, diffusers' SD3", "Train DiT"


def transformer() -> torch.nn.Module:
    """diffusers' SD3 transformer, small, with random weights."""
    from diffusers import SD3Transformer2DModel
    torch.manual_seed(0)
    return SD3Transformer2DModel(sample_size=SIDE, patch_size=2, in_channels=16, num_layers=DEPTH, attention_head_dim=64, pos_embed_max_size=SIDE,
                                 num_attention_heads=WIDTH // 64, joint_attention_dim=TEXT, caption_projection_dim=WIDTH, pooled_projection_dim=TEXT,
                                 out_channels=16)


def pictures() -> TrainingSet:
    """Random latents and texts, of which only the sizes count."""
    generator = torch.Generator().manual_seed(0)
    conditionings = [[[torch.randn(1, 24, TEXT, generator=generator), {"pooled_output": torch.randn(1, TEXT, generator=generator)}]] for _ in range(32)]
    return TrainingSet(torch.randn(32, 16, SIDE, SIDE, generator=generator), conditionings, (), conditionings[0])


def plain(steps: int, seen=lambda: None) -> None:
    """A loop as diffusers' scripts write it."""
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import compute_density_for_timestep_sampling
    model, data = transformer().train(), pictures()
    context, pooled = (torch.cat([c[0][0] for c in data.conditionings]), torch.cat([c[0][1]["pooled_output"] for c in data.conditionings]))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(data), (BATCH,))
        clean = data.latents[chosen]
        noise = torch.randn_like(clean)
        sigma = compute_density_for_timestep_sampling("logit_normal", BATCH, 0.0, 1.0)
        s = sigma.view(-1, 1, 1, 1)
        answer = model((1 - s) * clean + s * noise, context[chosen], pooled[chosen], sigma * 1000, return_dict=False)[0]
        loss = (answer.float() - (noise - clean)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        seen()


def ours(steps: int, seen=lambda: None) -> None:
    """The same model and set by this library's loop."""
    model = load_model(transformer().state_dict(), {"num_attention_heads": WIDTH // 64, "sample_size": SIDE, "patch_size": 2})
    dit = Backbone(model.eval(), identity_format(16), RectifiedFlow(), "SD3", picture_size=8 * SIDE)
    objective = Denoising(training_copy(dit))
    del model, dit
    train(objective, pictures(), Settings(steps=steps, batch=BATCH, learning_rate=1e-4, warmup=2), watch=lambda *_: seen())


LOOPS = {PLAIN: plain, OURS: ours}


def peak(name: str, steps: int) -> float:
    """MiB that a loop takes at most, over what the process has before it."""
    code = f"from benchmarks.training import *; print(json.dumps(memory_of({name!r}, {steps})))"
    # Freed blocks go back to the system at once: else the mark moves by a tenth from run to run.
    returned = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=returned).stdout
    return json.loads(told.splitlines()[-1])


def memory_of(name: str, steps: int) -> float:
    pictures(), transformer()
    import diffusers.optimization  # noqa: E401, F401  so that neither loop pays for the import
    import diffusers.training_utils
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew; getrusage's would be the parent's
    before = high_water()
    LOOPS[name](steps)
    return high_water() - before


def high_water() -> float:
    """The most memory that this process has held, in MiB (Linux)."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    for _ in range(arguments.rounds):
        for name, loop in LOOPS.items():
            marks: list[float] = []
            loop(arguments.steps, lambda: marks.append(time.perf_counter()))
            seconds[name] += [later - earlier for earlier, later in zip(marks[1:], marks[2:])]
    table = {name: {"seconds": statistics.median(taken), "mib": peak(name, arguments.steps)} for name, taken in seconds.items()}
    if arguments.json:
        print(json.dumps(table))
        return
    print("| loop | steps a second | peak memory |\n|---|---|---|")
    for name, row in table.items():
        print(f"| {name} | {table[PLAIN]['seconds'] / row['seconds']:.2f} | {row['mib'] / table[PLAIN]['mib']:.2f} |")
    print(f"\n*As a share of the plain loop's, {table[PLAIN]['seconds']:.2f} s a step and {table[PLAIN]['mib']:.0f} MiB: width {WIDTH}, {DEPTH} blocks, "
          f"{(SIDE // 2) ** 2} tokens, batch {BATCH}, float32.*")


if __name__ == "__main__":
    main()
