"""Every error whose message a user reads. Each message is one line that names the rule and the value that broke it."""


class TokensError(ValueError):
    """Tokens that do not fit, or a latent or picture that can't be cut into tokens."""


class StagesError(ValueError):
    """Something that the stages of a transformer can't do, or would do wrongly."""


class ScheduleError(ValueError):
    """Noise levels, a step or a patch schedule that can't be used."""


class BackboneError(ValueError):
    """An input that this model can't take."""


class LayoutError(ValueError):
    """Tensors whose names or shapes do not fit their architecture."""


class CheckpointError(ValueError):
    """A file that is not a checkpoint, or not a fitting one. The message also names the file."""


class LibraryError(ValueError):
    """A Python package that is missing, too old or broken. The message says how to install it."""


class StandInError(AttributeError, ValueError):
    """A call of a ComfyUI node that means nothing to what stands for its CLIP or VAE here."""


class SetError(ValueError):
    """Pictures or captions that can't be used as a training set."""


class TrainingError(ValueError):
    """A training that can't start or continue."""


class RecipeError(ValueError):
    """A TOML file with wrong settings."""
