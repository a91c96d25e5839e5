"""A new transformer with random weights: MM-DiT where it reads text, DiT where it reads a class or nothing."""

import math

import torch

from ..errors import BackboneError, LayoutError
from ..handle.backbone import Backbone, DitHandle
from ..model.dit import DiTConfig
from ..model.mmdit import MMDiTConfig
from ..sampling.flow import DDPM, RectifiedFlow
from ..tokens.wire import identity_format
from .checkpoints import skeleton
from .pixel_space import AS_RGB, CHANNELS

POSITIONS = {"sincos": "picture", "learned": "learned", "none": "none"}
CONDITIONINGS = ("text", "class", "none")
PREDICTIONS = ("velocity", "x0", "epsilon", "v")


def parse_sizes(text: str) -> tuple[int, ...]:
    """Patch sizes in words, the model's own first: "2" or "2, 4". Raises BackboneError."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BackboneError(f'patch_sizes are whole numbers, "2" or "2, 4", not {text!r}') from None
    if min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise BackboneError(f"patch_sizes are different numbers from 1, not {text!r}")
    return sizes


def text_widths(clip) -> tuple[int, int]:
    """How wide a text encoder's states and its pooled vector are. Raises BackboneError."""
    states, extras = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0]
    pooled = extras.get("pooled_output")
    if pooled is None:
        raise BackboneError("this clip gives no pooled_output, which an MM-DiT needs beside the text states")
    return states.shape[-1], pooled.shape[-1]


def new_dit(width: int = 192, depth: int = 4, heads: int = 4, patch_sizes: tuple[int, ...] = (2,), channels: int = 0, position: str = "sincos",
            conditioning: str = "text", classes: int = 10, prediction: str = "velocity", seed: int = 0, like: DitHandle | None = None,
            widths: tuple[int, int] | None = None, picture_size: int = 256, free: float = math.inf, downscale: int = 0) -> Backbone:
    """A DIT with random weights, adaLN-Zero (Peebles & Xie 2022, §3.2), that answers zero until it is trained.

    channels: of its latents, 0 for those of `like`, whose latent space it then shares. widths: of text states and pooled text. downscale:
    pixels to a cell, 1 for a model that reads pictures themselves; 0 is that of `like`, else 8.
    Raises BackboneError.
    """
    for name, value, known in (("position", position, POSITIONS), ("conditioning", conditioning, CONDITIONINGS), ("prediction", prediction, PREDICTIONS)):
        if value not in known:
            raise BackboneError(f"{name} is one of {', '.join(known)}, not {value!r}")
    if not patch_sizes or min(patch_sizes) < 1 or len(set(patch_sizes)) < len(patch_sizes):
        raise BackboneError(f"patch_sizes are different numbers from 1, not {list(patch_sizes)[:8]}")
    for name, value, least in (("latent_channels", channels, 0), ("classes", classes, 1 if conditioning == "class" else 0),
                               ("picture_size", picture_size, 1), ("seed", seed, 0)):
        if not least <= value < 2 ** 64:
            raise BackboneError(f"{name} is at least {least}, not {value:.6g}")
    if not channels and like is None:
        raise BackboneError("latent_channels is 0, which takes those of another model: wire one into like, or give a number")
    if channels and like is not None and channels != like.channels:
        raise BackboneError(f"latent_channels {channels} are not the {like.channels} of {like.name}: 0 takes those")
    if conditioning == "text" and widths is None:
        raise BackboneError("a model that reads text needs a clip, to know how wide its text is")
    if not 0 <= downscale <= 64:
        raise BackboneError(f"pixels_to_cell is 0 to 64, not {downscale:.6g}")
    if downscale and like is not None and downscale != like.downscale:
        raise BackboneError(f"pixels_to_cell {downscale} are not the {like.downscale} of {like.name}: 0 takes those")
    downscale = downscale or getattr(like, "downscale", 8)
    side = picture_size // downscale // patch_sizes[0]
    if side < 1:
        raise BackboneError(f"picture_size {picture_size} is smaller than a patch of {patch_sizes[0]} latent cells")
    shape = {"patch_sizes": patch_sizes, "in_channels": channels or like.channels, "width": width, "depth": depth, "heads": heads,
             "position": POSITIONS[position], "prediction": prediction}
    if conditioning == "text":
        config = MMDiTConfig(**shape, position_base=float(side), context_width=widths[0], pooled_width=widths[1], qk_norm=True)
    else:
        config = DiTConfig(**shape, position_base=side, classes=classes if conditioning == "class" else 0, learn_sigma=False)
    try:
        model = skeleton(config)
    except LayoutError as error:
        raise BackboneError(str(error)) from None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if 4 * parameters > free:
        raise BackboneError(f"a model of width {width} and depth {depth} has {parameters / 1e6:,.0f} M parameters, {4 * parameters / 2 ** 30:,.1f} GiB: "
                            f"{free / 2 ** 30:,.1f} GiB of memory are free")
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model.to_empty(device="cpu").initialise().eval().requires_grad_(False)
        for module in model.modules():  # norms, which start as they are made
            if isinstance(module, torch.nn.RMSNorm):
                module.reset_parameters()
    flow = RectifiedFlow(prediction, shift=2.0) if prediction in ("velocity", "x0") else DDPM(prediction)
    space = like.latent_format if like is not None else identity_format(channels)
    shown = AS_RGB if downscale == 1 and config.in_channels == CHANNELS else None
    return Backbone(model, space, flow, "New DiT", downscale, picture_size, getattr(like, "latent_rgb", shown))


def describe(dit: Backbone) -> str:
    """How many parameters it has, and where: for the node."""
    counts: dict[str, int] = {}
    for name, parameter in dit.model.named_parameters():
        part = {"x_embedder": "patch embedding", "final_layer": "final layer", "joint_blocks": "blocks", "blocks": "blocks"}.get(
            name.split(".")[0], "time, text and positions")
        counts[part] = counts.get(part, 0) + parameter.numel()
    return f"{sum(counts.values()) / 1e6:.2f} M parameters: " + ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in counts.items())
