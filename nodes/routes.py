"""What the editor asks the pack over HTTP, in ComfyUI and in `dit-blocks serve`."""

import json

from ..dit_impl import costs


async def cost(request):
    """POST {"shape", "size", "steps", "schedule"} → what it costs. See `costs.answer`."""
    from aiohttp import web
    try:
        return web.json_response(costs.answer(await request.json()))
    except (json.JSONDecodeError, ValueError) as error:
        return web.json_response({"error": str(error)}, status=400)


ROUTES = [("POST", "/dit_blocks/cost", cost)]
