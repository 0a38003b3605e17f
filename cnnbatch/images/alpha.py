"""The alpha channel as a lossless side payload.

One byte: the value that all pixels have (an opaque channel costs one byte and is still known to exist). Longer: a JPEG XL
codestream of one 8-bit channel, lossless; measured on the corpus at effort 3 it is 30 % smaller than an optimised PNG
and four times as fast.
"""

from typing import Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from cnnbatch.errors import ImageError
from cnnbatch.images.model import BAD_JPEGXL

MAX_PIXELS_EFFORT_3: Final = 1 << 24  # above: effort 1, which works in stripes and takes little memory


def encode_alpha(alpha: NDArray[np.uint8]) -> bytes:
    """``alpha`` uint8 [H, W] as bytes."""
    first = alpha.flat[0]
    if bool((alpha == first).all()):
        return bytes([int(first)])
    effort = 3 if alpha.size <= MAX_PIXELS_EFFORT_3 else 1
    plane = np.ascontiguousarray(alpha)
    return bytes(imagecodecs.jpegxl_encode(plane, lossless=True, effort=effort, usecontainer=False, numthreads=1))


def decode_alpha(payload: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 [H, W] of the given shape; raises ImageError ``alpha`` where the payload is not such a channel."""
    if len(payload) == 1:
        return np.full(shape, payload[0], np.uint8)
    plane = np.empty(shape, np.uint8)
    try:
        imagecodecs.jpegxl_decode(payload, out=plane, numthreads=1)  # compares the shape before it allocates
    except BAD_JPEGXL as error:
        raise ImageError("alpha", f"alpha payload of {len(payload)} bytes for {shape}: {error}") from error
    return plane
