"""Rows for the archive's tests: small, valid, and the same for the same arguments."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from cnnbatch.archive import ArchiveLog, ArchiveRow, ShardInfo, open_archive, write_shard

CODEC_FILE = b"a codec file"
CODEC_ID = hashlib.sha256(CODEC_FILE).hexdigest()
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LINEAGE = {"cnnbatch.version": "0.1.0"}


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def stored(key: str, payload: bytes | None = None, **changes: Any) -> ArchiveRow:
    """An image stored verbatim; by default its payload is its key."""
    payload = key.encode() if payload is None else payload
    row = ArchiveRow(
        key=key,
        source_size=len(payload),
        source_sha256=sha256(payload),
        source_format="jpeg",
        outcome="store",
        reason="cmyk",
        payload_coding="verbatim",
        ingested_at=NOW,
        run_id="run-1",
        payload_sha256=sha256(payload),
        payload=payload,
    )
    return replace(row, **changes)


def coded(key: str, payload: bytes = b"bitstream", **changes: Any) -> ArchiveRow:
    """An image coded by the codec file `CODEC_FILE`."""
    row = ArchiveRow(
        key=key,
        source_etag="0123456789abcdef",
        source_mtime=NOW,
        source_size=10 * len(payload),
        source_sha256=sha256(b"original of " + key.encode()),
        source_format="png",
        width=640,
        height=480,
        mode="RGB",
        outcome="cnn",
        payload_coding="cnn",
        codec_id=CODEC_ID,
        quality=32.0,
        psnr_db=38.5,
        ingested_at=NOW,
        run_id="run-1",
        payload_sha256=sha256(payload),
        payload=payload,
    )
    return replace(row, **changes)


def keys_of(rows: Iterable[object]) -> list[str]:
    return [row.key for row in rows if isinstance(row, ArchiveRow)]


def shard_of(log: ArchiveLog, *keys: str, text: str = "") -> ShardInfo:
    """A written shard of images stored verbatim, each with its key behind ``text`` as payload."""
    rows = [stored(key, (text + key).encode()) for key in keys]
    return write_shard(log.store, rows, footer=LINEAGE)


def rows_of(log: ArchiveLog) -> list[ArchiveRow]:
    """Every intact row, by key."""
    rows = [row for row in open_archive(log.store.url).rows() if isinstance(row, ArchiveRow)]
    return sorted(rows, key=lambda row: row.key)


def flip(log: ArchiveLog, path: str, needle: bytes) -> None:
    """Flip a bit at the place of ``needle`` in a file of the archive."""
    data = log.store.read(path)
    at = data.index(needle)
    log.store.put(path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
blobs = st.none() | st.binary(max_size=50)
moments = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))


@st.composite
def archive_rows(draw: st.DrawFn) -> ArchiveRow:
    """Any valid row."""
    make = draw(st.sampled_from([stored, coded]))
    metadata = {name: draw(blobs) for name in ("exif", "icc", "xmp", "segments", "alpha")}
    row: ArchiveRow = make(draw(keys), draw(st.binary(max_size=200)), ingested_at=draw(moments), **metadata)
    if row.outcome == "cnn":
        return replace(
            row,
            width=draw(st.integers(1, 2**31 - 1)),
            quality=draw(st.floats(0, 63, width=32)),
            psnr_db=draw(st.none() | st.floats(0, width=32)),
            ssimulacra2=draw(st.none() | st.floats(-1000, 100, width=32)),
        )
    return replace(row, source_etag=draw(st.none() | keys), source_mtime=draw(st.none() | moments))
