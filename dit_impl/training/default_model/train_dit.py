"""Train the flexible MM-DiT and its text encoder on captioned scenes. Resumable; the averaged weights are always on disk."""

from dataclasses import dataclass
import logging
import math
from pathlib import Path
import random
import time
from typing import Callable

import torch
from torch import Tensor

from ...model.mmdit import MMDiT, MMDiTConfig
from ...model.text import END, PAD, START, TextConfig, TextEncoder, Tokenizer
from ...model.vae import VAE
from ...sampling.flow import RectifiedFlow
from ...sources.atomic import save_state
from ...tokens import mixed
from ...tokens.patch import patchify, token_grid
from ..mixes import random_mix
from ..optimizers import optimizers_of
from ..precision import quick
from . import scenes, things
from .pool import LatentPool, latent_statistics

log = logging.getLogger(__name__)

SURE = 0.25  # σ counts as at least this in the loss


@dataclass(frozen=True)
class DiTRecipe:
    """Everything that decides the weights. `steps`, `seconds`, `decay_from`, the mix, what is kept when, and the device may change between runs.

    mix: picture size, patch sizes ("8", or "8-4-2" for several in one sequence), batch, share of the steps at the start and after `ramp`
    steps. Large patches come first: they are cheap, and what they teach about words and places serves the small ones too.
    The learning rate stays as it is until `decay_from` (0: for good), then falls along a cosine until `steps`: so the end can be chosen late.
    """
    width: int = 192
    depth: int = 6
    heads: int = 4
    patch_sizes: tuple[int, ...] = (2, 4, 8)
    detail: int = 128  # width of the decoder of single cells beside the heads
    text_width: int = 128
    text_length: int = 36
    steps: int = 60000
    seconds: float = float("inf")
    decay_from: int = 0
    ramp: int = 8000
    mix: tuple[tuple[int, str, int, float, float], ...] = (
        (256, "8", 72, 0.40, 0.22), (256, "4", 36, 0.27, 0.22), (256, "2", 16, 0.04, 0.16),
        (256, "4-2", 24, 0.12, 0.20), (256, "8-4", 56, 0.08, 0.06), (256, "8-4-2", 36, 0.05, 0.10),
        (128, "2", 36, 0.02, 0.02), (128, "4", 64, 0.02, 0.02))
    pictures: int = 6144  # latents kept in memory for each picture size
    first: int = 512  # of them before training begins; a new one comes with every step
    learning_rate: float = 1e-3
    average: float = 0.999
    embedding_decay: float = 0.2  # weight decay of the patch embeddings, which keeps them smooth
    shift: float = 2.0  # towards noise, where words and places are learned
    low_noise: float = 0.0  # share of the pictures with σ evenly from 0 to 0.5, where edges and plain grounds are decided
    word_drop: float = 0.1
    size_drop: float = 0.3  # of the sizes of pictured things
    caption_drop: float = 0.1
    whole_text: float = 0.15  # of the steps see the padding too; the others are cut to the longest caption, which is faster
    keep_seconds: float = 240  # between two states
    check_seconds: float = 1200  # between two looks at what it draws
    renewed: float = 1.0  # new pictures a step
    device: str = ""  # what computes: a GPU where there is one, else the CPU
    seed: int = 1


def vocabulary() -> tuple[str, ...]:
    """Every word a caption can hold, after padding, start and end."""
    words: set[str] = {"a", "an", "and", "at", "the", "in", "on", "background", "to", "giant"}
    for names in (scenes.COLOURS, scenes.PLAIN, scenes.SIZES, scenes.SHAPES, things.WORDS, *(p.split() for p in scenes.PLACES)):
        words.update(names)
    return (PAD, START, END, *sorted(words))


@torch.no_grad()
def smooth(weight: Tensor, patch_size: int) -> None:
    """Take a random embedding's fast waves down, as a learnt one's are: [D, C·p·p], in place, its variance kept."""
    axis = torch.arange(patch_size)
    waves = torch.cos(math.pi / patch_size * (axis + 0.5) * axis[:, None]) * (2 / patch_size) ** 0.5  # DCT-II: [frequency, place]
    waves[0] /= 2 ** 0.5
    filters = weight.unflatten(1, (-1, patch_size, patch_size))
    slow = 1 / (1 + axis[:, None].square() + axis.square())
    made = waves.T @ (waves @ filters @ waves.T * slow) @ waves
    weight.copy_((made * filters.std() / made.std()).flatten(1))


def build(recipe: DiTRecipe, channels: int) -> tuple[MMDiT, TextEncoder]:
    """Model and text encoder with random weights."""
    torch.manual_seed(recipe.seed)
    text = TextEncoder(TextConfig(vocabulary(), recipe.text_length, recipe.text_width))
    model = MMDiT(MMDiTConfig(
        patch_sizes=recipe.patch_sizes, in_channels=channels, width=recipe.width, depth=recipe.depth, heads=recipe.heads,
        context_width=recipe.text_width, pooled_width=recipe.text_width, qk_norm=True,
        position="picture", position_base=16.0, prediction="x0", detail=recipe.detail)).initialise()
    for p, embedding in model.x_embedder.items():
        smooth(embedding.weight, int(p))
    return model, text


def optimizers(named: dict[str, torch.nn.Parameter], recipe: DiTRecipe) -> list[torch.optim.Optimizer]:
    """Muon and AdamW as for every training, but AdamW with weight decay for the patch embeddings: Muon makes their filters white."""
    embeddings = {name: p for name, p in named.items() if "x_embedder." in name}
    others = {name: p for name, p in named.items() if name not in embeddings}
    return [*optimizers_of(others, recipe.learning_rate, fused=True),
            torch.optim.AdamW(embeddings.values(), recipe.learning_rate, betas=(0.9, 0.99), weight_decay=recipe.embedding_decay, fused=True)]


def loss_of(model: MMDiT, text: TextEncoder, flow: RectifiedFlow, ids: Tensor, latent: Tensor, weights: Tensor, mix: mixed.Mix | int,
            sigma: Tensor, noise: Tensor) -> Tensor:
    """Velocity loss of a model that predicts x0: |v̂ − v|² = |x̂0 − x0|² / σ². Li & He 2025, §3.2.

    weights [B, 1, H, W]: what a cell counts. mix: one patch size, or where patches of several lie. σ counts as at least SURE.
    """
    context, pooled = text(ids)
    weights = (weights / sigma.clamp_min(SURE).view(-1, 1, 1, 1) ** 2).expand_as(latent)
    x, time = flow.add_noise(latent, noise, sigma), flow.time(sigma)
    if isinstance(mix, int):
        p = mix
        predicted = model(patchify(x, p), token_grid(*latent.shape[-2:], p), p, time, context, pooled)
        return (patchify(weights, p) * (predicted.float() - patchify(latent, p)).square()).mean()
    predictions = model.forward_mixed(mixed.gather(x, mix), mix, time, context, pooled)
    clean, weights = mixed.gather(latent, mix), mixed.gather(weights, mix)
    return sum((weights[p] * (predicted.float() - clean[p]).square()).sum() for p, predicted in predictions.items()) / latent.numel()


def rate(recipe: DiTRecipe, step: int) -> float:
    """Learning-rate factor: a warm-up, then 1, then a cosine down to nearly nothing. Hu et al. 2024 (MiniCPM), §4.2."""
    warm = min(1.0, (step + 1) / 200)
    if not recipe.decay_from or step < recipe.decay_from:
        return warm
    done = min(1.0, (step - recipe.decay_from) / max(1, recipe.steps - recipe.decay_from))
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def averaging(decay: float) -> Callable:
    """A running average of weights, of few steps at first and of about 1 / (1 − decay) later."""
    @torch.no_grad()
    def update(averages: list[Tensor], current: list[Tensor], steps: Tensor) -> None:
        torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + int(steps)) / (10 + int(steps))))
    return update


def read_captions(drawn: list[scenes.Scene], tokenizer: Tokenizer, recipe: DiTRecipe, rng: random.Random) -> Tensor:
    """Captions with words left out at random, as token numbers, mostly without what is padding in all of them: → [B, T]."""
    ids = torch.tensor([tokenizer("" if rng.random() < recipe.caption_drop else
                                  scenes.partial_caption(scene, rng, recipe.word_drop, recipe.size_drop))[0] for scene in drawn])
    return ids if rng.random() < recipe.whole_text else ids[:, :int((ids != 0).sum(1).max())]


def noise_levels(recipe: DiTRecipe, count: int, device: torch.device) -> Tensor:
    """σ of so many pictures: logit-normal (Esser et al. 2024, §3.1), shifted towards noise, and some of low noise: → [count]."""
    sigma = torch.sigmoid(torch.randn(count, device=device))
    sigma = recipe.shift * sigma / (1 + (recipe.shift - 1) * sigma)
    if recipe.low_noise:
        sigma = torch.where(torch.rand(count, device=device) < recipe.low_noise, 0.5 * torch.rand(count, device=device), sigma)
    return sigma


def train_dit(recipe: DiTRecipe, vae: VAE, folder: Path, publish: Callable,
              start: tuple[MMDiT, TextEncoder, Tensor, Tensor] | None = None,
              check: Callable[..., str] | None = None, report_every: int = 100) -> int:
    """Train from where `folder/dit_state.pt` stands, or from the weights, scale and shift of `start`, or from random ones. → steps done in all.

    `publish(model, text, scale, shift)` is handed the averaged weights now and then and at the end; `check`, called with the same, answers
    a line for the log.
    """
    device = torch.device(recipe.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    vae = vae.to(device, memory_format=torch.channels_last)
    model, text = build(recipe, vae.config.latent_channels)
    for part, trained in zip((model, text), start or ()):
        part.load_state_dict(trained.state_dict())
    both = torch.nn.ModuleDict({"model": model, "text": text}).to(device)
    average = torch.optim.swa_utils.AveragedModel(both, multi_avg_fn=averaging(recipe.average))
    teachers = optimizers(dict(both.named_parameters()), recipe)
    scale, shift = (one.to(device) for one in (start[2:] if start else latent_statistics(vae, recipe.seed)))
    state_file, step, spent = folder / "dit_state.pt", 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        for part, values in ((both, state["both"]), (average, state["average"]), *zip(teachers, state["optimizers"])):
            part.load_state_dict(values)
        step, spent = state["step"], state["spent"]
        scale, shift = state.get("space", (scale, shift))  # those that it has learnt with, however scenes are drawn today
        log.info("resumed at step %d", step)
    rng = random.Random(recipe.seed + step)
    torch.manual_seed(recipe.seed + step)
    pools = {}
    for size in sorted({m[0] for m in recipe.mix}):
        file = folder / f"pictures_{size}.pt"
        kept = torch.load(file, weights_only=True) if file.exists() else None
        pools[size] = LatentPool(vae, size, recipe.pictures, recipe.first, rng, scale, shift, kept)
    tokenizer, flow = Tokenizer(text.config), RectifiedFlow("x0")
    running: dict[str, Tensor] = {}
    began = time.monotonic() - spent
    kept = checked = time.monotonic()

    def keep() -> None:
        save_state({"both": both.state_dict(), "average": average.state_dict(), "optimizers": [teacher.state_dict() for teacher in teachers],
                    "space": (scale, shift), "step": step, "spent": time.monotonic() - began}, state_file)
        publish(average.module["model"], average.module["text"], scale, shift)

    def keep_pictures() -> None:
        for size, pool in pools.items():
            save_state(pool.state(), folder / f"pictures_{size}.pt")
    keep_pictures()
    while step < recipe.steps and time.monotonic() - began < recipe.seconds:
        for group in (group for teacher in teachers for group in teacher.param_groups):
            group["lr"] = recipe.learning_rate * rate(recipe, step)
        done = min(1.0, step / recipe.ramp)
        size, sizes, batch, *_ = rng.choices(recipe.mix, [first + done * (last - first) for *_, first, last in recipe.mix])[0]
        drawn, latent, weights = pools[size].batch(batch)
        ids = read_captions(drawn, tokenizer, recipe, rng).to(device)
        sigma = noise_levels(recipe, batch, device)
        several = [int(p) for p in sizes.split("-")]
        mix = random_mix(latent, several, rng) if len(several) > 1 else several[0]
        with quick(device):
            loss = loss_of(model, text, flow, ids, latent, weights, mix, sigma, torch.randn_like(latent))
        both.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        for teacher in teachers:
            teacher.step()
        average.update_parameters(both)
        step += 1
        if fresh := int(step * recipe.renewed) - int((step - 1) * recipe.renewed):
            pools[size].renew(fresh)
        key, now = f"{size}/{sizes}", loss.detach()
        running[key] = torch.lerp(running.get(key, now), now, 0.05)
        if step % report_every == 0:
            log.info("step %d %.0f s %s", step, time.monotonic() - began, " ".join(f"{name}:{v:.3f}" for name, v in sorted(running.items())))
        if time.monotonic() - kept > recipe.keep_seconds:
            keep()
            kept = time.monotonic()
        if time.monotonic() - checked > recipe.check_seconds:
            if check:
                log.info("step %d draws %s", step, check(average.module["model"], average.module["text"], scale, shift))
            keep_pictures()
            checked = time.monotonic()
    keep()
    keep_pictures()
    return step
