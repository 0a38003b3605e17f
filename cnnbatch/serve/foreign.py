"""Files that others encoded, decoded in a process of their own: what kills, hangs or bloats their decoders costs one answer.

Bitstreams of the codec need none of this: their decoder checks all that it reads. Stored originals, files of the source and
alpha channels go through libjpeg, libpng, libtiff, libjxl and so on.
"""

import io
import queue
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from PIL import Image, ImageSequence

from cnnbatch.archive import ArchiveRow
from cnnbatch.codec.geometry import Pixels
from cnnbatch.errors import ImageError, Undecodable
from cnnbatch.images import decode
from cnnbatch.images.alpha import decode_alpha
from cnnbatch.images.model import bad_image
from cnnbatch.serve.orientation import orientation_of
from cnnbatch.stages.isolation import Child
from cnnbatch.stages.restoring import restore_file

PROCESSES: Final = 2
SECONDS: Final = 30.0

_SIZE: Final = struct.Struct("<III")

Probed = tuple[int, int, int]
"""(width, height, orientation), as stored."""


class ForeignDecoder:
    """A few such processes, each started when it is first needed."""

    def __init__(self, processes: int = PROCESSES, seconds: float = SECONDS) -> None:
        self._free: queue.SimpleQueue[Child] = queue.SimpleQueue()
        self._children = [Child(_build, _answer, seconds) for _ in range(processes)]
        for child in self._children:
            self._free.put(child)

    def start(self) -> None:
        """Starts all of them now. Raises CnnbatchError where one does not start."""
        for _ in self._children:
            with self._child() as child:
                child.start()

    def probe(self, file: ArchiveRow | bytes) -> Probed:
        """Size and orientation of a stored row or a file. Raises ImageError."""
        width, height, orientation = _SIZE.unpack(self._ask(("probe", file)))
        return width, height, orientation

    def decode(self, file: ArchiveRow | bytes, max_pixels: int) -> Pixels:
        """Its pixels, uint8 [H, W] or [H, W, 3 or 4], as stored. Raises ImageError."""
        return _pixels(self._ask(("decode", file, max_pixels)))

    def alpha(self, payload: bytes, shape: tuple[int, int]) -> Pixels:
        """An alpha channel. Raises ImageError."""
        return _pixels(self._ask(("alpha", payload, shape)))

    def file(self, row: ArchiveRow) -> bytes:
        """The original of a stored row. Raises ImageError."""
        return self._ask(("file", row))

    def close(self) -> None:
        """Ends the processes."""
        for child in self._children:
            child.stop()

    def _ask(self, request: tuple[Any, ...]) -> bytes:
        with self._child() as child:
            answer = child.ask(request)
        if answer is None:
            raise ImageError("kills-worker", "the process that decoded it died, hung, or took too much memory")
        return answer

    @contextmanager
    def _child(self) -> Iterator[Child]:
        child = self._free.get()
        try:
            yield child
        finally:
            self._free.put(child)


def _build() -> None:
    Image.MAX_IMAGE_PIXELS = None  # ours is checked


def _answer(worker: None, request: Any) -> bytes:
    kind, subject, *rest = request
    if kind == "alpha":
        return _as_bytes(decode_alpha(subject, *rest))
    data = subject if isinstance(subject, bytes) else restore_file(subject, None, format="original")
    if kind == "file":
        return data
    return _probe(data) if kind == "probe" else _decode(data, *rest)


def _probe(data: bytes) -> bytes:
    with bad_image("the picture"), Image.open(io.BytesIO(data)) as image:
        exif = image.getexif()
        return _SIZE.pack(*image.size, orientation_of(exif.tobytes() if exif else None))


def _decode(data: bytes, max_pixels: int) -> bytes:
    try:
        found = decode(data, max_pixels=max_pixels)
    except Undecodable:
        return _as_bytes(_for_a_look(data, max_pixels))
    if found.alpha is None:
        return _as_bytes(found.pixels)
    colours = found.pixels if found.pixels.ndim == 3 else np.repeat(found.pixels[..., None], 3, axis=2)
    height, width = colours.shape[:2]
    return _as_bytes(np.dstack((colours, decode_alpha(found.alpha, (height, width)))))


def _for_a_look(data: bytes, max_pixels: int) -> Pixels:
    """A file that cannot be archived as pixels (CMYK, 16 bits, the first frame of several) as a screen can show it."""
    with bad_image("the picture"), Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > max_pixels:
            raise Undecodable("too-many-pixels", f"{image.width} × {image.height} pixels")
        frame = next(iter(ImageSequence.Iterator(image)))
        if frame.mode.startswith(("I", "F")):
            levels = np.asarray(frame, np.float64)
            low, high = float(levels.min()), float(levels.max())
            top = 65535.0 if 255 < high <= 65535 and low >= 0 else max(high, 1.0)
            return np.clip(levels * (255 / top), 0, 255).astype(np.uint8)
        shown = frame.convert("RGBA" if frame.has_transparency_data else "RGB")
        return np.asarray(shown)


def _as_bytes(pixels: Pixels) -> bytes:
    height, width, *channels = pixels.shape
    return _SIZE.pack(height, width, channels[0] if channels else 0) + np.ascontiguousarray(pixels).tobytes()


def _pixels(answer: bytes) -> Pixels:
    height, width, channels = _SIZE.unpack_from(answer)
    shape = (height, width, channels) if channels else (height, width)
    return np.frombuffer(answer, np.uint8, offset=_SIZE.size).reshape(shape)
