"""The random numbers of samplers that add noise on their way, drawn as ComfyUI's samplers draw them, so that the same seed is the same picture."""

from typing import Callable

import torch
from torch import Tensor

from ..libraries import library
from ..tokens.wire import to_latent, to_tokens
from ..tokens.wire_types import DitTokens


class StepNoise:
    """Noise for any step of a run, whichever steps were taken before it in the same node.

    sigmas [n + 1]: the run's noise levels, from where its noise was added. Followed: default_noise_sampler and BrownianTreeNoiseSampler of
    comfy/k_diffusion/sampling.py, ComfyUI 0.33.
    """

    def __init__(self, wire: DitTokens, sigmas: Tensor, device: torch.device):
        self.seed, self.sigmas, self.device = wire["start"]["seed"], sigmas, device
        self.empty = to_latent(torch.zeros_like(wire["tokens"]), wire)
        self.cut: Callable[[Tensor], Tensor] = lambda latent: to_tokens(latent, wire)
        self.drawn = self.asked = 0
        self.generator = self.tree = None

    def gaussian(self, step: int) -> Tensor:
        """White noise of a step, which is the step's turn in one stream of random numbers: → [B, N, C·p·p]."""
        if self.generator is None or step < self.drawn:
            seed = self.seed + 1 if self.device.type == "cpu" else self.seed
            self.generator, self.drawn = torch.Generator(self.device).manual_seed(seed), 0
        while self.drawn <= step:
            noise = torch.randn(self.empty.shape, generator=self.generator, device=self.device)
            self.drawn += 1
        return self.cut(noise)

    def brownian(self, step: int, levels: Callable[[int], tuple[Tensor, Tensor]]) -> Tensor:
        """What a Brownian motion over noise levels adds between levels(step), scaled to white noise: → [B, N, C·p·p]. Raises LibraryError.

        Steps before it are asked for first: what the motion does between two levels may depend on what it was asked before.
        """
        if self.tree is None or step < self.asked:
            torchsde = library("torchsde", "This solver's noise")
            above = self.sigmas[self.sigmas > 0].cpu()
            self.tree, self.asked = torchsde.BrownianTree(above.min(), self.empty.cpu(), above.max(), entropy=self.seed), 0
        while self.asked <= step:
            high, low = levels(self.asked)
            if self.sigmas[self.asked] != self.sigmas[self.asked + 1]:
                moved = self.tree(low.cpu().float(), high.cpu().float())
            self.asked += 1
        return self.cut(moved.to(self.device) * -1 / (low - high).abs().sqrt())
