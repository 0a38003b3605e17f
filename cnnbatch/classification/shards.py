"""Features of a shard's pictures, straight from its Parquet file: four small columns, then payloads, never pixels.

A shard's other columns are not read, nor the payloads of a row group without a picture that was asked for. Every payload is
checked against its checksum before it is decoded.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cnnbatch.archive.damage import damage_as_archive_error
from cnnbatch.archive.parquet import ParquetObject, open_parquet
from cnnbatch.codec import Codec
from cnnbatch.errors import ArchiveError, BitstreamError
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.storage import Store

STORED: Final = "stored"
"""The row holds the original file, which no codec has seen: there are no latents."""
OTHER_CODEC: Final = "other-codec"
"""Coded by another codec than the head knows."""
FAILED: Final = "failed"
"""The row cannot be read, or is damaged."""

BATCH_PIXELS: Final = 8 << 20
"""Pixels of the pictures whose latents are decoded in one call, by the sizes that their bitstreams claim."""

_SMALL: Final = ("key", "payload_coding", "codec_id", "payload_sha256")
_NEVER_NULL: Final = ("key", "payload_coding", "payload_sha256")


@dataclass(frozen=True, slots=True)
class Features:
    """Pictures of one codec: ``values`` float32 [N, F] as `Codec.features` gives them, ``keys`` their N keys."""

    codec_id: str
    keys: Sequence[str]
    values: npt.NDArray[np.float32]
    pixels: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row without features: ``outcome`` is `STORED`, `OTHER_CODEC` or `FAILED`.

    ``key`` is None where ``count`` rows cannot even be named.
    """

    key: str | None
    outcome: str
    message: str = ""
    count: int = 1


def read_features(
    store: Store,
    path: str,
    codecs: CodecShelf,
    *,
    wanted: Collection[str],
    keys: Collection[str] | None = None,
    num_bytes: int | None = None,
    num_rows: int = 1,
) -> Iterator[Features | LeftOut]:
    """Every row of one shard, or of ``keys``, once: its features if its codec is one of ``wanted`` (ids), else why not.

    Raises:
        ArchiveError: the archive lacks a codec file.
    """
    unread = 0
    seen: set[str] = set()
    try:
        file = open_parquet(store, path, num_bytes=num_bytes)
    except ArchiveError as error:
        yield LeftOut(None, FAILED, str(error), num_rows if keys is None else max(1, len(keys)))
        return
    for group in range(file.metadata.num_row_groups):
        where = f"{path} row group {group}"
        try:
            with damage_as_archive_error(store, where):
                table = _small_rows(file, group)
        except ArchiveError as error:
            count = file.metadata.row_group(group).num_rows
            if keys is None:
                yield LeftOut(None, FAILED, str(error), count)
            unread += count
            continue
        rows = [(index, row) for index, row in enumerate(table) if keys is None or row["key"] in keys]
        seen.update(row["key"] for _, row in rows)
        yield from _read_group(store, file, group, rows, codecs, where=where, wanted=wanted)
    if keys is not None and unread and len(seen) < len(keys):
        yield LeftOut(None, FAILED, f"{unread} rows of {path} cannot be read", min(unread, len(keys) - len(seen)))


def _small_rows(file: ParquetObject, group: int) -> list[dict[str, Any]]:
    table = file.read_group(group, _SMALL)
    if empty := [name for name in _NEVER_NULL if table.column(name).null_count]:
        raise pa.ArrowInvalid(f"{empty[0]} is null")
    return list(table.to_pylist())


def _read_group(
    store: Store,
    file: ParquetObject,
    group: int,
    rows: Sequence[tuple[int, dict[str, Any]]],
    codecs: CodecShelf,
    *,
    where: str,
    wanted: Collection[str],
) -> Iterator[Features | LeftOut]:
    coded: list[tuple[int, dict[str, Any]]] = []
    for index, row in rows:
        if row["payload_coding"] != "cnn":
            yield LeftOut(row["key"], STORED)
        elif row["codec_id"] not in wanted:
            yield LeftOut(row["key"], OTHER_CODEC, f"coded by {str(row['codec_id'])[:12]}")
        else:
            coded.append((index, row))
    if not coded:
        return
    try:
        with damage_as_archive_error(store, where):
            payloads = file.read_group(group, ["payload"]).column("payload").to_pylist()
    except ArchiveError as error:
        yield from (LeftOut(row["key"], FAILED, str(error)) for _, row in coded)
        return
    by_codec: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)
    for index, row in coded:
        payload = payloads[index] or b""
        if hashlib.sha256(payload).digest() == row["payload_sha256"]:
            by_codec[row["codec_id"]].append((row["key"], payload))
        else:
            yield LeftOut(row["key"], FAILED, "the payload's sha256 is not the recorded one")
    for codec_id, items in by_codec.items():
        yield from _features(codecs[codec_id], items)


def _features(codec: Codec, items: Sequence[tuple[str, bytes]]) -> Iterator[Features | LeftOut]:
    """In batches of `BATCH_PIXELS`: nothing is allocated for a size that a bitstream claims before the batch is cut."""
    batch: list[tuple[str, bytes]] = []
    pixels = 0
    for key, payload in items:
        try:
            height, width = codec.shape(payload)
        except BitstreamError as error:
            yield LeftOut(key, FAILED, str(error))
            continue
        if batch and pixels + height * width > BATCH_PIXELS:
            yield from _decode(codec, batch, pixels)
            batch, pixels = [], 0
        batch.append((key, payload))
        pixels += height * width
    if batch:
        yield from _decode(codec, batch, pixels)


def _decode(codec: Codec, batch: Sequence[tuple[str, bytes]], pixels: int) -> Iterator[Features | LeftOut]:
    """All in one call; where one is damaged, each half again, so that only the damaged ones are left out."""
    try:
        values = codec.features([payload for _, payload in batch])
    except BitstreamError as error:
        if len(batch) == 1:
            yield LeftOut(batch[0][0], FAILED, str(error))
            return
        middle = len(batch) // 2
        share = pixels * middle // len(batch)
        yield from _decode(codec, batch[:middle], share)
        yield from _decode(codec, batch[middle:], pixels - share)
    else:
        yield Features(codec.id, [key for key, _ in batch], values, pixels)
