"""Every error whose message a user reads. Each message is one line that names the rule and the value that broke it."""


class TokensError(ValueError):
    """Tokens, or a latent or picture to cut into tokens, that do not fit."""


class StagesError(ValueError):
    """Something that the stages of a transformer cannot do, or would do wrongly."""


class ScheduleError(ValueError):
    """Noise levels, a step of them, or a patch schedule that cannot be used."""


class BackboneError(ValueError):
    """An input that this model cannot take."""


class LayoutError(ValueError):
    """Tensors that do not have the layout they seem to have."""


class CheckpointError(ValueError):
    """A file that is not a checkpoint, or not one that fits. The message names the file too."""


class LibraryError(ValueError):
    """A Python package that is missing, too old or broken. The message says how to install it."""


class StandInError(AttributeError, ValueError):
    """A call of a ComfyUI node that means nothing to what stands for its CLIP or VAE here."""


class SetError(ValueError):
    """Pictures or captions that make no training set."""


class TrainingError(ValueError):
    """A training that cannot begin or go on."""


class RecipeError(ValueError):
    """A TOML file that cannot be followed."""
