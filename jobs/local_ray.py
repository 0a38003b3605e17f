"""A Ray of this job alone, on this machine: it joins no other, and needs neither a home nor a short ``TMPDIR``."""

import logging
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import ray

from cnnbatch.errors import CnnbatchError

SHORT: Final = 36
"""Bytes of the name of a folder in which Ray can have its sockets: their paths may have 107, of which it adds up to 71
(``/ray/session_2026-11-30_05-22-33_123456_1234567/sockets/plasma_store``)."""

TRIES: Final = 3
STDERR: Final = 2
NICENESS: Final = "RAY_worker_niceness"
_TOKENS: Final = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

logger = logging.getLogger(__name__)


def start(init: Callable[..., None]) -> None:
    """Calls ``init`` with the arguments of `ray.init` that such a Ray needs. On a crowded machine it may not come up at once.

    Raises CnnbatchError where it does not.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray Data's own actor arguments make it complain at every job
    os.environ.setdefault(NICENESS, "0")  # Ray's 15 gives a worker a thirtieth of a processor that others use, too
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
    if not any(name in os.environ for name in _TOKENS):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray makes one and keeps it in ~/.ray
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # which says at every job that it has one
    folder = _folder() / "ray"
    before = _children()
    for tried in range(1, TRIES + 1):
        try:
            with _without_notice():
                init(address="local", _temp_dir=str(folder))
            return
        except Exception as error:
            ray.shutdown()
            _kill(_children() - before)  # what Ray leaves running would be in the way of the next try
            if tried == TRIES:
                raise CnnbatchError(f"Ray does not start on this machine, tried {TRIES} times: {error}") from error
            logger.warning("Ray did not start, trying again: %s", error)


@contextmanager
def _without_notice() -> Iterator[None]:
    """Keeps off stderr the line in which Ray's core says that it has read its log level; no level keeps that off."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as heard:
        kept = os.dup(STDERR)
        os.dup2(heard.fileno(), STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, STDERR)
            os.close(kept)
            heard.seek(0)
            for line in heard:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(STDERR, line)


def _children() -> set[int]:
    """The processes that this one has started, where the system tells them."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found.update(map(int, thread.read_text().split()))
    return found


def _kill(processes: Iterable[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _folder() -> Path:
    """The system's folder for temporary files, or where its name is too long another one."""
    wanted = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    for folder in (wanted, *map(Path, ("/tmp", "/var/tmp", "/dev/shm"))):
        if len(os.fsencode(folder)) <= SHORT and os.access(folder, os.W_OK | os.X_OK):
            return folder
    fault = f"its name has more than {SHORT} bytes, or it cannot be written"
    raise CnnbatchError(f"Ray cannot put its sockets into {wanted}: {fault}: set RAY_TMPDIR")
