"""Shows and uploads pictures of the input, output and temp folders."""

import asyncio
from io import BytesIO
import json
import mimetypes
import os
from pathlib import Path
import re
import threading
from typing import BinaryIO, Callable

from aiohttp import web
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ...dit_impl.sources.atomic import reason, replace_atomically, write_new
from ..core_nodes import EXAMPLE, draw_example
from ..errors import one_line, shown
from ..images import PICTURE_SUFFIXES
from .state import STATE, Route, bad, inside, missing

KINDS = ("input", "output", "temp")
# An SVG can hold a program, which would run as one of our own pages.
SAFE_SUFFIXES = PICTURE_SUFFIXES - {".svg"}
LARGEST_PREVIEW = 16383  # the most that WebP takes
_DRAWING = threading.Lock()


def _folder(request: web.Request, kind: str) -> Path:
    if kind not in KINDS:
        raise bad(f"type {kind!r} is not one of {', '.join(KINDS)}")
    return request.app[STATE].folders.of(kind)


def _find(request: web.Request, name: str, below: str, kind: str) -> Path:
    """The path of `x.png` in the folder `kind`, or of `x.png [temp]` in the folder that it names."""
    if not name:
        raise bad("filename is missing")
    for other in KINDS:
        if name.endswith(f"[{other}]"):
            name, kind = name.removesuffix(f"[{other}]").rstrip(), other
    path = inside(_folder(request, kind), below, name)
    if path.is_file():
        return path
    if (name, below, kind) == (EXAMPLE, "", "input"):
        return _drawn_example(_folder(request, "temp") / EXAMPLE)
    raise missing(f"there is no file {name!r} in the {kind} folder")


def _drawn_example(path: Path) -> Path:
    """Write the picture that LoadImage draws when example.png is missing: → `path`."""
    # A page asks for it several times at once.
    with _DRAWING:
        if not path.is_file():
            pixels = draw_example()[0].mul(255).round().byte().numpy()
            replace_atomically(path, lambda aside: Image.fromarray(pixels).save(aside, "PNG"))
    return path


def _opened(file: Path | BinaryIO, name: str) -> Image.Image:
    """Decode a picture; 400 if it is not one."""
    try:
        image = Image.open(file)
        image.load()
        return image
    except Exception as error:
        # Decoders raise all sorts of things at what is spoiled.
        why = "it is not a picture that can be read" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise bad(f"{name}: {why}") from error


async def list_files(request: web.Request) -> web.Response:
    """`x.png [input]` for every file in a folder, the newest first."""
    kind = request.match_info["kind"]
    folder = _folder(request, kind)
    found = [entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith(".")] if folder.is_dir() else []
    found.sort(key=lambda entry: entry.lstat().st_mtime, reverse=True)
    return web.json_response([f"{entry.name} [{kind}]" for entry in found])


# --- showing ---

async def view(request: web.Request) -> web.StreamResponse:
    """A file as it is; a smaller copy of a picture (`preview=webp;90`); or its colours or its alpha alone (`channel`)."""
    query = request.query
    path = await asyncio.to_thread(_find, request, query.get("filename", ""), query.get("subfolder", ""), query.get("type", "output"))
    channel = query.get("channel", "")
    if "preview" in query:
        return await asyncio.to_thread(_preview, path, query["preview"], channel)
    if channel in ("rgb", "a"):
        return await asyncio.to_thread(_channel, path, channel)
    safe = path.suffix.lower() in SAFE_SUFFIXES
    return web.FileResponse(path, headers={
        "Content-Type": safe and mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        "Content-Disposition": "inline" if safe else "attachment", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"})


def _preview(path: Path, wanted: str, channel: str) -> web.Response:
    words = wanted.split(";")
    kind = "jpeg" if words[0] == "jpeg" and "a" not in channel else "webp"
    quality = int(words[-1]) if re.fullmatch("[0-9]{1,3}", words[-1]) else 90
    image = _opened(path, path.name)
    image.thumbnail((LARGEST_PREVIEW, LARGEST_PREVIEW))
    return _encoded(image.convert("RGB") if kind == "jpeg" or channel == "rgb" else image, kind, quality=min(quality, 100))


def _channel(path: Path, channel: str) -> web.Response:
    image = _opened(path, path.name)
    if channel == "rgb":
        return _encoded(image.convert("RGB"), "png")
    alpha = Image.new("RGBA", image.size)
    alpha.putalpha(image.convert("RGBA").getchannel("A"))
    return _encoded(alpha, "png")


def _encoded(image: Image.Image, kind: str, **options: int) -> web.Response:
    file = BytesIO()
    try:
        image.save(file, kind.upper(), **options)
    except (OSError, ValueError) as error:
        raise bad(f"this picture can't be shown as {kind}: {one_line(error)}") from error
    return web.Response(body=file.getvalue(), content_type=f"image/{kind}")


# --- uploading ---

async def upload_image(request: web.Request) -> web.Response:
    """Save an uploaded picture. If another picture has its name it gets a new one, unless `overwrite` is set."""
    return await _upload(request, lambda post, data: data)


async def upload_mask(request: web.Request) -> web.Response:
    """Put the alpha of an uploaded picture into a copy of another one, which keeps its texts."""
    return await _upload(request, lambda post, data: _masked(_original(request, post), data))


async def _upload(request: web.Request, made: Callable[[dict, bytes], bytes]) -> web.Response:
    try:
        post = await request.post()
    except ValueError as error:
        raise bad(f"the upload is not a form: {one_line(error)}") from error
    file = post.get("image")
    if not isinstance(file, web.FileField) or not file.filename:
        raise bad("the upload has no file named image")
    kind, below = str(post.get("type", "input")), str(post.get("subfolder", ""))
    path = inside(_folder(request, kind), below, file.filename)
    if path.suffix.lower() not in SAFE_SUFFIXES:
        raise bad(f"{file.filename}: only pictures can be uploaded ({', '.join(sorted(SAFE_SUFFIXES))})")
    uploaded = file.file.read()
    await asyncio.to_thread(_opened, BytesIO(uploaded), file.filename)
    data = await asyncio.to_thread(made, dict(post), uploaded)
    try:
        if str(post.get("overwrite")) in ("true", "1"):
            await asyncio.to_thread(replace_atomically, path, lambda aside: aside.write_bytes(data))
        else:
            path = await asyncio.to_thread(_save_new, path, data)
    except OSError as error:
        raise bad(f"{shown(file.filename)} cannot be saved: {reason(error)}") from error
    return web.json_response({"name": path.name, "subfolder": below, "type": kind})


def _save_new(path: Path, data: bytes) -> Path:
    """Save as `x.png`, or as `x (1).png` … if there is another file of that name: → where. The same file again is not saved twice."""
    def numbered(number: int) -> Path:
        return path.with_name(f"{path.stem} ({number}){path.suffix}") if number else path
    number = 0
    while os.path.lexists(numbered(number)):
        if numbered(number).is_file() and numbered(number).read_bytes() == data:
            return numbered(number)
        number += 1
    return write_new(numbered, number, lambda aside: aside.write_bytes(data))


def _original(request: web.Request, post: dict) -> Path:
    """The path of the picture that a mask is for."""
    try:
        named = json.loads(str(post.get("original_ref")))
        name, below, kind = str(named["filename"]), str(named.get("subfolder", "")), str(named.get("type", "output"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise bad("original_ref does not name a picture") from error
    return _find(request, name, below, kind)


def _masked(original: Path, mask: bytes) -> bytes:
    image, alpha = _opened(original, original.name), _opened(BytesIO(mask), "the mask").convert("RGBA").getchannel("A")
    texts = PngImagePlugin.PngInfo()
    for name, text in getattr(image, "text", {}).items():
        texts.add_text(name, text)
    if alpha.size != image.size:
        raise bad(f"the mask is {alpha.size[0]}×{alpha.size[1]}, the picture {image.size[0]}×{image.size[1]}")
    masked, file = image.convert("RGBA"), BytesIO()
    masked.putalpha(alpha)
    masked.save(file, "PNG", pnginfo=texts, compress_level=4)
    return file.getvalue()


ROUTES: list[Route] = [
    ("GET", "/view", view), ("POST", "/upload/image", upload_image), ("POST", "/upload/mask", upload_mask),
    ("GET", "/internal/files/{kind}", list_files),
]
