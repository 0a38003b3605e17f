"""The workers of the jobs, made to survive poisonous inputs: `isolation.py` finds those, and here they become an outcome.

compress      stored as they are, with the reason ``kills-worker``
reconstruct   a failure ``kills-worker``
verify        a finding ``kills-worker``
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch

from cnnbatch.archive.leftovers import RUNS
from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.archive.single import dump_cnb, parse_cnb
from cnnbatch.errors import CnnbatchError
from cnnbatch.stages.attempts import Attempts, local_marks
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.isolation import Child, Keyed, Watch
from cnnbatch.stages.names import ATTEMPTS, MARKS
from cnnbatch.stages.reconstruct import ShardReconstructor
from cnnbatch.stages.records import CompressResult, CompressTask, ShardResult, ShardTask, VerifyResult, VerifyTask
from cnnbatch.stages.verify import ShardVerifier
from cnnbatch.storage import ObjectInfo, Store

logger = logging.getLogger(__name__)

TRUSTED_ATTEMPTS = 2
"""Attempts at a shard in the worker itself; a third runs each input in a child process."""

MAX_ATTEMPTS = 20
"""A shard that was begun so often without an end ends the job; nodes that are taken away count as well."""

SECONDS_PER_INPUT = 300.0
"""A child that takes longer over one input is killed, and so is a worker that decodes one for so long."""

SECONDS_PER_ROW = 900.0
"""The same for a row of an archive: 200 MP take up to 200 s on a slow processor, and a sound picture must come back."""


class Numbered(Protocol):
    """A task of a plan."""

    @property
    def number(self) -> int: ...


Task = TypeVar("Task", bound=Numbered)
Result = TypeVar("Result", covariant=True)


Worker = TypeVar("Worker", bound=ShardCompressor | ShardReconstructor | ShardVerifier)


class Guarded(ABC, Generic[Worker, Task, Result]):
    """A worker that survives poisonous inputs. ``build`` makes it, here and in the child."""

    def __init__(self, build: Callable[[], Worker], attempts: Callable[[Worker], Attempts], seconds: float) -> None:
        self._build, self._seconds = build, seconds
        self.worker = build()
        self.worker.watch = Watch(seconds)
        self.attempts = attempts(self.worker)

    def __call__(self, task: Task) -> Result:
        """As the worker. Raises CnnbatchError also for a shard that never ends."""
        before = self.attempts.begin(task.number)
        if before >= MAX_ATTEMPTS:
            name = f"shard {task.number} ({self._name(task)})"
            raise CnnbatchError(f"{name} was begun {before} times without finishing: see the workers' logs")
        try:
            result = self._carefully(task, before) if before >= TRUSTED_ATTEMPTS else self._trusting(task)
        except CnnbatchError:
            self.attempts.withdraw(task.number)
            raise
        self.attempts.forget(task.number)
        return result

    def _trusting(self, task: Task) -> Result:
        try:
            result: Result = self.worker(task)  # type: ignore[arg-type, assignment]
        except (MemoryError, torch.OutOfMemoryError) as error:
            logger.warning("shard %d: no memory (%s)", task.number, type(error).__name__)
            return self._carefully(task, 1)
        return result

    def _carefully(self, task: Task, before: int) -> Result:
        logger.warning("shard %d was begun %d times without finishing: its inputs are taken one by one", task.number, before)
        child = Child(self._build, type(self)._answer, self._seconds)
        try:
            return self._one_by_one(task, child)
        finally:
            child.stop()

    def _ask(self, child: Child, one: Keyed, request: object) -> bytes | None:
        answer = child.ask(request)
        if answer is None:
            logger.warning("%r kills its worker", one.key)
        return answer

    @abstractmethod
    def _name(self, task: Task) -> str:
        """The name of a shard in an error message."""

    @abstractmethod
    def _one_by_one(self, task: Task, child: Child) -> Result:
        """The shard, each input of it by the child."""

    @staticmethod
    @abstractmethod
    def _answer(worker: Any, request: Any) -> bytes:
        """Runs in the child; bytes and no pickle come back, as it has seen the input."""


class GuardedCompressor(Guarded[ShardCompressor, CompressTask, CompressResult]):
    """A `ShardCompressor` that stores such inputs as they are. Attempts are counted in the archive."""

    def __init__(self, build: Callable[[], ShardCompressor], *, seconds_per_input: float = SECONDS_PER_INPUT) -> None:
        super().__init__(build, lambda one: Attempts(one.archive, f"{RUNS}/{one.run_id}/attempts"), seconds_per_input)

    def _name(self, task: CompressTask) -> str:
        return f"{task.inputs[0].key!r} … {task.inputs[-1].key!r}"

    def _one_by_one(self, task: CompressTask, child: Child) -> CompressResult:
        return self.worker.one_by_one(task, lambda info, data: self._row(child, info, data))

    def _row(self, child: Child, info: ObjectInfo, data: bytes) -> ArchiveRow:
        answer = self._ask(child, info, (info, data))
        return self.worker.stored_row(info, data, "kills-worker") if answer is None else parse_cnb(answer)

    @staticmethod
    def _answer(worker: ShardCompressor, request: tuple[ObjectInfo, bytes]) -> bytes:
        return dump_cnb(worker.row(*request))


class GuardedReconstructor(Guarded[ShardReconstructor, ShardTask, ShardResult]):
    """A `ShardReconstructor` for which such a row is a failure. Attempts are counted below the destination."""

    def __init__(
        self, build: Callable[[], ShardReconstructor], *, run_id: str, seconds_per_row: float = SECONDS_PER_ROW
    ) -> None:
        super().__init__(build, lambda one: Attempts(one.destination, f"{MARKS}/{ATTEMPTS}/{run_id}"), seconds_per_row)

    def _name(self, task: ShardTask) -> str:
        return task.path

    def _one_by_one(self, task: ShardTask, child: Child) -> ShardResult:
        return self.worker.one_by_one(task, lambda row: self._ask(child, row, row))

    @staticmethod
    def _answer(worker: ShardReconstructor, request: ArchiveRow) -> bytes:
        return worker.file_of(request)


class GuardedVerifier(Guarded[ShardVerifier, VerifyTask, VerifyResult]):
    """A `ShardVerifier` for which such a row is a finding. Attempts are counted in ``marks``, None: on this machine."""

    def __init__(
        self,
        build: Callable[[], ShardVerifier],
        *,
        run_id: str,
        marks: Store | None = None,
        seconds_per_row: float = SECONDS_PER_ROW,
    ) -> None:
        attempts = Attempts(local_marks(run_id), "attempts") if marks is None else Attempts(marks, f"{RUNS}/{run_id}/attempts")
        super().__init__(build, lambda _: attempts, seconds_per_row)

    def _name(self, task: VerifyTask) -> str:
        return task.shard.path

    def _one_by_one(self, task: VerifyTask, child: Child) -> VerifyResult:
        return self.worker.one_by_one(task, lambda row, info: self._ask(child, row, (row, info)))

    @staticmethod
    def _answer(worker: ShardVerifier, request: tuple[ArchiveRow, ObjectInfo | None]) -> bytes:
        return worker.look_at(*request)
