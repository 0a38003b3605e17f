"""Members of a tar as they were, out of rows of an archive."""

import json
from dataclasses import dataclass
from typing import Any

from cnnbatch.archive.fields import parse_fields
from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.containers.names import sample_of
from cnnbatch.containers.part import padded
from cnnbatch.containers.tar import BLOCK, expected_header, patched, unpack_blocks, with_size
from cnnbatch.errors import ArchiveError

RECORD_BYTES = 20 * BLOCK
"""Most writers make the length of a tar a multiple of this."""

LEAST_TAIL_BYTES = 2 * BLOCK


@dataclass(frozen=True, slots=True)
class Record:
    """A member as it lies in a tar: ``number`` says its place among the others."""

    number: int
    data: bytes


def records_of(row: ArchiveRow, file: bytes) -> list[Record]:
    """The members that a row stands for: its image, now ``file``, and its fields. Raises ArchiveError where the row is
    damaged."""
    try:
        container, place, members = members_of(row, file)
        template = unpack_blocks(container["header"])
        return [
            _record(template, item, container["prefix"] + usual, size, data)
            for item, (usual, size, data) in zip(place, members, strict=True)
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{row.key!r}: its place in a tar is damaged: {error}") from error


def members_of(row: ArchiveRow, file: bytes) -> tuple[dict[str, Any], list[Any], list[tuple[str, int, bytes]]]:
    """The columns ``container`` and ``place``, and the members that a row stands for: usual name, size that it had, and bytes.

    Raises ValueError, LookupError or TypeError where the row is damaged.
    """
    container, place = json.loads(row.container or ""), json.loads(row.place or "")
    name = row.key.removeprefix(f"{container['key']}/")
    stem = (sample_of(name) or (name, ""))[0]
    members = [(name, row.source_size, file)]
    for field in parse_fields(row.fields):
        value = _bytes(field.value)
        members.append((f"{stem}.{field.name}", len(value), value))
    return container, place, members


def tail(container: str, num_bytes: int) -> bytes:
    """The end of a tar of so many bytes, by the column ``container`` of one of its rows."""
    length = max(int(json.loads(container)["tail"]), LEAST_TAIL_BYTES)
    if length == LEAST_TAIL_BYTES or (num_bytes + length) % RECORD_BYTES == 0:
        return bytes(length)
    return bytes(LEAST_TAIL_BYTES + -(num_bytes + LEAST_TAIL_BYTES) % RECORD_BYTES)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"a member that is {type(value).__name__}")
    return value


def _record(template: bytes, item: list[Any], usual: str, size: int, data: bytes) -> Record:
    number, name, patch, before, after = padded(item, 5)
    header = patched(expected_header(template, (usual if name is None else name).encode(), size), patch)
    if len(data) != size:
        header = with_size(header, len(data))
    padding = bytes(-len(data) % BLOCK)
    return Record(int(number), b"".join((unpack_blocks(before), header, data, padding, unpack_blocks(after))))
