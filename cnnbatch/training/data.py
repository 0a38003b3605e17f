"""Training pictures as they are cut and augmented for each step."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from cnnbatch.errors import ImageError
from cnnbatch.images import decode

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3]."""

PICTURE = re.compile(r"\.(jpe?g|png|webp|tiff?|bmp|avif)$", re.IGNORECASE)
MAX_PIXELS = 100_000_000
GRAY_SHARE = 0.05
DOWNSCALE_SHARE = 0.35

SMALLEST_SIDE = 64
"""Size in pixels of the least crop of a picture that the network takes."""


def decoded(body: bytes | ImageError, *, max_pixels: int) -> Pixels | ImageError:
    """The pixels of a file, gray ones as [H, W], or the reason why there are none."""
    if isinstance(body, ImageError):
        return body
    try:
        return decode(body, max_pixels=max_pixels).pixels
    except ImageError as error:
        return error


def middle(picture: Pixels, longest: int) -> Pixels:
    """The middle of a picture of more than ``longest`` pixels a side, copied."""
    top, left = (max(0, (side - longest) // 2) for side in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + longest, left : left + longest])


def crops(pictures: Sequence[Pixels], *, size: int, rng: np.random.Generator) -> Iterator[Pixels]:
    """Endless random crops [size, size, 3]: flips, quarter turns, downscales by 0.5…1, some gray.

    Downscaling also removes what an earlier JPEG compression left in a picture.
    """
    while True:
        picture = pictures[int(rng.integers(len(pictures)))]
        side = min(_source_side(size, rng), *picture.shape[:2])
        top = rng.integers(picture.shape[0] - side + 1)
        left = rng.integers(picture.shape[1] - side + 1)
        crop = picture[top : top + side, left : left + side]
        if side != size:
            crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.LANCZOS))
        if rng.random() < GRAY_SHARE:
            crop = np.broadcast_to(crop.mean(2, keepdims=True).round().astype(np.uint8), crop.shape)
        crop = np.rot90(crop, int(rng.integers(4)))
        yield crop[:, ::-1] if rng.random() < 0.5 else crop


def _source_side(size: int, rng: np.random.Generator) -> int:
    return round(size / rng.uniform(0.5, 1)) if rng.random() < DOWNSCALE_SHARE else size
