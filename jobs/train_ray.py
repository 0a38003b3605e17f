"""Runs the processes of a training run by Ray Train, and tells the driver how far they are.

Checkpoints go through Ray Train into the folder of the run. A worker or node that dies ends the processes of all; they begin
again from the last checkpoint, as often as the run gets further in between.
"""

import logging
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from cnnbatch.errors import CnnbatchError, StorageError
from cnnbatch.storage import Store
from cnnbatch.storage.arrow import arrow_filesystem
from cnnbatch.training.run import STATE, Write
from jobs import engine
from jobs.logs import begin_log
from jobs.training import BEFORE_COOLDOWN, TrainTask, work

TOLD: Final = "told"
SAID: Final = "said"
KEPT: Final = "kept"
"""Kinds of what a run tells the driver: figures, a line for people, the step of a checkpoint."""

CHECKPOINTS: Final = 3
"""Kept at a time."""

DEATHS: Final = 3
"""Times that a run may fail without another checkpoint in between before it is given up."""

POLL_SECONDS: Final = 1.0
UNREAD: Final = 10_000

Hear = Callable[[str, Any], None]
"""Takes the kind of what a run tells, and that."""

logger = logging.getLogger(__name__)


class Board:
    """An actor beside the driver that keeps what a run tells until the driver reads it."""

    def __init__(self) -> None:
        self._entries: deque[tuple[str, Any]] = deque(maxlen=UNREAD)

    def write(self, kind: str, told: Any) -> None:
        self._entries.append((kind, told))

    def take(self) -> list[tuple[str, Any]]:
        """All that nobody has read."""
        entries = list(self._entries)
        self._entries.clear()
        return entries


@dataclass(frozen=True, slots=True)
class RayRun:
    """The surroundings that Ray Train gives a process."""

    task: TrainTask
    board: Any
    rank: int
    world_size: int
    device: torch.device

    @contextmanager
    def state(self) -> Iterator[Path | None]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            with self.task.start() as start:
                yield start
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder) / STATE

    def keep(self, write: Write) -> None:
        if self.rank:
            ray.train.report({})
            return
        with tempfile.TemporaryDirectory() as folder:
            try:
                write(Path(folder) / STATE)
                ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))
            except OSError as error:
                raise StorageError(
                    f"a checkpoint cannot be kept in {self.task.place.url}: {error.strerror or error}"
                ) from error
        self.board.write.remote(KEPT, None)

    def keep_beside(self, write: Write) -> None:
        if self.rank:
            return
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / STATE)
            self.task.place.put_file(BEFORE_COOLDOWN, Path(folder) / STATE)

    def tell(self, figures: Mapping[str, float]) -> None:
        self.board.write.remote(TOLD, dict(figures))

    def say(self, text: str) -> None:
        self.board.write.remote(SAID, text)


def _process(given: dict[str, Any]) -> None:
    """The function that Ray Train runs in each process."""
    begin_log(logging.WARNING)
    context = ray.train.get_context()
    work(given["task"], RayRun(given["task"], given["board"], context.get_world_rank(), context.get_world_size(), get_device()))


def fit(task: TrainTask, place: str, workers: engine.Workers, hear: Hear) -> None:
    """Runs ``task`` to its end; ``place`` is the URL of its folder. Raises CnnbatchError."""
    engine.connect()
    pool = engine.size_pool(workers)
    num_workers = 1 if task.config.architecture == "dense" else pool.size
    board = ray.remote(Board).options(num_cpus=0).remote()
    failures = 0
    while True:
        attempt = _Attempt(_trainer(task, place, num_workers, pool, board))
        kept = attempt.wait(board, hear)
        if attempt.error is None:
            _forget(task.place)
            return
        failures = 1 if kept else failures + 1
        fault = _fault(attempt.error, alone=num_workers == 1)
        if fault is not None and not isinstance(fault, StorageError):
            raise fault
        if failures >= DEATHS:
            raise fault or CnnbatchError(f"the training processes failed {DEATHS} times: {_sentence(attempt.error)}")
        hear(SAID, f"{fault or _sentence(attempt.error)}; going on from the last checkpoint")


def _forget(place: Store) -> None:
    """Deletes all checkpoints but the newest: each attempt keeps its own, and a process that died may have begun one."""
    keys = [info.key for info in place.list() if info.key.startswith("checkpoint_")]
    newest = sorted({key.split("/")[0] for key in keys})[-CHECKPOINTS:]
    for key in keys:
        if key.split("/")[0] not in newest:
            place.delete(key)


class _Attempt:
    """One run of a trainer, in a thread, so that signals stay those of the job."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self.error: Exception | None = None
        self._trainer = trainer
        self._thread = threading.Thread(target=self._fit, name="cnnbatch-train", daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # noqa: BLE001 - told apart by whoever waits
            self.error = error

    def wait(self, board: Any, hear: Hear) -> int:
        """Passes on what is told until the end; returns the number of checkpoints."""
        kept = 0
        ended = False
        while not ended:
            self._thread.join(POLL_SECONDS)
            ended = not self._thread.is_alive()
            for kind, told in ray.get(board.take.remote()):
                if kind == KEPT:
                    kept += 1
                else:
                    hear(kind, told)
        return kept


def _trainer(task: TrainTask, place: str, num_workers: int, pool: engine.Pool, board: Any) -> TorchTrainer:
    filesystem, path = arrow_filesystem(place, task.storage)
    folder = PurePosixPath(path)
    resources = {"CPU": pool.cpus, "GPU": pool.gpus, "memory": float(pool.memory_bytes)}
    return TorchTrainer(
        _process,
        train_loop_config={"task": task, "board": board},
        torch_config=TorchConfig(backend="nccl" if pool.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=bool(pool.gpus),
            resources_per_worker={name: amount for name, amount in resources.items() if amount},
        ),
        run_config=ray.train.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            storage_filesystem=filesystem,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=CHECKPOINTS),
        ),
    )


def _fault(error: Exception, *, alone: bool) -> CnnbatchError | None:
    """The expected error that ended a run, None where a process or a node died; raises what is neither.

    Where one of several processes dies, the others fail in turn with errors of their own.
    """
    failures = list(getattr(error, "worker_failures", {}).values())
    raised = [_base(failure) for failure in failures if _base(failure) is not failure]
    expected = [failure for failure in raised if isinstance(failure, CnnbatchError)]
    if expected:
        return expected[0]
    if isinstance(error, ray.train.ControllerError):
        raise CnnbatchError(f"the training run cannot begin: {_sentence(error)}") from error
    if alone and raised:
        raise error
    return None


def _base(failure: Exception) -> BaseException:
    """The error that a process raised itself; the same where it died."""
    found: BaseException = getattr(failure, "_base_exc", failure)
    return found


def _sentence(error: Exception) -> str:
    failures = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", error)]
    first = _base(failures[0])
    return f"{type(first).__name__}: {next(iter(str(first).strip().splitlines()), '')}"[:300]
