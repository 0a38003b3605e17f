"""Rows of an archive as samples: pictures decoded together, labels beside them."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive.damage import damage_as_archive_error
from cnnbatch.archive.fields import parse_fields
from cnnbatch.archive.globs import matcher
from cnnbatch.archive.parquet import ParquetObject, open_parquet, read_columns
from cnnbatch.archive.reader import Archive, open_archive
from cnnbatch.archive.schema import COLUMNS, SCHEMA, SMALL_COLUMNS, ArchiveRow, table_to_rows
from cnnbatch.archive.snapshot import DEFAULT_THREADS, LiveShard
from cnnbatch.codec.codec import Decoder
from cnnbatch.codec.geometry import divisor, reduced
from cnnbatch.errors import DamagedRow, ImageError
from cnnbatch.images import decode
from cnnbatch.parallel import map_parallel
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.restoring import reconstruct_each, restore_file
from cnnbatch.storage import StorageConfig

MAX_PIXELS: Final = 1 << 28
OPEN_SHARDS: Final = 16
KEPT_GROUPS: Final = 4
"""Row groups whose small columns stay in memory."""

PART_ROWS: Final = 128
"""Rows of a part of a shard, about, that a stream deals out."""

NO_IMAGE: Final = "not an image"

Sample = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Samples:
    """The pictures of one version of an archive, by shard: the newest where ``archive`` is not told.

    ``pattern`` chooses keys; files that are no pictures are left out. ``decoder`` and ``scale`` are those of
    `cnnbatch.Codec.reconstruct`; pictures that were stored are brought to the same size.
    """

    url: str
    pattern: str = "*"
    config: StorageConfig | None = None
    decoder: Decoder = "full"
    scale: float = 1
    archive: Archive | None = None

    def of_one_version(self) -> "Samples":
        """The same for all processes that get it, whatever is committed meanwhile."""
        return replace(self, archive=self.archive or open_archive(self.url, self.config))

    def open(self) -> "OpenSamples":
        """Reads the log, and which rows of each shard are pictures."""
        return OpenSamples(self.archive or open_archive(self.url, self.config), self)


class OpenSamples:
    """Samples that can be read, numbered in the order of shards."""

    def __init__(self, archive: Archive, samples: Samples) -> None:
        self.archive, self._how = archive, samples
        self._matches = None if samples.pattern == "*" else matcher(samples.pattern)
        self.shards: Sequence[LiveShard] = archive.shards()
        self._codecs = CodecShelf(archive.store)
        self._files: OrderedDict[int, ParquetObject] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    @cached_property
    def rows(self) -> list[Any]:
        """For each shard the numbers of its rows that are samples; all shards are looked at for it, which a stream need not."""
        return list(map_parallel(partial(_chosen, self.archive, self._matches), self.shards, threads=DEFAULT_THREADS))

    @cached_property
    def ends(self) -> Any:
        """For each shard how many samples there are up to its end."""
        return np.cumsum([len(rows) for rows in self.rows], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def row(self, number: int) -> ArchiveRow:
        """One row by its number. Raises DamagedRow."""
        shard = int(np.searchsorted(self.ends, number, side="right"))
        first = int(self.ends[shard - 1]) if shard else 0
        return self._row(shard, int(self.rows[shard][number - first]))

    def groups(self, shard: int) -> list[int]:
        """How many rows each row group of a shard has."""
        metadata = self._file(shard).metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def read_group(self, shard: int, group: int) -> Iterator[ArchiveRow | DamagedRow]:
        """The samples of a row group."""
        file, path = self._file(shard), self.shards[shard].path
        with damage_as_archive_error(self.archive.store, path):
            small, payload = file.read_group(group, SMALL_COLUMNS), file.read_group(group, ["payload"]).column("payload")
        table = small.append_column(SCHEMA.field("payload").with_nullable(True), payload)
        inside = _samples_in(table, self._matches)
        yield from table_to_rows(table.select(COLUMNS).take(pa.array(inside)))

    def parts(self, shard: int) -> int:
        """In how many parts a shard is dealt out, by what the log says of it."""
        return max(1, -(-self.shards[shard].num_rows // PART_ROWS))

    def read_part(self, shard: int, part: int) -> Iterator[ArchiveRow | DamagedRow]:
        """The samples of a part: of its row groups, which may be none."""
        groups, parts = len(self.groups(shard)), self.parts(shard)
        for group in range(groups):
            if group * parts // groups == part:
                yield from self.read_group(shard, group)

    def images(self, rows: Sequence[ArchiveRow]) -> list[Any]:
        """Their pictures, see `decode_pictures`."""
        return decode_pictures(self._codecs, rows, decoder=self._how.decoder, scale=self._how.scale)

    def _row(self, shard: int, row: int) -> ArchiveRow:
        group, counts = 0, self.groups(shard)
        while row >= counts[group]:
            row -= counts[group]
            group += 1
        file, path = self._file(shard), self.shards[shard].path
        with damage_as_archive_error(self.archive.store, path):
            small = self._small(shard, group).slice(row, 1)
            payload = pa.array([file.read_payload(group, row)], pa.binary())
        table = small.append_column(SCHEMA.field("payload").with_nullable(True), payload)
        [found] = table_to_rows(table.select(COLUMNS))
        if isinstance(found, DamagedRow):
            raise found
        return found

    def _small(self, shard: int, group: int) -> pa.Table:
        return _kept(self._groups, (shard, group), KEPT_GROUPS, lambda: self._file(shard).read_group(group, SMALL_COLUMNS))

    def _file(self, shard: int) -> ParquetObject:
        live = self.shards[shard]
        file: ParquetObject = _kept(
            self._files, shard, OPEN_SHARDS, lambda: open_parquet(self.archive.store, live.path, num_bytes=live.num_bytes)
        )
        return file


def decode_pictures(
    codecs: CodecShelf, rows: Sequence[ArchiveRow], *, decoder: Decoder = "full", scale: float = 1
) -> list[Any]:
    """The pictures of rows, uint8 [H, W, 3] or [H, W], those of one codec decoded together; in place of one that cannot be
    decoded its error."""
    found: dict[int, Any] = {}
    for codec_id in {row.codec_id for row in rows if row.codec_id is not None}:
        numbers = [number for number, row in enumerate(rows) if row.codec_id == codec_id]
        coded = [rows[number] for number in numbers]
        found |= zip(numbers, reconstruct_each(codecs[codec_id], coded, decoder=decoder, scale=scale), strict=True)
    for number, row in enumerate(rows):
        if row.codec_id is None:
            try:
                stored = decode(restore_file(row, None, format="original"), max_pixels=MAX_PIXELS)
                found[number] = reduced(stored.pixels, divisor(scale))
            except ImageError as error:
                found[number] = error
    return [found[number] for number in range(len(rows))]


def sample_of_row(row: ArchiveRow, image: Any) -> Sample:
    """A row as training sees it: key, image, label, and the fields by their names."""
    return {
        "key": row.key,
        "image": image,
        "label": row.label,
        "fields": {field.name: field.plain() for field in parse_fields(row.fields)},
    }


def _kept(kept: "OrderedDict[Any, Any]", key: Any, most: int, make: Callable[[], Any]) -> Any:
    if key not in kept:
        kept[key] = make()
        while len(kept) > most:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


def _chosen(archive: Archive, matches: Callable[[str], bool] | None, shard: LiveShard) -> Any:
    """The numbers of the rows of a shard that are samples."""
    names = ["reason"] if matches is None else ["reason", "key"]
    return _samples_in(read_columns(archive.store, shard.path, names, num_bytes=shard.num_bytes), matches)


def _samples_in(table: pa.Table, matches: Callable[[str], bool] | None) -> Any:
    """The numbers of the rows that are samples, by the columns reason and, where ``matches`` asks for it, key."""
    mask = pc.fill_null(pc.not_equal(table.column("reason"), NO_IMAGE), True)
    if matches is not None:
        mask = pc.and_(mask, pa.array([matches(key) for key in table.column("key").to_pylist()], pa.bool_()))
    return np.flatnonzero(mask.to_numpy()).astype(np.int32)
