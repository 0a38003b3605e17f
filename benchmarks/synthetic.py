"""Made-up sources and archives of any size: keys, ETags and shards by arithmetic, so that 10⁸ of them take minutes.

A key's number decides everything about it. `Night` says what became of it since the archive was written: of 1000 keys
5 are new, 5 changed and 2 vanished. Shards are real Parquet files with the layout of real ones (row groups of 163 rows, as
16 MiB of pictures of 100 KB make) and true checksums, but each payload is one byte: a plan never reads it.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.archive import ArchiveLog, ShardInfo, ShardSummary
from cnnbatch.archive.schema import SCHEMA
from cnnbatch.archive.shards import _LAYOUT, SUMMARY_KEY
from cnnbatch.stages.difference import ROW_SCHEMA
from cnnbatch.storage import ObjectInfo

Numbers = npt.NDArray[np.int64]

PAGE_KEYS = 1000
SHARD_ROWS = 1300
"""Images of 100 KB in a shard of 128 MiB."""

GROUP_ROWS = 163
SHARD_BYTES = 128 << 20
SHARDS_A_COMMIT = 500
PAYLOAD = b"x"
CODEC_FILE = b"no codec: nothing is coded here"
CODEC_ID = hashlib.sha256(CODEC_FILE).hexdigest()
EPOCH_US = 1_700_000_000_000_000
_TEMPLATE = b"collection-a/photos/0000/000/IMG_0000000000.jpg"
_DIGITS = [(20, 10**6, 4), (25, 10**3, 3), (33, 1, 10)]  # where, what the number is divided by, how many digits


def keys(numbers: Numbers) -> pa.Array:
    """Sorted like the numbers; 47 bytes each."""
    text = np.tile(np.frombuffer(_TEMPLATE, np.uint8), (len(numbers), 1))
    for start, divisor, width in _DIGITS:
        value = numbers // divisor
        for position in range(start + width - 1, start - 1, -1):
            text[:, position] = 48 + value % 10
            value = value // 10
    return _fixed(text)


def etags(numbers: Numbers, salt: int = 0) -> pa.Array:
    """32 hexadecimal digits that look like an MD5."""
    words = np.stack([_mixed(2 * numbers + salt), _mixed(2 * numbers + 1 + salt)], axis=1)
    nibbles = words.view(np.uint8).reshape(len(numbers), 16)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    return _fixed(np.stack([digits[nibbles >> 4], digits[nibbles & 15]], axis=2).reshape(len(numbers), 32))


def sizes(numbers: Numbers) -> Numbers:
    """30 to 570 KB, 300 KB on average."""
    return 30_000 + (_mixed(numbers + 7) % np.uint64(540_000)).astype(np.int64)


def times(numbers: Numbers) -> pa.Array:
    """The same for the keys of a folder."""
    return pa.array(EPOCH_US + numbers // PAGE_KEYS * 1_000_003, type=pa.timestamp("us", tz="UTC"))


def _fixed(text: npt.NDArray[np.uint8]) -> pa.Array:
    count, width = text.shape
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text)))


def _mixed(numbers: Numbers) -> npt.NDArray[np.uint64]:
    """splitmix64."""
    z = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Night:
    """Changes of keys since the archive was written: so many of a thousand each."""

    new: int = 5
    changed: int = 5
    vanished: int = 2

    def fate(self, numbers: Numbers) -> npt.NDArray[np.str_]:
        """``new``, ``changed``, ``vanished`` or ``unchanged`` for each."""
        drawn = _mixed(numbers + 99) % np.uint64(1000)
        bounds = np.cumsum([self.new, self.changed, self.vanished])
        return np.array(["new", "changed", "vanished", "unchanged"])[np.searchsorted(bounds, drawn, side="right")]


QUIET = Night(0, 0, 0)


@dataclass(slots=True)
class SyntheticSource:
    """A store of ``count`` objects as far as a listing goes. Folders of 1000 keys come in a random order, as of a file
    system: it is harder to sort than the order in which S3 lists."""

    count: int
    night: Night
    url: str = "synthetic://source"
    seconds: float = 0.0
    """CPU seconds that making it up took."""

    def check(self) -> None:
        """It is always there."""

    def list(self, prefix: str = "", *, markers: bool = False) -> Iterator[ObjectInfo]:
        pages = -(-self.count // PAGE_KEYS)
        for page in np.random.default_rng(0).permutation(pages):
            begin = time.thread_time()
            infos = page_of(np.arange(page * PAGE_KEYS, min((page + 1) * PAGE_KEYS, self.count)), self.night)
            self.seconds += time.thread_time() - begin
            yield from infos


def page_of(numbers: Numbers, night: Night) -> list[ObjectInfo]:
    """One page of the listing: the vanished are not in it, the changed have another ETag and size."""
    fate = night.fate(numbers)
    listed, changed = numbers[fate != "vanished"], (fate == "changed")[fate != "vanished"]
    tags, altered = etags(listed).to_pylist(), etags(listed, 10**12)
    for index in np.flatnonzero(changed).tolist():
        tags[index] = altered[index].as_py()
    moment = times(numbers[:1])[0].as_py()
    return list(map(ObjectInfo, keys(listed).to_pylist(), (sizes(listed) + changed).tolist(), tags, repeat(moment)))


def archived_tables(count: int, night: Night) -> Iterator[pa.Table]:
    """The tables that `cnnbatch.stages.difference.ArchivedRows` reads from such an archive, without the reading."""
    for index, start in enumerate(range(0, count, SHARD_ROWS)):
        numbers = _archived(night, start, count)
        shard = pa.repeat(pa.scalar(index, pa.int32()), len(numbers))
        again = pa.repeat(pa.scalar(False), len(numbers))
        columns = [keys(numbers), pa.array(sizes(numbers)), etags(numbers), times(numbers), shard, again]
        yield pa.Table.from_arrays(columns, schema=ROW_SCHEMA)


def _archived(night: Night, start: int, count: int) -> Numbers:
    """The numbers of the images in the shard that begins with ``start``."""
    numbers = np.arange(start, min(start + SHARD_ROWS, count))
    return numbers[night.fate(numbers) != "new"]


def make_log(folder: Path, count: int, night: Night) -> list[float]:
    """An archive whose log has a shard for each `SHARD_ROWS` images, its files empty but of the right size. Returns the
    seconds of each commit."""
    log = ArchiveLog.create_or_open(str(folder), codec_files=[CODEC_FILE])
    (folder / "data").mkdir(exist_ok=True)
    return _commit(log, (_empty_shard(folder, count, night, start) for start in range(0, count, SHARD_ROWS)))


def _empty_shard(folder: Path, count: int, night: Night, start: int) -> ShardInfo:
    numbers = _archived(night, start, count)
    column = keys(numbers[[0, -1]]).to_pylist()
    path = _path(str(start).encode())
    with (folder / path).open("wb") as file:
        file.truncate(SHARD_BYTES)
    return ShardInfo(path, SHARD_BYTES, len(numbers), "", *column, ShardSummary({}, {}, 0, 0))


def _commit(log: ArchiveLog, written: Iterator[ShardInfo]) -> list[float]:
    seconds: list[float] = []
    while part := list(islice(written, SHARDS_A_COMMIT)):
        begin = time.perf_counter()
        log.commit("synthetic", len(seconds), part)
        seconds.append(time.perf_counter() - begin)
    return seconds


def _path(content: bytes) -> str:
    """As a shard of this content is called."""
    return f"data/{hashlib.sha256(content).hexdigest()[:32]}-{uuid.uuid4().hex[:8]}.parquet"


def make_archive(folder: Path, count: int, night: Night, *, processes: int = 2) -> list[float]:
    """An archive of ``count`` images less the new ones. Returns the seconds of each commit."""
    log = ArchiveLog.create_or_open(str(folder), codec_files=[CODEC_FILE])
    (folder / "data").mkdir(exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        return _commit(log, pool.map(partial(write_shard, folder, count, night), range(0, count, SHARD_ROWS), chunksize=50))


def write_shard(folder: Path, count: int, night: Night, start: int) -> ShardInfo:
    """The shard of the archive's images from number ``start`` on."""
    numbers = _archived(night, start, count)
    table = _rows(numbers)
    total = int(sizes(numbers).sum())
    summary = ShardSummary({"cnn": len(numbers)}, {CODEC_ID: len(numbers)}, total, len(numbers))
    layout: dict[str, Any] = {name: value for name, value in _LAYOUT.items() if name != "write_batch_size"}  # as fast as can be
    written = folder / "data" / f".{start}.writing"
    with pq.ParquetWriter(written, SCHEMA, **layout) as writer:
        writer.write_table(table, row_group_size=GROUP_ROWS)
        described = {"outcomes": summary.outcomes, "codecs": summary.codecs, "source_bytes": total, "payload_bytes": 0}
        writer.add_key_value_metadata({SUMMARY_KEY: json.dumps(described)})
    path = _path(written.read_bytes())
    written.rename(folder / path)
    column = table.column("key")
    first, last = column[0].as_py(), column[table.num_rows - 1].as_py()
    return ShardInfo(path, (folder / path).stat().st_size, table.num_rows, "", first, last, summary)


def _rows(numbers: Numbers) -> pa.Table:
    given = {
        "key": keys(numbers), "source_etag": etags(numbers), "source_mtime": times(numbers), "source_size": sizes(numbers)
    }  # fmt: skip
    constant = {
        "source_sha256": bytes(32), "source_format": "jpeg", "width": 1024, "height": 768, "mode": "RGB", "outcome": "cnn",
        "payload_coding": "cnn", "codec_id": CODEC_ID, "quality": 32.0, "psnr_db": 38.5, "ingested_at": datetime.now(UTC),
        "run_id": "synthetic", "payload_sha256": hashlib.sha256(PAYLOAD).digest(), "payload": PAYLOAD,
    }  # fmt: skip
    count = len(numbers)
    arrays = [
        given[field.name] if field.name in given else pa.repeat(pa.scalar(constant.get(field.name), type=field.type), count)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
