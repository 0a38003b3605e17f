"""Verifies one shard: checksums → every image decoded → compared with its original. What is wrong becomes a `Finding`.

    level       kinds found at it, beside those of the levels before
    log         damaged-log  damaged-erased-list  missing-shard  wrong-size
    checksums   damaged-shard  damaged-row  wrong-rows  duplicate-key  erased-key  damaged-codec
    decode      undecodable  kills-worker  unusable-codec; where an unchanged original is at hand, wrong-psnr  wrong-ssimulacra2
    source      source-changed  unreadable-source  wrong-metadata  not-archived

Only the machine's fault ends a verification.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import pairwise
from typing import Final

from cnnbatch.archive.erased import ErasedKeys, read_erased_parts
from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.archive.shard_reading import read_shard
from cnnbatch.archive.snapshot import LiveShard
from cnnbatch.codec.codec import Pixels
from cnnbatch.errors import ArchiveError, BitstreamError, CodecFileError, DamagedRow, ImageError
from cnnbatch.images.alpha import decode_alpha
from cnnbatch.stages.batches import in_batches
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.comparison import Comparison, Decoded
from cnnbatch.stages.findings import ShardFindings
from cnnbatch.stages.isolation import KILLS_WORKER, Keyed, unwatched
from cnnbatch.stages.records import VerifyResult, VerifyTask
from cnnbatch.stages.restoring import reconstruct_each, restore_file
from cnnbatch.stages.settings import VerifySettings
from cnnbatch.storage import ObjectInfo, Source, Store

HASH_BYTES: Final = 8 << 20
READINGS: Final = 2
"""Readings of a whole file before it counts as damaged: a bit may have flipped on the way."""


class ShardVerifier:
    """Verifies one shard after the other on one worker; ``source`` has the originals, where they are to be compared."""

    def __init__(self, archive: Store, codecs: CodecShelf, settings: VerifySettings, source: Source | None = None) -> None:
        self.archive, self.codecs, self.settings, self.source = archive, codecs, settings, source
        self.watch: Callable[[Keyed], AbstractContextManager[None]] = unwatched

    def __call__(self, task: VerifyTask) -> VerifyResult:
        """Every row of ``task`` is sound, faulty, unchecked (its codec file is), or lost."""
        found = ShardFindings(task.shard.path)
        originals = {info.key: info for info in task.inputs}
        rows, s = self._rows(task.shard, found), self.settings
        for batch in in_batches(rows, pixels=lambda row: row.coded_pixels, max_pixels=s.batch_pixels, max_items=s.batch_images):
            found.count(batch)
            self._look(batch, originals, found)
        return found.result(task)

    def one_by_one(self, task: VerifyTask, look: Callable[[ArchiveRow, ObjectInfo | None], bytes | None]) -> VerifyResult:
        """The same, where `look_at` runs elsewhere: ``look`` gives what it gave, None where it killed its process."""
        found = ShardFindings(task.shard.path)
        originals = {info.key: info for info in task.inputs}
        for row in self._rows(task.shard, found):
            found.count([row])
            if not self.settings.reaches("decode"):
                continue
            seen = look(row, originals.get(row.key))
            if seen is None:
                found.add("decode", "kills-worker", KILLS_WORKER, row.key)
            else:
                found.take(seen, row.key)
        return found.result(task)

    def look_at(self, row: ArchiveRow, original: ObjectInfo | None) -> bytes:
        """Findings in one row alone, for `one_by_one`."""
        found = ShardFindings("")
        self._look([row], {} if original is None else {row.key: original}, found)
        return found.of_one_row()

    def _look(self, batch: Sequence[ArchiveRow], originals: dict[str, ObjectInfo], found: ShardFindings) -> None:
        if self.settings.reaches("decode"):
            decoded = self._decode(batch, found)
            found.pixels += sum(row.coded_pixels for row, _ in decoded)
            if self.source is not None:
                Comparison(self.source, self.settings, self.watch).compare(decoded, originals, found)

    def _rows(self, shard: LiveShard, found: ShardFindings) -> Iterator[ArchiveRow]:
        """The intact rows. The digest in the file's name adds what no other checksum covers: footer and index."""
        keys: list[str] = []
        try:
            for row in read_shard(self.archive, shard.path, num_bytes=shard.num_bytes):
                if isinstance(row, DamagedRow):
                    found.add("checksums", "damaged-row", row, row.key)
                else:
                    keys.append(row.key)
                    yield row
        except ArchiveError as error:
            found.add("checksums", "damaged-shard", error)
        self._check_whole(shard, keys, found)
        for key in self._erased.among(keys):
            found.add("checksums", "erased-key", "is on the erased list, and live", key)

    @cached_property
    def _erased(self) -> ErasedKeys:
        """The readable part of the list; the driver tells of what cannot."""
        return read_erased_parts(self.archive)[0]

    def _check_whole(self, shard: LiveShard, keys: Sequence[str], found: ShardFindings) -> None:
        if any(finding.level == "checksums" for finding in found.findings):
            return  # counts and digest would only say the same again
        if len(keys) != shard.num_rows or not keys or (keys[0], keys[-1]) != (shard.min_key, shard.max_key):
            message = f"{len(keys)} rows, the log says {shard.num_rows} from {shard.min_key!r} to {shard.max_key!r}"
            found.add("checksums", "wrong-rows", message)
        elif any(one >= other for one, other in pairwise(keys)):
            found.add("checksums", "wrong-rows", "the rows are not in the order of their keys")
        elif all((digest := self._digest(shard)) not in shard.path for _ in range(READINGS)):
            found.add("checksums", "damaged-shard", f"the sha256 of the file begins with {digest}, other than its name")

    def _digest(self, shard: LiveShard) -> str:
        sha256 = hashlib.sha256()
        for start in range(0, shard.num_bytes, HASH_BYTES):
            sha256.update(self.archive.read_range(shard.path, start, min(HASH_BYTES, shard.num_bytes - start)))
        return sha256.hexdigest()[:32]

    def _decode(self, batch: Sequence[ArchiveRow], found: ShardFindings) -> list[Decoded]:
        """Rows with their pixels, without those that cannot be decoded."""
        decoded: list[Decoded] = []
        for row in batch:
            if row.outcome == "store":
                try:
                    with self.watch(row):
                        restore_file(row, None, format="original")
                    decoded.append((row, None))
                except ImageError as error:
                    found.add("decode", "undecodable", error, row.key)
        for codec_id in sorted({row.codec_id for row in batch if row.codec_id}):
            rows = [row for row in batch if row.codec_id == codec_id]
            try:
                codec = self.codecs[codec_id]
            except CodecFileError:  # the driver says so, once for all shards
                found.unchecked += len(rows)
                continue
            with self.watch(rows[0]):
                images = reconstruct_each(codec, rows)
            for row, image in zip(rows, images, strict=True):
                fault = image if isinstance(image, BitstreamError) else _fault_of(row, image)
                if fault is None and not isinstance(image, BitstreamError):
                    decoded.append((row, image))
                else:
                    found.add("decode", "undecodable", fault, row.key)
        return decoded


def _fault_of(row: ArchiveRow, image: Pixels) -> str | None:
    if image.shape[:2] != (row.height, row.width):
        return f"{row.width} × {row.height} in the row, {image.shape[1]} × {image.shape[0]} in the bitstream"
    try:
        if row.alpha is not None:
            decode_alpha(row.alpha, (image.shape[0], image.shape[1]))
    except ImageError as error:
        return str(error)
    return None
