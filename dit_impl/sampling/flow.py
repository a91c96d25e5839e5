"""What noise level means to a model, and how its prediction becomes x0."""

from dataclasses import dataclass

import torch
from torch import Tensor


def per_sample(sigma: Tensor | float, x: Tensor) -> Tensor:
    """A noise level or one for each sample, shaped to multiply x: [] or [B] → [B or 1, 1, …]."""
    return torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.dim() - 1))


def _one_of(name: str, prediction: str, known: tuple[str, ...]) -> None:
    if prediction not in known:
        raise ValueError(f"{name}: prediction is one of {', '.join(known)}, not {prediction!r}")


def _number(name: str, key: str, value: float, least: float, most: float) -> None:
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError(f"{name}: {key} is a number from {least:g} to {most:g}, not {str(value)[:40]}")


def shift_time(t: Tensor | float, shift: float) -> Tensor | float:
    """Move times towards noise: α·t / (1 + (α − 1)·t). Esser et al. 2024 (SD3), equation 23."""
    return shift * t / (1 + (shift - 1) * t)


@dataclass(frozen=True)
class RectifiedFlow:
    """x = (1 − σ)·x0 + σ·ε, σ from 1 (noise) to 0 (data), time 1000·σ. Liu et al. 2022; Esser et al. 2024, §2.

    `prediction` is what the model answers: the "velocity" ε − x0, or "x0" itself (Li & He 2025, "Back to Basics", §3),
    which a token wider than the model can still carry. `shift` moves sampling times towards noise (Esser et al., §5.3.2).
    """
    prediction: str = "velocity"
    shift: float = 1.0

    def __post_init__(self):
        _one_of("RectifiedFlow", self.prediction, ("velocity", "x0"))
        _number("RectifiedFlow", "shift", self.shift, 1e-6, 1e6)

    def add_noise(self, x0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
        """x at noise level sigma: [B, …], [B, …], [] or [B] → [B, …]."""
        s = per_sample(sigma, x0)
        return s * noise + (1 - s) * x0

    def to_x0(self, prediction: Tensor, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The data behind x, as the prediction has it."""
        return prediction if self.prediction == "x0" else x - per_sample(sigma, x) * prediction

    def model_input(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return x

    def time(self, sigma: Tensor) -> Tensor:
        """Noise level → the model's time, 0..1000."""
        return sigma * 1000

    def begin(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x where sampling begins, at noise level sigma []: [B, …] → same."""
        return self.add_noise(clean, noise, sigma)

    def sigma_at(self, percent: float) -> float:
        """The noise level at a share of sampling, as ComfyUI counts it: 0 is its begin, 1 its end."""
        return shift_time(1.0 - min(max(percent, 0.0), 1.0), self.shift)

    def sigma_of(self, t: Tensor) -> Tensor:
        """The noise level at times 0..1000, before whose shift they are evenly spread."""
        return shift_time(t / 1000, self.shift)

    def quieter(self, x: Tensor, sigma: Tensor | float, gain: float) -> tuple[Tensor, Tensor]:
        """x whose noise alone was scaled by `gain`, e.g. by averaging: → (x as this flow writes it, the noise level it has then).

        x = (1 − σ)·x0 + σ·gain·ε, divided by the sum of its factors. It is SD3's shift of times: log-SNR rises by −2·ln gain."""
        s = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        total = 1 - s + s * gain
        return x / per_sample(total, x), s * gain / total


@dataclass(frozen=True)
class DDPM:
    """z_t = √ᾱ·z0 + √(1−ᾱ)·ε (Ho et al. 2020, §2), kept as x = z_t / √ᾱ = z0 + σ·ε with σ = √((1−ᾱ)/ᾱ), ComfyUI's sigma.

    `prediction`: "epsilon", or "v" = √ᾱ·ε − √(1−ᾱ)·z0 (Salimans & Ho 2022, appendix D). In these terms DDIM is Euler's method.
    """
    prediction: str = "epsilon"
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: str = "linear"

    def __post_init__(self):
        _one_of("DDPM", self.prediction, ("epsilon", "v"))
        _number("DDPM", "steps", self.steps, 1, 100_000)
        for key in ("beta_start", "beta_end"):
            _number("DDPM", key, getattr(self, key), 0, 0.9999)

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ at each of the training times: [steps], float64."""
        if self.beta_schedule == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)
        elif self.beta_schedule == "scaled_linear":
            betas = torch.linspace(self.beta_start ** 0.5, self.beta_end ** 0.5, self.steps, dtype=torch.float64) ** 2
        else:
            raise ValueError(f"DDPM: beta_schedule is linear or scaled_linear, not {self.beta_schedule!r}")
        return (1 - betas).cumprod(0)

    @property
    def sigmas(self) -> Tensor:
        """σ at each of the training times, rising: [steps], float64."""
        alphas = self.alphas_cumprod
        return ((1 - alphas) / alphas).sqrt()

    def add_noise(self, x0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
        """x at noise level sigma: [B, …], [B, …], [] or [B] → [B, …]."""
        return x0 + per_sample(sigma, x0) * noise

    def to_x0(self, prediction: Tensor, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The data behind x, as the prediction has it."""
        s = per_sample(sigma, x)
        if self.prediction == "epsilon":
            return x - s * prediction
        return x / (s ** 2 + 1) - prediction * s / (s ** 2 + 1) ** 0.5

    def model_input(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """z_t, which has unit variance, from x."""
        return x / (per_sample(sigma, x) ** 2 + 1) ** 0.5

    def time(self, sigma: Tensor) -> Tensor:
        """Noise level → the nearest training time in log σ, 0..steps−1."""
        table = self.sigmas.log().float().to(sigma.device)  # float32: some devices have no float64
        return (sigma.float().log()[..., None] - table).abs().argmin(-1)

    def begin(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x where sampling begins, at noise level sigma []: [B, …] → same. At the highest, its variance is all that the model was taught."""
        if sigma >= float(self.sigmas[-1].float()) * (1 - 1e-5):
            return noise * (1.0 + sigma ** 2.0).sqrt() + clean
        return self.add_noise(clean, noise, sigma)

    def sigma_at(self, percent: float) -> float:
        """The noise level at a share of sampling, as ComfyUI counts it: 0 is above them all, 1 is the end."""
        if not 0 < percent < 1:
            return float("inf") if percent <= 0 else 0.0
        return self.sigma_of(torch.tensor((1.0 - percent) * (self.steps - 1))).item()

    def sigma_of(self, t: Tensor) -> Tensor:
        """The noise level at training times that need not be whole, between whole ones by its logarithm, in float32 as in ComfyUI."""
        log, t = self.sigmas.float().log(), t.float().clamp(0, self.steps - 1)
        w = t.frac()
        return ((1 - w) * log[t.floor().long()] + w * log[t.ceil().long()]).exp()

    def quieter(self, x: Tensor, sigma: Tensor | float, gain: float) -> tuple[Tensor, Tensor]:
        """x whose noise alone was scaled by `gain`, e.g. by averaging: → (x, the noise level it has then), since x = x0 + σ·gain·ε."""
        return x, torch.as_tensor(sigma, dtype=x.dtype, device=x.device) * gain


Flow = RectifiedFlow | DDPM
