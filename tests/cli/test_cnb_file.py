"""The ``.cnb`` container: every valid row goes through it, and nothing that is not intact does."""

import hashlib
import re
import struct
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.archive import ArchiveRow
from cnnbatch.archive.schema import COLUMNS
from cnnbatch.archive.single import FIELDS, MAGIC, VERSION, dump_cnb, parse_cnb
from cnnbatch.errors import ArchiveError
from tests.archive.rows import archive_rows, coded, stored

ROW = coded("a/ä.png", exif=b"exif", psnr_db=None)
SHA256_BYTES = 32


def as_float32(row: ArchiveRow) -> ArchiveRow:
    changes = {n: float(np.float32(v)) for n in ("quality", "psnr_db") if (v := getattr(row, n)) is not None}
    return replace(row, **changes)


def sealed(body: bytes) -> bytes:
    """A file with a right checksum, whatever is in it."""
    return body + hashlib.sha256(body).digest()


def field(number: int, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<BI", number, len(data) if length is None else length) + data


def body_of(row: ArchiveRow) -> bytes:
    return dump_cnb(row)[:-SHA256_BYTES]


@settings(deadline=None)
@given(archive_rows())
def test_a_row_comes_back_as_it_was(row: ArchiveRow) -> None:
    assert parse_cnb(dump_cnb(row)) == as_float32(row)


@settings(deadline=None)
@given(archive_rows())
def test_the_container_adds_little(row: ArchiveRow) -> None:
    values = (getattr(row, f.name) for f in fields(row))
    content = sum(len(v.encode() if isinstance(v, str) else v) for v in values if isinstance(v, str | bytes))
    assert content < len(dump_cnb(row)) < content + 250


def test_every_flipped_bit_is_refused() -> None:
    data = dump_cnb(ROW)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(ArchiveError):
                parse_cnb(bytes(flipped))


def test_every_truncation_is_refused_and_so_is_every_addition() -> None:
    data = dump_cnb(ROW)
    for wrong in [data[:size] for size in range(len(data))] + [data + b"\0", b"\0" + data, data + data]:
        with pytest.raises(ArchiveError):
            parse_cnb(wrong)


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_fields_under_a_right_checksum_raise_nothing_but_archive_error(content: bytes, after_a_row: bool) -> None:
    start = body_of(ROW) if after_a_row else MAGIC + bytes([VERSION])
    data = sealed(start + content)
    if after_a_row and not content:
        assert parse_cnb(data)
    else:
        with pytest.raises(ArchiveError):
            parse_cnb(data)


@settings(deadline=None)
@given(st.data())
def test_a_flipped_byte_under_a_right_checksum_is_a_valid_row_or_an_archive_error(data: st.DataObject) -> None:
    body = bytearray(body_of(ROW))
    body[data.draw(st.integers(len(MAGIC), len(body) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        row = parse_cnb(sealed(bytes(body)))
    except ArchiveError:
        return
    assert dump_cnb(row)[:-SHA256_BYTES] == bytes(body)


@pytest.mark.parametrize(
    "content",
    [
        field(1, b"", length=2**32 - 1),  # a length beyond the end
        field(1, b"k" * 4097),  # over the column's limit
        field(1, b"k") + field(1, b"k"),  # twice
        field(4, b"12345678") + field(1, b"k"),  # out of order
        field(4, b"1234"),  # an int64 of four bytes
        field(24, b""),  # unknown
        field(0, b""),
        field(1, b"\xff"),  # not UTF-8
        field(3, b"\xff" * 7 + b"\x7f"),  # the year 300000
        b"\1\0\0",  # a field cut short
    ],
)
def test_a_wrong_field_is_refused(content: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"not a valid \.cnb file"):
        parse_cnb(sealed(MAGIC + bytes([VERSION]) + content))


def test_a_newer_version_is_named() -> None:
    with pytest.raises(ArchiveError, match="version 2, this cnnbatch reads 1"):
        parse_cnb(sealed(MAGIC + b"\2"))


def test_an_invalid_row_is_not_written() -> None:
    with pytest.raises(ValueError, match="sha256"):
        dump_cnb(replace(stored("a"), payload=b"another"))


def test_the_fields_are_the_columns_of_the_archive_and_the_specification_names_them() -> None:
    assert tuple(name for name, _ in FIELDS.values()) == COLUMNS
    assert list(FIELDS) == list(range(1, len(COLUMNS) + 1))
    text = (Path(__file__).parents[2] / "docs" / "format.md").read_text().split("### .cnb")[1]
    table = dict(re.findall(r"\| (\d+) \| (\w+) (?=\|)", text))
    assert table == {str(number): name for number, (name, _) in FIELDS.items()}
    assert MAGIC.hex(" ").upper() in text
