"""Pictures on disk: [B, H, W, C] tensors of 0..1 in, numbered PNG files out, and back."""

from io import BytesIO
from itertools import islice
import json
import os
from pathlib import Path
import re
import time

import numpy as np
from PIL import Image, ImageOps, ImageSequence, PngImagePlugin, UnidentifiedImageError
import torch
from torch import Tensor

from ..dit_impl.sources.atomic import write_new
from .errors import WorkflowError, one_line

# Of all frames of a file. Past the second number a file must have bytes for its pixels: a few of them can tell of any size.
MOST_PIXELS, PIXELS_UNASKED, PIXELS_A_BYTE = 2 ** 27, 2 ** 23, 2000
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jxl", ".apng", ".svg"}


def metadata(prompt: dict | None, extra_pnginfo: dict | None) -> dict[str, str]:
    """The texts for a PNG, from which ComfyUI restores the workflow when the picture is dropped on it."""
    texts = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return texts | {name: json.dumps(value) for name, value in (extra_pnginfo or {}).items()}


def texts_of(data: bytes) -> dict[str, str] | None:
    """The texts that a PNG carries, or those that ComfyUI puts into the EXIF of a WebP (`workflow:{…}`); None if it is no such picture."""
    if not (data.startswith(b"\x89PNG\r\n\x1a\n") or data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return None
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()  # texts may follow the pixels
            texts = {name: text for name, text in getattr(image, "text", {}).items() if isinstance(text, str)}
            for value in image.getexif().values():
                name, colon, text = value.partition(":") if isinstance(value, str) else ("", "", "")
                if colon:
                    texts.setdefault(name, text.rstrip("\0"))
            return texts
    except Exception as error:  # decoders raise all sorts of things at what is spoiled
        raise WorkflowError(f"not a picture that can be read: {one_line(error)}") from error


def save_pngs(pictures: Tensor, prefix: str, kind: str, folder: Path, texts: dict[str, str],
              compress_level: int = 4) -> list[dict[str, str]]:
    """Save [B, H, W, C] in 0..1 as `<prefix>_00001_.png` … in `folder`, or below it if `prefix` says so: → the entries that nodes show."""
    height, width = pictures.shape[1:3]
    below, stem, number = numbered(prefix, kind, folder, width, height)
    target = folder / below
    results = []
    for index, picture in enumerate(pictures):
        name = stem.replace("%batch_num%", str(index))
        pixels = np.clip(255 * picture.detach().cpu().float().numpy(), 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        info = PngImagePlugin.PngInfo()
        for key, text in texts.items():
            info.add_text(key, text)
        path = write_new(lambda at: target / f"{name}_{at:05}_.png", number + 1,
                         lambda aside: image.save(aside, "PNG", pnginfo=info, compress_level=compress_level))
        number = int(path.name.removeprefix(f"{name}_")[:-len("_.png")])
        results.append({"filename": path.name, "subfolder": below, "type": kind})
    return results


def numbered(prefix: str, kind: str, folder: Path, width: int = 0, height: int = 0) -> tuple[str, str, int]:
    """A filename_prefix → the folder it names below `folder`, the stem of the files there, and the last number they have."""
    below, stem = os.path.split(os.path.normpath(_fill_in(prefix, width, height)))
    target = folder / below
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"filename_prefix {prefix!r} leaves the {kind} folder")
    return below, stem, _last_number(target, stem) if target.is_dir() else 0


def load_picture(path: Path) -> tuple[Tensor, Tensor]:
    """A picture file → its frames [B, H, W, 3] and what their alpha hides [B, H, W] (64 × 64 zeros without alpha). Frames of another size
    than the first one are left out, as in ComfyUI. Raises ValueError, FileNotFoundError."""
    try:
        with Image.open(path) as image:
            # A camera's second picture (MPO) is no animation.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            pixels = image.width * image.height * frames
            if pixels > MOST_PIXELS or pixels > PIXELS_UNASKED and pixels > PIXELS_A_BYTE * path.stat().st_size:
                raise ValueError(f"{frames} frames of {image.width}×{image.height} pixels in {path.stat().st_size:,} bytes are not loaded; "
                                 f"the most is {MOST_PIXELS:,} pixels")
            read = []
            for frame in islice(ImageSequence.Iterator(image), frames):
                pixels, alpha = _frame(frame)
                if not read or pixels.shape == read[0][0].shape:
                    read.append((pixels, alpha))
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise all sorts of things at what is spoiled
        why = "it is not a picture that can be read" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise ValueError(f"{path.name}: {why}") from error
    clear = any(alpha is not None for _, alpha in read)
    masks = [np.zeros(pixels.shape[:2], np.float32) if alpha is None else 1 - alpha for pixels, alpha in read] if clear else []
    mask = torch.from_numpy(np.stack(masks)) if clear else torch.zeros(len(read), 64, 64)
    return torch.from_numpy(np.stack([pixels for pixels, _ in read])), mask


def _frame(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """One frame, turned as its camera says: pixels [H, W, 3] and alpha [H, W], both in 0..1; None without alpha."""
    clear = "A" in image.getbands() or "transparency" in image.info or image.mode == "P"
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.float32) / 65535
        pixels = np.repeat(grey[..., None], 3, axis=-1)
    else:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return pixels.copy(), np.asarray(image.convert("RGBA").getchannel("A"), dtype=np.float32) / 255 if clear else None


def _fill_in(prefix: str, width: int, height: int) -> str:
    now = time.localtime()
    values = {"width": str(width), "height": str(height), "year": str(now.tm_year)}
    values |= {name: f"{value:02}" for name, value in zip(
        ("month", "day", "hour", "minute", "second"), (now.tm_mon, now.tm_mday, now.tm_hour, now.tm_min, now.tm_sec))}
    return re.sub("%(" + "|".join(values) + ")%", lambda match: values[match[1]], prefix)


def _last_number(folder: Path, stem: str) -> int:
    numbered = re.compile(re.escape(stem) + r"_(\d+)(?:_.*|\..*)?$")
    return max((int(match[1]) for match in map(numbered.match, os.listdir(folder)) if match), default=0)
