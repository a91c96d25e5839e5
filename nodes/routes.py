"""HTTP routes for the editor, in ComfyUI and in `dit-blocks serve`."""

from dataclasses import dataclass
from functools import cache
from importlib import metadata
import json
from pathlib import Path
import tomllib
from typing import Annotated

from ..dit_impl.cost import answers
from ..dit_impl.reading import OneOf, read
from ..dit_impl.sources.embedded import load_embedded
from ..dit_impl.step.stages import block_plan

LONGEST = 400  # letters of an error line, at most


async def asked(request):
    """The JSON in a request's body, whatever charset the request claims. Raises ValueError, RecursionError."""
    return json.loads(await request.read())


async def cost(request):
    """POST a question → what steps cost. See `cost.answers.Question`."""
    from aiohttp import web
    try:
        return web.json_response(answers.cost_answer(await asked(request)))
    except (ValueError, RecursionError) as error:
        return web.json_response({"error": str(error)[:LONGEST]}, status=400)


@dataclass(frozen=True)
class BlocksQuestion:
    """kinds: of the model's blocks; "embedded" is the default model. blocks: what the widget of DiT Blocks says."""
    blocks: str
    kinds: Annotated[str, OneOf("embedded")] | tuple[str, ...]


async def blocks(request):
    """POST a question → the blocks that DiT Blocks runs. See `step.stages.block_plan`."""
    from aiohttp import web
    try:
        question = read(BlocksQuestion, await asked(request), "a question")
        kinds = embedded_kinds() if question.kinds == "embedded" else list(question.kinds)
        return web.json_response(block_plan(kinds, question.blocks))
    except (ValueError, RecursionError) as error:
        return web.json_response({"error": str(error)[:LONGEST]}, status=400)


@cache
def embedded_kinds() -> list[str]:
    """The kinds of the default model's blocks."""
    return load_embedded()[0].stages.kinds


def own_version() -> str:
    """The pack's version, from pyproject.toml if it is there (in ComfyUI), else from the installed package."""
    try:
        return tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    except OSError:
        return metadata.version("dit-blocks")


async def version(request):
    """GET → {"version"}. The editor writes it into the workflows that it saves."""
    from aiohttp import web
    return web.json_response({"version": own_version()})


ROUTES = [("POST", "/dit_blocks/cost", cost), ("POST", "/dit_blocks/blocks", blocks), ("GET", "/dit_blocks/version", version)]
