"""What the stage nodes compute: DIT_TOKENS → DIT_HIDDEN → DIT_TOKENS. For the DIT_HIDDEN wire see `model/stages.py`.

A prediction is also DIT_TOKENS, with two more entries: `call`, the step that it belongs to, and `guided`, whether it is x0 already.
If the conditionings do not fit into one batch, a step calls the model several times, and every stage runs for each call.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
import math

import torch
from torch import Tensor

from ..errors import StagesError
from ..handle.backbone import Backbone, Conditioning, DitHandle
from ..model.position import resized, sincos_1d
from ..model.rotary import Placing
from ..model.stages import Call, Hidden, Shape, TokenStages, only_itself, parse_blocks
from ..sampling.flow import RectifiedFlow
from ..sampling.level import clean
from ..tokens.model_calls import hiddens_of, image_tokens, model_calls, with_calls
from ..tokens.places import moved
from ..tokens.recipe import begins, repeatable
from ..tokens.select import rows_beside, token_mask
from ..tokens.wire import check_cut_alike, packed, same_format, to_latent, to_tokens, with_row, with_tokens
from ..tokens.wire_types import AnyWire, DitHidden, DitTokens
from .guidance import wire_of_x0, x0_of

BLOCK = "block {}"  # the name of the last block that was run, in a trace
ATTENTION_MODES = ("full", "itself")
POSITION_MODES = ("model", "none", "shuffled", "1-D", "scaled", "shifted", "NTK", "YaRN", "DyPE")


def check(dit: DitHandle, wire: DitHidden, *needed: str) -> None:
    """Raise StagesError unless a DIT_HIDDEN comes from a model of this shape and latent space, and has been through the stages `needed`."""
    dit.check_stages()
    theirs, ours = wire.get("shape"), shape_of(dit)
    if (theirs or wire["model"]) != (ours if theirs else dit.name):
        raise StagesError(f"the hidden states come from {wire['model']}, {theirs or 'of a shape not known'}; the dit is {dit.name}, {ours}: "
                          "they go on only in a model of the same shape")
    if wire["model"] != dit.name and not same_format(wire["tokens"]["latent_format"], dit.latent_format):
        raise StagesError(f"the hidden states come from {wire['model']}, which has another latent space than {dit.name}")
    replayed = wire["hidden"].extra.get("stages")
    if replayed is not None and replayed.model is not dit.stages.model:
        raise StagesError(f"the blocks of {wire['model']} run by replaying its own forward, so that its hidden states go on in no other model")
    stages = {"condition": "DiT Condition", "patches": "Patch Embed"}
    for stage in needed:
        if stage not in wire["done"]:
            raise StagesError(f"the hidden states have not been through {stages[stage]}")


def shape_of(dit: DitHandle) -> Shape:
    """What another model must have in common with this one to go on with its hidden states."""
    return dit.stages.shape._replace(answers=dit.answers)


def checksum(tokens: Tensor) -> Tensor:
    """What is the same for equal tokens and almost never the same for others: [B, N, D] → [B, D]. It depends on order and signs.

    One product in the tokens' own type: no float64, which some devices lack, and no copy of the tokens.
    """
    count = tokens.shape[1]
    weights = torch.sin(torch.arange(1, count + 1, device=tokens.device, dtype=torch.float32) * 12.9898) / count
    return weights.to(tokens.dtype) @ tokens.detach()


def _sum(hidden: Hidden) -> Tensor:
    return checksum(hidden.x.flatten(2)).flatten()


def _after(wire: DitHidden, hiddens: list[Hidden], stage: str, sums: list[Tensor] | None = None, name: str = "") -> DitHidden:
    """The wire after a stage of each of its model calls, with the stage's name and checksums added to the trace."""
    found = torch.cat(sums or [_sum(hidden) for hidden in hiddens])
    return {**with_calls(wire, hiddens), "done": wire["done"] | {stage}, "trace": (*wire["trace"], (name or stage, found))}


def _brought(dit: DitHandle, wire: DitHidden) -> DitHidden:
    """A wire with its hidden states where the model computes: between nodes they may lie elsewhere."""
    return with_calls(wire, [moved(hidden, dit.compute_device) for hidden in hiddens_of(wire)])


def _through(dit: DitHandle, wire: DitHidden, stage: Callable[[Hidden, DitTokens], Hidden],
             tokens_too: bool = True) -> tuple[list[Hidden], list[Tensor]]:
    """A stage of each model call → hidden states and their checksums. Of several calls each is where the model computes only while it runs,
    as in KSampler. tokens_too: without it, a stage brings the tokens there itself, so that it need not keep what they were."""
    home, calls = wire["hidden"].x.device, model_calls(wire)

    def run(hidden: Hidden, tokens: DitTokens) -> tuple[Hidden, Tensor]:
        left = {} if tokens_too else {"x": hidden.x, "context": hidden.context}
        after = stage(moved(hidden.but(**dict.fromkeys(left)), dit.compute_device).but(**left), tokens)
        return moved(after, home) if len(calls) > 1 else after, _sum(after)
    with dit.running():
        done = [run(call["hidden"], call["tokens"]) for call in calls]
    return [hidden for hidden, _ in done], [found for _, found in done]


def _begun(dit: DitHandle, tokens: DitTokens, positive: Conditioning, negative: Conditioning | None, sigmas: Tensor, step: int) -> DitHidden:
    """A step that has begun, with the words of the text tokens if the CONDITIONING has them."""
    begun: DitHidden = {**dit.begin(tokens, sigmas, step, positive, negative), "shape": shape_of(dit)}
    if positive and "words" in positive[0][1]:
        begun["words"] = positive[0][1]["words"]
    return begun


def condition(dit: DitHandle, x: AnyWire, positive: Conditioning, negative: Conditioning | None, sigmas: Tensor, step: int) -> DitHidden:
    """Begin a step: lay out its batch [uncond, cond], and embed time and text: DIT_TOKENS, or DIT_HIDDEN before DiT Condition → DIT_HIDDEN.

    Raises StagesError, ScheduleError, BackboneError.
    """
    if "hidden" not in x:
        begun = _begun(dit, x, positive, negative, sigmas, step)
        return begins(_after(begun, hiddens_of(begun), "condition"))
    check(dit, x)
    if x["call"]:
        raise StagesError("the hidden states are conditioned already")
    begun = _begun(dit, x["tokens"], positive, negative, sigmas, step)
    if any(begun["call"].areas):
        raise StagesError("the conditioning has areas, which the model reads as pictures of their own: put DiT Condition before Patch Embed")
    given = _brought(dit, x)["hidden"].x
    hiddens = [hidden.but(x=given.repeat(len(hidden.x) // len(given), 1, 1)) for hidden in hiddens_of(begun)]
    return _after({**begun, "done": x["done"], "trace": x["trace"]}, hiddens, "condition")


@repeatable
def patch_embed(dit: DitHandle, x: AnyWire) -> DitHidden:
    """Bring raw patches to the model's width by its patch embedding: DIT_TOKENS, or DIT_HIDDEN after DiT Condition → DIT_HIDDEN.

    Raises StagesError.
    """
    if "hidden" in x:
        check(dit, x)
        if "patches" in x["done"]:
            raise StagesError("the patches are embedded already")
        done, sums = _through(dit, x, lambda hidden, _: dit.stages.over(hidden).patch_embed(hidden))
        return _after(x, done, "patches", sums)
    dit.check_tokens(x)
    if not isinstance(dit, Backbone) or not isinstance(dit.flow, RectifiedFlow) or x.get("noise_mask") is not None:
        raise StagesError(f"{dit.name} can embed patches only after DiT Condition: put DiT Condition before Patch Embed")
    raw = Hidden(x["tokens"].to(dit.like(), copy=True), None, None, None, 0, {"grid": x["grid"], "patch_size": x["patch_size"]})
    wire: DitHidden = {"hidden": raw, "tokens": x, "done": frozenset(), "call": None, "model": dit.name, "shape": shape_of(dit), "trace": ()}
    return _after(wire, [dit.stages.patch_embed(raw)], "patches")


@repeatable
def position_embed(dit: DitHandle, wire: DitHidden, mode: str = "model", seed: int = 0, shift: float = 0.0, scale: float = 0.0) -> DitHidden:
    """Add positions to the image tokens: DIT_HIDDEN → DIT_HIDDEN. Dosovitskiy et al. 2020 (ViT), §3.1; Peebles & Xie 2022, §3.2.

    mode: "model" adds the model's own positions; "none" adds nothing; "shuffled" adds the model's own in random order; "1-D" adds sines
    and cosines of the token number alone; "scaled" stretches the grid that the model was trained on over this one. Rotary positions are
    not added to tokens: they rotate queries and keys inside attention. There "none" puts all patches in one place, "shifted" moves them by
    `shift` patches, and "scaled", "NTK", "YaRN" and "DyPE" (see `model.rotary`) fit a grid that is `scale` times the trained one; 0: as the
    sizes are, but not below 1. Raises StagesError.
    """
    check(dit, wire, "patches")
    if mode not in POSITION_MODES:
        raise StagesError(f"mode is one of {', '.join(POSITION_MODES)}, not {mode!r}")
    if mode == "DyPE" and not wire["call"]:
        raise StagesError("DyPE goes by the noise level: put DiT Condition before Position Embed")
    placing = Placing(mode, seed, shift, scale, time=min(1.0, wire["call"].sigma.item()) if wire["call"] else 1.0)
    done, sums = _through(dit, wire, lambda hidden, tokens: _placed(dit, hidden, tokens["grid"], placing))
    return _after(wire, done, "positions", sums)


def _placed(dit: DitHandle, hidden: Hidden, grid: tuple[int, ...], placing: Placing) -> Hidden:
    """`position_embed` of one model call."""
    stages, mode, seed = dit.stages.over(hidden), placing.mode, placing.seed
    if mode != "model":
        stages.check_apart("positions")
    if mode != "model" and stages.positions == "rotary":
        scale = placing.scale or max(1.0, max(grid[-2:]) / stages.trained)
        return stages.placed(hidden, math.prod(grid), replace(placing, scale=scale, trained=stages.trained))
    own = stages.position_embed(hidden)
    if mode == "model":
        return own
    if own.position is not None or mode not in POSITION_MODES[:5]:
        raise StagesError(f'mode "{mode}" is for rotary positions, which {dit.name} has not' if own.position is None else
                          f'{dit.name} has positions of its own kind inside attention: only mode "model" is possible, not "{mode}"')
    if mode == "none":
        return hidden
    count, width = hidden.x.shape[1:]
    if mode == "shuffled":
        table = stages.position_embed(hidden.but(x=torch.zeros_like(hidden.x[:1]))).x
        table = table[:, torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
    elif mode == "1-D":
        table = sincos_1d(width, torch.arange(count))[None]
    elif not isinstance(stages, TokenStages):
        table = stages.scaled_positions(hidden, grid)
    elif stages.model.config.position == "cropped":
        p = hidden.extra["patch_size"]
        side = max(1, round(dit.picture_size / dit.downscale / p))
        table = resized(stages.model.position_embedding((side, side), p)[0], grid)
    else:  # the model stretches its own positions over every grid
        return own
    return hidden.but(x=hidden.x + table.to(hidden.x))


@repeatable
def run_blocks(dit: DitHandle, wire: DitHidden, blocks: str = "all", strength: float = 1.0, graft: DitHidden | None = None,
               mask: Tensor | None = None, attention: str = "full") -> DitHidden:
    """Run blocks in the order given: DIT_HIDDEN → DIT_HIDDEN. Raises StagesError.

    strength: a factor on what each block adds to its input. graft: DIT_HIDDEN of another run; before the blocks run, its image tokens
    replace these where `mask` [B or 1, h', w'] covers more than half of a token, or all of them without a mask. attention: "itself" keeps
    every image token from reading other image tokens.
    """
    check(dit, wire, "condition", "patches")
    hiddens = hiddens_of(wire)
    if dit.stages.over(hiddens[0]).positions == "rotary" and hiddens[0].position is None:
        raise StagesError(f"{dit.name} has rotary positions, which its blocks need: put Position Embed before DiT Blocks")
    if graft is not None:
        check(dit, graft, "patches")
        grafted = _grafted(_brought(dit, wire), _brought(dit, graft), mask).split([len(hidden.x) for hidden in hiddens])
        wire = with_calls(wire, [hidden.but(x=x.to(hidden.x)) for hidden, x in zip(hiddens, grafted)])
    if attention not in ATTENTION_MODES:
        raise StagesError(f"attention is one of {', '.join(ATTENTION_MODES)}, not {attention!r}")
    indices = parse_blocks(blocks, len(dit.stages.over(hiddens[0]).kinds))

    def run(hidden: Hidden, tokens: DitTokens) -> Hidden:
        stages = dit.stages.over(hidden)
        with ExitStack() as during:
            if attention == "itself":
                for i in set(indices):
                    attentions = stages.attentions(hidden, tokens["tokens"].shape[1], i)
                    if not any(one.queries.get("image") and one.keys.get("image") for one in attentions):
                        raise StagesError(f'attention "itself": the image tokens of block {i} of {dit.name} do not read each other')
                    during.enter_context(stages.observe(i, only_itself(attentions)))
            return stages.run_blocks(hidden, indices, strength, dit.compute_device)
    after, sums = _through(dit, wire, run, tokens_too=False)
    return _after(wire, after, "blocks", sums, BLOCK.format(after[0].index - 1))


def _grafted(wire: DitHidden, graft: DitHidden, mask: Tensor | None) -> Tensor:
    """Replace the masked image tokens by those of another run: → [B, N, D]. Raises StagesError."""
    x, theirs, grid = image_tokens(wire), image_tokens(graft, "the graft's hidden states"), wire["tokens"]["grid"]
    if theirs.shape[1:] != x.shape[1:]:
        raise StagesError(f"the graft has {theirs.shape[1]} tokens of width {theirs.shape[2]}, the hidden states have {x.shape[1]} of {x.shape[2]}")
    check_cut_alike(graft["tokens"], wire["tokens"], "the graft", "the hidden states")
    layouts = [one["call"].layout if one["call"] else ("cond",) for one in (graft, wire)]
    samples = len(x) // len(layouts[1])
    other = theirs[rows_beside(layouts[0], len(theirs) // len(layouts[0]), layouts[1], samples)]
    if mask is None:
        return other
    first = wire["hidden"].extra.get("img_offset", 0)  # some models have reference pictures before the picture, some after it
    picture = slice(first, first + math.prod(grid))
    chosen, mixed = token_mask(mask, wire, samples).repeat(len(layouts[1]), 1, 1).to(x), x.clone()
    mixed[:, picture] = torch.lerp(x[:, picture], other[:, picture], chosen)
    return mixed


def block_plan(kinds: list[str], blocks: str) -> dict:
    """What DiT Blocks will run, for the editor: → {"groups": [[first, last, kind], …], "runs": [numbers]}. Raises StagesError."""
    groups: list[list] = []
    for i, kind in enumerate(kinds):
        if groups and groups[-1][2] == kind:
            groups[-1][1] = i
        else:
            groups.append([i, i, kind])
    return {"groups": groups, "runs": parse_blocks(blocks, len(kinds))}


def final_layer(dit: DitHandle, wire: DitHidden) -> DitTokens:
    """Turn image tokens back into patch values: DIT_HIDDEN → DIT_TOKENS, a prediction for every part of the batch."""
    check(dit, wire, "condition", "patches")
    call: Call = wire["call"]
    canvas, areas, predictions = call.canvas or call.start, list(call.areas), []
    for one in model_calls(wire):
        with dit.running():
            answer = dit.stages.over(one["hidden"]).head(moved(one["hidden"], dit.compute_device))
        if not torch.is_tensor(answer):  # a film and its sound: each value is a token
            answer = packed([part.float() for part in answer]).transpose(1, 2)
        parts = len(answer) // len(canvas["tokens"])
        here, areas = areas[:parts], areas[parts:]
        if "line" in one["tokens"]:
            answer = with_row(answer, one["tokens"])
        if answer.dim() == 3:
            if not any(here):
                predictions.append(answer)
                continue
            answer = to_latent(answer, one["tokens"])
        predictions.append(to_tokens(laid_out(answer.float(), canvas["size"], here), canvas))
    tokens = torch.cat(predictions) if len(predictions) > 1 else predictions[0]
    trace = (*wire["trace"], ("final layer", checksum(tokens).flatten()))
    return {**clean(with_tokens(canvas, tokens)), "call": call, "guided": False, "trace": trace}


def laid_out(answer: Tensor, size: tuple[int, ...], areas: list[tuple[slice, ...] | None]) -> Tensor:
    """Put the latents of areas into their places in the picture, with zeros elsewhere: [parts·B, C, …] → [parts·B, C, *size]."""
    if not any(areas):
        return answer
    whole = answer.new_zeros(*answer.shape[:2], *size)
    for there, part, area in zip(whole.chunk(len(areas)), answer.chunk(len(areas)), areas):
        there[..., *area] = part
    return whole


def sampler_step(dit: DitHandle, tokens: DitTokens, prediction: DitTokens, sigmas: Tensor, step: int, solver: str) -> tuple[DitTokens, DitTokens]:
    """Move the tokens by the solver: → (tokens at the next noise level, x0), both DIT_TOKENS. Raises StagesError, ValueError."""
    (x0, more), call = x0_of(prediction, "prediction", 1.0), prediction["call"]
    if step < len(sigmas) and sigmas[step].float().to(call.sigma) != call.sigma:
        raise StagesError(f"the prediction was made at sigma {call.sigma.item():.4g}, step {step} is at {sigmas[step].item():.4g}")
    check_cut_alike(wire_of_x0(prediction), tokens, "the prediction", "tokens")
    if not same_format(prediction["latent_format"], tokens["latent_format"]):
        raise StagesError("the prediction and the tokens are in different latent spaces: wire the same dit into both")
    if x0.shape != tokens["tokens"].shape:
        raise StagesError(f"the prediction has shape {list(x0.shape)}, the tokens {list(tokens['tokens'].shape)}")
    return dit.advance({**tokens, **more}, x0.to(dit.compute_device), sigmas, step, solver)
