"""Concept maps: where in a picture a model sees what a word names, after ConceptAttention (Helbling et al. 2025, arXiv 2502.04320, §4).

Words ride along as text tokens of a second run of each block, on the same image tokens. So they read the picture, and the picture, which
goes on from the first run, reads none of them: its result is the same, bit for bit. The map is how alike the attention's outputs are: of a
concept's tokens in the second run and of each image token in the first. Two things differ from the paper, since the maps of the default
model are better so (`python -m benchmarks.concepts`): it takes the dot product, here it is the cosine, which does not go by how long the
outputs of a block are; and there the concepts read each other too, here each reads the picture and its own words.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace

import torch
from torch import Tensor
import torch.nn.functional as F

from ..errors import StagesError
from ..handle.backbone import DitHandle
from ..model.stages import Attention, Hidden, parse_blocks, unseen
from ..step import stages as step_stages
from ..tokens.model_calls import image_tokens, model_calls, with_calls
from ..tokens.wire import check_finite
from ..tokens.wire_types import DitHidden
from .attention_rows import picture_tokens, sample_of, shown
from .concept_words import Concepts

SHARPNESS = 3.0  # the softmax over concepts is of this many times their differences, whose spread is 1


@dataclass(frozen=True)
class ConceptMaps:
    """likeness [K, N]: of each concept and of what it is set against to each image token, the mean over blocks. names: of the concepts, the
    first of the K. blocks: the blocks that were asked. grid: (h, w) or (t, h, w)."""
    names: tuple[str, ...]
    likeness: Tensor
    blocks: tuple[int, ...]
    grid: tuple[int, ...]

    @property
    def shares(self) -> Tensor:
        """For each concept how much of a place is its own, by a softmax over all of them: → MASK [concepts, t·h, w] in 0..1."""
        apart = self.likeness - self.likeness.mean(0)
        shares = (SHARPNESS * apart / apart.std().clamp_min(1e-12)).softmax(0)
        return shares[:len(self.names)].reshape(len(self.names), -1, self.grid[-1])

    def mask(self, concept: int, threshold: float, grow: int = 0) -> Tensor:
        """1 where a concept has more than this share, and `grow` tokens around it: → MASK [1, t·h, w]. Raises StagesError."""
        if not 0 <= concept < len(self.names):
            raise StagesError(f"there are concepts 0 to {len(self.names) - 1}, there is no concept {concept}")
        mask = (self.shares[concept:concept + 1] > threshold).float()
        frames = mask.view(-1, 1, *self.grid[-2:])
        return F.max_pool2d(frames, 2 * grow + 1, stride=1, padding=grow).view(mask.shape)


def concept_maps(dit: DitHandle, wire: DitHidden, concepts: Concepts, blocks: str = "all") -> tuple[DitHidden, ConceptMaps]:
    """Run all blocks and map concepts meanwhile: DIT_HIDDEN before the first block → (DIT_HIDDEN after the last, the maps).

    blocks: which of them count. Of a batch, the map is of the first picture of the first positive prompt. Raises StagesError.
    """
    step_stages.check(dit, wire, "condition", "patches")
    if wire["hidden"].index:
        raise StagesError(f"the concepts go with the picture from the first block on, and these hidden states come before block "
                          f"{wire['hidden'].index}: put this node in the place of DiT Blocks")
    check_finite(image_tokens(wire), "hidden state")
    place, alone = shown(wire)
    stages = dit.stages.over(alone["hidden"])
    asked = sorted(set(parse_blocks(blocks, len(stages.kinds))))
    if not any(_text_reads_picture(dit, alone, block) for block in asked):
        raise StagesError(f"concepts ride along as text that reads the picture, and in {dit.name} text does not attend to the picture, or none of "
                          "these blocks shows it: it takes blocks with joint attention, as in SD3, Flux, Qwen-Image and the default model")
    beside = _beside(dit, alone, concepts)
    first, samples, likeness, counted = sample_of(alone), len(beside["hidden"].x), [], []
    for block in range(len(stages.kinds)):
        before = model_calls(wire)[place]
        beside = with_calls(beside, [_on_picture(beside["hidden"], before["hidden"], first, samples)])
        ours, theirs = (_text_reads_picture(dit, one, block) for one in ({**alone, **before}, beside))
        if ours is None or theirs is None:
            wire, beside = (step_stages.run_blocks(dit, one, str(block)) for one in (wire, beside))
            continue
        image, text = ours[1].queries["image"], theirs[1].queries["text"]
        begin = text.stop - concepts.spans[-1].stop  # some models fill up before the text
        wire, seen = _heard(dit, wire, block, ours[0])
        beside, heard = _heard(dit, beside, block, theirs[0], concepts.apart(begin))
        if block not in asked:
            continue
        if len(seen) != len(model_calls(wire)) or not heard:
            raise StagesError(f"block {block} of {dit.name} showed no attention: it is replaced or compiled by a patch on the MODEL")
        of_image = seen[place][first, image.start:image.stop].float()
        of_concepts = concepts.vectors(heard[0][0, begin:text.stop].float())
        likeness.append((F.normalize(of_concepts, dim=-1) @ F.normalize(of_image, dim=-1).T).cpu())
        counted.append(block)
    return wire, ConceptMaps(concepts.names, torch.stack(likeness).mean(0), tuple(counted), tuple(wire["tokens"]["grid"]))


def _beside(dit: DitHandle, wire: DitHidden, concepts: Concepts) -> DitHidden:
    """The same step with the concepts in the place of its prompt, where its blocks begin. Raises StagesError."""
    call = wire["call"]
    sigmas = torch.stack([call.sigma.float().cpu(), torch.zeros(())])
    begun = step_stages.patch_embed(dit, step_stages.condition(dit, call.start, concepts.conditioning, None, sigmas, 0))
    begun = step_stages.position_embed(dit, begun)
    if begun["hidden"].x.shape[1:] != wire["hidden"].x.shape[1:]:
        raise StagesError(f"the hidden states hold {wire['hidden'].x.shape[1]} tokens, and {begun['hidden'].x.shape[1]} without what the "
                          "conditioning adds, such as reference pictures: leave those out")
    return begun


def _on_picture(beside: Hidden, before: Hidden, first: int, samples: int) -> Hidden:
    """The concepts beside the image tokens of the step itself, and modulated as those are."""
    rows = slice(first, first + samples)
    changed = beside.but(x=before.x[rows])
    return changed if beside.vector is None else changed.but(vector=_rows(before.vector, rows, len(before.x)))


def _rows(value, rows: slice, count: int):
    """Some rows of every tensor in a modulation vector that has `count` of them."""
    if isinstance(value, Tensor):
        return value[rows] if value.dim() and len(value) == count else value
    if isinstance(value, (tuple, list)):
        return type(value)(_rows(one, rows, count) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _rows(getattr(value, field.name), rows, count) for field in fields(value) if field.init})
    return value


def _text_reads_picture(dit: DitHandle, wire: DitHidden, block: int) -> tuple[int, Attention] | None:
    """The first attention of a block in which text and picture ask and the picture answers, with its number. None if there is none to observe."""
    try:
        attentions = dit.stages.over(wire["hidden"]).attentions(wire["hidden"], picture_tokens(wire), block)
    except StagesError:
        return None
    reads = (attention.queries.get("text") and attention.queries.get("image") and attention.keys.get("image") for attention in attentions)
    return next(((number, attentions[number]) for number, found in enumerate(reads) if found), None)


def _heard(dit: DitHandle, wire: DitHidden, block: int, number: int,
           mask: Callable[[Tensor, Tensor], Tensor] | None = None) -> tuple[DitHidden, list[Tensor]]:
    """Run a block: → (DIT_HIDDEN after it, what came out of the attention with this number, [B, N, D] for each model call). mask: of queries
    and keys, is added to its scores."""
    kept: list[Tensor] = []

    def hear(which: int, out: Tensor) -> None:
        if which == number:
            kept.append(out.detach())

    def look(which: int, q: Tensor, k: Tensor, *_) -> Tensor | None:
        return mask(q, k) if which == number else None
    with dit.stages.over(wire["hidden"]).observe(block, unseen if mask is None else look, hear):
        return step_stages.run_blocks(dit, wire, str(block)), kept
