"""From pictures to latents and back."""

from fractions import Fraction

from comfy_api.v0_0_2 import io, ui
import torch

from ..dit_impl.sources import pixel_space
from .wires import dit_input, names_errors


def compression(pixels, latent) -> str:
    """`512×512×3 → 64×64×4: 1/48 of the values`."""
    _, height, width, channels = pixels.shape
    latent_channels, h, w = latent.shape[1], *latent.shape[-2:]
    share = Fraction(h * w * latent_channels, height * width * channels).limit_denominator(1000)
    return f"{height}×{width}×{channels} → {h}×{w}×{latent_channels}: {share} of the values"


class VAEEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksVAEEncode",
            display_name="VAE Encode (DiT)",
            category="DiT Blocks/latent",
            description="Compress a picture into a latent, and show by how much. A DiT cuts its patches from latents, not from pixels.",
            search_aliases=["image to latent", "compression", "encode picture"],
            has_intermediate_output=True,  # so that the report also shows when the result comes from the cache
            inputs=[
                io.Image.Input("pixels", tooltip="The picture."),
                io.Vae.Input("vae", tooltip="Any image VAE."),
            ],
            outputs=[io.Latent.Output("latent", display_name="latent", tooltip="The picture as a latent.")],
        )

    @classmethod
    @names_errors
    def execute(cls, pixels, vae) -> io.NodeOutput:
        latent = vae.encode(pixels)
        return io.NodeOutput({"samples": latent}, ui=ui.PreviewText(compression(pixels, latent)))


class VAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksVAEDecode",
            display_name="VAE Decode (DiT)",
            category="DiT Blocks/latent",
            description="Turn a latent back into a picture.",
            search_aliases=["latent to image", "decode picture"],
            inputs=[
                io.Latent.Input("latent", tooltip="The latent, from Unpatchify."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the latent."),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The picture.")],
        )

    @classmethod
    @names_errors
    def execute(cls, latent, vae) -> io.NodeOutput:
        image = vae.decode(latent["samples"])
        return io.NodeOutput(image.flatten(0, 1) if image.dim() == 5 else image)


class PixelSpace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksPixelSpace",
            display_name="Pixel Space",
            category="DiT Blocks/latent",
            description="No VAE: pictures as they are, 3 channels, one cell for each pixel. The patch embedding of a DiT then reads pixels.",
            search_aliases=["pixel diffusion", "without VAE", "identity VAE", "no VAE"],
            outputs=[io.Vae.Output("vae", display_name="vae", tooltip="For every input that takes a VAE.")],
        )

    @classmethod
    @names_errors
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(pixel_space.PixelSpace())


class EmptyLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiTBlocksEmptyLatent",
            display_name="Empty Latent (DiT)",
            category="DiT Blocks/latent",
            description="An empty latent with the channels and size that the model needs, to start from noise.",
            search_aliases=["EmptyLatentImage", "blank latent", "picture size"],
            inputs=[
                dit_input(tooltip="The model that the latent is for."),
                io.Int.Input("width", default=256, min=16, max=8192, step=8, tooltip="Of the picture, in pixels."),
                io.Int.Input("height", default=256, min=16, max=8192, step=8, tooltip="Of the picture, in pixels."),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="How many pictures."),
            ],
            outputs=[io.Latent.Output("latent", display_name="latent", tooltip="An empty latent for the model.")],
        )

    @classmethod
    @names_errors
    def execute(cls, dit, width, height, batch_size) -> io.NodeOutput:
        samples = torch.zeros(batch_size, dit.channels, height // dit.downscale, width // dit.downscale)
        return io.NodeOutput({"samples": samples, "downscale_ratio_spacial": dit.downscale})
