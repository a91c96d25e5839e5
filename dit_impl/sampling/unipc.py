"""UniPC, a predictor and a corrector of up to third order. Zhao et al. 2023 (2302.04867), algorithms 5 to 8, B(h) = h, in ComfyUI's form.

Each step calls the model once: its x0 first corrects the step before, whose outcome the model has just seen, and then predicts the next.
x is kept in the solver's own scale, in which signal and noise have variance 1 together: x / √(1 + σ²). Order of sums and shapes as in
comfy/extra_samplers/uni_pc.py of ComfyUI 0.33, so that results are equal bit for bit.
"""

import torch
from torch import Tensor

from .at import At, Memory

Known = list[tuple[Tensor, Tensor]]  # x0 and its noise level [], the oldest first
LAST = 0.001  # the noise level at which it ends, in the place of 0
ORDER = 3


def _log_signal(s: Tensor) -> Tensor:
    return 0.5 * torch.log(1 / ((s * s) + 1))


def _log_snr(s: Tensor) -> Tensor:
    log_signal = _log_signal(s)
    return log_signal - 0.5 * torch.log(1. - torch.exp(2. * log_signal))


def _signal(s: Tensor) -> Tensor:
    return torch.exp(_log_signal(s))


def _noise(s: Tensor) -> Tensor:
    return torch.sqrt(1. - torch.exp(2. * _log_signal(s)))


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """[B] → [B, 1, …], to multiply x."""
    return values.view(-1, *[1] * (x.dim() - 1))


def _shown(x: Tensor, s: Tensor) -> Tensor:
    """x as the model sees it."""
    return x * ((_wide(s, x) ** 2 + 1.0) ** 0.5)


def update(at: At, x: Tensor, known: Known, s: Tensor, order: int, x0_there: Tensor | None = None) -> Tensor:
    """From x at the level of the last known x0 to level s [B], by the last `order` of them: predicted, or corrected where x0 there is known."""
    def level(sigma: Tensor) -> Tensor:
        return sigma.expand(len(x))
    x0, sigma = known[-1]
    before, there = _log_snr(level(sigma)), _log_snr(s)
    share = torch.exp(_log_signal(s))
    h = there - before
    ratios, slopes = [], []
    for earlier, sigma_earlier in reversed(known[-order:-1]):
        ratios.append(((_log_snr(level(sigma_earlier)) - before) / h)[0])
        slopes.append((earlier - x0) / ratios[-1])
    ratios = torch.tensor([*ratios, 1.], device=x.device, dtype=x.dtype)
    down = -h[0]
    phi_1 = torch.expm1(down)
    phi_k, factorial, rows, b = phi_1 / down - 1, 1, [], []
    for i in range(1, order + 1):
        rows.append(torch.pow(ratios, i - 1))
        b.append(phi_k * factorial / down)
        factorial *= (i + 1)
        phi_k = phi_k / down - 1 / factorial
    matrix, b = torch.stack(rows), torch.tensor(b, device=x.device, dtype=x.dtype)

    def along(weights: Tensor) -> Tensor | int:
        return at.by_cells(lambda *each: torch.tensordot(torch.stack(each, dim=1), weights, dims=([1], [0])), *slopes) if slopes else 0
    straight = _wide(_noise(s) / _noise(level(sigma)), x) * x - _wide(share * phi_1, x) * x0
    if x0_there is None:
        weights = b.new_tensor([0.5]) if order == 2 else torch.linalg.solve(matrix[:-1, :-1], b[:-1])
        return straight - _wide(share * down, x) * along(weights)
    weights = b.new_tensor([0.5]) if order == 1 else torch.linalg.solve(matrix, b)
    return straight - _wide(share * down, x) * (along(weights[:-1]) + weights[-1] * (x0_there - x0))


def _order(step: int, steps: int) -> int:
    """The order of the update to level `step` of a run of so many steps: it grows from 1, and falls to 1 at the end."""
    most = max(1, min(ORDER, steps - 1))
    return step if step < most else min(most, steps + 1 - step)


def uni_pc(at: At, x: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor, Memory]:
    """One step: → (x at the next noise level, x0, what to remember). Where x is not what the step before led to, it begins anew."""
    if at.next_sigma == at.sigma:
        answer = at.x0(x)
        return x, answer, Memory(answer, at.sigma)
    left = len(at.sigmas) - 1 - at.i
    sigma = at.sigma.expand(len(x))
    here, known, count = None, [], 0
    if memory is not None and memory.x is not None and memory.x.shape == x.shape:
        known, count = [*memory.earlier, (memory.x0, memory.sigma)], memory.count
        here = update(at, memory.x, known, sigma, _order(count, count + left))
        if not torch.equal(_shown(here, sigma), x):
            here, known, count = None, [], 0
    if here is None:
        here = x / torch.sqrt(1.0 + at.sigma ** 2.0)
    seen = _shown(here, sigma)
    answer = at.x0(seen)
    noise = (seen - answer) / _wide(sigma, x)
    x0 = (here - _wide(_noise(sigma), x) * noise) / _wide(_signal(sigma), x)
    if count:
        here = update(at, memory.x, known, sigma, _order(count, count + left), x0)
    known = [*known, (x0, at.sigma)][-ORDER:]
    ends = at.next_sigma == 0
    following = torch.full_like(at.sigma, LAST) if ends else at.next_sigma
    there = update(at, here, known, following.expand(len(x)), _order(count + 1, count + left))
    kept = Memory(x0, at.sigma, here, tuple(known[:-1]), count + 1)
    if not ends:
        return _shown(there, following.expand(len(x))), answer, kept
    there = there / _signal(following)
    return there / (1.0 - following) if at.space.rectified else there, answer, kept
