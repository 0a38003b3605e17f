"""Rows of a shard carried on as they are into the shard that replaces it."""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from cnnbatch.archive.damage import again_if_damaged
from cnnbatch.archive.schema import ArchiveRow, check_columns
from cnnbatch.archive.shard_reading import read_footer, read_shard
from cnnbatch.archive.shards import ShardInfo, write_unchecked
from cnnbatch.errors import ArchiveError, DamagedRow, StorageError
from cnnbatch.storage import Store

logger = logging.getLogger(__name__)


def rewrite_without(store: Store, path: str, keys: Collection[str], *, num_bytes: int | None = None) -> ShardInfo | None:
    """Copy a shard without some of its keys, for the commit that replaces it; ``None`` when no row is left.

    The rows are copied as they are, so nothing is encoded again. One whose payload fails its checksum, read twice, is copied
    too, byte for byte: readers and `jobs.verify` go on reporting it, and the rows beside it are not held up by it. The
    result's ``replaces`` names ``path``.

    Raises:
        DamagedRow: a row that would be carried on cannot be read at all; nothing is written.
        StorageError: a damaged row was read twice, and each time with other bytes.
    """

    def read() -> Iterator[ArchiveRow | DamagedRow]:
        rows = read_shard(store, path, num_bytes=num_bytes, check=check_columns)
        return (row for row in rows if row.key not in keys)

    kept: list[ArchiveRow] = []
    for row in _read_twice_if_damaged(read, where=f"{path} in {store.url}"):
        if isinstance(row, DamagedRow):
            raise row
        kept.append(row)
    return carry_on(store, path, kept, num_bytes=num_bytes)


def read_remains(store: Store, path: str, *, num_bytes: int | None = None) -> tuple[list[ArchiveRow], frozenset[str]]:
    """The readable part of a shard that is gone or damaged: rows, whatever their payloads are, and the keys of further rows.

    Raises:
        StorageError: a damaged row was read twice, and each time with other bytes.
    """
    try:
        rows = _read_twice_if_damaged(
            lambda: read_shard(store, path, num_bytes=num_bytes, check=check_columns), where=f"{path} in {store.url}"
        )
    except ArchiveError:
        return [], frozenset()
    named = frozenset(row.key for row in rows if isinstance(row, DamagedRow) and row.key is not None)
    return [row for row in rows if isinstance(row, ArchiveRow)], named


def carry_on(store: Store, path: str, rows: Sequence[ArchiveRow], *, num_bytes: int | None = None) -> ShardInfo | None:
    """Write rows of a shard again as they are, for the commit that replaces it; ``None`` when there is no row."""
    if not rows:
        return None
    for row in rows:
        if not _is_sound(row):
            logger.warning("%r in %s is damaged: copied unchanged", row.key, path)
    footer = read_footer(store, path, num_bytes=num_bytes)
    return write_unchecked(store, rows, footer, (path,))


def _read_twice_if_damaged(
    read: Callable[[], Iterable[ArchiveRow | DamagedRow]], *, where: str
) -> list[ArchiveRow | DamagedRow]:
    """The rows of ``read()``; where one is damaged, it is called again, and of each row the sound reading counts.

    Before what was read replaces what is stored: a bit that flipped on the way must not become the only copy. What is
    damaged in both readings comes back damaged.

    Raises:
        StorageError: the two readings of a row differ and neither is sound: the way to the store is at fault, not the row.
    """
    first = again_if_damaged(lambda: list(read()))
    if all(map(_is_sound, first)):
        return first
    logger.warning("%s has damaged rows: read again", where)
    readings: dict[str | None, list[ArchiveRow | DamagedRow]] = {}
    for row in (*first, *again_if_damaged(lambda: list(read()))):
        readings.setdefault(row.key, []).append(row)
    return [_agreed(found, where) for key, found in readings.items() if key is not None or len(found) > 1]


def _agreed(readings: Sequence[ArchiveRow | DamagedRow], where: str) -> ArchiveRow | DamagedRow:
    sound = next(filter(_is_sound, readings), None)
    if sound is not None:
        return sound
    if len(readings) < 2 or (readings[0] != readings[1] and not all(isinstance(row, DamagedRow) for row in readings)):
        raise StorageError(f"{where}: {readings[0].key!r} was read twice with other bytes each time, and neither is sound")
    return readings[0]


def _is_sound(row: ArchiveRow | DamagedRow) -> bool:
    return not isinstance(row, DamagedRow) and hashlib.sha256(row.payload).digest() == row.payload_sha256
