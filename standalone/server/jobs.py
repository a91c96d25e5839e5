"""The queue of jobs, and the jobs that are done. Every method may be called from any thread."""

from dataclasses import dataclass, field
import threading
from typing import Any, Callable

MOST_KEPT = 1000


@dataclass
class Job:
    """A prompt in the queue and the messages of its run so far. The job with the lowest `number` runs next."""

    number: float
    id: str
    prompt: dict[str, dict]
    extra_data: dict[str, Any]
    outputs: list[str]
    ui: dict[str, dict] = field(default_factory=dict)
    meta: dict[str, dict] = field(default_factory=dict)
    messages: list[tuple[str, dict]] = field(default_factory=list)
    succeeded: bool = False
    at: str | None = None  # the node that is running

    @property
    def client(self) -> str | None:
        return self.extra_data.get("client_id")


class Jobs:
    def __init__(self, changed: Callable[[], None] = lambda: None):
        self._changed = changed
        self._lock = threading.Condition(threading.RLock())
        self._cancelled = threading.Event()
        self._closed = False
        self._number = 0
        self._free = False
        self.pending: list[Job] = []
        self.running: Job | None = None
        self.done: dict[str, Job] = {}

    def number(self, front: bool = False) -> int:
        """The number for a new job: it will run last, or first if `front`."""
        with self._lock:
            self._number += 1
            return (1 - self._number) if front else self._number - 1

    def put(self, job: Job) -> None:
        with self._lock:
            self.pending.append(job)
            self._lock.notify_all()
        self._changed()

    def take(self) -> Job | None:
        """Wait for the next job and mark it as running: → the job, or None if the server stops or memory is to be freed."""
        with self._lock:
            self._lock.wait_for(lambda: self.pending or self._closed or self._free)
            if self._closed or self._free:
                return None
            self.running = min(self.pending, key=lambda job: job.number)
            self.pending.remove(self.running)
            self._cancelled.clear()
            job = self.running
        self._changed()
        return job

    def finish(self, job: Job) -> None:
        with self._lock:
            self.running = None
            self.done[job.id] = job
            while len(self.done) > MOST_KEPT:
                del self.done[next(iter(self.done))]
        self._changed()

    def interrupt(self, id: str | None = None) -> bool:
        """Stop the running job if it has this id, or any id for None: → whether it was stopped."""
        with self._lock:
            if self.running is None or id not in (None, self.running.id):
                return False
            self._cancelled.set()
            return True

    def is_interrupted(self) -> bool:
        return self._cancelled.is_set()

    def drop(self, id: str | None = None) -> bool:
        """Remove a waiting job, or all of them, from the queue: → whether there was one."""
        with self._lock:
            kept = [job for job in self.pending if id not in (None, job.id)]
            dropped, self.pending = len(kept) < len(self.pending), kept
        if dropped:
            self._changed()
        return dropped

    def cancel(self, id: str) -> bool:
        with self._lock:
            return self.drop(id) or self.interrupt(id)

    def forget(self, id: str | None = None) -> None:
        """Remove a finished job, or all of them, from the history."""
        with self._lock:
            if id is None:
                self.done = {}
            else:
                self.done.pop(id, None)

    def free(self) -> None:
        """Make the worker drop its cache as soon as no job is running."""
        with self._lock:
            self._free = True
            self._lock.notify_all()

    def must_free(self) -> bool:
        with self._lock:
            asked, self._free = self._free, False
            return asked

    def close(self) -> None:
        """Stop the running job and start no more."""
        with self._lock:
            self._closed = True
            self._cancelled.set()
            self._lock.notify_all()

    def is_closed(self) -> bool:
        return self._closed

    def snapshot(self) -> tuple[list[Job], list[Job], dict[str, Job]]:
        """→ the running job (a list of at most one), the waiting ones in order, and the finished ones."""
        with self._lock:
            waiting = sorted(self.pending, key=lambda job: job.number)
            return [self.running] if self.running else [], waiting, dict(self.done)

    def status(self) -> dict:
        running, waiting, _ = self.snapshot()
        return {"exec_info": {"queue_remaining": len(running) + len(waiting)}}
