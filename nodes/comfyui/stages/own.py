"""A DIT of this library that DiT to MODEL made a MODEL of, by stages. Follows LatentTransformer of model_of_dit.py."""

from torch import Tensor

from ....dit_impl.cost.arithmetic import own_architecture
from ....dit_impl.errors import StagesError
from ....dit_impl.model.dit import DiT
from ....dit_impl.model.mmdit import MMDiT
from ....dit_impl.model.stages import AS_A_MODEL, Hidden, Shape, TokenStages
from ....dit_impl.tokens.patch import patchify, token_grid, unpatchify
from ..model_of_dit import LatentTransformer
from ..patched_model import PATCH_SIZE
from ..patched_regions import check_one_size


class OwnStages(TokenStages):
    def __init__(self, latents: LatentTransformer):
        super().__init__(latents.model, type(latents.model).__name__)
        self.latents = latents

    @property
    def shape(self) -> Shape:
        return super().shape._replace(kind=f"{self.name}{AS_A_MODEL}")

    def architecture(self, name, channels, downscale):
        if not isinstance(self.latents.model, (MMDiT, DiT)):
            return super().architecture(name, channels, downscale)
        return own_architecture(self.latents.model, name, downscale)

    @property
    def patch_size(self) -> int:
        return self.latents.patch_size

    @property
    def context_width(self) -> int:
        raise StagesError(f"the width of the text that {self.name} reads is its own affair")

    def condition(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, control=None, transformer_options=None, **arguments) -> Hidden:
        """Embed time and text, and keep the latent [B, C, H, W]."""
        options = transformer_options or {}
        check_one_size(options)
        if x.dtype != self.latents.dtype and not self.latents.layers_cast:
            raise StagesError(f"{self.name} is asked to compute in another type than its weights have, which it can't in stages")
        p, size = options.get(PATCH_SIZE, self.latents.patch_size), tuple(x.shape[-2:])
        if context is not None:
            arguments["context"] = context
        hidden = super().condition(patchify(x, p), token_grid(*size, p), p, timesteps, **arguments)
        return hidden.but(extra={"latent": x, "size": size, "transformer_options": options, "times": timesteps})

    def head(self, hidden: Hidden) -> Tensor:
        extra = hidden.extra
        prediction = unpatchify(super().head(hidden), extra["patch_size"], extra["size"])
        return self.latents.answered(prediction, extra["latent"], extra["times"], extra["transformer_options"])
