"""`dit-blocks train` of a model and pictures of one's own: [model], [set] and [train] of a TOML file."""

from collections.abc import Mapping
from dataclasses import fields
import inspect
import logging
import math
from pathlib import Path

from ..errors import TrainingError
from ..handle.backbone import Backbone
from ..sources.adapters import adapter_of, save_adapter
from ..sources.dit_file import load_dit, save_dit
from ..sources.embedded import load_embedded
from ..sources.new_dit import new_dit, text_widths
from ..sources.pixel_space import CHANNELS, PixelSpace
from . import run as runs
from .launch import Launched, launched
from .loop import Alone, Settings
from .sets import TrainingSet, from_pictures, procedural
from .toml import check_kind, checked

log = logging.getLogger(__name__)

SET = {"folder": "", "scenes": 256, "size": 128, "shapes": 1, "zoom": 1, "seed": 0}
LOSS = {"target": "own", "weighting": "none"}
ADAPTER = {"patch_size": 0, "rank": 0}
RUN = {"scope": "everything", "resume": False, "times": "logit_normal", **LOSS, **ADAPTER}


def train_by(config: Mapping, base: Path, read_folder, free: float = math.inf) -> Path:
    """Train as the file says, beside one or many processes → the file written. read_folder(path) → pictures and captions.

    [model] file = "x.safetensors", or embedded = true, or what New DiT takes; [set] folder = "pictures", or scenes = 256 with size;
    [train] Settings, scope, resume, target, weighting, times, and patch_size and rank of an adapter; out = "taught.safetensors". Raises
    RecipeError, TrainingError.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    unknown = set(config) - {"model", "set", "train", "out"}
    if unknown:
        raise TrainingError(f"unknown entry {sorted(unknown)[0]!r}; known are out, [model], [set] and [train]")
    check_kind("out", config.get("out", ""), str)
    values = checked(config.get("train", {}), {field.name: field.default for field in fields(Settings)} | RUN, "[train]")
    chosen = {name: values.pop(name) for name in RUN if name in values}
    settings = Settings(**values)
    settings.check()
    adapter = chosen.get("scope") == runs.ADAPTER
    if wrong := sorted(set(chosen) & set(LOSS if adapter else ADAPTER)):
        raise TrainingError(f"[train] {wrong[0]} is not of scope {chosen.get('scope', RUN['scope'])!r}")
    runner = Launched() if launched() else Alone()
    if runner.processes > 1:
        log.info("process %d of %d", runner.rank + 1, runner.processes)
    out = base / config.get("out", "taught.safetensors")
    if out.suffix != ".safetensors":  # the state lies in a folder of the same name without it
        raise TrainingError(f"out is the name of a .safetensors file, not {config.get('out')!r:.80}")
    dit = model_of(config.get("model", {}), base, free)
    data = set_of(config.get("set", {}), base, read_folder, dit, free)

    def report(done: int, _) -> None:
        if runner.rank == 0 and (done % 100 == 0 or done == settings.steps):
            log.info("step %d of %d", done, settings.steps)
    where = {"folder": out.with_suffix(""), "report": report, "runner": runner}
    where["resume"] = chosen.pop("resume", (where["folder"] / runs.STATE).exists())
    if adapter:
        del chosen["scope"]
        done = runs.run_adapter(dit, data, settings, **{**ADAPTER, **chosen}, **where)
    else:
        done = runs.run(dit, data, settings, **chosen, **where)
    if runner.rank == 0:
        save_adapter(adapter_of(done.dit), out) if adapter else save_dit(done.dit, out)
    return out


def model_of(values: Mapping, base: Path, free: float = math.inf) -> Backbone:
    """[model] → what is to be trained. Raises RecipeError, TrainingError, CheckpointError."""
    made = {name: parameter.default for name, parameter in inspect.signature(new_dit).parameters.items() if name not in ("like", "widths", "free")}
    values = checked(values, {"embedded": False, "file": "", **made}, "[model]")
    embedded, clip, _ = load_embedded()
    for name in ("embedded", "file"):
        if value := values.pop(name, None):
            if values:
                raise TrainingError(f"[model] of a model that is there takes no {sorted(values)[0]!r}")
            return embedded if name == "embedded" else load_dit(base / value)
    text = values.get("conditioning", "text") == "text"
    return new_dit(**values, like=embedded, widths=text_widths(clip) if text else None, free=free)


def set_of(values: Mapping, base: Path, read_folder, dit: Backbone, free: float = math.inf) -> TrainingSet:
    """[set] → pictures by the default model's VAE, none for a model of pixels, and its text encoder. Raises RecipeError, SetError."""
    values = {**SET, **checked(values, SET, "[set]")}
    _, clip, vae = load_embedded()
    if (dit.channels, dit.downscale) == (CHANNELS, 1):
        vae = PixelSpace()
    clip = clip if dit.unconditional is None else None
    if values["folder"]:
        pictures, captions = read_folder(base / values["folder"])
        return from_pictures(pictures, vae, captions if clip else None, clip)
    return procedural(vae, clip, values["scenes"], values["size"], values["seed"], values["shapes"], values["zoom"],
                      free=free)[0]
