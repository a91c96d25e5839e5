"""Costs of a model that was counted by running its forward on shapes: at one size, or as a polynomial that was checked at several sizes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import Annotated

from ..errors import BackboneError
from ..reading import Between
from ..tokens.patch import token_grid
from .arithmetic import ARCHITECTURES, LARGEST, Architecture, NotNegative, Pass, Positive

Grid = tuple[int, int]
Coefficient = Annotated[int, Between(-LARGEST, LARGEST)]
Polynomial = tuple[Coefficient, Coefficient, Coefficient, Positive]  # of 1, n and n², n being the tokens of a frame, and what all is divided by
SIDES = (8, 4)  # rows and columns of tokens are multiples of it when a model is counted: what halves its tokens can do so
ODD = ((9, 7), (5, 11))  # grids at which it is seen whether they need be
COUNTS = 6  # of a Pass are numbers


@dataclass(frozen=True)
class CountedNow(Architecture):
    """A model that is counted for every size that is asked about. count: frames, grid → what a pass costs. It may raise BackboneError.
    cells: of the latent, if they are no multiple of a patch. slow: counting takes so long that only the size that runs is counted."""
    text: int = 0
    by_stages: bool = False
    count: Callable[[int, Grid, Grid | None], Pass] | None = None
    slow: bool = False

    def at_once(self, grid: Grid, counts: Mapping[int, int] | None = None, t: int = 0, cells: Grid | None = None) -> Pass:
        return self.count(self.frames, grid, cells)


@dataclass(frozen=True)
class FittedArchitecture(Architecture):
    """A model that was counted: what a pass costs as polynomials in the tokens of a frame, for its prompt and its frames.

    multiple: the polynomials hold where rows and columns are multiples of it; 0 if there are none. here: a grid at which the pass itself is
    known, as `exactly`. by_stages: whether a final layer can run alone.
    """
    kind = "fitted"
    text: NotNegative = 0
    by_stages: bool = False
    multiple: NotNegative = 0
    polynomials: tuple[Polynomial, ...] = ()
    here: tuple[Positive, Positive] | None = None
    exactly: tuple[NotNegative, ...] = ()

    def __post_init__(self):
        if self.multiple and len(self.polynomials) != COUNTS or self.here and len(self.exactly) != COUNTS:
            raise ValueError(f"a fitted shape has {COUNTS} polynomials, or {COUNTS} numbers for a grid")

    @property
    def captures(self) -> bool:
        return self.by_stages

    def at_once(self, grid: Grid, counts: Mapping[int, int] | None = None, t: int = 0, cells: Grid | None = None) -> Pass:
        if grid == self.here:
            return Pass(*self.exactly)
        if not self.multiple or any(side % self.multiple for side in grid):
            known = f"where rows and columns of tokens are multiples of {self.multiple}" if self.multiple else "at the size it ran at"
            raise ValueError(f"what {self.name} costs is known {known}, not for {grid[0]}×{grid[1]}: Patch Budget counts every size")
        return Pass(*(value_at(one, grid[0] * grid[1]) for one in self.polynomials))


KINDS = {**ARCHITECTURES, FittedArchitecture.kind: FittedArchitecture}  # those that plain JSON tells of


def value_at(polynomial: Polynomial, n: int) -> int:
    constant, linear, square, over = polynomial
    return (constant + linear * n + square * n * n) // over


def through(points: Sequence[tuple[int, int]]) -> Polynomial | None:
    """The polynomial of degree 2 through points (n, value), three with different n at least. None if there is none."""
    (a, at_a), (b, at_b), (c, at_c), *others = points
    first, second = Fraction(at_b - at_a, b - a), Fraction(at_c - at_b, c - b)
    square = (second - first) / (c - a)
    linear = first - square * (a + b)
    constant = at_a - linear * a - square * a * a
    over = lcm(*(one.denominator for one in (constant, linear, square)))
    if any(constant + linear * n + square * n * n != value for n, value in others) or over > LARGEST:
        return None
    return *(int(one * over) for one in (constant, linear, square)), over


def fitted(now: CountedNow, cells: Grid | None = None) -> FittedArchitecture:
    """A model that is counted for every size → what is known of it without it. cells: of a latent. Raises BackboneError."""
    here = token_grid(*cells, now.patch_size) if cells else None
    failed: BackboneError | None = None
    made = FittedArchitecture(*(getattr(now, name) for name in (
        "name", "width", "blocks", "patch_size", "channels", "parameters", "downscale", "guided", "frames", "frame_patch")), now.text, now.by_stages)
    points: list[Pass] = []
    try:
        if not (now.slow and here):
            made, points = _with_polynomials(made, now)
    except BackboneError as error:
        failed = error
    if here is not None and (not made.multiple or any(side % made.multiple for side in here)):
        points = [now.at_once(here, cells=cells)]  # as when a prompt goes with one size
        made, failed = replace(made, here=here, exactly=tuple(points[0][:COUNTS])), None
    if failed:
        raise failed
    return replace(made, blocks=max(1, len(points[0].spent)))


def _with_polynomials(made: FittedArchitecture, now: CountedNow) -> tuple[FittedArchitecture, list[Pass]]:
    """With polynomials through three sizes that hold for two others, and what was counted. Raises BackboneError if there are none."""
    failed: BackboneError | None = None
    for side in SIDES:
        grids = [(rows * side, columns * side) for rows, columns in ((1, 1), (1, 2), (2, 2), (2, 3), (1, 4))]  # the last has as many as (2, 2)
        try:
            counted = [now.at_once(grid) for grid in grids]
        except BackboneError as error:
            failed = failed or error
            continue
        found = [through([(rows * columns, one[which]) for (rows, columns), one in zip(grids, counted)]) for which in range(COUNTS)]
        if all(found):
            made = replace(made, polynomials=tuple(found), multiple=1)
            return made if _holds(made, now) else replace(made, multiple=side), counted
        failed = failed or BackboneError(f"the cost of {now.name} is no polynomial in its tokens")
    raise failed


def _holds(made: FittedArchitecture, now: CountedNow) -> bool:
    """Whether the polynomials hold for odd grids too."""
    try:
        return all(now.at_once(grid)[:COUNTS] == made.at_once(grid)[:COUNTS] for grid in ODD)
    except BackboneError:
        return False
