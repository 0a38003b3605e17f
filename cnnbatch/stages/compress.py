"""Compresses one shard: fetch → decode in threads → code and check by decoding again → Parquet shard.

The image's fault ends here, as an outcome row or a `Failure`; the machine's fault (a bug, the store, the GPU) is not
caught: the engine runs the shard again.
"""

import hashlib
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.archive.shards import write_shard
from cnnbatch.codec import DEFAULT_QUALITY, MAX_QUALITY, Codec
from cnnbatch.codec.container.bitstream import QUALITY_STEPS
from cnnbatch.containers.names import is_picture
from cnnbatch.errors import Undecodable, Unreadable
from cnnbatch.images import DecodedImage, decode, png, probe
from cnnbatch.images.foreign import recognise
from cnnbatch.images.headers import begins_like_a_picture
from cnnbatch.images.lossless import can_be_below, keep
from cnnbatch.stages.isolation import Keyed, unwatched
from cnnbatch.stages.quality import SSIMULACRA2_TOLERANCE, Coded, QualityPolicy, code
from cnnbatch.stages.records import CompressResult, CompressTask, Failure, Sizes, Tally
from cnnbatch.storage import ObjectInfo, Source, Store
from cnnbatch.storage.interface import MAX_READ_BYTES
from cnnbatch.version import VERSION

NO_IMAGE = "not an image"
"""The reason of files that neither their name nor their first bytes tell to be pictures."""

MAX_SIDE = 2**31 - 1
"""The most that the columns width and height hold; only the header of a bomb claims more."""


MAX_EFFORT = 100
"""More than anybody has patience for: after a dozen passes nothing is gained."""

PSNR_STEPS = 128
"""Steps of a dB to which the column psnr_db is rounded: what is finer is noise of the machine, and two bytes a row."""

SSIMULACRA2_STEPS = 64
"""Steps of a point to which the column ssimulacra2 is rounded."""

TINY_BYTES = 4096
TINY_TOGETHER = 64
"""Files of at most `TINY_BYTES` that one thread decodes one after the other, up to `TINY_PIXELS`."""

TINY_PIXELS = 1 << 18


OPTIONS = (
    "quality", "target_psnr", "target_bpp", "target_ssimulacra2", "lossless", "min_psnr", "min_ssimulacra2", "measure", "effort"
)  # fmt: skip
"""The settings that are options of the commands, too."""


class CompressionSettings(BaseModel):
    """How images are coded; the same for every shard of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quality: float = Field(DEFAULT_QUALITY, ge=0, le=MAX_QUALITY)
    target_psnr: float | None = Field(None, gt=0, lt=100)
    """dB over RGB, for each image."""
    target_bpp: float | None = Field(None, gt=0, le=24)
    """Bits per pixel, for each image."""
    target_ssimulacra2: float | None = Field(None, gt=0, lt=100)
    """Score of each image; one that no quality brings there is stored."""
    lossless: bool = False
    """Store every input so that it comes back byte for byte; JPEGs as JPEG XL transcodes."""
    min_psnr: float | None = Field(None, gt=0, lt=100)
    """Floor in dB: quality is raised until an image meets it; one that cannot is stored."""
    min_ssimulacra2: float | None = Field(None, gt=0, lt=100)
    """The same for the score."""
    measure: Literal["ssimulacra2"] | None = None
    """Recorded beside the PSNR also where neither a target nor a floor needs it."""
    effort: int = Field(0, ge=0, le=MAX_EFFORT)
    """Passes of refinement over the latents of each image: fewer bytes for more time."""
    max_pixels: int = Field(200_000_000, gt=0)
    """Larger images are stored, never decoded."""
    max_source_bytes: int = Field(1 << 30, gt=0, lt=2**31 - 2**20)
    """Larger objects fail: a row could not hold them."""
    fetch_bytes: int = Field(256 << 20, gt=0)
    """Bytes in flight between the store and the decoder."""
    fetch_concurrency: int = Field(32, gt=0)
    decode_threads: int = Field(4, gt=0)
    decode_pixels: int = Field(64 << 20, gt=0)
    """Pixels, by their headers, of the pictures that are decoded ahead of the codec; a larger one is decoded alone."""
    batch_pixels: int = Field(8 << 20, gt=0)
    """Pixels coded in one call, and decoded ahead of it."""

    @field_validator("quality")
    @classmethod
    def _in_steps(cls, quality: float) -> float:
        """As the codec rounds it, so that the row says what was coded and ``--recompress`` finds it unchanged."""
        return round(quality * QUALITY_STEPS) / QUALITY_STEPS

    @model_validator(mode="after")
    def _one_goal(self) -> "CompressionSettings":
        targets = (self.target_psnr, self.target_bpp, self.target_ssimulacra2)
        if sum(target is not None for target in targets) + self.lossless > 1:
            raise ValueError("target_psnr, target_bpp, target_ssimulacra2 and lossless exclude each other")
        return self

    def policy(self) -> QualityPolicy:
        """For `cnnbatch.stages.quality.code`."""
        return QualityPolicy(
            self.quality,
            target_psnr_db=self.target_psnr,
            target_bpp=self.target_bpp,
            target_ssimulacra2=self.target_ssimulacra2,
            min_psnr_db=self.min_psnr,
            min_ssimulacra2=self.min_ssimulacra2,
            measures_ssimulacra2=self.measure == "ssimulacra2",
            effort=self.effort,
        )


@dataclass(frozen=True, slots=True)
class _Source:
    """One input that was read: what its header says, and its pixels, or the payload it is stored as and why."""

    info: ObjectInfo
    data: bytes
    header: "_Header"
    image: DecodedImage | None = None
    stored: "_Stored | None" = None

    @property
    def pixels(self) -> int:
        return 0 if self.image is None else self.image.pixels.shape[0] * self.image.pixels.shape[1]


@dataclass(frozen=True, slots=True)
class _Stored:
    """How an original is kept."""

    reason: str
    payload: bytes
    coding: str


class ShardCompressor:
    """Makes shards on one worker; holds the codec.

    May be called from two threads: one shard is then read and decoded while the other is coded, under the lock
    ``coding``, as the device can do one thing at a time.
    """

    def __init__(self, source: Source, archive: Store, codec: Codec, settings: CompressionSettings, *, run_id: str) -> None:
        self.source, self.archive, self.codec, self.settings, self.run_id = source, archive, codec, settings, run_id
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
        for batch in self._batches(self._sources(task.inputs, failures)):
            seconds["read"] += time.monotonic() - started
            started = time.monotonic()
            pixels += sum(source.pixels for source in batch)
            with self.coding:
                rows += self._rows(batch)
            seconds["code"] += time.monotonic() - started
            started = time.monotonic()
        return self._finish(task, rows, failures, pixels, seconds)

    def one_by_one(self, task: CompressTask, row: Callable[[ObjectInfo, bytes], ArchiveRow]) -> CompressResult:
        """The same shard with each row made by ``row``, one input in memory at a time."""
        failures: list[Failure] = []
        rows: list[ArchiveRow] = []
        for info in task.inputs:
            if not self._is_bearable(info, info.known_bytes, failures):
                continue
            try:
                read, data = read_input(self.source, info)
                if self._is_bearable(read, len(data), failures):
                    rows.append(row(read, data))
            except Unreadable as error:
                failures.append(Failure.of(info.key, "read", error))
        pixels = sum((r.width or 0) * (r.height or 0) for r in rows if r.outcome == "cnn")
        return self._finish(task, rows, failures, pixels, defaultdict(float))

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
        columns = self._columns_of(_Source(info, data, UNKNOWN), data, at=datetime.now(UTC))
        return ArchiveRow(**columns, outcome="store", reason=reason, payload_coding="verbatim")

    def row(self, info: ObjectInfo, data: bytes) -> ArchiveRow:
        """The row of one file alone, by the rules that hold in a shard; touches neither store."""
        [row] = self.rows([(info, data)])
        return row

    def rows(self, files: Sequence[tuple[ObjectInfo, bytes]]) -> list[ArchiveRow]:
        """The rows of some files, coded in one call, by the same rules."""
        return self._rows([self._decode(info, data) for info, data in files])

    def _tally(self, rows: list[ArchiveRow], failures: list[Failure], pixels: int, seconds: dict[str, float]) -> Tally:
        images = Counter(row.outcome for row in rows)
        reasons = Counter(row.reason for row in rows if row.reason)
        if failures:
            images["failed"] = len(failures)
            reasons.update(f.error for f in failures)
        return Tally(
            images=dict(images),
            reasons=dict(reasons),
            source_bytes=sum(row.source_size for row in rows),
            payload_bytes=sum(len(row.payload) for row in rows),
            pixels=pixels,
            seconds=dict(seconds),
            kept=_kept(rows),
        )

    def _sources(self, inputs: Sequence[ObjectInfo], failures: list[Failure]) -> Iterator[_Source]:
        """Inputs as they arrive, decoded in threads ahead of the codec; bounded by pixels and by threads."""
        s = self.settings
        ahead: deque[Future[_Decoded]] = deque()
        claims: deque[int] = deque()  # of what is ahead, by the headers: what a decode takes is known before it begins
        with ThreadPoolExecutor(s.decode_threads, thread_name_prefix="decode") as pool:
            for together in _tiny_together(self._fetched(inputs, failures)):
                claim = sum(self._claimed_pixels(info, data) for info, data in together)
                while ahead and sum(claims) + claim > s.decode_pixels:
                    claims.popleft()
                    yield from self._decoded(ahead.popleft())
                claims.append(claim)
                ahead.append(pool.submit(self._decode_together, together))
                while len(ahead) > s.decode_threads or _pixels_ready(ahead) > s.batch_pixels:
                    claims.popleft()
                    yield from self._decoded(ahead.popleft())
            while ahead:
                yield from self._decoded(ahead.popleft())

    def _fetched(self, inputs: Sequence[ObjectInfo], failures: list[Failure]) -> Iterator[tuple[ObjectInfo, bytes]]:
        s = self.settings
        fetched = self.source.get_many(
            (info for info in inputs if self._is_bearable(info, info.known_bytes, failures)),
            max_bytes=max(s.fetch_bytes, min(s.max_source_bytes, max((info.known_bytes for info in inputs), default=0))),
            concurrency=s.fetch_concurrency,
        )
        for info, body in fetched:
            if isinstance(body, Unreadable):
                failures.append(Failure.of(info.key, "read", body))
            elif self._is_bearable(info, len(body), failures):  # else its size was not known before
                yield info, body

    def _is_bearable(self, info: ObjectInfo, num_bytes: int, failures: list[Failure]) -> bool:
        if num_bytes > self.settings.max_source_bytes:
            error = Unreadable("too-large", f"{num_bytes} bytes, the limit is {self.settings.max_source_bytes}")
            failures.append(Failure.of(info.key, "read", error))
            return False
        return True

    def _decode_together(self, files: Sequence[tuple[ObjectInfo, bytes]]) -> "_Decoded":
        """Files of few bytes may have many pixels: from there on they are left for later."""
        sources: list[_Source] = []
        pixels = 0
        for info, data in files:
            if pixels > TINY_PIXELS:
                break
            sources.append(self._decode_watched(info, data))
            pixels += sources[-1].pixels
        return sources, files[len(sources) :]

    def _decoded(self, future: "Future[_Decoded]") -> Iterator[_Source]:
        sources, left = future.result()
        yield from sources
        for info, data in left:
            yield self._decode_watched(info, data)

    def _claimed_pixels(self, info: ObjectInfo, data: bytes) -> int:
        """Pixels that decoding will allocate; nothing for tiny PNGs, which hold few."""
        if len(data) <= TINY_BYTES and data.startswith(png.SIGNATURE):
            return 0
        try:
            with self.watch(info):
                header = probe(data)
        except Undecodable:
            return 0
        claim = header.width * header.height
        return claim if claim <= self.settings.max_pixels else 0

    def _decode_watched(self, info: ObjectInfo, data: bytes) -> _Source:
        with self.watch(info):
            return self._decode(info, data)

    def _decode(self, info: ObjectInfo, data: bytes) -> _Source:
        reason = "lossless"
        if not is_picture(info.key) and not begins_like_a_picture(data):
            foreign = recognise(data)
            reason = NO_IMAGE if foreign is None else foreign.name
        elif not self.settings.lossless:
            try:
                image = decode(data, max_pixels=self.settings.max_pixels)
            except Undecodable as error:
                reason = error.reason
            else:
                refusal = self.codec.refusal(image.pixels)
                if refusal is None:
                    return _Source(info, data, (image.format, image.pixels.shape[1], image.pixels.shape[0]), image=image)
                reason = refusal
        return _Source(info, data, _header_of(data), stored=_store(data, reason))

    def _batches(self, sources: Iterable[_Source]) -> Iterator[list[_Source]]:
        batch: list[_Source] = []
        pixels = 0
        for source in sources:
            if batch and pixels + source.pixels > self.settings.batch_pixels:
                yield batch
                batch, pixels = [], 0
            batch.append(source)
            pixels += source.pixels
        if batch:
            yield batch

    def _rows(self, batch: Sequence[_Source]) -> list[ArchiveRow]:
        images = [source.image.pixels for source in batch if source.image is not None]
        coded = iter(code(self.codec, images, self.settings.policy()) if images else ())
        at = datetime.now(UTC)  # one moment for all: of tiny pictures its digits would count
        return [self._row(source, None if source.image is None else next(coded), at) for source in batch]

    def _row(self, source: _Source, coded: Coded | None, at: datetime) -> ArchiveRow:
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

    def _instead(self, source: _Source, image: DecodedImage, coded: Coded) -> _Stored | None:
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

    def _kept(self, source: _Source, reason: str) -> _Stored:
        with self.watch(source.info):
            return _store(source.data, reason)

    def _missed(self, coded: Coded) -> str | None:
        """Which demand on the picture the highest quality does not meet."""
        s, score = self.settings, coded.ssimulacra2
        if s.min_psnr is not None and coded.psnr_db < s.min_psnr:
            return "below-min-psnr"
        if score is not None and s.min_ssimulacra2 is not None and score < s.min_ssimulacra2:
            return "below-min-ssimulacra2"
        if score is not None and s.target_ssimulacra2 is not None and score < s.target_ssimulacra2 - SSIMULACRA2_TOLERANCE:
            return "below-target"
        return None

    def _cnn_row(self, source: _Source, image: DecodedImage, coded: Coded, at: datetime) -> ArchiveRow:
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

    def _columns_of(self, source: _Source, payload: bytes, *, at: datetime) -> dict[str, Any]:
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


def read_input(source: Source, info: ObjectInfo) -> tuple[ObjectInfo, bytes]:
    """One input and what lies beside it. Raises Unreadable."""
    [(read, data)] = source.get_many([info], max_bytes=MAX_READ_BYTES, concurrency=1)
    if isinstance(data, Unreadable):
        raise data
    return read, data


def _tiny_together(fetched: Iterable[tuple[ObjectInfo, bytes]]) -> Iterator[list[tuple[ObjectInfo, bytes]]]:
    """Inputs that were read, tiny files by the dozen: handing one to a thread takes longer than decoding it."""
    tiny: list[tuple[ObjectInfo, bytes]] = []
    for info, body in fetched:
        if len(body) > TINY_BYTES:
            yield [(info, body)]
        else:
            tiny.append((info, body))
            if len(tiny) == TINY_TOGETHER:
                yield tiny
                tiny = []
    if tiny:
        yield tiny


_Decoded = tuple[list[_Source], Sequence[tuple[ObjectInfo, bytes]]]
"""Files that were decoded together, and those that are left."""


def _pixels_ready(ahead: Iterable[Future[_Decoded]]) -> int:
    return sum(source.pixels for future in ahead if future.done() for source in future.result()[0])


def _kept(rows: Iterable[ArchiveRow]) -> dict[tuple[str, str], Sizes]:
    """Stored inputs by format and reason."""
    found: dict[tuple[str, str], Sizes] = defaultdict(Sizes)
    for row in rows:
        if row.outcome == "store":
            found[row.source_format, row.reason or ""] += Sizes(1, row.source_size, len(row.payload))
    return dict(found)


def _store(data: bytes, reason: str) -> _Stored:
    kept = keep(data)
    return _Stored(reason, kept.payload, kept.coding)


_Header = tuple[str, int | None, int | None]
"""Format, width, height."""

UNKNOWN: _Header = ("unknown", None, None)


def _header_of(data: bytes) -> _Header:
    """The file's header; `UNKNOWN` where no reader knows it."""
    try:
        header = probe(data)
    except Undecodable:
        foreign = recognise(data)
        if foreign is None:
            return UNKNOWN
        fits = max(foreign.width or 0, foreign.height or 0) <= MAX_SIDE
        return (foreign.name, foreign.width, foreign.height) if fits else (foreign.name, None, None)
    if max(header.width, header.height) > MAX_SIDE:
        return header.format, None, None
    return header.format, header.width, header.height
