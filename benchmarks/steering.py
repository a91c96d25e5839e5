"""How often a steering vector turns a colour, and leaves the rest: `python -m benchmarks.steering [--prompts N] [--write]`.

The default model, p = 2, 20 Euler steps, cfg 2, 256×256. The vector is the mean difference of runs with "blue" and with "red", of other scenes,
over steps and the tokens of the object. It is added in the last steps, when the shape stands, on the object's tokens of the positive prompt, to
runs of held-out prompts with one object that say "red". From which step on and how strong was chosen on 40 scenes that are not held out. Turned:
the picture is the prompt's but for blue in place of red, as the verifier reads it.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
import random
import re

import torch
from torch import Tensor

from dit_blocks.standalone import comfy_api_standin

comfy_api_standin.install()

from dit_blocks.dit_impl.sources.embedded import load_embedded  # noqa: E402
from dit_blocks.dit_impl.tokens.steering import SteeringVector, steer, steering_vector  # noqa: E402
from dit_blocks.dit_impl.tokens.wire import unfold  # noqa: E402
from dit_blocks.dit_impl.training.default_model import scenes  # noqa: E402
from dit_blocks.dit_impl.training.default_model.evaluate import BATCH, CFG, STEPS  # noqa: E402
from dit_blocks.dit_impl.training.default_model.reader import read_scene, same_scene  # noqa: E402
from dit_blocks.dit_impl.training.precision import quick  # noqa: E402
from dit_blocks.nodes.transformer import Condition, FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks, SamplerStep  # noqa: E402

RESULTS = Path(__file__).with_name("RESULTS.md")
FIGURES = re.compile(r"(?<=<!-- steering figures -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)
PATCH_SIZE, PAIRS, BLOCK, STRENGTH, FIRST = 2, 24, 4, 2.0, 12  # BLOCK: the direction is taken and added behind it; FIRST: from this step on


def coloured(wanted: list[scenes.Scene], colour: str) -> list[scenes.Scene]:
    return [replace(scene, things=tuple(replace(thing, colour=colour) for thing in scene.things)) for scene in wanted]


def others(count: int) -> list[scenes.Scene]:
    """Scenes with one object that are not held out."""
    rng, held, found = random.Random(11), scenes.excluded(), []
    while len(found) < count:
        scene = scenes.random_scene(rng, 1)
        if not held & {scene, *coloured([scene], "red"), *coloured([scene], "blue")}:
            found.append(scene)
    return found


def objects(wanted: list[scenes.Scene]) -> Tensor:
    """Where the objects are: → masks [B, 256, 256] in 0..1."""
    drawn = [scenes.draw(scene, 256, random.Random(0)) - scenes.ground(scene.background, 256) for scene in wanted]
    return (torch.stack(drawn).abs().amax(1) > 0.03).float()


def out(node, **inputs):
    return node.execute(**inputs).result[0]


@torch.no_grad()
def draw(wanted: list[scenes.Scene], seed: int, between: Callable[[dict, int], dict]) -> Tensor:
    """Pictures of scenes from their captions, by stages: → [B, 3, 256, 256]. between: what is done with the hidden states behind BLOCK in a
    step."""
    dit, clip, vae = load_embedded()
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(scenes.caption(scene)))[0] for scene in wanted]
    positive = [[torch.cat([states for states, _ in encoded]), {"pooled_output": torch.cat([extra["pooled_output"] for _, extra in encoded])}]]
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    sigmas, side = dit.schedule(STEPS), dit.picture_size // dit.downscale
    wire = dit.fold({"samples": torch.zeros(len(wanted), dit.channels, side, side)}, PATCH_SIZE)
    wire, _ = dit.add_noise(wire, sigmas, 0, seed)
    last = len(dit.model.joint_blocks) - 1
    for step in range(STEPS):
        with quick(torch.device("cpu")):
            hidden = out(Condition, dit=dit, x=wire, positive=positive, sigmas=sigmas, step=step, negative=negative)
            hidden = out(PositionEmbed, dit=dit, hidden=out(PatchEmbed, dit=dit, x=hidden), mode="model", seed=0)
            hidden = between(out(RunBlocks, dit=dit, hidden=hidden, blocks=f"0-{BLOCK}", strength=1.0), step)
            hidden = out(RunBlocks, dit=dit, hidden=hidden, blocks=f"{BLOCK + 1}-{last}", strength=1.0)
            guided = out(Guidance, prediction=out(FinalLayer, dit=dit, hidden=hidden), cfg=CFG)
        wire = out(SamplerStep, dit=dit, tokens=wire, prediction=guided, sigmas=sigmas, step=step, solver="euler")
    return vae.decode(unfold(wire)).movedim(-1, 1)


def vector(pairs: int = PAIRS) -> SteeringVector:
    """Blue − red behind BLOCK, the mean over pairs of runs, steps and tokens of the object."""
    wanted, taken = others(pairs), {}
    for colour in ("blue", "red"):
        taken[colour] = []
        draw(coloured(wanted, colour), 100, lambda hidden, _, kept=taken[colour]: kept.append(hidden) or hidden)
    mask, found = objects(wanted), None
    for towards, away in zip(taken["blue"], taken["red"]):
        found = steering_vector(towards, away, mask, found)
    return found


def measure(prompts: int, pairs: int = PAIRS) -> dict:
    """→ shares of prompts: turned, with all else as it was; blue, whatever became of the rest; control, drawn right without the vector."""
    blue, counts = vector(pairs), {"turned": 0, "control": 0, "blue": 0}
    wanted = coloured(scenes.held_out()[0][:prompts], "red")
    for start in range(0, prompts, BATCH):
        batch = wanted[start:start + BATCH]
        mask = objects(batch)

        def turn(hidden: dict, step: int, mask=mask) -> dict:
            return steer(hidden, blue, STRENGTH, mask, "positive") if step >= FIRST else hidden
        for name, act, goal in (("turned", turn, coloured(batch, "blue")), ("control", lambda hidden, _: hidden, batch)):
            found = [read_scene(picture) for picture in draw(batch, start, act)]
            counts[name] += sum(map(same_scene, found, goal))
            if name == "turned":
                counts["blue"] += sum({thing.colour for thing in scene.things} == {"blue"} for scene in found)
    return {name: count / len(wanted) for name, count in counts.items()} | {"vector": str(blue)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="bring the figures into RESULTS.md")
    given = parser.parse_args()
    found = measure(given.prompts)
    said = (f"On {given.prompts} held-out prompts with one red object, a vector from red to blue ({found['vector']}), added at strength {STRENGTH} "
            f"to the object's tokens in the last {STEPS - FIRST} of {STEPS} steps: {found['blue']:.0%} become blue, {found['turned']:.0%} with all else as it was. Without it "
            f"{found['control']:.0%} are drawn as asked, in red.\n")
    print(said)
    if given.write:
        RESULTS.write_text(FIGURES.sub(lambda _: said, RESULTS.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
