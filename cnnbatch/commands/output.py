"""Prints the results of commands, and reads and writes their files."""

import argparse
import json
import math
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cnnbatch.archive.schema import BLOBS
from cnnbatch.archive.single import MAX_FILE_BYTES, parse_cnb
from cnnbatch.choices import CONVERTED_TO
from cnnbatch.errors import ArchiveError, ImageError, StorageError, Unreadable, UsageError
from cnnbatch.picture import LISTED, MAX_PIXELS, Picture
from cnnbatch.storage import is_safe_key, overlaps
from cnnbatch.storage.durable import create_file, replace_file
from cnnbatch.text import visible

if TYPE_CHECKING:
    from cnnbatch.archive import ArchiveRow

ENDINGS: Final = {
    **{f".{name}": name for name in ("png", "webp", "jpeg", "avif", "gif", "bmp", "tiff", "ppm")},
    **{".jpg": "jpeg", ".jpe": "jpeg", ".tif": "tiff", ".pgm": "ppm", ".pbm": "ppm"},
}
"""Endings of a name and the format that a file of that name is to have."""

STDOUT: Final = "-"


def show(options: argparse.Namespace, document: Mapping[str, Any], *lines: str) -> None:
    """Prints a result: the lines for people, or with ``--json`` the document."""
    print(_to_json(document) if options.json else "\n".join(map(visible, lines)))


def _to_json(document: Mapping[str, Any]) -> str:
    """On one line; figures that are not finite, which JSON has no words for, as null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in document.items()}
    return json.dumps(finite, allow_nan=False)


def check_output(path: str, options: argparse.Namespace, *, source: str | None = None) -> None:
    """Refuses before any work is done what `_write` would refuse after it, and to replace the ``source`` that is read."""
    if path == STDOUT:
        if options.json:
            raise UsageError("--json and the file cannot both go to stdout")
        return
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {path!r}: {cause(error)}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise UsageError(f"cannot write {path!r}: it exists and is not a file")
    if not options.force:
        raise UsageError(f"{path!r} exists; --force replaces it")
    if source is not None and os.path.realpath(path) == os.path.realpath(source):
        raise UsageError(f"{path!r} is also the input: choose another name")


def write(path: str, data: bytes, *, force: bool) -> None:
    if path == STDOUT:
        sys.stdout.buffer.write(data)
        return
    try:
        if force:
            replace_file(Path(path), lambda file: file.write(data))
        elif not create_file(Path(path), lambda file: file.write(data)):
            raise UsageError(f"{path!r} exists; --force replaces it")
    except OSError as error:
        raise StorageError(f"cannot write {path!r}: {cause(error)}") from error


def read(path: str | Path, *, limit: int = MAX_FILE_BYTES) -> bytes:
    try:
        if (size := Path(path).stat().st_size) > limit:
            raise Unreadable("too-large", f"{str(path)!r} has {size} bytes, the limit is {limit}")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r}: {cause(error)}") from error


def read_cnb(path: str) -> "ArchiveRow":
    try:
        return parse_cnb(read(path))
    except ArchiveError as error:
        raise ArchiveError(f"{path!r}: {error}") from error


def cause(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def row_document(row: "ArchiveRow") -> dict[str, Any]:
    """Everything but the bytes of the payload and the metadata, of which the sizes are told."""
    document: dict[str, Any] = {name: getattr(row, name) for name in LISTED}
    document |= {name: getattr(row, name) for name in ("mode", "payload_coding", "run_id")}
    document |= {"source_sha256": row.source_sha256.hex(), "ingested_at": row.ingested_at.isoformat()}
    return document | {f"{name}_bytes": len(getattr(row, name) or b"") for name in ("payload", *BLOBS)}


def describe_row(row: "ArchiveRow") -> str:
    size = f"{row.width} × {row.height}" if row.width else "unknown size"
    kept = len(row.payload) + sum(len(getattr(row, name) or b"") for name in BLOBS)
    line = f"{row.key}: {row.source_format}, {size}, {row.source_size:,} → {kept:,} bytes, {row.outcome}"
    if row.outcome == "store":
        return f"{line} ({row.reason}; {row.payload_coding})"
    bpp = 8 * len(row.payload) / ((row.width or 1) * (row.height or 1))
    psnr = "" if row.psnr_db is None else f", {row.psnr_db:.2f} dB"
    score = "" if row.ssimulacra2 is None else f", SSIMULACRA2 {row.ssimulacra2:.1f}"
    return f"{line}, quality {row.quality:g}, {bpp:.3f} bpp{psnr}{score}, codec {(row.codec_id or '')[:12]}"


def write_picture(
    picture: Picture,
    options: argparse.Namespace,
    output: str | None,
    *,
    archive: str | None = None,
    format: str | None = None,
) -> None:
    """Writes ``picture`` to ``output``, by default to the last part of its key in the current folder."""
    from cnnbatch.stages.names import output_key

    format = format or options.format or _format_of(output, picture.row)
    path = _default_name(output_key(picture.row, format)) if output is None else output
    if archive is not None and path != STDOUT and overlaps(archive, path):
        raise UsageError(f"{path!r} is inside the archive: choose another place")
    check_output(path, options)
    scale = 1 / int(options.scale.rpartition("/")[2])
    data = _file_of(picture, format, options, scale)
    if picture.row.outcome == "store" and scale == 1 and options.format not in (None, "original", picture.row.source_format):
        note = f"note: {picture.key!r} was stored as it is ({picture.row.reason}) and comes back so"
        print(visible(note), file=sys.stderr)
    write(path, data, force=options.force)
    if path != STDOUT:
        show(options, row_document(picture.row) | {"path": path, "num_bytes": len(data)}, f"{path}: {len(data):,} bytes")


def _format_of(output: str | None, row: "ArchiveRow") -> str:
    """The format that the ending of a file's name asks for. Raises UsageError where nothing is written as that."""
    from cnnbatch.stages.names import is_converted

    ending = Path(output or "").suffix.lower()
    converted = is_converted(row.outcome, row.source_format)
    if output == STDOUT or ending == "" or (ending == Path(row.key).suffix.lower() and not converted):
        return "original"
    if ending not in ENDINGS:
        known = ", ".join(sorted(ENDINGS))
        raise UsageError(f"no file ending in {ending} can be written, only {known}; --format original writes it as it is")
    return "original" if ENDINGS[ending] == (CONVERTED_TO if converted else row.source_format) else ENDINGS[ending]


def _file_of(picture: Picture, format: str, options: argparse.Namespace, scale: float) -> bytes:
    """The file; a stored picture is decoded for another format only where the name of the file, and no option, asks for it."""
    row = picture.row
    if row.outcome == "store" and options.format is None and format != "original" and scale == 1:
        from cnnbatch.images import decode, encode

        try:
            return encode(decode(picture.file(), max_pixels=MAX_PIXELS), format=format)
        except ImageError as error:
            told = f"{row.key!r} was stored as it is ({row.reason}) and cannot be written as {format}: {error}"
            raise UsageError(f"{told}; --format original writes it as it is") from error
    return picture.file(format, decoder="draft" if options.draft else "full", scale=scale)


def _default_name(key: str) -> str:
    name = key.rpartition("/")[2]
    if not is_safe_key(name):
        raise UsageError(f"the key {key[:200]!r} does not end in a name for a file: give one with -o")
    return name
