"""Runs tasks on a pool of Ray Data actors: one small row in, one small row out, results as they come.

The unit of work is a task of a few kilobytes that names a whole shard. No pixels and no payloads travel through Ray: the
actors read from and write to the stores themselves, and a result stays below 100 KB, so a finished shard is never run
again because its result was lost with a node.
"""

import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import ray
from pydantic import BaseModel, ConfigDict, Field
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from cnnbatch import signals
from cnnbatch.errors import CnnbatchError, StorageError, UsageError
from jobs import local_ray
from jobs.logs import begin_log

logger = logging.getLogger(__name__)

Task = TypeVar("Task", contravariant=True)
Result = TypeVar("Result", covariant=True)

SHARDS_IN_FLIGHT = 2
"""Calls an actor serves at once: one shard is fetched and decoded while the other is on the device."""

ACTOR_START_RETRIES = 3
_ROW = "record"


class Worker(Protocol[Task, Result]):
    """Does one task; safe to call from `SHARDS_IN_FLIGHT` threads."""

    def __call__(self, task: Task, /) -> Result: ...


class Workers(BaseModel):
    """How much of the cluster a job takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: float = Field(2, gt=0)
    """CPUs of one worker, and threads of its codec."""
    gpus: float | None = Field(None, ge=0, le=1)
    """GPUs of one worker; None: one where the cluster has any."""
    memory_bytes: int = Field(0, ge=0)
    """Heap of one worker that Ray sets aside; 0: none."""
    most: int | None = Field(None, gt=0)
    """Workers at most; None: as many as the cluster has room for at the start. More than that: it may scale up."""
    pauses_seconds: tuple[float, ...] = (2.0, 10.0, 30.0)
    """Before a shard is tried again after its store failed, beyond the client's own retries."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The workers a job gets on this cluster."""

    size: int
    most: int
    cpus: float
    gpus: float
    memory_bytes: int
    pauses_seconds: tuple[float, ...]


def connect() -> None:
    """Joins the cluster that RAY_ADDRESS or a Ray job names, or starts a local one; quiet on stderr."""
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not ray.is_initialized():
        _init() if os.environ.get("RAY_ADDRESS") else local_ray.start(_init)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = -1  # waiting hours for a spot GPU is not an error
    context.max_consecutive_actor_init_deaths = ACTOR_START_RETRIES
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that the bars are off, as asked for


def _init(**place: str) -> None:
    with signals.kept(), _beside_jobs():  # Ray's handler would end this process in abort()
        ray.init(logging_level=logging.WARNING, log_to_driver=False, include_dashboard=False, configure_logging=False, **place)


@contextmanager
def _beside_jobs() -> Iterator[None]:
    """Workers look first where the driver stands when it starts Ray: there is to be no other `jobs` there."""
    try:
        here = os.open(".", os.O_RDONLY)
    except FileNotFoundError:  # removed meanwhile
        here = os.open("/", os.O_RDONLY)
    os.chdir(Path(__file__).parents[1])
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def size_pool(workers: Workers) -> Pool:
    """Raises UsageError where the cluster has no room for a single worker."""
    resources = ray.cluster_resources()
    total_cpus, total_gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    gpus = workers.gpus if workers.gpus is not None else float(total_gpus >= 1)
    cpus = min(workers.cpus, total_cpus) if total_cpus else workers.cpus
    room = int(total_gpus / gpus) if gpus else int(total_cpus / cpus)
    if room < 1 and workers.most is None and not os.environ.get("RAY_ADDRESS"):
        raise UsageError(f"no room for a worker of {cpus:g} CPUs and {gpus:g} GPUs: this machine has {total_cpus:g} CPUs")
    most = workers.most or max(1, room)  # a cluster whose workers are still starting has no room yet: one will come
    return Pool(max(1, min(room, most)), most, cpus, gpus, workers.memory_bytes, workers.pauses_seconds)


class _Actor:
    """The callable that Ray Data runs: builds the worker once, then passes each record through it."""

    def __init__(self, build: Callable[[], Worker[Any, Any]], pauses_seconds: Sequence[float]) -> None:
        begin_log(logging.WARNING)
        self._build, self._pauses_seconds = build, pauses_seconds
        self._building = threading.Lock()
        self._built: Worker[Any, Any] | None = None
        with suppress(CnnbatchError):  # an actor that fails to start tells the driver nothing but a traceback; a task does
            self._worker()

    def __call__(self, batch: pa.Table) -> pa.Table:
        tasks = [pickle.loads(record) for record in batch.column(_ROW).to_pylist()]
        return _table([self._result(task) for task in tasks])

    def _worker(self) -> Worker[Any, Any]:
        with self._building:
            if self._built is None:
                self._built = self._build()
            return self._built

    def _result(self, task: object) -> object:
        return attempt(lambda: self._worker()(task), self._pauses_seconds)


def attempt(call: Callable[[], object], pauses_seconds: Sequence[float]) -> object:
    """The result of ``call``. Trouble with a store is tried again, then returned as its error, which the driver raises."""
    for pause in (*pauses_seconds, None):
        try:
            return call()
        except CnnbatchError as error:
            if pause is None or not isinstance(error, StorageError):
                return error
            logger.warning("%s; trying again in %g s", error, pause)
            time.sleep(pause)
    raise AssertionError("unreachable")


def _table(records: Iterable[object]) -> pa.Table:
    return pa.table({_ROW: pa.array([pickle.dumps(record) for record in records], type=pa.large_binary())})


def run(tasks: Iterable[Task], build: Callable[[], Worker[Task, Result]], pool: Pool) -> Iterator[Result]:
    """Yields one result for each task, in the order they finish.

    ``build`` makes a worker on its actor; it travels there, so it holds URLs and settings, not connections, and stays small:
    large arguments would keep Ray from restarting an actor. A worker whose process or node dies is started anew and its
    tasks run again; an exception that is no CnnbatchError is a bug and ends the job.

    Raises CnnbatchError: what a worker raised.
    """
    tables = [_table([task]) for task in tasks]
    if tables:
        yield from _results(ray.data.from_arrow(tables), len(tables), build, pool)


class _Parts(ray.data.Datasource):  # type: ignore[misc]
    """Tasks that the cluster itself reads, a part after the other, when workers want more."""

    def __init__(self, parts: Sequence[Iterable[Any]]) -> None:
        super().__init__()
        self._parts = parts

    def get_name(self) -> str:
        return "Plan"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_read_part, part), unknown) for part in self._parts]


def _read_part(part: Iterable[Any]) -> Iterator[pa.Table]:
    for task in part:
        yield _table([task])


def run_parts(
    parts: Sequence[Iterable[Task]], num_tasks: int, build: Callable[[], Worker[Task, Result]], pool: Pool
) -> Iterator[Result]:
    """Like `run`, for more tasks than the driver should hold: each part is iterated on the cluster, when it is time.

    A part is small, pickles, and yields the same tasks each time.
    """
    ray.data.DataContext.get_current().target_max_block_size = 1  # a block for each task, as in `run`
    read = ray.data.read_datasource(_Parts(parts), override_num_blocks=len(parts), concurrency=1, num_cpus=0)
    yield from _results(read, num_tasks, build, pool)


def _results(
    tasks: ray.data.Dataset, num_tasks: int, build: Callable[[], Worker[Task, Result]], pool: Pool
) -> Iterator[Result]:
    results = tasks.map_batches(
        _Actor,
        fn_constructor_kwargs={"build": build, "pauses_seconds": pool.pauses_seconds},
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            min_size=min(pool.size, num_tasks),
            max_size=min(max(pool.size, pool.most), num_tasks),
            max_tasks_in_flight_per_actor=2 * SHARDS_IN_FLIGHT,
            max_concurrent_calls_per_actor=SHARDS_IN_FLIGHT,
            enable_true_multi_threading=True,
        ),
        num_cpus=pool.cpus if not pool.gpus else None,
        num_gpus=pool.gpus or None,
        memory=pool.memory_bytes or None,
    )
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for record in batch.column(_ROW).to_pylist():
            result = pickle.loads(record)
            if isinstance(result, CnnbatchError):
                raise result
            yield result
