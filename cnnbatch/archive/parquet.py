"""Parquet files in a store: opened by ranges, so that only the wanted columns travel, and checked before Arrow decodes them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnnbatch.archive.damage import again_if_damaged, damage_as_archive_error
from cnnbatch.archive.pages import (
    BOUNDED_ENCODINGS,
    PagePlace,
    column_pages,
    page_of_row,
    plain_span,
    plain_value,
    read_footer_struct,
    read_pages,
)
from cnnbatch.archive.schema import MAX_BYTES, SCHEMA, conform
from cnnbatch.errors import ArchiveError
from cnnbatch.storage import Store
from cnnbatch.storage.ranged_file import RangedFile, ReadRange

MAX_GROUP_ROWS = 1 << 20  # a file that claims more in one row group is refused before anything is allocated
MAX_GROUP_BYTES = 1 << 33  # uncompressed; our largest is one image of 2 GiB with its alpha
MAX_FOOTER_BYTES = 1 << 26
MAX_INDEXED_BYTES = 1 << 20
"""Size of a footer that is read here, and not by Arrow alone, to find one page."""

TAIL_BYTES: Final = 1 << 16
"""Read first, as Arrow does: the footer of most shards."""

FOOTER_MARK: Final = b"CNBF"
"""Before the footer, and after the sha256 of it: see `seal_footer`."""

DECODE_BYTES: Final = 32 << 20
"""Bytes of values that may be decoded at once, by what their pages claim."""

EXPANSION: Final = 64
"""How many times its stored bytes the columns that are read may take in memory …"""

FREE_BYTES: Final = 64 << 20
"""… and what they may take anyhow: EXIF, ICC and XMP of one image, each at its limit, compress to nothing if they are zeros."""

_FIXED_BYTES: Final = 8  # of a number or time
_MAGIC: Final = b"PAR1"
_LEAST_BYTES: Final = 12  # the magic twice, and the length of the footer


def seal_footer(data: bytes) -> bytes:
    """A Parquet file with the sha256 of its footer before it, and `FOOTER_MARK` between the two.

    No Parquet reader looks there, and every one finds the footer from the end of the file.
    """
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[start:-8]
    return b"".join((data[:start], hashlib.sha256(footer).digest(), FOOTER_MARK, footer, data[-8:]))


class ParquetObject:
    """A Parquet file in a store. Every byte is read by the thread that asks for it.

    Arrow's own coalescing (``pre_buffer``) reads on Arrow's threads, and one that lets go of a Python file while the
    interpreter ends aborts a process whose work was done (apache/arrow#34314). So the columns of a row group are fetched
    here, in few requests. Where they lie, Arrow is asked by a read that gets nothing: ``metadata.row_group(i).column(j)`` of
    pyarrow would tell, but aborts the process when that part of a footer is damaged.

    What is fetched is checked before Arrow sees it: the footer against its sha256, where it has one, and each page against
    its checksum, but for payloads, whose rows have one, so that one flipped bit costs one image and not its row group.
    """

    def __init__(self, store: Store, path: str, num_bytes: int, read_range: ReadRange | None = None) -> None:
        """Raises what Arrow says of a file that is not sound, see `damage_as_archive_error`."""
        self._file = RangedFile(store, path, num_bytes, read_range)
        self._footer = _fetch_footer(self._file)
        self._parquet = pq.ParquetFile(pa.PythonFile(self._file, mode="r"), pre_buffer=False)
        self._file.fetch(())
        self.metadata = self._parquet.metadata
        _check_metadata(self.metadata, self._parquet.schema_arrow)
        self._pages: dict[int, list[PagePlace]] = {}
        self._kinds = {field.name: field.type for field in self._parquet.schema_arrow}

    def read_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Read columns of one row group."""
        return self._read([group], columns, f"row group {group} has")

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read columns of all row groups."""
        return self._read(range(self.metadata.num_row_groups), columns, "there are")

    def read_payload(self, group: int, row: int) -> bytes:
        """Read the payload of one row of a row group: one page, where the page index tells which. It is not checked."""
        try:
            if len(self._footer) > MAX_INDEXED_BYTES:
                raise LookupError("the footer is too large to inspect")
            pages = self._payload_pages(group)
            page = pages[page_of_row(pages, row)]
            return bytes(plain_value(self._file.view(page.start, page.end), row - page.first_row))
        except (LookupError, ValueError, TypeError):  # there is no index, or it is damaged, or is none of ours
            return bytes(self.read_group(group, ["payload"]).column("payload")[row].as_py() or b"")

    def payload_place(self, group: int, row: int) -> tuple[int, int]:
        """Where in the file the payload of a row is, and how long. Raises LookupError where nothing tells."""
        try:
            pages = self._payload_pages(group)
            at = page_of_row(pages, row)
            page = pages[at]
            try:
                offset, length = plain_span(self._file.view(page.start, page.end), row - page.first_row)
            except LookupError:
                behind = pages[at + 1].first_row if at + 1 < len(pages) else None
                return self._packed_place(group, row, page.end, behind)
            return page.start + offset, length
        except (ValueError, TypeError) as error:
            raise LookupError(str(error)) from error

    def _payload_pages(self, group: int) -> list[PagePlace]:
        """The pages of a row group's payloads, read once; raises as `column_pages`."""
        if group not in self._pages:
            self._pages[group] = column_pages(self._footer_fields, self._file.view, group, "payload")
        return self._pages[group]

    @cached_property
    def _footer_fields(self) -> dict[int, Any]:
        return read_footer_struct(self._footer)

    def _packed_place(self, group: int, row: int, end: int, behind: int | None) -> tuple[int, int]:
        """The same where all lengths of a page come before its values, which end with it (DELTA_LENGTH_BYTE_ARRAY).

        ``end`` of the page; ``behind``: the first row of the next.
        """
        payloads = self.read_group(group, ["payload"]).column("payload")
        last = len(payloads) if behind is None else behind
        lengths = pc.binary_length(payloads.slice(row, last - row)).to_pylist()
        return end - sum(lengths), lengths[0]

    def _read(self, groups: Sequence[int], columns: Sequence[str], subject: str) -> pa.Table:
        where = {(group, column): self._ranges(group, column) for group in groups for column in columns}
        self._file.fetch(found for ranges in where.values() for found in ranges)
        try:
            most = max(FREE_BYTES, EXPANSION * sum(end - start for ranges in where.values() for start, end in ranges))
            parts = self._decode(groups, columns, self._rows_at_once(where, most), most)
        finally:
            self._file.fetch(())  # the tables hold what they need
        table = conform(pa.concat_tables(parts))
        if table.num_rows != (expected := self._num_rows(groups)):
            raise pa.ArrowInvalid(f"{subject} {table.num_rows} rows, expected {expected}")
        return table

    def _num_rows(self, groups: Iterable[int]) -> int:
        return sum(self.metadata.row_group(group).num_rows for group in groups)

    def _ranges(self, group: int, column: str) -> list[tuple[int, int]]:
        """The pages that Arrow will read first: all of the column. Raises Arrow's error where it does not get so far."""
        with self._file.asking() as asked:
            try:
                self._arrow_read([group], [column])
            except (pa.ArrowException, OSError, UnicodeDecodeError):
                if not asked:
                    raise
        return [(start, end) for start, end in asked[:1] if start < end]

    def _rows_at_once(self, where: Mapping[tuple[int, str], Sequence[tuple[int, int]]], most: int) -> int:
        """How many rows may be decoded at once, by what the pages claim; compares the checksums of the pages on the way."""
        each: Counter[int] = Counter()
        once = 0
        for (group, column), ranges in where.items():
            try:
                views = [self._file.view(start, end) for start, end in ranges]
                pages = [page for view in views for page in read_pages(view, check=column != "payload")]
            except ValueError as error:
                raise pa.ArrowInvalid(f"{column} of row group {group}: {error}") from error
            width = _width(self._kinds[column])
            if width is not None:
                each[group] += width
            elif {page.encoding for page in pages} - {None} <= BOUNDED_ENCODINGS:
                once += sum(page.num_bytes for page in pages)
            else:
                each[group] += max(page.num_bytes for page in pages)
        if once > most:
            raise pa.ArrowInvalid(f"it claims {once} bytes, {most} are allowed")
        return max(1, DECODE_BYTES // max([1, *each.values()]))

    def _decode(self, groups: Sequence[int], columns: Sequence[str], at_once: int, most: int) -> list[pa.Table]:
        if at_once >= self._num_rows(groups):
            return [self._arrow_read(groups, columns)]
        parts, used = [self._arrow_read([], columns)], 0
        for batch in self._parquet.iter_batches(at_once, row_groups=groups, columns=columns, use_threads=False):
            used += batch.nbytes
            _check_lengths(batch)
            if used > most:
                raise pa.ArrowInvalid(f"it decodes to more than {most} bytes")
            parts.append(pa.Table.from_batches([batch]))
        return parts

    def _arrow_read(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        return self._parquet.read_row_groups(list(groups), columns=list(columns), use_threads=False)


def _fetch_footer(file: RangedFile) -> memoryview:
    """Bring the footer, its sha256 checked where there is one."""
    size, seal = file.num_bytes, hashlib.sha256().digest_size + len(FOOTER_MARK)
    if size < _LEAST_BYTES:
        raise pa.ArrowInvalid(f"it has {size} bytes")
    first = max(0, size - TAIL_BYTES)
    file.fetch([(first, size)])
    length = int.from_bytes(file.view(size - 8, size - 4), "little")
    start = size - 8 - length
    if start < len(_MAGIC) or length > MAX_FOOTER_BYTES:
        raise pa.ArrowInvalid(f"it has {size} bytes, and claims a footer of {length}")
    if start - seal < first:
        file.fetch([(max(0, start - seal), size)])
    mark = bytes(file.view(max(0, start - seal), start))
    footer = file.view(start, size - 8)
    if mark.endswith(FOOTER_MARK) and mark != hashlib.sha256(footer).digest() + FOOTER_MARK:
        raise pa.ArrowInvalid("the sha256 of its footer does not match")
    return footer


def _width(kind: pa.DataType) -> int | None:
    """Bytes of every value, where all have the same."""
    if pa.types.is_primitive(kind):
        return _FIXED_BYTES
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_decimal(kind):
        return max(_FIXED_BYTES, int(kind.byte_width))
    return None


def _is_text(kind: pa.DataType) -> bool:
    """Text or bytes as Arrow may lay them out; neither nested nor a dictionary, which would grow when it is taken apart."""
    kinds = pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary
    return any(is_kind(kind) for is_kind in kinds)


def _check_lengths(batch: pa.RecordBatch) -> None:
    """Before more is decoded: no value is over its limit."""
    for name in set(batch.schema.names) & set(MAX_BYTES):
        longest = pc.max(pc.binary_length(batch.column(name))).as_py() or 0
        if longest > MAX_BYTES[name]:
            raise pa.ArrowInvalid(f"a {name} has {longest} bytes, the limit is {MAX_BYTES[name]}")


def open_parquet(
    store: Store, path: str, *, num_bytes: int | None = None, read_range: ReadRange | None = None
) -> ParquetObject:
    """Open one Parquet object; pass ``num_bytes`` where it is known, it saves a request. ``read_range``: see `RangedFile`.

    Raises:
        ArchiveError: missing, not Parquet, or a row group over the limits.
    """
    if num_bytes is None:
        info = store.head(path)
        if info is None:
            raise ArchiveError(f"{path} is missing from {store.url}")
        num_bytes = info.known_bytes
    return again_if_damaged(partial(_open, store, path, num_bytes, read_range))


def _open(store: Store, path: str, num_bytes: int, read_range: ReadRange | None) -> ParquetObject:
    with damage_as_archive_error(store, path):
        return ParquetObject(store, path, num_bytes, read_range)


def _check_metadata(metadata: Any, schema: pa.Schema) -> None:
    """Believe no count and no type before it is checked."""
    if missing := set(SCHEMA.names) - set(schema.names):
        raise pa.ArrowInvalid(f"the columns {', '.join(sorted(missing))} are missing")
    if len(set(schema.names)) < len(schema.names):
        raise pa.ArrowInvalid("two columns have the same name")
    for name in SCHEMA.names:
        kind = schema.field(name).type
        if not (_width(kind) is not None or _is_text(kind)):
            raise pa.ArrowInvalid(f"{name} is {kind}, expected {SCHEMA.field(name).type}")
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    for index, group in enumerate(groups):
        if not (0 <= group.num_rows <= MAX_GROUP_ROWS and 0 <= group.total_byte_size <= MAX_GROUP_BYTES):
            raise pa.ArrowInvalid(f"row group {index} claims {group.num_rows} rows and {group.total_byte_size} bytes")
    if sum(group.num_rows for group in groups) != metadata.num_rows:
        raise pa.ArrowInvalid(f"the row groups do not add up to {metadata.num_rows} rows")


def read_columns(store: Store, path: str, columns: Sequence[str], *, num_bytes: int | None = None) -> pa.Table:
    """Read only these columns of one shard, with page CRCs checked."""
    return again_if_damaged(lambda: _read_columns(store, path, columns, num_bytes))


def _read_columns(store: Store, path: str, columns: Sequence[str], num_bytes: int | None) -> pa.Table:
    file = open_parquet(store, path, num_bytes=num_bytes)
    with damage_as_archive_error(store, path):
        return file.read(columns)
