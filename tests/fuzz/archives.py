"""Archives: the log and the control files, shards, and rows as ``.cnb`` files."""

import atexit
import hashlib
import io
import json
import os
import random
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.archive import ArchiveLog, ArchiveRow, LiveShard, open_archive, read_shard, read_summary
from cnnbatch.archive.erased import part_path, read_erased
from cnnbatch.archive.schema import rows_to_table
from cnnbatch.archive.single import FIELDS, dump_cnb, parse_cnb
from cnnbatch.archive.snapshot import read_rows
from cnnbatch.errors import CnnbatchError
from cnnbatch.images import transcode_jpeg
from cnnbatch.images.alpha import encode_alpha
from cnnbatch.images.lossless import keep
from cnnbatch.images.segments import AFTER, BEFORE, Segment, pack
from cnnbatch.picture import CodecFiles, Picture
from cnnbatch.storage import Store, open_store
from tests.archive.rows import coded, sha256, shard_of, stored
from tests.fuzz.codecs import MAX_CODED_PIXELS, tiny_codec
from tests.fuzz.target import Target, unrepaired
from tests.stages.pictures import EXIF_ROTATED, as_file, waves

FILES = [
    *(f"_delta_log/{version:020d}.json" for version in range(5)),
    "_delta_log/_last_checkpoint",
    f"_delta_log/{3:020d}.checkpoint.parquet",
    "_cnnbatch/format.json",
    f"_cnnbatch/erased/{0:032x}.json",
]
"""What the input of the target ``log`` holds, each behind ``MARK`` and its number here."""

ERASED_PART = 8
"""Its name is its digest, so that what is behind that check is reached."""

DIGESTS = re.compile(rb',"cnnbatch\.(?:actions|live|previous)":"[0-9a-f ]*"')
MARK = re.compile(rb"\n===([0-9])\n")
ODD_VALUES = (
    0,
    -1,
    2**31,
    2**63 - 1,
    -(2**63),
    1e308,
    "",
    "../../etc/passwd",
    "/etc/passwd",
    "s3://x/y",
    "a\0b",
    None,
    [],
    {},
    True,
)
FIELD = struct.Struct("<BI")
NUMBERS = {name: number for number, (name, _) in FIELDS.items()}


@cache
def fuzzed_archive() -> Path:
    """A folder in memory with an archive of a few commits; its log is written anew for each input."""
    folder = tempfile.mkdtemp(prefix="cnnbatch-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    log = ArchiveLog.create_or_open(f"{folder}/archive", codec_files=[b"codec"])
    first = shard_of(log, "a", "b", "c")
    log.commit("run-1", 1, [first])
    log.commit("run-1", 2, [shard_of(log, "d", "e")])
    rest = replace(shard_of(log, "a", "c", text="new "), replaces=(first.path,))
    log.commit("run-2", 1, [rest])
    log.table.open().create_checkpoint()
    log.commit("run-2", 2, [shard_of(log, "x")])
    digest = hashlib.sha256(b"z").hexdigest()
    log.store.put(FILES[ERASED_PART], json.dumps({"version": 1, "key_sha256": [digest]}).encode())
    return Path(folder, "archive")


@cache
def logs() -> tuple[bytes, ...]:
    """With digests, which most changes do not fit; and without, so that what is behind them is reached."""
    folder = fuzzed_archive()
    whole = {number: (folder / name).read_bytes() for number, name in enumerate(FILES)}
    undigested = {number: DIGESTS.sub(b"", data) for number, data in whole.items()}
    without_checkpoint = {number: data for number, data in undigested.items() if number not in (5, 6)}
    return join_files(whole), join_files(undigested), join_files(without_checkpoint)


def join_files(contents: dict[int, bytes]) -> bytes:
    return b"".join(b"\n===%d\n" % number + data for number, data in contents.items())


def split_files(data: bytes) -> dict[int, bytes]:
    parts = MARK.split(data)
    return {int(number): content for number, content in zip(parts[1::2], parts[2::2], strict=True) if int(number) < len(FILES)}


def open_log(data: bytes) -> None:
    """Everything that reads the log: the rows by shard and by key, the figures, the erased list."""
    folder, contents = fuzzed_archive(), split_files(data)
    for number, name in enumerate(FILES):
        path = folder / name
        if number == ERASED_PART:
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir()
            path = folder / part_path(contents.get(number, b""))
        if number in contents:
            path.write_bytes(contents[number])
        else:
            path.unlink(missing_ok=True)
    with suppress(CnnbatchError):
        read_erased(open_store(str(folder)))
    with suppress(CnnbatchError):
        archive = open_archive(str(folder))
        for shard in archive.shards():
            assert not shard.path.startswith(("/", ".")), shard.path
            assert "/." not in shard.path, shard.path
        for row in archive.rows():
            if isinstance(row, ArchiveRow):
                claimed = any(shard.min_key <= row.key <= shard.max_key for shard in archive.shards())
                with suppress(*([] if claimed else [KeyError])):  # the log may say that its shard has other keys
                    archive[row.key]
        archive.info()


def with_odd_values(data: bytes, rng: random.Random) -> bytes:
    """One value of one JSON object of the log replaced."""
    contents = split_files(data)
    texts = [number for number in contents if FILES[number].endswith(".json")]
    if not texts:
        return data
    number = rng.choice(texts)
    lines = contents[number].split(b"\n")
    at = rng.randrange(len(lines))
    try:
        document = json.loads(lines[at])
        lines[at] = json.dumps(changed(document, rng)).encode()
    except (ValueError, RecursionError):
        return data
    return join_files(contents | {number: b"\n".join(lines)})


def changed(value: Any, rng: random.Random) -> Any:
    """The JSON value with one of its leaves, or of the branches above, replaced."""
    if isinstance(value, str) and value.startswith("{") and rng.randrange(4):  # statistics are JSON in a string
        with suppress(ValueError):
            return json.dumps(changed(json.loads(value), rng))
    if not isinstance(value, dict | list) or not value or not rng.randrange(8):
        return rng.choice(ODD_VALUES)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        return [*value[:at], changed(value[at], rng), *value[at + 1 :]]
    name = rng.choice(sorted(value))
    return value | {name: changed(value[name], rng)} if rng.randrange(6) else {k: v for k, v in value.items() if k != name}


@cache
def memory_store() -> Store:
    return open_store(f"memory://fuzz-{os.getpid()}")


def rows() -> list[ArchiveRow]:
    return [stored("a"), stored("b", bytes(900)), coded("c", b"x" * 40, exif=b"MM\0*", alpha=b"\xff", icc=bytes(70))]


def shards() -> list[bytes]:
    """As we write them; without page checksums and compression; with dictionaries; and with columns of other types."""
    from cnnbatch.archive.shards import _encode

    footer = {"cnnbatch.summary": json.dumps({"outcomes": {}, "codecs": {}, "source_bytes": 1, "payload_bytes": 1})}
    table = rows_to_table(rows()).replace_schema_metadata(footer)
    nested = table.set_column(9, "exif", pa.array([[b"a"], None, [b"b", b""]]))
    wide = table.set_column(3, "source_size", table.column("source_size").cast(pa.decimal128(30, 2)))
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    written = [(table, plain), (table, {"compression": "snappy"}), (nested, plain), (wide, plain), (table, {"version": "1.0"})]
    return [_encode(rows(), footer), *(as_parquet(one, options) for one, options in written)]


def as_parquet(table: pa.Table, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def read_parquet(data: bytes) -> None:
    store, path = memory_store(), "data/fuzzed.parquet"
    store.put(path, data)
    with suppress(CnnbatchError):
        list(read_shard(store, path, num_bytes=len(data)))
    with suppress(CnnbatchError):
        read_summary(store, path, num_bytes=len(data))
    with suppress(CnnbatchError):
        read_rows(store, LiveShard(path, len(data), 3, "a", "c"), ("key", "source_size", "source_etag", "outcome", "codec_id"))


SEGMENTS = pack([Segment(BEFORE, b"any bytes"), Segment(AFTER, b"more")])


def cnb_files() -> list[bytes]:
    codec, picture = tiny_codec(), waves(24, 31)
    [bitstream] = codec.compress([picture], 32)
    jpeg = as_file(waves(64, 64), "jpeg", quality=90)
    transcode = transcode_jpeg(jpeg)
    assert transcode is not None
    whole = coded("c", bitstream, width=31, height=24, codec_id=codec.id, source_format="jpeg")
    extras = {
        "exif": EXIF_ROTATED[6:],
        "icc": bytes(99),
        "xmp": b"<x/>",
        "segments": SEGMENTS,
        "alpha": encode_alpha(picture[..., 0]),
    }
    formats = ("png", "gif", "webp", "bmp", "tiff", "avif", "ppm")
    in_jxl = replace(stored("j", transcode, payload_coding="jpegxl-transcode"), source_sha256=sha256(jpeg))
    kept = [stored("k", as_file(picture, name)) for name in ("png", "gif")]
    deep = as_file(waves(60, 64)[..., 0].astype(np.uint16) * 250)
    in_parts = [_kept(data) for data in (deep, as_file(waves(60, 64), "tiff", compression="tiff_lzw"), bytes(3000))]
    made = [replace(whole, source_format=name, mode="RGB bits=4 dpi=72x72", **extras) for name in formats]
    return [dump_cnb(row) for row in (whole, *made, in_jxl, *kept, *in_parts)]


def _kept(data: bytes) -> ArchiveRow:
    found = keep(data)
    assert found.coding != "verbatim"
    row = stored("p", found.payload, payload_coding=found.coding)
    return replace(row, source_size=len(data), source_sha256=sha256(data))


def open_cnb(data: bytes) -> None:
    """As ``cnnbatch decode`` does: the picture, and a file of it."""
    with suppress(CnnbatchError):
        row = parse_cnb(data)
        picture = Picture(row, {tiny_codec().id: tiny_codec()} if row.codec_id == tiny_codec().id else CodecFiles())
        with suppress(CnnbatchError):
            picture.image(max_pixels=MAX_CODED_PIXELS)
        picture.file()


def with_right_sha256(data: bytes, rng: random.Random) -> bytes:
    """The fields as they are, each digest that of what it covers."""
    fields = dict(cnb_fields(data[9:-32]))
    if NUMBERS["payload"] in fields:
        digest = fields[NUMBERS["payload_sha256"]] = sha256(fields[NUMBERS["payload"]])
        if fields.get(NUMBERS["payload_coding"]) == b"verbatim":
            fields[NUMBERS["source_sha256"]] = digest
    body = data[:9] + b"".join(FIELD.pack(number, len(value)) + value for number, value in sorted(fields.items()))
    return body + sha256(body)


def cnb_fields(body: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + FIELD.size <= len(body):
        number, length = FIELD.unpack_from(body, position)
        if number not in FIELDS or length > len(body):
            position += 1  # look for the next field behind the damage
            continue
        position += FIELD.size
        yield number, body[position : position + length]
        position += length


LOG = Target("log", logs, open_log, with_odd_values, 1 << 15)
PARQUET = Target("parquet", shards, read_parquet, unrepaired, 1 << 16)
CNB = Target("cnb", cnb_files, open_cnb, with_right_sha256, 1 << 15)
