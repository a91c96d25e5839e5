"""Queueing, watching and cancelling jobs."""

import uuid

from aiohttp import web

from .about import features
from .listing import IN_PROGRESS, PENDING, STATES, detailed, history_item, listed, queue_item, summary
from .prompts import Refused, read_job
from .state import STATE, Route, bad, json_object, missing


async def listen(request: web.Request) -> web.StreamResponse:
    """The websocket over which a browser hears of its jobs."""
    state = request.app[STATE]
    sockets, jobs = state.sockets, state.jobs
    client = request.query.get("clientId") or uuid.uuid4().hex
    async with sockets.listening(client, request) as socket:
        sockets.send("status", {"status": jobs.status(), "sid": client}, client)
        running = jobs.running
        if running and running.client == client and running.at:
            sockets.send("executing", {"node": running.at}, client)
        async for message in socket:
            if message.type == web.WSMsgType.TEXT:
                sockets.hear(client, message.data, features(state))
    return socket


async def post_prompt(request: web.Request) -> web.Response:
    state = request.app[STATE]
    try:
        job = read_job(await json_object(request), state.executor, state.jobs)
    except Refused as error:
        return web.json_response(error.answer, status=400)
    except web.HTTPBadRequest as error:
        return web.json_response(Refused("invalid_prompt", error.text).answer, status=400)
    state.jobs.put(job)
    return web.json_response({"prompt_id": job.id, "number": job.number, "node_errors": {}})


async def get_prompt(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].jobs.status())


async def get_queue(request: web.Request) -> web.Response:
    running, waiting, _ = request.app[STATE].jobs.snapshot()
    return web.json_response({"queue_running": [queue_item(job) for job in running],
                              "queue_pending": [queue_item(job) for job in waiting]})


async def post_queue(request: web.Request) -> web.Response:
    """Remove waiting jobs from the queue."""
    return await _take_out(request, request.app[STATE].jobs.drop)


async def get_history(request: web.Request) -> web.Response:
    """The jobs that are done, oldest first; the last `max_items` of them, or as many from `offset` on."""
    done = list(request.app[STATE].jobs.snapshot()[2].values())
    most, offset = _whole(request, "max_items", len(done)), _whole(request, "offset", -1)
    start = max(0, len(done) - most) if offset < 0 else offset
    return web.json_response({job.id: history_item(job) for job in done[start:start + most]})


async def get_history_of(request: web.Request) -> web.Response:
    job = request.app[STATE].jobs.snapshot()[2].get(request.match_info["id"])
    return web.json_response({job.id: history_item(job)} if job else {})


async def post_history(request: web.Request) -> web.Response:
    return await _take_out(request, request.app[STATE].jobs.forget)


async def _take_out(request: web.Request, take) -> web.Response:
    """Remove all jobs for `{"clear": true}`, or some for `{"delete": [ids]}`."""
    body = await json_object(request)
    if body.get("clear"):
        take()
    ids = body.get("delete", [])
    if not isinstance(ids, list):
        raise bad("delete is not a list of ids")
    for id in ids:
        if isinstance(id, str):
            take(id)
    return web.Response()


async def interrupt(request: web.Request) -> web.Response:
    """Stop the running job; with `prompt_id` only if it has this id."""
    request.app[STATE].jobs.interrupt((await json_object(request)).get("prompt_id") or None)
    return web.Response()


async def get_jobs(request: web.Request) -> web.Response:
    """The jobs in some states, the newest first, from `offset` on, at most `limit`."""
    wanted = [word.strip() for word in request.query.get("status", ",".join(STATES)).split(",")]
    strange = [word for word in wanted if word not in STATES]
    if strange:
        raise bad(f"status {', '.join(strange)!r} is not one of {', '.join(STATES)}")
    entries = [entry for entry in listed(*request.app[STATE].jobs.snapshot()) if entry["status"] in wanted]
    limit, offset = _whole(request, "limit", len(entries)), max(0, _whole(request, "offset", 0))
    shown = entries[offset:offset + limit]
    page = {"offset": offset, "limit": limit, "total": len(entries), "has_more": offset + len(shown) < len(entries)}
    return web.json_response({"jobs": shown, "pagination": page})


async def get_job(request: web.Request) -> web.Response:
    id = request.match_info["id"]
    running, waiting, done = request.app[STATE].jobs.snapshot()
    entries = {job.id: summary(job, PENDING) for job in waiting} | {job.id: summary(job, IN_PROGRESS) for job in running}
    if id in done:
        entries[id] = detailed(done[id])
    if id not in entries:
        raise missing(f"there is no job {id}")
    return web.json_response(entries[id])


async def cancel(request: web.Request) -> web.Response:
    return web.json_response({"cancelled": request.app[STATE].jobs.cancel(request.match_info["id"])})


async def cancel_some(request: web.Request) -> web.Response:
    ids = (await json_object(request)).get("job_ids")
    if not isinstance(ids, list):
        raise bad("job_ids is not a list of ids")
    jobs = request.app[STATE].jobs
    cancelled = [jobs.cancel(id) for id in ids if isinstance(id, str)]
    return web.json_response({"cancelled": any(cancelled)})


async def free(request: web.Request) -> web.Response:
    """Drop cached results, and with them the models."""
    if (await json_object(request)).get("free_memory"):
        request.app[STATE].jobs.free()
    return web.Response()


def _whole(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    try:
        return default if text is None else int(text)
    except ValueError as error:
        raise bad(f"{name} {text!r} is not a whole number") from error


ROUTES: list[Route] = [
    ("GET", "/ws", listen),
    ("GET", "/prompt", get_prompt), ("POST", "/prompt", post_prompt),
    ("GET", "/queue", get_queue), ("POST", "/queue", post_queue), ("POST", "/interrupt", interrupt),
    ("GET", "/history", get_history), ("GET", "/history/{id}", get_history_of), ("POST", "/history", post_history),
    ("GET", "/jobs", get_jobs), ("POST", "/jobs/cancel", cancel_some),
    ("GET", "/jobs/{id}", get_job), ("POST", "/jobs/{id}/cancel", cancel),
    ("POST", "/free", free),
]
