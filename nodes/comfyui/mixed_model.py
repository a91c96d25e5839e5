"""A MODEL with adapters that reads patches of several sizes in one sequence. Imported only where there is a MODEL.

Followed: comfy/ldm/modules/diffusionmodules/mmdit.py and comfy/ldm/flux of ComfyUI 0.33. For the length of one call the transformer's
modules give each token what is of its own size: the embedding, the position, the vector that modulates it, the low-rank additions and the
head. Text has the mean over all tokens of the picture. Attention is over all of them. See `tokens.mixed`.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

import torch
from torch import Tensor, nn

from ...dit_impl.errors import BackboneError
from ...dit_impl.tokens.mixed import Mix, gather, scatter
from ...dit_impl.tokens.patch import channels_last_rows, patchify
from .applied_adapters import AdaptedFlux, AdaptedMMDiT, AppliedAdapter
from .stages.base import instead

Change = tuple[nn.Module, str, object]


def picked(tokens: Tensor, places: Tensor) -> Tensor:
    """[B or 1, N, …] at numbers [B, n] → [B, n, …]."""
    return tokens.expand(len(places), -1, -1).gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))


class MixedPatches:
    """One call of a transformer over the patches of a mix. The sequence has the coarsest first. `now`: of which size the tokens are that
    pass a layer; None for tokens of all sizes, and for text."""
    text: str  # in the paths of layers that only text passes

    def __init__(self, mix: Mix, own: int, adapters: Mapping[int, AppliedAdapter]):
        """own: the patch size of the transformer's own weights. adapters: those of the other sizes in the mix."""
        self.mix, self.own, self.adapters, self.now = mix, own, {p: adapters[p] for p in mix.places if p != own}, None
        ends = list(accumulate(mix.counts.values()))
        self.runs = {p: slice(start, end) for p, start, end in zip(mix.places, (0, *ends), ends)}
        self.share = {p: count / len(mix) for p, count in mix.counts.items()}

    def vectors(self, like: Tensor) -> Tensor:
        """How the vector of each size differs from their mean, [sizes, D]; the mean is added to the embedding of time."""
        own = like.new_zeros(like.shape[-1])
        each = torch.stack([self.adapters[p].part("patch_embedder.vector", like) if p in self.adapters else own for p in self.mix.places])
        return each - self.mean(like)

    def mean(self, like: Tensor) -> Tensor:
        return sum(self.share[p] * one.part("patch_embedder.vector", like) for p, one in self.adapters.items())

    def by_size(self, run: Callable[[Tensor, Tensor], object], x: Tensor, vector: Tensor) -> dict[int, object]:
        """run(tokens of a size, their vector [B, D]) for each size of the sequence [B, N, D]."""
        found = {}
        for (p, span), offset in zip(self.runs.items(), self.vectors(vector)):
            self.now = p
            try:
                found[p] = run(x[:, span], vector + offset)
            finally:
                self.now = None
        return found

    def joined(self, answers: Mapping[int, Tensor]) -> Tensor:
        return torch.cat([answers[p] for p in self.mix.places], dim=1)

    def where(self, path: str, p: int, x: Tensor) -> list[tuple[slice, float]]:
        """Which of a layer's tokens take how much of the addition for a size."""
        if self.text in path:
            return [(slice(None), self.share[p])]
        return [] if self.now not in (None, p) else [(slice(None) if self.now else self.runs[p], 1.0)]

    def changes(self, transformer: nn.Module) -> Iterator[Change]:
        """What is another in the call. See `stages.base.changed`."""
        def low(own: Callable, path: str, p: int, adapter: AppliedAdapter) -> Callable:
            def forward(x: Tensor) -> Tensor:
                answer = own(x)
                for span, share in self.where(path, p, x):
                    answer[:, span] += share * adapter.added(path, x[:, span])
                return answer
            return forward
        for p, adapter in self.adapters.items():
            for path in adapter.low_ranks:
                layer = transformer.get_submodule(path)
                yield layer, "forward", low(layer.forward, path, p, adapter)
        kind = next(iter(self.adapters.values()))
        time, head = transformer.get_submodule(kind.time), transformer.get_submodule(kind.head)
        own_time, own_head, whole = time.forward, head.forward, transformer.final_layer.forward

        def moved(*args, **kwargs) -> Tensor:
            vector = own_time(*args, **kwargs)
            return vector + self.mean(vector)
        yield time, "forward", moved
        yield head, "forward", lambda x: (self.adapters[self.now].linear("final_layer.linear", x) if self.now in self.adapters
                                          else self.own_rows(own_head(x)))
        yield transformer.final_layer, "forward", lambda x, vector, **_: self.as_own(scatter(self.by_size(whole, x, vector), self.mix))

    def own_rows(self, rows: Tensor) -> Tensor:
        """What the model's own head answers, [B, n, C·p·p]."""
        return rows

    def as_own(self, latent: Tensor) -> Tensor:
        """The prediction [B, C, H, W] as the model's own final layer gives it."""
        return patchify(latent, self.own)


class MixedMMDiT(MixedPatches):
    text = "context_block"

    def changes(self, transformer):
        yield from super().changes(transformer)
        embed, table = transformer.x_embedder.forward, transformer.cropped_pos_embed

        def embedded(latent: Tensor) -> Tensor:
            raw, own = gather(latent, self.mix), embed(latent) if self.own in self.mix.places else None
            return self.joined({p: self.adapters[p].linear("x_embedder", raw[p]) if p in self.adapters else picked(own, places)
                                for p, places in self.mix.places.items()})

        def positions(hw: tuple[int, int], device: torch.device | None = None) -> Tensor:
            def of(p: int) -> Tensor:
                return self.adapters[p].positions(transformer, hw, device) if p in self.adapters else table(hw, device=device)
            return self.joined({p: picked(of(p), places) for p, places in self.mix.places.items()})
        yield transformer.x_embedder, "forward", embedded
        yield transformer, "cropped_pos_embed", positions
        yield transformer, "unpatchify", lambda x, hw: x
        for block in transformer.joint_blocks:
            stream = block.x_block
            end = "_x" if stream.x_block_self_attn else ""
            yield stream, f"pre_attention{end}", self.before(getattr(stream, f"pre_attention{end}"))
            yield stream, f"post_attention{end}", self.after(getattr(stream, f"post_attention{end}"))

    def before(self, own: Callable) -> Callable:
        """Queries, keys and values of all tokens, one triple or two, and what each size keeps for `after`."""
        def pre_attention(x: Tensor, c: Tensor) -> tuple:
            answers = self.by_size(own, x, c)
            triples = zip(*(one[:-1] for one in answers.values()))
            return (*(tuple(torch.cat(part, dim=1) for part in zip(*sizes)) for sizes in triples), ([one[-1] for one in answers.values()],))
        return pre_attention

    def after(self, own: Callable) -> Callable:
        def post_attention(*args) -> Tensor:
            *attended, kept = args
            found = {}
            for (p, span), more in zip(self.runs.items(), kept):
                self.now = p
                found[p] = own(*(one[:, span] for one in attended), *more)
            self.now = None
            return self.joined(found)
        return post_attention

    def own_rows(self, rows):
        return rows[..., channels_last_rows(rows.shape[-1], self.own).to(rows.device)]

    def as_own(self, latent):
        return latent


class MixedFlux(MixedPatches):
    text = "txt_"

    def where(self, path, p, x):
        first = x.shape[1] - len(self.mix)
        if not path.startswith("single_blocks"):
            return super().where(path, p, x)
        run = self.runs[p]
        return [(slice(0, first), self.share[p]), (slice(first + run.start, first + run.stop), 1.0)]

    def changes(self, transformer):
        yield from super().changes(transformer)
        process, embed = transformer.process_img, transformer.img_in.forward
        raw: dict[int, Tensor] = {}
        at: dict[int, Tensor] = {}

        def processed(x: Tensor, index=0, h_offset=0, w_offset=0, transformer_options: dict = {}) -> tuple[Tensor, Tensor]:
            if index or h_offset or w_offset:
                raise BackboneError("reference latents and patches of several sizes are not possible together")
            tokens, ids = process(x, transformer_options=transformer_options)
            for p, places in self.mix.places.items():
                found = tokens, ids
                if p in self.adapters:
                    with instead(transformer, "patch_size", p):
                        found = process(x, transformer_options=self.adapters[p].placed(transformer_options, self.own))
                raw[p], at[p] = (picked(one, places) for one in found)
            return tokens, self.joined(at)  # as many as the model counts on for its last step; `embedded` reads those of the mix
        yield transformer, "process_img", processed
        yield transformer.img_in, "forward", lambda _: self.joined({
            p: self.adapters[p].linear("x_embedder", one) if p in self.adapters else embed(one) for p, one in raw.items()})
        spans = [(run.start, run.stop, number) for number, run in enumerate(self.runs.values())]

        def times(own: Callable, with_text: bool) -> Callable:
            """A modulation for each size [B, sizes, D], that of text before them where it is in the same sequence."""
            def forward(vector: Tensor):
                each = vector[:, None] + self.vectors(vector)
                return own(torch.cat((vector[:, None], each), dim=1) if with_text else each)
            return forward

        def double(own: Callable) -> Callable:
            def forward(*args, attn_mask: Tensor | None = None, **kwargs) -> tuple[Tensor, Tensor]:
                if attn_mask is not None:  # it has a place for each patch of the model's own size
                    raise BackboneError("an attention mask and patches of several sizes are not possible together")
                return own(*args, **{**kwargs, "modulation_dims_img": spans})
            return forward

        def single(own: Callable) -> Callable:
            def forward(x: Tensor, *args, **kwargs) -> Tensor:
                text = x.shape[1] - len(self.mix)
                dims = [(0, text, 0), *((text + start, text + stop, number + 1) for start, stop, number in spans)]
                return own(x, *args, **{**kwargs, "modulation_dims": dims})
            return forward
        for blocks, within, around, of_all in ((transformer.double_blocks, "img_mod", double, "double_stream_modulation_img"),
                                               (transformer.single_blocks, "modulation", single, "single_stream_modulation")):
            if transformer.params.global_modulation:
                shared = getattr(transformer, of_all)
                yield shared, "forward", times(shared.forward, around is single)
            for block in blocks:
                if not transformer.params.global_modulation:
                    modulation = getattr(block, within)
                    yield modulation, "forward", times(modulation.forward, around is single)
                yield block, "forward", around(block.forward)


MIXED: dict[type[AppliedAdapter], type[MixedPatches]] = {AdaptedMMDiT: MixedMMDiT, AdaptedFlux: MixedFlux}


def mixed(mix: Mix, own: int, adapters: Mapping[int, AppliedAdapter]) -> MixedPatches:
    """How patches of these sizes are read together. Raises BackboneError."""
    if missing := [p for p in mix.places if p != own and p not in adapters]:
        raise BackboneError(f"there are no weights for patches of {missing[0]}: load an adapter for them")
    return MIXED[type(next(iter(adapters.values())))](mix, own, adapters)
