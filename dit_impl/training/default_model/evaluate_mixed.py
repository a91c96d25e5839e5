"""What the default model draws with patches of several sizes in one sequence: coarse at first, then split where there is detail."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ...handle.backbone import Backbone
from ...sources.embedded import Parts, load_embedded
from ...tokens import mixed
from ...tokens.patch import patchify, token_grid, unpatchify


@dataclass(frozen=True)
class Split:
    """Patch sizes from coarse to fine; the share of the patches of each but the finest that is split, where their detail is; and the share
    of the steps after which that begins."""
    sizes: tuple[int, ...]
    shares: tuple[float, ...]
    begins: float = 0.3

    def __str__(self) -> str:
        return "-".join(map(str, self.sizes))


SPLITS = (Split((4, 2), (0.25,)), Split((8, 4, 2), (0.5, 0.5)))


def by_detail(x0: Tensor, split: Split) -> mixed.Mix:
    """Where patches of each size go, by the detail that the picture so far has: [B, C, H, W] → Mix."""
    made = mixed.whole(tuple(x0.shape[-2:]), split.sizes[0], len(x0))
    among = made.places[split.sizes[0]]
    for coarse, fine, share in zip(split.sizes, split.sizes[1:], split.shares):
        chosen = mixed.richest(mixed.detail(x0, coarse), max(1, round(share * among.shape[1])), among)
        made = mixed.split(made, coarse, chosen, fine)
        among = made.places[fine]
    return made


@torch.no_grad()
def denoise(backbone: Backbone, x: Tensor, sigmas: Tensor, positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor], cfg: float,
            split: Split) -> Tensor:
    """Euler's method on latents in DiT space, guided: [B, C, H, W] at sigmas[0], text (context, pooled) of each sample → x0 [B, C, H, W]."""
    context, pooled = (torch.cat(pair) for pair in zip(negative, positive))
    x0, coarse, size = x, split.sizes[0], tuple(x.shape[-2:])
    for step, (sigma, lower) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        twice, time = torch.cat([x, x]), backbone.flow.time(sigma.expand(2 * len(x)))
        if step < split.begins * (len(sigmas) - 1) - 1e-6 or len(split.sizes) == 1:
            answer = backbone.model(patchify(twice, coarse), token_grid(*size, coarse), coarse, time, context=context, pooled=pooled)
            answer = unpatchify(answer.float(), coarse, size)
        else:
            mix = by_detail(torch.cat([x0, x0]), split)
            answers = backbone.model.forward_mixed(mixed.gather(twice, mix), mix, time, context=context, pooled=pooled)
            answer = mixed.scatter({p: one.float() for p, one in answers.items()}, mix)
        without, given = backbone.flow.to_x0(answer, twice, sigma).chunk(2)
        x0 = without + (given - without) * cfg
        x = x + (lower - sigma) * (x - x0) / sigma
    return x


def draw_mixed(prompts: list[str], split: Split, steps: int, cfg: float, seed: int, parts: Parts | None = None) -> Tensor:
    """Pictures of prompts, one batch from one seed, the noise that of the plain way: → [len(prompts), 3, H, W] in 0..1."""
    backbone, clip, vae = parts or load_embedded()
    sigmas, side = backbone.schedule(steps), backbone.picture_size // backbone.downscale
    space, encoded = backbone.latent_format, [clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0] for prompt in prompts]
    positive = tuple(torch.cat(many) for many in zip(*((states, extra["pooled_output"]) for states, extra in encoded)))
    states, extra = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0]
    negative = states.expand_as(positive[0]), extra["pooled_output"].expand_as(positive[1])
    noise = torch.randn(len(prompts), backbone.channels, side, side, generator=torch.Generator().manual_seed(seed))
    with torch.autocast("cpu", torch.bfloat16):
        clean = denoise(backbone, noise, sigmas, positive, negative, cfg, split)
    scale, shift = (space[name].view(1, -1, 1, 1) for name in ("scale", "shift"))
    return vae.decode(clean / scale + shift).movedim(-1, 1)


def token_share(split: Split, side: int, finest: int) -> float:
    """Image tokens over all steps, as a share of those of the finest patches alone."""
    coarse, mix = (side // split.sizes[0]) ** 2, by_detail(torch.zeros(1, 1, side, side), split)
    return (split.begins * coarse + (1 - split.begins) * len(mix)) / (side // finest) ** 2


def flops(split: Split, steps: int, parts: Parts) -> int:
    """Of the transformer, for one picture, as torch counts them."""
    backbone, clip, _ = parts
    side = backbone.picture_size // backbone.downscale
    states, extra = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0]
    text = states, extra["pooled_output"]
    with FlopCounterMode(display=False) as counter:
        denoise(backbone, torch.randn(1, backbone.channels, side, side), backbone.schedule(steps), text, text, 2.0, split)
    return counter.get_total_flops()
