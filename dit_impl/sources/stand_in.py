"""What stands where ComfyUI's nodes expect a CLIP or a VAE: it answers those of their calls that mean something, the others in one line."""

import copy
from typing import NoReturn

from torch import Tensor, nn

from ..errors import StandInError
from ..model.conditioning import Conditioning


class StandIn:
    """`kind` of thing it stands for, `of` which model, and what it can `do`, for the line that it answers to all else."""
    kind, of, does = "CLIP", "this model", "encodes prompts"

    def __getattr__(self, name: str) -> NoReturn:
        """Called for what is not there. An AttributeError, so that code which asks whether it is there goes on."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise StandInError(f"the {self.kind} of {self.of} {self.does}, and has no {name}, which this node asks for")


class Tokens(dict):
    """A prompt's tokens by the name of their encoder. What another encoder's node asks for is told in one line."""

    def __init__(self, values: dict, of: str):
        super().__init__(values)
        self.of = of

    def __missing__(self, name: str) -> NoReturn:
        raise StandInError(f"the CLIP of {self.of} has one text encoder, and no tokens for {name!r}: use CLIP Text Encode")


class Patcher(StandIn):
    """What holds changes to a text encoder's weights in ComfyUI. None can be made here; what is noted beside them is let go."""
    kind, does = "text encoder", "is used as it is"

    def __init__(self, of: str):
        self.of = of

    def set_attachments(self, *_) -> None:
        pass


class StandInCLIP(StandIn):
    """A CLIP that gives a CONDITIONING for tokens: what remains is ComfyUI's other ways to ask for it."""

    def encode_from_tokens_scheduled(self, tokens: dict, add_dict: dict | None = None, **_) -> Conditioning:
        """→ CONDITIONING, one pair, with `add_dict` beside its tensor."""
        return [[states, {**extras, **(add_dict or {})}] for states, extras in self.conditioning(tokens)]

    def encode_from_tokens(self, tokens: dict, return_pooled: bool = False, return_dict: bool = False):
        """→ states [1, T, E]; with the pooled vector [1, P]; or both in a dict."""
        ((states, extras),) = self.conditioning(tokens)
        if return_dict:
            return {"cond": states, **extras}
        return (states, extras.get("pooled_output")) if return_pooled else states

    def encode(self, text: str) -> Tensor:
        return self.encode_from_tokens(self.tokenize(text))

    def clone(self, **_) -> "StandInCLIP":
        return copy.copy(self)

    def load_model(self, *_, **__) -> NoReturn:
        """Asked for by nodes that save a CLIP."""
        raise StandInError(f"the CLIP of {self.of} is no CLIP that ComfyUI's loaders know: it comes with its DIT's own loader")

    state_dict_for_saving = get_sd = load_model

    def conditioning(self, tokens: dict) -> Conditioning:
        """Tokens, as `tokenize` gave them → CONDITIONING."""
        raise NotImplementedError

    @property
    def patcher(self) -> Patcher:
        return Patcher(self.of)

    @property
    def cond_stage_model(self) -> nn.Module:
        """The module whose weights a LoRA may name."""
        raise NotImplementedError

    def add_patches(self, patches: dict, strength_patch: float = 1.0, strength_model: float = 1.0) -> list[str]:
        """What a LoRA has for this text encoder: nothing, or it is refused, for it would be left out. Raises StandInError."""
        if patches.keys() & self.cond_stage_model.state_dict().keys() and strength_patch:
            raise StandInError(f"this LoRA changes the text encoder of {self.of}, which can't be done: set strength_clip to 0")
        return []


class StandInVAE(StandIn):
    """A VAE that encodes and decodes whole pictures, without tiles: what remains is ComfyUI's other ways to ask for it."""
    kind, does = "VAE", "encodes and decodes pictures"
    downscale_ratio: int

    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures [B, H, W, C] in 0..1 → latents [B, C, h, w]."""
        raise NotImplementedError

    def decode(self, latent: Tensor) -> Tensor:
        """Latents [B, C, h, w] → pictures [B, H, W, 3] in 0..1."""
        raise NotImplementedError

    def encode_tiled(self, pixels: Tensor, **_) -> Tensor:
        return self.encode(pixels)

    def decode_tiled(self, latent: Tensor, **_) -> Tensor:
        return self.decode(latent)

    def spacial_compression_encode(self) -> int:
        return self.downscale_ratio

    spacial_compression_decode = spacial_compression_encode

    def temporal_compression_decode(self) -> None:
        return None
