"""The few nodes of ComfyUI's core that the pack's workflows use, under their own names and with their own sockets."""

import hashlib
import os
from pathlib import Path
import random
import string

import torch

from . import images
from .folders import current

# ComfyUI ships this picture in its input folder; here it is drawn where there is none.
EXAMPLE = "example.png"
EXAMPLE_SIZE = 768


class LoadImage:
    SEARCH_ALIASES = ["load image", "open image", "import image", "image input", "upload image", "read image",
                      "image loader"]
    ESSENTIALS_CATEGORY = "Basics"
    DISPLAY_NAME = "Load Image"
    CATEGORY = "image"
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "load_image"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": (_pictures(), {"image_upload": True})}}

    def load_image(self, image):
        path = _find(image)
        return images.load_picture(path) if path else (draw_example(), torch.zeros(1, 64, 64))

    @classmethod
    def IS_CHANGED(cls, image):
        path = _find(image)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path else EXAMPLE

    @classmethod
    def VALIDATE_INPUTS(cls, image):
        # A wired name is only known when the node runs.
        if image is not None:
            _find(image)
        return True


class SaveImage:
    SEARCH_ALIASES = ["save", "save image", "export image", "output image", "write image", "download"]
    ESSENTIALS_CATEGORY = "Basics"
    DISPLAY_NAME = "Save Image"
    DESCRIPTION = "Saves the input images to your ComfyUI output directory."
    CATEGORY = "image"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    kind, suffix, compress_level = "output", "", 4

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The images to save."}),
                "filename_prefix": ("STRING", {"default": "ComfyUI", "tooltip": (
                    "The prefix for the file to save. This may include formatting information such as "
                    "%date:yyyy-MM-dd% or %Empty Latent Image.width% to include values from nodes.")}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def save_images(self, images, filename_prefix="ComfyUI", prompt=None, extra_pnginfo=None):
        saved = _save(images, filename_prefix + self.suffix, self.kind, prompt, extra_pnginfo, self.compress_level)
        return {"ui": {"images": saved}, "result": (images,)}


class PreviewImage(SaveImage):
    SEARCH_ALIASES = ["preview", "preview image", "show image", "view image", "display image", "image viewer"]
    DISPLAY_NAME = "Preview Image"
    DESCRIPTION = "Preview the images without saving them to the ComfyUI output directory."
    kind, compress_level = "temp", 1

    def __init__(self):
        self.suffix = "_temp_" + "".join(random.choices(string.ascii_lowercase, k=5))

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}, "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}


class CLIPTextEncode:
    SEARCH_ALIASES = ["text", "prompt", "text prompt", "positive prompt", "negative prompt", "encode text",
                      "text encoder", "encode prompt"]
    DISPLAY_NAME = "CLIP Text Encode (Prompt)"
    DESCRIPTION = ("Encodes a text prompt using a CLIP model into an embedding that can be used to guide the "
                   "diffusion model towards generating specific images.")
    CATEGORY = "model/conditioning"
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("A conditioning containing the embedded text used to guide the diffusion model.",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "text": ("STRING", {"multiline": True, "dynamicPrompts": True, "tooltip": "The text to be encoded."}),
            "clip": ("CLIP", {"tooltip": "The CLIP model used for encoding the text."}),
        }}

    def encode(self, clip, text):
        return (clip.encode_from_tokens_scheduled(clip.tokenize(text)),)


class VAEEncode:
    SEARCH_ALIASES = ["encode", "encode image", "image to latent"]
    DISPLAY_NAME = "VAE Encode"
    CATEGORY = "model/latent"
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",)}}

    def encode(self, vae, pixels):
        return ({"samples": vae.encode(pixels)},)


class VAEDecode:
    SEARCH_ALIASES = ["decode", "decode latent", "latent to image", "render latent"]
    DISPLAY_NAME = "VAE Decode"
    DESCRIPTION = "Decodes latent images back into pixel space images."
    CATEGORY = "model/latent"
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The decoded image.",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT", {"tooltip": "The latent to be decoded."}),
                             "vae": ("VAE", {"tooltip": "The VAE model used for decoding the latent."})}}

    def decode(self, vae, samples):
        return (vae.decode(samples["samples"]),)


class EmptyLatentImage:
    SEARCH_ALIASES = ["empty", "empty latent", "new latent", "create latent", "blank latent", "blank"]
    DISPLAY_NAME = "Empty Latent Image"
    DESCRIPTION = "Create a new batch of empty latent images to be denoised via sampling."
    CATEGORY = "model/latent"
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The empty latent image batch.",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls):
        def pixels(side):
            return ("INT", {"default": 512, "min": 16, "max": 16384, "step": 8,
                            "tooltip": f"The {side} of the latent images in pixels."})
        return {"required": {
            "width": pixels("width"),
            "height": pixels("height"),
            "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096,
                                   "tooltip": "The number of latent images in the batch."}),
        }}

    def generate(self, width, height, batch_size=1):
        return ({"samples": torch.zeros(batch_size, 4, height // 8, width // 8), "downscale_ratio_spacial": 8},)


NODES = {node.__name__: node for node in (LoadImage, SaveImage, PreviewImage, CLIPTextEncode, VAEEncode, VAEDecode,
                                          EmptyLatentImage)}


def _save(pictures, prefix, kind, prompt, extra_pnginfo, compress_level):
    return images.save_pngs(pictures, prefix, kind, current().of(kind), images.metadata(prompt, extra_pnginfo),
                            compress_level)


def _pictures() -> list[str]:
    """The names that LoadImage offers: the picture files of the input folder, and the example."""
    folder = current().input
    found = [entry.name for entry in folder.iterdir() if entry.suffix.lower() in images.PICTURE_SUFFIXES
             and entry.is_file() and not entry.name.startswith(".")] if folder.is_dir() else []
    return sorted({*found, EXAMPLE})


def _find(name: str) -> Path | None:
    """`sub/x.png` or `x.png [output]` → its path; None for the example picture if there is no such file."""
    kind = "input"
    for other in ("input", "output", "temp"):
        if name.endswith(f" [{other}]"):
            name, kind = name.removesuffix(f" [{other}]"), other
    folder = current().of(kind)
    path = Path(os.path.abspath(folder / name))
    if not path.is_relative_to(os.path.abspath(folder)):
        raise ValueError(f"picture {name!r} is outside the {kind} folder")
    if path.is_file():
        return path
    if (name, kind) == (EXAMPLE, "input"):
        return None
    raise FileNotFoundError(f"there is no picture {name!r} in the {kind} folder, {folder}")


def draw_example() -> torch.Tensor:
    """A still life of occluding shapes [1, H, W, 3], in the 256 levels that a file would have."""
    from ..dit_impl.training.default_model import textures

    picture = textures.dead_leaves(EXAMPLE_SIZE, random.Random(7)).clamp(0, 1)
    return (picture * 255).round().div(255).permute(1, 2, 0).contiguous()[None]
