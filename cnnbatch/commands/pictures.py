"""The commands ``cnnbatch encode`` and ``decode``: one picture, without an archive."""

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cnnbatch.archive.single import dump_cnb
from cnnbatch.commands.output import (
    STDOUT,
    check_output,
    describe_row,
    read,
    read_cnb,
    row_document,
    show,
    write,
    write_picture,
)
from cnnbatch.errors import UsageError
from cnnbatch.picture import CodecFiles, Picture
from cnnbatch.storage import ObjectInfo

if TYPE_CHECKING:
    from cnnbatch.archive import ArchiveRow

RUN_ID: Final = "cnnbatch-encode"


def encode(options: argparse.Namespace) -> None:
    """One image file → a ``.cnb`` file, by the rules that hold in a job."""
    check_output(options.cnb, options, source=options.image)
    row = _encode(Path(options.image), options)
    data = dump_cnb(row)
    write(options.cnb, data, force=options.force)
    if options.cnb != STDOUT:
        show(options, row_document(row) | {"path": options.cnb, "num_bytes": len(data)}, describe_row(row))


def decode(options: argparse.Namespace) -> None:
    """A ``.cnb`` file → an image file."""
    row = read_cnb(options.cnb)
    check_output(options.output, options, source=options.cnb)
    codec = None if options.codec is None else read(options.codec)
    write_picture(Picture(row, CodecFiles(codec)), options, options.output)


def _encode(path: Path, options: argparse.Namespace) -> "ArchiveRow":
    from pydantic import ValidationError

    from cnnbatch.codec import SHIPPED, Codec, shipped_codec
    from cnnbatch.stages.compress import ShardCompressor
    from cnnbatch.stages.settings import OPTIONS, CompressionSettings
    from cnnbatch.storage import open_store

    wanted = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None}
    try:
        settings = CompressionSettings(**wanted)
    except ValidationError as error:
        fault = error.errors()[0]
        raise UsageError(f"--{'-'.join(map(str, fault['loc'])).replace('_', '-')}: {fault['msg']}") from None
    data = read(path, limit=settings.max_source_bytes)
    name = SHIPPED[0] if options.codec is None else options.codec
    codec = Codec(shipped_codec(name) if name in SHIPPED else read(name))
    folder = open_store(str(path.parent))
    return ShardCompressor(folder, folder, codec, settings, run_id=RUN_ID).row(_object_info(path, len(data)), data)


def _object_info(path: Path, size: int) -> ObjectInfo:
    key = os.fsencode(path.name).decode(errors="backslashreplace")
    return ObjectInfo(key, size, mtime=datetime.fromtimestamp(path.stat().st_mtime, UTC))
