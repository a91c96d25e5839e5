"""How other projects lay out the same weights: the architecture read off keys and shapes, and where each of our tensors is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import re

import torch
from torch import Tensor

from ..errors import LayoutError
from ..model.dit import DiTConfig
from ..model.mmdit import MMDiTConfig
from ..model.position import table_coordinates
from ..tokens.patch import channels_last_rows

# Peebles & Xie 2022, table 1: width → heads of DiT-S, B, L, XL. No shape tells the number of heads.
DIT_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
HEAD_DIM = 64  # of every SD3 and SD3.5
DIFFUSERS_DEFAULTS = {"sample_size": 32, "norm_eps": 1e-5}  # of DiTTransformer2DModel


class Shapes:
    """Shapes by key, for reading an architecture; a key that is not there or has other dimensions is a LayoutError."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors

    def __call__(self, key: str, dimensions: int) -> tuple[int, ...]:
        if key not in self.tensors:
            raise LayoutError(f"missing key {key}")
        shape = tuple(self.tensors[key].shape)
        if len(shape) != dimensions or 0 in shape:
            raise LayoutError(f"{key} has shape {list(shape)}, not {dimensions} dimensions")
        return shape

    def has(self, pattern: str) -> bool:
        return any(re.fullmatch(pattern, key) for key in self.tensors)

    def numbers(self, pattern: str) -> tuple[int, ...]:
        """The different block numbers that the pattern's group finds at the start of keys."""
        return tuple(sorted({int(match[1]) for key in self.tensors if (match := re.match(pattern, key))}))

    def depth(self, blocks: str) -> int:
        """How many different numbers follow `blocks`."""
        return len(self.numbers(rf"{blocks}\.(\d{{1,4}})\."))

    def table(self, key: str, width: int) -> tuple[int, float, float]:
        """Side, first coordinate and step of a stored position table [1, M, D]."""
        shape = self(key, 3)
        if (shape[0], shape[2]) != (1, width):
            raise LayoutError(f"{key} has shape {list(shape)}, not [1, positions, {width}]")
        if not self.tensors[key].is_floating_point():
            raise LayoutError(f"not floating point: {key}")
        try:
            return table_coordinates(self.tensors[key][0])
        except ValueError as error:
            raise LayoutError(f"{key}: {error}") from None


@dataclass(frozen=True)
class Source:
    """Where one of our tensors comes from: keys in the file, and how they make it.

    "same"; "rows": stacked (queries, keys, values); "copies": all equal; "kernel": a convolution's; "swapped": scale and
    shift in the other order; "channels last": a head that answers in (p, q, C).
    """
    keys: tuple[str, ...]
    how: str = "same"

    def shape(self, ours: torch.Size, patch_size: int) -> tuple[int, ...]:
        """What shape each key has, given ours."""
        if self.how == "rows":
            return (ours[0] // len(self.keys), *ours[1:])
        if self.how == "kernel":
            return (ours[0], ours[1] // patch_size ** 2, patch_size, patch_size)
        return tuple(ours)

    def make(self, tensors: Mapping[str, Tensor], patch_size: int) -> Tensor:
        """Our tensor."""
        first, *others = (tensors[key] for key in self.keys)
        if self.how == "rows":
            return torch.cat([first, *others])
        if self.how == "copies":
            for key, other in zip(self.keys[1:], others):
                if not torch.equal(first, other):
                    raise LayoutError(f"{key} differs from {self.keys[0]}: one embedding is expected for all blocks")
            return first
        if self.how == "kernel":
            return first.flatten(1)
        if self.how == "swapped":
            return torch.cat(first.chunk(2)[::-1])
        if self.how == "channels last":
            return first[channels_last_rows(len(first), patch_size)]
        return first


Config = MMDiTConfig | DiTConfig
Rules = list[tuple[str, tuple[str, ...], str]]  # pattern of our keys, keys in the file, how


@dataclass(frozen=True)
class Layout:
    """`roots`: first parts of keys that tell the layout. `read`: shapes and a config.json → architecture.
    `ignored`: keys in the file that are computed here."""
    name: str
    roots: frozenset[str]
    read: Callable[[Shapes, Mapping], Config]
    rules: Callable[[Config], Rules]
    ignored: frozenset[str] = frozenset({"pos_embed"})

    def source(self, key: str, config: Config) -> Source:
        """Where our tensor of this name is."""
        for pattern, names, how in self.rules(config):
            if match := re.fullmatch(pattern, key):
                return Source(tuple(match.expand(name) for name in names), how)
        return Source((key,))


def count(value: int, unit: int, what: str) -> int:
    """value / unit, which must be whole."""
    if value % unit:
        raise LayoutError(f"{what} {value} is not a multiple of {unit}")
    return value // unit


def head_count(width: int, shapes: Shapes, q_norm: str, settings: Mapping, usual: int | None = None) -> int:
    """From the length of the query norm, else from config.json, else as is usual, else so that each is 64 wide."""
    if q_norm in shapes.tensors:
        return count(width, shapes(q_norm, 1)[0], "width")
    if "num_attention_heads" in settings:
        heads = settings["num_attention_heads"]
        if not isinstance(heads, int) or heads < 1 or width % heads:
            raise LayoutError(f"num_attention_heads {heads!r} does not divide width {width}")
        return heads
    return usual or count(width, HEAD_DIM, "width")


def read_sd3(shapes: Shapes, settings: Mapping) -> MMDiTConfig:
    """The layout that Stability AI publishes and ComfyUI loads."""
    width, channels, patch_size, _ = shapes("x_embedder.proj.weight", 4)
    side, start, unit = shapes.table("pos_embed", width)
    q_norm = "joint_blocks.0.x_block.attn.ln_q.weight"
    return MMDiTConfig(
        (patch_size,), channels, width, shapes.depth("joint_blocks"),
        heads=head_count(width, shapes, q_norm, settings),
        context_width=shapes("context_embedder.weight", 2)[1], pooled_width=shapes("y_embedder.mlp.0.weight", 2)[1],
        qk_norm=shapes.has(r"joint_blocks\.\d+\..*\.ln_q\.weight"),
        dual_blocks=shapes.numbers(r"joint_blocks\.(\d{1,4})\.x_block\.attn2\."),
        position_table=side, position_base=unit * side, position_start=start)


def sd3_rules(config: MMDiTConfig) -> Rules:
    return [
        (r"x_embedder\.\d+\.weight", ("x_embedder.proj.weight",), "kernel"),
        (r"x_embedder\.\d+\.bias", ("x_embedder.proj.bias",), "same"),
        (r"(.*\.attn2?)\.norm\.([qk])\.weight", (r"\1.ln_\2.weight",), "same"),
        (r"final_layer\.linear\.\d+\.(.*)", (r"final_layer.linear.\1",), "channels last")]


def read_sd3_diffusers(shapes: Shapes, settings: Mapping) -> MMDiTConfig:
    """diffusers' SD3Transformer2DModel."""
    width, channels, patch_size, _ = shapes("pos_embed.proj.weight", 4)
    side, start, unit = shapes.table("pos_embed.pos_embed", width)
    q_norm = "transformer_blocks.0.attn.norm_q.weight"
    return MMDiTConfig(
        (patch_size,), channels, width, shapes.depth("transformer_blocks"),
        heads=head_count(width, shapes, q_norm, settings),
        context_width=shapes("context_embedder.weight", 2)[1],
        pooled_width=shapes("time_text_embed.text_embedder.linear_1.weight", 2)[1],
        qk_norm=shapes.has(r"transformer_blocks\.\d+\.attn2?\.norm_q\.weight"),
        dual_blocks=shapes.numbers(r"transformer_blocks\.(\d{1,4})\.attn2\."),
        position_table=side, position_base=unit * side, position_start=start)


def sd3_diffusers_rules(config: MMDiTConfig) -> Rules:
    block, ours = r"transformer_blocks.\1", r"joint_blocks\.(\d+)"
    return [
        (r"x_embedder\.\d+\.weight", ("pos_embed.proj.weight",), "kernel"),
        (r"x_embedder\.\d+\.bias", ("pos_embed.proj.bias",), "same"),
        (r"t_embedder\.mlp\.0\.(.*)", (r"time_text_embed.timestep_embedder.linear_1.\1",), "same"),
        (r"t_embedder\.mlp\.2\.(.*)", (r"time_text_embed.timestep_embedder.linear_2.\1",), "same"),
        (r"y_embedder\.mlp\.0\.(.*)", (r"time_text_embed.text_embedder.linear_1.\1",), "same"),
        (r"y_embedder\.mlp\.2\.(.*)", (r"time_text_embed.text_embedder.linear_2.\1",), "same"),
        (ours + r"\.x_block\.(attn2?)\.qkv\.(.*)", tuple(rf"{block}.\2.to_{part}.\3" for part in "qkv"), "rows"),
        (ours + r"\.context_block\.attn\.qkv\.(.*)", tuple(rf"{block}.attn.add_{part}_proj.\2" for part in "qkv"), "rows"),
        (ours + r"\.x_block\.(attn2?)\.norm\.([qk])\.weight", (rf"{block}.\2.norm_\3.weight",), "same"),
        (ours + r"\.context_block\.attn\.norm\.([qk])\.weight", (rf"{block}.attn.norm_added_\2.weight",), "same"),
        (ours + r"\.x_block\.(attn2?)\.proj\.(.*)", (rf"{block}.\2.to_out.0.\3",), "same"),
        (ours + r"\.context_block\.attn\.proj\.(.*)", (rf"{block}.attn.to_add_out.\2",), "same"),
        (ours + r"\.x_block\.mlp\.fc1\.(.*)", (rf"{block}.ff.net.0.proj.\2",), "same"),
        (ours + r"\.x_block\.mlp\.fc2\.(.*)", (rf"{block}.ff.net.2.\2",), "same"),
        (ours + r"\.context_block\.mlp\.fc1\.(.*)", (rf"{block}.ff_context.net.0.proj.\2",), "same"),
        (ours + r"\.context_block\.mlp\.fc2\.(.*)", (rf"{block}.ff_context.net.2.\2",), "same"),
        (ours + r"\.x_block\.adaLN_modulation\.1\.(.*)", (rf"{block}.norm1.linear.\2",), "same"),
        (rf"joint_blocks\.({config.depth - 1})\.context_block\.adaLN_modulation\.1\.(.*)",
         (rf"{block}.norm1_context.linear.\2",), "swapped"),
        (ours + r"\.context_block\.adaLN_modulation\.1\.(.*)", (rf"{block}.norm1_context.linear.\2",), "same"),
        (r"final_layer\.adaLN_modulation\.1\.(.*)", (r"norm_out.linear.\1",), "swapped"),
        (r"final_layer\.linear\.\d+\.(.*)", (r"proj_out.\1",), "channels last")]


def dit_config(shapes: Shapes, settings: Mapping, kernel: str, table: str, head: str, blocks: str, **details) -> DiTConfig:
    """What both layouts of DiT tell, by the keys that tell it."""
    width, channels, patch_size, _ = shapes(kernel, 4)
    answers = count(shapes(head, 2)[0], patch_size ** 2, "number of rows of the head")
    return DiTConfig(
        (patch_size,), channels, width, shapes.depth(blocks),
        heads=head_count(width, shapes, "", settings, DIT_HEADS.get(width)),
        classes=shapes(table, 2)[0] - 1, learn_sigma=answers == 2 * channels, **details)


def read_dit(shapes: Shapes, settings: Mapping) -> DiTConfig:
    """facebookresearch/DiT's layout."""
    side, start, unit = shapes.table("pos_embed", shapes("x_embedder.proj.weight", 4)[0])
    if (start, unit) != (0, 1):
        raise LayoutError(f"pos_embed: positions start at {start:g} in steps of {unit:g}, not at 0 in steps of 1")
    return dit_config(shapes, settings, "x_embedder.proj.weight", "y_embedder.embedding_table.weight",
                      "final_layer.linear.weight", "blocks", position_base=side)


def dit_rules(config: DiTConfig) -> Rules:
    return [
        (r"x_embedder\.\d+\.weight", ("x_embedder.proj.weight",), "kernel"),
        (r"x_embedder\.\d+\.bias", ("x_embedder.proj.bias",), "same"),
        (r"y_embedder\.weight", ("y_embedder.embedding_table.weight",), "same"),
        (r"final_layer\.linear\.\d+\.(.*)", (r"final_layer.linear.\1",), "channels last")]


def read_dit_diffusers(shapes: Shapes, settings: Mapping) -> DiTConfig:
    """diffusers' DiTTransformer2DModel, which stores no position table: its grid comes from sample_size."""
    settings = {**DIFFUSERS_DEFAULTS, **settings}
    for key in DIFFUSERS_DEFAULTS:
        if type(settings[key]) not in (int, float):
            raise LayoutError(f"config.json has {key} = {settings[key]!r}")
    side = settings["sample_size"] // shapes("pos_embed.proj.weight", 4)[2]
    return dit_config(shapes, settings, "pos_embed.proj.weight",
                      "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight", "proj_out_2.weight",
                      "transformer_blocks", position_base=side, time_last=1, mlp_eps=settings["norm_eps"])


def dit_diffusers_rules(config: DiTConfig) -> Rules:
    block, ours = r"transformer_blocks.\1", r"blocks\.(\d+)"

    def in_every_block(name: str) -> tuple[str, ...]:
        return tuple(f"transformer_blocks.{i}.norm1.emb.{name}" for i in range(config.depth))
    return [
        (r"x_embedder\.\d+\.weight", ("pos_embed.proj.weight",), "kernel"),
        (r"x_embedder\.\d+\.bias", ("pos_embed.proj.bias",), "same"),
        (r"t_embedder\.mlp\.0\.(.*)", in_every_block(r"timestep_embedder.linear_1.\1"), "copies"),
        (r"t_embedder\.mlp\.2\.(.*)", in_every_block(r"timestep_embedder.linear_2.\1"), "copies"),
        (r"y_embedder\.weight", in_every_block("class_embedder.embedding_table.weight"), "copies"),
        (ours + r"\.attn\.qkv\.(.*)", tuple(rf"{block}.attn1.to_{part}.\2" for part in "qkv"), "rows"),
        (ours + r"\.attn\.proj\.(.*)", (rf"{block}.attn1.to_out.0.\2",), "same"),
        (ours + r"\.mlp\.fc1\.(.*)", (rf"{block}.ff.net.0.proj.\2",), "same"),
        (ours + r"\.mlp\.fc2\.(.*)", (rf"{block}.ff.net.2.\2",), "same"),
        (ours + r"\.adaLN_modulation\.1\.(.*)", (rf"{block}.norm1.linear.\2",), "same"),
        (r"final_layer\.adaLN_modulation\.1\.(.*)", (r"proj_out_1.\1",), "same"),
        (r"final_layer\.linear\.\d+\.(.*)", (r"proj_out_2.\1",), "channels last")]


LAYOUTS = (
    Layout("SD3", frozenset({"joint_blocks", "final_layer"}), read_sd3, sd3_rules),
    Layout("diffusers SD3Transformer2DModel", frozenset({"transformer_blocks", "time_text_embed", "pos_embed", "norm_out"}),
           read_sd3_diffusers, sd3_diffusers_rules, frozenset({"pos_embed.pos_embed"})),
    Layout("DiT", frozenset({"blocks", "t_embedder", "final_layer"}), read_dit, dit_rules),
    Layout("diffusers DiTTransformer2DModel", frozenset({"transformer_blocks", "proj_out_1", "proj_out_2"}),
           read_dit_diffusers, dit_diffusers_rules, frozenset()),
)


def recognise(keys: set[str]) -> Layout | None:
    """The layout that these keys have."""
    roots = {key.partition(".")[0] for key in keys}
    return next((layout for layout in LAYOUTS if layout.roots <= roots), None)
