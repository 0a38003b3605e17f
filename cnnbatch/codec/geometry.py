"""Pixels, regions of them, and the units that every part of the codec shares."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
