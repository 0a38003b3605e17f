"""Finds the input that kills its worker, and stores it, so that the job goes on.

Ray starts a dead worker again without end. So every attempt at a shard leaves a mark in the archive before it begins; the
third attempt does not trust the inputs any more and codes them one by one in a child process. The input under which the
child dies, takes more than its share of memory, or does not answer in time, is stored as it is.

A decoder that hangs is made into a dead worker: an input that is decoded for longer than `SECONDS_PER_INPUT` ends the process.
"""

import logging
import multiprocessing
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from cnnbatch import errors
from cnnbatch.archive.leftovers import RUNS
from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.archive.single import dump_cnb, parse_cnb
from cnnbatch.errors import CnnbatchError, StorageError
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.records import CompressResult, CompressTask
from cnnbatch.storage import ObjectInfo, Store

logger = logging.getLogger(__name__)

TRUSTED_ATTEMPTS = 2
"""Attempts at a shard in the worker itself; a third runs each input in a child process."""

MAX_ATTEMPTS = 20
"""A shard that was begun so often without an end ends the job; nodes that are taken away count as well."""

SECONDS_PER_INPUT = 300.0
"""A child that takes longer over one input is killed, and so is a worker that decodes one for so long."""

SECONDS_TO_START = 300.0
MEMORY_SHARE = 0.5
"""Of the memory that is free when a child starts: what it may take before it is killed, sooner than the kernel would."""

POLL_SECONDS = 0.1
_ROW, _ERROR, _READY = b"r", b"e", b"."


class Attempts:
    """Marks of begun shards below ``_cnnbatch/runs/<run>/attempts/``."""

    def __init__(self, archive: Store, run_id: str) -> None:
        self._archive, self._folder = archive, f"{RUNS}/{run_id}/attempts"
        self._marks: dict[int, str] = {}

    def begin(self, number: int) -> int:
        """Notes one more attempt at a shard; returns how many there were before."""
        before = len(list(self._archive.list(f"{self._folder}/{number}")))
        self._marks[number] = f"{self._folder}/{number}/{uuid.uuid4().hex}"
        self._archive.put(self._marks[number], b"")
        return before

    def withdraw(self, number: int) -> None:
        """Takes back the last mark at a shard: that attempt ended with an error and killed nobody."""
        try:
            self._archive.delete(self._marks.pop(number))
        except StorageError as error:  # most likely what ended the attempt
            logger.warning("the mark of an attempt at shard %d stays: %s", number, error)

    def forget(self, number: int) -> None:
        """Removes the marks of a finished shard."""
        for info in list(self._archive.list(f"{self._folder}/{number}")):
            self._archive.delete(info.key)


class GuardedCompressor:
    """A `ShardCompressor` that survives poisonous inputs. ``build`` makes the compressor, here and in the child."""

    def __init__(self, build: Callable[[], ShardCompressor], *, seconds_per_input: float = SECONDS_PER_INPUT) -> None:
        self._build, self._seconds = build, seconds_per_input
        self.compressor = build()
        self.compressor.watch = _Watch(seconds_per_input)
        self.attempts = Attempts(self.compressor.archive, self.compressor.run_id)

    def __call__(self, task: CompressTask) -> CompressResult:
        """As `ShardCompressor.__call__`. Raises CnnbatchError also for a shard that never ends."""
        before = self.attempts.begin(task.number)
        if before >= MAX_ATTEMPTS:
            keys = f"{task.inputs[0].key!r} … {task.inputs[-1].key!r}"
            raise CnnbatchError(f"shard {task.number} ({keys}) was begun {before} times without an end: see the workers' logs")
        try:
            result = self._carefully(task, before) if before >= TRUSTED_ATTEMPTS else self._trusting(task)
        except CnnbatchError:
            self.attempts.withdraw(task.number)
            raise
        self.attempts.forget(task.number)
        return result

    def _trusting(self, task: CompressTask) -> CompressResult:
        try:
            return self.compressor(task)
        except (MemoryError, torch.OutOfMemoryError) as error:
            logger.warning("shard %d: no memory (%s)", task.number, type(error).__name__)
        return self._carefully(task, 1)

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


class _Watch:
    """``with watch(info):`` ends the process where it takes longer than ``seconds``: nothing else stops code in C."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun: dict[object, tuple[str, float]] = {}
        threading.Thread(target=self._look, name="cnnbatch-watch", daemon=True).start()

    @contextmanager
    def __call__(self, info: ObjectInfo) -> Iterator[None]:
        token = object()
        self._begun[token] = (info.key, time.monotonic())
        try:
            yield
        finally:
            del self._begun[token]

    def _look(self) -> None:
        while True:
            time.sleep(self._seconds / 10)
            limit = time.monotonic() - self._seconds
            for key, since in list(self._begun.values()):
                if since < limit:
                    logger.error("%r is being decoded for over %g s: this worker ends", key, self._seconds)
                    os._exit(1)


class _Child:
    """A process that codes one input at a time; started when it is needed, again after each death."""

    def __init__(self, build: Callable[[], ShardCompressor], seconds: float) -> None:
        self._build, self._seconds = build, seconds
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._memory = 0

    def row(self, info: ObjectInfo, data: bytes) -> ArchiveRow | None:
        """The input's row, or None if the child died, hung or grew over it. Raises what the child raised."""
        pipe = self._connected()
        try:
            pipe.send((info, data))
            return parse_cnb(self._answer(pipe, self._seconds))
        except (EOFError, OSError, TimeoutError):  # the child is gone, or has to go
            self.stop()
            return None

    def _connected(self) -> Connection:
        """The pipe to a child that is ready; raises CnnbatchError where none starts, or what its ``build`` raised."""
        if self._process is None or self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._memory = int(MEMORY_SHARE * available_bytes())
            self._pipe, end = context.Pipe()
            self._process = context.Process(target=_serve, args=(self._build, end), name="cnnbatch-isolated", daemon=True)
            self._process.start()
            end.close()
            try:
                self._answer(self._pipe, SECONDS_TO_START)
            except (EOFError, OSError) as error:
                self.stop()
                raise CnnbatchError("the process that codes inputs one by one did not start: see the worker's log") from error
        return self._pipe

    def _answer(self, pipe: Connection, seconds: float) -> bytes:
        """What the child sends: bytes that are looked at, no pickle, as it has seen the input.

        Raises EOFError, OSError (TimeoutError where it takes too long or too much memory), and the child's CnnbatchError.
        """
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while not pipe.poll(POLL_SECONDS):
            if time.monotonic() > deadline or resident_bytes(self._process.pid) > self._memory:
                raise TimeoutError
        answer = pipe.recv_bytes()
        if answer[:1] == _ERROR:
            name, _, text = answer[1:].decode("utf-8", "replace").partition("\n")
            kind = getattr(errors, name, CnnbatchError)
            raise kind(text)
        return answer[1:]

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _serve(build: Callable[[], ShardCompressor], pipe: Connection) -> None:
    with suppress(OSError):  # where memory runs out, this process goes first and not its worker
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        compressor = build()
    except CnnbatchError as error:
        pipe.send_bytes(_as_bytes(error))
        return
    pipe.send_bytes(_READY)
    while True:
        info, data = pipe.recv()
        try:
            answer = _ROW + dump_cnb(compressor.row(info, data))
        except CnnbatchError as error:
            answer = _as_bytes(error)
        pipe.send_bytes(answer)


def _as_bytes(error: CnnbatchError) -> bytes:
    return _ERROR + f"{type(error).__name__}\n{error}".encode("utf-8", "replace")


def resident_bytes(pid: int | None) -> int:
    """Memory of a process; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def available_bytes() -> int:
    """Memory that is free on this machine, or in the container that we are in."""
    found = [1 << 62]
    with suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) << 10)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(found))
