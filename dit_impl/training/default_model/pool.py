"""Scenes and their latents to learn from, drawn and encoded as training goes on, and what each cell of them counts in the loss."""

import random

import torch
from torch import Tensor
import torch.nn.functional as F

from ...model.vae import VAE
from ..precision import quick
from . import scenes, things

COUNTS = (1, 1, 1, 1, 2, 2, 2, 2, 3, 3)  # things in a scene, one after another
SHARES = {"object": 0.45, "around": 0.25, "ground": 0.3}  # of a scene's weight in the loss
AROUND = 3  # cells that surround an object: a coarse patch holds both, and must keep them apart


def covered(picture: Tensor, background: str, downscale: int) -> Tensor:
    """Which latent cells show an object: [3, S, S] → [S/downscale, S/downscale], true or false."""
    unlike = (picture - scenes.ground(background, picture.shape[-1])).abs().amax(0) > 0.01
    return F.max_pool2d(unlike[None].float(), downscale)[0] > 0


def cell_weights(mask: Tensor) -> Tensor:
    """Loss weights by which a scene's objects count as much as SHARES says, however small they are: [B, H, W] → [B, 1, H, W], mean 1."""
    near = F.max_pool2d(mask[:, None].float(), 2 * AROUND + 1, 1, AROUND)[:, 0] > 0
    regions = torch.stack([mask, near & ~mask, ~near], dim=1).float()
    size = regions.mean((2, 3), keepdim=True)
    weights = (regions / size.clamp_min(0.01) * torch.tensor(list(SHARES.values()), device=mask.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return weights / weights.mean((1, 2, 3), keepdim=True)


class LatentPool:
    """Scenes of one picture size with their latents, in DiT space, where its scale is. It grows, then renews its oldest."""

    def __init__(self, vae: VAE, size: int, capacity: int, first: int, rng: random.Random, scale: Tensor, shift: Tensor,
                 kept: dict | None = None):
        self.vae, self.size, self.rng, self.capacity = vae, size, rng, capacity
        self.scale, self.shift = scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)
        self.device = scale.device
        self.excluded, self.pictured = scenes.excluded(), 0.55 if things.font_path() else 0.0
        self.scenes: list[scenes.Scene] = []
        side = size // vae.config.downscale
        self.latents = torch.empty(capacity, len(scale), side, side, dtype=torch.float16, device=self.device)
        self.masks = torch.empty(capacity, side, side, dtype=torch.bool, device=self.device)
        self.at: dict[int, list[int]] = {count: [] for count in set(COUNTS)}  # entries by how many things they have
        self.next = 0
        if kept:
            self._restore(kept)
        while (missing := min(first, capacity) - len(self.scenes)) > 0:
            self.renew(min(16, missing))

    def state(self) -> dict:
        """All that is in it, in tensors, lists and words, for a later run."""
        count = len(self.scenes)
        told = [[scene.background, *([t.size, t.colour, t.shape, t.place] for t in scene.things)] for scene in self.scenes]
        return {"latents": self.latents[:count].cpu().clone(), "masks": self.masks[:count].cpu().clone(), "scenes": told, "next": self.next}

    def _restore(self, kept: dict) -> None:
        """Take over what `state` gave, as far as there is room for it."""
        count = min(len(kept["scenes"]), self.capacity)
        self.latents[:count], self.masks[:count] = kept["latents"][:count], kept["masks"][:count]
        self.scenes = [scenes.Scene(tuple(scenes.Thing(*thing) for thing in told), ground) for ground, *told in kept["scenes"][:count]]
        self.next = kept["next"] if count == len(kept["scenes"]) else 0
        for i in range(count):
            self.at[COUNTS[i % len(COUNTS)]].append(i)

    def _scene(self, count: int) -> scenes.Scene:
        while True:
            scene = (scenes.random_scene(self.rng, count) if count < 3 and self.rng.random() < 0.15
                     else scenes.any_scene(self.rng, count, self.pictured, giant=0.1))
            if scene not in self.excluded:
                return scene

    @torch.no_grad()
    def renew(self, count: int) -> None:
        """Draw `count` new ones, in place of the oldest once the pool is full."""
        numbers = [(self.next + i) % self.capacity for i in range(count)]
        drawn = [self._scene(COUNTS[i % len(COUNTS)]) for i in numbers]
        pictures = [scenes.draw(scene, self.size, self.rng) for scene in drawn]
        pixels = (torch.stack(pictures) * 2 - 1).to(self.device, memory_format=torch.channels_last)
        with quick(self.device):
            latent = self.vae.encode(pixels).float()
        self.latents[numbers] = ((latent - self.shift) * self.scale).half()
        for i, scene, picture in zip(numbers, drawn, pictures):
            self.masks[i] = covered(picture, scene.background, self.vae.config.downscale)
            if i < len(self.scenes):
                self.scenes[i] = scene
            else:
                self.scenes.append(scene)
                self.at[COUNTS[i % len(COUNTS)]].append(i)
        self.next = (numbers[-1] + 1) % self.capacity

    def batch(self, count: int) -> tuple[list[scenes.Scene], Tensor, Tensor]:
        """Random entries, all with as many things: scenes, latents [count, C, H, W] float32 and loss weights [count, 1, H, W]."""
        among = self.at[self.rng.choice(COUNTS)] or self.at[COUNTS[0]]
        chosen = self.rng.choices(among, k=count)
        return [self.scenes[i] for i in chosen], self.latents[chosen].float(), cell_weights(self.masks[chosen])


@torch.no_grad()
def latent_statistics(vae: VAE, seed: int) -> tuple[Tensor, Tensor]:
    """Scale and shift of scene latents: → [C], [C]. The shift brings each channel to zero mean; the scale gives each the weight
    that it has in pixels, to unit deviation overall, so that noise hides fine detail before it hides colours and places."""
    rng = random.Random(seed)
    drawn = [scenes.any_scene(rng, 1 + i % 3, 0.55 if things.font_path() else 0.0) for i in range(64)]
    device = vae.linear_decoder.weight.device
    latent = torch.cat([vae.encode(scenes.draw(scene, 256, rng)[None].to(device) * 2 - 1) for scene in drawn])
    shift, weight = latent.mean((0, 2, 3)), vae.linear_decoder.weight.flatten(1).norm(dim=1)
    return weight / ((latent - shift.view(1, -1, 1, 1)) * weight.view(1, -1, 1, 1)).std(), shift
