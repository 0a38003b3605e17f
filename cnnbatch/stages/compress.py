"""Compresses one shard: fetch → decode in threads → code and check by decoding again → Parquet shard.

The image's fault ends here, as an outcome row or a `Failure`; the machine's fault (a bug, the store, the GPU) is not
caught: the engine runs the shard again.
"""

import hashlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.archive.shards import write_shard
from cnnbatch.choices import CONVERTED, CONVERTED_TO
from cnnbatch.codec import Codec
from cnnbatch.images import DecodedImage
from cnnbatch.images.converting import is_reduced
from cnnbatch.images.lossless import can_be_below
from cnnbatch.stages.batches import in_batches
from cnnbatch.stages.inputs import UNKNOWN, Input, InputReader, Stored, as_stored
from cnnbatch.stages.isolation import Keyed, unwatched
from cnnbatch.stages.quality import SSIMULACRA2_TOLERANCE, Coded, code
from cnnbatch.stages.records import CompressResult, CompressTask, Failure, Kind, Sizes, Tally
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import ObjectInfo, Source, Store
from cnnbatch.version import VERSION

PSNR_STEPS = 128
"""Steps of a dB to which the column psnr_db is rounded: what is finer is noise of the machine, and two bytes a row."""

SSIMULACRA2_STEPS = 64
"""Steps of a point to which the column ssimulacra2 is rounded."""


class ShardCompressor:
    """Makes shards on one worker; holds the codec.

    May be called from two threads: one shard is then read and decoded while the other is coded, under the lock
    ``coding``, as the device can do one thing at a time.
    """

    def __init__(self, source: Source, archive: Store, codec: Codec, settings: CompressionSettings, *, run_id: str) -> None:
        self.source, self.archive, self.codec, self.settings, self.run_id = source, archive, codec, settings, run_id
        self.policy = settings.policy(codec.objective)
        self.coding = threading.Lock()
        self.watch: Callable[[Keyed], AbstractContextManager[None]] = unwatched
        self.footer = {
            "cnnbatch.version": VERSION,
            "cnnbatch.codec_id": codec.id,
            "cnnbatch.run_id": run_id,
            "cnnbatch.settings": settings.model_dump_json(),
        }

    def __call__(self, task: CompressTask) -> CompressResult:
        """Every input of ``task`` ends as a row of the shard or as a failure."""
        failures: list[Failure] = []
        rows: list[ArchiveRow] = []
        seconds: dict[str, float] = defaultdict(float)
        pixels = 0
        started = time.monotonic()
        inputs = self._reader().read(task.inputs, failures)
        for batch in in_batches(inputs, pixels=lambda one: one.pixels, max_pixels=self.settings.batch_pixels):
            seconds["read"] += time.monotonic() - started
            started = time.monotonic()
            pixels += sum(one.pixels for one in batch)
            with self.coding:
                rows += self._rows(batch)
            seconds["code"] += time.monotonic() - started
            started = time.monotonic()
        return self._finish(task, rows, failures, pixels, seconds)

    def one_by_one(self, task: CompressTask, row: Callable[[ObjectInfo, bytes], ArchiveRow]) -> CompressResult:
        """The same shard with each row made by ``row``, one input in memory at a time."""
        failures: list[Failure] = []
        rows: list[ArchiveRow] = []
        for info, data in self._reader().fetch_one_by_one(task.inputs, failures):
            rows.append(row(info, data))
        pixels = sum(row.coded_pixels for row in rows)
        return self._finish(task, rows, failures, pixels, defaultdict(float))

    def _reader(self) -> InputReader:
        return InputReader(self.source, self.codec, self.settings, self.watch)

    def _finish(
        self,
        task: CompressTask,
        rows: list[ArchiveRow],
        failures: list[Failure],
        pixels: int,
        seconds: dict[str, float],
    ) -> CompressResult:
        started = time.monotonic()
        shard = write_shard(self.archive, rows, footer=self.footer) if rows else None
        seconds["write"] += time.monotonic() - started
        return CompressResult(task.number, shard, self._tally(rows, failures, pixels, seconds), tuple(failures))

    def stored_row(self, info: ObjectInfo, data: bytes, reason: str) -> ArchiveRow:
        """A row that keeps the file verbatim; looks at nothing inside it."""
        columns = self._columns_of(Input(info, data, UNKNOWN), data, at=datetime.now(UTC))
        return ArchiveRow(**columns, outcome="store", reason=reason, payload_coding="verbatim")

    def row(self, info: ObjectInfo, data: bytes) -> ArchiveRow:
        """The row of one file alone, by the rules that hold in a shard; touches neither store."""
        [row] = self.rows([(info, data)])
        return row

    def rows(self, files: Sequence[tuple[ObjectInfo, bytes]]) -> list[ArchiveRow]:
        """The rows of some files, coded in one call, by the same rules."""
        reader = self._reader()
        return self._rows([reader.decode(info, data) for info, data in files])

    def _tally(self, rows: list[ArchiveRow], failures: list[Failure], pixels: int, seconds: dict[str, float]) -> Tally:
        images = Counter(row.outcome for row in rows)
        reasons = Counter(row.reason for row in rows if row.reason)
        if failures:
            images["failed"] = len(failures)
            reasons.update(f.error for f in failures)
        return replace(
            kinds_of(rows),
            images=dict(images),
            reasons=dict(reasons),
            source_bytes=sum(row.source_size for row in rows),
            payload_bytes=sum(len(row.payload) for row in rows),
            pixels=pixels,
            seconds=dict(seconds),
        )

    def _rows(self, batch: Sequence[Input]) -> list[ArchiveRow]:
        images = [source.image.pixels for source in batch if source.image is not None]
        coded = iter(code(self.codec, images, self.policy) if images else ())
        at = datetime.now(UTC)  # one moment for all: of tiny pictures its digits would count
        return [self._row(source, None if source.image is None else next(coded), at) for source in batch]

    def _row(self, source: Input, coded: Coded | None, at: datetime) -> ArchiveRow:
        image, stored = source.image, source.stored
        if image is not None and coded is not None:
            stored = self._instead(source, image, coded)
            if stored is None:
                return self._cnn_row(source, image, coded, at)
        assert stored is not None  # a source has pixels or is stored
        return ArchiveRow(
            **self._columns_of(source, stored.payload, at=at),
            outcome="store",
            reason=stored.reason,
            payload_coding=stored.coding,
        )

    def _instead(self, source: Input, image: DecodedImage, coded: Coded) -> Stored | None:
        """The original, where the coded image is not good enough or takes no fewer bytes than the original without loss."""
        if (reason := self._missed(coded)) is not None:
            return self._kept(source, reason)
        num_bytes = len(coded.bitstream) + image.side_bytes
        if num_bytes >= len(source.data):
            return self._kept(source, "not-smaller")
        if not can_be_below(num_bytes, source.data, image.format):
            return None
        stored = self._kept(source, "lossless-smaller")
        return stored if len(stored.payload) <= num_bytes else None

    def _kept(self, source: Input, reason: str) -> Stored:
        with self.watch(source.info):
            return as_stored(source.data, reason)

    def _missed(self, coded: Coded) -> str | None:
        """Which demand on the picture the highest quality does not meet."""
        wanted, score = self.policy, coded.ssimulacra2
        if wanted.min_psnr_db is not None and coded.psnr_db < wanted.min_psnr_db:
            return "below-min-psnr"
        if score is not None and wanted.min_ssimulacra2 is not None and score < wanted.min_ssimulacra2:
            return "below-min-ssimulacra2"
        target = wanted.target_ssimulacra2
        if score is not None and target is not None and score < target - SSIMULACRA2_TOLERANCE:
            return "below-target"
        return None

    def _cnn_row(self, source: Input, image: DecodedImage, coded: Coded, at: datetime) -> ArchiveRow:
        return ArchiveRow(
            **self._columns_of(source, coded.bitstream, at=at),
            mode=image.mode,
            exif=image.exif,
            icc=image.icc,
            xmp=image.xmp,
            segments=image.segments,
            alpha=image.alpha,
            outcome="cnn",
            payload_coding="cnn",
            codec_id=self.codec.id,
            quality=coded.quality,
            psnr_db=round(coded.psnr_db * PSNR_STEPS) / PSNR_STEPS,
            ssimulacra2=None if coded.ssimulacra2 is None else round(coded.ssimulacra2 * SSIMULACRA2_STEPS) / SSIMULACRA2_STEPS,
        )

    def _columns_of(self, source: Input, payload: bytes, *, at: datetime) -> dict[str, Any]:
        """The columns that rows of both outcomes have."""
        format_, width, height = source.header
        return {
            "key": source.info.key,
            "source_etag": source.info.etag,
            "source_mtime": source.info.mtime,
            "source_size": len(source.data),
            "source_sha256": hashlib.sha256(source.data).digest(),
            "source_format": format_,
            "width": width,
            "height": height,
            "ingested_at": at,
            "run_id": self.run_id,
            "payload_sha256": hashlib.sha256(payload).digest(),
            "payload": payload,
            **(source.info.beside or {}),
        }


def kinds_of(rows: Iterable[ArchiveRow]) -> Tally:
    """A tally of nothing but what of the rows is kept or converted."""
    kept: dict[Kind, Sizes] = defaultdict(Sizes)
    converted: dict[Kind, Sizes] = defaultdict(Sizes)
    for row in rows:
        sizes = Sizes(1, row.source_size, len(row.payload))
        if row.outcome == "store":
            kept[row.source_format, row.reason or ""] += sizes
        elif row.source_format in CONVERTED:
            converted[row.source_format, f"back as {CONVERTED_TO}"] += sizes
        elif is_reduced(row.mode or ""):
            converted[row.source_format, "back with 8 bits a sample"] += sizes
    return Tally(kept=dict(kept), converted=dict(converted))
