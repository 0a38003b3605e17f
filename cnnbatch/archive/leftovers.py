"""Control files that nothing needs any more: codec files that no row names, and what killed runs left in their folders."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from cnnbatch.archive.damage import damage_as_archive_error
from cnnbatch.archive.layout import CODECS, codec_path
from cnnbatch.archive.parquet import read_columns
from cnnbatch.archive.shard_reading import read_summary
from cnnbatch.archive.snapshot import DEFAULT_THREADS
from cnnbatch.errors import ArchiveError
from cnnbatch.parallel import map_parallel
from cnnbatch.storage import ObjectInfo, Store

DATA: Final = "data"
RUNS: Final = "_cnnbatch/runs"
RUN_GRACES: Final = 7
"""A run reads its plan from the archive while it lasts, which may be longer than one grace."""


def unneeded_codecs(store: Store, *, grace: timedelta) -> list[str]:
    """The paths of codec files that no file below ``data/`` names, live or not, and that no run put there within the grace.

    What a footer names is needed; that is all of them, mostly, in the first shard that is looked at. What no footer names is
    unneeded only where every row of every file was read, and none names it. A file that cannot be read may need any codec, so
    then none is unneeded.
    """
    unneeded = {info.key for info in store.list(CODECS) if is_older(info, grace)}
    try:
        for codecs_of in (_codecs_in_footer, _codecs_in_rows):
            files = store.list(DATA) if unneeded else ()
            for named in map_parallel(partial(codecs_of, store), files, threads=DEFAULT_THREADS):
                unneeded -= named
                if not unneeded:
                    break
    except ArchiveError:
        return []
    return sorted(unneeded)


def _codecs_in_footer(store: Store, info: ObjectInfo) -> set[str]:
    return set(map(codec_path, read_summary(store, info.key, num_bytes=info.size).codecs))


def _codecs_in_rows(store: Store, info: ObjectInfo) -> set[str]:
    column = read_columns(store, info.key, ["codec_id"], num_bytes=info.size).column("codec_id")
    with damage_as_archive_error(store, info.key):
        return {codec_path(codec_id) for codec_id in column.unique().to_pylist() if codec_id is not None}


def clear_run_folder(store: Store, run_id: str) -> None:
    """Removes what a run kept beside its report: its plan, and the marks of begun shards."""
    for info in list(store.list(f"{RUNS}/{run_id}")):
        store.delete(info.key)
    if store.url.startswith("/"):
        folder = Path(store.url, RUNS, run_id)
        for empty in (*sorted(folder.rglob("*/"), reverse=True), folder):
            with suppress(OSError):
                empty.rmdir()


def run_leftovers(store: Store, *, grace: timedelta) -> Iterator[str]:
    """The paths of files in the folders of runs: a run that ends removes its own, only its report stays."""
    for info in store.list(RUNS):
        if info.key.count("/") > RUNS.count("/") + 1 and is_older(info, RUN_GRACES * grace):
            yield info.key


def is_older(info: ObjectInfo, grace: timedelta) -> bool:
    """Whether an object was last changed before the grace began."""
    return info.mtime is not None and info.mtime <= datetime.now(UTC) - grace
