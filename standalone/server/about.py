"""Answers about the server, its nodes and its models."""

import os
from pathlib import Path
import sys

from aiohttp import web
import torch

from .. import pack
from ..node_types import NodeType
from .state import STATE, Route, State, bad, inside, missing

# The version whose calls these are.
COMFYUI = "0.33.0"
MODEL_FOLDERS = ("diffusion_models", "diffusers")
MODEL_SUFFIX = ".safetensors"


async def object_info(request: web.Request) -> web.Response:
    """Every node, as `dit-blocks nodes --json` prints them."""
    classes = request.app[STATE].executor.classes
    return web.json_response({name: NodeType(name, cls).info() for name, cls in classes.items()})


def features(state: State) -> dict:
    return {"supports_preview_metadata": True, "max_upload_size": state.max_upload, "node_replacements": True, "assets": False}


async def get_features(request: web.Request) -> web.Response:
    return web.json_response(features(request.app[STATE]))


async def system_stats(request: web.Request) -> web.Response:
    total, free = _memory("SC_PHYS_PAGES"), _memory("SC_AVPHYS_PAGES")
    device = {"name": pack.device(), "type": pack.device(), "index": None, "vram_total": total, "vram_free": free,
              "torch_vram_total": total, "torch_vram_free": free}
    # The option with which ComfyUI's front end asks no other server for news.
    system = {"os": sys.platform, "ram_total": total, "ram_free": free, "comfyui_version": COMFYUI, "python_version": sys.version,
              "pytorch_version": torch.__version__, "embedded_python": False, "argv": [*sys.argv, "--disable-api-nodes"]}
    return web.json_response({"system": system, "devices": [device]})


def _memory(pages: str) -> int:
    """Bytes of memory; 0 if the system does not tell."""
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


# --- models ---

def _models(request: web.Request) -> Path:
    folder = request.match_info["folder"]
    if folder not in MODEL_FOLDERS:
        raise missing(f"there is no folder of models {folder!r}")
    return request.app[STATE].folders.models / folder


async def model_folders(request: web.Request) -> web.Response:
    models = request.app[STATE].folders.models
    return web.json_response([{"name": name, "folders": [str(models / name)], "extensions": [MODEL_SUFFIX]} for name in MODEL_FOLDERS])


async def model_files(request: web.Request) -> web.Response:
    folder = _models(request)
    files = sorted(path for path in folder.rglob(f"*{MODEL_SUFFIX}") if path.is_file())
    return web.json_response([{"name": path.relative_to(folder).as_posix(), "pathIndex": 0, "size": path.stat().st_size,
                               "modified": path.stat().st_mtime, "created": path.stat().st_ctime} for path in files])


async def model_metadata(request: web.Request) -> web.Response:
    """The metadata of a safetensors file."""
    name = request.query.get("filename", "")
    path = inside(_models(request), name)
    if not path.is_file() or path.suffix != MODEL_SUFFIX:
        raise missing(f"there is no model {name!r}")
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, "pt") as file:
            return web.json_response(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise bad(f"{name}: it is not a safetensors file") from error


async def embeddings(request: web.Request) -> web.Response:
    return web.json_response([])


async def folder_paths(request: web.Request) -> web.Response:
    models = request.app[STATE].folders.models
    return web.json_response({name: [str(models / name)] for name in MODEL_FOLDERS})


# --- the log, which is on the terminal and nowhere else ---

async def logs(request: web.Request) -> web.Response:
    return web.json_response("")


async def raw_logs(request: web.Request) -> web.Response:
    return web.json_response({"entries": [], "size": {"cols": 80, "rows": 24}})


async def subscribe_to_logs(request: web.Request) -> web.Response:
    return web.Response()


ROUTES: list[Route] = [
    ("GET", "/object_info", object_info), ("GET", "/features", get_features), ("GET", "/system_stats", system_stats),
    ("GET", "/embeddings", embeddings), ("GET", "/experiment/models", model_folders),
    ("GET", "/experiment/models/{folder}", model_files), ("GET", "/view_metadata/{folder}", model_metadata),
    ("GET", "/internal/folder_paths", folder_paths), ("GET", "/internal/logs", logs), ("GET", "/internal/logs/raw", raw_logs),
    ("PATCH", "/internal/logs/subscribe", subscribe_to_logs),
]
