"""A model as the diffusers library saves it: a folder with a model_index.json and a folder for each part.

Read from its own files alone, local safetensors and JSON: no hub is asked, no pickle opened, no code of the folder's run.
"""

from collections.abc import Mapping
import math
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, LibraryError
from ..handle.backbone import Backbone
from ..reading import check_value
from ..sampling.flow import DDPM, Flow, RectifiedFlow
from ..tokens.wire import LatentFormat, latent_format
from .checkpoints import load_model
from .diffusers_models import WRAPPERS, Cells, wrap
from .diffusers_parts import Load, Unavailable, all_tensors, check_count, part_of, read_json, shards
from .diffusers_text import TEXT_OF, DiffusersCLIP
from .diffusers_vae import STEM, DiffusersVAE, load_vae
from .layouts import Shapes

OURS = ("SD3Transformer2DModel", "DiTTransformer2DModel")
KNOWN = (*OURS, *WRAPPERS)
LEGACY = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}  # Transformer2DModel's, by norm_type
SAMPLE_SIZE = {"DiTTransformer2DModel": 32}  # side of the latents that a class is for, where its config.json does not say
PUBLISHED_VAE = [128, 256, 512, 512]  # widths of SD's, SDXL's, SD3's and Flux's autoencoder
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}

HostVAE = Callable[[dict[str, Tensor]], Any]  # weights in diffusers' names → a VAE of the host's own, or None


def load_folder(folder: Path, ops=nn, device: torch.device | None = None, load: Load = lambda modules, memory=0: None,
                host_vae: HostVAE = lambda tensors: None) -> tuple[Backbone, DiffusersCLIP | Unavailable, Any]:
    """→ the folder's transformer, text encoders and VAE. `load` brings the latter two to the device before they are used; a host
    that has a VAE of the published size runs it itself.

    Raises CheckpointError; what is only missing a library says so when it is used.
    """
    index = read_json(folder / "model_index.json")
    class_name, settings = _transformer(folder, index)
    vae_settings = _vae_settings(folder, index)
    downscale = 2 ** (len(vae_settings["block_out_channels"]) - 1)
    model = _load_transformer(folder / "transformer", class_name, settings, downscale, ops)
    if (channels := vae_settings.get("latent_channels", 4)) != model.config.in_channels:
        raise CheckpointError(f"{folder.name}: its vae has latents of {str(channels)[:40]} channels, its transformer reads {model.config.in_channels}")
    space = _latent_format(f"{folder.name}/vae", vae_settings)
    cells = settings.get("sample_size", SAMPLE_SIZE.get(class_name, 128))
    dit = Backbone(model.eval().requires_grad_(False), space, _flow(folder, index, (cells // model.config.patch_sizes[0]) ** 2),
                   _name(folder), downscale, cells * downscale, class_names=_class_names(folder, index), device=device).settle()
    vae = (host_vae(all_tensors(folder / "vae", STEM)) if vae_settings["block_out_channels"] == PUBLISHED_VAE else None) or _vae(folder, load)
    return dit, _clip(folder, index, class_name, settings, dit.name, load), vae


def _transformer(folder: Path, index: Mapping) -> tuple[str, dict]:
    """The class of the transformer, and its config.json."""
    named = part_of(folder, index, "transformer", "diffusers")
    settings = read_json(folder / "transformer" / "config.json")
    class_name = settings.get("_class_name", named)
    if class_name == "Transformer2DModel":
        class_name = LEGACY.get(settings.get("norm_type"), class_name)
    if class_name not in KNOWN:
        raise CheckpointError(f"{folder.name}: its transformer is a {str(class_name)[:80]}, known are {', '.join(KNOWN)}")
    check_value(f"{folder.name}/transformer/config.json: sample_size", settings.get("sample_size", 1), Cells, CheckpointError)
    return class_name, settings


def _name(folder: Path) -> str:
    """What to call the model: as its folder is called here. In the hub's cache a folder is called by a commit, and the model's name is above."""
    found = folder if folder.name else folder.resolve()
    return found.parents[1].name.split("--")[-1] if found.parent.name == "snapshots" else found.name


def _load_transformer(folder: Path, class_name: str, settings: Mapping, downscale: int, ops) -> nn.Module:
    """The transformer, in the type its weights are stored in: ours where we have the architecture, else the library's."""
    tensors = all_tensors(folder, STEM)
    name = f"{folder.parent.name}/{folder.name}"
    if class_name in OURS:
        return load_model(tensors, settings, dtype=None, ops=ops, name=name)
    return wrap(class_name, settings, downscale, tensors, name)


def _vae_settings(folder: Path, index: Mapping) -> dict:
    kind = part_of(folder, index, "vae", "diffusers")
    if kind != "AutoencoderKL":
        raise CheckpointError(f"{folder.name}: its vae is a {str(kind)[:80]}, known is AutoencoderKL")
    settings = read_json(folder / "vae" / "config.json")
    widths, kept = settings.get("block_out_channels"), Shapes(all_tensors(folder / "vae", STEM))
    check_value(f"{folder.name}/vae/config.json: block_out_channels", widths, tuple, CheckpointError)
    check_count(f"{folder.name}/vae", "number of block_out_channels", len(widths), kept.depth("encoder.down_blocks"))
    check_count(f"{folder.name}/vae", "layers_per_block", settings.get("layers_per_block", 1), kept.depth("encoder.down_blocks.0.resnets"))
    return settings


def _vae(folder: Path, load: Load) -> DiffusersVAE | Unavailable:
    shards(folder / "vae", STEM)
    try:
        return load_vae(folder / "vae", load)
    except LibraryError as error:
        return Unavailable(str(error))


def _clip(folder: Path, index: Mapping, class_name: str, settings: Mapping, name: str, load: Load) -> DiffusersCLIP | Unavailable:
    if class_name not in TEXT_OF:
        return Unavailable(f"{name} takes class labels, not text: use Class Label")
    return DiffusersCLIP(folder, index, class_name, settings.get("joint_attention_dim"), load)


def _latent_format(name: str, settings: Mapping) -> LatentFormat:
    """Pipelines take (latent − shift)·scaling_factor, or (latent − mean)·scaling_factor / std channel by channel."""
    channels = settings.get("latent_channels", 4)

    def values(key: str, otherwise: float) -> Tensor:
        found = settings.get(key)
        try:
            return torch.tensor(otherwise if found is None else found, dtype=torch.float32).flatten().expand(channels).clone()
        except (TypeError, ValueError, RuntimeError):
            raise CheckpointError(f"{name}/config.json has {key} = {str(found)[:80]!r}, not a number or one for each of "
                                  f"{channels} channels") from None
    shift = values("shift_factor", 0.0) if settings.get("latents_mean") is None else values("latents_mean", 0.0)
    return latent_format(values("scaling_factor", 0.18215), shift, values("latents_std", 1.0))


def _flow(folder: Path, index: Mapping, tokens: int) -> Flow:
    """What the scheduler's config says of noise levels. `tokens`: of a picture of the size the model was trained for."""
    part_of(folder, index, "scheduler", "diffusers")
    name, config = f"{folder.name}/scheduler", read_json(folder / "scheduler" / "scheduler_config.json")

    def number(key: str, otherwise: float) -> float:
        value = config.get(key, otherwise)
        if type(value) not in (int, float) or not abs(value) < 1e6:
            raise CheckpointError(f"{name} has {key} = {str(value)[:40]!r}, not a number")
        return value
    kind = str(config.get("_class_name"))
    if kind.startswith("FlowMatch"):
        if not config.get("use_dynamic_shifting"):
            return RectifiedFlow(shift=number("shift", 1.0))
        low, high = number("base_image_seq_len", 256), number("max_image_seq_len", 4096)
        if low >= high:
            raise CheckpointError(f"{name} has base_image_seq_len = {low}, not below max_image_seq_len = {high}")
        slope = (number("max_shift", 1.15) - number("base_shift", 0.5)) / (high - low)
        # a schedule is made before there is a picture: as ComfyUI does, the shift is that of the size trained for
        mu = number("base_shift", 0.5) + slope * (tokens - low)
        return RectifiedFlow(shift=mu if config.get("time_shift_type") == "linear" else math.exp(mu))
    if "beta_schedule" not in config:
        raise CheckpointError(f"{name} is a {kind[:80]}, known are FlowMatch schedulers and those with a beta_schedule")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise CheckpointError(f"{name} has prediction_type = {prediction!r}, known are {', '.join(PREDICTIONS)}")
    for key in ("trained_betas", "rescale_betas_zero_snr"):
        if config.get(key):
            raise CheckpointError(f"{name} has {key}, which is not known here")
    flow = DDPM(PREDICTIONS[prediction], int(number("num_train_timesteps", 1000)), number("beta_start", 1e-4), number("beta_end", 0.02),
                config["beta_schedule"])
    try:
        flow.alphas_cumprod
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from None
    return flow


def _class_names(folder: Path, index: Mapping) -> dict[int, str]:
    """ImageNet's names, as DiT's model_index.json has them."""
    try:
        return {int(number): str(name) for number, name in index.get("id2label", {}).items()}
    except (AttributeError, ValueError):
        raise CheckpointError(f"{folder.name}/model_index.json: its id2label is not a name for each number") from None
