"""The subcommands of ``cnnbatch``; their options are in `cnnbatch.cli`.

Torch is imported only by those that code or decode a picture.
"""

import argparse
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from cnnbatch import reading
from cnnbatch.archive import ArchiveInfo, ArchiveRow
from cnnbatch.archive.reader import PAYLOAD_BYTES, Kind
from cnnbatch.archive.schema import BLOBS
from cnnbatch.archive.single import MAX_FILE_BYTES, dump_cnb, parse_cnb
from cnnbatch.archive.where import parse_condition
from cnnbatch.errors import (
    ArchiveError,
    BitstreamError,
    CnnbatchError,
    DamagedRow,
    ImageError,
    StorageError,
    Unreadable,
    UsageError,
)
from cnnbatch.reading import CodecFiles, Picture
from cnnbatch.storage import ObjectInfo, is_safe_key, open_store, overlaps
from cnnbatch.storage.durable import create_file, replace_file
from cnnbatch.storage.keys import safe_join
from cnnbatch.text import visible

ENDINGS: Final = {
    **{f".{name}": name for name in ("png", "webp", "jpeg", "avif", "gif", "bmp", "tiff", "ppm")},
    **{".jpg": "jpeg", ".jpe": "jpeg", ".tif": "tiff", ".pgm": "ppm", ".pbm": "ppm"},
}
"""Endings of a name and the format that a file of that name is to have."""

MOST_LISTED_FILES: Final = 1000
"""Live files that are named one by one."""

WILDCARDS: Final = frozenset("*?[")
STDOUT: Final = "-"
RUN_ID: Final = "cnnbatch-encode"


def info(options: argparse.Namespace) -> None:
    """Figures of an archive, or the metadata of a ``.cnb`` file."""
    if Path(options.what).is_file():
        if options.sql:
            raise UsageError(f"{options.what!r} is one picture: --sql is of archives")
        row = _read_cnb(options.what)
        show(options, _row_document(row), _describe_row(row))
    else:
        archive = reading.open(options.what)
        if options.sql:
            lines = describe_access(archive)
            show(options, {"sql": lines}, *lines)
            return
        figures, kinds = archive.info(), archive.kinds()
        show(options, _archive_document(figures, kinds), *_describe_archive(figures, kinds))


def describe_access(archive: reading.Archive) -> list[str]:
    """How other tools read this archive rightly: by its log, which says which files count, or by those that count now.

    As SQL that DuckDB runs as it stands; what is Python is a comment.
    """
    url, shards = archive.url, archive.rows.shards()
    quoted = url.replace("'", "''")
    files = ", ".join(f"'{quoted}/{shard.path}'" for shard in shards)
    columns = "key, source_format, outcome, reason, width, height, source_size, quality, psnr_db"
    count = "SELECT outcome, count(*) AS images, sum(source_size) AS bytes"
    lines = [
        f"-- {len(archive):,} images. Read the log, never a glob over data/: replaced files stay there until a sweep.",
        f"-- Polars:  pl.scan_delta({url!r}).select('key', 'outcome').collect()",
        f"-- pandas:  deltalake.DeltaTable({url!r}).to_pandas(columns=['key', 'outcome'])",
        f"-- pyarrow: deltalake.DeltaTable({url!r}).to_pyarrow_dataset().to_table(columns=['key', 'outcome'])",
        "-- DuckDB, with its extension for Delta:",
        f"--   INSTALL delta; LOAD delta; {count} FROM delta_scan('{quoted}') GROUP BY outcome;",
    ]
    if not shards or len(shards) > MOST_LISTED_FILES:
        return [*lines, f"-- without it: {len(shards):,} files are live, too many or too few to be named here"]
    return [
        *lines,
        f"-- DuckDB without it: the files that were live at version {archive.rows.snapshot.version} of the log.",
        f"CREATE OR REPLACE TEMP VIEW images AS SELECT * FROM read_parquet([{files}], union_by_name = true);",
        f"{count} FROM images GROUP BY outcome;",
        f"SELECT {columns} FROM images ORDER BY source_size DESC LIMIT 20;",
    ]


def ls(options: argparse.Namespace) -> None:
    """Keys, or with ``-l`` a line of columns each, as they are read."""
    condition = None if options.where is None else parse_condition(options.where)
    archive = reading.open(options.archive)
    if options.long:
        rows = archive.listing(options.glob, condition)
    elif condition is not None:
        rows = ({"key": row["key"]} for row in archive.listing(options.glob, condition, columns=("key",)))
    else:
        rows = ({"key": key} for key in archive.keys(options.glob))
    for row in rows:
        show(options, row, _describe_listed(row))


def get(options: argparse.Namespace) -> None:
    """Images of an archive → files."""
    archive = reading.open(options.archive)
    output: str | None = options.output
    keys = list(_asked(archive, options.keys))
    is_folder = output is not None and output != STDOUT and (output.endswith("/") or Path(output).is_dir())
    if len(options.keys) == 1 and keys == options.keys and not is_folder:
        _write_picture(archive[keys[0]], options, output, archive=archive.url)
        return
    if output is not None and not is_folder:
        raise UsageError(f"{len(keys):,} images do not go into {output!r}: name a folder, with / at its end")
    _write_below(output or "", archive, keys, options)


def _asked(archive: reading.Archive, words: Sequence[str]) -> Iterator[str]:
    """The keys that are meant, each once: a word that is no key is a glob, where it has wildcards."""
    seen: set[str] = set()
    for word in words:
        keys = iter([word]) if word in archive else archive.keys(word) if WILDCARDS & set(word) else iter(())
        matching = list(keys)
        yield from (key for key in matching if key not in seen)
        seen.update(matching)
        if not matching:
            raise UsageError(f"there is no image {word!r} in {archive.url}")


def _write_below(folder: str, archive: reading.Archive, keys: Sequence[str], options: argparse.Namespace) -> None:
    """Writes pictures below ``folder`` under their keys, and makes the folders that are missing.

    Raises at the end what the first said that cannot be given back: the others are there.
    """
    from cnnbatch.stages.names import output_key

    format = options.format or "original"
    faults: list[CnnbatchError] = []
    for key in keys:
        try:
            picture = archive[key]
            path = safe_join(Path(folder or "."), output_key(picture.row, format))
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_picture(picture, options, str(path), archive=archive.url, format=format)
        except (ArchiveError, ImageError, DamagedRow, BitstreamError) as error:
            faults.append(error)
        except OSError as error:
            raise UsageError(f"cannot write below {folder!r}: {_cause(error)}") from error
    if faults:
        raise faults[0]


def encode(options: argparse.Namespace) -> None:
    """One image file → a ``.cnb`` file, by the rules that hold in a job."""
    _check_output(options.cnb, options, source=options.image)
    row = _encode(Path(options.image), options)
    data = dump_cnb(row)
    _write(options.cnb, data, force=options.force)
    if options.cnb != STDOUT:
        show(options, _row_document(row) | {"path": options.cnb, "num_bytes": len(data)}, _describe_row(row))


def decode(options: argparse.Namespace) -> None:
    """A ``.cnb`` file → an image file."""
    row = _read_cnb(options.cnb)
    _check_output(options.output, options, source=options.cnb)
    codec = None if options.codec is None else _read(options.codec)
    _write_picture(Picture(row, CodecFiles(codec)), options, options.output)


COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], None]]] = {
    "info": info,
    "ls": ls,
    "get": get,
    "encode": encode,
    "decode": decode,
}


def _encode(path: Path, options: argparse.Namespace) -> ArchiveRow:
    from cnnbatch.codec import SHIPPED, Codec, shipped_codec
    from cnnbatch.stages.compress import ShardCompressor
    from cnnbatch.stages.settings import OPTIONS, CompressionSettings

    wanted = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None}
    try:
        settings = CompressionSettings(**wanted)
    except ValidationError as error:
        fault = error.errors()[0]
        raise UsageError(f"--{'-'.join(map(str, fault['loc'])).replace('_', '-')}: {fault['msg']}") from None
    data = _read(path, limit=settings.max_source_bytes)
    name = SHIPPED[0] if options.codec is None else options.codec
    codec = Codec(shipped_codec(name) if name in SHIPPED else _read(name))
    folder = open_store(str(path.parent))
    return ShardCompressor(folder, folder, codec, settings, run_id=RUN_ID).row(_object_info(path, len(data)), data)


def _object_info(path: Path, size: int) -> ObjectInfo:
    key = os.fsencode(path.name).decode(errors="backslashreplace")
    return ObjectInfo(key, size, mtime=datetime.fromtimestamp(path.stat().st_mtime, UTC))


def _write_picture(
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
        raise UsageError(f"{path!r} lies in the archive: choose another place")
    _check_output(path, options)
    scale = 1 / int(options.scale.rpartition("/")[2])
    data = _file_of(picture, format, options, scale)
    if picture.row.outcome == "store" and scale == 1 and options.format not in (None, "original", picture.row.source_format):
        note = f"note: {picture.key!r} was stored as it is ({picture.row.reason}) and comes back so"
        print(visible(note), file=sys.stderr)
    _write(path, data, force=options.force)
    if path != STDOUT:
        show(options, _row_document(picture.row) | {"path": path, "num_bytes": len(data)}, f"{path}: {len(data):,} bytes")


def _format_of(output: str | None, row: ArchiveRow) -> str:
    """The format that the ending of a file's name asks for. Raises UsageError where nothing is written as that."""
    ending = Path(output or "").suffix.lower()
    if output == STDOUT or ending in ("", Path(row.key).suffix.lower()):
        return "original"
    if ending not in ENDINGS:
        known = ", ".join(sorted(ENDINGS))
        raise UsageError(f"no file that ends in {ending} is written: it is one of {known}; --format original writes it so")
    return "original" if ENDINGS[ending] == row.source_format else ENDINGS[ending]


def _file_of(picture: Picture, format: str, options: argparse.Namespace, scale: float) -> bytes:
    """The file; a stored picture is decoded for another format only where the name of the file, and no option, asks for it."""
    row = picture.row
    if row.outcome == "store" and options.format is None and format != "original" and scale == 1:
        from cnnbatch.images import decode, encode

        try:
            return encode(decode(picture.file(), max_pixels=reading.MAX_PIXELS), format=format)
        except ImageError as error:
            told = f"{row.key!r} was stored as it is ({row.reason}) and cannot be written as {format}: {error}"
            raise UsageError(f"{told}; --format original writes it as it is") from error
    return picture.file(format, decoder="draft" if options.draft else "full", scale=scale)


def _default_name(key: str) -> str:
    name = key.rpartition("/")[2]
    if not is_safe_key(name):
        raise UsageError(f"the key {key[:200]!r} does not end in a name for a file: give one with -o")
    return name


def _check_output(path: str, options: argparse.Namespace, *, source: str | None = None) -> None:
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
        raise UsageError(f"cannot write {path!r}: {_cause(error)}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise UsageError(f"cannot write {path!r}: it exists and is not a file")
    if not options.force:
        raise UsageError(f"{path!r} exists; --force replaces it")
    if source is not None and os.path.realpath(path) == os.path.realpath(source):
        raise UsageError(f"{path!r} is what is read: choose another name")


def _write(path: str, data: bytes, *, force: bool) -> None:
    if path == STDOUT:
        sys.stdout.buffer.write(data)
        return
    try:
        if force:
            replace_file(Path(path), lambda file: file.write(data))
        elif not create_file(Path(path), lambda file: file.write(data)):
            raise UsageError(f"{path!r} exists; --force replaces it")
    except OSError as error:
        raise StorageError(f"cannot write {path!r}: {_cause(error)}") from error


def _read(path: str | Path, *, limit: int = MAX_FILE_BYTES) -> bytes:
    try:
        if (size := Path(path).stat().st_size) > limit:
            raise Unreadable("too-large", f"{str(path)!r} has {size} bytes, the limit is {limit}")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r}: {_cause(error)}") from error


def _read_cnb(path: str) -> ArchiveRow:
    try:
        return parse_cnb(_read(path))
    except ArchiveError as error:
        raise ArchiveError(f"{path!r}: {error}") from error


def _cause(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def show(options: argparse.Namespace, document: Mapping[str, Any], *lines: str) -> None:
    """Prints a result: the lines for people, or with ``--json`` the document."""
    print(_to_json(document) if options.json else "\n".join(map(visible, lines)))


def _to_json(document: Mapping[str, Any]) -> str:
    """On one line; figures that are not finite, which JSON has no words for, as null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in document.items()}
    return json.dumps(finite, allow_nan=False)


def _archive_document(figures: ArchiveInfo, kinds: Sequence[Kind]) -> dict[str, Any]:
    document = {field.name: getattr(figures, field.name) for field in fields(figures)}
    return document | {"ratio": figures.ratio, "kinds": [asdict(kind) for kind in kinds]}


def _row_document(row: ArchiveRow) -> dict[str, Any]:
    """Everything but the bytes of the payload and the metadata, of which the sizes are told."""
    document: dict[str, Any] = {name: getattr(row, name) for name in reading.LISTED}
    document |= {name: getattr(row, name) for name in ("mode", "payload_coding", "run_id")}
    document |= {"source_sha256": row.source_sha256.hex(), "ingested_at": row.ingested_at.isoformat()}
    return document | {f"{name}_bytes": len(getattr(row, name) or b"") for name in ("payload", *BLOBS)}


def _describe_row(row: ArchiveRow) -> str:
    size = f"{row.width} × {row.height}" if row.width else "unknown size"
    kept = len(row.payload) + sum(len(getattr(row, name) or b"") for name in BLOBS)
    line = f"{row.key}: {row.source_format}, {size}, {row.source_size:,} → {kept:,} bytes, {row.outcome}"
    if row.outcome == "store":
        return f"{line} ({row.reason}; {row.payload_coding})"
    bpp = 8 * len(row.payload) / ((row.width or 1) * (row.height or 1))
    psnr = "" if row.psnr_db is None else f", {row.psnr_db:.2f} dB"
    score = "" if row.ssimulacra2 is None else f", SSIMULACRA2 {row.ssimulacra2:.1f}"
    return f"{line}, quality {row.quality:g}, {bpp:.3f} bpp{psnr}{score}, codec {(row.codec_id or '')[:12]}"


def _describe_archive(figures: ArchiveInfo, kinds: Sequence[Kind]) -> list[str]:
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(figures.outcomes.items()))
    return [
        f"url        {figures.url}",
        f"images     {figures.num_images:,}" + (f" ({outcomes})" if outcomes else ""),
        f"originals  {figures.source_bytes:,} bytes",
        f"archive    {figures.archive_bytes + figures.codec_bytes:,} bytes ({figures.ratio:.2f} times smaller): "
        f"{figures.archive_bytes:,} in {figures.num_shards:,} shards, {figures.codec_bytes:,} in codec files",
        *(f"codec      {codec_id} for {count:,} images" for codec_id, count in sorted(figures.codecs.items())),
        f"versions   format {figures.format_version}, created by {figures.created_by}, log {figures.log_version}",
        *(f"{'kinds' if not number else '':10} {_describe_kind(kind)}" for number, kind in enumerate(kinds)),
    ]


def _describe_kind(kind: Kind) -> str:
    outcome = kind.outcome if kind.reason is None else f"{kind.outcome} ({kind.reason})"
    payload = "?" if kind.payload_bytes is None else f"{kind.payload_bytes:,}"
    return f"{kind.images:>9,} {kind.format:8} {kind.source_bytes:>16,} → {payload:>14} bytes  {outcome}"


def _describe_listed(row: Mapping[str, Any]) -> str:
    """The key, after its columns in a long listing."""
    if len(row) == 1:
        return str(row["key"])
    size = "-" if row["width"] is None else f"{row['width']}x{row['height']}"
    how = row["reason"] or "-"
    if row["quality"] is not None:
        how = f"q{row['quality']:g}" + ("" if row["psnr_db"] is None else f" {row['psnr_db']:.2f} dB")
        how += "" if row["ssimulacra2"] is None else f" ssimulacra2 {row['ssimulacra2']:.1f}"
    kept = row[PAYLOAD_BYTES]
    bpp = "-" if kept is None or not row["width"] else f"{8 * kept / (row['width'] * row['height']):.3f} bpp"
    sizes = f"{row['source_size']:>12} {'-' if kept is None else kept:>10} {bpp:>10}"
    columns = f"{row['outcome']:5} {row['source_format']:5} {size:>11} {sizes} {how:16}"
    return f"{columns} {row['key']}"
