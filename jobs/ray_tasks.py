"""Runs small tasks as Ray tasks, any number of CPUs of the cluster at once: for work that needs no device and no set-up.

Inputs are names of objects and results are small, as in `jobs.engine`, and only so many are under way that memory does not grow
with their number.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import ray

from cnnbatch.errors import CnnbatchError
from jobs.engine import Worker, attempt

Task = TypeVar("Task")
Result = TypeVar("Result")

IN_FLIGHT_A_CPU = 2
DEATHS = 2
"""Times that a task may kill its process before it is given up."""

_workers: dict[str, Worker[Any, Any]] = {}
"""The worker of this process, by its run; Ray gives a process task after task."""


@dataclass(frozen=True, slots=True)
class Lost(Generic[Task]):
    """A task whose process died each time it ran, and why."""

    task: Task
    error: str


def run(
    tasks: Iterable[Task], build: Callable[[], Worker[Task, Result]], *, run_id: str, pauses_seconds: Sequence[float]
) -> Iterator[Result | Lost[Task]]:
    """Yields what became of each task, in the order they finish. ``build`` makes the worker, once in each process.

    ``run_id`` is the name of this call among all in the same cluster. ``tasks`` are consumed lazily.

    Raises CnnbatchError: what a worker raised, a store's trouble after ``pauses_seconds``.
    """
    remote = ray.remote(_do).options(num_cpus=1, max_retries=DEATHS, retry_exceptions=False)
    shared = ray.put(pickle.dumps(build))
    most = max(1, int(IN_FLIGHT_A_CPU * ray.cluster_resources().get("CPU", 1.0)))
    waiting = iter(tasks)
    running = {remote.remote(run_id, shared, task, pauses_seconds): task for task in islice(waiting, most)}
    while running:
        [done], _ = ray.wait(list(running), num_returns=1)
        task = running.pop(done)
        for following in islice(waiting, 1):
            running[remote.remote(run_id, shared, following, pauses_seconds)] = following
        yield _result(done, task)


def _result(done: Any, task: Task) -> Any:
    try:
        result = ray.get(done)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        return Lost(task, f"{type(error).__name__}: its process died {DEATHS + 1} times")
    if isinstance(result, CnnbatchError):
        raise result
    return result


def _do(run_id: str, build: bytes, task: Any, pauses_seconds: Sequence[float]) -> object:
    if run_id not in _workers:
        _workers.clear()
        _workers[run_id] = pickle.loads(build)()
    return attempt(lambda: _workers[run_id](task), pauses_seconds)
