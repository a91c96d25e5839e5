"""What the stage adapters share. An adapter re-expresses a diffusion model's forward as

    condition → patch_embed → position_embed → blocks[i] → head

over the model's own modules: the same calls on the same numbers, so that all stages in a row give bit for bit what forward gives.
Helper functions are taken from the module that forward is written in, so nothing here imports `comfy`.
"""

from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
import math
import re
import sys
from types import ModuleType
from typing import Callable, Iterable, Iterator, Sequence

from torch import Tensor, nn

from ....dit_impl.cost.arithmetic import CountedArchitecture
from ....dit_impl.errors import StagesError
from ....dit_impl.model.alone import Alone, both
from ....dit_impl.model.position import resized
from ....dit_impl.model.rotary import Placing, moved, table
from ....dit_impl.model.stages import Attention, Hear, Hidden, Look, Stages, joint_attention, unseen

TRAINED = 128  # latent cells a side of the pictures that SD3, SD3.5 and AuraFlow were trained on: 1024 pixels
OVERRIDE = "optimized_attention_override"  # in transformer_options, is called in the place of ComfyUI's attention


def followed(model: nn.Module, upstream: str) -> type | None:
    """The class of that dotted name which a model is, or is made from."""
    return next((cls for cls in type(model).__mro__ if f"{cls.__module__}.{cls.__qualname__}" == upstream), None)


class ModelStages(Stages):
    """A MODEL's diffusion model by stages. Adapters fill in what is left open here."""

    upstream: str                 # the class followed
    rotary = ""                   # the module that makes rotary tables
    trained = TRAINED // 2        # tokens a side of the pictures that a rotary model was trained on
    rewritten: tuple[str, ...]    # its methods that the stages stand for
    needs: tuple[str, ...]        # attributes that the stages call
    reads_text: str               # the linear layer that text comes in by
    embed: str                    # the patch embedding's layer
    final: str                    # the head's
    of_image: str                 # the layers that an image token passes between them, a pattern of their names
    of_text: str                  # those that a text token passes; all others run once a picture
    usual_text = 256              # text tokens
    least_text = 0                # to which ComfyUI fills a shorter text
    guided = True                 # whether it is usually asked twice a step

    def __init__(self, model: nn.Module):
        """`model` is loaded: what a patch puts in place of one of its methods shows only then."""
        cls, kind = followed(model, self.upstream), type(model).__name__
        for method in self.rewritten:
            if method in vars(model) or getattr(type(model), method, None) is not getattr(cls, method, None):
                raise StagesError(f"{kind}.{method} is not {self.upstream}.{method}, which the stages follow; use DiT Denoise Step")
        for attribute in self.needs:
            if not hasattr(model, attribute):
                from comfyui_version import __version__
                raise StagesError(f"{kind} has no {attribute} in ComfyUI {__version__}; use DiT Denoise Step")
        self.model = model
        self.theirs: ModuleType = sys.modules[cls.__module__]

    @property
    def patch_size(self) -> int:
        return self.model.patch_size

    @property
    def width(self) -> int:
        return self.model.get_submodule(self.final).in_features

    @property
    def context_width(self) -> int:
        """The width of the text tokens that the model reads."""
        return self.model.get_submodule(self.reads_text).in_features

    def first_token(self, hidden: Hidden) -> int:
        """Where the picture's tokens begin in what the rotary embedding is asked about."""
        return hidden.context.shape[1]

    def placed(self, hidden: Hidden, tokens: int, placing: Placing) -> Hidden:
        """`position_embed` of rotary positions, with `tokens` tokens of the picture placed otherwise. Raises StagesError."""
        embedder = self.model.get_submodule(self.rotary)
        if not (hasattr(embedder, "theta") and hasattr(embedder, "axes_dim")):
            raise StagesError(f"the rotary positions of {self.name} are made in a way that is not known: use mode \"model\"")
        first, calls, own = self.first_token(hidden), count(), embedder.forward

        def forward(ids: Tensor) -> Tensor:
            if next(calls) == 0:  # later ones are of other pictures
                ids = moved(ids, slice(first, first + tokens), placing)
            return table(ids, embedder.axes_dim, embedder.theta, placing) if placing.changes_turns else own(ids)
        with instead(embedder, "forward", forward):
            return self.position_embed(hidden)

    def attentions(self, hidden: Hidden, tokens: int, block: int = 0) -> list[Attention]:
        text, every = self.text_tokens(hidden), 0 if hidden.context is None else hidden.context.shape[1]
        return [joint_attention(text, range(every, every + tokens), every + hidden.x.shape[1])]

    def architecture(self, name: str, channels: int, downscale: int) -> CountedArchitecture:
        embed, head, read = map(self.model.get_submodule, (self.embed, self.final, self.reads_text))
        width, p, counted = head.in_features, self.patch_size, {"image_weights": 0, "text_weights": 0, "fixed_weights": 0}
        for path, layer in self.model.named_modules():
            if layer not in (embed, head, read):
                streams = [stream for stream, pattern in (("image_weights", self.of_image), ("text_weights", self.of_text)) if re.fullmatch(pattern, path)]
                for stream in streams or ["fixed_weights"]:
                    counted[stream] += weights_of(layer)
        values = (weights_of(embed) + weights_of(head)) // width
        return CountedArchitecture(
            name, width, len(self.kinds), p, channels, sum(w.numel() for w in self.model.parameters()), downscale, self.guided,
            text=self.usual_text, head=values // (channels * p * p) - 1, text_embedding=weights_of(read), **counted, **self.attended(width))

    def attended(self, width: int) -> dict[str, int]:
        """Fields of a `CountedArchitecture`: widths of attention summed over blocks, registers and multiple."""
        return {"joint": width * len(self.kinds)}

    def text_tokens(self, hidden: Hidden) -> range:
        """Which of the text stream's tokens are the text's own."""
        return range(0 if hidden.context is None else hidden.context.shape[1])

    def resized_positions(self, hidden: Hidden, grid: tuple[int, int], largest: int) -> Tensor:
        """`scaled_positions` of a table [largest², D] whose centre the model was trained on."""
        side = min(TRAINED // self.patch_size, largest)
        cells = side * self.patch_size
        nowhere = hidden.x.new_zeros(1, side * side, hidden.x.shape[-1])
        table = self.position_embed(hidden.but(x=nowhere, extra={"size": (cells, cells)})).x
        return resized(table[0], grid)

    @contextmanager
    def observe(self, i: int, look: Look = unseen, hear: Hear = unseen):
        def begin(block, args, kwargs):
            return args, {**kwargs, "transformer_options": observed(kwargs.get("transformer_options") or {}, look, hear)}
        hook = self.blocks[i].register_forward_pre_hook(begin, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def condition(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, **kwargs) -> Hidden:
        """Embed time and text, and keep the latent [B, C, H, W]. Takes what forward takes, and ignores only what forward ignores."""
        raise NotImplementedError

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, **kwargs) -> Tensor:
        """All stages in a row: what the model's own forward gives."""
        hidden = self.condition(x, timesteps, context, **kwargs)
        hidden = self.position_embed(self.patch_embed(hidden))
        return self.head(self.run_blocks(hidden, range(len(self.kinds))))


@contextmanager
def instead(owner: nn.Module, name: str, value: object) -> Iterator[None]:
    """While it lasts, an attribute of a module is another."""
    missing = object()
    own = vars(owner).get(name, missing)
    vars(owner)[name] = value
    try:
        yield
    finally:
        if own is missing:
            del vars(owner)[name]
        else:
            vars(owner)[name] = own


@contextmanager
def changed(changes: Iterable[tuple[nn.Module, str, object]]) -> Iterator[None]:
    """While it lasts, attributes are others: (whose, attribute, value). Each is asked for once those before it have changed."""
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(instead(owner, name, value))
        yield


def observed(options: dict, look: Look, hear: Hear = unseen) -> dict:
    """transformer_options of one run of a block whose attentions `look` and `hear` observe."""
    numbers, earlier = count(), options.get(OVERRIDE)

    def override(attend, *given, **how):
        number, run = next(numbers), partial(earlier, attend) if earlier else attend
        added = look(number, *queries_and_keys(*given, **how))
        out = run(*given, **how) if added is None else masked(added, run, *given, **how)
        hear(number, out.transpose(1, 2).flatten(2) if out.dim() == 4 else out)
        return out
    return {**options, OVERRIDE: override}


def weights_of(layer: nn.Module) -> int:
    """Weights of a linear layer or a convolution, by its sizes: the weights themselves may lie elsewhere. 0 for other modules."""
    if hasattr(layer, "in_features"):
        return layer.in_features * layer.out_features
    return layer.in_channels * layer.out_channels * math.prod(layer.kernel_size) if hasattr(layer, "kernel_size") else 0


def queries_and_keys(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, attn_precision=None, skip_reshape: bool = False,
                     skip_output_reshape: bool = False, **how) -> tuple[Tensor, Tensor, float, Tensor | None]:
    """What ComfyUI's attention is called with → queries and keys [B, heads, N, head_dim], the scores' factor, the mask."""
    if not skip_reshape:
        width = q.shape[-1] // heads
        q, k = (t.unflatten(-1, (-1, width)).transpose(1, 2) for t in (q, k))
    if k.shape[1] != q.shape[1]:  # several heads of queries share one of keys
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    return q, k, how.get("scale", q.shape[-1] ** -0.5), mask


def masked(added: Tensor | Alone, run: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **how) -> Tensor:
    """What ComfyUI's attention is called with → its answer, with a further mask [Nq, Nk] or where some tokens read themselves alone."""
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return run(q, k, v, heads, mask=mask, **how)
    if isinstance(added, Alone):
        return added.attention(q, k, v, mask, attend)
    return attend(q, k, v, added if mask is None else both(added, mask))


def own_options(transformer_options: dict) -> dict:
    """A copy that the stages may write to."""
    for key, wrappers in transformer_options.get("wrappers", {}).get("diffusion_model", {}).items():
        if wrappers:
            raise StagesError(f"this MODEL carries a wrapper around the whole diffusion model ({key or 'unnamed'}), "
                              "which stages would leave out; use DiT Denoise Step")
    return transformer_options.copy()


def places(references: Sequence[Tensor], step: float | None, beyond: tuple[int, int] | None = None) -> Iterator[tuple]:
    """(latent, index, top, left) of each reference latent, for a model's process_img.

    `step` sets them apart on the index axis, `beyond` (height, width) puts them diagonally after the picture; with neither they share
    index 1, side by side.
    """
    index = height = width = 0
    for latent in references:
        rows, columns = latent.shape[-2:]
        if step is not None:
            index += step
            yield latent, index, 0, 0
        elif beyond is not None:
            yield latent, 0, beyond[0] + height, beyond[1] + width
            height, width = height + rows, width + columns
        else:
            top, left = (0, width) if rows + height > columns + width else (height, 0)
            yield latent, 1, top, left
            height, width = max(height, rows + top), max(width, columns + left)


def post_input(hidden: Hidden) -> dict[str, Tensor]:
    """Tokens and positions, "img", "txt", "img_ids" and "txt_ids", as patches["post_input"] leave them."""
    options = hidden.extra["transformer_options"]
    patches = options.get("patches", {}).get("post_input", ())
    at = {"img": hidden.x, "txt": hidden.context, "img_ids": hidden.extra["img_ids"], "txt_ids": hidden.extra["txt_ids"]}
    if patches:
        at = {key: value.clone() for key, value in at.items()}
    for patch in patches:
        at = patch({**at, "transformer_options": options})
    return at


def or_replaced(options: dict, key: tuple[str, int], block: Callable[[dict], dict], args: dict) -> dict:
    """Run a block, or what patches_replace has in its place."""
    swap = options.get("patches_replace", {}).get("dit", {}).get(key)
    return swap(args, {"original_block": block}) if swap else block(args)


def residual(control: dict | None, side: str, i: int) -> Tensor | None:
    """What a ControlNet adds after block i, if anything."""
    added = (control or {}).get(side) or ()
    return added[i] if i < len(added) else None
