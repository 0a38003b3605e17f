"""The commands ``cnnbatch ls`` and ``get``, and ``info``. None imports torch before a picture needs it."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from cnnbatch import reading
from cnnbatch.archive import ArchiveInfo
from cnnbatch.archive.figures import PAYLOAD_BYTES, Kind
from cnnbatch.archive.where import parse_condition
from cnnbatch.commands.output import STDOUT, cause, describe_row, read_cnb, row_document, show, write_picture
from cnnbatch.errors import ArchiveError, BitstreamError, CnnbatchError, DamagedRow, ImageError, UsageError
from cnnbatch.storage.keys import safe_join

MOST_LISTED_FILES: Final = 1000
"""Live files that are named one by one."""

WILDCARDS: Final = frozenset("*?[")


def info(options: argparse.Namespace) -> None:
    """Figures of an archive, or the metadata of a ``.cnb`` file."""
    if Path(options.what).is_file():
        if options.sql:
            raise UsageError(f"{options.what!r} is one picture: --sql is for archives")
        row = read_cnb(options.what)
        show(options, row_document(row), describe_row(row))
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
        write_picture(archive[keys[0]], options, output, archive=archive.url)
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
            write_picture(picture, options, str(path), archive=archive.url, format=format)
        except (ArchiveError, ImageError, DamagedRow, BitstreamError) as error:
            faults.append(error)
        except OSError as error:
            raise UsageError(f"cannot write below {folder!r}: {cause(error)}") from error
    if faults:
        raise faults[0]


def _archive_document(figures: ArchiveInfo, kinds: Sequence[Kind]) -> dict[str, Any]:
    document = {field.name: getattr(figures, field.name) for field in fields(figures)}
    return document | {"ratio": figures.ratio, "kinds": [asdict(kind) for kind in kinds]}


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
