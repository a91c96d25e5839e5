"""Hands the cells of a sweep to workers, and keeps what they give."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
import os
from pathlib import Path

from ..errors import WorkflowError
from .comfyui import ComfyUI, Gone
from .plan import Cell, Plan, Workers
from .record import Record
from .worker import Result, Worker

INSTALL = "a sweep in many processes needs Ray: pip install 'dit-blocks[sweep]'"
Tell = Callable[[int, int, int], None]  # cells done, cells of all, cells that failed


def by_comfyui(plan: Plan, record: Record, hosts: list[ComfyUI], tell: Tell) -> None:
    """Run all cells that are not done in running ComfyUIs, one at a time in each. Raises WorkflowError when none is left."""
    waiting = _Waiting(plan, record, plan.workers.tries)
    free, busy = list(hosts), {}
    with ThreadPoolExecutor(len(hosts)) as pool:
        while True:
            while free and (cell := waiting.take()) is not None:
                host = free.pop()
                busy[pool.submit(host.run, cell)] = host, cell
            if not busy:
                break
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                host, cell = busy.pop(future)
                if _landed(future, host, cell, waiting, record):
                    free.append(host)
            tell(len(record.done), len(plan), record.failed)
    if waiting.left():
        raise WorkflowError(f"no ComfyUI answers any more; {len(record.done)} of {len(plan)} cells are done, and the sweep goes on from there")


def _landed(future: Future, host: ComfyUI, cell: Cell, waiting: "_Waiting", record: Record) -> bool:
    """Keep a cell's result: → whether its worker is still there."""
    try:
        result = future.result()
    except Gone:
        waiting.again.append(cell)
        return False
    _keep(record, cell, result)
    return True


def by_ray(plan: Plan, record: Record, folders: tuple[Path, Path], tell: Tell) -> None:
    """Run all cells that are not done in Ray's workers. The cell of a worker that dies is run again. Raises WorkflowError."""
    ray = started(plan.workers)
    try:
        make = ray.remote(Worker).options(num_cpus=plan.workers.cpus, num_gpus=plan.workers.gpus)
        threads = max(1, int(plan.workers.cpus))  # the same for every worker, so that a cell gives the same picture wherever it runs
        waiting, busy = _Waiting(plan, record, plan.workers.tries), {}
        free = [make.remote(plan.workflow, folders, threads) for _ in range(min(places(ray, plan.workers), max(1, len(plan) - len(record.done))))]
        while True:
            while free and (cell := waiting.take()) is not None:
                worker = free.pop()
                busy[worker.run.remote(cell)] = worker, cell
            if not busy:
                break
            (ended, *_), _ = ray.wait(list(busy), num_returns=1)
            worker, cell = busy.pop(ended)
            try:
                _keep(record, cell, ray.get(ended))
            except ray.exceptions.RayActorError:
                if not waiting.put_back(cell):
                    _keep(record, cell, Result(error=f"its worker died {plan.workers.tries} times, perhaps for want of memory"))
                worker = make.remote(plan.workflow, folders, threads)
            except ray.exceptions.RayTaskError as error:
                _keep(record, cell, Result(error=" ".join(str(error.cause).split())[:400]))
            free.append(worker)
            tell(len(record.done), len(plan), record.failed)
    finally:
        ray.shutdown()


def started(workers: Workers, count: int | None = None):
    """Ray, started on this machine (count: with so many CPUs as it says, whatever is there) or joined to a cluster. Raises WorkflowError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # workers that take no GPU still see what this process sees
    try:
        import ray
    except ImportError as error:
        raise WorkflowError(INSTALL) from error
    try:
        if workers.address:
            ray.init(address=workers.address, log_to_driver=False, logging_level="ERROR")
        else:
            ray.init(address="local", num_cpus=count, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise WorkflowError(f"Ray did not start: {' '.join(str(error).split())[:300]}") from error
    return ray


@contextmanager
def each_in(workers: int) -> Iterator[Callable[[Callable, Iterable], Iterable]]:
    """`map`, or one like it that calls the function in so many processes: results come in the order of the items. Raises WorkflowError."""
    if workers < 0:
        raise WorkflowError(f"--workers is at least 0, not {workers}")
    if not workers:
        yield map
        return
    ray = started(Workers(count=workers), count=workers)

    def each(function: Callable, items: Iterable) -> Iterator:
        call = ray.remote(_with_one_thread)
        yield from map(ray.get, [call.remote(function, item) for item in items])
    try:
        yield each
    finally:
        ray.shutdown()


def _with_one_thread(function: Callable, item):
    import torch
    torch.set_num_threads(1)
    return function(item)


def places(ray, workers: Workers) -> int:
    """How many workers there is room for. Raises WorkflowError for none."""
    there = ray.cluster_resources()
    room = int(there.get("CPU", 0) / workers.cpus)
    if workers.gpus:
        room = min(room, int(there.get("GPU", 0) / workers.gpus))
    if room < 1:
        raise WorkflowError(f"[workers] takes {workers.cpus:g} CPUs and {workers.gpus:g} GPUs each, where there are {there.get('CPU', 0):g} and "
                            f"{there.get('GPU', 0):g}")
    return min(room, workers.count or room)


class _Waiting:
    """Cells that are not done, read as they are needed."""

    def __init__(self, plan: Plan, record: Record, tries: int):
        self._cells: Iterator[Cell] = (cell for cell in plan.cells() if not record.is_done(cell))
        self.again: deque[Cell] = deque()
        self._tries: dict[str, int] = {}
        self.tries = tries

    def take(self) -> Cell | None:
        return self.again.popleft() if self.again else next(self._cells, None)

    def put_back(self, cell: Cell) -> bool:
        """Have a cell run again: → False if that was tried often enough."""
        name = repr(cell)
        self._tries[name] = self._tries.get(name, 0) + 1
        if self._tries[name] >= self.tries:
            return False
        self.again.append(cell)
        return True

    def left(self) -> bool:
        if (cell := self.take()) is None:
            return False
        self.again.appendleft(cell)
        return True


def _keep(record: Record, cell: Cell, result: Result) -> None:
    record.add(cell, result.seconds, result.error, result.texts, result.pictures)
