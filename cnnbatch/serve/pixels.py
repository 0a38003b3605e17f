"""Pixels of a row for one plan: the smallest decoding that shows what is asked for.

The views of a picture:

    archive     as it is shown: reduced sizes from the latents, full size by the draft decoder
    full        full size by the full decoder, which is what PSNR means
    source      the original, where the source is reachable
    difference  128 + 4 · (full − source)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from PIL import Image

from cnnbatch.archive import ArchiveRow
from cnnbatch.codec.geometry import SCALES, Pixels, Region, reduced
from cnnbatch.codec.transforms.integer_arrays import Floats
from cnnbatch.errors import BitstreamError, ImageError
from cnnbatch.picture import Picture
from cnnbatch.serve.caching import ByteCache
from cnnbatch.serve.foreign import ForeignDecoder, Probed
from cnnbatch.serve.iiif import Plan
from cnnbatch.serve.orientation import orientation_of, shown_size, stored_region, upright

View = Literal["archive", "full", "source", "difference"]
VIEWS: Final[tuple[View, ...]] = ("archive", "full", "source", "difference")

GAIN: Final = 4
"""By how much differences are shown larger."""

WHOLE_PIXELS: Final = 1 << 20
"""A picture that is no larger is decoded whole and kept; of a larger one a region is decoded."""

ENOUGH: Final = 0.75
"""A thumbnail that is decoded at this share of the side that was asked for, or more, is not decoded at the next size."""

BYTES_PER_PIXEL: Final = 32
"""Latents, planes of floats and pixels of what is decoded by the codec."""

PROBED: Final = 10_000
"""Stored pictures whose size is remembered."""


class TooLargeToShow(ImageError):
    """More pixels than this server decodes; the file can be had."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A row with what decodes it; ``identity`` is another one for other content."""

    picture: Picture
    identity: str
    size: tuple[int, int]
    """(width, height) as stored."""
    orientation: int

    @property
    def row(self) -> ArchiveRow:
        return self.picture.row

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) as shown."""
        return shown_size(*self.size, self.orientation)


class PixelReader:
    """Pixels of pictures, with a cache of those that tiles and thumbnails share."""

    def __init__(
        self, cache: ByteCache[Pixels], latents: ByteCache[Floats], foreign: ForeignDecoder, *, max_pixels: int
    ) -> None:
        """``latents``: of the tiles of large pictures, which neighbouring regions share."""
        self._cache, self._latents, self._foreign, self._max_pixels = cache, latents, foreign, max_pixels
        self._probed: ByteCache[Probed] = ByteCache(PROBED, lambda _: 1)

    def open(self, picture: Picture, identity: str) -> Shown:
        """A row with its size: that of the row, or of its file where the row has none. Raises ImageError, BitstreamError."""
        row = picture.row
        if row.outcome == "cnn":
            width, height = row.width or 0, row.height or 0
            if (height, width) != picture.codecs[row.codec_id or ""].shape(row.payload):
                raise BitstreamError("the bitstream has another size than its row says")
            orientation = orientation_of(row.exif)
        else:
            width, height, orientation = self._probed.get(identity, lambda: self._foreign.probe(row))
        if width * height > self._max_pixels:
            raise TooLargeToShow("too-many-pixels", f"{width} × {height} pixels, at most {self._max_pixels} are shown")
        return Shown(picture, identity, (width, height), orientation)

    def pixels(self, shown: Shown, plan: Plan, view: View, original: Callable[[], bytes]) -> Pixels:
        """uint8 [h, w], [h, w, 3] or with alpha as a last channel of [h, w, 4], upright, of the size of the plan.

        ``original`` gives the file in the source. Raises ImageError, BitstreamError, CodecFileError.
        """
        by = plan.divisor
        stored = stored_region(plan.region, *shown.size, shown.orientation)
        cells = _cells(stored, by)
        if view == "difference":
            ours, theirs = self._cut(shown, cells, by, "full", original), self._cut(shown, cells, by, "source", original)
            found = _difference(ours, theirs)
        else:
            found = self._cut(shown, cells, by, view, original)
        box = (
            stored.left / by - cells.left,
            stored.top / by - cells.top,
            (stored.left + stored.width) / by - cells.left,
            (stored.top + stored.height) / by - cells.top,
        )
        size = shown_size(*plan.size, shown.orientation)
        return upright(_resized(found, size, box), shown.orientation)

    def thumbnail(self, shown: Shown, side: int) -> Pixels:
        """The whole picture, upright, about ``side`` pixels at its longer side and never more. Raises as `pixels`."""
        width, height = shown.size
        by = thumbnail_divisor(width, height, side)
        found = self._cut(shown, _cells(Region(0, 0, height, width), by), by, "archive", lambda: b"")
        scale = side / max(found.shape[:2])
        if scale < 1:
            rows, columns = found.shape[:2]
            size = max(1, round(columns * scale)), max(1, round(rows * scale))
            found = _resized(found, size, (0, 0, columns, rows))
        return upright(found, shown.orientation)

    def cost(self, shown: Shown, plan: Plan, view: View) -> int:
        """About how many bytes that takes while it is computed."""
        width, height = shown.size
        region = plan.region.width * plan.region.height // plan.divisor**2
        whole = width * height if view in ("source", "difference") or shown.row.outcome == "store" or shown.row.alpha else 0
        return BYTES_PER_PIXEL * (region + plan.size[0] * plan.size[1]) + 4 * whole

    def thumbnail_cost(self, shown: Shown, side: int) -> int:
        """The same of `thumbnail`."""
        width, height = shown.size
        whole = width * height if shown.row.outcome == "store" or shown.row.alpha else 0
        return BYTES_PER_PIXEL * width * height // thumbnail_divisor(width, height, side) ** 2 + 4 * whole

    def _cut(self, shown: Shown, cells: Region, by: int, view: View, original: Callable[[], bytes]) -> Pixels:
        if view == "source":
            return cells.cut(self._foreign_pixels(shown, by, "source", original))
        if shown.row.outcome == "store":
            return cells.cut(self._foreign_pixels(shown, by, "archive", lambda: shown.row))
        colours = self._coded(shown, cells, by, view)
        if shown.row.alpha is None:
            return colours
        alpha = cells.cut(self._alpha(shown, by))
        if colours.ndim == 2:
            colours = np.repeat(colours[..., None], 3, axis=2)
        return np.dstack((colours, alpha))

    def _coded(self, shown: Shown, cells: Region, by: int, view: View) -> Pixels:
        width, height = shown.size
        decoder: Literal["full", "draft"] = "full" if view == "full" else "draft"
        rows, columns = -(-height // by), -(-width // by)
        if rows * columns <= WHOLE_PIXELS:
            whole = self._cache.get(
                (shown.identity, by, decoder if by == 1 else "reduced"),
                lambda: shown.picture.image(decoder=decoder, scale=1 / by),
            )
            return cells.cut(whole)
        return shown.picture.region(
            top=cells.top,
            left=cells.left,
            height=cells.height,
            width=cells.width,
            decoder=decoder,
            scale=1 / by,
            keep=lambda name, make: self._latents.get((shown.identity, name), make),
        )

    def _alpha(self, shown: Shown, by: int) -> Pixels:
        width, height = shown.size
        return self._cache.get(
            (shown.identity, by, "alpha"), lambda: reduced(self._foreign.alpha(shown.row.alpha or b"", (height, width)), by)
        )

    def _foreign_pixels(self, shown: Shown, by: int, view: str, file: Callable[[], ArchiveRow | bytes]) -> Pixels:
        """A whole file that was not coded here, its sides divided."""

        def whole() -> Pixels:
            found = self._foreign.decode(file(), self._max_pixels)
            if found.shape[:2] != shown.size[::-1]:
                raise ImageError("size", "the original has another size now")
            return found

        if by == 1:
            return self._cache.get((shown.identity, 1, view), whole)
        return self._cache.get((shown.identity, by, view), lambda: reduced(self._foreign_pixels(shown, 1, view, file), by))


def thumbnail_divisor(width: int, height: int, side: int) -> int:
    """By how much a picture is made smaller when it is decoded for a thumbnail."""
    return max((by for by in SCALES if max(width, height) >= ENOUGH * side * by), default=1)


def _cells(region: Region, by: int) -> Region:
    """The pixels of a picture reduced ``by`` a number that a region of it touches."""
    top, left = region.top // by, region.left // by
    return Region(top, left, -(-(region.top + region.height) // by) - top, -(-(region.left + region.width) // by) - left)


def _difference(ours: Pixels, theirs: Pixels) -> Pixels:
    if ours.ndim != theirs.ndim or ours.shape != theirs.shape:
        ours, theirs = _colour(ours), _colour(theirs)
    found: Pixels = np.clip(128 + GAIN * (ours.astype(np.int16) - theirs), 0, 255).astype(np.uint8)
    return found


def _colour(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]


def _resized(pixels: Pixels, size: tuple[int, int], box: tuple[float, float, float, float]) -> Pixels:
    height, width = pixels.shape[:2]
    if size == (width, height) and box == (0, 0, width, height):
        return pixels
    image = Image.fromarray(pixels)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=2.0))
