"""The DIT_TOKENS wire: made from latents and turned back into them. Its keys are named in wire_types.py."""

import math
from typing import Callable, cast

import torch
from torch import Tensor

from ..errors import StagesError, TokensError
from .patch import patchify, token_grid, unpatchify
from .wire_types import DitTokens, LatentFormat, SolverMemory, without

CARRIED = ("noise_mask", "batch_index")  # what a LATENT holds besides its samples


def latent_format(scale: Tensor, shift: Tensor, std: Tensor | None = None) -> LatentFormat:
    """The map from a VAE's latents to the DiT's own space: (VAE latent − shift)·scale / std, each [C]."""
    return {"scale": scale, "shift": shift, "std": torch.ones_like(scale) if std is None else std}


def identity_format(channels: int) -> LatentFormat:
    """The latent format that changes nothing."""
    return latent_format(torch.ones(channels), torch.zeros(channels))


def same_format(a: LatentFormat, b: LatentFormat) -> bool:
    """Whether two latent formats are equal."""
    return type(a.get("host")) is type(b.get("host")) and all(torch.equal(a[name], b[name]) for name in ("scale", "shift", "std"))


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).view(1, -1, *[1] * (like.dim() - 2))


def into_dit_space(latent: Tensor, latent_format: LatentFormat) -> Tensor:
    """VAE latent → DiT space: [B, C, …] → same shape. An empty (all-zero) latent stays empty, as in ComfyUI."""
    if not latent.any():
        return latent
    if "host" in latent_format:
        return latent_format["host"].process_in(latent)
    scale, shift, std = (_shaped(latent_format[name], latent) for name in ("scale", "shift", "std"))
    return (latent - shift) * scale / std


def out_of_dit_space(latent: Tensor, latent_format: LatentFormat) -> Tensor:
    """DiT space → VAE latent: [B, C, …] → same shape."""
    if "host" in latent_format:
        return latent_format["host"].process_out(latent)
    scale, shift, std = (_shaped(latent_format[name], latent) for name in ("scale", "shift", "std"))
    return latent * std / scale + shift


def check_latent(latent: Tensor, patch_size: int, frame_patch: int = 1, what: str = "latent") -> None:
    """Raise TokensError unless a latent is [B, C, H, W] or [B, C, T, H, W], finite, and at least p high and wide."""
    if latent.dim() not in (4, 5):
        raise TokensError(f"a latent is [B, C, H, W], or [B, C, T, H, W] with frames, not {list(latent.shape)}")
    if patch_size < 1:
        raise TokensError(f"patch_size is at least 1, not {patch_size}")
    for name, length in zip(("height", "width"), latent.shape[-2:]):
        if length < patch_size:
            raise TokensError(f"{what} {name} {length} is smaller than patch_size {patch_size}")
    if latent.dim() == 5 and latent.shape[2] % frame_patch:
        raise TokensError(f"{latent.shape[2]} latent frames are not a multiple of the {frame_patch} frames in a patch of this model")
    check_finite(latent, what)


def check_finite(values: Tensor, what: str) -> None:
    """Raise TokensError if a latent, a picture or tokens hold NaN or infinite values. what: names them in the error line."""
    if not torch.isfinite(values).all():
        raise TokensError(f"the {what} holds {(~torch.isfinite(values)).sum().item()} values that are NaN or infinite")


def fold(latent: Tensor, patch_size: int, latent_format: LatentFormat | None = None, frame_patch: int = 1, **carried) -> DitTokens:
    """A VAE's latent → DIT_TOKENS: [B, C, H, W] or [B, C, T, H, W] → dict. carried: further entries of the dict. Raises TokensError."""
    check_latent(latent, patch_size, frame_patch, "image" if "pixels" in carried else "latent")
    latent_format = latent_format or identity_format(latent.shape[1])
    if not latent.any():  # an empty latent gets the channels of the model, as in ComfyUI
        latent = latent.new_zeros(latent.shape[0], len(latent_format["scale"]), *latent.shape[2:])
    if len(latent_format["scale"]) != latent.shape[1]:
        raise TokensError(f"the model's latents have {len(latent_format['scale'])} channels, this one has {latent.shape[1]}")
    tokens = patchify(into_dit_space(latent.float(), latent_format), patch_size, frame_patch)
    wire: DitTokens = {"tokens": tokens, "patch_size": patch_size, "grid": token_grid(*latent.shape[-2:], patch_size),
                       "channels": latent.shape[1], "size": tuple(latent.shape[2:]), "latent_format": latent_format}
    if latent.dim() == 5:
        wire["grid"], wire["frame_patch"] = (latent.shape[2] // frame_patch, *wire["grid"]), frame_patch
    if latent.dtype != torch.float32:
        wire["dtype"] = latent.dtype
    wire.update(cast(DitTokens, carried))
    return wire


def fold_image(image: Tensor, patch_size: int) -> DitTokens:
    """IMAGE → DIT_TOKENS of its pixels, without a model: [B, H, W, C] → dict. Dosovitskiy et al. 2020 (ViT), §3.1. Raises TokensError."""
    if image.dim() != 4:
        raise TokensError(f"an image is [B, H, W, C], not {list(image.shape)}")
    return fold(image.movedim(-1, 1), patch_size, pixels=True)


def to_tokens(latent: Tensor, wire: DitTokens) -> Tensor:
    """A latent in DiT space, cut as this wire is: [B, C, …] → [B, N, C·p·p]."""
    return patchify(latent, wire["patch_size"], wire.get("frame_patch", 1))


def to_latent(tokens: Tensor, wire: DitTokens) -> Tensor:
    """Tokens that are cut as this wire is, as a latent in DiT space: [B, N, C·p·p] → [B, C, …]."""
    return unpatchify(tokens, wire["patch_size"], wire["size"], wire.get("frame_patch", 1))


def unfold(wire: DitTokens) -> Tensor:
    """DIT_TOKENS → latent for a VAE: dict → [B, C, H, W], [B, C, T, H, W] or [B, C, L], or several. Raises TokensError for NaN."""
    check_finite(wire["tokens"], "tokens wire")
    if "nested" in wire:
        return wire["nested"][1](unpacked(wire["tokens"], wire))
    return without_row(out_of_dit_space(to_latent(wire["tokens"], wire), wire["latent_format"]), wire)


def in_a_row(wire: DitTokens) -> bool:
    """Whether the tokens are single places of a line, or of several tensors, which are cut in one way only."""
    return "nested" in wire or "line" in wire


def without_row(latent: Tensor, wire: DitTokens) -> Tensor:
    """A latent as a host's model takes it, if the wire cuts it as one row: [B, C, 1, L] → [B, C, L]. Others stay as they are."""
    return latent.squeeze(2) if in_a_row(wire) else latent


def with_row(latent: Tensor, wire: DitTokens) -> Tensor:
    """The inverse of `without_row`: [B, C, L] → [B, C, 1, L], if the wire cuts it so."""
    return latent.unsqueeze(2) if in_a_row(wire) else latent


def with_tokens(wire: DitTokens, tokens: Tensor, memory: SolverMemory | None = None) -> DitTokens:
    """A copy of the wire with other tokens. `memory` replaces the solver's memory; None drops it."""
    changed = without(wire, "memory")
    changed["tokens"] = tokens
    if memory is not None:
        changed["memory"] = memory
    return changed


def map_memory(memory: SolverMemory, change: Callable[[Tensor], Tensor], all_of_it: bool = False) -> SolverMemory:
    """A solver's memory with each of its tokens [B, N, C·p·p] changed; all_of_it: its noise levels too."""
    of_level = change if all_of_it else lambda sigma: sigma
    changed: SolverMemory = {**memory, "x0": change(memory["x0"]), "sigma": of_level(memory["sigma"])}
    if "x" in memory:
        changed |= {"x": change(memory["x"]), "earlier": tuple((change(x0), of_level(sigma)) for x0, sigma in memory["earlier"])}
    return changed


def fold_nested(tensors: list[Tensor], kind: type, **carried) -> DitTokens:
    """A LATENT of several tensors [B, C, …] → DIT_TOKENS [B, N, 1], a token for each value; kind: the type that holds them."""
    for tensor in tensors:
        check_finite(tensor, "latent")
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    return {**fold(packed(tensors).unsqueeze(2), 1, **carried), "nested": (shapes, kind)}


def packed(tensors: list[Tensor]) -> Tensor:
    """Several tensors [B, C, …] in one: → [B, 1, N]."""
    return torch.cat([tensor.reshape(len(tensor), 1, -1) for tensor in tensors], dim=-1)


def unpacked(values: Tensor, wire: DitTokens) -> list[Tensor]:
    """What `packed` put into one: any shape of B·N values → [B, C, …] each."""
    shapes = wire["nested"][0]
    parts = values.reshape(len(values), -1).split([math.prod(shape) for shape in shapes], dim=1)
    return [part.reshape(len(values), *shape) for part, shape in zip(parts, shapes)]


def noise_like(wire: DitTokens, seed: int) -> Tensor:
    """The noise that KSampler draws for this seed, as tokens: → [B, N, C·p·p], rounded to the LATENT's own type.

    It is drawn as a latent on the CPU and then patchified, so that every patch size gets the same noise. With batch_index, sample i gets
    the noise of the number batch_index[i].
    """
    generator, numbers = torch.Generator().manual_seed(seed), wire.get("batch_index")

    def draw(*shape: int) -> Tensor:
        if numbers is None:
            return torch.randn(len(wire["tokens"]), *shape, generator=generator)
        drawn = [torch.randn(1, *shape, generator=generator) for _ in range(max(numbers) + 1)]
        return torch.cat([drawn[i] for i in numbers])
    if "nested" in wire:
        noise = packed([draw(*shape) for shape in wire["nested"][0]]).unsqueeze(2)
    else:
        noise = draw(wire["channels"], *wire["size"])
    return to_tokens(noise.to(wire.get("dtype", noise.dtype)).float(), wire)


def check_cut_alike(a: DitTokens, b: DitTokens, first: str, second: str) -> None:
    """Raise StagesError unless two DIT_TOKENS have the same grid and patch size. first, second: their names in the error line."""
    (one, p), (two, q) = ((wire["grid"], wire["patch_size"]) for wire in (a, b))
    if (one, p) != (two, q):
        shapes = ["×".join(map(str, grid)) for grid in (one, two)]
        raise StagesError(f"{first} has a {shapes[0]} grid of patches of {p}, {second} a {shapes[1]} grid of patches of {q}")


def grey_picture(wire: DitTokens, tokens: Tensor) -> Tensor:
    """The mean of the latent's channels as grey, black to white, of the first sample (a video's first frame): → [H, W, 3] in 0..1."""
    shade = to_latent(tokens[:1].float().cpu(), wire)[0].mean(0)
    shade = shade[0] if shade.dim() == 3 else shade
    least, greatest = shade.min(), shade.max()
    return ((shade - least) / (greatest - least).clamp_min(1e-6))[..., None].expand(-1, -1, 3)


def describe(wire: DitTokens) -> str:
    """How the tokens are cut, in words: `1024 tokens of 16 values: a 32×32 grid of 2×2 patches of a 64×64×4 latent`."""
    *frames, h, w = wire["grid"]
    *_, height, width = wire["size"]
    p, count, values = wire["patch_size"], *wire["tokens"].shape[1:]
    patch, grid, size = f"{p}×{p}", f"{h}×{w}", f"{height}×{width}×{wire['channels']}"
    if frames:
        patch, grid, size = f"{wire['frame_patch']}×{patch}", f"{frames[0]}×{grid}", f"{wire['size'][0]}×{size}"
    text = f"{count} tokens of {values} values: a {grid} grid of {patch} patches of a {size} {'image' if 'pixels' in wire else 'latent'}"
    return text if (h * p, w * p) == (height, width) else f"{text}, padded to {h * p}×{w * p}"
