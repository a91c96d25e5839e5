"""Teaches a frozen model one more patch size by distillation from its own. FlexiDiT (Anagnostidis et al. 2025), §3.2 and §4."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..handle.backbone import Backbone, DitHandle
from ..model.copies import hollow_copy
from ..sampling.flow import per_sample
from ..sources.adapter_layers import extended, new_parameters
from ..sources.adapters import Adapter, apply_adapter, base_of, base_state
from ..sources.fingerprints import fingerprint, likeness
from ..tokens.patch import patchify, token_grid, unpatchify
from .loop import Batch, Settings, Watch, train
from .losses import draw_sigmas, own_target
from .objectives import arguments_of, training_copy
from .sets import TrainingSet

SHARE = 0.1  # an adapter's default size at most, as a share of the model's parameters
WIDE_SHARE = 0.06  # if embedding and head are more than this share of the parameters, they learn a low-rank change
NEAREST = 0.4  # smallest σ to divide by for a model that predicts x0, as in `train_dit.loss_of`


class Distilling:
    """An adapter's loss: from the same noisy latent, predict at p' what the frozen model predicts at a patch size of its own.

    The target of a flow (velocity, x0, ε, v) is defined for each value by itself, so the frozen model's prediction at p can be cut into
    patches of p'. data_share: how much of the true target is mixed into it; 0 is distillation alone.
    """

    def __init__(self, dit: Backbone, patch_size: int, rank: int = 0, start: int = 0, teacher: int = 0, data_share: float = 0.0,
                 weigh: Callable[[Tensor], Tensor] | None = None, times: str = "logit_normal", checkpointing: bool = False,
                 seed: int = 0):
        """Raises TrainingError.

        rank: 0 is the highest that fits into 10% of the model's parameters. start: the patch size that embedding and head are resized from.
        teacher: the patch size that predictions are learned from. For both, 0 chooses one. weigh: latents [B, C, H, W] → weights of the
        error for each cell [B, 1, H, W].
        """
        self.pupil = dit
        if hasattr(dit, "as_backbone"):  # a MODEL
            dit = dit.as_backbone()
        self.base = base_of(dit)
        sizes, count = self.base.config.patch_sizes, size_of(self.base)
        if patch_size < 1 or patch_size in sizes:
            raise TrainingError(f"{dit.name} has patch sizes {', '.join(map(str, sizes))} already: "
                                f"choose another patch_size, not {patch_size}")
        if rank < 0:
            raise TrainingError(f"rank is at least 1, or 0 for the highest that fits into {SHARE:.0%} of the model, not {rank}")
        self.dit, self.flow, self.latent_format = dit, dit.flow, dit.latent_format
        self.start, self.teacher_size = start or finer(sizes, patch_size), teacher or finer(sizes, patch_size)
        for name, size in (("start", self.start), ("teacher", self.teacher_size)):
            if size not in sizes:
                raise TrainingError(f"{dit.name} has patch sizes {', '.join(map(str, sizes))}: {name} is one of them, not {size}")
        hosted = hasattr(self.base, "extended")  # then it teaches itself: there is no copy of it
        self.teacher = self.base if hosted else training_copy(replace(dit, model=self.base)).model.eval().requires_grad_(False)
        self.rank, self.wide_rank = ranks(self.base, patch_size, self.start, rank)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = self.student = extended(self.teacher, patch_size, self.start, self.rank, self.wide_rank).train()
        self.student.checkpointing = checkpointing
        self.trained = new_parameters(self.student)
        self.patch_sizes, self.data_share, self.weigh, self.times = (patch_size,), data_share, weigh, times
        state = base_state(self.base)
        self.fingerprint, self.likeness = fingerprint(state), likeness(state)
        self.nothing, self.account = dit.unconditional, {
            "patch_size": patch_size, "start": self.start, "teacher": self.teacher_size, "rank": self.rank, "base": self.fingerprint,
            "data_share": data_share, "times": times, "weighed": weigh is not None}
        self.size, self.whole = sum(p.numel() for p in self.trained.values()), count

    @property
    def device(self) -> torch.device:
        return next(iter(self.trained.values())).device

    def sigmas(self, count: int, generator: torch.Generator) -> Tensor:
        return draw_sigmas(self.flow, count, generator, self.times)

    def check_mix(self, sizes: tuple[int, ...]) -> None:
        raise TrainingError(f"an adapter for {self.dit.name} learns patches of one size, {self.patch_sizes[0]}: "
                            f"leave mix {'-'.join(map(str, sizes))} out")

    def loss(self, batch: Batch) -> Tensor:
        p, q, size = batch.patch_size, self.teacher_size, tuple(batch.clean.shape[-2:])
        noisy = self.flow.model_input(self.flow.add_noise(batch.clean, batch.noise, batch.sigma), batch.sigma)
        times, arguments = self.flow.time(batch.sigma), arguments_of(self.dit, batch.conditionings)
        with torch.no_grad():
            target = unpatchify(self.teacher(patchify(noisy, q), token_grid(*size, q), q, times, **arguments).float(), q, size)
            target = torch.lerp(target, own_target(self.flow, batch.clean, batch.noise, batch.sigma), self.data_share)
        answer = self.module(patchify(noisy, p), token_grid(*size, p), p, times, **arguments)
        error = (answer.float() - patchify(target, p)).square()
        if self.weigh:
            error = error * patchify(self.weigh(batch.clean).expand_as(batch.clean), p)
        if self.flow.prediction == "x0":  # |x̂0 − x0|² / σ² is the velocity's error. Li & He 2025, §3.2
            error = error / per_sample(batch.sigma.clamp_min(NEAREST), error) ** 2
        return error.mean()

    def adapter(self, **facts) -> Adapter:
        """The adapter as it is now. facts: about the training, for people to read."""
        weights = {name: p.detach().clone() for name, p in self.trained.items()}
        account = {"teacher": f"patch size {self.teacher_size}", "base_parameters": self.whole, **facts}
        return Adapter(self.patch_sizes[0], self.start, self.rank, self.wide_rank, self.fingerprint, self.dit.name,
                       asdict(self.base.config), account, weights, self.likeness)

    def result(self, **facts) -> DitHandle:
        """The model with the adapter as it is now."""
        return apply_adapter(self.pupil, self.adapter(**facts))


def finer(sizes: tuple[int, ...], patch_size: int) -> int:
    """The next finer size, because a finer one holds more detail than a coarser one. The finest size if there is no finer one."""
    return max((size for size in sizes if size < patch_size), default=min(sizes))


def size_of(model: nn.Module) -> int:
    """How many numbers a model's weights are."""
    return sum(weight.numel() for weight in model.base_state().values()) if hasattr(model, "base_state") else sum(p.numel() for p in model.parameters())


def ranks(model: nn.Module, patch_size: int, start: int, rank: int = 0) -> tuple[int, int]:
    """→ the rank for attention and MLP (`rank`, or for 0 the highest that fits into 10% of the parameters), and the rank for embedding
    and head, 0 if they learn all their weights."""
    shape = model.hollow() if hasattr(model, "hollow") else hollow_copy(model)

    def count(rank: int, wide_rank: int) -> int:
        return sum(p.numel() for p in new_parameters(extended(shape, patch_size, start, rank, wide_rank)).values())
    whole = size_of(model)
    each = count(2, 0) - count(1, 0)
    parts, wide_rank, of_one = count(1, 0) - each, 0, count(1, 2) - count(1, 1)
    if parts > WIDE_SHARE * whole and of_one:  # those of a MODEL learn all their weights
        wide_rank = max(1, int(WIDE_SHARE * whole // of_one))
        parts = count(1, wide_rank) - each
    return rank or max(1, int((SHARE * whole - parts) // each)), wide_rank


def teach_patch_size(dit: DitHandle, data: TrainingSet, patch_size: int, rank: int, settings: Settings, state: Path | None = None,
                     resume: bool = False, watch: Watch = lambda *_: None, **how) -> DitHandle:
    """→ a handle on the same model with one more patch size; `dit` is not changed. how: see `Distilling`. Raises TrainingError."""
    with torch.inference_mode(False):
        objective = Distilling(dit, patch_size, rank, checkpointing=settings.checkpointing, seed=settings.seed, **how)
    log = train(objective, data, settings, state, resume, watch)
    return objective.result(steps=len(log.losses), batch=settings.batch, pictures=len(data), loss=round(log.losses[-1], 6))
