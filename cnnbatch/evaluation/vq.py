"""Vector quantisation: a codebook of blocks (templates) learned on the pictures to be coded.

A picture is cut into square blocks of RGB samples and each is replaced by the nearest codeword (Linde, Buzo and Gray, 1980).
The codewords are sorted by brightness, so that the map of their numbers is a picture itself, and is coded as a PNG of
8 or 16 bits. Codebooks are not counted in the bytes, as the weights of a codec file are not.
"""

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

import imagecodecs
import numpy as np
import numpy.typing as npt

from cnnbatch.errors import BitstreamError, ImageError
from cnnbatch.evaluation.codecs import LIBRARY_FAULTS, CodecSpec, Pixels, as_rgb
from cnnbatch.evaluation.measurement import Limits, read
from cnnbatch.images import decode
from cnnbatch.storage import ObjectInfo, Source

NAME: Final = "vq"
LEVELS: Final = ((8, 256), (4, 16), (4, 64), (4, 256), (4, 2048), (2, 64), (2, 256), (2, 2048))
"""(pixels a side of a block, codewords) of each quality."""

SPEC: Final = CodecSpec(
    name=NAME,
    label="Vector quantisation",
    version=f"imagecodecs {imagecodecs.__version__}, codebooks not counted",
    qualities=tuple(float(number) for number in range(len(LEVELS))),
    highest=len(LEVELS) - 1,
)

TRAINING_PICTURES: Final = 24
BLOCKS_OF_A_PICTURE: Final = 3000
_HEADER: Final = struct.Struct("<II")
_ROWS: Final = 8192

Codebook = npt.NDArray[np.uint8]
"""uint8 [K, 3·side²], by rising mean."""


def missing() -> str | None:
    """Why codebooks cannot be learned here; None: they can."""
    return None if find_spec("sklearn") else "scikit-learn is not installed: pip install 'cnnbatch[evaluate]'"


def learn(pictures: Iterable[Pixels], *, seed: int = 0) -> tuple[Codebook, ...]:
    """A codebook for each of `LEVELS`, from random blocks of up to `TRAINING_PICTURES` of the pictures, at least one."""
    from sklearn.cluster import MiniBatchKMeans

    rng = np.random.default_rng(seed)
    blocks: dict[int, list[npt.NDArray[np.uint8]]] = {side: [] for side, _ in LEVELS}
    for picture in itertools.islice(pictures, TRAINING_PICTURES):
        for side, found in blocks.items():
            cut = _cut(as_rgb(picture), side)
            found.append(cut[rng.permutation(len(cut))[:BLOCKS_OF_A_PICTURE]])
    books = []
    for side, size in LEVELS:
        training = np.concatenate(blocks[side]).astype(np.float32)
        kmeans = MiniBatchKMeans(min(size, len(training)), batch_size=4096, n_init=1, max_iter=30, random_state=seed)
        words = np.clip(np.round(kmeans.fit(training).cluster_centers_), 0, 255).astype(np.uint8)
        books.append(words[np.argsort(words.mean(1), kind="stable")])
    return tuple(books)


class CodebookLearner:
    """Learns the codebooks of a source from some of its files; those that cannot be read or decoded are passed over."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self.source, self.limits = source, limits

    def __call__(self, files: Sequence[ObjectInfo]) -> tuple[Codebook, ...]:
        """No codebooks where none of the files is a picture."""
        pictures = self._pictures(files)
        first = next(pictures, None)
        return () if first is None else learn(itertools.chain([first], pictures))

    def _pictures(self, files: Sequence[ObjectInfo]) -> Iterator[Pixels]:
        for info in files:
            try:
                yield decode(read(self.source, info, self.limits), max_pixels=self.limits.pixels).pixels
            except ImageError:
                continue


def _cut(image: Pixels, side: int) -> npt.NDArray[np.uint8]:
    """uint8 [blocks, 3·side²] in raster order; edges are repeated to fill the last blocks."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    blocks = padded.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    return blocks.reshape(rows * columns, side * side * 3)


def _nearest(blocks: npt.NDArray[np.uint8], book: Codebook) -> npt.NDArray[np.int64]:
    """The number of the nearest codeword of each block: |b − w|² without |b|², as one product of matrices."""
    words = book.astype(np.float32)
    half_norms = np.square(words).sum(1) / 2
    parts = [blocks[i : i + _ROWS].astype(np.float32) @ words.T - half_norms for i in range(0, len(blocks), _ROWS)]
    return np.concatenate([part.argmax(1) for part in parts])


@dataclass(frozen=True, slots=True)
class VectorQuantiser:
    """The codec of learned codebooks."""

    books: Sequence[Codebook]
    faults: tuple[type[Exception], ...] = (*LIBRARY_FAULTS, BitstreamError)

    @property
    def spec(self) -> CodecSpec:
        """Quality is the number of the codebook."""
        return SPEC

    def refusal(self, image: Pixels) -> str | None:
        """None: any picture."""
        return None

    def encode(self, image: Pixels, quality: float) -> bytes:
        """Height and width, then the map of codewords as a PNG."""
        rgb, number = as_rgb(image), round(quality)
        side, book = LEVELS[number][0], self.books[number]
        height, width = rgb.shape[:2]
        shape = -(-height // side), -(-width // side)
        numbers = _nearest(_cut(rgb, side), book).reshape(shape)
        depth = np.uint8 if len(book) <= 256 else np.uint16
        png = bytes(imagecodecs.png_encode(numbers.astype(depth), level=9))
        return bytes([number]) + _HEADER.pack(height, width) + png

    def decode(self, data: bytes) -> Pixels:
        """RGB; raises BitstreamError where the map does not fit the codebook."""
        number, (height, width) = data[0], _HEADER.unpack_from(data, 1)
        side, book = LEVELS[number][0], self.books[number]
        numbers = imagecodecs.png_decode(data[1 + _HEADER.size :])
        if numbers.shape != (-(-height // side), -(-width // side)) or int(numbers.max()) >= len(book):
            raise BitstreamError(f"a map of {numbers.shape} codewords for {width}x{height} pixels")
        rows, columns = numbers.shape
        blocks = book[numbers].reshape(rows, columns, side, side, 3).swapaxes(1, 2)
        return np.ascontiguousarray(blocks.reshape(rows * side, columns * side, 3)[:height, :width])
