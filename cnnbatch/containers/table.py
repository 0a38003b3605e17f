"""Tables with a column that is an image: Parquet, as Hugging Face and others write it.

A row is an input for each of its image columns; the other columns go with the first of them.
"""

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.archive.fields import Field, dump_fields, field_of, parse_fields
from cnnbatch.containers.index import Index, Rows
from cnnbatch.containers.part import Part, without_last_nulls
from cnnbatch.containers.tar import DIGITS
from cnnbatch.storage import ObjectInfo, Store
from cnnbatch.storage.ranged_file import RangedFile

BATCH_BYTES: Final = 16 << 20
MAX_BATCH_ROWS: Final = 1024
MAX_SCHEMA_BYTES: Final = 1 << 20
READ_BYTES: Final = 4 << 20
"""Bytes of a column that one request reads."""

VALUE, NULL, NO_BYTES = range(3)
"""States of an image: it is there; it is null; it is a structure without bytes."""

_ENDINGS: Final = (
    *((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"), (b"II*\0", "tif"), (b"BM", "bmp")),
)
_BINARY: Final = (pa.binary(), pa.large_binary())


class TableFile:
    """A Parquet object, read by ranges."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        """Raises what Arrow says of a file that is none."""
        file = io.BufferedReader(RangedFile(store, key, size), 1 << 16)
        self._parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=False, buffer_size=READ_BYTES)
        self.schema: pa.Schema = self._parquet.schema_arrow
        self.groups: list[int] = [
            self._parquet.metadata.row_group(group).num_rows for group in range(self._parquet.metadata.num_row_groups)
        ]

    def batches(self, group: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of one row group, a few MB of them at a time."""
        about = self._parquet.metadata.row_group(group)
        rows = BATCH_BYTES * max(1, about.num_rows) // max(1, about.total_byte_size)
        names = self.schema.names if columns is None else list(columns)
        yield from self._parquet.iter_batches(
            min(MAX_BATCH_ROWS, max(1, rows)), row_groups=[group], columns=names, use_threads=False
        )


def image_columns(table: TableFile, wanted: Sequence[str]) -> list[str]:
    """The columns that are images: those ``wanted``, as far as they are there and can be; else those that say so or look so."""
    names = [field.name for field in table.schema if _can_hold_images(field.type)]
    if wanted:
        return [name for name in wanted if name in names]
    told = [name for name, feature in _features(table.schema).items() if feature.get("_type") == "Image" and name in names]
    if told:
        return told
    nested = [name for name in names if pa.types.is_struct(table.schema.field(name).type)]
    return nested or [name for name in names if _looks_like_images(table, name)]


def image_bytes(value: Any) -> tuple[int, bytes, str | None]:
    """State, bytes and path of an image in a row, from its Arrow scalar."""
    if not value.is_valid:
        return NULL, b"", None
    if not pa.types.is_struct(value.type):
        return VALUE, value.as_py(), None
    found = value.as_py()
    path = found.get("path")
    return (NO_BYTES, b"", path) if found["bytes"] is None else (VALUE, found["bytes"], path)


def pack_schema(schema: pa.Schema) -> str:
    """A schema in few characters."""
    return base64.b64encode(zlib.compress(schema.serialize().to_pybytes(), 9)).decode()


@lru_cache(256)
def unpack_schema(text: str) -> pa.Schema:
    """The other way round; raises ValueError for what is none."""
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), MAX_SCHEMA_BYTES)
        return pa.ipc.read_schema(pa.BufferReader(data))
    except (zlib.error, pa.ArrowException, OSError) as error:
        raise ValueError(f"no schema: {error}") from error


class Table:
    """``.parquet``."""

    name = "parquet"

    def __init__(self, columns: Sequence[str] = ()) -> None:
        self._columns = tuple(columns)

    def matches(self, key: str) -> bool:
        return key.lower().endswith(".parquet")

    def index(self, store: Store, info: ObjectInfo) -> Index | None:
        rows = Rows()
        column: dict[str, Any] = {"kind": self.name, "key": info.key}
        try:
            table = TableFile(store, info.key, info.size or 0)
            images = image_columns(table, self._columns)
            if not images and not self._columns:
                return None
            if not images:
                raise ValueError(f"none of the columns {', '.join(self._columns)} exists")
            column |= {"schema": pack_schema(table.schema), "images": images, "group": max(table.groups, default=0)}
            first = 0
            for group, count in enumerate(table.groups):
                for found in _inputs(table, info, images, group, first):
                    rows.add(found)
                first += count
        except (pa.ArrowException, OSError, ValueError):
            rows.add(ObjectInfo(info.key, None, fault="damaged"))
        found = rows.table()
        return Index(info, json.dumps(column, separators=(",", ":")), found) if found.num_rows else None

    def ranges(self, part: Part) -> Sequence[tuple[int, int]] | None:
        return None

    def stream(self, store: Store, parts: Sequence[Part]) -> Iterator[tuple[int, list[bytes]]]:
        table = TableFile(store, parts[0].container.key, parts[0].container.size or 0)
        images = json.loads(parts[0].column)["images"]
        wanted: dict[int, dict[int, list[int]]] = {}
        for number, part in enumerate(parts):
            group, row = part.row["at"]
            wanted.setdefault(group, {}).setdefault(row, []).append(number)
        for group in sorted(wanted):
            first = 0
            for batch in table.batches(group):
                for row in sorted(row for row in wanted[group] if first <= row < first + batch.num_rows):
                    for number in wanted[group][row]:
                        yield number, _values(batch, row - first, parts[number].row["place"][1], images)
                first += batch.num_rows
                if first > max(wanted[group]):
                    break

    def values(self, part: Part, stored: Sequence[bytes]) -> list[bytes]:
        return list(stored)

    def fields(self, part: Part, values: Sequence[bytes]) -> list[Field]:
        return parse_fields(values[0] or None)

    def digest(self, value: bytes) -> str:
        return hashlib.sha256(value).hexdigest()[:DIGITS]

    def class_names(self, part: Part) -> Mapping[str, Sequence[str]]:
        return _class_names(part.column)


@lru_cache(256)
def _class_names(column: str) -> dict[str, list[str]]:
    features = _features(unpack_schema(json.loads(column)["schema"]))
    return {name: [str(one) for one in feature.get("names", ())] for name, feature in features.items() if "names" in feature}


def _inputs(table: TableFile, info: ObjectInfo, images: Sequence[str], group: int, first: int) -> Iterator[ObjectInfo]:
    row = 0
    for batch in table.batches(group):
        for index in range(batch.num_rows):
            for column in images:
                yield _input(batch, index, info, images, column, (group, row), first + row)
            row += 1


def _input(
    batch: pa.RecordBatch, index: int, info: ObjectInfo, images: Sequence[str], column: str, at: tuple[int, int], number: int
) -> ObjectInfo:
    state, data, path = image_bytes(batch.column(column)[index])
    values = _values(batch, index, column, images)
    digests = [hashlib.sha256(value).hexdigest()[:DIGITS] for value in values]
    place = without_last_nulls([number, column, path, state or None])
    name = f"{number:08}" + (f".{column.replace('/', '_')}" if len(images) > 1 else "")
    ending = next((ending for magic, ending in _ENDINGS if data.startswith(magic)), None)
    etag = hashlib.sha256(json.dumps([number, column, path, state, digests]).encode()).hexdigest()[:32]
    part = json.dumps({"at": at, "digests": digests, "place": place}, separators=(",", ":"))
    key = f"{info.key}/{name}" + (f".{ending}" if ending else "")
    return ObjectInfo(key, len(data), etag, info.mtime, part)


def _values(batch: pa.RecordBatch, index: int, column: str, images: Sequence[str]) -> list[bytes]:
    """The image, and with the first one of a row what its other columns hold, as the column ``fields`` has it."""
    _, data, _ = image_bytes(batch.column(column)[index])
    others = [name for name in batch.schema.names if name not in images] if column == images[0] else []
    fields = [field_of(batch.column(name)[index], name) for name in others]
    return [data, dump_fields(fields) or b""]


def _can_hold_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return {"bytes", "path"} == {field.name for field in kind} and kind.field("bytes").type in _BINARY
    return kind in _BINARY


def _looks_like_images(table: TableFile, name: str) -> bool:
    """Whether the first values that are there begin like pictures."""
    for group in range(len(table.groups)):
        for batch in table.batches(group, [name]):
            values = [value.as_py() for value in batch.column(name).drop_null()[:8]]
            if values:
                return all(value.startswith(tuple(magic for magic, _ in _ENDINGS)) for value in values)
    return False


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """The notes of Hugging Face's `datasets` about the columns."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
