"""The advisory lease: two runs on one archive find out early, instead of encoding the same images twice.

Correctness never depends on it (the fence in ``log.py`` does that), so losing it is a warning. No clocks are compared:
a lease has lapsed when its heartbeat has not changed for ``lapse_seconds`` *while we watched*.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Self

from cnnbatch.errors import LeaseHeld, StorageError
from cnnbatch.storage import Store, parse_json

LEASE_PATH = "_cnnbatch/lease.json"
LAPSE_SECONDS = 60.0
WAIT_SECONDS = 90.0
HEARTBEAT_SECONDS = 15.0
POLL_SECONDS = 2.0
MAX_LEASE_BYTES = 1 << 16

logger = logging.getLogger(__name__)


class Lease:
    """Hold the archive's lease for the length of a ``with`` block::

        with Lease(store, run_id="nightly-17"):
            ...

    Entering waits up to ``wait_seconds`` for another holder to release or to lapse, then raises `LeaseHeld`. A thread
    renews it every ``heartbeat_seconds``; ``lost`` says that another run took it (after we were suspended, say).
    """

    def __init__(
        self,
        store: Store,
        *,
        run_id: str,
        lapse_seconds: float = LAPSE_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._store, self._run_id = store, run_id
        self._lapse_seconds, self._wait_seconds = lapse_seconds, wait_seconds
        self._heartbeat_seconds, self._poll_seconds = heartbeat_seconds, poll_seconds
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._lost = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="cnnbatch-lease", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether another run has taken the lease from us."""
        return self._lost.is_set()

    def __enter__(self) -> Self:
        self._acquire()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()
        try:
            content, _ = self._read()
            if self._is_ours(content):
                self._store.delete(LEASE_PATH)
        except StorageError as failure:  # it lapses by itself, and must not hide the error of the block
            logger.warning("the lease could not be released: %s", failure)

    def _acquire(self) -> None:
        start = seen_at = time.monotonic()
        seen: bytes | None = None
        while True:
            content, version = self._read()
            now = time.monotonic()
            if content != seen:
                seen, seen_at = content, now
            free = content is None or now - seen_at >= self._lapse_seconds
            if free and self._store.put_if_match(LEASE_PATH, self._next_beat(), version):
                return
            if now - start >= self._wait_seconds:
                raise LeaseHeld(f"another run works on {self._store.url}: {_describe(content)}")
            if not free:
                time.sleep(self._poll_seconds)

    def _keep(self) -> None:
        while not self._stopped.wait(self._heartbeat_seconds):
            try:
                self._renew()
            except StorageError as failure:  # the next beat may get through
                logger.warning("the lease could not be renewed: %s", failure)
            if self.lost:
                logger.warning("another run has taken the lease of %s; commits stay safe", self._store.url)
                return

    def _renew(self) -> None:
        content, version = self._read()
        if not self._is_ours(content) or not self._store.put_if_match(LEASE_PATH, self._next_beat(), version):
            self._lost.set()

    def _read(self) -> tuple[bytes | None, str | None]:
        try:
            return self._store.read_versioned(LEASE_PATH, max_bytes=MAX_LEASE_BYTES)
        except FileNotFoundError:
            return None, None

    def _next_beat(self) -> bytes:
        self._beats += 1
        content = {
            "run_id": self._run_id,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "token": self._token,
            "heartbeat": self._beats,
        }
        return json.dumps(content).encode()

    def _is_ours(self, content: bytes | None) -> bool:
        return content is not None and self._token.encode() in content


def _describe(content: bytes | None) -> str:
    try:
        found = parse_json(content or b"")
        return f"run {found['run_id']} on {found['host']}, process {found['process']}"
    except (ValueError, KeyError, TypeError):
        return "its lease is not readable"
