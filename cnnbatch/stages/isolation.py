"""Runs a shard so that an input that kills its worker is found, and the job goes on.

Ray starts a dead worker again without end. So every attempt at a shard leaves a mark before it begins (`attempts.py`); the
third attempt does not trust the inputs any more and gives them one by one to a child process. The input under which the
child dies, takes more than its share of memory, or does not answer in time, is found. `guarded.py` says what becomes of it.

A decoder that hangs is made into a dead worker: an input that is decoded for too long ends the process.
"""

import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from cnnbatch import errors
from cnnbatch.errors import CnnbatchError, ImageError

logger = logging.getLogger(__name__)

SECONDS_TO_START = 300.0
MEMORY_SHARE = 0.5
"""Share of the memory free when a child starts that it may take before it is killed, sooner than the kernel would."""

POLL_SECONDS = 0.1
KILLS_WORKER = "the process that decoded it died, hung, or took too much memory"
_ANSWER, _ERROR, _READY = b"r", b"e", b"."


class Keyed(Protocol):
    """An input or a row: what a message names."""

    @property
    def key(self) -> str: ...


def unwatched(one: Keyed) -> AbstractContextManager[None]:
    """No limit on the time that an input takes."""
    return nullcontext()


class Watch:
    """``with watch(one):`` ends the process where it takes longer than ``seconds``: nothing else stops code in C."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun: dict[object, tuple[str, float]] = {}
        threading.Thread(target=self._look, name="cnnbatch-watch", daemon=True).start()

    @contextmanager
    def __call__(self, one: Keyed) -> Iterator[None]:
        token = object()
        self._begun[token] = (one.key, time.monotonic())
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
                    logger.error("%r has been decoding for over %g s: this worker ends", key, self._seconds)
                    os._exit(1)


class Child:
    """A process that does one input at a time; started when it is needed, again after each death.

    ``build`` makes a worker there, and ``answer(worker, request)`` what it sends back.
    """

    def __init__(self, build: Callable[[], Any], answer: Callable[[Any, Any], bytes], seconds: float) -> None:
        self._build, self._answer_of, self._seconds = build, answer, seconds
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._memory = 0

    def start(self) -> None:
        """Starts it now, where it does not run; raises CnnbatchError as its first `ask` would."""
        self._connected()

    def ask(self, request: object) -> bytes | None:
        """The answer, or None if the child died, hung or grew over it. Raises the CnnbatchError that the child raised."""
        pipe = self._connected()
        try:
            pipe.send(request)
            return self._answer(pipe, self._seconds)
        except (EOFError, OSError, TimeoutError):  # the child is gone, or has to go
            self.stop()
            return None

    def _connected(self) -> Connection:
        """The pipe to a child that is ready; raises CnnbatchError where none starts, or what its ``build`` raised."""
        if self._process is None or self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._memory = int(MEMORY_SHARE * available_bytes())
            self._pipe, end = context.Pipe()
            self._process = context.Process(
                target=_serve, args=(self._build, self._answer_of, end), name="cnnbatch-isolated", daemon=True
            )
            try:
                self._process.start()
            except (OSError, RuntimeError) as error:  # no more processes, or a main module that may not be imported
                self._process = self._pipe = None
                raise CnnbatchError(f"the process that takes inputs one by one did not start: {error}") from error
            end.close()
            try:
                self._answer(self._pipe, SECONDS_TO_START)
            except (EOFError, OSError) as error:
                self.stop()
                raise CnnbatchError("the process that takes inputs one by one did not start: see the worker's log") from error
        return self._pipe

    def _answer(self, pipe: Connection, seconds: float) -> bytes:
        """Reads what the child sends: bytes that are looked at, no pickle, as it has seen the input.

        Raises EOFError, OSError (TimeoutError where it takes too long or too much memory), and the child's CnnbatchError.
        """
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while not pipe.poll(POLL_SECONDS):
            if time.monotonic() > deadline or resident_bytes(self._process.pid) > self._memory:
                raise TimeoutError
        answer = pipe.recv_bytes()
        if answer[:1] == _ERROR:
            raise _error_of(answer[1:])
        return answer[1:]

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _serve(build: Callable[[], Any], answer: Callable[[Any, Any], bytes], pipe: Connection) -> None:
    with suppress(OSError):  # where memory runs out, this process goes first and not its worker
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        worker = build()
    except CnnbatchError as error:
        pipe.send_bytes(_as_bytes(error))
        return
    pipe.send_bytes(_READY)
    while True:
        request = pipe.recv()
        try:
            reply = _ANSWER + answer(worker, request)
        except CnnbatchError as error:
            reply = _as_bytes(error)
        pipe.send_bytes(reply)


def _as_bytes(error: CnnbatchError) -> bytes:
    return _ERROR + json.dumps([type(error).__name__, getattr(error, "reason", None), str(error)]).encode()


def _error_of(answer: bytes) -> CnnbatchError:
    try:
        name, reason, text = map(str, json.loads(answer))
    except (ValueError, TypeError):
        return CnnbatchError("the process that takes inputs one by one sent back an invalid answer")
    kind = vars(errors).get(name, CnnbatchError)
    if not (isinstance(kind, type) and issubclass(kind, CnnbatchError)):
        return CnnbatchError(text)
    return kind(reason, text) if issubclass(kind, ImageError) else kind(text)


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
