"""Pixels, regions of them, and the units that every part of the codec shares."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] RGB or [H, W] gray."""


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of pixels inside an image."""

    top: int
    left: int
    height: int
    width: int

    def check(self, height: int, width: int) -> None:
        """Raises ValueError unless it has pixels and lies inside an image of ``height`` × ``width``."""
        inside = self.top + self.height <= height and self.left + self.width <= width
        if min(self.top, self.left) < 0 or min(self.height, self.width) < 1 or not inside:
            size = f"{self.width} × {self.height} pixels at column {self.left}, row {self.top}"
            raise ValueError(f"a region of {size} is not inside an image of {width} × {height}")

    def cut(self, image: Pixels) -> Pixels:
        """Its pixels of ``image``. Raises ValueError unless it lies inside."""
        height, width = image.shape[:2]
        self.check(height, width)
        return image[self.within(Region(0, 0, height, width))]

    def pieces(self, side: int) -> Iterator["Region"]:
        """The same pixels in rectangles of at most ``side`` × ``side``."""
        for top in range(self.top, self.top + self.height, side):
            for left in range(self.left, self.left + self.width, side):
                height, width = min(side, self.top + self.height - top), min(side, self.left + self.width - left)
                yield Region(top, left, height, width)

    def within(self, other: "Region") -> tuple[slice, slice]:
        """Its rows and columns in an array that holds ``other``."""
        top, left = self.top - other.top, self.left - other.left
        return slice(top, top + self.height), slice(left, left + self.width)


BLOCK = 16
"""Pixels a latent position covers in each direction."""

HYPER_BLOCK = 4
"""Latent positions a hyper-latent position covers in each direction."""

GREY = 128
"""The level that both transforms take as zero."""

PIXEL_UNIT = 64.0
"""Grey levels that the learned analysis path sees as 1."""

SCALES: Final = (1, 2, 4, 8, 16)
"""Divisors of the sides of a picture."""


def uncoloured(image: Pixels, *, gray: bool, neutral: bool) -> Pixels:
    """[H, W, 3] as it is, ``gray`` as the mean of the colours, rounded half up, [H, W], and ``neutral`` as that in each."""
    if not (gray or neutral):
        return image
    total: npt.NDArray[np.uint16] = image.sum(2, dtype=np.uint16)
    mean = ((total * 2 + 3) // 6).astype(np.uint8)
    return mean if gray else np.repeat(mean[..., None], 3, axis=2)


def divisor(scale: float) -> int:
    """Divisor of a picture's sides at ``scale``. Raises ValueError unless it is one of `SCALES`."""
    for number in SCALES:
        if scale == 1 / number:
            return number
    raise ValueError(f"scale is one of {', '.join(f'1/{n}' if n > 1 else '1' for n in SCALES)}, got {scale:g}")


def reduced(image: Pixels, by: int) -> Pixels:
    """Means of squares of ``by`` × ``by`` pixels, rounded half up; of fewer where the picture ends."""
    height, width = image.shape[:2]
    rows, columns = np.arange(0, height, by), np.arange(0, width, by)
    sums = np.add.reduceat(np.add.reduceat(image, rows, 0, dtype=np.uint32), columns, 1)
    counts = np.outer(np.diff(rows, append=height), np.diff(columns, append=width)).astype(np.uint32)
    counts = counts.reshape(*counts.shape, *[1] * (image.ndim - 2))
    found: Pixels = ((2 * sums + counts) // (2 * counts)).astype(np.uint8)
    return found


def reduced_size(height: int, width: int, by: int) -> tuple[int, int]:
    """(height, width) of what `reduced` gives."""
    return -(-height // by), -(-width // by)
