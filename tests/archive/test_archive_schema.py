"""Rows and the table: every valid row survives, every wrong one is named."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.archive.schema import COLUMNS, SCHEMA, ArchiveRow, check_row, conform, rows_to_table, table_to_rows
from cnnbatch.errors import ArchiveError, DamagedRow
from tests.archive.rows import NOW, archive_rows, coded, stored


def test_rows_and_the_table_name_the_same_columns_payload_last() -> None:
    assert tuple(SCHEMA.names) == COLUMNS
    assert COLUMNS[-1] == "payload"


@settings(deadline=None)
@given(st.lists(archive_rows(), max_size=5))
def test_rows_survive_the_table(rows: list[ArchiveRow]) -> None:
    assert list(table_to_rows(rows_to_table(rows))) == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": ""}, "key is empty"),
        ({"key": "k" * 4097}, "4097 bytes"),
        ({"key": b"bytes"}, "key is bytes"),
        ({"source_size": -1}, "source_size is -1"),
        ({"source_size": True}, "source_size is bool"),
        ({"source_sha256": b"short"}, "source_sha256 has 5 bytes"),
        ({"source_format": None}, "source_format is null"),
        ({"width": 0}, "width is 0"),
        ({"outcome": "failed"}, "outcome 'failed'"),
        ({"payload_coding": "verbatim"}, "payload coding 'verbatim'"),
        ({"codec_id": None}, "needs codec_id"),
        ({"codec_id": "../../etc/passwd"}, "codec_id is '../../etc/passwd'"),
        ({"quality": 64.0}, "quality is 64"),
        ({"psnr_db": float("nan")}, "psnr_db is not a number"),
        ({"ssimulacra2": float("nan")}, "ssimulacra2 is not a number"),
        ({"ingested_at": datetime(2026, 1, 1)}, "not in UTC"),
        ({"source_mtime": NOW.astimezone(timezone(timedelta(hours=2)))}, "not in UTC"),
        ({"payload": b"other"}, "payload sha256 is"),
    ],
)
def test_a_wrong_value_is_refused_with_its_column(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_row(replace(coded("a.png"), **changes))


def test_a_verbatim_payload_is_the_source() -> None:
    with pytest.raises(ValueError, match="verbatim"):
        check_row(stored("a.jpg", source_sha256=bytes(32)))


def test_a_store_row_has_no_codec() -> None:
    with pytest.raises(ValueError, match="no codec_id"):
        check_row(stored("a.jpg", quality=3.0))


def test_one_wrong_row_does_not_hide_the_others() -> None:
    rows = [stored("a"), stored("b", payload_sha256=bytes(32)), stored("c")]
    found = list(table_to_rows(rows_to_table(rows)))
    assert (found[0], found[2]) == (rows[0], rows[2])
    assert isinstance(found[1], DamagedRow)
    assert "'b'" in str(found[1])


def test_a_key_that_is_not_utf8_is_reported_by_its_position() -> None:
    table = rows_to_table([stored("a"), stored("b")])
    bad = pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())
    found = list(table_to_rows(table.set_column(0, SCHEMA.field("key"), bad)))
    assert isinstance(found[0], ArchiveRow)
    assert "row 1, whose key is not UTF-8" in str(found[1])


def test_the_types_of_other_writers_are_cast_and_other_kinds_refused() -> None:
    table = rows_to_table([stored("a")])
    large = table.set_column(0, "key", table.column("key").cast(pa.large_string()))
    assert list(table_to_rows(conform(large))) == [stored("a")]
    with pytest.raises(ArchiveError, match="not the columns"):
        conform(table.set_column(3, "source_size", pa.array(["many"])))
