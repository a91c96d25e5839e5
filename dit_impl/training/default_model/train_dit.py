"""Train the flexible MM-DiT and its text encoder on captioned scenes. Resumable; the averaged weights are always on disk."""

from dataclasses import dataclass
import logging
from pathlib import Path
import random
import time

import torch
from torch import Tensor

from ...model.mmdit import MMDiT, MMDiTConfig
from ...model.text import END, PAD, START, TextConfig, TextEncoder, Tokenizer
from ...model.vae import VAE
from ...sampling.flow import RectifiedFlow
from ...sources.atomic import save_state
from ...tokens.patch import patchify, token_grid
from ..optimizers import optimizers_of
from . import scenes
from .train_vae import warmup_cosine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiTRecipe:
    """Everything that decides the weights. `steps`, `seconds` and `mix` may change between runs; the rest may not.

    mix: picture size, patch size, batch, share of the steps at the start and at the end. Large patches come first: they are
    cheap, and what they teach about words and places serves the small ones too."""
    width: int = 192
    depth: int = 6
    heads: int = 4
    patch_sizes: tuple[int, ...] = (2, 4, 8)
    head_hidden: int = 640  # of patches wider than the model
    text_width: int = 128
    steps: int = 20000
    seconds: float = float("inf")
    mix: tuple[tuple[int, int, int, float, float], ...] = (
        (256, 2, 32, 0.4, 0.35), (256, 4, 64, 0.3, 0.3), (256, 8, 96, 0.2, 0.27),
        (128, 2, 64, 0.06, 0.05), (128, 4, 96, 0.04, 0.03))
    pictures: int = 6144  # latents kept in memory for each picture size; a share is redrawn as training goes on
    learning_rate: float = 1e-3
    shift: float = 2.0  # towards noise, where words and places are learned
    pair_share: float = 0.5
    word_drop: float = 0.1
    caption_drop: float = 0.1
    compile: bool = False
    seed: int = 1


def vocabulary() -> tuple[str, ...]:
    """Every word a caption can hold, after padding, start and end."""
    words: set[str] = {"a", "an", "and", "at", "the", "in", "on", "background"}
    for names in (scenes.COLOURS, scenes.BACKGROUNDS, scenes.SIZES, scenes.SHAPES, *(p.split() for p in scenes.PLACES)):
        words.update(names)
    return (PAD, START, END, *sorted(words))


def build(recipe: DiTRecipe, channels: int) -> tuple[MMDiT, TextEncoder]:
    """Model and text encoder with random weights."""
    torch.manual_seed(recipe.seed)
    text = TextEncoder(TextConfig(vocabulary(), width=recipe.text_width))
    model = MMDiT(MMDiTConfig(
        patch_sizes=recipe.patch_sizes, in_channels=channels, width=recipe.width, depth=recipe.depth, heads=recipe.heads,
        context_width=recipe.text_width, pooled_width=recipe.text_width, qk_norm=True,
        position="picture", position_base=16.0, prediction="x0",
        head_hidden=recipe.head_hidden)).initialise()
    return model, text


class LatentPool:
    """Scenes and their latents, in DiT space, at one picture size: drawn and encoded at first, and renewed little by little."""

    def __init__(self, vae: VAE, size: int, recipe: DiTRecipe, rng: random.Random, scale: Tensor, shift: Tensor):
        self.vae, self.size, self.rng, self.pair_share = vae, size, rng, recipe.pair_share
        self.scale, self.shift = scale.view(-1, 1, 1), shift.view(-1, 1, 1)
        self.excluded = set(sum(scenes.held_out(), []))
        self.excluded |= {scene.swapped() for scene in self.excluded}  # the same picture, told the other way round
        self.scenes: list[scenes.Scene] = []
        latents = []
        for start in range(0, recipe.pictures, 64):
            drawn, latent = self._draw(min(64, recipe.pictures - start))
            self.scenes += drawn
            latents.append(latent)
        self.latents, self.oldest = torch.cat(latents), 0

    @torch.no_grad()
    def _draw(self, count: int) -> tuple[list[scenes.Scene], Tensor]:
        drawn: list[scenes.Scene] = []
        while len(drawn) < count:
            scene = scenes.random_scene(self.rng, 2 if self.rng.random() < self.pair_share else 1)
            if scene not in self.excluded:
                drawn.append(scene)
        pixels = torch.stack([scenes.draw(scene, self.size, self.rng) for scene in drawn]) * 2 - 1
        with torch.autocast("cpu", torch.bfloat16):
            latent = self.vae.encode(pixels.contiguous(memory_format=torch.channels_last)).float()
        return drawn, ((latent - self.shift) * self.scale).half()

    def renew(self, count: int) -> None:
        """Replace the oldest `count` entries."""
        drawn, latent = self._draw(count)
        for scene, one in zip(drawn, latent):
            self.scenes[self.oldest], self.latents[self.oldest] = scene, one
            self.oldest = (self.oldest + 1) % len(self.scenes)

    def batch(self, count: int) -> tuple[list[scenes.Scene], Tensor]:
        """Random entries: scenes and latents [count, C, H, W] float32."""
        chosen = [self.rng.randrange(len(self.scenes)) for _ in range(count)]
        return [self.scenes[i] for i in chosen], self.latents[chosen].float()


@torch.no_grad()
def latent_statistics(vae: VAE, seed: int) -> tuple[Tensor, Tensor]:
    """Scale and shift of scene latents: → [C], [C]. The shift brings each channel to zero mean; the scale gives each the weight
    that it has in pixels, to unit deviation overall, so that noise hides fine detail before it hides colours and places."""
    rng = random.Random(seed)
    pixels = torch.stack([scenes.draw(scenes.random_scene(rng, 1 + i % 2), 256, rng) for i in range(64)]) * 2 - 1
    latent = vae.encode(pixels)
    shift, weight = latent.mean((0, 2, 3)), vae.linear_decoder.weight.flatten(1).norm(dim=1)
    return weight / ((latent - shift.view(1, -1, 1, 1)) * weight.view(1, -1, 1, 1)).std(), shift


def share_evenly(latent: Tensor) -> Tensor:
    """Loss weights by which the objects of a scene count as much as its background, however small they are.

    [B, C, H, W] in DiT space → [B, 1, H, W], mean 1. An object's cells are those unlike the commonest value.
    """
    ground = latent.flatten(2).median(dim=2).values[..., None, None]
    thing = ((latent - ground).abs().amax(1, keepdim=True) > 0.2).float()
    share = thing.mean((1, 2, 3), keepdim=True).clamp(0.01, 0.99)
    return 0.5 * (thing / share + (1 - thing) / (1 - share))


def loss_of(model: MMDiT, text: TextEncoder, flow: RectifiedFlow, ids: Tensor, latent: Tensor, patch_size: int,
            sigma: Tensor, noise: Tensor) -> Tensor:
    """Velocity loss of a model that predicts x0: |v̂ − v|² = |x̂0 − x0|² / σ². Li & He 2025, §3.2.

    σ counts as at least 0.4: what a wide patch can't pass through a narrow model would otherwise drown what words and places
    teach at high noise.
    """
    tokens, noise = patchify(latent, patch_size), patchify(noise, patch_size)
    context, pooled = text(ids)
    x = flow.add_noise(tokens, noise, sigma)
    predicted = model(x, token_grid(*latent.shape[-2:], patch_size), patch_size, flow.time(sigma), context, pooled)
    weight = patchify(share_evenly(latent).expand_as(latent), patch_size) / sigma.clamp_min(0.4)[:, None, None] ** 2
    return (weight * (predicted.float() - tokens).square()).mean()


def train_dit(recipe: DiTRecipe, vae: VAE, folder: Path, publish, start: tuple[MMDiT, TextEncoder] | None = None,
              report_every: int = 100) -> None:
    """Train from where `folder/dit_state.pt` stands, or from the weights of `start`, or from random ones.

    `publish(model, text, scale, shift)` is handed the averaged weights now and then and at the end.
    """
    vae = vae.to(memory_format=torch.channels_last)
    channels = vae.config.latent_channels
    model, text = build(recipe, channels)
    for part, trained in zip((model, text), start or ()):
        part.load_state_dict(trained.state_dict())
    both = torch.nn.ModuleDict({"model": model, "text": text})
    average = torch.optim.swa_utils.AveragedModel(both, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))
    optimizers = optimizers_of(dict(both.named_parameters()), recipe.learning_rate, fused=True)
    scale, shift = latent_statistics(vae, recipe.seed)
    state_file, step, spent = folder / "dit_state.pt", 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        for part, values in ((both, state["both"]), (average, state["average"]), *zip(optimizers, state["optimizers"])):
            part.load_state_dict(values)
        step, spent = state["step"], state["spent"]
        log.info("resumed at step %d", step)
    if recipe.compile:
        torch._dynamo.config.recompile_limit = 4 * len(recipe.mix)  # of a block's forward: one for each shape, and the last block's
        for block in model.joint_blocks:
            block.compile(dynamic=False)
    rng = random.Random(recipe.seed + step)
    torch.manual_seed(recipe.seed + step)
    pools = {size: LatentPool(vae, size, recipe, rng, scale, shift) for size in {m[0] for m in recipe.mix}}
    tokenizer, flow = Tokenizer(text.config), RectifiedFlow("x0")
    running: dict[tuple[int, int], float] = {}
    began = time.monotonic() - spent

    def keep() -> None:
        save_state({"both": both.state_dict(), "average": average.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": step, "spent": time.monotonic() - began}, state_file)
    while step < recipe.steps and time.monotonic() - began < recipe.seconds:
        done = max(step / recipe.steps, (time.monotonic() - began) / recipe.seconds)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = recipe.learning_rate * min((step + 1) / 100, warmup_cosine(round(done * 10000), 10000, warmup=0))
        size, patch_size, batch, *_ = rng.choices(recipe.mix, [start + done * (end - start) for *_, start, end in recipe.mix])[0]
        pool = pools[size]
        drawn, latent = pool.batch(batch)
        ids = torch.tensor([tokenizer("" if rng.random() < recipe.caption_drop else
                                      scenes.partial_caption(scene, rng, recipe.word_drop))[0] for scene in drawn])
        sigma = torch.sigmoid(torch.randn(batch))
        sigma = recipe.shift * sigma / (1 + (recipe.shift - 1) * sigma)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, text, flow, ids, latent, patch_size, sigma, torch.randn_like(latent))
        both.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update_parameters(both)
        step += 1
        if step % 4 == 0:
            pool.renew(4)
        key = (size, patch_size)
        running[key] = 0.95 * running.get(key, loss.item()) + 0.05 * loss.item()
        if step % report_every == 0:
            log.info("step %d %.0f s %s", step, time.monotonic() - began,
                     " ".join(f"{s}/{p}:{v:.3f}" for (s, p), v in sorted(running.items())))
        if step % (5 * report_every) == 0:
            keep()
            publish(average.module["model"], average.module["text"], scale, shift)
    keep()
    publish(average.module["model"], average.module["text"], scale, shift)
