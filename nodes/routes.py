"""HTTP routes for the editor, in ComfyUI and in `dit-blocks serve`."""

from functools import cache
from importlib import metadata
from pathlib import Path
import tomllib

from ..dit_impl.cost import answers
from ..dit_impl.sources.embedded import load_embedded
from ..dit_impl.step.stages import block_plan

LONGEST = 400  # letters of an error


async def cost(request):
    """POST a question → what steps cost. See `cost.answers.Question`."""
    from aiohttp import web
    try:
        return web.json_response(answers.cost_answer(await request.json()))
    except (ValueError, RecursionError) as error:
        return web.json_response({"error": str(error)[:LONGEST]}, status=400)


async def blocks(request):
    """POST {"kinds": list or "embedded" for the default model, "blocks": text} → the blocks that DiT Blocks runs. See `step.stages.block_plan`."""
    from aiohttp import web
    try:
        question = await request.json()
        kinds = embedded_kinds() if question["kinds"] == "embedded" else question["kinds"]
        return web.json_response(block_plan([str(kind) for kind in kinds], str(question["blocks"])))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
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
