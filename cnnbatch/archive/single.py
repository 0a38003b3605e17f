"""One row of an archive as a file of its own: ``.cnb``, specified in ``docs/format.md``.

::

    data = dump_cnb(row)
    row = parse_cnb(data)

A magic, a version, the row's fields as (number, length, value), and the sha256 of all of it. Nothing in a file is
believed before the checksum is right, and no length before it is compared with what is there.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cnnbatch.archive.schema import MAX_BYTES, SHA256_BYTES, ArchiveRow, check_row
from cnnbatch.errors import ArchiveError

MAGIC: Final = b"\x89CNB\r\n\x1a\n"
"""As in PNG: not text, and damaged visibly by transfers that change line ends or the eighth bit."""

VERSION: Final = 1
MAX_FILE_BYTES: Final = 1 << 32
"""Larger files are refused unread: more than the payload and the alpha channel of the largest image."""

_PREFIX: Final = struct.Struct("<8sB")
_FIELD: Final = struct.Struct("<BI")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the values of one type are written; ``size`` is 0 where it varies."""

    size: int
    dump: Callable[[Any], bytes]
    parse: Callable[[bytes], Any]


def _number(code: str) -> _Kind:
    packer = struct.Struct(f"<{code}")
    return _Kind(packer.size, packer.pack, lambda data: packer.unpack(data)[0])


_INT64 = _number("q")
_TEXT = _Kind(0, str.encode, bytes.decode)
_BYTES = _Kind(0, bytes, bytes)
_DIGEST = _Kind(SHA256_BYTES, bytes, bytes)
_TIME = _Kind(
    _INT64.size,
    lambda moment: _INT64.dump((moment - _EPOCH) // timedelta(microseconds=1)),
    lambda data: _EPOCH + timedelta(microseconds=_INT64.parse(data)),
)

FIELDS: Final[dict[int, tuple[str, _Kind]]] = {
    1: ("key", _TEXT),
    2: ("source_etag", _TEXT),
    3: ("source_mtime", _TIME),
    4: ("source_size", _INT64),
    5: ("source_sha256", _DIGEST),
    6: ("source_format", _TEXT),
    7: ("width", _number("i")),
    8: ("height", _number("i")),
    9: ("mode", _TEXT),
    10: ("exif", _BYTES),
    11: ("icc", _BYTES),
    12: ("xmp", _BYTES),
    13: ("segments", _BYTES),
    14: ("alpha", _BYTES),
    15: ("fields", _BYTES),
    16: ("label", _TEXT),
    17: ("container", _TEXT),
    18: ("place", _TEXT),
    19: ("outcome", _TEXT),
    20: ("reason", _TEXT),
    21: ("payload_coding", _TEXT),
    22: ("codec_id", _TEXT),
    23: ("quality", _number("f")),
    24: ("psnr_db", _number("f")),
    25: ("ssimulacra2", _number("f")),
    26: ("ingested_at", _TIME),
    27: ("run_id", _TEXT),
    28: ("payload_sha256", _DIGEST),
    29: ("payload", _BYTES),
}
"""Number → column of the archive table and how it is written. A number never changes its meaning."""


def dump_cnb(row: ArchiveRow) -> bytes:
    """Write a row as a file; raises ValueError for one that `check_row` refuses."""
    check_row(row)
    parts = [_PREFIX.pack(MAGIC, VERSION)]
    for number, (name, kind) in FIELDS.items():
        if (value := getattr(row, name)) is not None:
            data = kind.dump(value)
            parts += [_FIELD.pack(number, len(data)), data]
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def parse_cnb(data: bytes) -> ArchiveRow:
    """Read a row out of the bytes of a ``.cnb`` file; raises ArchiveError for anything but an intact one."""
    body = _checked_body(data)
    try:
        row = ArchiveRow(**dict(_read_fields(body)))
        check_row(row)
    except (ValueError, TypeError, OverflowError) as error:  # also bad UTF-8, a year 300000, a missing field
        raise ArchiveError(f"not a valid .cnb file: {' '.join(str(error).split())[:300]}") from error
    return row


def _checked_body(data: bytes) -> memoryview:
    """The fields' bytes of a file whose magic, version and checksum are right."""
    if len(data) < _PREFIX.size + SHA256_BYTES or data[: len(MAGIC)] != MAGIC:
        raise ArchiveError("not a .cnb file")
    if (version := data[len(MAGIC)]) != VERSION:
        raise ArchiveError(f"a .cnb file of version {version}, this cnnbatch reads {VERSION}: use a newer cnnbatch")
    view = memoryview(data)
    if hashlib.sha256(view[:-SHA256_BYTES]).digest() != data[-SHA256_BYTES:]:
        raise ArchiveError("a damaged or incomplete .cnb file: its checksum is wrong")
    return view[_PREFIX.size : -SHA256_BYTES]


def _read_fields(body: memoryview) -> Iterator[tuple[str, Any]]:
    """Yield (column, value), each at most once: the numbers rise."""
    position = last = 0
    while position < len(body):
        if len(body) - position < _FIELD.size:
            raise ValueError(f"{len(body) - position} bytes after the last field")
        number, length = _FIELD.unpack_from(body, position)
        position += _FIELD.size
        if number <= last or number not in FIELDS:
            raise ValueError(f"field {number} after field {last}")
        name, kind = FIELDS[number]
        if length > min(len(body) - position, MAX_BYTES.get(name, length)) or length != (kind.size or length):
            raise ValueError(f"{name} claims {length} bytes")
        yield name, kind.parse(bytes(body[position : position + length]))
        position, last = position + length, number
