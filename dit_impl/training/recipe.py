"""`dit-blocks train`: a TOML file in, trained weights out."""

from dataclasses import fields
import logging
from pathlib import Path
import tomllib

from ..embedded import load_vae, save_dit, save_vae
from .train_dit import DiTRecipe, train_dit
from .train_vae import VAERecipe, train_vae


class RecipeError(ValueError):
    """A recipe that can't be followed: one line that names the file, the rule and the value."""


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def read_recipe(path: Path) -> tuple[Path, Path, VAERecipe, DiTRecipe]:
    """→ the folder that resumable state goes to, the folder that weights go to, and the two recipes."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a recipe: {error}") from None
    unknown = set(content) - {"state", "weights", "vae", "dit"}
    if unknown:
        raise RecipeError(f"{path}: unknown entry {sorted(unknown)[0]!r}; known are state, weights, [vae] and [dit]")

    def part(name: str, kind):
        values = content.get(name, {})
        known = {field.name for field in fields(kind)}
        for key in values:
            if key not in known:
                raise RecipeError(f"{path}: [{name}] has no setting {key!r}; it has {', '.join(sorted(known))}")
        return kind(**{key: _tuples(value) for key, value in values.items()})
    base = path.parent
    return (base / content.get("state", "state"), base / content.get("weights", "."),
            part("vae", VAERecipe), part("dit", DiTRecipe))


def train(path: Path) -> None:
    """Train VAE, then DiT and text encoder, each from where it stopped. Weights on disk are always whole and the newest."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    state, weights, vae_recipe, dit_recipe = read_recipe(Path(path))
    vae_file = weights / "vae.safetensors"
    if not vae_file.exists() or (state / "vae_state.pt").exists():
        save_vae(train_vae(vae_recipe, state), vae_file)
    train_dit(dit_recipe, load_vae(vae_file), state, lambda *parts: save_dit(*parts, folder=weights))
