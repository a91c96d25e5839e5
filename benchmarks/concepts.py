"""How well Concept Map's masks cover what they name: `python -m benchmarks.concepts [--scenes 100] [--weights FOLDER] [--json]`.

Held-out scenes of two things, whose pixels are known, are drawn, encoded and noised to a level. One step of the default model maps the two
things by their names, against `--against`. The figure is the intersection over union of each thing's mask with the tokens that the thing
covers by more than half, its mean over all things; beside it the share of scenes in which both reach a half.
"""

import argparse
from collections.abc import Iterator
import json
from pathlib import Path

import torch
from torch import Tensor
import torch.nn.functional as F

from dit_blocks.dit_impl.see.concept_map import ConceptMaps, concept_maps
from dit_blocks.dit_impl.see.concept_words import read_concepts
from dit_blocks.dit_impl.sources.embedded import FOLDER, load_embedded
from dit_blocks.dit_impl.step import stages
from dit_blocks.dit_impl.training.default_model import scenes, things

SIDE = 256
KINDS = {"shapes": lambda count: scenes.held_out(pairs=count)[1], "things": lambda count: scenes.held_out_things(pairs=count)[1]}


def covered(thing: scenes.Thing, size: int) -> Tensor:
    """How much of each pixel a thing covers: → [size, size] in 0..1."""
    place, half = scenes.PLACES[thing.place], scenes.half_extent(thing)
    if not thing.pictured:
        return scenes.coverage(thing.shape, place, half, size)
    black, white = (things.paste(torch.full((3, size, size), shade), things.full_name(thing.colour, thing.shape), place, half) for shade in (0.0, 1.0))
    return 1 - (white - black).mean(0)


def truth(scene: scenes.Scene, grid: tuple[int, ...]) -> Tensor:
    """Which tokens each thing covers by more than half: → [things, h, w]."""
    return F.adaptive_avg_pool2d(torch.stack([covered(thing, SIDE) for thing in scene.things])[None], grid)[0] > 0.5


def iou(masks: Tensor, true: Tensor) -> Tensor:
    """Intersection over union: bool [K, h, w], the same → [K]."""
    return (masks & true).sum((1, 2)) / (masks | true).sum((1, 2)).clamp_min(1)


def mapped(parts, pairs: list[scenes.Scene], level: float, blocks: str, against: str, prompted: bool) -> Iterator[tuple[scenes.Scene, ConceptMaps]]:
    """Each scene with the maps of its two things, by one step at a noise level."""
    dit, clip, vae = parts
    sigmas = torch.tensor([level, 0.0])
    for seed, scene in enumerate(pairs):
        clean = dit.fold({"samples": vae.encode(scenes.draw(scene, SIDE).movedim(0, -1)[None])})
        noisy, _ = dit.add_noise(clean, sigmas, 0, seed)
        prompt = clip.encode_from_tokens_scheduled(clip.tokenize(scenes.caption(scene) if prompted else ""))
        hidden = stages.patch_embed(dit, stages.condition(dit, noisy, prompt, None, sigmas, 0))
        concepts = read_concepts(clip, "\n".join(f"{thing.colour} {thing.shape}" for thing in scene.things), against.replace(", ", "\n"))
        yield scene, concept_maps(dit, stages.position_embed(dit, hidden), concepts, blocks)[1]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--weights", type=Path, default=FOLDER, help="a folder with dit, text and vae.safetensors")
    parser.add_argument("--kind", choices=list(KINDS), help="shapes, or little pictures of things; both if left out")
    parser.add_argument("--level", type=float, default=0.2, help="sigma that the scene is noised to")
    parser.add_argument("--blocks", default="all")
    parser.add_argument("--against", default="background", help="what the concepts are told from, parted by commas")
    parser.add_argument("--threshold", type=float, nargs="+", default=[0.5], help="the share from which a token is in the mask")
    parser.add_argument("--prompt", choices=["caption", "none"], default="caption", help="what the step itself is asked for")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    parts, rows = load_embedded(args.weights), []
    for kind in [args.kind] if args.kind else KINDS:
        if kind == "things" and things.font_path() is None:
            print(things.INSTALL)
            continue
        found = list(mapped(parts, KINDS[kind](args.scenes), args.level, args.blocks, args.against, args.prompt == "caption"))
        for threshold in args.threshold:
            each = torch.stack([iou(maps.shares > threshold, truth(scene, maps.grid)) for scene, maps in found])
            rows.append({"kind": kind, "scenes": len(found), "threshold": threshold, "iou": round(each.mean().item(), 3),
                         "both": round((each > 0.5).all(1).float().mean().item(), 3)})
            if not args.json:
                print("{kind}: {scenes} scenes, threshold {threshold:g}: IoU {iou:.3f}; both above a half in {both:.0%}".format(**rows[-1]), flush=True)
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
