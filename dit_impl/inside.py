"""The stage nodes' work: from DIT_TOKENS through DIT_HIDDEN back to DIT_TOKENS. `stages.py` says what the wire holds.

A prediction is DIT_TOKENS too, with `call`, the step that it answers, and `guided`, whether it has become x0 already.
"""

from contextlib import ExitStack

import torch
from torch import Tensor
import torch.nn.functional as F

from .backbone import Backbone, Conditioning, Dit
from .flow import RectifiedFlow
from .position import grid_positions, sincos_1d, sincos_2d
from .stages import Hidden, StagesError, TokenStages, only_itself, parse_blocks
from .tokens import to_tokens, with_tokens

BLOCK = "block {}"  # how a trace names the last block that was run
ATTENTION_MODES = ("full", "itself")
POSITION_MODES = ("model", "none", "shuffled", "1-D", "scaled")


def check(dit: Dit, wire: dict, *needed: str) -> None:
    """Raise StagesError unless a DIT_HIDDEN is this model's and has been through the stages it needs."""
    if wire["model"] != dit.name:
        raise StagesError(f"the hidden states come from {wire['model']}, the dit is {dit.name}")
    stages = {"condition": "Condition", "patches": "Patch Embed"}
    for stage in needed:
        if stage not in wire["done"]:
            raise StagesError(f"the hidden states have not been through {stages[stage]}")


def checksum(tokens: Tensor) -> Tensor:
    """A number [] that two tensors share if they are equal, and hardly ever if not."""
    return tokens.detach().double().abs().sum()


def _after(wire: dict, hidden: Hidden, stage: str, name: str = "") -> dict:
    """The wire after a stage, with its name and checksum added to the trace."""
    return {**wire, "hidden": hidden, "done": wire["done"] | {stage}, "trace": (*wire["trace"], (name or stage, checksum(hidden.x)))}


def _words(positive: Conditioning) -> dict:
    """What the text's tokens are called, where the CONDITIONING says it, for the wire."""
    return {"words": positive[0][1]["words"]} if positive and "words" in positive[0][1] else {}


def condition(dit: Dit, x: dict, positive: Conditioning, negative: Conditioning | None, sigmas: Tensor, step: int) -> dict:
    """Begin a step: lay out its batch [uncond, cond], embed time and text. Raw tokens, or hidden states without them → DIT_HIDDEN.

    Raises StagesError, ScheduleError, BackboneError.
    """
    if "hidden" not in x:
        begun = {**dit.begin(x, sigmas, step, positive, negative), **_words(positive)}
        return _after({**begun, "trace": ()}, begun["hidden"], "condition")
    check(dit, x)
    if x["call"]:
        raise StagesError("the hidden states are conditioned already")
    begun = {**dit.begin(x["tokens"], sigmas, step, positive, negative), **_words(positive)}
    parts = len(begun["call"].layout)
    hidden = begun["hidden"].but(x=x["hidden"].x.repeat(parts, 1, 1), index=x["hidden"].index)
    return _after({**begun, "done": x["done"], "trace": x["trace"]}, hidden, "condition")


def patch_embed(dit: Dit, x: dict) -> dict:
    """Raw patches to the model's width, by its patch embedding: DIT_TOKENS, or DIT_HIDDEN after Condition → DIT_HIDDEN."""
    if "hidden" in x:
        check(dit, x)
        if "patches" in x["done"]:
            raise StagesError("the patches are embedded already")
        return _after(x, dit.stages.patch_embed(x["hidden"]), "patches")
    dit.check_tokens(x)
    if not isinstance(dit, Backbone) or not isinstance(dit.flow, RectifiedFlow) or x.get("noise_mask") is not None:
        raise StagesError(f"{dit.name} embeds patches of a step that has begun: put Condition before Patch Embed")
    raw = Hidden(x["tokens"].to(dit.like(), copy=True), None, None, None, 0, {"grid": x["grid"], "patch_size": x["patch_size"]})
    wire = {"tokens": x, "done": frozenset(), "call": None, "model": dit.name, "trace": ()}
    return _after(wire, dit.stages.patch_embed(raw), "patches")


def position_embed(dit: Dit, wire: dict, mode: str = "model", seed: int = 0) -> dict:
    """Tell image tokens where they stand: DIT_HIDDEN → DIT_HIDDEN. Dosovitskiy et al. 2020 (ViT), §3.1; Peebles & Xie 2022, §3.2.

    mode: "model", its own; "none", a bag of patches; "shuffled", its own table with rows exchanged; "1-D", sines and cosines of the
    reading order alone; "scaled", a table of the trained grid laid over this one. Only "model" applies where positions are rotary,
    for those turn queries and keys inside attention and are not added to tokens. Raises StagesError.
    """
    check(dit, wire, "patches")
    stages, hidden = dit.stages, wire["hidden"]
    own = stages.position_embed(hidden)
    if mode == "model":
        return _after(wire, own, "positions")
    if own.position is not None:
        raise StagesError(f'{dit.name} has rotary positions, which attention applies: mode "model" alone fits it, not "{mode}"')
    if mode == "none":
        return _after(wire, hidden, "positions")
    count, width = hidden.x.shape[1:]
    if mode == "shuffled":
        table = stages.position_embed(hidden.but(x=torch.zeros_like(hidden.x[:1]))).x
        table = table[:, torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
    elif mode == "1-D":
        table = sincos_1d(width, torch.arange(count))[None]
    elif mode == "scaled":
        grid = wire["tokens"]["grid"]
        if isinstance(stages, TokenStages):
            table = sincos_2d(width, *grid_positions(grid, dit.picture_size / dit.downscale / dit.patch_size))[None]
        else:
            table = stages.scaled_positions(hidden, grid)
    else:
        raise StagesError(f"mode is one of {', '.join(POSITION_MODES)}, not {mode!r}")
    return _after(wire, hidden.but(x=hidden.x + table.to(hidden.x)), "positions")


def run_blocks(dit: Dit, wire: dict, blocks: str = "all", strength: float = 1.0, graft: dict | None = None,
               mask: Tensor | None = None, attention: str = "full") -> dict:
    """Blocks in the order given. `strength` scales what each adds; `graft` first replaces image tokens by another run's, where
    `mask` [B or 1, h', w'] is above a half, everywhere without one; with `attention` "itself" no image token reads another:
    DIT_HIDDEN → DIT_HIDDEN. Raises StagesError."""
    check(dit, wire, "condition", "patches")
    hidden = wire["hidden"]
    if graft is not None:
        check(dit, graft, "patches")
        if graft["hidden"].x.shape[1:] != hidden.x.shape[1:]:
            theirs, ours = graft["hidden"].x.shape, hidden.x.shape
            raise StagesError(f"the graft has {theirs[1]} tokens of width {theirs[2]}, the hidden states have {ours[1]} of {ours[2]}")
        other = graft["hidden"].x[torch.arange(len(hidden.x)) % len(graft["hidden"].x)]
        chosen = 1.0 if mask is None else token_mask(mask, wire["tokens"]["grid"], len(hidden.x)).to(hidden.x)
        hidden = hidden.but(x=torch.lerp(hidden.x, other, chosen) if mask is not None else other)
    if attention not in ATTENTION_MODES:
        raise StagesError(f"attention is one of {', '.join(ATTENTION_MODES)}, not {attention!r}")
    stages, indices = dit.stages, parse_blocks(blocks, len(dit.stages.kinds))
    with ExitStack() as during:
        if attention == "itself":
            look = only_itself(stages.attentions(hidden, wire["tokens"]["tokens"].shape[1]))
            for i in set(indices):
                during.enter_context(stages.observe(i, look))
        after = stages.run_blocks(hidden, indices, strength)
    return _after(wire, after, "blocks", BLOCK.format(after.index - 1))


def token_mask(mask: Tensor, grid: tuple[int, ...], batch: int) -> Tensor:
    """A MASK [B, H, W] as 0 or 1 for each token of a grid, by what covers most of it: → [batch, N, 1]."""
    share = F.adaptive_avg_pool2d(mask.reshape(-1, 1, *mask.shape[-2:]).float(), grid[-2:])
    frames = grid[0] if len(grid) == 3 else 1
    chosen = (share > 0.5).float().flatten(2).movedim(1, 2).repeat(1, frames, 1)
    return chosen[torch.arange(batch) % len(chosen)]


def describe_blocks(dit: Dit, blocks: str) -> str:
    """What DiT Blocks runs, in words: `blocks 0 to 5: 0–5 joint; runs 0, 1, 2`."""
    kinds = dit.stages.kinds
    groups, start = [], 0
    for i in range(1, len(kinds) + 1):
        if i == len(kinds) or kinds[i] != kinds[start]:
            groups.append(f"{start}–{i - 1} {kinds[start]}")
            start = i
    numbers = parse_blocks(blocks, len(kinds))
    return f"{', '.join(groups)}; runs {len(numbers)}: {', '.join(map(str, numbers)) or 'none'}"


def final_layer(dit: Dit, wire: dict) -> dict:
    """Image tokens back to patch values: DIT_HIDDEN → the model's prediction for every part of the batch, as DIT_TOKENS."""
    check(dit, wire, "condition", "patches")
    answer = dit.stages.head(wire["hidden"])
    tokens = answer if answer.dim() == 3 else to_tokens(answer.float(), wire["tokens"])
    trace = (*wire["trace"], ("final layer", checksum(tokens)))
    return {**with_tokens(wire["tokens"], tokens), "call": wire["call"], "guided": False, "trace": trace}


def guide(prediction: dict, cfg: float, negative: dict | None = None) -> dict:
    """Classifier-free guidance u + (c − u)·cfg on x0 (Ho & Salimans 2022, equation 6): predictions → x0, as DIT_TOKENS.

    `negative`: the prediction of a branch of its own, or one already guided; else the unconditional part of the batch. Either may
    itself be guided, so that guidances chain. Raises StagesError.
    """
    if negative is not None:
        conditional, unconditional = _x0(prediction, "prediction", 1.0), _x0(negative, "negative", 1.0)
        if not torch.equal(prediction["call"].sigma, negative["call"].sigma) or conditional.shape != unconditional.shape:
            raise StagesError("prediction and negative are of different steps or grids")
        x0 = unconditional + (conditional - unconditional) * cfg
    else:
        x0 = _x0(prediction, "prediction", cfg)
    return {**with_tokens(prediction, x0), "guided": True}


def _x0(wire: dict, what: str, cfg: float) -> Tensor:
    """A prediction as x0 [B, N, C·p·p], guided by the unconditional part of its batch."""
    if "call" not in wire:
        raise StagesError(f"{what} is not from Final Layer or Guidance")
    if not wire["guided"]:
        if cfg != 1 and "uncond" not in wire["call"].layout:
            raise StagesError(f"cfg {cfg:g} needs a negative: wire one into Condition, or the prediction of another branch into negative")
        return wire["call"].to_x0(wire["tokens"], cfg)
    if cfg != 1:
        raise StagesError(f"{what} is guided already; for cfg {cfg:g} wire what to go away from into negative")
    return wire["tokens"]


def sampler_step(dit: Dit, tokens: dict, prediction: dict, sigmas: Tensor, step: int, solver: str) -> tuple[dict, dict]:
    """The solver's move: → (tokens at the next noise level, x0), both DIT_TOKENS. Raises StagesError, ValueError."""
    x0, call = _x0(prediction, "prediction", 1.0), prediction["call"]
    if step < len(sigmas) and sigmas[step].float().to(call.sigma) != call.sigma:
        raise StagesError(f"the prediction was made at sigma {call.sigma.item():.4g}, step {step} is at {sigmas[step].item():.4g}")
    if x0.shape != tokens["tokens"].shape:
        raise StagesError(f"the prediction has shape {list(x0.shape)}, the tokens {list(tokens['tokens'].shape)}")
    return dit.advance(tokens, x0, sigmas, step, solver)
