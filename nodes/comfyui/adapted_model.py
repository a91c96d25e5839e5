"""A MODEL that was taught one more patch size, and the same model to teach one to. Imported only where there is a MODEL.

Followed: comfy/ldm/modules/diffusionmodules/mmdit.py and comfy/ldm/flux/model.py of ComfyUI 0.33. Nothing is put into the model for longer
than a call: a function wrapper on a clone leads some of its modules through the adapter while it reads patches of the new size.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
import math
import re

from comfy.patcher_extension import WrappersMP
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from ...dit_impl.errors import BackboneError
from ...dit_impl.handle.backbone import Backbone
from ...dit_impl.model import position
from ...dit_impl.model.conditioning import TextConditions
from ...dit_impl.model.copies import plain
from ...dit_impl.model.stages import Hidden, Stages
from ...dit_impl.sampling.flow import RectifiedFlow
from ...dit_impl.sources.adapter_layers import LOW_RANK
from ...dit_impl.sources.adapters import Adapter, check_adapter
from ...dit_impl.sources.checkpoints import translate
from ...dit_impl.sources.layouts import recognise
from ...dit_impl.tokens.other_sizes import resize_embedding, resize_head
from ...dit_impl.tokens.patch import channels_last_rows, pad_to_patches, patchify, token_grid, unpatchify
from .patched_model import ADAPTERS, PATCH_SIZE, flow_of, patch_sizes_of
from .recording import run_again, training
from .stages import FluxStages, MMDiTStages, stages_of
from .stages.base import followed


class AppliedAdapter:
    """An adapter's weights over a transformer of ComfyUI. `low_rank`: which of its linear layers learn; embed, head, time: which of its modules
    are the patch embedding, the head and the embedding of time."""
    low_rank: re.Pattern
    upstream: str
    embed, head, time = "x_embedder", "final_layer.linear", "t_embedder"

    def __init__(self, patch_size: int, weights: Mapping[str, Tensor]):
        self.patch_size, self.weights, self._cast = patch_size, weights, {}

    def part(self, name: str, like: Tensor) -> Tensor:
        """One of the weights where and in what the model computes."""
        weight, key = self.weights[name], (name, like.device, like.dtype)
        if weight.requires_grad:
            return weight.to(like)
        if key not in self._cast:
            self._cast[key] = weight.to(like)
        return self._cast[key]

    def linear(self, name: str, x: Tensor) -> Tensor:
        """The new embedding or head: [..., in] → [..., out]."""
        name = f"{name}.{self.patch_size}"
        bias = self.part(f"{name}.bias", x) if f"{name}.bias" in self.weights else None
        return F.linear(x, self.part(f"{name}.weight", x), bias)

    @contextmanager
    def on(self, transformer: nn.Module) -> Iterator[None]:
        """While it lasts, the transformer reads patches of the new size; afterwards it is what it was."""
        missing, changed, sizes = object(), [], []

        def pad(_, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            # the models bring a latent up to whole patches of their own size only
            x, *rest = args
            sizes.append(x.shape[-2:])
            return (pad_to_patches(x, self.patch_size), *rest), kwargs

        def crop(_, args: tuple, answer: Tensor) -> Tensor:
            height, width = sizes.pop()
            return answer[..., :height, :width]
        hooks = [transformer.register_forward_pre_hook(pad, with_kwargs=True), transformer.register_forward_hook(crop)]
        try:
            for owner, name, new in self.changes(transformer):
                changed.append((owner, name, vars(owner).get(name, missing)))
                vars(owner)[name] = new
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for owner, name, old in reversed(changed):
                if old is missing:
                    del vars(owner)[name]
                else:
                    vars(owner)[name] = old

    def changes(self, transformer: nn.Module) -> Iterator[tuple[nn.Module, str, object]]:
        """What is another while it is applied: (whose, attribute, value)."""
        def low(layer: nn.Module, path: str) -> Callable:
            own = layer.forward
            return lambda x: own(x) + F.linear(F.linear(x, self.part(f"{path}.a", x)), self.part(f"{path}.b", x))
        for key in self.weights:
            if key.endswith(".a"):
                layer = transformer.get_submodule(key[:-2])
                yield layer, "forward", low(layer, key[:-2])
        embed, head, time = (transformer.get_submodule(name) for name in (self.embed, self.head, self.time))
        own_time = time.forward
        yield embed, "forward", lambda x: self.linear("x_embedder", self.tokens(x))
        yield head, "forward", lambda x: self.linear("final_layer.linear", x)

        def moved(*args, **kwargs) -> Tensor:
            vector = own_time(*args, **kwargs)
            return vector + self.part("patch_embedder.vector", vector)
        yield time, "forward", moved

    def tokens(self, x: Tensor) -> Tensor:
        """What the model gives its patch embedding → raw tokens [B, N, C·p·p]."""
        return x

    @classmethod
    def own_parts(cls, transformer: nn.Module, patch_size: int) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Embedding [D, C·p·p], its bias, head [C·p·p, D] and its bias of the model's own size; no bias where it has none."""
        embed, head = transformer.get_submodule(cls.embed), transformer.get_submodule(cls.head)
        return tuple(part if part is None else plain(part) for part in (embed.weight, embed.bias, head.weight, head.bias))

    @classmethod
    def fresh(cls, transformer: nn.Module, patch_size: int, own: int, rank: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Weights to begin with: PI-resized embedding and head, no patch-size vector, low-rank additions that add nothing yet."""
        embed, embed_bias, head, head_bias = (part if part is None else part.to(device, torch.float32) for part in cls.own_parts(transformer, own))
        made = {"x_embedder.weight": resize_embedding(embed, own, patch_size), "final_layer.linear.weight": resize_head(head, own, patch_size)}
        if embed_bias is not None:
            made["x_embedder.bias"] = embed_bias
        if head_bias is not None:
            made["final_layer.linear.bias"] = resize_head(head_bias[:, None], own, patch_size).flatten()
        made = {f"{name.rpartition('.')[0]}.{patch_size}.{name.rpartition('.')[2]}": value for name, value in made.items()}
        made["patch_embedder.vector"] = torch.zeros(len(embed), device=embed.device)
        for name, layer in transformer.named_modules():
            if cls.low_rank.fullmatch(name) and hasattr(layer, "in_features"):
                made[f"{name}.a"] = torch.randn(rank, layer.in_features, device=embed.device) / math.sqrt(layer.in_features)
                made[f"{name}.b"] = torch.zeros(layer.out_features, rank, device=embed.device)
        return {name: value.clone() for name, value in made.items()}


class AdaptedMMDiT(AppliedAdapter):
    """Over SD3 and SD3.5, by the names that this library's own MMDiT has: an adapter fits either."""
    low_rank, upstream = LOW_RANK, MMDiTStages.upstream
    _table: tuple[float, float, int] | None = None

    def changes(self, transformer):
        yield from super().changes(transformer)
        p, own = self.patch_size, transformer.x_embedder.patch_size[0]
        if self._table is None:
            self._table = table_of(transformer)
        start, base, side = self._table

        def places(hw: tuple[int, int], device=None) -> Tensor:
            grid = position.cropped_positions(token_grid(*hw, p), p / own, side, base / side, start)
            return position.sincos_2d(transformer.hidden_size, *grid)[None].to(device)
        yield transformer, "cropped_pos_embed", places
        yield transformer, "unpatchify", lambda x, hw: unpatchify(x, p, tuple(hw))

    def tokens(self, x):
        return patchify(x, self.patch_size)

    @classmethod
    def own_parts(cls, transformer, patch_size):
        embed, head = transformer.x_embedder.proj, transformer.final_layer.linear
        rows = channels_last_rows(len(head.weight), patch_size)
        return plain(embed.weight).flatten(1), plain(embed.bias), plain(head.weight)[rows], plain(head.bias)[rows]


class AdaptedFlux(AppliedAdapter):
    """Over Flux."""
    low_rank = re.compile(r"double_blocks\.\d+\.(img|txt)_(attn\.(qkv|proj)|mlp\.[02])|single_blocks\.\d+\.linear[12]")
    upstream, embed, time = FluxStages.upstream, "img_in", "time_in"

    def changes(self, transformer):
        yield from super().changes(transformer)
        scale, own = self.patch_size / transformer.patch_size, transformer.process_img

        def process(x: Tensor, *args, transformer_options: dict = {}, **kwargs) -> tuple[Tensor, Tensor]:
            # patch i covers what is of the model's own patches from scale·i to scale·(i + 1): its middle is told
            rope = transformer_options.get("rope_options") or {}
            rope = {**rope, **{f"scale_{axis}": rope.get(f"scale_{axis}", 1.0) * scale for axis in "xy"},
                    **{f"shift_{axis}": rope.get(f"shift_{axis}", 0.0) + (scale - 1) / 2 for axis in "xy"}}
            return own(x, *args, transformer_options={**transformer_options, "rope_options": rope}, **kwargs)
        yield transformer, "process_img", process
        yield transformer, "patch_size", self.patch_size


KINDS = (AdaptedMMDiT, AdaptedFlux)


def kind_of(transformer: nn.Module, name: str) -> type[AppliedAdapter]:
    """How an adapter goes over this transformer. Raises BackboneError."""
    for kind in KINDS:
        if followed(transformer, kind.upstream):
            return kind
    raise BackboneError(f"{name} can have no patch-size adapter: it is for SD3, SD3.5 and Flux, and for the pack's own models")


def table_of(transformer: nn.Module) -> tuple[float, float, int]:
    """SD3's position table: its first coordinate, the length it covers, its side."""
    side, start, unit = position.table_coordinates(plain(transformer.pos_embed)[0].cpu())
    return start, unit * side, side


def base_state(model) -> dict[str, Tensor]:
    """A MODEL's own weights, whatever patches lie on them now: by this library's names where it has such a model, so that a DIT and a MODEL of
    the same weights share their adapters."""
    prefix, transformer = "diffusion_model.", model.model.diffusion_model
    stored = transformer.state_dict().keys()
    # of a scaled weight the state dict holds packed numbers and their scales, the parameter what they mean
    tensors = {key: value for key, value in (*transformer.named_parameters(), *transformer.named_buffers()) if key in stored}
    tensors |= {key.removeprefix(prefix): kept.weight for key, kept in model.backup.items() if key.startswith(prefix)}
    layout = recognise(set(tensors))
    return translate(layout, tensors, {})[1] if layout else tensors


def with_adapter(model, adapter: Adapter, name: str):
    """→ ModelPatcher over the same weights that reads patches of the adapter's size too, where `transformer_options` ask for it. Raises
    BackboneError, CheckpointError."""
    transformer = model.model.diffusion_model
    kind = kind_of(transformer, name)
    own = patch_sizes_of(model)[0][0]

    def shapes() -> dict[str, tuple[int, ...]]:
        return {key: tuple(value.shape) for key, value in kind.fresh(transformer, adapter.patch_size, own, adapter.rank, "meta").items()}
    check_adapter(adapter, base_state(model), (own,), shapes, name)
    applied, clone = kind(adapter.patch_size, adapter.weights), model.clone()
    clone.model_options[ADAPTERS] = {**model.model_options.get(ADAPTERS, {}), adapter.patch_size: (adapter, applied)}

    def wrapper(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **more) -> Tensor:
        def call() -> Tensor:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **more)
        if transformer_options.get(PATCH_SIZE) != applied.patch_size:
            return call()
        if control is not None:
            raise BackboneError(f"ControlNet's residuals are for patches of {own}: end it before the steps at {applied.patch_size}, or after them")
        # the call's own: a clone without dynamic VRAM, another GPU, or torch.compile may run another module than this MODEL holds
        called = executor.class_obj.diffusion_model
        with applied.on(getattr(called, "_orig_mod", called)):
            return call()
    clone.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, f"{ADAPTERS}.{applied.patch_size}")
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, f"{ADAPTERS}.{applied.patch_size}", wrapper)
    return clone


@dataclass(frozen=True)
class HostConfig:
    """What a MODEL is, for an adapter's metadata."""
    architecture: str
    patch_sizes: tuple[int, ...]
    in_channels: int


class HostTransformer(nn.Module):
    """A MODEL's transformer behind the call that this library's own models answer: tokens in, tokens out; with weights, also at a new size.

    The transformer stays the host's: it is no part of this module, so that nothing here moves, copies or changes it."""
    checkpointing = False  # in training, run blocks again in the backward pass rather than keep what they computed

    def __init__(self, model, kind: type[AppliedAdapter], config: HostConfig, conditions: TextConditions, last_time: float,
                 state: Mapping[str, Tensor] | None = None, applied: AppliedAdapter | None = None, device: torch.device | None = None):
        """model: the ModelPatcher. device: of what learns, by default where the model computes."""
        super().__init__()
        self.host, self.kind, self.config, self.conditions, self.last_time = model, kind, config, conditions, last_time
        self.dtype = model.model.get_dtype_inference()  # what it computes in, whatever its weights are kept in
        self.state, self.applied, self.device = state, applied, device or model.load_device
        # a parameter's name holds no dots
        self.learnt = nn.ParameterDict({name.replace(".", "|"): weight for name, weight in applied.weights.items()} if applied else {})

    @property
    def transformer(self) -> nn.Module:
        return self.host.model.diffusion_model

    def forward(self, tokens: Tensor, grid: tuple[int, int], patch_size: int, t: Tensor, context: Tensor, pooled: Tensor | None = None,
                guidance: Tensor | None = None) -> Tensor:
        """[B, N, C·p·p], times 0..1000 [B], text [B, T, E], pooled text [B, P] → prediction [B, N, C·p·p]."""
        x = unpatchify(tokens, patch_size, tuple(length * patch_size for length in grid)).to(self.dtype)
        more = {} if guidance is None else {"guidance": guidance}
        adapted = self.applied is not None and patch_size == self.applied.patch_size

        @contextmanager
        def during() -> Iterator[None]:
            with training(self.learnt.values()), self.applied.on(self.transformer) if adapted else nullcontext():
                yield
        again = self.checkpointing and adapted and torch.is_grad_enabled()
        with during(), run_again(stages_of(self.transformer).blocks, during) if again else nullcontext():
            answer = self.transformer(x, t / 1000 * self.last_time, context=context, y=pooled, transformer_options={}, **more)
        return patchify(answer.float(), patch_size)

    def patch_embed(self, tokens: Tensor, patch_size: int) -> Tensor:
        """Raw tokens of the size that is learnt [B, N, C·p·p] → embedded ones [B, N, D], as they stand now."""
        return self.applied.linear("x_embedder", tokens)

    def base_state(self) -> Mapping[str, Tensor]:
        return self.state

    def extended(self, patch_size: int, start: int, rank: int) -> "HostTransformer":
        """The same transformer with weights for a new size, which learn."""
        fresh = self.kind.fresh(self.transformer, patch_size, start, rank, self.device)
        applied = self.kind(patch_size, {name: nn.Parameter(value) for name, value in fresh.items()})
        config = replace(self.config, patch_sizes=(*self.config.patch_sizes, patch_size))
        return HostTransformer(self.host, self.kind, config, self.conditions, self.last_time, self.state, applied, self.device)

    def hollow(self) -> "HostTransformer":
        """The same, whose new weights have no numbers in them: for counting."""
        return HostTransformer(self.host, self.kind, self.config, self.conditions, self.last_time, self.state, device=torch.device("meta"))

    def new_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.applied.weights)


class HostBackbone(Backbone):
    """A MODEL as a DIT of this library, for training."""

    @property
    def compute_device(self) -> torch.device:
        return self.model.host.load_device

    def like(self) -> Tensor:
        return torch.empty(0, dtype=self.model.dtype, device=self.compute_device)


def as_backbone(dit) -> Backbone:
    """A MODEL's DIT as one that can be taught a patch size. Raises BackboneError."""
    model, transformer = dit.model, dit.model.model.diffusion_model
    kind, stages, flow = kind_of(transformer, dit.name), stages_of(transformer), flow_of(model)
    if not isinstance(flow, RectifiedFlow):
        raise BackboneError(f"{dit.name} is no rectified flow: a patch size can't be taught to it here")
    sampling = model.get_model_object("model_sampling")
    last = float(sampling.timestep(torch.tensor(1.0)))
    middle = float(sampling.sigma(torch.tensor(last / 2)))  # of shifted times s·t / (1 + (s − 1)·t) at t = 1/2
    params = getattr(transformer, "params", None)
    pooled = params.vec_in_dim if params else transformer.y_embedder.mlp[0].in_features  # None where it reads no pooled text
    conditions = TextConditions(stages.context_width, pooled, guided=bool(params and params.guidance_embed))
    config = HostConfig(type(transformer).__name__, (dit.patch_size,), dit.channels)
    made = HostTransformer(model, kind, config, conditions, last, base_state(model))
    return HostBackbone(made, dit.latent_format, RectifiedFlow(shift=middle / (1 - middle)), dit.name, dit.downscale)


class StagesWithAdapters:
    """Stages of a MODEL's transformer that wear the adapter of the size which a step reads; all else is the stages' own."""
    run_blocks = Stages.run_blocks  # which runs `block` below

    def __init__(self, stages: Stages, transformer: nn.Module, adapters: Mapping[int, tuple[Adapter, AppliedAdapter]]):
        self.stages, self.transformer, self.adapters = stages, transformer, adapters

    def over(self, hidden: Hidden) -> "StagesWithAdapters":
        return self

    def __getattr__(self, name: str):
        return getattr(self.stages, name)

    def _applied(self, options: Mapping):
        taught = self.adapters.get(options.get(PATCH_SIZE))
        return taught[1].on(self.transformer) if taught else nullcontext()

    def condition(self, *args, **kwargs) -> Hidden:
        with self._applied(kwargs.get("transformer_options", {})):
            return self.stages.condition(*args, **kwargs)

    def patch_embed(self, hidden: Hidden) -> Hidden:
        with self._applied(hidden.extra["transformer_options"]):
            return self.stages.patch_embed(hidden)

    def position_embed(self, hidden: Hidden) -> Hidden:
        with self._applied(hidden.extra["transformer_options"]):
            return self.stages.position_embed(hidden)

    def block(self, i, x, context, hidden, options):
        with self._applied(options):
            return self.stages.block(i, x, context, hidden, options)

    def head(self, hidden: Hidden) -> Tensor:
        with self._applied(hidden.extra["transformer_options"]):
            return self.stages.head(hidden)
