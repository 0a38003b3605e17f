"""Measures one picture with any number of codecs: read → decode the file → code, decode, compare at every quality.

What a codec or a file gets wrong becomes a row with its stage and error; the machine's fault is not caught.
"""

import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from cnnbatch.errors import Undecodable, Unreadable
from cnnbatch.evaluation.codecs import CodecSpec, ImageCodec, Pixels
from cnnbatch.evaluation.distortion import distortion
from cnnbatch.evaluation.machine import hardware
from cnnbatch.evaluation.scales import USUAL, measures_of
from cnnbatch.evaluation.summary import Measure
from cnnbatch.images import decode
from cnnbatch.images.lossless import keep
from cnnbatch.storage import ObjectInfo, Source
from cnnbatch.storage.interface import FAULTS

MAX_MESSAGE: Final = 300
"""Characters kept of an error message."""

WARM_UP_SIDE: Final = 64

TIMING: Final = (
    "megapixels of all pictures over the seconds of CPU time that their encode or decode calls took, all threads of the "
    "process together and one call at a time, so that other work on the machine hardly counts; on a GPU: seconds on the wall"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Larger files are not read, larger pictures not decoded."""

    source_bytes: int
    pixels: int


@dataclass(frozen=True, slots=True)
class MeasureTask:
    """One picture, and the codecs with the qualities to measure it at; ``baseline``: also what its file weighs without loss."""

    info: ObjectInfo
    plan: tuple[tuple[str, tuple[float, ...]], ...]
    baseline: bool = True
    measures: tuple[Measure, ...] = measures_of(USUAL)


@dataclass(frozen=True, slots=True)
class Row:
    """One picture, codec and quality. ``error`` is set where it could not be measured, and ``stage`` says where."""

    codec: str | None
    quality: float | None = None
    num_bytes: int | None = None
    psnr_db: float | None = None
    ms_ssim: float | None = None
    no_ms_ssim: str | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    stage: str | None = None
    error: str | None = None
    ssimulacra2: float | None = None
    butteraugli: float | None = None
    butteraugli_max: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """The outcome of one `MeasureTask`.

    ``lossless_bytes``: of the file as an archive keeps it without loss, a JPEG as its transcode; None: not asked for.
    ``side_bytes``: alpha, EXIF, ICC, XMP and segments, which an archive keeps beside the coded colours. ``format``, ``width``
    and ``height`` are None where the file was not decoded; ``rows`` is then the one that says why. ``machine``: that measured.
    """

    key: str
    source_bytes: int
    lossless_bytes: int | None
    rows: tuple[Row, ...]
    format: str | None = None
    width: int | None = None
    height: int | None = None
    side_bytes: int = 0
    machine: str = ""

    @property
    def decoded(self) -> bool:
        """Whether the file is a picture that could be measured."""
        return self.width is not None

    @property
    def pixels(self) -> int:
        """0 where it was not decoded."""
        return (self.width or 0) * (self.height or 0)

    @staticmethod
    def lost(info: ObjectInfo, stage: str, error: str) -> "Measured":
        """A picture of which nothing is known but its size."""
        return Measured(info.key, info.known_bytes, info.known_bytes, (Row(None, stage=stage, error=error[:MAX_MESSAGE]),))


class Measurer:
    """Measures one picture after the other on one worker, with the codecs it was given; one at a time in a process."""

    def __init__(self, source: Source, codecs: Mapping[str, ImageCodec], limits: Limits) -> None:
        self.source, self.codecs, self.limits = source, codecs, limits
        self._measuring = threading.Lock()
        self._machine = hardware()
        self._cold = dict(codecs)

    def __call__(self, task: MeasureTask) -> Measured:
        """Every codec and quality of the plan is a row."""
        try:
            data = read(self.source, task.info, self.limits)
        except Unreadable as error:
            return Measured.lost(task.info, "read", f"{error.reason}: {error}")
        with self._measuring:
            return self._measure(task, data)

    def _measure(self, task: MeasureTask, data: bytes) -> Measured:
        lossless = lossless_bytes(data) if task.baseline else None
        try:
            image = decode(data, max_pixels=self.limits.pixels)
        except Undecodable as error:
            row = Row(None, stage="decode", error=f"{error.reason}: {error}"[:MAX_MESSAGE])
            return Measured(task.info.key, len(data), lossless, (row,))
        self._warm_up(image.pixels)
        rows = [
            measure(self.codecs[name], quality, image.pixels, task.measures)
            for name, qualities in task.plan
            for quality in qualities
        ]
        height, width = image.pixels.shape[:2]
        return Measured(
            task.info.key, len(data), lossless, tuple(rows), image.format, width, height, image.side_bytes, self._machine
        )

    def _warm_up(self, image: Pixels) -> None:
        """Warms up, as loading and compiling at the first call would count as time: each codec codes the first picture
        that it takes once before, or a corner of it."""
        corner = np.ascontiguousarray(image[:WARM_UP_SIDE, :WARM_UP_SIDE])
        for name, codec in list(self._cold.items()):
            with suppress(*codec.faults):  # the picture's row will say it
                taken = next((part for part in (corner, image) if codec.refusal(part) is None), None)
                if taken is not None:
                    codec.decode(codec.encode(taken, codec.spec.qualities[0]))
                    del self._cold[name]


def read(source: Source, info: ObjectInfo, limits: Limits) -> bytes:
    """A listed object's bytes; raises Unreadable."""
    if info.fault is not None:
        raise Unreadable(info.fault, FAULTS.get(info.fault, info.fault))
    if info.known_bytes > limits.source_bytes:
        raise Unreadable("too-large", f"{info.size} bytes, the limit is {limits.source_bytes}")
    return source.get(info)


def lossless_bytes(data: bytes) -> int:
    """Size of a file as an archive keeps it without loss."""
    return len(keep(data).payload)


def measure(codec: ImageCodec, quality: float, image: Pixels, measures: Collection[Measure] = measures_of(USUAL)) -> Row:
    """Codes and decodes ``image`` once."""
    name, stage = codec.spec.name, "encode"
    try:
        started = _clock(codec.spec)
        data = codec.encode(image, quality)
        encoded = _clock(codec.spec)
        stage = "reconstruct"
        decoded = codec.decode(data)
        done = _clock(codec.spec)
    except codec.faults as error:
        return Row(name, quality, stage=stage, error=f"{type(error).__name__}: {error}"[:MAX_MESSAGE])
    if decoded.shape[:2] != image.shape[:2]:
        error_text = f"gave back {decoded.shape[1]}x{decoded.shape[0]} pixels of {image.shape[1]}x{image.shape[0]}"
        return Row(name, quality, stage=stage, error=error_text)
    found = asdict(distortion(image, decoded, measures))
    return Row(name, quality, len(data), encode_seconds=encoded - started, decode_seconds=done - encoded, **found)


def _clock(spec: CodecSpec) -> float:
    return time.perf_counter() if spec.on_gpu else time.process_time()
