"""`dit-blocks train`: a TOML file in, trained weights out."""

from dataclasses import dataclass, fields
import logging
from pathlib import Path
import tomllib

import torch

from ..embedded import load_dit, load_text, load_vae, save_dit, save_vae
from .train_dit import DiTRecipe, train_dit
from .train_vae import VAERecipe, train_vae


class RecipeError(ValueError):
    """A recipe that can't be followed: one line that names the file, the rule and the value."""


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says. state: folder of what training resumes from; weights: folder that weights go to.

    go_on: where there is no state, start the DiT from the weights that are there rather than from random ones.
    """
    state: Path
    weights: Path
    go_on: bool
    vae: VAERecipe
    dit: DiTRecipe


def read_recipe(path: Path) -> Recipe:
    """Read a TOML file. Raises RecipeError."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a recipe: {error}") from None
    unknown = set(content) - {"state", "weights", "go_on", "vae", "dit"}
    if unknown:
        raise RecipeError(f"{path}: unknown entry {sorted(unknown)[0]!r}; known are state, weights, go_on, [vae] and [dit]")

    def fits(what: str, value, wanted: type) -> None:
        if type(value) is not {tuple: list}.get(wanted, wanted) and not (wanted is float and type(value) is int):
            raise RecipeError(f"{path}: {what} is a {wanted.__name__}, not {value!r}")
    for entry, wanted in (("state", str), ("weights", str), ("go_on", bool)):
        fits(entry, content.get(entry, wanted()), wanted)

    def part(name: str, kind):
        values = content.get(name, {})
        fits(f"[{name}]", values, dict)
        known = {field.name for field in fields(kind)}
        for key in values:
            if key not in known:
                raise RecipeError(f"{path}: [{name}] has no setting {key!r}; it has {', '.join(sorted(known))}")
            fits(f"[{name}] {key}", values[key], type(getattr(kind, key)))
        return kind(**{key: _tuples(value) for key, value in values.items()})
    base = path.parent
    return Recipe(base / content.get("state", "state"), base / content.get("weights", "."), content.get("go_on", False),
                  part("vae", VAERecipe), part("dit", DiTRecipe))


def _check_state(path: Path) -> None:
    """Raise RecipeError where a state is there that can't be read, before anything else is trained."""
    try:
        if path.exists():
            torch.load(path, weights_only=True, mmap=True)
    except Exception as error:  # whatever a broken file makes of it
        raise RecipeError(f"{path} is no state of a training: {' '.join(str(error).split())[:100]}; move it away to start anew") from None


def is_recipe(path: Path) -> bool:
    """Whether a TOML file is a recipe of the default model, rather than a training of one's own (`config.py`). Raises RecipeError."""
    try:
        return not {"model", "set", "train"} & set(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a recipe: {error}") from None


def train(path: Path) -> None:
    """Train VAE, then DiT and text encoder, each from where it stopped. Weights on disk are always whole and the newest."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = read_recipe(Path(path))
    for state in ("vae_state.pt", "dit_state.pt"):
        _check_state(recipe.state / state)
    files = {name: recipe.weights / f"{name}.safetensors" for name in ("vae", "dit", "text")}
    if not files["vae"].exists() or (recipe.state / "vae_state.pt").exists():
        save_vae(train_vae(recipe.vae, recipe.state), files["vae"])
    fresh = recipe.go_on and files["dit"].exists() and not (recipe.state / "dit_state.pt").exists()
    start = (load_dit(files["dit"])[0], load_text(files["text"])) if fresh else None
    train_dit(recipe.dit, load_vae(files["vae"]), recipe.state, lambda *parts: save_dit(*parts, folder=recipe.weights), start)
