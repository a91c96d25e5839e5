"""A transformer by stages, and the DIT_HIDDEN wire between them.

    condition → patch_embed → position_embed → blocks[i] → head

The keys of DIT_HIDDEN are named in tokens/wire_types.py.
"""

from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Callable, Iterable, NamedTuple, Sequence, TypedDict

import torch
from torch import Tensor, nn

from ..errors import StagesError
from ..tokens.numbers import parse_ranges
from ..tokens.wire_types import DitTokens, Onward
from . import mmdit
from .alone import Alone
from .blocks import listener, onlooker
from .rotary import Placing


class Extra(TypedDict, total=False):
    """What a model's forward needs besides its streams. Each model sets the entries that it uses. Lengths are in tokens."""
    grid: tuple[int, ...]            # (h, w) of the token grid, or (t, h, w)
    patch_size: int
    raw: Any                         # what the head reads of the step's own tokens
    latent: Any                      # the model's input, padded to whole patches
    size: tuple[int, ...]            # of the latent before padding
    padded: tuple[int, ...]          # and after it
    transformer_options: dict[str, Any]
    control: Any                     # a ControlNet's residuals
    img_offset: int                  # tokens of reference pictures before the picture's own
    end: int                         # where the picture's tokens end
    image_tokens: int
    image_context: Any               # tokens of a picture among the text (Wan's image to video)
    text_length: int                 # before padding
    text_position: Any               # rotary table of the text
    img_ids: Any                     # positions of image and text tokens (Flux)
    txt_ids: Any
    img_input: Any                   # image tokens as the patch embedding gave them
    attention_mask: Any
    mask: Any                        # over the text
    reference: Any                   # a reference latent
    context_latents: Any             # latents that go before the picture
    at_zero: Any                     # where tokens at time 0 begin
    times: Any                       # what the model was called with
    stages: Any                      # of a model without a stage adapter: its stages as this step has them,
    call: Any                        # the call of its forward that runs again,
    state: Any                       # where in it,
    shown: Any                       # x as the forward gave it, where the state does not hold it,
    picture_tokens: int              # and how many of the picture's tokens x holds, 0 if it is not known which they are


@dataclass(frozen=True)
class Hidden:
    """What one stage passes to the next. A stage returns a new one and never changes the tensors of the old one."""
    x: Tensor                # image tokens [B, N, D]; before patch_embed the input of the patch embedding
    context: Tensor | None   # text tokens [B, T, D]; None if the model has none, or after the last block
    vector: Any              # modulates the blocks: [B, D], or a tuple if the model has several
    position: Any            # rotary table; None if positions are added to x
    index: int               # the number of the next block
    extra: Extra             # all else that the model's forward needs

    def but(self, extra: Extra | None = None, **changes) -> "Hidden":
        """A copy with some fields replaced and entries added to `extra`."""
        return replace(self, extra={**self.extra, **(extra or {})}, **changes)


@dataclass(frozen=True)
class Call:
    """A denoising step between DiT Condition and DiT Guidance.

    layout: "uncond" or "cond" for each part of the batches, in order. x: the step's tokens [B, N, C·p·p] at noise level sigma.
    to_x0(prediction [parts·B, N, C·p·p], cfg) → guided x0 [B, N, C·p·p], or a pair of it and further entries for its wire.
    start: the DIT_TOKENS at the beginning. canvas: the DIT_TOKENS with the grid of the predictions, if it is another than start's.
    areas: for each part, its area of the canvas as slices of the last dimensions; None is the whole canvas.
    """
    layout: tuple[str, ...]
    x: Tensor
    sigma: Tensor
    to_x0: Callable[[Tensor, float], Tensor | tuple[Tensor, Onward]]
    start: DitTokens
    canvas: DitTokens | None = None
    areas: tuple[tuple[slice, ...] | None, ...] = ()

    def guided(self, prediction: Tensor, cfg: float) -> tuple[Tensor, Onward]:
        """→ guided x0, and further entries for its wire."""
        answer = self.to_x0(prediction, cfg)
        return answer if isinstance(answer, tuple) else (answer, {})


AS_A_MODEL = " as a MODEL"  # behind the kind of a DIT of this library that was made a MODEL


class Shape(NamedTuple):
    """What two models have in common if the hidden states of one can go on in the other. Numbers that are not known are 0.

    kind: of architecture. answers: what the head's numbers mean.
    """
    kind: str
    blocks: int
    heads: int
    width: int
    answers: str = ""

    @property
    def of_blocks(self) -> "Shape":
        """The same without what the model's numbers mean, and however its blocks are called."""
        return self._replace(kind=self.kind.removesuffix(AS_A_MODEL), answers="")

    def __str__(self) -> str:
        known = ", ".join(f"{value} {name}" for name, value in (("heads", self.heads), ("numbers a token", self.width)) if value)
        return f"{self.kind} of {self.blocks} blocks" + (f" ({known})" if known else "") + (f" that answers {self.answers}" if self.answers else "")


@dataclass(frozen=True)
class Attention:
    """One attention in a block: where text and image are among its queries and keys. length: how many keys it has in all."""
    queries: dict[str, range]  # by "text" and "image", if there are any
    keys: dict[str, range]
    length: int


def joint_attention(text: range, image: range, length: int) -> Attention:
    """Attention over text and image in one sequence."""
    return Attention({"text": text, "image": image}, {"text": text, "image": image}, length)


# Observes an attention: (its number in the block, queries [B, heads, N, head_dim], keys, factor on the scores, the mask: values to add, or
# True where a query may attend) → one more mask to add to the scores, or the tokens that are to read themselves alone, or None
Look = Callable[[int, Tensor, Tensor, float, Tensor | None], Tensor | Alone | None]
# Observes what comes out of an attention: (its number in the block, outputs [B, N, D] in the order of its queries)
Hear = Callable[[int, Tensor], None]


def unseen(*_) -> None:
    """A `Look` and a `Hear` for those who want nothing."""


def only_itself(attentions: list[Attention]) -> Look:
    """An observer that lets each image token read only itself and the text: perturbed attention. Ahn et al. 2024, §4.2."""
    def look(number: int, *_) -> Alone | None:
        one = attentions[number] if number < len(attentions) else None
        return Alone(one.queries["image"], one.keys["image"]) if one and one.queries.get("image") and one.keys.get("image") else None
    return look


class Stages:
    """A transformer by stages. A subclass implements the methods that raise NotImplementedError here."""

    name: str  # for people
    positions = "2-D sin-cos"  # the kind of position embedding: "2-D sin-cos", "learned", "rotary" or "none"

    def over(self, hidden: Hidden) -> "Stages":
        """The stages that these hidden states go through. Which blocks a model has may depend on what it is asked."""
        return hidden.extra.get("stages", self)

    @property
    def kinds(self) -> list[str]:
        """The kind of each block, in order: "joint", "double", "single", "layer" …"""
        raise NotImplementedError

    @property
    def shape(self) -> Shape:
        """It tells models with the same name apart, such as SD3 and SD3.5."""
        return Shape(self.name, len(self.kinds), self.heads, self.width)

    @property
    def width(self) -> int:
        """How many numbers a token has between blocks."""
        raise NotImplementedError

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The modules of the blocks, in order."""
        raise NotImplementedError

    @property
    def heads(self) -> int:
        """The number of attention heads in a block."""
        raise NotImplementedError

    def heads_of(self, block: int) -> int:
        """The number of attention heads in this block, where blocks differ."""
        return self.heads

    def attentions(self, hidden: Hidden, tokens: int, block: int = 0) -> list[Attention]:
        """The attentions of a block that can be observed, in the order it computes them. tokens: the number of image tokens, N. block: which,
        where blocks differ."""
        raise NotImplementedError

    def check_apart(self, what: str) -> None:
        """Raise StagesError if the "patch embedding" or the "positions" can't be told apart from the rest of the model."""

    def scaled_positions(self, hidden: Hidden, grid: tuple[int, int]) -> Tensor:
        """The positions of the square grid that the model was trained on, stretched over another: (h, w) → [1, h·w, D].

        Raises StagesError.
        """
        raise StagesError(f'mode "scaled": {self.name} stretches its own positions over every grid already: use mode "model"')

    def placed(self, hidden: Hidden, tokens: int, placing: Placing) -> Hidden:
        """`position_embed` of a model with rotary positions, the first `tokens` tokens of the picture placed otherwise. Raises StagesError."""
        raise StagesError(f'the rotary positions of {self.name} can\'t be changed: only mode "model" is possible')

    @property
    def trained(self) -> int:
        """The side, in tokens, of the grid that a model with rotary positions was trained on."""
        raise NotImplementedError

    def observe(self, i: int, look: Look = unseen, hear: Hear = unseen) -> AbstractContextManager:
        """A context in which block i calls `look` and then `hear` for each of its attentions. The result changes only if `look` gives
        something."""
        raise NotImplementedError

    def architecture(self, name: str, channels: int, downscale: int):
        """A `cost.arithmetic.Architecture` with this name, latent channels and pixels to a cell.

        Raises StagesError if the layers can't be counted.
        """
        raise StagesError(f"the layers of {self.name} can't be counted")

    def patch_embed(self, hidden: Hidden) -> Hidden:
        """Latent or raw tokens → image tokens [B, N, D]."""
        raise NotImplementedError

    def position_embed(self, hidden: Hidden) -> Hidden:
        """Add the position embedding to x, or make the rotary table."""
        raise NotImplementedError

    def block(self, i: int, x: Tensor, context: Tensor | None, hidden: Hidden, options: dict) -> tuple[Tensor, Tensor | None]:
        """Block i: [B, N, D], [B, T, D] → the same. It may change both in place."""
        raise NotImplementedError

    def head(self, hidden: Hidden) -> Tensor:
        """Image tokens → the output of the whole model."""
        raise NotImplementedError

    def can_leave_out(self, block: int) -> bool:
        """Whether the blocks after this one can run without it."""
        return True

    def check_blocks(self, indices: Sequence[int]) -> None:
        """Raise StagesError for a block that there is not."""
        for i in indices:
            if not 0 <= i < len(self.kinds):
                raise StagesError(f"{self.name} has blocks 0 to {len(self.kinds) - 1}, there is no block {i}")

    def run_blocks(self, hidden: Hidden, indices: Iterable[int], strength: float = 1.0, device: torch.device | None = None) -> Hidden:
        """Run blocks in the order given; each may run any number of times. strength: a factor on what each adds. device: where all but the
        tokens is, and they are brought. Raises StagesError."""
        indices = list(indices)
        self.check_blocks(indices)
        if not indices:
            return hidden
        # Blocks, and patches on them, may change their inputs in place, and ComfyUI caches ours.
        x, context = (one if one is None else one.to(device or one.device, copy=True) for one in (hidden.x, hidden.context))
        options = hidden.extra.get("transformer_options", {}).copy()
        for i in indices:
            before = (x, context) if strength == 1 else (x.clone(), context if context is None else context.clone())
            x, context = self.block(i, x, context, hidden, options)
            if strength != 1:
                x, context = (new if new is None or old is None else old + strength * (new - old)
                              for old, new in zip(before, (x, context)))
        return hidden.but(x=x, context=context, index=indices[-1] + 1)

    def what_was_added(self, before: Hidden, after: Hidden) -> Any:
        """What the blocks between two places added to the picture's tokens, for `as_before`. Raises StagesError."""
        return after.x - before.x, after.index

    def as_before(self, hidden: Hidden, added: Any) -> Hidden:
        """The hidden states where the head takes over, with what blocks added before in the place of running them."""
        rest, index = added
        return hidden.but(x=hidden.x + rest, index=index)


class TokenStages(Stages):
    """A transformer of this library by stages: MMDiT or the class-conditional DiT."""

    def __init__(self, model: nn.Module, name: str):
        self.model, self.name = model, name

    @property
    def kinds(self) -> list[str]:
        return ["joint"] * self.model.config.depth if hasattr(self.model, "joint_blocks") else ["block"] * self.model.config.depth

    @property
    def positions(self) -> str:
        kind = self.model.config.position
        return kind if kind in ("learned", "none") else "2-D sin-cos"

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.model.joint_blocks if hasattr(self.model, "joint_blocks") else self.model.blocks

    @property
    def heads(self) -> int:
        return self.model.config.heads

    @property
    def width(self) -> int:
        return self.model.config.width

    @property
    def shape(self) -> Shape:
        return Shape("MMDiT" if hasattr(self.model, "joint_blocks") else "DiT", len(self.kinds), self.heads, self.width)

    def attentions(self, hidden: Hidden, tokens: int, block: int = 0) -> list[Attention]:
        if not hasattr(self.model, "joint_blocks"):
            return [Attention({"image": range(tokens)}, {"image": range(tokens)}, tokens)]
        text, image = 0 if hidden.context is None else hidden.context.shape[1], {"image": range(tokens)}
        joint = joint_attention(range(text), range(text, text + tokens), text + tokens)
        return [joint, Attention(image, image, tokens)]  # dual blocks have the second one too

    @contextmanager
    def observe(self, i: int, look: Look = unseen, hear: Hear = unseen):
        outer = onlooker.get(), listener.get()

        def begin(*_) -> None:
            seen, heard = count(), count()
            onlooker.set(lambda q, k: look(next(seen), q, k, q.shape[-1] ** -0.5, None))
            listener.set(lambda out: hear(next(heard), out))

        def end(*_) -> None:
            onlooker.set(outer[0])
            listener.set(outer[1])
        hooks = [self.blocks[i].register_forward_pre_hook(begin), self.blocks[i].register_forward_hook(end)]
        try:
            yield
        finally:
            end()
            for hook in hooks:
                hook.remove()

    def condition(self, tokens: Tensor, grid: tuple[int, int], patch_size: int, t: Tensor, **arguments) -> Hidden:
        """Embed time [B] and the conditioning arguments; keep the raw tokens [B, N, C·p·p]."""
        context = arguments.pop("context", None)
        vector = self.model.condition(t, *arguments.values(), patch_size)
        return Hidden(tokens, context if context is None else self.model.context_embedder(context), vector, None, 0,
                      {"grid": grid, "patch_size": patch_size, "raw": tokens})

    def patch_embed(self, hidden: Hidden) -> Hidden:
        return hidden.but(x=self.model.patch_embed(hidden.x, hidden.extra["patch_size"]))

    def position_embed(self, hidden: Hidden) -> Hidden:
        return hidden.but(x=hidden.x + self.model.position_embedding(hidden.extra["grid"], hidden.extra["patch_size"]).to(hidden.x))

    def block(self, i, x, context, hidden, options):
        if context is None and hasattr(self.model, "joint_blocks"):
            raise StagesError(f"block {i} needs the text tokens, but the last block ({len(self.kinds) - 1}) drops them: run it last")
        out = self.model.run_blocks(mmdit.Streams(x, context, hidden.vector, hidden.extra["patch_size"]), i, i + 1)
        return out.x, out.context

    def head(self, hidden: Hidden) -> Tensor:
        return self.model.head(mmdit.Streams(hidden.x, hidden.context, hidden.vector, hidden.extra["patch_size"], hidden.extra.get("raw")))


def parse_blocks(text: str, count: int) -> list[int]:
    """Block numbers from a text, for a model with `count` blocks: "all", "0-11", "0,2,4-7", "11-0", "all but 7". Raises StagesError."""
    try:
        return parse_ranges(text, count, "block", "this model")
    except ValueError as error:
        raise StagesError(str(error)) from None
