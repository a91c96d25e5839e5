"""Varied procedural pictures for training the VAE: what photographs are made of, without a photograph."""

import math
import random

import torch
from torch import Tensor
import torch.nn.functional as F

from . import scenes


def _colour(rng: random.Random) -> Tensor:
    """A random colour [3, 1, 1], mostly muted as in photographs."""
    grey, vivid = rng.random(), rng.choice((0.15, 0.4, 1))
    return torch.tensor([grey + vivid * (rng.random() - grey) for _ in range(3)]).view(3, 1, 1)


def _noise(size: int, rng: random.Random, channels: int = 3) -> Tensor:
    """Noise with a 1/f^a spectrum: [channels, size, size], zero mean, unit deviation. a is drawn between 0.9 and 2."""
    generator = torch.Generator().manual_seed(rng.getrandbits(31))
    spectrum = torch.fft.rfft2(torch.randn(channels, size, size, generator=generator))
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    spectrum = spectrum / torch.hypot(fx, fy).clamp_min(1 / size) ** rng.uniform(0.9, 2)
    noise = torch.fft.irfft2(spectrum, s=(size, size))
    return (noise - noise.mean()) / noise.std()


def _grid(size: int) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size) + 0.5) / size
    return tuple(torch.meshgrid(axis, axis, indexing="ij"))


def gradient(size: int, rng: random.Random) -> Tensor:
    """A blend of four corner colours."""
    return F.interpolate(torch.tensor([[[rng.random() for _ in range(4)]] for _ in range(3)]).view(1, 3, 2, 2),
                         size=(size, size), mode="bilinear", align_corners=True)[0]


def clouds(size: int, rng: random.Random) -> Tensor:
    """Fractal noise, partly shared between the colour channels as in photographs."""
    grey, colour = _noise(size, rng, 1), _noise(size, rng)
    return _colour(rng) + rng.uniform(0.05, 0.3) * (grey + rng.choice((0.1, 0.2, 0.6)) * colour)


def gratings(size: int, rng: random.Random) -> Tensor:
    """Two crossed waves between two colours."""
    y, x = _grid(size)
    wave = torch.zeros(size, size)
    for _ in range(2):
        angle, cycles = rng.uniform(0, math.pi), math.exp(rng.uniform(math.log(2), math.log(size / 5)))
        wave = wave + torch.sin(2 * math.pi * cycles * (x * math.cos(angle) + y * math.sin(angle)) + rng.random() * 6)
    if rng.random() < 0.4:
        wave = wave.sign()
    a, b = _colour(rng), _colour(rng)
    return a + (b - a) * (0.5 + wave / 4)


def dead_leaves(size: int, rng: random.Random) -> Tensor:
    """Occluding shapes of all scales with texture inside: the dead-leaves model (Lee, Mumford & Huang 2001, §3)."""
    picture = clouds(size, rng)
    texture = _noise(size, rng, 1) + rng.choice((0, 0.3)) * _noise(size, rng)
    y, x = _grid(size)
    for _ in range(rng.randint(20, 90)):
        radius = 0.02 / max(rng.random(), 0.06) ** 0.8
        angle, squash = rng.uniform(0, math.pi), rng.uniform(0.3, 1)
        dx, dy = (x - rng.random()) / radius, (y - rng.random()) / radius
        u = dx * math.cos(angle) + dy * math.sin(angle)
        v = (dy * math.cos(angle) - dx * math.sin(angle)) / squash
        distance = rng.choice(list(scenes.SHAPES.values()))(u, v) if rng.random() < 0.5 else torch.hypot(u, v) - 1
        sharpness = radius * squash * size / rng.choice((1, 1, 1, 3))
        alpha = (0.5 - distance * sharpness).clamp(0, 1)
        shade = 1 + rng.uniform(-0.3, 0.3) * u
        leaf = _colour(rng) * shade + rng.uniform(0, 0.12) * texture.roll(rng.randrange(size), -1)
        picture = picture + (leaf - picture) * alpha
    return picture


def strokes(size: int, rng: random.Random) -> Tensor:
    """Rows of short dark or light marks, like print seen from afar."""
    picture = gradient(size, rng) if rng.random() < 0.5 else clouds(size, rng)
    ink, y, x = _colour(rng), *_grid(size)
    line = rng.uniform(0.05, 0.14)
    mark = torch.zeros(size, size)
    for row in range(int(1 / line)):
        left = rng.uniform(0, 0.1)
        while left < 0.95:
            kind, width = rng.random(), line * rng.uniform(0.2, 0.6)
            u, v = (x - left - width / 2) / (width / 2), (y - (row + 0.5) * line) / (line * 0.35)
            box = torch.maximum(u.abs(), v.abs()) - 1
            shape = box.abs() - 0.3 if kind < 0.3 else (u - v * rng.uniform(-1, 1)).abs() - 0.35 if kind < 0.6 \
                else (torch.hypot(u, v) - 0.75).abs() - 0.25
            mark = torch.maximum(mark, (0.5 - torch.maximum(shape, box) * width * size / 2).clamp(0, 1))
            left += width * rng.choice((1.3, 1.3, 1.3, 2.5))
    return picture + (ink - picture) * mark


def scene(size: int, rng: random.Random) -> Tensor:
    """A captioned scene of one or two shapes."""
    return scenes.draw(scenes.random_scene(rng, rng.choice((1, 2))), size, rng)


KINDS = {gradient: 1, clouds: 2, gratings: 1, dead_leaves: 5, strokes: 1, scene: 3}


def random_picture(size: int, rng: random.Random) -> Tensor:
    """One picture of a random kind: → [3, size, size] in 0..1."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    return kind(size, rng).clamp(0, 1)
