"""Every picture of one version of an archive, by key: where it is, and the small figures that are searched and shown.

An Arrow table of about 150 bytes a picture, sorted by key, so a folder is a range of rows. Nothing here reads a payload.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive.damage import or_fault
from cnnbatch.archive.parquet import read_columns
from cnnbatch.archive.shard_reading import payload_sizes
from cnnbatch.archive.snapshot import DEFAULT_THREADS, LiveShard
from cnnbatch.errors import ArchiveError
from cnnbatch.parallel import map_parallel
from cnnbatch.storage import Store

COLUMNS: Final = (
    *("key", "source_format", "source_size", "source_mtime", "width", "height", "outcome", "reason"),
    *("quality", "psnr_db", "ssimulacra2", "label", "ingested_at"),
)
REPEATED: Final = ("source_format", "outcome", "reason")

Numbers = npt.NDArray[np.int64]
Rows = range | Numbers
"""Rows of the index: neighbours, or some in any order."""


@dataclass(frozen=True, slots=True)
class Folder:
    """``path`` ends with ``/``; ``count`` is of all pictures below it."""

    path: str
    count: int


@dataclass(frozen=True)
class Index:
    """``table`` has `COLUMNS`, ``shard`` and ``row``; ``faults`` says which shards could not be read."""

    version: int
    shards: tuple[LiveShard, ...]
    table: pa.Table = field(repr=False)
    keys: pa.LargeStringArray = field(repr=False)
    folders: dict[str, int] = field(repr=False)
    """Every folder that directly or indirectly has pictures → how many."""
    children: dict[str, list[str]] = field(repr=False)
    faults: tuple[str, ...] = ()

    @cached_property
    def _shard_numbers(self) -> npt.NDArray[np.int32]:
        return np.asarray(self.table.column("shard"))

    @cached_property
    def _row_numbers(self) -> npt.NDArray[np.int32]:
        return np.asarray(self.table.column("row"))

    @cached_property
    def _stored(self) -> npt.NDArray[np.bool_]:
        return np.asarray(pc.fill_null(pc.equal(self.table.column("outcome"), "store"), False))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def find(self, key: str) -> int | None:
        """The row of a key."""
        row = self._bisect(key)
        return row if row < len(self) and self.keys[row].as_py() == key else None

    def below(self, folder: str) -> range:
        """The rows of all pictures below a folder; ``""`` is all."""
        if not folder:
            return range(len(self))
        return range(self._bisect(folder), self._bisect(folder[:-1] + chr(ord("/") + 1)))

    def subfolders(self, folder: str) -> Iterator[Folder]:
        """The folders directly in a folder, by name."""
        for path in self.children.get(folder, ()):
            yield Folder(path, self.folders[path])

    def place(self, row: int) -> tuple[LiveShard, int]:
        """The shard that has a row, and which of its rows that is."""
        return self.shards[self._shard_numbers[row]], int(self._row_numbers[row])

    def identity(self, row: int) -> str:
        """A word that is another one where the key has other content: shards are never changed."""
        shard, number = self.place(row)
        return hashlib.blake2s(f"{shard.path}:{number}".encode(), digest_size=8).hexdigest()

    def is_stored(self, row: int) -> bool:
        """Whether its original was kept as it was."""
        return bool(self._stored[row])

    def rows(self, rows: Rows) -> list[dict[str, Any]]:
        """Those rows as dictionaries of `COLUMNS`, with their `identity`."""
        numbers: Sequence[int] = rows if isinstance(rows, range) else rows.tolist()
        if isinstance(rows, range) and rows.step == 1:
            table = self.table.slice(rows.start, len(rows))
        else:
            table = self.table.take(pa.array(numbers, pa.int64()))
        return [
            {**found, "v": self.identity(number)}
            for number, found in zip(numbers, table.select(COLUMNS).to_pylist(), strict=True)
        ]

    def _bisect(self, key: str) -> int:
        return bisect_left(range(len(self)), key, key=lambda row: self.keys[row].as_py())


def build_index(store: Store, version: int, shards: Sequence[LiveShard], *, threads: int = DEFAULT_THREADS) -> Index:
    """Reads the small columns of every shard. One that cannot be read is left out, and named in `Index.faults`."""
    parts: list[pa.Table] = []
    faults: list[str] = []

    def read(number: int) -> pa.Table:
        shard = shards[number]
        table = read_columns(store, shard.path, COLUMNS, num_bytes=shard.num_bytes)
        if table.column("key").null_count:
            raise ArchiveError(f"{shard.path} is not a readable shard: key is null")
        count = table.num_rows
        table = table.append_column("shard", pa.array(np.full(count, number, np.int32)))
        return table.append_column("row", pa.array(np.arange(count, dtype=np.int32)))

    for found in map_parallel(lambda number: or_fault(read, number), range(len(shards)), threads=threads):
        if isinstance(found, ArchiveError):
            faults.append(str(found))
        else:
            parts.append(found)
    table = _sorted(parts)
    keys = pc.cast(table.column("key"), pa.large_string()).combine_chunks()
    folders, children = _folders(keys)
    return Index(version, tuple(shards), table, keys, folders, children, tuple(faults))


def payload_bytes(store: Store, index: Index, *, threads: int = DEFAULT_THREADS) -> npt.NDArray[np.float64]:
    """Bytes of the payload of each row of the index: a small request for each shard. Where its footer does not tell, as in
    shards that were written by older versions, equal shares of it."""

    def read(shard: LiveShard) -> npt.NDArray[np.float64]:
        sizes = np.array(payload_sizes(store, shard.path, num_bytes=shard.num_bytes), np.float64)  # None: not a number
        return np.where(np.isnan(sizes), shard.num_bytes / max(1, shard.num_rows), sizes)

    by_shard: list[npt.NDArray[np.float64]] = []
    for shard, found in zip(
        index.shards, map_parallel(lambda shard: or_fault(read, shard), index.shards, threads=threads), strict=True
    ):
        by_shard.append(np.zeros(shard.num_rows) if isinstance(found, ArchiveError) else found)
    first = np.cumsum([0, *map(len, by_shard)])
    shard_of = index.table.column("shard").to_numpy().astype(np.int64)
    places: Numbers = first[shard_of] + index.table.column("row").to_numpy()
    return np.concatenate([np.empty(0), *by_shard])[places]


def _sorted(parts: Sequence[pa.Table]) -> pa.Table:
    if not parts:
        schema = pa.schema([(name, pa.string()) for name in COLUMNS] + [("shard", pa.int32()), ("row", pa.int32())])
        return schema.empty_table()
    table = pa.concat_tables([_with_repeated(part) for part in parts]).unify_dictionaries()
    order = pc.sort_indices(table, sort_keys=[("key", "ascending")])
    return table.take(order).combine_chunks()


def _with_repeated(table: pa.Table) -> pa.Table:
    for name in REPEATED:
        position = table.column_names.index(name)
        table = table.set_column(position, name, table.column(name).combine_chunks().dictionary_encode())
    return table


def _folders(keys: pa.Array) -> tuple[dict[str, int], dict[str, list[str]]]:
    """How many pictures are below each folder, and the folders in each."""
    direct = pc.value_counts(pc.replace_substring_regex(keys, r"[^/]*$", ""))
    totals: dict[str, int] = {"": 0}
    children: dict[str, list[str]] = {}
    for entry in direct.to_pylist():
        path, count = entry["values"], entry["counts"]
        for folder in _chain(path):
            if folder not in totals:
                totals[folder] = 0
                children.setdefault(_parent(folder), []).append(folder)
            totals[folder] += count
    for names in children.values():
        names.sort()
    return totals, children


def _chain(path: str) -> Iterator[str]:
    """``a/b/`` → ``""``, ``a/``, ``a/b/``."""
    yield ""
    position = path.find("/")
    while position >= 0:
        yield path[: position + 1]
        position = path.find("/", position + 1)


def _parent(folder: str) -> str:
    return folder[: folder.rfind("/", 0, -1) + 1]
