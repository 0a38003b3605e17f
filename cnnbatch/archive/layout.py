"""The control files of an archive, all below ``_cnnbatch/`` so that a full Delta vacuum leaves them alone."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cnnbatch.archive.schema import CODEC_ID
from cnnbatch.errors import ArchiveError, CodecFileError, TooLarge, UsageError
from cnnbatch.storage import Store, parse_json
from cnnbatch.version import VERSION

FORMAT_PATH = "_cnnbatch/format.json"
CODECS = "_cnnbatch/codecs"
README_PATH = "_cnnbatch/README.md"
FORMAT_NAME = "cnnbatch archive"
FORMAT_VERSION = 1
RENEW_CODEC = timedelta(minutes=30)  # half the least grace of a sweep
READER_FEATURES: frozenset[str] = frozenset()  # features beyond version 1 that this code can read

MAX_FORMAT_BYTES = 1 << 16
MAX_CODEC_BYTES = 1 << 30

README = """\
# A cnnbatch archive

This folder holds images, compressed by cnnbatch (a convolutional image codec). Keep it whole: a copy of the folder
can be read anywhere, without a network and without any other file.

- `_delta_log/` is a Delta Lake log: the only truth about which files in `data/` count. Never list `data/` yourself.
- `data/*.parquet` hold one row an image: its key (path), metadata, sha256 and payload.
- `_cnnbatch/codecs/<sha256>.safetensors` are the codec files that decode the payloads, named by `codec_id`.
- `_cnnbatch/format.json` names the format's version.

## Reading it

With cnnbatch: `cnnbatch info .`, `cnnbatch get . KEY`, `cnnbatch reconstruct . DESTINATION`.

With DuckDB:

    INSTALL delta; LOAD delta;
    SELECT key, width, height, outcome, octet_length(payload) FROM delta_scan('.');
    SELECT key FROM delta_scan('.') WHERE sha256(payload) <> lower(hex(payload_sha256));   -- damaged images

With Polars: `polars.scan_delta(".").select("key", "outcome").collect()`

Rows whose `payload_coding` is `verbatim` hold the original file as it was; `jpegxl-transcode` is a JPEG XL file from
which any JPEG XL decoder restores the original JPEG bit by bit; `zstd` is the original compressed with Zstandard; `parts` are
its pictures as JPEG XL and the rest of it; `cnn` is a bitstream of the codec file in `codec_id`.
"""


@dataclass(frozen=True, slots=True)
class ArchiveFormat:
    """The contents of ``format.json``: a reader needs this version and every feature; it refuses what it does not know."""

    version: int
    reader_features: tuple[str, ...]
    created_by: str


def write_layout(store: Store, codec_files: Iterable[bytes]) -> None:
    """Create the control files that are missing; those that are there stay. May be repeated, and raced.

    Raises:
        UsageError: there is something else at this URL.
        ArchiveError: there is an archive of a format that this code does not know.
    """
    if not check_place(store):
        store.put_if_absent(FORMAT_PATH, _format_json())
    read_format(store)
    store.put_if_absent(README_PATH, README.encode())
    for data in codec_files:
        add_codec(store, data)


def check_place(store: Store) -> bool:
    """Tell whether there is an archive, without writing anything.

    Raises:
        UsageError: there is something else.
    """
    if store.head(FORMAT_PATH) is not None:
        return True
    other = _other_content(store)
    if other is not None and store.head(FORMAT_PATH) is None:  # else a racing creator was faster
        raise UsageError(f"{store.url} holds {other[:200]!r} and is not an archive: choose an empty folder")
    return False


def _other_content(store: Store) -> str | None:
    """A key that no crash before ``format.json`` could have left, which comes before everything but a lease."""
    return next((info.key for info in store.list() if not info.key.startswith("_cnnbatch/")), None)


def _format_json() -> bytes:
    content = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "reader_features": sorted(READER_FEATURES),
        "created_by": f"cnnbatch {VERSION}",
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def read_format(store: Store) -> ArchiveFormat:
    """Read and check ``format.json``.

    Raises:
        ArchiveError: no archive here, or one of a version or feature that this code does not know.
    """
    try:
        found = parse_json(store.read(FORMAT_PATH, max_bytes=MAX_FORMAT_BYTES))
        if found["format"] != FORMAT_NAME:
            raise ValueError(found["format"])
        result = ArchiveFormat(int(found["version"]), tuple(map(str, found["reader_features"])), str(found.get("created_by")))
    except FileNotFoundError:
        raise ArchiveError(f"there is no cnnbatch archive at {store.url}") from None
    except (ValueError, KeyError, TypeError, AttributeError, TooLarge) as error:
        raise ArchiveError(f"{FORMAT_PATH} in {store.url} does not belong to a cnnbatch archive") from error
    _check_known(store, result)
    return result


def _check_known(store: Store, found: ArchiveFormat) -> None:
    if found.version != FORMAT_VERSION:
        raise ArchiveError(
            f"{store.url} has archive format version {found.version}, this cnnbatch reads {FORMAT_VERSION}: "
            "use a newer cnnbatch"
        )
    unknown = sorted(set(found.reader_features) - READER_FEATURES)
    if unknown:
        raise ArchiveError(f"{store.url} needs the reader features {', '.join(unknown)}: use a newer cnnbatch")


def _size(store: Store, path: str) -> int:
    info = store.head(path)
    if info is None:
        raise FileNotFoundError(path)
    return info.known_bytes


def codec_path(codec_id: str) -> str:
    """Where a codec file lies in an archive; ``codec_id`` is its sha256 in hex."""
    if not CODEC_ID.fullmatch(codec_id):
        raise ArchiveError(f"not a codec id: {codec_id[:80]!r}")
    return f"{CODECS}/{codec_id}.safetensors"


def add_codec(store: Store, data: bytes) -> str:
    """Put a codec file into an archive and return its id. Do so before a row that needs it.

    One that is there is written again when it is older than `RENEW_CODEC`: a sweep takes only old ones that no row needs.
    """
    codec_id = hashlib.sha256(data).hexdigest()
    path = codec_path(codec_id)
    info = store.head(path)
    if info is None:
        store.put_if_absent(path, data)
    elif info.mtime is None or info.mtime < datetime.now(UTC) - RENEW_CODEC:
        store.put(path, data)
    return codec_id


def read_codec(store: Store, codec_id: str) -> bytes:
    """Read a codec file out of an archive, its sha256 checked: twice where it is another, as a bit may have flipped on the way.

    Raises:
        CodecFileError: it is missing or damaged.
    """
    path = codec_path(codec_id)
    try:
        if (size := _size(store, path)) > MAX_CODEC_BYTES:
            raise CodecFileError(f"{path} in {store.url} has {size} bytes, the limit is {MAX_CODEC_BYTES}")
        for _ in range(2):
            data = store.read(path)
            if (actual := hashlib.sha256(data).hexdigest()) == codec_id:
                return data
    except FileNotFoundError:
        raise CodecFileError(f"{path} is missing from {store.url}") from None
    raise CodecFileError(f"{path} in {store.url} is damaged: its sha256 is {actual}")
