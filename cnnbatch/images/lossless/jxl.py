"""Arrays of samples as lossless JPEG XL codestreams, in bands of rows: memory is that of a band."""

from collections.abc import Iterator
from typing import Final

import imagecodecs
import numpy as np

from cnnbatch.images.lossless.samples import Pixels
from cnnbatch.images.model import BAD_JPEGXL

TOGETHER: Final = (1, 2, 3, 4)
"""Channels that one codestream holds; of more, each has one of its own."""

BAND_SAMPLES: Final = 1 << 24
SMALL_SAMPLES: Final = 1 << 20
EFFORT, SMALL_EFFORT = 3, 7
"""Efforts of libjxl; it takes its time over small pictures only."""


def encode(pixels: Pixels) -> list[bytes]:
    """[H, W, C] uint8 or uint16 as codestreams."""
    effort = SMALL_EFFORT if pixels.size <= SMALL_SAMPLES else EFFORT
    height, width, channels = pixels.shape
    return [_encode(pixels[where], effort) for where in _parts((height, width, channels))]


def _encode(part: Pixels, effort: int) -> bytes:
    samples = np.ascontiguousarray(part.squeeze(axis=2) if part.shape[-1] == 1 else part)
    return bytes(imagecodecs.jpegxl_encode(samples, lossless=True, effort=effort, usecontainer=False, numthreads=1))


def _parts(shape: tuple[int, int, int]) -> Iterator[tuple[slice, slice, slice]]:
    """Which codestream holds which part of [H, W, C]."""
    height, width, channels = shape
    rows = max(1, BAND_SAMPLES // (width * channels))
    for top in range(0, height, rows):
        for channel in (None,) if channels in TOGETHER else range(channels):
            those = slice(None) if channel is None else slice(channel, channel + 1)
            yield slice(top, min(top + rows, height)), slice(None), those


def decode(codestreams: list[bytes], shape: tuple[int, int, int], dtype: str) -> Pixels:
    """The array of the given shape; raises ValueError where the codestreams are others."""
    pixels: Pixels = np.empty(shape, dtype)
    for data, where in zip(codestreams, _parts(shape), strict=True):
        part: Pixels = np.empty(pixels[where].shape, dtype)
        samples = part.squeeze(axis=2) if part.shape[-1] == 1 else part
        try:
            imagecodecs.jpegxl_decode(data, out=samples, numthreads=1)  # compares the shape before it allocates
        except BAD_JPEGXL as error:
            raise ValueError(f"not a JPEG XL picture of {part.shape}: {error}") from error
        pixels[where] = part
    return pixels
