"""Which windows of an image the transforms run over: all of it, or parts with a halo when it is huge.

All coordinates are latent positions (16 × 16 pixels). The halo covers the transforms' receptive field, so the inner part
of a window is what the whole image would have given, and there is no seam.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cnnbatch.codec.container.bitstream import TILE_SIDE, Header
from cnnbatch.codec.geometry import BLOCK, HYPER_BLOCK, Region
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings

TILE = TILE_SIDE // BLOCK
"""Latent positions of a full tile in each direction."""


@dataclass(frozen=True, slots=True)
class Span:
    """A window in one direction: [start, stop) and inside it the inner part [inner_start, inner_stop)."""

    start: int
    stop: int
    inner_start: int
    inner_stop: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """The key that spans must share to be computed in one batch: length and place of the inner part."""
        return self.stop - self.start, self.inner_start - self.start, self.inner_stop - self.start


@dataclass(frozen=True, slots=True)
class Window:
    """One window of an image."""

    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Windows of equal shape can be computed in one batch."""
        return self.rows.shape, self.columns.shape

    @property
    def pixels(self) -> int:
        """Pixels of the window, as many as the hyper nets see."""
        return padded_pixels(self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)

    def tile_slices(self) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
        """((tile row, tile column) in the image, slices of that tile inside the window)."""
        for row, row_slice in _tile_slices(self.rows):
            for column, column_slice in _tile_slices(self.columns):
                yield (row, column), (row_slice, column_slice)


def _tile_slices(span: Span) -> Iterator[tuple[int, slice]]:
    for start in range(span.inner_start, span.inner_stop, TILE):
        stop = min(start + TILE, span.inner_stop)
        yield start // TILE, slice(start - span.start, stop - span.start)


def padded_pixels(rows: int, columns: int) -> int:
    """Pixels that so many latent positions cost: the hyper nets see whole blocks of 64 × 64."""
    return -(-rows // HYPER_BLOCK) * -(-columns // HYPER_BLOCK) * (HYPER_BLOCK * BLOCK) ** 2


def halo(settings: HyperpriorSettings) -> int:
    """Latent positions that a pixel depends on beyond its own; a latent depends on fewer."""
    blocks_8, blocks_16 = settings.synthesis_blocks
    filters = 2  # across borders half a block, as far as a convolution at 1/8; behind the synthesis two pixels
    seen = 1  # around a patch of the picture
    return max(-(-(blocks_8 + seen + filters) // 2), blocks_16 + -(-(blocks_8 + filters) // 2))


def latent_shape(height: int, width: int) -> tuple[int, int]:
    """Latent positions (rows, columns) of an image of ``height`` × ``width`` pixels."""
    return -(-height // BLOCK), -(-width // BLOCK)


def windows(shape: tuple[int, int], *, side: int, halo: int) -> list[Window]:
    """Windows of an image of ``shape`` latent positions; ``side``: inner pixels of a window, a multiple of `TILE_SIDE`."""
    rows, columns = (_spans(length, side // BLOCK, halo) for length in shape)
    return [Window(row, column) for row in rows for column in columns]


@dataclass(frozen=True, slots=True)
class TileJob:
    """One tile of one image of a call: its number in the bitstream and its latent positions."""

    image: int
    number: int
    rows: slice
    columns: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Its latent positions."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def tile_jobs(image: int, header: Header) -> Iterator[TileJob]:
    """The tiles of image ``image`` of a call, in raster order."""
    rows, columns = latent_shape(header.height, header.width)
    starts = [(r, c) for r in range(0, rows, TILE) for c in range(0, columns, TILE)]
    for number, (r, c) in enumerate(starts):
        yield TileJob(image, number, slice(r, min(r + TILE, rows)), slice(c, min(c + TILE, columns)))


@dataclass(frozen=True, slots=True)
class WindowJob:
    """One window of one image of a call."""

    image: int
    window: Window


def window_jobs(headers: Sequence[Header], *, side: int, halo: int) -> list[WindowJob]:
    """All `windows` of all images of a call."""
    return [
        WindowJob(image, window)
        for image, header in enumerate(headers)
        for window in windows(latent_shape(header.height, header.width), side=side, halo=halo)
    ]


def region_window(region: Region, shape: tuple[int, int], halo: int) -> tuple[slice, slice]:
    """Rows and columns of the latent positions, out of ``shape``, that the pixels of ``region`` depend on."""
    starts, lengths = (region.top, region.left), (region.height, region.width)
    rows, columns = (
        slice(max(0, start // BLOCK - halo), min(size, -(-(start + length) // BLOCK) + halo))
        for start, length, size in zip(starts, lengths, shape, strict=True)
    )
    return rows, columns


def overlap(a: slice, b: slice) -> slice:
    """The intersection of two ranges; empty if it stops before it starts."""
    return slice(max(a.start, b.start), min(a.stop, b.stop))


def moved(place: tuple[slice, slice], rows: slice, columns: slice) -> tuple[slice, slice]:
    """``place`` as it is counted in an array that begins at ``rows`` and ``columns``."""
    vertical, horizontal = place
    return (
        slice(vertical.start - rows.start, vertical.stop - rows.start),
        slice(horizontal.start - columns.start, horizontal.stop - columns.start),
    )


def _spans(length: int, side: int, halo: int) -> list[Span]:
    if length <= side + halo:  # a little more than one window is cheaper whole
        return [Span(0, length, 0, length)]
    return [
        Span(max(0, start - halo), min(length, start + side + halo), start, min(length, start + side))
        for start in range(0, length, side)
    ]


def window_pixels(image: npt.NDArray[np.uint8], window: Window) -> npt.NDArray[np.uint8]:
    """The window's pixels [h, w, 3] of ``image`` [H, W, 3] or [H, W]; beyond the edge the last pixel is repeated."""
    top, left = window.rows.start * BLOCK, window.columns.start * BLOCK
    bottom, right = window.rows.stop * BLOCK, window.columns.stop * BLOCK
    part = image[top:bottom, left:right]
    missing = [(0, bottom - top - part.shape[0]), (0, right - left - part.shape[1])]
    part = np.pad(part, missing + [(0, 0)] * (image.ndim - 2), mode="edge")
    return part if part.ndim == 3 else np.repeat(part[..., None], 3, axis=2)
