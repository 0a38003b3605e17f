"""Zip files as they were, out of rows of an archive."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.containers.part import padded
from cnnbatch.containers.tar_writing import members_of
from cnnbatch.containers.zip import METHODS
from cnnbatch.errors import ArchiveError

COPY_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file of a zip file, and where in a spool its bytes are."""

    number: int
    name: str
    date: tuple[int, int, int, int, int, int]
    method: int
    attributes: int
    offset: int
    num_bytes: int


def zip_members_of(row: ArchiveRow, file: bytes, offset: int) -> Iterator[tuple[ZipMember, bytes]]:
    """The files that a row stands for, to be put into a spool from ``offset`` on. Raises ArchiveError where it is damaged."""
    try:
        _, place, members = members_of(row, file)
        found = [(_member(item, usual), data) for item, (usual, _, data) in zip(place, members, strict=True)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{row.key!r}: its place in a zip file is damaged: {error}") from error
    for (number, name, date, method, attributes), data in found:
        yield ZipMember(number, name, date, method, attributes, offset, len(data)), data
        offset += len(data)


def write_zip(path: Path, container: str, members: Sequence[ZipMember], spool: BinaryIO) -> None:
    """Writes the zip file."""
    with zipfile.ZipFile(path, "w") as file:
        for folder in json.loads(container)["folders"]:
            file.mkdir(str(folder))
        for member in sorted(members, key=lambda member: member.number):
            info = zipfile.ZipInfo(member.name, member.date)
            info.compress_type, info.external_attr, info.file_size = member.method, member.attributes, member.num_bytes
            spool.seek(member.offset)
            left = member.num_bytes
            with file.open(info, "w") as target:
                while left:
                    data = spool.read(min(left, COPY_BYTES))
                    target.write(data)
                    left -= len(data)


def _member(item: list[Any], usual: str) -> tuple[int, str, Any, int, int]:
    number, name, date, method, attributes = padded(item, 5)
    if method not in METHODS:
        raise ValueError(f"a method {method}")
    year, month, day, hour, minute, second = map(int, date)
    moment = (year, month, day, hour, minute, second)
    return int(number), str(usual if name is None else name), moment, int(method), int(attributes or 0)
