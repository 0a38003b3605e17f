"""Values that stood beside an image in its data set: names and values in order, as the column ``fields`` holds them.

::

    data = dump_fields([Field("cls", b"3"), Field("caption", "a cat")])
    for field in parse_fields(data): ...
"""

import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from cnnbatch.archive.schema import MAX_BYTES
from cnnbatch.errors import ArchiveError

LABELS: Final = ("cls", "label", "class", "category")
"""Names of what says the class of an image, unless another is told."""

_ENTRY: Final = struct.Struct("<BHI")
_CRC: Final = struct.Struct("<I")
_BYTES, _TEXT, _INT64, _FLOAT64, _BOOL, _NULL, _ARROW = range(7)
_INT, _FLOAT = struct.Struct("<q"), struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class Field:
    """One name and value; of a type that Python does not have, such as a time or a list, the value is an Arrow scalar."""

    name: str
    value: bool | int | float | str | bytes | pa.Scalar | None

    def plain(self) -> Any:
        """The value as Python has it."""
        return self.value.as_py() if isinstance(self.value, pa.Scalar) else self.value


def dump_fields(fields: Sequence[Field]) -> bytes | None:
    """The column's value; None where there are none. Raises ValueError for a name over 65,535 bytes."""
    if not fields:
        return None
    parts: list[bytes] = []
    for field in fields:
        kind, value = _dump_value(field.value)
        name = field.name.encode()
        if len(name) > 0xFFFF:
            raise ValueError(f"a field's name has {len(name)} bytes")
        parts += [_ENTRY.pack(kind, len(name), len(value)), name, value]
    body = b"".join(parts)
    return body + _CRC.pack(zlib.crc32(body))


def parse_fields(data: bytes | None) -> list[Field]:
    """The fields of a row; raises ArchiveError where they are damaged."""
    if data is None:
        return []
    body = memoryview(data)[: -_CRC.size]
    if len(data) < _CRC.size or zlib.crc32(body) != _CRC.unpack(data[-_CRC.size :])[0]:
        raise ArchiveError("damaged fields: their checksum is wrong")
    fields: list[Field] = []
    position = 0
    try:
        while position < len(body):
            kind, name_bytes, value_bytes = _ENTRY.unpack_from(body, position)
            position += _ENTRY.size
            end = position + name_bytes + value_bytes
            if end > len(body):
                raise ValueError("a value ends behind the last byte")
            name = bytes(body[position : position + name_bytes]).decode()
            fields.append(Field(name, _parse_value(kind, bytes(body[position + name_bytes : end]))))
            position = end
    except (ValueError, struct.error, LookupError, pa.ArrowException) as error:
        raise ArchiveError(f"damaged fields: {error}") from error
    return fields


def as_file(field: Field) -> bytes | None:
    """The value as a file of its own has it: text and numbers as people write them; None where there is nothing."""
    value = field.plain()
    if value is None or isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value, default=str)).encode()


def field_of(value: Any, name: str) -> Field:
    """A field from an Arrow scalar: of a type of Python where that holds it exactly."""
    kind = value.type
    simple = not value.is_valid or kind in (pa.bool_(), pa.string(), pa.binary(), pa.int64(), pa.float64())
    return Field(name, value.as_py() if simple else value)


def label_of(fields: Iterable[Field], name: str | None, classes: Mapping[str, Sequence[str]] | None = None) -> str | None:
    """The text of the field called ``name``, or of the first that is one of `LABELS`; None where there is no such text.

    ``classes`` are names for the numbers that a field may have.
    """
    by_name = {field.name: field.value for field in reversed(list(fields))}
    for wanted in LABELS if name is None else (name,):
        value = by_name.get(wanted)
        text = _label_text(value)
        names = (classes or {}).get(wanted, ())
        if text is not None:
            return names[int(text)] if names and text.isdecimal() and int(text) < len(names) else text
    return None


def _label_text(value: Any) -> str | None:
    if isinstance(value, pa.Scalar) and pa.types.is_integer(value.type):
        value = value.as_py()
    if isinstance(value, bytes):
        try:
            value = value.decode() if len(value) <= MAX_BYTES["label"] else None
        except UnicodeDecodeError:
            return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value).strip()
    return text if text and len(text.encode()) <= MAX_BYTES["label"] else None


def _dump_value(value: Any) -> tuple[int, bytes]:
    if value is None:
        return _NULL, b""
    if isinstance(value, bytes):
        return _BYTES, value
    if isinstance(value, str):
        return _TEXT, value.encode()
    if isinstance(value, bool):
        return _BOOL, bytes([value])
    if isinstance(value, int):
        return _INT64, _INT.pack(value)
    if isinstance(value, float):
        return _FLOAT64, _FLOAT.pack(value)
    sink = pa.BufferOutputStream()
    table = pa.table({"": pa.array([value], type=value.type)})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return _ARROW, sink.getvalue().to_pybytes()


def _parse_value(kind: int, value: bytes) -> Any:
    if kind == _BYTES:
        return value
    if kind == _TEXT:
        return value.decode()
    if kind == _INT64:
        return _INT.unpack(value)[0]
    if kind == _FLOAT64:
        return _FLOAT.unpack(value)[0]
    if kind == _BOOL and value in (b"\0", b"\1"):
        return value == b"\1"
    if kind == _NULL and not value:
        return None
    if kind == _ARROW:
        with pa.ipc.open_stream(value) as reader:
            table = reader.read_all()
        table.validate(full=True)
        if table.shape != (1, 1):
            raise ValueError(f"a value of {table.num_rows} rows and {table.num_columns} columns")
        return table.column(0)[0]
    raise ValueError(f"a value of the kind {kind}")
