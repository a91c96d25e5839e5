"""A patch size for each step: coarse patches first, for the layout of the picture, then fine ones for detail. FlexiDiT (2025), §3.3."""

from collections.abc import Callable
from dataclasses import dataclass, field
import re

import torch
from torch import Tensor

from ..errors import BackboneError, ScheduleError, TokensError
from ..sampling.guidance import is_guided
from ..sampling.walk import last_step, rises
from ..tokens.mixed import Mixture, Split
from ..tokens.other_sizes import choose_method, repatch
from ..tokens.wire import in_a_row, same_format
from ..tokens.wire_types import DitTokens, without
from .backbone import Conditioning, DitHandle
from .by_regions import by_regions

_ROW = re.compile(r"(?P<p>\d+)(?P<of_other>\s+of\s+other)?(?P<splits>(?:\s+with\s+\d+\s+on\s+(?:the\s+mask|\d+(?:\.\d+)?\s*%))*)(?:\s+until\s+(?:(?P<share>\d+(?:\.\d+)?)\s*%|sigma\s+(?P<sigma>\d+(?:\.\d+)?)))?")

NO_OTHER = "the rows say 'of other', and no other model is wired: wire a dit into other, or leave 'of other' out"
_SPLIT = re.compile(r"with\s+(?P<p>\d+)\s+on\s+(?:the\s+mask|(?P<share>\d+(?:\.\d+)?)\s*%)")


@dataclass(frozen=True)
class Row:
    """A patch size and where it ends: at a share of the steps, at a noise level, or at the end of the schedule (neither is set). splits:
    which of the patches are split into finer ones. of_other: whether the plan's other model takes these steps."""
    patch_size: int
    share: float | None = None
    sigma: float | None = None
    splits: tuple[Split, ...] = ()
    of_other: bool = False

    @property
    def sizes(self) -> int | Mixture:
        """The patch size, or several sizes in one sequence."""
        return Mixture(self.patch_size, self.splits) if self.splits else self.patch_size

    @property
    def last(self) -> bool:
        return self.share is None and self.sigma is None


@dataclass(frozen=True)
class PatchSchedule:
    """Rows in order. method: how patch sizes without weights of their own are read, see `tokens.other_sizes`. mask [B or 1, h, w]: where rows
    that say so have finer patches. other: the model of the rows that say so.

    coarse_cfg: a factor on cfg for all patch sizes but the finest. Coarse steps need a little more guidance (FlexiDiT, §4.2: 5.0 where fine
    steps have 4.5).
    """
    rows: tuple[Row, ...]
    method: str = "auto"
    coarse_cfg: float = 1.0
    mask: Tensor | None = field(default=None, compare=False)
    other: DitHandle | None = field(default=None, compare=False)

    def row(self, sigma: float, step: int, steps: int) -> Row:
        """The row of a step, from its noise level, its number, and how many steps there are."""
        for row in self.rows:
            if row.last or (row.share is not None and step < row.share * steps - 1e-6) or (row.sigma is not None and sigma > row.sigma):
                return row
        return self.rows[-1]

    def patch_size(self, sigma: float, step: int, steps: int) -> int | Mixture:
        """The patch size of a step, or several."""
        return self.row(sigma, step, steps).sizes

    def of_other(self, sigmas: Tensor, step: int) -> bool:
        """Whether the other model takes a step."""
        return self.row(sigmas[step].item(), step, len(sigmas) - 1).of_other

    @property
    def names_other(self) -> bool:
        return any(row.of_other for row in self.rows)

    def of_one_model(self, who: str) -> "PatchSchedule":
        """Itself. Raises ScheduleError where its rows name another model: who, for the message, has but one."""
        if self.names_other:
            raise ScheduleError(f"{who} runs one model, and the rows say 'of other': that is for Patch Schedule with DiT Denoise")
        return self

    def stretches(self, sigmas: Tensor, start: int, stop: int) -> list[tuple[int | Mixture, int, int]]:
        """Steps start … stop − 1, grouped into stretches of the same size and model: (patch size or sizes, first step, step to stop before)
        each."""
        found: list[tuple[int | Mixture, int, int]] = []
        for step in range(start, stop):
            size = self.patch_size(sigmas[step].item(), step, len(sigmas) - 1)
            if found and found[-1][0] == size and self.of_other(sigmas, step - 1) == self.of_other(sigmas, step):
                found[-1] = (size, found[-1][1], step + 1)
            else:
                found.append((size, step, step + 1))
        return found

    @property
    def finest(self) -> int:
        return min(finest(row.sizes) for row in self.rows)

    def guidance(self, patch_size: int | Mixture, cfg: float) -> float:
        """cfg for a step with this patch size, or with several of which the finest decides."""
        return cfg * self.coarse_cfg if finest(patch_size) > self.finest and is_guided(cfg) else cfg


def finest(sizes: int | Mixture) -> int:
    """The patch size by which tokens lie on the wire."""
    return sizes.finest if isinstance(sizes, Mixture) else sizes


def step_at(sigma: float, sigmas: Tensor) -> int:
    """The number of the step that a noise level between sigmas[0] and sigmas[-1] belongs to, whether they fall or rise."""
    behind = sigmas[:-1] < sigma * (1 - 1e-6) if rises(sigmas) else sigmas[:-1] > sigma * (1 + 1e-6)
    return int(behind.sum())


def parse_schedule(text: str, method: str = "auto", coarse_cfg: float = 1.0) -> PatchSchedule:
    """`4 until 50%, then 2`, `4 until sigma 0.6; 2`, `4 of other until 50%, then 2` or `4 until 30%, then 4 with 2 on 25%`, also with a line for
    each row → PatchSchedule. Raises ScheduleError.
    """
    rows = []
    for written in filter(None, (part.strip() for part in re.split(r"[,;\n]|\bthen\b", text.lower()))):
        match = _ROW.fullmatch(written)
        if not match:
            raise ScheduleError("a row is a patch size and where it ends, as in '4 until 50%', '4 until sigma 0.6', '4 of other until 50%' or "
                                f"'4 with 2 on 25%', not {written!r}")
        share, sigma = match["share"], match["sigma"]
        splits = tuple(Split(int(one["p"]), one["share"] and float(one["share"]) / 100) for one in _SPLIT.finditer(match["splits"]))
        rows.append(Row(int(match["p"]), share and float(share) / 100, sigma and float(sigma), splits, bool(match["of_other"])))
    if not rows:
        raise ScheduleError("the patch schedule is empty: write rows such as '4 until 50%, then 2'")
    if not rows[-1].last:
        raise ScheduleError("the patch schedule does not cover the last steps: end it with a size alone, as in "
                            f"'then {rows[-1].patch_size}'")
    for row in rows[:-1]:
        if row.last:
            raise ScheduleError(f"patch size {row.patch_size} has no end, and rows follow it: write '{row.patch_size} until 50%'")
    for row in rows:
        if row.patch_size < 1 or not 0 <= (row.share or 0) <= 1:
            raise ScheduleError("a patch size is at least 1 and a share at most 100%, not "
                                f"{row.patch_size} until {100 * (row.share or 0):g}%")
        for coarse, one in zip((row.patch_size, *(split.patch_size for split in row.splits)), row.splits):
            if one.patch_size < 1 or coarse % one.patch_size or coarse == one.patch_size:
                raise ScheduleError(f"patches of {coarse} are split into a size that divides it, not into {one.patch_size}")
            if one.share is not None and one.share > 1:
                raise ScheduleError(f"a share is at most 100%, not {100 * one.share:g}%")
    for kind, sign in (("share", 1), ("sigma", -1)):
        ends = [getattr(row, kind) for row in rows if getattr(row, kind) is not None]
        if any(sign * b <= sign * a for a, b in zip(ends, ends[1:])):
            raise ScheduleError(f"the patch schedule goes backwards: its {kind}s are {', '.join(f'{end:g}' for end in ends)}")
    return PatchSchedule(tuple(rows), method, coarse_cfg)


QUICK_STEPS = 4


def quick_look(dit: DitHandle, wire: DitTokens, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None, cfg: float,
               start_step: int, end_step: int) -> Tensor | None:
    """A rough picture of the result, made with coarse patches in QUICK_STEPS steps: → [H, W, 3] in 0..1, or None if that is not possible.

    Its patch size is the largest that the model has weights for; if it has only one, twice that size.
    """
    own = dit.patch_sizes
    size = max(*own, wire["patch_size"]) if len(own) > 1 else 2 * max(*own, wire["patch_size"])
    walked = sigmas[start_step:last_step(start_step, end_step, sigmas) + 1]
    places = torch.linspace(0, len(walked) - 1, min(QUICK_STEPS + 1, len(walked))).round().long()
    try:
        coarse = repatch(without(wire, "memory"), size)
        _, x0 = dit.reading(size).denoise(coarse, walked[places], positive, negative, cfg)
    except ValueError:  # the full run that follows reports the error
        return None
    return dit.picture(x0, x0["tokens"])


def readings(dit: DitHandle, plan: PatchSchedule, stretches: list[tuple[int | Mixture, int, int]], wire: DitTokens | None = None) -> list[DitHandle]:
    """The handle that reads the patches of each stretch. Raises BackboneError, TokensError."""
    if wire is not None and in_a_row(wire):
        if other := next((size for size, *_ in stretches if size != 1), None):
            raise TokensError(f"tokens of a latent [B, C, L], or of one of several tensors, are single places: their patch size is 1, not {other}")
        return [dit] * len(stretches)
    return [by_regions(dit, size, plan.mask) if isinstance(size, Mixture) else dit.reading(size, plan.method) for size, *_ in stretches]


def check_family(dit: DitHandle, other: DitHandle | None) -> None:
    """Raise ScheduleError, BackboneError unless there are two models that can take turns at one run: the same latents, noise and prompts."""
    if other is None:
        raise ScheduleError(NO_OTHER)
    def facts(of: DitHandle) -> tuple[str, ...]:
        noise = "a rectified flow" if of.space.rectified else "DDPM's noise"
        return (f"{of.channels} latent channels", f"cells of {of.downscale} pixels", f"{of.frame_patch} frames to a patch",
                noise if of.space.scale == 1 else f"{noise} of scale {of.space.scale:g}", f"prompts: {of.reads}")
    for theirs, own in zip(facts(other), facts(dit)):
        if theirs != own:
            raise BackboneError(f"'of other' takes a model of the same family: other ({other.name}) has {theirs}, dit ({dit.name}) has {own}")
    if not same_format(other.latent_format, dit.latent_format):
        raise BackboneError(f"'of other' takes a model of the same family: other ({other.name}) has another latent space than dit ({dit.name})")
    if cached := next((one for one in (dit, other) if one.caches), None):
        raise BackboneError(f"a Step Cache goes over the steps of one model: take it off {cached.name}, or leave 'of other' out of the rows")


def denoise_by_schedule(
        dit: DitHandle, wire: DitTokens, plan: PatchSchedule, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None, cfg: float,
        solver: str, start_step: int, end_step: int, report: Callable[[int, DitTokens, Tensor], None] = lambda *_: None,
        before: Callable[[int, DitTokens, float], None] | None = None,
        load: Callable[[DitHandle], None] = lambda _: None) -> tuple[DitTokens, DitTokens, str]:
    """`DitHandle.denoise` with a patch size for each step: → (tokens, the last x0, a note on sizes without weights of their own, or "").

    When the size changes, the tokens and the solver's memory are cut again. report(done, wire, x0) is called after each step,
    before(step, wire, cfg) before it, and load(model) before the first step of each model. Raises as `DitHandle.denoise` does.
    """
    stretches = plan.stretches(sigmas, start_step, last_step(start_step, end_step, sigmas))
    if before:  # one step at a time; the result is the same, bit for bit
        stretches = [(size, step, step + 1) for size, start, stop in stretches for step in range(start, stop)]
    models = [plan.other if plan.of_other(sigmas, start) else dit for _, start, _ in stretches]
    if any(model is not dit for model in models):
        check_family(dit, plan.other)
    handles = [handle for model, one in zip(models, stretches) for handle in readings(model, plan, [one], wire)]  # errors come before the work
    for number, ((size, start, stop), handle) in enumerate(zip(stretches, handles)):
        if not number or models[number] is not models[number - 1]:
            load(models[number])
        wire = repatch(wire, finest(size))
        handle.check_tokens(wire)
        guidance = plan.guidance(size, cfg)
        if before:
            before(start, wire, guidance)

        def tell(done: int, _: int, x0: Tensor, first=start - start_step, wire=wire) -> None:
            report(first + done, wire, x0)
        wire, x0 = handle.denoise(wire, sigmas, positive, negative, guidance, solver, start, stop, tell)
    remarks = () if in_a_row(wire) else (_remark(model, size, plan.method) for model, (size, *_) in zip(models, stretches))
    return wire, x0, ", ".join(dict.fromkeys(filter(None, remarks)))


def _remark(dit: DitHandle, size: int | Mixture, method: str) -> str:
    """What is not the model's own way of reading patches, in words."""
    if isinstance(size, Mixture):
        return "" if dit.mixes else f"p = {size}, which this model was not trained on"
    chosen = choose_method(dit.patch_sizes, size, method)
    return "" if chosen == "native" else f"p = {size} by {chosen}"
