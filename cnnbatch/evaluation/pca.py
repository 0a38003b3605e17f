"""Principal components: a linear transform learned on small pictures of one size, what a learned codec of such has to beat.

The coefficients are rounded to multiples of a step and coded by rANS, as those of the architecture `dense` are, but each from
a static table of its own: how often its symbols occurred on the training pictures. A file is a byte of quality and one small
stream (`cnnbatch.codec.entropy_coding.byte_rans`). Components and tables are not counted, as the weights of a codec file are
not.

Shapes: N pictures, D samples of a picture, K components.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.codec.entropy_coding.byte_rans import SMALL_LOWER, SMALL_STATE_BYTES, pop, push_stream
from cnnbatch.codec.entropy_coding.tables import SYMBOL_LIMIT, Tables, integer_frequencies
from cnnbatch.errors import BitstreamError, ImageError, Unreadable
from cnnbatch.evaluation.codecs import LIBRARY_FAULTS, CodecSpec, Pixels
from cnnbatch.evaluation.measurement import Limits
from cnnbatch.images import decode
from cnnbatch.storage import ObjectInfo, Source

NAME: Final = "pca"
MOST_SAMPLES: Final = 64 * 64 * 3
"""Samples of a picture, at most. Larger ones are cut into blocks by every codec, and have too many components to learn."""

MOST_COMPONENTS: Final = 1024
FETCH_BYTES: Final = 64 << 20
FETCH_CONCURRENCY: Final = 32
_BYTES_OF_A_SYMBOL: Final = 5
"""More than an escaped one takes."""

SPEC: Final = CodecSpec(
    name=NAME,
    label="PCA",
    version="numpy, cnnbatch's byte rANS; components not counted",
    qualities=(0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 26.0, 32.0),
    highest=40,
)


def step(quality: int) -> float:
    """Quantisation step in grey levels: 512 at quality 0, half as much four further on."""
    return float(512 * 2 ** (-quality / 4))


@dataclass(frozen=True)
class Components:
    """A learned basis. ``mean`` [D], ``rows`` [K, D] orthonormal by falling variance; ``training`` [N, K]: coefficients of the
    pictures that it was learned on. ``shape`` of a picture."""

    shape: tuple[int, ...]
    mean: npt.NDArray[np.float32]
    rows: npt.NDArray[np.float32]
    training: npt.NDArray[np.float32]
    _tables: dict[int, Tables] = field(default_factory=dict, compare=False, repr=False)

    def tables(self, quality: int) -> Tables:
        """One for each component; half an occurrence is added to each symbol (Krichevsky and Trofimov, 1981)."""
        if quality not in self._tables:
            symbols = _rounded(self.training, quality)
            radius = np.abs(symbols).max(0).astype(np.int32)
            parts = []
            for column, r in zip(symbols.T, radius.tolist(), strict=True):
                counts = np.bincount(column + r, minlength=2 * r + 2) + 0.5
                parts.append(integer_frequencies(counts / counts.sum()))
            self._tables[quality] = Tables.from_frequencies(np.concatenate(parts), radius)
        return self._tables[quality]


def learn(pictures: Sequence[Pixels]) -> Components | str:
    """From pictures of one shape; a string says why these cannot be learned from."""
    shapes = sorted({picture.shape for picture in pictures})
    if not shapes:
        return "no picture to learn components from"
    if len(shapes) > 1:
        found = ", ".join(map(_size, shapes))
        return f"it takes pictures of one size and mode, and these are of several: {found}"
    if (size := pictures[0].size) > MOST_SAMPLES:
        return f"it takes small pictures, up to {MOST_SAMPLES:,} samples, and these have {size:,}"
    x = np.stack(pictures).reshape(len(pictures), -1).astype(np.float32)
    mean = x.mean(0)
    x -= mean
    many = len(x) > x.shape[1]
    rows = np.linalg.eigh(x.T @ x)[1][:, ::-1].T if many else np.linalg.svd(x, full_matrices=False)[2]
    rows = np.ascontiguousarray(rows[:MOST_COMPONENTS])
    return Components(shapes[0], mean, rows, x @ rows.T)


class ComponentLearner:
    """Learns the components of a source from some of its files; those that cannot be read or decoded are passed over."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self.source, self.limits = source, limits

    def __call__(self, files: Sequence[ObjectInfo]) -> Components | str:
        """A string says why there are none. Stops at the first picture that is too large or of another size."""
        wanted = [info for info in files if info.fault is None and info.known_bytes <= self.limits.source_bytes]
        most = max([FETCH_BYTES, *(info.known_bytes for info in wanted)])
        pictures: list[Pixels] = []
        for _, data in self.source.get_many(wanted, max_bytes=most, concurrency=FETCH_CONCURRENCY):
            try:
                if isinstance(data, Unreadable):
                    continue
                pictures.append(decode(data, max_pixels=self.limits.pixels).pixels)
            except ImageError:
                continue
            if pictures[-1].size > MOST_SAMPLES or pictures[-1].shape != pictures[0].shape:
                break
        return learn(pictures)


@dataclass(frozen=True)
class PrincipalComponents:
    """The codec of learned components."""

    components: Components
    faults: tuple[type[Exception], ...] = (*LIBRARY_FAULTS, BitstreamError)

    @property
    def spec(self) -> CodecSpec:
        """Quality says the step."""
        return SPEC

    def refusal(self, image: Pixels) -> str | None:
        """``other-size`` for any but the shape that was learned."""
        return None if image.shape == self.components.shape else "other-size"

    def encode(self, image: Pixels, quality: float) -> bytes:
        """Raises ValueError for a picture of another shape."""
        if self.refusal(image) is not None:
            raise ValueError(f"a picture of {_size(image.shape)}, the components are of {_size(self.components.shape)}")
        number = round(quality)
        coefficients = (image.reshape(-1).astype(np.float32) - self.components.mean) @ self.components.rows.T
        symbols = _rounded(coefficients, number)
        out = np.empty(_BYTES_OF_A_SYMBOL * len(symbols) + SMALL_STATE_BYTES, np.uint8)
        own = np.arange(len(symbols))  # each coefficient has its own table
        start = push_stream(np.int64(SMALL_LOWER), symbols, own, self.components.tables(number).compiled, out)
        return bytes([number]) + out[start:].tobytes()

    def decode(self, data: bytes) -> Pixels:
        """Raises BitstreamError where the stream does not end with the last coefficient."""
        if len(data) < 1 + SMALL_STATE_BYTES or data[0] > SPEC.highest:
            raise BitstreamError(f"{len(data)} bytes are no coefficients")
        number = data[0]
        symbols = np.empty(len(self.components.rows), np.int64)
        if _decode(np.frombuffer(data, np.uint8, offset=1), self.components.tables(number).compiled, symbols):
            raise BitstreamError("the coefficients do not end where the stream ends")
        samples = (symbols * step(number)).astype(np.float32) @ self.components.rows + self.components.mean
        pixels: Pixels = np.clip(np.rint(samples), 0, 255).astype(np.uint8)
        return pixels.reshape(self.components.shape)


def _rounded(coefficients: npt.NDArray[Any], quality: int) -> npt.NDArray[np.int64]:
    symbols: npt.NDArray[np.int64] = np.rint(coefficients / step(quality)).astype(np.int64)
    return symbols.clip(-SYMBOL_LIMIT, SYMBOL_LIMIT)


def _size(shape: Sequence[int]) -> str:
    return "×".join(str(side) for side in (shape[1], shape[0], *shape[2:]))


@numba.njit(nogil=True, cache=True)
def _decode(data, tables, symbols):  # type: ignore[no-untyped-def]
    """Fills ``symbols``; returns whether the stream is damaged."""
    x = np.int64(data[0]) | np.int64(data[1]) << 8 | np.int64(data[2]) << 16
    position = 3
    for i in range(len(symbols)):
        symbol, x, position = pop(x, i, tables, data, position, len(data))
        if position < 0:
            return True
        symbols[i] = symbol
    return x != SMALL_LOWER or position != len(data)
