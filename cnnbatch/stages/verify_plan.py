"""Verification of the archive as a whole: tasks from the log, keys across shards, codec files, the source."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive.commits import LOG
from cnnbatch.archive.erased import read_erased_parts
from cnnbatch.archive.layout import codec_path, read_codec
from cnnbatch.archive.orphans import faults_of_shards
from cnnbatch.archive.parquet import read_columns
from cnnbatch.archive.snapshot import DEFAULT_THREADS, LiveShard
from cnnbatch.archive.trust import Look
from cnnbatch.codec import Codec
from cnnbatch.errors import ArchiveError, CodecFileError
from cnnbatch.parallel import map_parallel
from cnnbatch.stages.listing import Listing, without_erased
from cnnbatch.stages.records import Finding, VerifyTask
from cnnbatch.storage import ObjectInfo, Store
from cnnbatch.storage.columns import object_infos

NO_KEYS = pa.chunked_array([], type=pa.string())


def check_log(archive: Store, newest: Look) -> list[Finding]:
    """Level ``log``: log and erased list are what was written, and every shard that is live is there with its size."""
    found = [] if newest.trust.fault is None else [Finding("log", "damaged-log", LOG, None, newest.trust.fault)]
    damaged = read_erased_parts(archive)[1]
    found += [Finding("log", "damaged-erased-list", path, None, "its sha256 is not its name") for path in damaged]
    faults = faults_of_shards(archive, newest.snapshot)
    return found + [Finding("log", kind, path, None, message) for path, kind, message in faults]


def plan_tasks(archive: Store, shards: Iterable[LiveShard], listing: Listing | None) -> Iterator[VerifyTask]:
    """One task a shard, with its images' objects where there is a listing of the source."""
    chosen = list(shards)
    if listing is None:
        yield from (VerifyTask(number, shard) for number, shard in enumerate(chosen))
        return
    for number, (shard, keys) in enumerate(zip(chosen, keys_of(archive, chosen), strict=True)):
        yield VerifyTask(number, shard, tuple(_inputs(listing.table, keys)))


def keys_of(archive: Store, shards: Iterable[LiveShard]) -> Iterator[pa.ChunkedArray]:
    """The keys of each shard; none of one that cannot be read, which its task will say."""
    yield from map_parallel(partial(_keys_or_none, archive), shards, threads=DEFAULT_THREADS)


def _keys_or_none(archive: Store, shard: LiveShard) -> pa.ChunkedArray:
    try:
        keys = read_columns(archive, shard.path, ["key"], num_bytes=shard.num_bytes).column("key")
        keys.validate(full=True)  # that it is UTF-8
    except (ArchiveError, pa.ArrowInvalid):
        return NO_KEYS
    return keys


def _inputs(listing: pa.Table, keys: pa.ChunkedArray) -> Iterator[ObjectInfo]:
    where = pc.drop_null(pc.index_in(keys, value_set=listing.column("key")))
    yield from object_infos(listing.take(where))


def duplicate_keys(archive: Store, shards: Sequence[LiveShard]) -> list[Finding]:
    """Keys live in two shards; ``shards`` by their first key. Reads the keys of those whose ranges overlap."""
    counted = pc.value_counts(_concat(keys_of(archive, _overlapping(shards))))
    twice = [item["values"] for item in counted.to_pylist() if item["counts"] > 1] if len(counted) else []
    return [Finding("checksums", "duplicate-key", LOG, key, "is live more than once") for key in twice]


def _overlapping(shards: Sequence[LiveShard]) -> list[LiveShard]:
    chosen: dict[str, LiveShard] = {}
    widest: LiveShard | None = None
    for shard in shards:
        if widest is not None and shard.min_key <= widest.max_key:
            chosen |= {widest.path: widest, shard.path: shard}
        if widest is None or shard.max_key > widest.max_key:
            widest = shard
    return list(chosen.values())


def check_codecs(archive: Store, codec_ids: Collection[str], *, load: bool) -> list[Finding]:
    """Every codec file that rows name is there and intact; with ``load``, it gives its known answer, too."""
    found = []
    for codec_id in sorted(codec_ids):
        level, kind = "checksums", "damaged-codec"
        try:
            data = read_codec(archive, codec_id)
            level, kind = "decode", "unusable-codec"
            if load:
                Codec(data, device="cpu")
        except CodecFileError as error:
            found.append(Finding(level, kind, codec_path(codec_id), None, str(error)))
    return found


def check_source(archive: Store, shards: Sequence[LiveShard], listing: Listing) -> tuple[list[Finding], int]:
    """Level ``source``: what the source has and the archive has not, erased keys aside; and how many originals are gone."""
    keys = _concat(keys_of(archive, shards))
    table, _ = without_erased(listing.table, read_erased_parts(archive)[0])
    absent = table.filter(pc.invert(pc.is_in(table.column("key"), value_set=keys))).column("key").to_pylist()
    found = [Finding("source", "not-archived", "", key, "is in SOURCE and not in the archive") for key in absent]
    found += [Finding("source", "unreadable-source", "", f.key, f.message) for f in listing.unreadable]
    gone = pc.sum(pc.invert(pc.is_in(keys, value_set=listing.table.column("key")))).as_py() or 0
    return found, int(gone)


def _concat(arrays: Iterable[pa.ChunkedArray]) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for array in arrays for chunk in array.chunks], type=pa.string())
