"""Patches of several sizes in one sequence: fine ones where it matters, coarse ones elsewhere. See `tokens.mixed`."""

from dataclasses import dataclass, field, fields

from torch import Tensor

from ..errors import BackboneError, StagesError
from ..model.conditioning import Arguments, Conditioning
from ..model.mmdit import MMDiT
from ..model.stages import Stages
from ..sampling.regions import has_area
from ..sampling.walk import Report
from ..tokens.mixed import Mixture, gather, mix_of, scatter
from ..tokens.patch import patchify, token_grid, unpatchify
from ..tokens.wire_types import DitTokens
from .backbone import Backbone, DitHandle


def by_regions(dit: DitHandle, mixture: Mixture, mask: Tensor | None = None) -> DitHandle:
    """A handle on the same weights that reads patches of several sizes in one sequence, for one run at a time. Raises BackboneError."""
    if hasattr(dit, "by_regions"):  # a MODEL, which the host knows how to change
        return dit.by_regions(mixture, mask)
    if not isinstance(dit, Backbone) or type(dit.model) is not MMDiT:
        raise BackboneError(f"{dit.name} reads patches of one size in a step, not {mixture}: use one patch size for each step")
    if what := "cache" if dit.cache else "plan" if dit.plan else "turns" if dit.turns else "":
        raise BackboneError(f"{dit.name} has {not_with(what, mixture)}: leave one of the two out")
    known = dit.model.config.patch_sizes
    if missing := [p for p in mixture.sizes if p not in known]:
        raise BackboneError(f"{dit.name} knows patch sizes {', '.join(map(str, known))}, not {missing[0]}: in one sequence each size needs "
                            "weights of its own")
    check_mask(mixture, mask)
    return ByRegions(**{part.name: getattr(dit, part.name) for part in fields(Backbone)}, mixture=mixture, mask=mask)


def not_with(what: str, mixture: Mixture | str) -> str:
    """What patches of several sizes can't have beside them, "cache", "plan" or "turns", and why."""
    return {"cache": f"a Step Cache, and patches of several sizes ({mixture}) stand in other places in each step",
            "plan": f"a plan of its blocks, which patches of several sizes ({mixture}) have not",
            "turns": f"Steer Every Step or Stages Every Step, which patches of several sizes ({mixture}) can't do"}[what]


def check_mask(mixture: Mixture, mask: Tensor | None) -> None:
    """Raise BackboneError where a mixture goes by a mask and there is none."""
    if mixture.needs_mask and mask is None:
        raise BackboneError(f"{mixture}: there is no mask; wire one into Patch Regions or Patch Schedule")


@dataclass(eq=False, kw_only=True)
class ByRegions(Backbone):
    """A backbone that reads patches of several sizes in one sequence. The tokens on the wire are of the finest. See `tokens.mixed`.

    seen: x0 of the step before, as tokens, which decides where detail is; for one run at a time.
    """
    mixture: Mixture
    mask: Tensor | None = None
    seen: list[Tensor] = field(default_factory=list)

    @property
    def stages(self) -> Stages:
        raise StagesError(f"{self.name} reads patches of several sizes ({self.mixture}), which has no stages of its own")

    def denoise(self, wire: DitTokens, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None = None,
                cfg: float = 1.0, solver: str = "euler", start_step: int = 0, end_step: int | None = None,
                report: Report = lambda *_: None) -> tuple[DitTokens, DitTokens]:
        if any(has_area(extras) for side in (positive, negative or ()) for _, extras in side):
            raise BackboneError(f"patches of several sizes ({self.mixture}) and a conditioning with an area are not possible together")
        self.seen[:] = [wire["memory"]["x0"]] if "memory" in wire else []

        def tell(done: int, of: int, x0: Tensor) -> None:
            self.seen[:] = [x0]
            report(done, of, x0)
        return super().denoise(wire, sigmas, positive, negative, cfg, solver, start_step, end_step, tell)

    def _x0(self, tokens: Tensor, grid: tuple[int, int], patch_size: int, sigma: Tensor, arguments: Arguments) -> Tensor:
        size = grid[0] * patch_size, grid[1] * patch_size

        def laid_out(values: Tensor) -> Tensor:
            return unpatchify(values, patch_size, size)
        inputs, times = self._inputs(tokens, sigma)
        before = self.seen[0].to(tokens).repeat(len(tokens) // len(self.seen[0]), 1, 1) if self.seen else None
        mix = mix_of(self.mixture, laid_out(inputs), None if before is None else laid_out(before), self.mask)
        if len(mix.places) == 1:  # in the order of a plain sequence, so that it is the plain size bit for bit
            (p,) = mix.places
            answer = self.model(patchify(laid_out(inputs), p), token_grid(*size, p), p, times, **arguments)
            prediction = unpatchify(answer, p, size)
        else:
            prediction = scatter(self.model.forward_mixed(gather(laid_out(inputs), mix), mix, times, **arguments), mix)
        return self._to_x0(patchify(prediction, patch_size).to(tokens), tokens, sigma)
