"""What a solver is told of the step that it is to take, and what it remembers of those before."""

from dataclasses import dataclass
from typing import Any, Callable

from torch import Tensor

PredictX0 = Callable[[Tensor, Tensor], Tensor]  # (x, sigma []) → x0, shaped as x


@dataclass(frozen=True)
class Memory:
    """What a multistep solver keeps from the step before: its x0 and its noise level.

    Of uni_pc only: x before its move, in the solver's own scale; earlier x0 and their levels, the oldest first; the number of steps taken.
    """
    x0: Tensor
    sigma: Tensor
    x: Tensor | None = None
    earlier: tuple[tuple[Tensor, Tensor], ...] = ()
    count: int = 0


@dataclass(frozen=True)
class NoiseSpace:
    """What a solver has to know of a model's noise. rectified: x = (1 − σ)·x0 + σ·ε, otherwise x = x0 + σ·ε. below_one: the level that
    stands for σ = 1 where a logarithm of the signal is taken; scale: of the noise that is added on the way."""
    rectified: bool = True
    below_one: float = 0.9999
    scale: float = 1.0

    def log_snr(self, sigma: Tensor) -> Tensor:
        """Half the logarithm of the signal-to-noise ratio: [] → []."""
        return sigma.logit().neg() if self.rectified else sigma.log().neg()


@dataclass(frozen=True)
class At:
    """Where a step stands. sigmas [n + 1]: the noise levels of its run; i: its number among them. noise: of this run, None where the seed is
    unknown; by_cells(function, *tokens): the same function of latents, for what sums in the order of cells in memory."""
    predict_x0: PredictX0
    sigmas: Tensor
    i: int
    space: NoiseSpace = NoiseSpace()
    noise: Any = None
    by_cells: Callable[..., Tensor] = lambda function, *tokens: function(*tokens)

    @property
    def sigma(self) -> Tensor:
        return self.sigmas[self.i]

    @property
    def next_sigma(self) -> Tensor:
        return self.sigmas[self.i + 1]

    def x0(self, x: Tensor) -> Tensor:
        return self.predict_x0(x, self.sigma)

    def follows(self, memory: Memory | None) -> bool:
        """Whether a memory is of a step before this one, and not of one after going back a step."""
        return memory is not None and bool((memory.sigma - self.sigma) * (self.sigma - self.next_sigma) > 0)
