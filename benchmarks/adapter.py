"""The default model taught a patch size it never saw: `python -m benchmarks.adapter [--patch-size 3] [--minutes 30] [--prompts 100] [--json]`.

Trains an adapter for so many minutes, or goes on with one that was begun (the state is in --folder), then draws held-out single-object
prompts by it, by resample and pi_resize, and by the model's own sizes next to it: 20 Euler steps, cfg 2, 256×256, the verifier's accuracy.
"""

import argparse
import json
import math
import os
from pathlib import Path
import random
import time

from safetensors.torch import save_file
import torch
from torch import Tensor

from dit_blocks.dit_impl.errors import BackboneError
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.sources.adapters import adapter_of, save_adapter
from dit_blocks.dit_impl.sources.atomic import replace_atomically
from dit_blocks.dit_impl.sources.checkpoints import read_safetensors
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.tokens.patch import token_grid
from dit_blocks.dit_impl.training.adapter import Distilling, teach_patch_size
from dit_blocks.dit_impl.training.default_model import scenes
from dit_blocks.dit_impl.training.default_model.evaluate import BATCH, accuracy
from dit_blocks.dit_impl.training.loop import Alone, Draws, Settings
from dit_blocks.dit_impl.training.optimizers import optimizers_of
from dit_blocks.dit_impl.training.precision import multiplies_bfloat16, quick
from dit_blocks.dit_impl.training.sets import TrainingSet

PICTURES, SIDE, WARM_UP, TIMED = 4096, 256, 3, 6
SETTINGS = Settings(batch=16, learning_rate=4e-3, scheduler="cosine", warmup=50, ema=0.995, drop=0.1, weight_decay=0.0, optimizer="muon",
                    precision="bfloat16" if multiplies_bfloat16(torch.device("cpu")) else "float32")


def share_evenly(latent: Tensor) -> Tensor:
    """Loss weights by which the objects of a scene count as much as its background, however small they are.

    [B, C, H, W] in DiT space → [B, 1, H, W], mean 1. An object's cells are those unlike the commonest value.
    """
    ground = latent.flatten(2).median(dim=2).values[..., None, None]
    thing = ((latent - ground).abs().amax(1, keepdim=True) > 0.2).float()
    share = thing.mean((1, 2, 3), keepdim=True).clamp(0.01, 0.99)
    return 0.5 * (thing / share + (1 - thing) / (1 - share))


def pictures(folder: Path) -> TrainingSet:
    """Captioned scenes, none of them held out, drawn and encoded once."""
    _, clip, vae = load_embedded()
    path = folder / f"scenes_{PICTURES}.safetensors"
    if not path.exists():
        rng, excluded, captions, latents = random.Random(11), set(sum(scenes.held_out(), [])), [], []
        while len(captions) < PICTURES:
            batch = [scene for scene in (scenes.random_scene(rng, rng.randint(1, 2)) for _ in range(32)) if scene not in excluded]
            captions += [scenes.caption(scene) for scene in batch]
            latents.append(vae.encode(torch.stack([scenes.draw(scene, SIDE, rng).movedim(0, -1) for scene in batch])).half())
        drawn = {"latents": torch.cat(latents).contiguous()}
        replace_atomically(path, lambda aside: save_file(drawn, aside, metadata={"captions": json.dumps(captions)}))
    tensors, metadata = read_safetensors(path)
    captions = json.loads(metadata["captions"])
    known = {caption: clip.encode_from_tokens_scheduled(clip.tokenize(caption)) for caption in {*captions, ""}}
    return TrainingSet(tensors["latents"], [known[caption] for caption in captions], tuple(captions), known[""])


def steps_in(minutes: float, dit: Backbone, data: TrainingSet, how: dict) -> int:
    """How many steps of training take so long here: a few are timed."""
    objective = Distilling(dit, **how)
    draws, optimizers, taken = Draws(data, objective, SETTINGS, Alone()), optimizers_of(objective.trained, 1e-9, optimizer=SETTINGS.optimizer), []
    for step in range(WARM_UP + TIMED):
        began = time.perf_counter()
        with quick(torch.device("cpu")):
            objective.loss(draws.at(step)).backward()
        for optimizer in optimizers:
            optimizer.step()
        taken.append(time.perf_counter() - began)
    return max(100, round(minutes * 60 / (1.05 * sum(taken[WARM_UP:]) / TIMED)))


def teach(folder: Path, minutes: float, steps: int, patch_size: int, rank: int, start: int, teacher: int,
          data_share: float) -> tuple[Backbone, dict]:
    """Begin, or go on from where `folder` stands: → the taught model, facts of the training."""
    dit, *_ = load_embedded()
    data, began, spent = pictures(folder), time.monotonic(), time.process_time()
    how = {"patch_size": patch_size, "rank": rank, "start": start, "teacher": teacher, "data_share": data_share, "weigh": share_evenly,
           "times": "uniform"}
    plan, state = folder / f"p{patch_size}.json", folder / f"p{patch_size}.pt"
    resume = plan.exists() and state.exists()
    if resume:
        known = json.loads(plan.read_text(encoding="utf-8"))
    else:
        known = {"steps": steps or steps_in(minutes, dit, data, how), "wall": 0.0, "cpu": 0.0}
        plan.write_text(json.dumps(known), encoding="utf-8")

    def watch(done: int, log) -> None:
        if done % 100 == 0:
            facts = {**known, "wall": known["wall"] + time.monotonic() - began, "cpu": known["cpu"] + time.process_time() - spent, "done": done}
            replace_atomically(plan, lambda aside: aside.write_text(json.dumps(facts), encoding="utf-8"))
            print(f"step {done} of {known['steps']}, loss {sum(log.losses[-100:]) / 100:.4f}, {facts['wall'] / 60:.1f} minutes, "
                  f"{facts['cpu'] / 60:.1f} of the processor", flush=True)
    del how["patch_size"], how["rank"]
    taught = teach_patch_size(dit, data, patch_size, rank, Settings(**{**SETTINGS.__dict__, "steps": known["steps"]}), state, resume, watch, **how)
    return taught, json.loads(plan.read_text(encoding="utf-8"))


def bits(dit: Backbone) -> list[torch.Tensor]:
    """What the model answers at its own sizes to one noisy latent."""
    _, clip, _ = load_embedded()
    text = clip.encode_from_tokens_scheduled(clip.tokenize("a large red circle in the center on a navy background"))
    sigmas, answers = dit.schedule(20), []
    for p in load_embedded()[0].patch_sizes:
        noisy, _ = dit.add_noise(dit.fold({"samples": torch.zeros(1, dit.channels, 32, 32)}, p), sigmas, 0, 3)
        answers.append(dit.denoise(noisy, sigmas, text, None, 1.0, "euler", 0, 2)[0]["tokens"])
    return answers


def measure(before: Backbone, taught: Backbone, patch_size: int, prompts: int) -> list[dict]:
    """→ a dict a row: name, tokens, accuracy."""
    wanted, rows = scenes.held_out()[0][:prompts], []
    sizes = sorted(before.patch_sizes, key=lambda p: abs(math.log(p / patch_size)))[:2]
    plans = [(f"{p} (its own)", before, p, "auto") for p in sorted(sizes)]
    plans += [(f"{patch_size} by the adapter", taught, patch_size, "native"), (f"{patch_size} by resample", before, patch_size, "resample"),
              (f"{patch_size} by pi_resize", before, patch_size, "pi_resize")]
    for name, dit, p, method in plans:
        try:
            right = accuracy(wanted, p, dit=dit, method=method)
        except BackboneError:  # resample takes multiples only
            right = None
        rows.append({"name": name, "tokens": math.prod(token_grid(SIDE // 8, SIDE // 8, p)), "accuracy": right})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| patch size | tokens | right |", "|---|---|---|"]
    return "\n".join(lines + [f"| {r['name']} | {r['tokens']} | {'not possible' if r['accuracy'] is None else format(r['accuracy'], '.1%')} |"
                              for r in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--patch-size", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=30, help="of training; how many steps that is here is measured first")
    parser.add_argument("--steps", type=int, default=0, help="train for so many steps instead")
    parser.add_argument("--rank", type=int, default=0, help="0: as many as fit into 10%% of the model's parameters")
    parser.add_argument("--start", type=int, default=0, help="the size that embedding and head are resized from, 0: the next finer one")
    parser.add_argument("--teacher", type=int, default=4, help="the size that is learnt from, 0: the next finer one")
    parser.add_argument("--data-share", type=float, default=0.3, help="how far what is learnt from it is moved to the true picture")
    parser.add_argument("--prompts", type=int, default=100, help="how many held-out prompts, at most 300")
    parser.add_argument("--folder", type=Path, default=Path("runs/adapter"), help="where the state is, and the adapter at the end")
    parser.add_argument("--json", action="store_true", help="print one object, last")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    before = load_embedded()[0]
    answers = bits(before)
    taught, facts = teach(options.folder, options.minutes, options.steps, options.patch_size, options.rank, options.start, options.teacher,
                          options.data_share)
    adapter, path = adapter_of(taught), options.folder / f"patch_size_{options.patch_size}.safetensors"
    save_adapter(adapter, path)
    same = all(torch.equal(a, b) for after in (before, taught) for a, b in zip(answers, bits(after)))
    with torch.inference_mode():
        rows = measure(before, taught, options.patch_size, options.prompts)
    share = adapter.size / sum(p.numel() for p in before.model.parameters())
    told = {"rows": rows, "share": share, "bytes": os.path.getsize(path), "own sizes bit-identical": same, **facts}
    print(json.dumps(told) if options.json else f"{table(rows)}\n\n{adapter}\n{share:.1%} new parameters, {told['bytes'] / 1e6:.1f} MB; own "
          f"sizes {'bit-identical' if same else 'CHANGED'}; {facts['wall'] / 60:.0f} minutes, {facts['cpu'] / 60:.0f} of the processor; "
          f"{options.prompts} prompts in batches of {BATCH}")


if __name__ == "__main__":
    main()
