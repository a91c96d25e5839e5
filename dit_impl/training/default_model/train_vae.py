"""Train the VAE on procedural pictures. Resumable; the best weights so far are always on disk."""

from dataclasses import dataclass
import logging
import math
from pathlib import Path
import random
import time

import torch
from torch import Tensor

from ...model.vae import VAE, VAEConfig, kl_to_standard_normal
from ...sources.atomic import save_state
from ..precision import quick
from . import textures

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VAERecipe:
    """Everything that decides the weights. `steps` may be raised between runs; the rest may not."""
    latent_channels: int = 16
    width: int = 64
    depth: int = 3
    steps: int = 6000
    batch: int = 16
    crop: int = 128
    pool: int = 4096  # pictures drawn once, then cropped, flipped and recoloured without end
    learning_rate: float = 6e-4
    kl_weight: float = 1e-4
    seed: int = 1


def picture_pool(count: int, size: int, seed: int) -> Tensor:
    """Procedural pictures, drawn once: → uint8 [count, 3, size, size]."""
    rng = random.Random(seed)
    return torch.stack([(textures.random_picture(size, rng) * 255).round().byte() for _ in range(count)])


def random_crops(pool: Tensor, batch: int, crop: int, rng: random.Random) -> Tensor:
    """Random crops, mirrored and with their colour channels permuted: → [batch, 3, crop, crop] in -1..1."""
    out = []
    for _ in range(batch):
        top, left = rng.randrange(pool.shape[2] - crop + 1), rng.randrange(pool.shape[3] - crop + 1)
        picture = pool[rng.randrange(len(pool))][rng.sample(range(3), 3), top:top + crop, left:left + crop]
        picture = picture.flip(-1) if rng.random() < 0.5 else picture
        out.append(picture.transpose(1, 2) if rng.random() < 0.5 else picture)
    return torch.stack(out).float() / 127.5 - 1


def psnr(a: Tensor, b: Tensor, peak: float = 2.0) -> float:
    """Peak signal-to-noise ratio in dB. `peak` is the range of the values."""
    return 10 * math.log10(peak ** 2 / (a.float() - b.float()).square().mean().item())


def train_vae(recipe: VAERecipe, folder: Path, report_every: int = 100) -> VAE:
    """Train from where `folder/state.pt` stands, or from the start; returns the averaged weights."""
    torch.manual_seed(recipe.seed)
    pool = picture_pool(recipe.pool, recipe.crop + recipe.crop // 2, recipe.seed)
    model = VAE(VAEConfig(recipe.latent_channels, recipe.width, recipe.depth)).to(memory_format=torch.channels_last)
    model.set_linear_code(random_crops(pool, 256, recipe.crop, random.Random(recipe.seed)))
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    state_file, step = folder / "vae_state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        for part, name in ((model, "model"), (average, "average"), (optimizer, "optimizer")):
            part.load_state_dict(state[name])
        step = state["step"]
        log.info("resumed at step %d", step)
    rng, began = random.Random(recipe.seed + step), time.monotonic()
    while step < recipe.steps:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * warmup_cosine(step, recipe.steps)
        pixels = random_crops(pool, recipe.batch, recipe.crop, rng).to(memory_format=torch.channels_last)
        with quick(torch.device("cpu")):
            mean, log_variance = model.moments(pixels)
            latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            decoded = model.decode(latent)
        error = decoded.float() - pixels
        loss = (0.5 * error.abs().mean() + 5 * error.square().mean()
                + recipe.kl_weight * kl_to_standard_normal(mean.float(), log_variance.float()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        step += 1
        if step % report_every == 0 or step == recipe.steps:
            log.info("step %d loss %.4f psnr %.2f dB latent std %.2f %.0f s",
                     step, loss.item(), psnr(decoded, pixels), mean.std().item(), time.monotonic() - began)
        if step % (10 * report_every) == 0 or step == recipe.steps:
            save_state({"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, state_file)
    return average.module


def warmup_cosine(step: int, steps: int, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
