"""Tables out of rows of an archive: the ones they came from, and new ones."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.archive.fields import Field, as_file, parse_fields
from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.containers.part import padded
from cnnbatch.containers.table import NO_BYTES, NULL, VALUE, unpack_schema
from cnnbatch.errors import ArchiveError

GROUP_BYTES: Final = 64 << 20
GROUP_ROWS: Final = 1000
_IMAGE: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_KINDS: Final[Mapping[type, pa.DataType]] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_WORDS: Final = {pa.bool_(): "bool", pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string", pa.binary(): "binary"}


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """An image of a table: its row and column, and where in a file its bytes are, and then its fields."""

    number: int
    column: str
    path: str | None
    state: int
    offset: int
    num_bytes: int
    fields_bytes: int


def place_in_table(row: ArchiveRow) -> tuple[int, str, str | None, int]:
    """Row, column, path and state of an image. Raises ArchiveError where the row is damaged."""
    try:
        number, column, path, state = padded(json.loads(row.place or ""), 4)
        return int(number), str(column), None if path is None else str(path), int(state or VALUE)
    except (ValueError, TypeError) as error:
        raise ArchiveError(f"{row.key!r}: its place in a table is damaged: {error}") from error


def write_table(path: Path, container: str, cells: Sequence[Cell], spool: BinaryIO) -> None:
    """Writes the table that ``cells``, in order, came from."""
    column = json.loads(container)
    schema, images = unpack_schema(column["schema"]), column["images"]
    with pq.ParquetWriter(path, schema) as writer:
        for group in _groups(_rows(cells), max(1, int(column["group"]))):
            rows = [_values(schema, images, row, spool) for row in group]
            arrays = [pa.array([row[name] for row in rows], type=schema.field(name).type) for name in schema.names]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=len(rows))


def write_pictures(
    path: Path, rows: Sequence[tuple[str, str | None, int, int, int]], kinds: Mapping[str, Collection[type]], spool: BinaryIO
) -> None:
    """Writes a table of key, image, label and fields; a row is its key, label and offset, and bytes of image and fields."""
    types = {name: _type(found) for name, found in kinds.items() if name not in {"key", "image", "label"}}
    schema = pa.schema([("key", pa.string()), ("image", _IMAGE), ("label", pa.string()), *types.items()])
    words = {name: _WORDS[schema.field(name).type] for name in ("key", "label", *types)}
    features: dict[str, Any] = {name: {"dtype": word, "_type": "Value"} for name, word in words.items()}
    features["image"] = {"_type": "Image"}
    document = json.dumps({"info": {"features": {name: features[name] for name in schema.names}}})
    with pq.ParquetWriter(path, schema.with_metadata({"huggingface": document})) as writer:
        for start in range(0, len(rows), GROUP_ROWS):
            table = [_picture(row, types, spool) for row in rows[start : start + GROUP_ROWS]]
            writer.write_table(pa.Table.from_pylist(table, schema=writer.schema), row_group_size=GROUP_ROWS)


def _picture(row: tuple[str, str | None, int, int, int], types: Mapping[str, pa.DataType], spool: BinaryIO) -> dict[str, Any]:
    key, label, offset, num_bytes, fields_bytes = row
    spool.seek(offset)
    data, fields = spool.read(num_bytes), parse_fields(spool.read(fields_bytes) or None)
    values = {field.name: _as(field, types[field.name]) for field in fields if field.name in types}
    return {"key": key, "image": {"bytes": data, "path": key.rpartition("/")[2]}, "label": label} | values


def _as(field: Field, kind: pa.DataType) -> Any:
    return as_file(field) if kind == pa.binary() else field.plain()


def _type(kinds: Collection[type]) -> pa.DataType:
    """The type of a column: bytes where values are of several types."""
    [kind, *others] = set(kinds) - {type(None)} or {str}
    return pa.binary() if others else _KINDS.get(kind, pa.binary())


def _rows(cells: Iterable[Cell]) -> Iterator[list[Cell]]:
    """The images of each row."""
    row: list[Cell] = []
    for cell in cells:
        if row and cell.number != row[0].number:
            yield row
            row = []
        row.append(cell)
    if row:
        yield row


def _groups(rows: Iterable[list[Cell]], most: int) -> Iterator[list[list[Cell]]]:
    group: list[list[Cell]] = []
    size = 0
    for row in rows:
        row_bytes = sum(cell.num_bytes + cell.fields_bytes for cell in row)
        if group and (len(group) == most or size + row_bytes > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(row)
        size += row_bytes
    if group:
        yield group


def _values(schema: pa.Schema, images: Sequence[str], row: Sequence[Cell], spool: BinaryIO) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(schema.names)
    for cell in row:
        spool.seek(cell.offset)
        data, fields = spool.read(cell.num_bytes), parse_fields(spool.read(cell.fields_bytes) or None)
        values |= {field.name: field.value for field in fields if field.name in values}
        if cell.column in images and cell.state != NULL:
            is_struct = pa.types.is_struct(schema.field(cell.column).type)
            known = None if cell.state == NO_BYTES else data
            values[cell.column] = {"bytes": known, "path": cell.path} if is_struct else data
    return values
