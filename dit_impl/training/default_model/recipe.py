"""`dit-blocks train` of the default model: a TOML file in, trained weights out."""

import copy
from dataclasses import dataclass, fields
import logging
from pathlib import Path

import torch
from torch import Tensor

from ...errors import RecipeError
from ...model.mmdit import MMDiT
from ...model.text import TextEncoder
from ...sources.embedded import FOLDER, assemble, load_embedded_dit, load_text, load_vae, save_embedded_dit, save_vae
from ...tokens.wire import latent_format
from ..launch import launched
from ..toml import check_kind, checked, read_toml
from . import evaluate, matcher, reader, scenes, things
from .train_dit import DiTRecipe, train_dit
from .train_vae import VAERecipe, train_vae

PARTS, TABLES = ("vae", "dit", "text"), {"vae": VAERecipe, "dit": DiTRecipe, "refine": DiTRecipe}


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says. state: folder of what training resumes from; weights: folder that weights go to.

    start: folder of the weights to begin with where there is no state, None for random ones. refine: a second training of the DiT, which
    goes on from the averaged weights of the first once all its steps are done, None for none.
    """
    state: Path
    weights: Path
    start: Path | None
    vae: VAERecipe
    dit: DiTRecipe
    refine: DiTRecipe | None


def read_recipe(path: Path) -> Recipe:
    """Read a TOML file. Raises RecipeError."""
    content = read_toml(path)
    unknown = set(content) - {"state", "weights", "start", *TABLES}
    if unknown:
        raise RecipeError(f"{path}: unknown entry {sorted(unknown)[0]!r}; known are state, weights, start, [vae], [dit] and [refine]")
    folders = {"state": "state", "weights": ".", "start": "", **{key: value for key, value in content.items() if key not in TABLES}}
    for name, value in folders.items():
        check_kind(f"{path}: {name}", value, str)
    vae, dit, refine = (kind(**checked(content.get(name, {}), {field.name: field.default for field in fields(kind)}, f"{path}: [{name}]"))
                        for name, kind in TABLES.items())
    base = path.parent
    if (base / folders["weights"]).resolve() == FOLDER:
        raise RecipeError(f"{path}: weights is {FOLDER}, which holds the default model that ships: name another folder, and copy the files")
    return Recipe(base / folders["state"], base / folders["weights"], base / folders["start"] if folders["start"] else None, vae, dit,
                  refine if "refine" in content else None)


def _check_state(path: Path) -> None:
    """Raise RecipeError where a state is there that can't be read, before anything else is trained."""
    try:
        if path.exists():
            torch.load(path, weights_only=True, mmap=True)
    except Exception as error:  # whatever a broken file makes of it
        raise RecipeError(f"{path} is no state of a training: {' '.join(str(error).split())[:100]}; move it away to start anew") from None


def is_recipe(path: Path) -> bool:
    """Whether a TOML file is a recipe of the default model, rather than a training of one's own (`config.py`). Raises RecipeError."""
    return not {"model", "set", "train"} & set(read_toml(path))


def train(path: Path) -> None:
    """Train VAE, then DiT and text encoder, each from where it stopped. Weights on disk are always whole and the newest. Raises RecipeError."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = read_recipe(Path(path))
    if launched():
        raise RecipeError(f"{path} is a recipe of the default model, which one process follows: leave accelerate launch out")
    for state in ("vae_state.pt", "dit_state.pt", "refine/dit_state.pt"):
        _check_state(recipe.state / state)
    files = {name: recipe.weights / f"{name}.safetensors" for name in PARTS}
    start = {name: recipe.start / file.name for name, file in files.items()} if recipe.start else {}
    if start and not files["vae"].exists() and not (recipe.state / "vae_state.pt").exists():
        save_vae(load_vae(start["vae"]), files["vae"])
    if not files["vae"].exists() or (recipe.state / "vae_state.pt").exists():
        save_vae(train_vae(recipe.vae, recipe.state), files["vae"])
    fresh = start and not (recipe.state / "dit_state.pt").exists()
    vae = load_vae(files["vae"])
    if not things.font_path():
        logging.warning(things.INSTALL)

    def publish(*parts) -> None:
        save_embedded_dit(*parts, folder=recipe.weights)

    def look(model, text, scale, shift) -> str:
        return _look(assemble(copy.deepcopy(model).cpu(), copy.deepcopy(text).cpu(), load_vae(files["vae"]), latent_format(scale.cpu(), shift.cpu())))
    refined = recipe.state / "refine"
    trained = (refined / "dit_state.pt").exists() or train_dit(
        recipe.dit, vae, recipe.state, publish, _weights(start) if fresh else None, look) >= recipe.dit.steps
    if recipe.refine and trained:
        train_dit(recipe.refine, vae, refined, publish, _weights(files), look)


def _weights(files: dict[str, Path]) -> tuple[MMDiT, TextEncoder, Tensor, Tensor]:
    """DiT and text encoder, and the scale and shift of the latents that they know."""
    model, space = load_embedded_dit(files["dit"])
    return model, load_text(files["text"]), space["scale"].flatten(), space["shift"].flatten()


def _look(parts) -> str:
    """What a model in training draws right of a few held-out prompts, in words."""
    shapes, pictured = scenes.held_out()[0][:20], scenes.held_out_things()[0][:20] if things.font_path() else []
    said = []
    for kind, wanted, read in (("shapes", shapes, reader.read_scene), ("things", pictured, matcher.read_scene)):
        right = {p: evaluate.accuracy(wanted, p, parts=parts, read=read) for p in parts[0].patch_sizes if wanted}
        said.append(", ".join(f"{share:.0%} of {len(wanted)} {kind} at p = {p}" for p, share in right.items()))
    return "; ".join(filter(None, said))
