"""Inputs of a shard: fetched, looked at, and decoded in threads ahead of the codec."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from cnnbatch.choices import CONVERTED
from cnnbatch.codec import Codec
from cnnbatch.containers.names import is_picture
from cnnbatch.errors import Undecodable, Unreadable
from cnnbatch.images import DecodedImage, decode, png, probe
from cnnbatch.images.foreign import recognise
from cnnbatch.images.headers import begins_like_a_picture
from cnnbatch.images.lossless import keep
from cnnbatch.stages.isolation import Keyed
from cnnbatch.stages.records import Failure
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import ObjectInfo, Source
from cnnbatch.storage.interface import MAX_READ_BYTES

NO_IMAGE = "not an image"
"""The reason of files that neither their name nor their first bytes tell to be pictures."""

MAX_SIDE = 2**31 - 1
"""The most that the columns width and height hold; only the header of a bomb claims more."""

TINY_BYTES = 4096
TINY_TOGETHER = 64
"""Files of at most `TINY_BYTES` that one thread decodes one after the other, up to `TINY_PIXELS`."""

TINY_PIXELS = 1 << 18

File = tuple[ObjectInfo, bytes]
"""A file that was fetched."""

Header = tuple[str, int | None, int | None]
"""Format, width, height."""

UNKNOWN: Header = ("unknown", None, None)


@dataclass(frozen=True, slots=True)
class Stored:
    """How an original is kept."""

    reason: str
    payload: bytes
    coding: str


@dataclass(frozen=True, slots=True)
class Input:
    """One file that was fetched: what its header says, and its pixels, or the payload it is stored as and why."""

    info: ObjectInfo
    data: bytes
    header: Header
    image: DecodedImage | None = None
    stored: Stored | None = None

    @property
    def pixels(self) -> int:
        return 0 if self.image is None else self.image.pixels.shape[0] * self.image.pixels.shape[1]


_Decoded = tuple[list[Input], Sequence[File]]
"""Files that were decoded together, and those that are left."""


class InputReader:
    """Reads the inputs of one shard after the other; ``watch`` surrounds each call of a decoder."""

    def __init__(
        self,
        source: Source,
        codec: Codec,
        settings: CompressionSettings,
        watch: Callable[[Keyed], AbstractContextManager[None]],
    ) -> None:
        self.source, self.codec, self.settings, self.watch = source, codec, settings, watch

    def read(self, inputs: Sequence[ObjectInfo], failures: list[Failure]) -> Iterator[Input]:
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

    def fetch_one_by_one(self, inputs: Sequence[ObjectInfo], failures: list[Failure]) -> Iterator[File]:
        """Inputs that were fetched and not decoded, one in memory at a time."""
        for info in inputs:
            if not self._is_bearable(info, info.known_bytes, failures):
                continue
            try:
                read, data = fetch_one(self.source, info)
            except Unreadable as error:
                failures.append(Failure.of(info.key, "read", error))
                continue
            if self._is_bearable(read, len(data), failures):
                yield read, data

    def decode(self, info: ObjectInfo, data: bytes) -> Input:
        """The input that a file is, by itself: its pixels, or how it is stored."""
        reason = "lossless"
        is_known = is_picture(info.key) or begins_like_a_picture(data)
        foreign = None if is_known else recognise(data)
        if not is_known and not (foreign is not None and self.settings.decode and foreign.name in CONVERTED):
            reason = NO_IMAGE if foreign is None else foreign.name
        elif not self.settings.lossless:
            try:
                image = decode(data, max_pixels=self.settings.max_pixels, convert=self.settings.decode)
            except Undecodable as error:
                reason = error.reason
            else:
                refusal = self.codec.refusal(image.pixels)
                if refusal is None:
                    return Input(info, data, (image.format, image.pixels.shape[1], image.pixels.shape[0]), image=image)
                reason = refusal
        return Input(info, data, _header_of(data), stored=as_stored(data, reason))

    def _fetched(self, inputs: Sequence[ObjectInfo], failures: list[Failure]) -> Iterator[File]:
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

    def _claimed_pixels(self, info: ObjectInfo, data: bytes) -> int:
        """Pixels that decoding will allocate; nothing for tiny PNGs, which hold few."""
        if len(data) <= TINY_BYTES and data.startswith(png.SIGNATURE):
            return 0
        try:
            with self.watch(info):
                header = probe(data, convert=self.settings.decode)
        except Undecodable:
            return 0
        claim = header.width * header.height
        return claim if claim <= self.settings.max_pixels else 0

    def _decode_together(self, files: Sequence[File]) -> _Decoded:
        """Files of few bytes may have many pixels: from there on they are left for later."""
        decoded: list[Input] = []
        pixels = 0
        for info, data in files:
            if pixels > TINY_PIXELS:
                break
            decoded.append(self._decode_watched(info, data))
            pixels += decoded[-1].pixels
        return decoded, files[len(decoded) :]

    def _decoded(self, future: Future[_Decoded]) -> Iterator[Input]:
        decoded, left = future.result()
        yield from decoded
        for info, data in left:
            yield self._decode_watched(info, data)

    def _decode_watched(self, info: ObjectInfo, data: bytes) -> Input:
        with self.watch(info):
            return self.decode(info, data)


def fetch_one(source: Source, info: ObjectInfo) -> File:
    """One input and what lies beside it. Raises Unreadable."""
    [(read, data)] = source.get_many([info], max_bytes=MAX_READ_BYTES, concurrency=1)
    if isinstance(data, Unreadable):
        raise data
    return read, data


def as_stored(data: bytes, reason: str) -> Stored:
    """An original, kept as small as that goes without loss."""
    kept = keep(data)
    return Stored(reason, kept.payload, kept.coding)


def _tiny_together(fetched: Iterable[File]) -> Iterator[list[File]]:
    """Files that were fetched, tiny ones by the dozen: handing one to a thread takes longer than decoding it."""
    tiny: list[File] = []
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


def _pixels_ready(ahead: Iterable[Future[_Decoded]]) -> int:
    return sum(one.pixels for future in ahead if future.done() for one in future.result()[0])


def _header_of(data: bytes) -> Header:
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
