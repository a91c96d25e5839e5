"""The pack's own socket types, inputs that several nodes share, and the decorator that puts a node's name before its errors."""

from collections.abc import Callable
from functools import wraps

from comfy_api.v0_0_2 import io, ui
import torch

from ..dit_impl.drawing.charts import LANGUAGES
from ..dit_impl.drawing.map_sheet import MapSheet
from ..dit_impl.tokens.other_sizes import METHODS
from ..dit_impl.tokens.places import moved
from .comfyui import host

DitSocket = io.Custom("DIT")
TokensSocket = io.Custom("DIT_TOKENS")
HiddenSocket = io.Custom("DIT_HIDDEN")
TrainingSetSocket = io.Custom("DIT_TRAINING_SET")
LossSocket = io.Custom("DIT_LOSS")
PatchScheduleSocket = io.Custom("DIT_PATCH_SCHEDULE")
SteeringSocket = io.Custom("DIT_STEERING")
TokensOrHiddenSocket = io.Custom(f"{TokensSocket.io_type},{HiddenSocket.io_type}")  # an output is of the same kind as the input

STEP_MAX = 10000
_TRAVELS = (TokensSocket.io_type, HiddenSocket.io_type, TokensOrHiddenSocket.io_type, "LATENT", "IMAGE", "MASK")
_KINDS = {TokensSocket.io_type: "tokens", HiddenSocket.io_type: "hidden states", TokensOrHiddenSocket.io_type: "tokens or hidden states"}

EDITORS = "auto"  # the language widget where it follows the editor


def names_errors(execute):
    """Decorator: put the node's display name before the message of a ValueError, so that a user sees where it comes from, and hand on what
    the node gives where the host keeps what lies between nodes."""
    @wraps(execute)
    def named(cls, *args, **kwargs):
        try:
            _check_kinds(cls, kwargs)
            if kwargs.get("language") == EDITORS:  # the editor puts its own in the place of this
                kwargs["language"] = LANGUAGES[0]
            return _at_home(cls, execute(cls, *args, **kwargs))
        except ValueError as error:
            raise ValueError(f"{schema_of(cls).display_name}: {error}") from error
    return named


def sound(check: Callable[..., object], *values: object) -> bool | str:
    """For a node's `validate_inputs`: True, or what a check says of its widgets, before anything runs. Values on wires are not known then."""
    if None in values:
        return True
    try:
        check(*values)
    except ValueError as error:
        return str(error)
    return True


def follows(start_step: int, end_step: int) -> None:
    """Raise ValueError unless there is a step between."""
    if end_step <= start_step:
        raise ValueError(f"end_step {end_step} is not after start_step {start_step}")


def _at_home(cls, given: io.NodeOutput) -> io.NodeOutput:
    """A node's outputs on the host's device for what lies between nodes; latents and pictures in its type."""
    if given.result is None:
        return given
    made = list(given.result)
    for place, (socket, value) in enumerate(zip(schema_of(cls).outputs, made)):
        if socket.io_type in _TRAVELS:
            made[place] = moved(value, host.home())
        if socket.io_type in ("LATENT", "IMAGE"):
            made[place] = host.in_home_type(made[place])
    given.args = tuple(made)
    return given


def schema_of(cls) -> io.Schema:
    """A node's schema, as made when the node was registered. Making a new one would list the files for its widgets again."""
    return cls.SCHEMA or cls.GET_SCHEMA()


def map_sheet_shown(cls, sheet: MapSheet, query: int | None, text: str = "") -> dict:
    """What the editor shows on a node with maps: the picture, and where the maps are in it. query: the image token that was asked for."""
    shown = ui.PreviewImage(sheet.image, cls=cls).as_dict()
    facts = sheet.facts(query) | {"sheet": shown["images"][0]}
    return shown | {"dit_blocks": (facts,)} | (ui.PreviewText(text).as_dict() if text else {})


def decoder(vae):
    """→ a function that decodes latents by a VAE and raises ValueError with one line. Errors of too little memory are left to ComfyUI."""
    def decode(latent: torch.Tensor) -> torch.Tensor:
        try:
            return vae.decode(latent)
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"the vae can't decode a latent of {'×'.join(map(str, latent.shape))}: {said}") from error
    return decode


def keeps_gradients(execute):
    """Decorator: record gradients for a model that learns (`training.textbook.Learner`), although ComfyUI runs nodes in inference mode."""
    @wraps(execute)
    def recorded(cls, dit, *args, **kwargs):
        if not dit.learns:
            return execute(cls, dit, *args, **kwargs)
        with torch.inference_mode(False), torch.enable_grad():
            return execute(cls, dit, *args, **kwargs)
    return recorded


def _check_kinds(cls, inputs: dict) -> None:
    """Raise ValueError if a wire holds another kind than its socket takes. ComfyUI does not check this for loops and for sockets of two kinds."""
    for socket in schema_of(cls).inputs:
        kind, wire = socket.get_io_type(), inputs.get(socket.id)
        if kind not in _KINDS or socket.id not in inputs or (wire is None and socket.optional):
            continue
        if not isinstance(wire, dict) or not ("hidden" in wire or "patch_size" in wire):
            raise ValueError(f"{socket.id} takes {_KINDS[kind]}, this is {_what(wire)}")
        if kind == TokensSocket.io_type and "hidden" in wire:
            raise ValueError(f"{socket.id} takes raw tokens, these are hidden states: put Final Layer before this node")
        if kind == HiddenSocket.io_type and "hidden" not in wire:
            raise ValueError(f"{socket.id} takes hidden states, these are raw tokens: put DiT Condition or Patch Embed before this node")


def _what(wire: object) -> str:
    """The words for a value that is neither tokens nor hidden states."""
    if wire is None:
        return "nothing; in a loop, wire initial_iteration_value and next_iteration_value"
    if isinstance(wire, dict) and "samples" in wire:
        return "a LATENT: put Patchify before this node"
    return f"a {type(wire).__name__}"


def dit_input(optional: bool = False, tooltip: str = "The model, from a DiT loader."):
    return DitSocket.Input("dit", optional=optional, tooltip=tooltip)


def tokens_input(tooltip: str = "Raw patch tokens."):
    return TokensSocket.Input("tokens", tooltip=tooltip)


def tokens_or_hidden_input(tooltip: str, id: str = "x", optional: bool = False):
    return TokensOrHiddenSocket.Input(id, optional=optional, tooltip=tooltip)


def sigmas_input():
    return io.Sigmas.Input("sigmas", tooltip="Noise levels from Sigma Schedule, one more than there are steps.")


def step_input(tooltip: str):
    return io.Int.Input("step", default=0, min=0, max=STEP_MAX, tooltip=tooltip)


def share_inputs():
    return [io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.001, tooltip="Where in sampling it begins. 0 is the first step."),
            io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.001, tooltip="Where in sampling it ends. 1 is the last step.")]


def language_input(optional: bool = True):
    return io.Combo.Input("language", options=[EDITORS, *LANGUAGES], default=EDITORS, optional=optional,
                          tooltip="Language of the words in the picture and the text. auto: the editor's; without an editor, English. Pictures need a "
                                  "system font for Chinese; without one they are English.")


def patch_method_input():
    return io.Combo.Input("patch_method", options=list(METHODS), default="auto", optional=True,
                          tooltip="How to read a patch size that the model was not trained for. native: refuse it. resample: on a coarser latent "
                                  "with a matching noise level. pi_resize: with resized weights, as in FlexiViT. auto: native if possible, else "
                                  "resample, for other sizes than multiples of the model's own pi_resize.")
