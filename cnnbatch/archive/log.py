"""The archive's log: a Delta table whose commits are fenced, identified and safe to repeat.

::

    log = ArchiveLog.create_or_open("s3://bucket/archive", codec_files=[codec_file])
    base = log.snapshot()
    shard = write_shard(log.store, rows, footer=lineage)     # on any machine
    result = log.commit(run_id, sequence, [shard], base=base)

Every writer advances one shared application id, the fence, so that of two commits made from the same version one
fails; the loser looks at the new version and leaves out what the winner already brought (``merge.py``).
"""

import logging
import random
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from deltalake.exceptions import DeltaError

from cnnbatch.archive import layout
from cnnbatch.archive.commits import read_commit
from cnnbatch.archive.conditions import require_conditions
from cnnbatch.archive.elsewhere import snapshot_elsewhere
from cnnbatch.archive.log_table import LogTable
from cnnbatch.archive.merge import Change, KeyCache, resolve
from cnnbatch.archive.shards import ShardInfo
from cnnbatch.archive.snapshot import DEFAULT_THREADS, Snapshot, delta_faults, take_snapshot
from cnnbatch.archive.transaction import FENCE
from cnnbatch.archive.transaction import write_commit as _write_commit
from cnnbatch.archive.trust import Look, check_live
from cnnbatch.errors import ArchiveError
from cnnbatch.processes import require_rust, rust_works
from cnnbatch.storage import StorageConfig, open_store
from cnnbatch.storage.trouble import storage_error

COMMIT_SECONDS = 120.0  # how long one commit goes on trying against other writers
MAX_BACKOFF_SECONDS = 2.0
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The outcome of one commit.

    ``dropped`` are keys of new shards that another writer had committed first: his rows stay, ours are left out.
    ``stale`` are shards to be removed or replaced that were not live any more: that part was left out whole.
    ``repeated`` is true when this (run id, sequence) had been committed before this call, and nothing was done.
    """

    version: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    repeated: bool = False


class ArchiveLog:
    """The log of one archive. Not for concurrent use by threads; any number of processes may have one each."""

    def __init__(self, url: str, config: StorageConfig | None = None) -> None:
        """Name the archive; nothing is read or checked yet (`open` and `create_or_open` do)."""
        self.store = open_store(url, config)
        self.table = LogTable(self.store.url, config)
        self._keys = KeyCache(self.store)
        self._warned_of: str | None = None
        self._conditions_kept = self.table.config is None

    @classmethod
    def create_or_open(cls, url: str, config: StorageConfig | None = None, *, codec_files: Iterable[bytes] = ()) -> Self:
        """Open an archive, creating it first where there is none, and put these codec files into it.

        Raises:
            UsageError: there is something else at this URL, or it is of a kind that cannot hold an archive, or its store does
                not keep the conditions that commits rely on.
            ArchiveError: an archive of an unknown format.
            StorageError: the store refused.
        """
        log = cls(url, config)
        require_rust(f"create an archive at {log.store.url}")
        layout.check_place(log.store)
        log._require_conditions()
        layout.write_layout(log.store, codec_files)
        log.table.create()
        log.snapshot()
        return log

    @classmethod
    def open(cls, url: str, config: StorageConfig | None = None) -> Self:
        """Open an existing archive.

        Raises:
            ArchiveError: there is none, or one of an unknown format.
        """
        log = cls(url, config)
        layout.read_format(log.store)
        log.snapshot()
        return log

    def snapshot(self) -> Snapshot:
        """Read the newest version of the log: which shards are live.

        Raises:
            ArchiveError: there is none, or it is damaged.
            StorageError: the store refused.
        """
        return self.load().snapshot if rust_works() else snapshot_elsewhere(self.store.url, self.table.config)

    def load(self) -> Look:
        """The newest version, with its table; raises what `snapshot` does."""
        found = self.look()
        if found.trust.fault is not None:
            raise ArchiveError(f"the log of {self.store.url} is damaged: {found.trust.fault}; run cnnbatch doctor for details")
        return found

    def look(self) -> Look:
        """The newest version as Delta reads it, and what its digests say, for who examines a damaged log.

        Raises:
            ArchiveError: there is none, or Delta cannot read it.
            StorageError: the store refused.
        """
        for _ in range(2):  # a bit that flipped on the way comes right the second time
            table = self.table.open()
            snapshot = take_snapshot(table)
            trust = check_live(self.store, snapshot, self.snapshot_at)
            if trust.fault is None:
                break
        found = Look(table, snapshot, trust)
        if found.others is not None and found.others != self._warned_of:
            self._warned_of = found.others
            logger.warning("%s: %s", self.store.url, found.others)
        return found

    def snapshot_at(self, version: int) -> Snapshot | None:
        """Read an earlier version, no shard at all before the first; ``None`` where the log does not go back that far. It is
        not compared with its digest.
        """
        if version < 0:
            return Snapshot(-1, ())
        try:
            return take_snapshot(self.table.open(version))
        except ArchiveError:
            self.table.open()  # it is this version that cannot be read, not the log
            return None

    def last_commit(self, *, besides: tuple[str, ...] = ()) -> datetime | None:
        """Return when a run last committed whose id does not begin with one of ``besides``; looks at the newest 100 commits.

        ``None`` where there is none, or it does not say when.
        """
        newest = self.table.open().version()
        for version in range(newest, max(-1, newest - 100), -1):
            commit = read_commit(self.store, version)
            if commit is None:
                break
            if commit.run_id is not None and not commit.run_id.startswith(besides):
                return commit.moment
        return None

    def commit(
        self,
        run_id: str,
        sequence: int,
        adds: Sequence[ShardInfo],
        *,
        removes: Sequence[str] = (),
        base: Snapshot | None = None,
    ) -> CommitResult:
        """Make written shards live, and others not, in one transaction. When it returns, it is durable.

        A run's sequence numbers rise, and a run id belongs to one driver: a sequence number at or below the last one
        committed is taken for a repetition and does nothing.

        ``base`` is the snapshot that the caller compared the added keys with; only shards that came later are looked
        at for keys that are live already. Without it all shards with overlapping key ranges are read. ``removes`` are
        shards that go and leave nothing; those named in ``ShardInfo.replaces`` go by themselves.

        Data files are never deleted here: after an error nobody knows whether the commit is in.

        Raises:
            UsageError: the store does not keep the conditions that commits rely on.
            ArchiveError: an added shard is missing or of another size than written, or the codec file of new rows is missing.
            StorageError: the store refused, or other writers were faster for `COMMIT_SECONDS`.
        """
        if not _RUN_ID.fullmatch(run_id) or run_id == FENCE or sequence < 0:
            raise ValueError(f"not a run id and sequence number: {run_id!r}, {sequence}")
        self._require_conditions()
        self._check_written(adds)
        known = set() if base is None else {shard.path for shard in base.shards}
        return self._commit_fenced(run_id, sequence, adds, removes, known)

    def pass_fence(self, run_id: str, sequence: int) -> None:
        """Commit nothing: a commit under way that was decided on an older version has to be decided again.

        Raises:
            StorageError: as `commit`.
        """
        self._require_conditions()
        self._commit_fenced(run_id, sequence, (), (), set(), needed=True)

    def _commit_fenced(
        self,
        run_id: str,
        sequence: int,
        adds: Sequence[ShardInfo],
        removes: Sequence[str],
        known: set[str],
        *,
        needed: bool = False,
    ) -> CommitResult:
        deadline = time.monotonic() + COMMIT_SECONDS
        backoff, change = 0.05, None
        failure: Exception = TimeoutError("no answer")
        while True:
            look = self.load()
            snapshot = look.snapshot
            if self._is_in(look, run_id, sequence):  # also when the answer to our own write was lost
                self.table.sync(snapshot.version)
                return _result(snapshot.version, change)
            if time.monotonic() > deadline:
                raise storage_error(failure, f"commit within {COMMIT_SECONDS:g} s to", self.store.url) from failure
            change = resolve(self._keys, snapshot, adds=adds, removes=removes, known=known)
            if not (change.adds or change.removes or needed):
                return _result(snapshot.version, change)
            try:
                _write_commit(look, change, run_id, sequence)
            except (DeltaError, OSError) as error:  # a conflict, or no answer: the log tells which
                failure = error
                self.table.require_hard_links()
                time.sleep(backoff * random.uniform(0.5, 1.5))
                backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)
            else:
                self.table.sync(snapshot.version + 1)
                return _result(snapshot.version + 1, change)

    def _require_conditions(self) -> None:
        config = self.table.config
        if config is not None and not self._conditions_kept:
            require_conditions(self.store, config.endpoint)
            self._conditions_kept = True

    def _is_in(self, look: Look, run_id: str, sequence: int) -> bool:
        with delta_faults(f"the log of {self.store.url}"):
            last = look.table.transaction_version(run_id)
        return last is not None and last >= sequence

    def _check_written(self, adds: Sequence[ShardInfo]) -> None:
        with ThreadPoolExecutor(DEFAULT_THREADS) as pool:
            found = list(pool.map(self.store.head, [shard.path for shard in adds]))
        for shard, info in zip(adds, found, strict=True):
            if info is None or info.size != shard.num_bytes:
                actual = "is missing" if info is None else f"has {info.size} bytes"
                raise ArchiveError(f"{shard.path} in {self.store.url} {actual}, but {shard.num_bytes} bytes were written")
        for codec_id in {codec_id for shard in adds if not shard.replaces for codec_id in shard.summary.codecs}:
            if self.store.head(layout.codec_path(codec_id)) is None:
                raise ArchiveError(f"{layout.codec_path(codec_id)} is missing from {self.store.url}: new rows need it")


def _result(version: int, change: Change | None) -> CommitResult:
    if change is None:
        return CommitResult(version, repeated=True)
    return CommitResult(
        version,
        added=tuple(shard.path for shard in change.adds),
        removed=tuple(shard.path for shard in change.removes),
        dropped=change.dropped,
        stale=change.stale,
    )
