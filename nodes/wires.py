"""The pack's own socket types, and the one place where a node's name is put before its error."""

from functools import wraps

from comfy_api.v0_0_2 import io

Dit = io.Custom("DIT")
Tokens = io.Custom("DIT_TOKENS")
Hidden = io.Custom("DIT_HIDDEN")

STEP_MAX = 10000


def names_errors(execute):
    """Put the node's display name before the message of a ValueError, so that a user sees where it comes from."""
    @wraps(execute)
    def named(cls, *args, **kwargs):
        try:
            return execute(cls, *args, **kwargs)
        except ValueError as error:
            raise ValueError(f"{cls.define_schema().display_name}: {error}") from error
    return named


def dit_input(optional: bool = False, tooltip: str = "The model, from a DiT loader."):
    return Dit.Input("dit", optional=optional, tooltip=tooltip)


def tokens_input(tooltip: str = "Raw patch tokens."):
    return Tokens.Input("tokens", tooltip=tooltip)


def sigmas_input():
    return io.Sigmas.Input("sigmas", tooltip="Noise levels from a Sigma Schedule, one more than there are steps.")


def step_input(tooltip: str):
    return io.Int.Input("step", default=0, min=0, max=STEP_MAX, tooltip=tooltip)
