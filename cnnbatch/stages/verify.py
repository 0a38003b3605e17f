"""Verifies one shard: checksums → every image decoded → compared with its original. What is wrong becomes a `Finding`.

    level       kinds found at it, beside those of the levels before
    log         damaged-log  damaged-erased-list  missing-shard  wrong-size
    checksums   damaged-shard  damaged-row  wrong-rows  duplicate-key  erased-key  damaged-codec
    decode      undecodable  kills-worker  unusable-codec; where an unchanged original is at hand, wrong-psnr  wrong-ssimulacra2
    source      source-changed  unreadable-source  wrong-metadata  not-archived

Only the machine's fault ends a verification.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cnnbatch.archive.erased import ErasedKeys, read_erased_parts
from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.archive.shard_reading import read_shard
from cnnbatch.archive.snapshot import LiveShard
from cnnbatch.choices import LEVELS
from cnnbatch.codec.codec import Pixels
from cnnbatch.errors import ArchiveError, BitstreamError, CodecFileError, DamagedRow, ImageError, Undecodable, Unreadable
from cnnbatch.images import DecodedImage, decode
from cnnbatch.images.alpha import decode_alpha
from cnnbatch.metrics import LOSSLESS_DB, psnr_db
from cnnbatch.ssimulacra2 import ssimulacra2
from cnnbatch.stages.codecs import CodecShelf
from cnnbatch.stages.isolation import KILLS_WORKER, Keyed, unwatched
from cnnbatch.stages.reconstruct import reconstruct_each, restore_file
from cnnbatch.stages.records import MAX_MESSAGE, Finding, Tally, VerifyResult, VerifyTask
from cnnbatch.storage import ObjectInfo, Source, Store

Level = Literal["log", "checksums", "decode", "source"]
HASH_BYTES: Final = 8 << 20
READINGS: Final = 2
"""Readings of a whole file before it counts as damaged: a bit may have flipped on the way."""
MAX_RESULT_BYTES: Final = 64 << 10
"""Size of the findings in one shard's result, which must stay below 100 KB; what is left out is counted in one more."""

MSE_TOLERANCE: Final = 0.05
"""Squared grey levels: a tenth of a dB at 45 dB."""


class VerifySettings(BaseModel):
    """How deep to look."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Level = "checksums"
    ssimulacra2_tolerance: float = Field(0.5, ge=0)
    """Between the recorded score and the one measured again; above a score of 95, where the last roundings of pixels are most
    of what differs, twice as much."""
    psnr_tolerance_db: float = Field(0.1, ge=0)
    """Between the recorded PSNR and the one measured again, or `MSE_TOLERANCE`, whichever is more: other machines round a few
    pixels otherwise."""
    max_pixels: int = Field(1 << 28, gt=0)
    """Larger originals are not decoded: their PSNR is not compared."""
    batch_pixels: int = Field(8 << 20, gt=0)
    batch_images: int = Field(256, gt=0)
    fetch_bytes: int = Field(256 << 20, gt=0)
    fetch_concurrency: int = Field(32, gt=0)

    def reaches(self, level: Level) -> bool:
        """Whether that level is part of this one."""
        return LEVELS.index(self.level) >= LEVELS.index(level)


@dataclass(slots=True)
class _Found:
    """Findings in one shard, and counts made on the way."""

    path: str
    findings: list[Finding] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    seen: int = 0
    unchecked: int = 0
    source_bytes: int = 0
    payload_bytes: int = 0
    pixels: int = 0
    codec_ids: set[str] = field(default_factory=set)

    def add(self, level: Level, kind: str, message: object, key: str | None = None) -> None:
        self.findings.append(Finding(level, kind, self.path, key, str(message)[:MAX_MESSAGE]))
        self.keys.add(key)

    def count(self, batch: Sequence[ArchiveRow]) -> None:
        self.seen += len(batch)
        self.codec_ids.update(row.codec_id for row in batch if row.codec_id)
        self.source_bytes += sum(row.source_size for row in batch)
        self.payload_bytes += sum(len(row.payload) for row in batch)

    def of_one_row(self) -> bytes:
        findings = [(finding.level, finding.kind, finding.message) for finding in self.findings]
        return json.dumps([findings, self.unchecked, self.pixels]).encode()

    def take(self, seen: bytes, key: str) -> None:
        """Adds what another process found in one row (`of_one_row`)."""
        findings, unchecked, pixels = json.loads(seen)
        for level, kind, message in findings:
            self.add(level, kind, message, key)
        self.unchecked += unchecked
        self.pixels += pixels

    def result(self, task: VerifyTask) -> VerifyResult:
        return VerifyResult(task.number, self.tally(task.shard.num_rows), self.capped(), frozenset(self.codec_ids))

    def tally(self, num_rows: int) -> Tally:
        damaged = [finding.key for finding in self.findings if finding.kind == "damaged-row"]
        faulty = len(self.keys - {None}) + damaged.count(None)
        sound = self.seen + len(damaged) - faulty - self.unchecked
        lost = max(0, num_rows - self.seen - len(damaged))
        counts = {"sound": sound, "faulty": faulty, "unchecked": self.unchecked, "lost": lost}
        images = {name: count for name, count in counts.items() if count}
        return Tally(images, source_bytes=self.source_bytes, payload_bytes=self.payload_bytes, pixels=self.pixels)

    def capped(self) -> tuple[Finding, ...]:
        kept: list[Finding] = []
        size = 0
        for finding in self.findings:
            size += len(finding.message.encode("utf-8", "replace")) + len((finding.key or "").encode("utf-8", "replace")) + 200
            if size > MAX_RESULT_BYTES:
                message = f"{len(self.findings) - len(kept)} more findings in this shard"
                return (*kept, Finding(finding.level, "more", self.path, None, message))
            kept.append(finding)
        return tuple(kept)


class ShardVerifier:
    """Verifies one shard after the other on one worker; ``source`` has the originals, where they are to be compared."""

    def __init__(self, archive: Store, codecs: CodecShelf, settings: VerifySettings, source: Source | None = None) -> None:
        self.archive, self.codecs, self.settings, self.source = archive, codecs, settings, source
        self.watch: Callable[[Keyed], AbstractContextManager[None]] = unwatched

    def __call__(self, task: VerifyTask) -> VerifyResult:
        """Every row of ``task`` is sound, faulty, unchecked (its codec file is), or lost."""
        found = _Found(task.shard.path)
        originals = {info.key: info for info in task.inputs}
        for batch in self._batches(self._rows(task.shard, found)):
            found.count(batch)
            self._look(batch, originals, found)
        return found.result(task)

    def one_by_one(self, task: VerifyTask, look: Callable[[ArchiveRow, ObjectInfo | None], bytes | None]) -> VerifyResult:
        """The same, where `look_at` runs elsewhere: ``look`` gives what it gave, None where it killed its process."""
        found = _Found(task.shard.path)
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
        found = _Found("")
        self._look([row], {} if original is None else {row.key: original}, found)
        return found.of_one_row()

    def _look(self, batch: Sequence[ArchiveRow], originals: dict[str, ObjectInfo], found: _Found) -> None:
        if self.settings.reaches("decode"):
            decoded = self._decode(batch, found)
            found.pixels += sum(_pixels(row) for row in batch if row.key in decoded)
            self._compare([row for row in batch if row.key in decoded], decoded, originals, found)

    def _rows(self, shard: LiveShard, found: _Found) -> Iterator[ArchiveRow]:
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

    def _check_whole(self, shard: LiveShard, keys: Sequence[str], found: _Found) -> None:
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

    def _batches(self, rows: Iterable[ArchiveRow]) -> Iterator[list[ArchiveRow]]:
        batch: list[ArchiveRow] = []
        pixels = 0
        for row in rows:
            if batch and (pixels + _pixels(row) > self.settings.batch_pixels or len(batch) == self.settings.batch_images):
                yield batch
                batch, pixels = [], 0
            batch.append(row)
            pixels += _pixels(row)
        if batch:
            yield batch

    def _decode(self, batch: Sequence[ArchiveRow], found: _Found) -> dict[str, Pixels | None]:
        """Pixels by key, None for a stored row that gives its original back; without those that cannot be decoded."""
        decoded: dict[str, Pixels | None] = {}
        for row in batch:
            if row.outcome == "store":
                try:
                    with self.watch(row):
                        restore_file(row, None, format="original")
                    decoded[row.key] = None
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
                    decoded[row.key] = image
                else:
                    found.add("decode", "undecodable", fault, row.key)
        return decoded

    def _compare(
        self,
        rows: Sequence[ArchiveRow],
        decoded: dict[str, Pixels | None],
        originals: dict[str, ObjectInfo],
        found: _Found,
    ) -> None:
        """Rows against their originals, of those that have one."""
        if self.source is None:
            return
        by_key = {row.key: row for row in rows if row.key in originals}
        infos = [originals[key] for key in by_key]
        most = max((info.known_bytes for info in infos), default=0)
        fetched = self.source.get_many(
            infos, max_bytes=max(self.settings.fetch_bytes, most), concurrency=self.settings.fetch_concurrency
        )
        for info, data in fetched:
            if isinstance(data, Unreadable):
                self._add_of_source(found, "unreadable-source", data, info.key)
            else:
                self._compare_one(by_key[info.key], decoded[info.key], data, found)

    def _compare_one(self, row: ArchiveRow, pixels: Pixels | None, data: bytes, found: _Found) -> None:
        if hashlib.sha256(data).digest() != row.source_sha256:
            message = f"SOURCE has other {len(data)} bytes than the {row.source_size} that were archived"
            self._add_of_source(found, "source-changed", message, row.key)
        elif pixels is not None:
            try:
                with self.watch(row):
                    original = decode(data, max_pixels=self.settings.max_pixels)
            except Undecodable as error:
                self._add_of_source(found, "unreadable-source", f"cannot be decoded any more: {error}", row.key)
                return
            self._compare_images(row, pixels, original, found)

    def _compare_images(self, row: ArchiveRow, pixels: Pixels, original: DecodedImage, found: _Found) -> None:
        if pixels.shape != original.pixels.shape:
            found.add("decode", "wrong-psnr", f"shape {pixels.shape}, the original has {original.pixels.shape}", row.key)
            return
        measured = psnr_db(original.pixels, pixels)
        if row.psnr_db is not None and not _same_psnr(measured, row.psnr_db, self.settings.psnr_tolerance_db):
            found.add("decode", "wrong-psnr", f"PSNR is {measured:.2f} dB, recorded {row.psnr_db:.2f} dB", row.key)
        elif row.ssimulacra2 is not None:
            self._compare_scores(row.ssimulacra2, ssimulacra2(original.pixels, pixels), row.key, found)
        names = [name for name in ("exif", "icc", "xmp", "segments") if getattr(row, name) != getattr(original, name)]
        if names or not _same_alpha(row.alpha, original.alpha, (pixels.shape[0], pixels.shape[1])):
            self._add_of_source(found, "wrong-metadata", f"{', '.join(names) or 'alpha'} is not the original's", row.key)

    def _compare_scores(self, recorded: float, measured: float, key: str, found: _Found) -> None:
        tolerance = self.settings.ssimulacra2_tolerance * (2 if recorded > 95 else 1)
        if abs(measured - recorded) > tolerance:
            found.add("decode", "wrong-ssimulacra2", f"SSIMULACRA2 is {measured:.1f}, recorded {recorded:.1f}", key)

    def _add_of_source(self, found: _Found, kind: str, message: object, key: str) -> None:
        if self.settings.reaches("source"):
            found.add("source", kind, message, key)


def _same_psnr(a: float, b: float, tolerance_db: float) -> bool:
    """In dB or, where hardly an error is left and a few pixels that round otherwise are many dB, in squared levels."""
    return abs(a - b) <= tolerance_db or abs(_mse(a) - _mse(b)) <= MSE_TOLERANCE


def _mse(psnr: float) -> float:
    return float(255**2 / 10 ** (min(max(psnr, 0.0), LOSSLESS_DB) / 10))  # a damaged row may hold any number


def _fault_of(row: ArchiveRow, image: Pixels) -> str | None:
    if image.shape[:2] != (row.height, row.width):
        return f"{row.width} × {row.height} in the row, {image.shape[1]} × {image.shape[0]} in the bitstream"
    try:
        if row.alpha is not None:
            decode_alpha(row.alpha, (image.shape[0], image.shape[1]))
    except ImageError as error:
        return str(error)
    return None


def _same_alpha(one: bytes | None, other: bytes | None, shape: tuple[int, int]) -> bool:
    if one is None or other is None or one == other:
        return one == other
    return bool(np.array_equal(decode_alpha(one, shape), decode_alpha(other, shape)))


def _pixels(row: ArchiveRow) -> int:
    return (row.width or 0) * (row.height or 0) if row.outcome == "cnn" else 0
