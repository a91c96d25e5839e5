"""`dit-blocks train` of a model and pictures of one's own: [model], [set] and [train] of a TOML file."""

from collections.abc import Mapping
from dataclasses import fields
import inspect
import logging
from pathlib import Path

from ..backbone import Backbone
from ..dit_file import load_dit, save_dit
from ..embedded import load_embedded
from ..new_dit import new_dit, text_widths
from . import run as runs
from .launch import Launched, launched
from .loop import Alone, Settings, TrainingError
from .sets import TrainingSet, from_pictures, procedural

log = logging.getLogger(__name__)

SET = ("folder", "scenes", "size", "shapes", "zoom", "seed")
RUN = ("scope", "target", "weighting", "times", "resume")


def train_by(config: Mapping, base: Path, read_folder) -> Path:
    """Train as the file says, beside one or many processes → the file written. read_folder(path) → pictures and captions.

    [model] file = "x.safetensors", or embedded = true, or what New DiT takes; [set] folder = "pictures", or scenes = 256 with size;
    [train] Settings and scope, target, weighting, times, resume; out = "taught.safetensors". Raises TrainingError.
    """
    logging.getLogger("dit_blocks").setLevel(logging.INFO)
    unknown = set(config) - {"model", "set", "train", "out"}
    if unknown:
        raise TrainingError(f"unknown entry {sorted(unknown)[0]!r}; known are out, [model], [set] and [train]")
    runner = Launched() if launched() else Alone()
    out = base / config.get("out", "taught.safetensors")
    dit = model_of(dict(config.get("model", {})), base)
    data = set_of(dict(config.get("set", {})), base, read_folder, dit)
    values = dict(config.get("train", {}))
    chosen = {name: values.pop(name) for name in RUN if name in values}
    known = {field.name for field in fields(Settings)}
    if wrong := sorted(set(values) - known):
        raise TrainingError(f"[train] has no setting {wrong[0]!r}; it has {', '.join(sorted(known | set(RUN)))}")
    settings = Settings(**values)

    def report(done: int, _) -> None:
        if runner.rank == 0 and (done % 100 == 0 or done == settings.steps):
            log.info("step %d of %d", done, settings.steps)
    folder = out.with_suffix("")
    chosen.setdefault("resume", (folder / runs.STATE).exists())
    done = runs.run(dit, data, settings, folder=folder, report=report, runner=runner, **chosen)
    if runner.rank == 0:
        save_dit(done.dit, out)
    return out


def model_of(values: dict, base: Path) -> Backbone:
    """[model] → what is to be trained. Raises TrainingError, CheckpointError."""
    embedded, clip, _ = load_embedded()
    if values.pop("embedded", False):
        return _nothing_else(values, embedded)
    if "file" in values:
        return _nothing_else(values, load_dit(base / values.pop("file")))
    known = set(inspect.signature(new_dit).parameters) - {"like", "widths"}
    if wrong := sorted(set(values) - known):
        raise TrainingError(f"[model] has no setting {wrong[0]!r}; it has embedded, file, {', '.join(sorted(known))}")
    if "patch_sizes" in values:
        values["patch_sizes"] = tuple(values["patch_sizes"])
    text = values.get("conditioning", "text") == "text"
    return new_dit(**values, like=embedded, widths=text_widths(clip) if text else None)


def _nothing_else(values: dict, dit: Backbone) -> Backbone:
    values.pop("file", None)
    if values:
        raise TrainingError(f"[model] of a model that is there takes no {sorted(values)[0]!r}")
    return dit


def set_of(values: dict, base: Path, read_folder, dit: Backbone) -> TrainingSet:
    """[set] → pictures by the default model's VAE and text encoder. Raises TrainingError, SetError."""
    if wrong := sorted(set(values) - set(SET)):
        raise TrainingError(f"[set] has no setting {wrong[0]!r}; it has {', '.join(SET)}")
    _, clip, vae = load_embedded()
    clip = clip if dit.unconditional is None else None
    if "folder" in values:
        pictures, captions = read_folder(base / values["folder"])
        return from_pictures(pictures, vae, captions if clip else None, clip)
    return procedural(vae, clip, values.get("scenes", 256), values.get("size", 128), values.get("seed", 0), values.get("shapes", 1),
                      values.get("zoom", 1))[0]
