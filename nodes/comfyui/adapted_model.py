"""A MODEL that was taught one more patch size, and the same model to teach one to. Imported only where there is a MODEL.

Nothing is put into the model for longer than a call: a wrapper on a clone leads some of its modules through the adapter while it reads
patches of the new size, or of several sizes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from comfy.patcher_extension import WrappersMP
import torch
from torch import Tensor, nn

from ...dit_impl.errors import BackboneError
from ...dit_impl.handle.backbone import Backbone
from ...dit_impl.model.conditioning import TextConditions
from ...dit_impl.model.stages import Hidden, Stages
from ...dit_impl.sampling.flow import RectifiedFlow
from ...dit_impl.sources.adapters import Adapter, check_adapter
from ...dit_impl.sources.checkpoints import translate
from ...dit_impl.sources.layouts import recognise
from ...dit_impl.tokens.patch import patchify, unpatchify
from .applied_adapters import AppliedAdapter, kind_of
from .mixed_model import mixed
from .patched_model import ADAPTERS, PATCH_SIZE, flow_of, patch_sizes_of
from .patched_regions import MIX, check_one_size
from .recording import run_again, training
from .stages import stages_of
from .stages.base import changed


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
    taught = clone.model_options[ADAPTERS] = {**model.model_options.get(ADAPTERS, {}), adapter.patch_size: (adapter, applied)}

    def wrapper(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **more) -> Tensor:
        def call() -> Tensor:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **more)
        size, mix = transformer_options.get(PATCH_SIZE), transformer_options.get(MIX)
        if mix is None and size not in taught:
            return call()
        if control is not None:
            raise BackboneError(f"ControlNet's residuals are for patches of {own}: end it before the steps at "
                                f"{size if mix is None else 'several sizes'}, or after them")
        # the call's own: a clone without dynamic VRAM, another GPU, or torch.compile may run another module than this MODEL holds
        called = executor.class_obj.diffusion_model
        called = getattr(called, "_orig_mod", called)
        adapters = {p: one for p, (_, one) in taught.items()}
        with adapters[size].on(called) if mix is None else changed(mixed(mix, own, adapters).changes(called)):
            return call()
    clone.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, ADAPTERS)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, ADAPTERS, wrapper)
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
        check_one_size(options)
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
