"""Jobs as /queue, /history and /jobs show them."""

from typing import Any

from .jobs import Job

PICTURES, TEXT = "images", "text"
LONGEST_TEXT = 1024
PENDING, IN_PROGRESS, COMPLETED, FAILED, CANCELLED = STATES = ("pending", "in_progress", "completed", "failed", "cancelled")


def queue_item(job: Job) -> list:
    return [job.number, job.id, job.prompt, job.extra_data, job.outputs]


def history_item(job: Job) -> dict:
    return {"prompt": queue_item(job), "outputs": job.ui, "status": _status(job), "meta": job.meta}


def _status(job: Job) -> dict:
    return {"status_str": "success" if job.succeeded else "error", "completed": job.succeeded, "messages": job.messages}


def listed(running: list[Job], waiting: list[Job], done: dict[str, Job]) -> list[dict]:
    """Every job as /jobs lists it, the newest first."""
    entries = [summary(job, IN_PROGRESS) for job in running] + [summary(job, PENDING) for job in waiting]
    entries += [summary(job) for job in done.values()]
    return sorted(entries, key=lambda entry: entry["create_time"], reverse=True)


def summary(job: Job, state: str | None = None) -> dict[str, Any]:
    """The short entry of a job. `state`: for a job that is not finished; None reads it from the messages."""
    told = {kind: data for kind, data in job.messages}
    ended = [kind for kind in ("execution_success", "execution_error", "execution_interrupted") if kind in told]
    workflow = (job.extra_data.get("extra_pnginfo") or {}).get("workflow")
    files = [] if state else _files(job)
    entry = {
        "id": job.id, "status": state or _state(job, told), "priority": job.number, "create_time": job.extra_data["create_time"],
        "execution_start_time": None if state else told.get("execution_start", {}).get("timestamp"),
        "execution_end_time": None if state or not ended else told[ended[0]]["timestamp"],
        "execution_error": None if state else told.get("execution_error"),
        "outputs_count": len(files), "previewable_outputs_count": len(files),
        "preview_output": None if state else _preview(job, files),
        "workflow_id": workflow.get("id") if isinstance(workflow, dict) else None,
    }
    return {name: value for name, value in entry.items() if value is not None}


def detailed(job: Job) -> dict[str, Any]:
    """The full entry of a finished job: its outputs and its prompt."""
    return summary(job) | {"outputs": job.ui, "execution_status": _status(job),
                           "workflow": {"prompt": job.prompt, "extra_data": job.extra_data}}


def _state(job: Job, told: dict[str, dict]) -> str:
    if job.succeeded:
        return COMPLETED
    return CANCELLED if "execution_interrupted" in told else FAILED


def _files(job: Job) -> list[dict]:
    return [{**item, "nodeId": id, "mediaType": PICTURES} for id, ui in job.ui.items() for item in ui.get(PICTURES, ())
            if isinstance(item, dict)]


def _preview(job: Job, files: list[dict]) -> dict | None:
    """The first saved picture, else any picture, else the first text."""
    saved = [item for item in files if item.get("type") == "output"]
    if saved or files:
        return (saved or files)[0]
    texts = [(id, str(text)) for id, ui in job.ui.items() for text in ui.get(TEXT, ())]
    if not texts:
        return None
    id, text = texts[0]
    cut = {"truncated": True} if len(text) > LONGEST_TEXT else {}
    return {"content": text[:LONGEST_TEXT], **cut, "nodeId": id, "mediaType": TEXT}
