"""The way from noise to picture at some of the steps: the model's input x, its prediction x0, and the velocity."""

from dataclasses import dataclass
from typing import Callable, Sequence

import torch
from torch import Tensor

from ..drawing import charts
from ..drawing.charts import in_language
from ..handle.backbone import Conditioning, DitHandle
from ..sampling.walk import last_step
from ..tokens.wire import in_a_row, unfold, with_tokens
from ..tokens.wire_types import DitTokens
from .attention_maps import chosen_steps

MOST = 4  # steps shown if the user names none
SIDE = 150
WORDS = {
    "title": {"en": "From noise to picture: {steps} steps by {solver}, cfg {cfg:g}", "zh": "从噪声到图片：{steps} 步，{solver}，cfg {cfg:g}"},
    "x": {"en": "x: the noisy latent that the model reads", "zh": "x：给模型的含噪 latent"},
    "x0": {"en": "x0: the clean picture that the model predicts", "zh": "x0：模型从中看到的干净图片"},
    "velocity": {"en": "velocity (x − x0)/σ: what the solver removes", "zh": "速度 (x − x0)/σ：求解器要去掉的部分"},
    "label": {"en": "step {step}\nσ = {sigma:.3f}", "zh": "第 {step} 步\nσ = {sigma:.3f}"},
    "note": {"en": "each is a latent, decoded by the VAE; σ from {high:.3g} (noise) to {low:.3g}",
             "zh": "每张都是 latent，由 VAE 解码；σ 从 {high:.3g}（噪声）到 {low:.3g}"},
}
KINDS = ("x", "x0", "velocity")


@dataclass(frozen=True)
class Moment:
    """A step: x before it, the model's x0 and the velocity dx/dσ = (x − x0)/σ, all DIT_TOKENS."""
    step: int
    sigma: float
    x: DitTokens
    x0: DitTokens
    velocity: DitTokens


def moments(dit: DitHandle, tokens: DitTokens, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None, cfg: float, solver: str,
            at_steps: str, start_step: int = 0, end_step: int | None = None,
            report: Callable[[int, DitTokens, Tensor], None] = lambda *_: None) -> tuple[list[Moment], DitTokens, DitTokens]:
    """Denoise as `DitHandle.denoise` does: → (the chosen steps, tokens and x0 at the end). Raises as `DitHandle.denoise` does.

    The run stops before and after each chosen step, which does not change the result. report(done, wire, x0) is called after each step.
    """
    handle = dit if in_a_row(tokens) else dit.reading(tokens["patch_size"])
    end_step = last_step(start_step, end_step, sigmas)
    chosen, wire, x0, at = [], tokens, tokens, start_step
    wanted = chosen_steps(at_steps, start_step, end_step, MOST)
    cuts = sorted({start_step, end_step, *wanted, *(step + 1 for step in wanted)})
    for at, stop in zip(cuts, cuts[1:]):
        def tell(done: int, _: int, x0: Tensor, first=at - start_step, wire=wire) -> None:
            report(first + done, wire, x0)
        before = wire
        wire, x0 = handle.denoise(before, sigmas, positive, negative, cfg, solver, at, stop, tell)
        if at in wanted:
            x, sigma = before["tokens"], sigmas[at].item()
            chosen.append(Moment(at, sigma, before, x0, with_tokens(before, (x - x0["tokens"].to(x)) / sigma)))
    return chosen, wire, x0


def decoded(chosen: Sequence[Moment], decode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The first picture of the batch (a video's first frame) at each chosen step: → {"x", "x0", "velocity"}, each [steps, H, W, 3] in 0..1."""
    def picture(wire: DitTokens) -> Tensor:
        image = decode(unfold({**wire, "tokens": wire["tokens"][:1]}))
        return (image[:, 0] if image.dim() == 5 else image)[0, ..., :3].float().cpu().clamp(0, 1)
    return {kind: torch.stack([picture(getattr(moment, kind)) for moment in chosen]) for kind in KINDS}


@charts.drawn
def contact_sheet(chosen: Sequence[Moment], pictures: dict[str, Tensor], sigmas: Tensor, solver: str, cfg: float,
                  language: str = "English") -> Tensor:
    """A contact sheet with rows for x, x0 and velocity, and step and σ below each: → [1, H, W, 3] in 0..1."""
    texts = {name: in_language(words, language) for name, words in WORDS.items()}
    labels = [texts["label"].format(step=moment.step, sigma=moment.sigma) for moment in chosen]
    rows = [charts.sheet([charts.fitted(one, SIDE) for one in pictures[kind]], labels, MOST, texts[kind], "", language, 1) for kind in KINDS]
    note = texts["note"].format(high=sigmas[0].item(), low=sigmas[-1].item())
    title = texts["title"].format(steps=len(sigmas) - 1, solver=solver, cfg=cfg)
    return charts.sheet([torch.cat(list(charts.batch(rows)))], [""], 1, title, note, language, 1)[None]
