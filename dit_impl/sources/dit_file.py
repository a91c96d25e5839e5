"""A DIT as one safetensors file: a checkpoint whose metadata also says what the model's latents, times and classes mean."""

from collections.abc import Mapping
from dataclasses import asdict
import json
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..handle.backbone import Backbone, DitHandle
from ..model.dit import DiT
from ..model.mmdit import MMDiT
from ..reading import Between, check_value
from ..sampling.flow import DDPM, Flow, RectifiedFlow
from ..tokens.wire import LatentFormat, latent_format
from . import embedded
from .checkpoints import METADATA_KEY, load_model, read_safetensors, save_model
from .diffusers_models import is_wrapped, load_wrapped

KEY = "dit"  # in the metadata; "config" beside it is the architecture
FLOWS = {"rectified flow": RectifiedFlow, "ddpm": DDPM}
MOST_DOWNSCALE, MOST_PIXELS = 1024, 65536
FORMAT = ("scale", "shift", "std")
_Positive = Annotated[int, Between(1)]
ACCOUNT = {"latent_format": dict, "flow": dict, "name": str, "downscale": _Positive, "picture_size": _Positive, "latent_rgb": tuple[tuple[float, ...], ...] | None,
           "class_names": dict}

# Published checkpoints bring no such account of themselves. SD3: Esser et al. 2024; DiT: Peebles & Xie 2022, with SD 1's VAE.
PUBLISHED = {
    MMDiT: (16, 1.5305, 0.0609, RectifiedFlow(shift=3.0)),
    DiT: (4, 0.18215, 0.0, DDPM()),
}


def save_dit(dit: DitHandle, path: Path) -> None:
    """Write a DIT, in the type its weights have; `path` is there whole or not at all. Raises CheckpointError."""
    if not isinstance(dit, Backbone):
        raise CheckpointError(f"{dit.name} is not of this library: save the MODEL it came from with ComfyUI's own nodes")
    if carried := getattr(dit.model, "adapters", ()):
        raise CheckpointError(f"{dit.name} carries an adapter for patch size {carried[-1].patch_size}, whose attention is not the model's own: "
                              "keep it with Save Adapter")
    kind = next(name for name, flow in FLOWS.items() if isinstance(dit.flow, flow))
    account = {
        "name": dit.name, "downscale": dit.downscale, "picture_size": dit.picture_size,
        "flow": {"kind": kind, **asdict(dit.flow)},
        "latent_format": {name: dit.latent_format[name].tolist() for name in FORMAT},
        "latent_rgb": None if dit.latent_rgb is None else dit.latent_rgb.tolist(),
        "class_names": dict(dit.class_names),
        "training": dict(dit.facts),
    }
    save_model(dit.model, path, extra_metadata={KEY: json.dumps(account)})


def load_dit(path: Path, ops=nn, device: torch.device | None = None) -> Backbone:
    """Read what `save_dit` wrote, the default model, or a published SD3, SD3.5 or DiT. The weights keep their type where layers cast
    them. Raises CheckpointError."""
    metadata = read_safetensors(path)[1]
    if KEY not in metadata and METADATA_KEY in metadata and "latent_format" in metadata:  # as the default model is kept
        return embedded.default_backbone(*embedded.load_embedded_dit(path))
    model = load_wrapped(path) if is_wrapped(metadata) else load_model(path, dtype=None, ops=ops)
    model.eval().requires_grad_(False)
    if KEY not in metadata:
        return _published(path, model, METADATA_KEY in metadata, device)
    try:
        account = json.loads(metadata[KEY])
        account = {"training": {}, **account, **{name: check_value(name, account[name], kind) for name, kind in ACCOUNT.items()}}
        dit = Backbone(
            model, _read_format(account["latent_format"]), _read_flow(account["flow"]), account["name"], account["downscale"],
            account["picture_size"], None if account["latent_rgb"] is None else torch.tensor(account["latent_rgb"], dtype=torch.float32),
            {int(number): str(name) for number, name in account["class_names"].items()}, device, dict(account["training"]))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: its metadata {KEY!r} does not describe a DiT: {' '.join(reason.split())[:200]}") from None
    channels = model.config.in_channels
    if {len(values) for values in dit.latent_format.values()} != {channels}:
        raise CheckpointError(f"{path}: its latent_format is not of the {channels} channels of its model")
    if dit.latent_rgb is not None and tuple(dit.latent_rgb.shape) != (channels + 1, 3):
        raise CheckpointError(f"{path}: its latent_rgb is {list(dit.latent_rgb.shape)}, not red, green and blue of {channels} channels and 1 more")
    for key, most in (("downscale", MOST_DOWNSCALE), ("picture_size", MOST_PIXELS)):
        if getattr(dit, key) > most:
            raise CheckpointError(f"{path}: its {key} is {str(getattr(dit, key))[:40]}, not from 1 to {most}")
    return dit.settle()


def _published(path: Path, model: MMDiT | DiT, own: bool, device: torch.device | None) -> Backbone:
    """`own`: a file of this library, whose models differ from published ones in more than their weights."""
    channels, scale, shift, flow = PUBLISHED.get(type(model), (0, 0, 0, None))
    if own or model.config.in_channels != channels:
        raise CheckpointError(f"{path}: no {KEY!r} in its metadata says how it reads latents of {model.config.in_channels} channels")
    cells = model.config.position_base * model.config.patch_size
    space = latent_format(torch.full((channels,), scale), torch.full((channels,), shift))
    return Backbone(model, space, flow, path.stem, picture_size=1024 if isinstance(model, MMDiT) else int(cells) * 8, device=device).settle()


def _read_flow(values: Mapping) -> Flow:
    settings = dict(values)
    kind = settings.pop("kind")
    if kind not in FLOWS:
        raise ValueError(f"flow is {kind!r}, not one of {', '.join(FLOWS)}")
    return FLOWS[kind](**settings)


def _read_format(values: Mapping) -> LatentFormat:
    tensors: list[Tensor] = [torch.tensor(check_value(name, values[name], tuple[float, ...]), dtype=torch.float32) for name in FORMAT]
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ValueError("latent_format is not a number for each channel")
    return latent_format(*tensors)
