"""Core's nodes that read a folder of pictures, with or without captions, under their own names and with their own sockets."""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
import logging
import os
from pathlib import Path

from torch import Tensor

from .folders import current
from .images import load_picture

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ALIASES = ["load folder", "load from folder", "load dataset", "load images", "import dataset"]


class LoadImageDataSetFromFolder:
    SEARCH_ALIASES = ALIASES
    DISPLAY_NAME = "Load Image (from Folder)"
    DESCRIPTION = "Load a dataset of images from a specified folder and return a list of images. Supported formats: PNG, JPG, JPEG, WEBP."
    CATEGORY = "image"
    EXPERIMENTAL = True
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_IS_LIST = (True,)
    OUTPUT_TOOLTIPS = ("List of loaded images",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"folder": (_subfolders(), {"tooltip": "The folder to load images from."})}}

    def execute(self, folder):
        return ([picture for _, picture in _read(_pictures(_inside(folder)))],)


class LoadImageTextDataSetFromFolder(LoadImageDataSetFromFolder):
    DISPLAY_NAME = "Load Image-Text (from Folder)"
    DESCRIPTION = ("Load a dataset of pairs of images and text captions from a specified folder and return them as a list. "
                   "Supported formats: PNG, JPG, JPEG, WEBP.")
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("images", "texts")
    OUTPUT_IS_LIST = (True, True)
    OUTPUT_TOOLTIPS = ("List of loaded images", "List of text captions")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"folder": (_subfolders(), {"tooltip": "The folder to load images and text captions from."})}}

    def execute(self, folder):
        return read_folder(_inside(folder))


NODES = {node.__name__: node for node in (LoadImageDataSetFromFolder, LoadImageTextDataSetFromFolder)}


def read_folder(folder: Path) -> tuple[list[Tensor], list[str]]:
    """Pictures [1, H, W, 3] of a folder, and captions from text files of the same names; empty if there is no such file."""
    paths = _pictures(folder)
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):  # kohya's folders: the number before _ says how often
        times = below.name.split("_")[0]
        paths += _pictures(below) * (int(times) if times.isdecimal() else 1)
    read = _read(paths)
    return [picture for _, picture in read], [_caption(path.with_suffix(".txt")) for path, _ in read]


def _caption(path: Path) -> str:
    """What a text file says, in UTF-8 or with a byte order mark; nothing if there is none. Raises ValueError."""
    try:
        data = path.read_bytes() if path.is_file() else b""
        return data.decode("utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path.name}: a caption is UTF-8 text, this is not") from None


def _subfolders() -> list[str]:
    root = current().input
    return sorted(Path(folder).relative_to(root).as_posix() for folder, _, _ in os.walk(root) if Path(folder) != root)


def _inside(name: str) -> Path:
    """A folder below the input folder. Raises ValueError, FileNotFoundError."""
    root = Path(os.path.abspath(current().input))
    folder = Path(os.path.abspath(root / name))
    if not folder.is_relative_to(root):
        raise ValueError(f"folder {name!r} is outside the input folder")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {name!r} in the input folder, {root}")
    return folder


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _read(paths: list[Path]) -> list[tuple[Path, Tensor]]:
    """Read pictures: → (path, pixels). Those that cannot be read are named in the log."""
    read, skipped = [], []
    for path in paths:
        try:
            read.append((path, load_picture(path)[0][:1]))  # as ComfyUI: of an animation the first frame, which has the caption
        except ValueError as error:
            skipped.append(str(error))
    if skipped:
        log.warning("skipped %d of %d pictures: %s", len(skipped), len(paths), "; ".join(skipped))
    if not read:
        raise ValueError("No valid images found in input")
    return read
