"""Two tests of a model by its stages: whether the wires compute what the model computes, and which blocks matter most."""

from dataclasses import dataclass
import math
from typing import Callable

import torch
from torch import Tensor

from ..drawing import charts
from ..errors import StagesError
from ..handle.backbone import Conditioning, DitHandle
from ..tokens.numbers import in_words
from ..tokens.wire_types import DitHidden, DitTokens
from . import stages as step_stages
from .guidance import guide

WORDS = {
    "title": {"en": "change of x0 when a block is left out, as a share of its size", "zh": "去掉一个块时 x0 的改变，占其大小的比例"},
    "axis": {"en": "block; orange: each noise level, blue: their mean", "zh": "块；橙色：每个噪声水平，蓝色：它们的平均"},
}


@dataclass(frozen=True)
class Parity:
    """largest: the largest absolute difference in x0. stage: the first after which wires and model differ, "" if they are equal."""
    largest: float
    stage: str

    def __str__(self) -> str:
        if not self.largest:
            return "equal, bit for bit"
        return f"differs by up to {self.largest:.3g}; first after {self.stage or 'guidance'}"


def parity(dit: DitHandle, prediction: DitTokens, sigmas: Tensor, step: int, positive: Conditioning, negative: Conditioning | None,
           cfg: float) -> Parity:
    """Compare x0 from the wires, after Guidance, with the whole model's x0 for the same tokens. Raises StagesError."""
    if "trace" not in prediction:
        raise StagesError("prediction is not from Final Layer or DiT Guidance")
    negative = dit.away_from(negative, cfg)
    start, x0 = prediction["call"].start, guide(prediction, 1.0)["tokens"]
    own = dit.denoise(start, sigmas, positive, negative, cfg, start_step=step, end_step=step + 1)[1]["tokens"].to(x0)
    largest = (x0 - own).abs().max().item()
    if not largest:
        return Parity(0.0, "")
    wire = step_stages.condition(dit, start, positive, negative, sigmas, step)
    wire = step_stages.position_embed(dit, step_stages.patch_embed(dit, wire))
    for i in range(len(dit.stages.over(wire["hidden"]).kinds)):
        wire = step_stages.run_blocks(dit, wire, str(i))
    native, by_wires = (dict(one["trace"]) for one in (step_stages.final_layer(dit, wire), prediction))
    for name in ("condition", "patches", "positions"):
        if name not in by_wires:
            return Parity(largest, f"{name}, which was left out")
    for name, value in prediction["trace"]:
        if name not in native or not torch.equal(value, native[name].to(value.device)):
            return Parity(largest, name)
    return Parity(largest, "")


@dataclass(frozen=True)
class Ablation:
    """change [levels, blocks]: how much x0 changes without a block, relative to its size; NaN for a block that can't be left out. sigmas
    [levels]. kinds: of the blocks."""
    change: Tensor
    sigmas: Tensor
    kinds: list[str]

    def least(self, count: int) -> list[int]:
        """The numbers of the blocks that matter least, in rising order."""
        return sorted(self.ranking[:count])

    @property
    def ranking(self) -> list[int]:
        """The numbers of all blocks that can be left out, those that matter least first."""
        mean = self.change.mean(0)
        return [i for i in mean.argsort(stable=True).tolist() if not mean[i].isnan()]

    def ranked(self) -> str:
        """A line for each block, those that matter least first: number, kind, mean change."""
        mean = self.change.mean(0).tolist()
        stays = [i for i in range(len(mean)) if i not in self.ranking]
        return "\n".join([*(f"{i} {self.kinds[i]} {mean[i]:.2%}" for i in self.ranking), *(f"{i} {self.kinds[i]} can't be left out" for i in stays)])

    def skip_lists(self, count: int) -> tuple[str, str, str]:
        """The least important blocks as double and single layers of core's SkipLayerGuidanceDiT, and all others for DiT Blocks."""
        skipped, lists = self.least(count), list(dict.fromkeys(self.kinds))
        first_single = next((i for i, kind in enumerate(self.kinds) if kind.startswith("single")), len(self.kinds))
        double = ", ".join(str(i) for i in skipped if i < first_single)
        single = ", ".join(str(i - first_single) for i in skipped if i >= first_single)
        if len(lists) > 2 or len(lists) == 2 and not lists[1].startswith("single"):  # core's node has no numbers for other lists
            double = single = ""
        return double, single, in_words([i for i in range(len(self.kinds)) if i not in skipped])


def ablate(dit: DitHandle, clean: DitTokens, sigmas: Tensor, levels: int, positive: Conditioning, negative: Conditioning | None, cfg: float,
           seed: int, reporter: Callable[[int], Callable[[int], None]] = lambda total: lambda done: None) -> Ablation:
    """Leave out each block in turn, at a few noise levels spread over the schedule, and measure how much x0 changes.

    clean: tokens of a finished picture. reporter(total) → a function that is called after every block with the number done. Raises
    StagesError, ValueError.
    """
    negative = dit.away_from(negative, cfg)
    steps = sorted({round((k + 0.5) * (len(sigmas) - 1) / levels - 0.5) for k in range(levels)})
    rows: list[Tensor] = []
    report = None
    for row, step in enumerate(steps):
        noisy, _ = dit.add_noise(clean, sigmas, step, seed)
        wire = step_stages.condition(dit, noisy, positive, negative, sigmas, step)
        before = step_stages.position_embed(dit, step_stages.patch_embed(dit, wire))

        def x0_of(wire: DitHidden) -> Tensor:
            return guide(step_stages.final_layer(dit, wire), cfg)["tokens"]
        whole = x0_of(step_stages.run_blocks(dit, before))
        kinds = dit.stages.over(before["hidden"]).kinds
        report = report or reporter(len(steps) * len(kinds))
        changes = []
        for i in range(len(kinds)):
            if dit.stages.over(before["hidden"]).can_leave_out(i):
                after = step_stages.run_blocks(dit, before, in_words(list(range(i + 1, len(kinds)))))
                changes.append((x0_of(after) - whole).square().mean().sqrt() / whole.square().mean().sqrt())
            else:
                changes.append(torch.tensor(torch.nan))
            if i < len(kinds) - 1:
                before = step_stages.run_blocks(dit, before, str(i))
            report(row * len(kinds) + i + 1)
        rows.append(torch.stack([change.float().cpu() for change in changes]))
    return Ablation(torch.stack(rows), sigmas[steps], kinds)


@charts.drawn
def bar_chart(ablation: Ablation, language: str = "English", width: int = 704, height: int = 384) -> Tensor:
    """A bar for each block, the mean over noise levels, and a tick for each level: → [1, height, width, 3] in 0..1."""
    picture, draw = charts.canvas(width, height)
    mean, face = ablation.change.mean(0), charts.font(charts.TEXT, language == "中文")
    left, bottom, top = 60, height - 56, 44
    room, highest = (width - left - 16) / len(mean), max(ablation.change.nan_to_num().max().item(), 1e-9)
    draw.text((left, 8), charts.in_language(WORDS["title"], language), fill=charts.INK, font=face)
    draw.text((left - 6, top), f"{highest:.2g}", fill=charts.FAINT, font=face, anchor="rm")
    draw.line([(left, bottom), (width - 16, bottom)], fill=charts.FAINT)
    every = max(1, -(-int(face.getlength("00 ")) // max(1, int(room))))  # numbers must not touch
    for i, value in enumerate(mean.tolist()):
        x = left + i * room
        if math.isnan(value):  # a number and no bar
            draw.text((x + room / 2, bottom - 4), "–", fill=charts.FAINT, font=face, anchor="ms")
            value, levels = 0.0, []
        else:
            levels = ablation.change[:, i].tolist()
        level = lambda share: bottom - share / highest * (bottom - top)  # noqa: E731
        draw.rectangle([x + room * 0.15, level(value), x + room * 0.85, bottom], fill=charts.CURVES[0])
        for one in levels:
            draw.line([(x + room * 0.15, level(one)), (x + room * 0.85, level(one))], fill=charts.CURVES[5], width=3)
        if i % every == 0:
            draw.text((x + room / 2, bottom + 6), str(i), fill=charts.INK, font=face, anchor="ma")
    draw.text((left, height - 26), charts.in_language(WORDS["axis"], language), fill=charts.FAINT, font=face)
    return charts.as_tensor(picture)[None]
