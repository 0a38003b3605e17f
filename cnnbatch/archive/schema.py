"""The archive table: one row is one image, with what is needed to give it back.

`ArchiveRow` and `SCHEMA` name the same columns in the same order (a test holds that). The payload comes last, so that
a reader of the small columns never crosses it.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

import pyarrow as pa

from cnnbatch.errors import ArchiveError, DamagedRow

TIMESTAMP = pa.timestamp("us", tz="UTC")

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source_etag", pa.string()),
        pa.field("source_mtime", TIMESTAMP),
        pa.field("source_size", pa.int64(), nullable=False),
        pa.field("source_sha256", pa.binary(), nullable=False),
        pa.field("source_format", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mode", pa.string()),
        pa.field("exif", pa.binary()),
        pa.field("icc", pa.binary()),
        pa.field("xmp", pa.binary()),
        pa.field("segments", pa.binary()),
        pa.field("alpha", pa.binary()),
        pa.field("fields", pa.binary()),
        pa.field("label", pa.string()),
        pa.field("container", pa.string()),
        pa.field("place", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("payload_coding", pa.string(), nullable=False),
        pa.field("codec_id", pa.string()),
        pa.field("quality", pa.float32()),
        pa.field("psnr_db", pa.float32()),
        pa.field("ssimulacra2", pa.float32()),
        pa.field("ingested_at", TIMESTAMP, nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("payload_sha256", pa.binary(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
    ]
)
BLOBS = ("exif", "icc", "xmp", "segments", "alpha", "fields")
"""Compressed, but without statistics: a minimum of pixels helps nobody."""

PAYLOAD_CODINGS = {"cnn": ("cnn",), "store": ("verbatim", "jpegxl-transcode", "parts", "zstd")}
"""Outcome → how the payload may be coded."""

SHA256_BYTES = 32
MAX_QUALITY = 63.0
MAX_PAYLOAD_BYTES = 2**31 - 2**20  # Arrow's binary offsets and Parquet's page sizes are signed 32-bit
SMALL_COLUMN_BYTES = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Bytes a value may take, in UTF-8 where it is text: 4096 is PATH_MAX, 64 MiB more than any ICC or EXIF block seen.
MAX_BYTES = {
    "key": 4096,
    "source_etag": 1024,
    "source_format": 64,
    "mode": 1024,
    "reason": 256,
    "run_id": 128,
    "exif": 1 << 26,
    "icc": 1 << 26,
    "xmp": 1 << 26,
    "segments": 1 << 26,
    "alpha": MAX_PAYLOAD_BYTES,
    "fields": 1 << 26,
    "label": 1024,
    "container": 1 << 20,
    "place": 1 << 20,
    "payload": MAX_PAYLOAD_BYTES,
}
CODEC_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRow:
    """One image in the archive. ``docs/format.md`` says what each column means; `check_row` says what is valid."""

    key: str
    source_etag: str | None = None
    source_mtime: datetime | None = None
    source_size: int
    source_sha256: bytes
    source_format: str
    width: int | None = None
    height: int | None = None
    mode: str | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    segments: bytes | None = None
    alpha: bytes | None = None
    fields: bytes | None = None
    label: str | None = None
    container: str | None = None
    place: str | None = None
    outcome: str
    reason: str | None = None
    payload_coding: str
    codec_id: str | None = None
    quality: float | None = None
    psnr_db: float | None = None
    ssimulacra2: float | None = None
    ingested_at: datetime
    run_id: str
    payload_sha256: bytes
    payload: bytes

    @property
    def coded_pixels(self) -> int:
        """Pixels of the bitstream; none of a stored row."""
        return (self.width or 0) * (self.height or 0) if self.outcome == "cnn" else 0


COLUMNS = tuple(field.name for field in fields(ArchiveRow))
SMALL_COLUMNS = COLUMNS[:-1]


def rows_to_table(rows: Sequence[ArchiveRow]) -> pa.Table:
    """Lay rows out as a table of `SCHEMA`; the rows are not checked (`check_row` does)."""
    arrays = [pa.array([getattr(row, field.name) for row in rows], type=field.type) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def conform(table: pa.Table) -> pa.Table:
    """Cast the archive columns in ``table``, which another tool may have written, to the types of `SCHEMA`.

    Raises:
        ArchiveError: a column is of another kind.
    """
    schema = pa.schema([SCHEMA.field(name).with_nullable(True) for name in table.column_names])
    try:
        return table.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ArchiveError(f"not the columns of a cnnbatch archive: {_one_line(error)}") from error


def check_row(row: ArchiveRow) -> None:
    """Check one row's types, sizes, vocabulary and checksum.

    Raises:
        ValueError: the first thing that is wrong: what was found and what was expected.
    """
    check_columns(row)
    actual = hashlib.sha256(row.payload).digest()
    if actual != row.payload_sha256:
        raise ValueError(f"payload sha256 is {actual.hex()}, recorded {row.payload_sha256.hex()}")


def table_to_rows(table: pa.Table, *, check: Callable[[ArchiveRow], None] = check_row) -> Iterator[ArchiveRow | DamagedRow]:
    """Yield each row of a table of `SCHEMA`, checked by ``check``, or what is wrong with it.

    A damaged row does not hide the ones after it.
    """
    values = [(name, _values(table.column(name))) for name in COLUMNS]
    for index in range(table.num_rows):
        try:
            row = ArchiveRow(**{name: value(index) for name, value in values})
            check(row)
        except (ValueError, TypeError, OverflowError) as error:  # also what Arrow says of bad UTF-8 or a year 300000
            key = _readable_key(table.column("key"), index)
            shown = f"row {index}, whose key is not UTF-8" if key is None else repr(key)
            yield DamagedRow(f"{shown}: {_one_line(error)}", key)
        else:
            yield row


def _values(column: pa.ChunkedArray) -> Callable[[int], Any]:
    """The Python value of each row. All at once takes a tenth of the time, but payloads would then be in memory twice."""
    if not (pa.types.is_binary(column.type) and column.nbytes > SMALL_COLUMN_BYTES):
        try:
            if column.type == TIMESTAMP:  # Arrow itself is slow with time zones
                return [
                    None if value is None else _EPOCH + timedelta(microseconds=value)
                    for value in column.cast(pa.int64()).to_pylist()
                ].__getitem__
            return list(column.to_pylist()).__getitem__
        except (ValueError, TypeError, OverflowError):
            pass  # one row's fault: the others are not to suffer
    return lambda index: column[index].as_py()


def check_columns(row: ArchiveRow) -> None:
    """Checks as `check_row` does, but for the payload's bytes: a row that fails only there can be copied as it is.

    Raises:
        ValueError: the first thing that is wrong.
    """
    for (usual, short, rule), value in zip(_RULES, _values_of(row), strict=True):
        if type(value) is usual and (short is None or len(value) <= short):
            continue
        _check_value(*rule, value)
    if not row.key:
        raise ValueError("the key is empty")
    _check_source(row)
    _check_outcome(row)


def _check_value(name: str, nullable: bool, kind: str, types: type | tuple[type, ...], value: Any) -> None:
    if value is None:
        if not nullable:
            raise ValueError(f"{name} is null")
        return
    if not isinstance(value, types) or isinstance(value, bool):
        raise ValueError(f"{name} is {type(value).__name__}, expected {kind}")
    if isinstance(value, datetime) and value.utcoffset() != timedelta(0):
        raise ValueError(f"{name} is not in UTC")
    if isinstance(value, str | bytes):
        size = len(value.encode()) if isinstance(value, str) else len(value)
        if size > MAX_BYTES.get(name, size):
            raise ValueError(f"{name} has {size} bytes, the limit is {MAX_BYTES[name]}")


def _python_type(kind: pa.DataType) -> type | tuple[type, ...]:
    if pa.types.is_floating(kind):
        return (float, int)
    if pa.types.is_integer(kind):
        return int
    if pa.types.is_timestamp(kind):
        return datetime
    return str if pa.types.is_string(kind) else bytes


def _usual(name: str, kind: pa.DataType) -> tuple[Any, int | None]:
    """The type that nearly every value of a column has, and how long a text or how many bytes of it are surely within the
    limit: spares most values their check."""
    types = _python_type(kind)
    if types in (str, bytes):
        return types, MAX_BYTES.get(name, MAX_PAYLOAD_BYTES) // 4
    if types is datetime:  # each has to say UTC
        return None, None
    return float if pa.types.is_floating(kind) else types, None


# Rows are checked when written and when read: asking Arrow for each value was a third of the time that a small picture took.
_RULES = tuple(
    (*_usual(field.name, field.type), (field.name, field.nullable, str(field.type), _python_type(field.type)))
    for field in SCHEMA
)
_values_of: Callable[[ArchiveRow], Iterable[Any]] = attrgetter(*SCHEMA.names)


def _check_source(row: ArchiveRow) -> None:
    for name in ("source_sha256", "payload_sha256"):
        if len(getattr(row, name)) != SHA256_BYTES:
            raise ValueError(f"{name} has {len(getattr(row, name))} bytes, expected {SHA256_BYTES}")
    if not 0 <= row.source_size < 2**63:
        raise ValueError(f"source_size is {row.source_size}")
    for name in ("width", "height"):
        side = getattr(row, name)
        if side is not None and not 1 <= side < 2**31:
            raise ValueError(f"{name} is {side}, expected 1 … {2**31 - 1}")


def _check_outcome(row: ArchiveRow) -> None:
    if row.payload_coding not in PAYLOAD_CODINGS.get(row.outcome, ()):
        raise ValueError(f"outcome {row.outcome!r} with payload coding {row.payload_coding!r} is unknown")
    if row.outcome == "cnn" and None in (row.codec_id, row.quality, row.width, row.height):
        raise ValueError("a cnn row needs codec_id, quality, width and height")
    if row.outcome == "store" and (row.codec_id, row.quality) != (None, None):
        raise ValueError("a store row has no codec_id and no quality")
    if row.codec_id is not None and not CODEC_ID.fullmatch(row.codec_id):
        raise ValueError(f"codec_id is {row.codec_id[:80]!r}, expected a sha256 in hex")
    if row.quality is not None and not 0 <= row.quality <= MAX_QUALITY:
        raise ValueError(f"quality is {row.quality}, expected 0 … {MAX_QUALITY:g}")
    for name in ("psnr_db", "ssimulacra2"):
        value = getattr(row, name)
        if value is not None and value != value:
            raise ValueError(f"{name} is not a number")
    if row.payload_coding == "verbatim" and row.payload_sha256 != row.source_sha256:
        raise ValueError("a verbatim payload has the source's sha256")


def _readable_key(keys: pa.ChunkedArray, index: int) -> str | None:
    try:
        return str(keys[index].as_py())
    except UnicodeDecodeError:
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
