"""Finds the input that kills its worker, and stores it, so that the job goes on.

Ray starts a dead worker again without end. So every attempt at a shard leaves a mark in the archive before it begins; the
third attempt does not trust the inputs any more and codes them one by one in a child process. The input under which the
child dies, or does not answer in time, is stored as it is.
"""

import logging
import multiprocessing
import uuid
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.errors import CnnbatchError
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.records import CompressResult, CompressTask
from cnnbatch.storage import ObjectInfo, Store

logger = logging.getLogger(__name__)

TRUSTED_ATTEMPTS = 2
"""Attempts at a shard in the worker itself; a third runs each input in a child process."""

SECONDS_PER_INPUT = 300.0
"""A child that takes longer over one input is killed."""


class Attempts:
    """Marks of begun shards below ``_cnnbatch/runs/<run>/attempts/``."""

    def __init__(self, archive: Store, run_id: str) -> None:
        self._archive, self._folder = archive, f"_cnnbatch/runs/{run_id}/attempts"

    def begin(self, number: int) -> int:
        """Notes one more attempt at a shard; returns how many there were before."""
        before = len(list(self._archive.list(f"{self._folder}/{number}")))
        self._archive.put(f"{self._folder}/{number}/{uuid.uuid4().hex}", b"")
        return before

    def forget(self, number: int | None = None) -> None:
        """Removes the marks of a finished shard, or of the whole run."""
        for info in list(self._archive.list(self._folder if number is None else f"{self._folder}/{number}")):
            self._archive.delete(info.key)


class GuardedCompressor:
    """A `ShardCompressor` that survives poisonous inputs. ``build`` makes the compressor, here and in the child."""

    def __init__(self, build: Callable[[], ShardCompressor], *, seconds_per_input: float = SECONDS_PER_INPUT) -> None:
        self._build, self._seconds = build, seconds_per_input
        self.compressor = build()
        self.attempts = Attempts(self.compressor.archive, self.compressor.run_id)

    def __call__(self, task: CompressTask) -> CompressResult:
        """As `ShardCompressor.__call__`."""
        before = self.attempts.begin(task.number)
        result = self.compressor(task) if before < TRUSTED_ATTEMPTS else self._carefully(task, before)
        self.attempts.forget(task.number)
        return result

    def _carefully(self, task: CompressTask, before: int) -> CompressResult:
        logger.warning("shard %d was begun %d times without an end: its inputs are coded one by one", task.number, before)
        child = _Child(self._build, self._seconds)
        try:
            return self.compressor.one_by_one(task, lambda info, data: self._row(child, info, data))
        finally:
            child.stop()

    def _row(self, child: "_Child", info: ObjectInfo, data: bytes) -> ArchiveRow:
        row = child.row(info, data)
        if row is None:
            logger.warning("%r kills its worker: stored", info.key)
            return self.compressor.stored_row(info, data, "kills-worker")
        return row


class _Child:
    """A process that codes one input at a time; started when it is needed, again after each death."""

    def __init__(self, build: Callable[[], ShardCompressor], seconds: float) -> None:
        self._build, self._seconds = build, seconds
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def row(self, info: ObjectInfo, data: bytes) -> ArchiveRow | None:
        """The input's row, or None if the child died or hung over it. Raises what the child raised."""
        pipe = self._connected()
        try:
            pipe.send((info, data))
            if pipe.poll(self._seconds):
                row = pipe.recv()
                if isinstance(row, CnnbatchError):
                    raise row
                assert isinstance(row, ArchiveRow)
                return row
        except (EOFError, OSError):  # the child is gone
            pass
        self.stop()
        return None

    def _connected(self) -> Connection:
        if self._process is None or self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, end = context.Pipe()
            self._process = context.Process(target=_serve, args=(self._build, end), name="cnnbatch-isolated", daemon=True)
            self._process.start()
            end.close()
            if self._pipe.recv() != "ready":
                raise RuntimeError("the isolated process did not start")
        return self._pipe

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _serve(build: Callable[[], ShardCompressor], pipe: Connection) -> None:
    compressor = build()
    pipe.send("ready")
    while True:
        info, data = pipe.recv()
        try:
            pipe.send(compressor.row(info, data))
        except CnnbatchError as error:
            pipe.send(error)
