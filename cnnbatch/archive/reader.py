"""Reading an archive: by key, by pattern, shard by shard.

::

    archive = open_archive("s3://bucket/archive")
    len(archive), archive.keys("2024/*")
    row = archive["2024/a.jpg"]                    # a few small range requests, whatever the shard's size
    for row in archive.rows():                     # in shard order, every payload checked
        ...
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from cnnbatch.archive import layout
from cnnbatch.archive.damage import again_if_damaged, damage_as_archive_error, or_fault
from cnnbatch.archive.figures import KIND_COLUMNS, PAYLOAD_BYTES, ArchiveInfo, Kind, added_up, kinds_of
from cnnbatch.archive.globs import literal_prefix, matcher
from cnnbatch.archive.log import ArchiveLog
from cnnbatch.archive.parquet import ParquetObject, open_parquet, read_columns
from cnnbatch.archive.schema import SCHEMA, ArchiveRow
from cnnbatch.archive.shard_reading import payload_sizes, read_row, read_shard, read_summary
from cnnbatch.archive.shards import SHARD_PATH, ShardSummary
from cnnbatch.archive.snapshot import DEFAULT_THREADS, LiveShard, Snapshot
from cnnbatch.errors import ArchiveError, DamagedRow
from cnnbatch.parallel import map_parallel
from cnnbatch.storage import StorageConfig, Store
from cnnbatch.storage.durable import replace_file

T = TypeVar("T")


class Archive:
    """One version of an archive, as it was when it was opened. Safe to share between threads."""

    def __init__(self, log: ArchiveLog) -> None:
        self.store: Store = log.store
        self.format = layout.read_format(log.store)
        self.snapshot: Snapshot = log.snapshot()

    def __len__(self) -> int:
        return self.snapshot.num_rows

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and next(self._find(key), None) is not None

    def __getitem__(self, key: str) -> ArchiveRow:
        """Read one image.

        Raises:
            KeyError: there is none of this key.
            DamagedRow: its checksum or metadata is wrong.
        """
        places = list(self._find(key))
        if not places:
            raise KeyError(key)
        if len(places) > 1:
            raise ArchiveError(f"{key!r} occurs {len(places)} times in {self.store.url}")
        [(shard, place)] = places
        with suppress(ArchiveError):
            row = read_row(self.store, shard.path, *place)
            if isinstance(row, ArchiveRow):
                return row
        rows = list(read_shard(self.store, shard.path, keys={key}, num_bytes=shard.num_bytes))  # again, as careful as any other
        for row in rows:
            if isinstance(row, ArchiveRow):
                return row
        raise rows[0] if isinstance(rows[0], DamagedRow) else KeyError(key)

    def locate(self, key: str) -> tuple[str, int, int]:
        """Where the payload of an image is: file of the archive, offset, length. Those bytes can be read in place.

        Raises:
            KeyError: there is none of this key.
            ArchiveError: another tool wrote its shard, and without a page index.
        """
        for shard, (file, group, row) in self._find(key):
            try:
                return (shard.path, *file.payload_place(group, row))
            except LookupError as error:
                raise ArchiveError(f"the payload of {key!r} cannot be read in place: {error}") from error
        raise KeyError(key)

    def keys(self, pattern: str = "*") -> Iterator[str]:
        """Yield the keys that match a glob in which ``*`` crosses ``/``, in shard order; reads only the key column.

        Raises:
            ArchiveError: after all others, where a shard cannot be read.
        """
        matches = matcher(pattern)
        for keys in self._read_each(self._shard_keys, pattern):
            yield from filter(matches, keys)

    def columns(self, names: Sequence[str], pattern: str = "*") -> Iterator[dict[str, Any]]:
        """Yield these columns of the rows whose key matches, like `keys`; nothing but what is wrong in Parquet is checked.

        Raises:
            ArchiveError: as `keys`.
        """
        matches = matcher(pattern)
        read = partial(self._shard_columns, ["key", *(name for name in names if name != "key")])
        for rows in self._read_each(read, pattern):
            yield from (row for row in rows if matches(row["key"]))

    def rows(self, pattern: str = "*") -> Iterator[ArchiveRow | DamagedRow]:
        """Yield the rows whose key matches, in shard order, one row group in memory; a damaged one as its error.

        Raises:
            ArchiveError: as `keys`.
        """
        matches = matcher(pattern)
        faults: list[ArchiveError] = []
        for shard in self._shards_with_prefix(literal_prefix(pattern)):
            try:
                keys = None if pattern == "*" else set(filter(matches, self._shard_keys(shard)))
                if keys is None or keys:
                    yield from read_shard(self.store, shard.path, keys=keys, num_bytes=shard.num_bytes)
            except ArchiveError as error:
                faults.append(error)
        if faults:
            raise faults[0]

    def shards(self) -> tuple[LiveShard, ...]:
        """Return the live shards, ordered by their first key."""
        return self.snapshot.shards

    def shard_keys(self, shard: LiveShard, pattern: str = "*") -> list[str]:
        """Return the keys of one shard that match a glob; reads only the key column."""
        prefix = literal_prefix(pattern)
        if not self._shards_with_prefix(prefix, [shard]):
            return []
        return list(filter(matcher(pattern), self._shard_keys(shard)))

    def codec_bytes(self, codec_id: str) -> bytes:
        """Read the codec file of that id out of the archive, its sha256 checked.

        Raises:
            CodecFileError: it is missing or damaged.
        """
        return layout.read_codec(self.store, codec_id)

    def codec_path(self, codec_id: str, folder: Path) -> Path:
        """Return that codec file as a local file in ``folder``, copied and checked unless it is there and intact."""
        path = folder / Path(layout.codec_path(codec_id)).name
        if not (path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == codec_id):
            data = self.codec_bytes(codec_id)
            replace_file(path, lambda file: file.write(data))
        return path

    def info(self) -> ArchiveInfo:
        """Add up the figures in the shards' footers: about one small request a shard, no row is read."""
        read = partial(_read_shard_summary, self.store)
        summaries = list(map_parallel(read, self.snapshot.shards, threads=DEFAULT_THREADS))
        return ArchiveInfo(
            url=self.store.url,
            format_version=self.format.version,
            created_by=self.format.created_by,
            log_version=self.snapshot.version,
            num_images=len(self),
            num_shards=len(self.snapshot.shards),
            outcomes=sum((Counter(summary.outcomes) for summary in summaries), Counter()),
            codecs=sum((Counter(summary.codecs) for summary in summaries), Counter()),
            source_bytes=sum(summary.source_bytes for summary in summaries),
            payload_bytes=sum(summary.payload_bytes for summary in summaries),
            archive_bytes=self.snapshot.num_bytes,
            codec_bytes=sum(info.size or 0 for info in self.store.list(f"{layout.CODECS}/")),
        )

    def kinds(self) -> list[Kind]:
        """Count images by format, outcome and reason, the most bytes of originals first; reads small columns of all shards."""
        return added_up(chain.from_iterable(self._read_each(self._shard_kinds, "*")))

    def _find(self, key: str) -> Iterator[tuple[LiveShard, tuple[ParquetObject, int, int]]]:
        """The shard that has a key, and where in it: more than one only where the archive is damaged."""
        for shard in self.snapshot.shards:
            place = again_if_damaged(partial(self._place, shard, key)) if shard.may_hold(key) else None
            if place is not None:
                yield shard, place

    def _place(self, shard: LiveShard, key: str) -> tuple[ParquetObject, int, int] | None:
        """The shard as a file, and where in it a key is: row group and row. Keys are in order, unless another tool wrote it."""
        file = open_parquet(self.store, shard.path, num_bytes=shard.num_bytes)
        low, high, is_ours = 0, file.metadata.num_row_groups, SHARD_PATH.fullmatch(shard.path)
        while low < high:
            middle = (low + high) // 2 if is_ours else low
            with damage_as_archive_error(self.store, shard.path):
                keys = file.read_group(middle, ["key"]).column("key").to_pylist()
            if key in keys:
                return file, middle, keys.index(key)
            if is_ours and keys and key < keys[0]:
                high = middle
            else:
                low = middle + 1
        return None

    def _read_each(self, read: Callable[[LiveShard], list[T]], pattern: str) -> Iterator[list[T]]:
        """The results of ``read`` for each shard that may hold a match; in the end what the first said that it cannot read."""
        faults: list[ArchiveError] = []
        shards = self._shards_with_prefix(literal_prefix(pattern))
        for found in map_parallel(partial(or_fault, read), shards, threads=DEFAULT_THREADS):
            if isinstance(found, ArchiveError):
                faults.append(found)
            else:
                yield found
        if faults:
            raise faults[0]

    def _shard_keys(self, shard: LiveShard) -> list[str]:
        return [str(row["key"]) for row in self._shard_columns(["key"], shard)]

    def _shard_kinds(self, shard: LiveShard) -> list[Kind]:
        table = self._shard_table(KIND_COLUMNS, shard)
        with damage_as_archive_error(self.store, shard.path):
            return kinds_of(table)

    def _shard_table(self, names: Sequence[str], shard: LiveShard) -> pa.Table:
        """Columns of a shard, `PAYLOAD_BYTES` among them, which is none."""
        stored = [name for name in names if name != PAYLOAD_BYTES]
        table = read_columns(self.store, shard.path, stored, num_bytes=shard.num_bytes)
        if PAYLOAD_BYTES in names:
            sizes = again_if_damaged(partial(payload_sizes, self.store, shard.path, num_bytes=shard.num_bytes))
            table = table.append_column(PAYLOAD_BYTES, pa.array(sizes, pa.int64()))
        return table

    def _shard_columns(self, names: Sequence[str], shard: LiveShard) -> list[dict[str, Any]]:
        table = self._shard_table(names, shard)
        for name in set(names) - {PAYLOAD_BYTES}:
            if table.column(name).null_count and not SCHEMA.field(name).nullable:
                raise ArchiveError(f"{shard.path} in {self.store.url} is not a readable shard: {name} is null")
        with damage_as_archive_error(self.store, shard.path):  # text that is not UTF-8 is noticed here
            return list(table.to_pylist())

    def _shards_with_prefix(self, prefix: str, shards: Sequence[LiveShard] | None = None) -> list[LiveShard]:
        return [
            shard
            for shard in (self.snapshot.shards if shards is None else shards)
            if shard.max_key >= prefix and (shard.min_key <= prefix or shard.min_key.startswith(prefix))
        ]


def open_archive(url: str, config: StorageConfig | None = None) -> Archive:
    """Open the newest version of an archive for reading.

    Raises:
        ArchiveError: there is none, or one of an unknown format.
        StorageError: the store refused.
    """
    return Archive(ArchiveLog(url, config))


def _read_shard_summary(store: Store, shard: LiveShard) -> ShardSummary:
    return read_summary(store, shard.path, num_bytes=shard.num_bytes)
