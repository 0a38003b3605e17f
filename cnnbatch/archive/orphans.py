"""Files below ``data/`` that no live row is in: written and never committed, or replaced. They go after a grace.

The grace protects two: a writer whose shards wait for their commit, and a reader that still uses an older version of the log.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cnnbatch.archive.leftovers import run_leftovers, unneeded_codecs
from cnnbatch.archive.log import ArchiveLog
from cnnbatch.archive.parquet import read_columns
from cnnbatch.archive.shards import SHARD_PATH
from cnnbatch.archive.snapshot import Snapshot
from cnnbatch.archive.trust import Look
from cnnbatch.errors import ArchiveError, UsageError
from cnnbatch.storage import ObjectInfo, Store

DATA: Final = "data"
OF_SHARDS: Final = frozenset(("missing-shard", "wrong-size"))
"""The kinds of `faults_of_shards`."""
GRACE: Final = timedelta(hours=24)
LEAST_GRACE: Final = timedelta(hours=1)
"""With none, a full vacuum beside a running ingest took shards that were about to be committed."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """One such file. ``replaced``: it was live once; ``ripe``: its grace is over."""

    path: str
    num_bytes: int
    replaced: bool
    ripe: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """The files that a sweep deleted: orphans, bytes, what interrupted local writes and killed runs had left, codec files."""

    files: int
    num_bytes: int
    unfinished: int
    leftovers: int = 0
    codecs: int = 0


def check_grace(grace: timedelta, *, forced: bool) -> None:
    """Raises UsageError for a grace under an hour that is not forced."""
    if grace < LEAST_GRACE and not forced:
        raise UsageError("a grace under 1 hour can take files from a run that is about to commit them: --force allows it")


def find_orphans(log: ArchiveLog, *, grace: timedelta = GRACE) -> list[Orphan]:
    """Every orphan, by path. A replaced file's grace counts from its removal, another's from its last change.

    What has no name of a shard and was never in the log is somebody else's.
    """
    files = list(log.store.list(DATA))  # before the log is read: what is committed in between is live, not an orphan
    newest = log.load()
    live, replaced, ripe = paths_needed(log, newest), newest.replaced(), newest.replaced(grace)
    limit = datetime.now(UTC) - grace
    found = [
        Orphan(
            info.key,
            info.known_bytes,
            info.key in replaced,
            info.key in ripe if info.key in replaced else _is_older(info, limit),
        )
        for info in files
        if info.key not in live and (info.key in replaced or SHARD_PATH.fullmatch(info.key))
    ]
    return sorted(found, key=lambda orphan: orphan.path)


def paths_needed(log: ArchiveLog, newest: Look) -> set[str]:
    """The files that must stay: those that are live, and those that were in the last version that a digest covers, where other
    tools changed the log since."""
    live = {shard.path for shard in newest.snapshot.shards}
    if newest.others is not None and newest.trust.ours is not None:
        before = log.snapshot_at(newest.trust.ours)
        if before is None:
            raise ArchiveError(f"version {newest.trust.ours} of the log of {log.store.url} cannot be read any more")
        live.update(shard.path for shard in before.shards)
    return live


def sweep(log: ArchiveLog, *, grace: timedelta = GRACE, forced: bool = False) -> Swept:
    """Delete the orphans whose grace is over, and the control files that nothing needs (`leftovers`). A shard that is live
    by now stays, whatever it was when it was found.

    Raises:
        UsageError: a grace under `LEAST_GRACE` that is not forced.
    """
    check_grace(grace, forced=forced)
    ripe = [orphan for orphan in find_orphans(log, grace=grace) if orphan.ripe]
    live = paths_needed(log, log.load()) if ripe else set()
    gone = [orphan for orphan in ripe if orphan.path not in live]
    for orphan in gone:
        log.store.delete(orphan.path)
    unfinished = log.store.remove_unfinished(older_than=grace)
    leftovers, codecs = list(run_leftovers(log.store, grace=grace)), unneeded_codecs(log.store, grace=grace)
    for path in (*leftovers, *codecs):
        log.store.delete(path)
    return Swept(len(gone), sum(orphan.num_bytes for orphan in gone), unfinished, len(leftovers), len(codecs))


def holders(store: Store, keys: frozenset[str]) -> Iterator[str]:
    """Yield each file below ``data/``, live or not, that has a row of one of ``keys``, or may have one: it is unreadable."""
    for info in store.list(DATA):
        try:
            found = read_columns(store, info.key, ["key"], num_bytes=info.size).column("key").to_pylist()
        except (ArchiveError, UnicodeDecodeError):
            yield info.key
        else:
            if not keys.isdisjoint(found):
                yield info.key


def faults_of_shards(store: Store, snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
    """Yield (path, kind, message) for each live shard that is missing or has another size than the log says."""
    sizes = {info.key: info.size for info in store.list(DATA)}
    for shard in snapshot.shards:
        size = sizes.get(shard.path)
        if size is None and (info := store.head(shard.path)) is not None:  # a path outside data/, or brought meanwhile
            size = info.size
        if size is None:
            yield shard.path, "missing-shard", f"{shard.num_rows} images, {shard.min_key!r} … {shard.max_key!r}, are lost"
        elif size != shard.num_bytes:
            yield shard.path, "wrong-size", f"has {size} bytes, the log says {shard.num_bytes}"


def _is_older(info: ObjectInfo, limit: datetime) -> bool:
    return info.mtime is not None and info.mtime <= limit
