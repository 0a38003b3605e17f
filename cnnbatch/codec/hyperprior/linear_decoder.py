"""The decoder without a network and without torch: drafts, and pictures at half their size down to a sixteenth.

    stream → ŷ → linear bypass ─┬─ lapped transform → a filter for each class of place (`DraftFilter`) → draft
                                └─ the same basis functions, made smaller by a box filter → reduced picture

A draft is near what the full decoder gives, in a third of its time; only the full one says what a picture is. A reduced
picture is computed at its own size; a sixteenth needs only the channels that are predicted, which come first in a stream.

Shapes: h × w latent positions of a window, M latent channels, of which the first C are wanted.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import TypeVar

import numpy as np

from cnnbatch.codec.adaptive_filter.kernels import COLOURS
from cnnbatch.codec.container.bitstream import Bitstream, Header
from cnnbatch.codec.geometry import BLOCK, GREY, Pixels, Region, reduced_size, uncoloured
from cnnbatch.codec.hyperprior.basis import ReducedBasis
from cnnbatch.codec.hyperprior.draft_filter import DraftFilter
from cnnbatch.codec.hyperprior.parsing import BitstreamParser
from cnnbatch.codec.hyperprior.tile_decoder import TileDecoder
from cnnbatch.codec.hyperprior.windows import TileJob, latent_shape, moved, overlap, region_window, tile_jobs
from cnnbatch.codec.interface import Keep, Limits, Parsed, naming
from cnnbatch.codec.transforms.integer_arrays import Floats
from cnnbatch.codec.transforms.lapped_kernels import lapped_planes
from cnnbatch.codec.transforms.products import panels, product
from cnnbatch.codec.transforms.quality_laws import curve_at
from cnnbatch.processes import Threads

T = TypeVar("T")

HALO = 1
"""Latent positions that a pixel depends on beyond its own: half a block, and what the filter sees."""

WINDOW_SIDE = 1024
"""Source pixels of a part that is made at once: a processor's caches hold no more."""

Place = tuple[slice, slice]
"""Rows and columns."""


class LinearDecoder:
    """Decodes bitstreams of one codec file on a CPU; a `cnnbatch.codec.interface.QuickDecoder`."""

    def __init__(self, file: Parsed, *, limits: Limits, threads: int) -> None:
        """Its methods raise CodecFileError for arrays that cannot be, or if the scale net computes differently here."""
        self._parse = BitstreamParser(file, limits)
        self._scaled = cache(lambda by: _Scaled(file, by))
        self._pool = Threads(threads, "draft") if threads > 1 else None

    def reconstruct(self, bitstreams: Sequence[bytes], by: int) -> list[Pixels]:
        """Drafts, or pictures reduced ``by`` a number; raises BitstreamError, which names the damaged one."""
        parsed, scaled = self._parse(bitstreams), self._scaled(by)
        headers = [one.header for one in parsed]
        latents = [np.empty((*latent_shape(h.height, h.width), scaled.tiles.wanted), np.float32) for h in headers]

        def decode(job: TileJob) -> None:
            latents[job.image][job.rows, job.columns] = _tile(scaled, parsed[job.image], job)

        self._each(decode, (job for image, header in enumerate(headers) for job in tile_jobs(image, header)))
        images = [np.empty((*reduced_size(h.height, h.width, by), COLOURS), np.uint8) for h in headers]

        def render(part: tuple[int, Region]) -> None:
            image, piece = part
            scaled.fill(images[image][piece.within(_whole(images[image]))], piece, latents[image], (0, 0), headers[image])

        self._each(render, ((n, piece) for n, image in enumerate(images) for piece in _whole(image).pieces(WINDOW_SIDE // by)))
        return [uncoloured(image, gray=h.gray, neutral=h.neutral) for image, h in zip(images, headers, strict=True)]

    def reconstruct_region(self, bitstream: bytes, region: Region, by: int, keep: Keep | None = None) -> Pixels:
        """The pixels of ``region`` as `reconstruct` gives them; ``keep`` has the ŷ of tiles that it was given before.

        Raises BitstreamError, and ValueError if it is not inside.
        """
        [parsed], scaled = self._parse([bitstream]), self._scaled(by)
        header = parsed.header
        region.check(*reduced_size(header.height, header.width, by))
        rows, columns = _around(region, by, header)
        y_hat = np.empty((rows.stop - rows.start, columns.stop - columns.start, scaled.tiles.wanted), np.float32)

        def decode(job: TileJob) -> None:
            common = overlap(rows, job.rows), overlap(columns, job.columns)
            if all(part.stop > part.start for part in common):
                make = partial(_tile, scaled, parsed, job)
                tile = make() if keep is None else keep((job.number, scaled.tiles.wanted), make)
                y_hat[moved(common, rows, columns)] = tile[moved(common, job.rows, job.columns)]

        self._each(decode, tile_jobs(0, header))
        image = np.empty((region.height, region.width, COLOURS), np.uint8)

        def render(piece: Region) -> None:
            scaled.fill(image[piece.within(region)], piece, y_hat, (rows.start, columns.start), header)

        self._each(render, region.pieces(WINDOW_SIDE // by))
        return uncoloured(image, gray=header.gray, neutral=header.neutral)

    def planes(self, bitstream: bytes) -> tuple[Floats, float]:
        """The input of a draft's filter, for a picture of one tile, and its Δ(q); raises BitstreamError."""
        [parsed], scaled = self._parse([bitstream]), self._scaled(1)
        [job] = tile_jobs(0, parsed.header)
        return scaled.planes(_tile(scaled, parsed, job), parsed.header.quality), scaled.step(parsed.header.quality)

    def _each(self, function: Callable[[T], None], items: Iterable[T]) -> None:
        parts = list(items)
        for _ in (map if self._pool is None or len(parts) == 1 else self._pool.map)(function, parts):
            pass


class _Scaled:
    """A decoder to pictures of one size."""

    def __init__(self, file: Parsed, by: int) -> None:
        arrays = file.arrays
        self._by, self._settings, self._gain = by, file.settings, arrays["g_s.latent_gain.anchors"]
        self._basis = ReducedBasis(arrays, by, file.settings.predicted_channels) if by > 1 else None
        self._lapping, self._bypass = arrays["g_s.postfilter.weight"], _patched(arrays["g_s.bypass.weight"])
        self._filter = DraftFilter(arrays)
        self.tiles = TileDecoder(file, file.settings.latent_channels if self._basis is None else self._basis.channels)

    def step(self, quality: float) -> float:
        """Δ(q)."""
        return float(self._settings.step(quality))

    def fill(self, target: Pixels, piece: Region, y_hat: Floats, start: tuple[int, int], header: Header) -> None:
        """The pixels of ``piece`` of a picture to ``target``; ``y_hat`` begins at the latent position ``start``."""
        rows, columns = _around(piece, self._by, header)
        here = y_hat[moved((rows, columns), slice(start[0], None), slice(start[1], None))]
        step = self.step(header.quality)
        gain = np.exp(curve_at(self._gain[:, : here.shape[2]], header.quality))
        if self._basis is None:
            pixels = self._filter(self._planes(here, gain, step), header.quality, step)
        else:
            h, w = latent_shape(header.height, header.width)
            edges = (rows.start == 0, rows.stop == h), (columns.start == 0, columns.stop == w)
            picture = self._basis(here, gain * np.float32(step), edges) + np.float32(GREY + 0.5)
            pixels = np.clip(picture, 0, 255, out=picture).astype(np.uint8)
        covered = Region(rows.start * BLOCK // self._by, columns.start * BLOCK // self._by, *pixels.shape[:2])
        target[:] = pixels[piece.within(covered)]

    def planes(self, y_hat: Floats, quality: float) -> Floats:
        """The input of a draft's filter, from all of ``y_hat``."""
        gain = np.exp(curve_at(self._gain, quality))
        return self._planes(y_hat, gain, self.step(quality))

    def _planes(self, y_hat: Floats, gain: Floats, step: float) -> Floats:
        patches = product(y_hat, gain, self._bypass).reshape(1, *y_hat.shape[:2], -1)
        none = np.empty((1, 0, 0, 0), np.float32)
        planes: Floats = lapped_planes(patches, none, self._lapping, np.array([step], np.float32), GREY)[0]
        return planes


def _tile(scaled: _Scaled, parsed: Bitstream, job: TileJob) -> Floats:
    with naming(job.image):
        return scaled.tiles.decode(parsed.check_tile(job.number), job.shape, parsed.header.quality)


def _whole(image: Pixels) -> Region:
    return Region(0, 0, *image.shape[:2])


def _around(piece: Region, by: int, header: Header) -> Place:
    """The latent positions that the pixels of ``piece`` of a reduced picture depend on."""
    source = Region(piece.top * by, piece.left * by, piece.height * by, piece.width * by)
    return region_window(source, latent_shape(header.height, header.width), HALO)


def _patched(bypass: Floats) -> Floats:
    """[768, M] → panels of [M, 4·192], the four patches of 8×8 pixels of a block after each other."""
    half = BLOCK // 2
    split = bypass.astype(np.float32).reshape(2, half, 2, half, COLOURS, -1).transpose(0, 2, 1, 3, 4, 5)
    return panels(split.reshape(bypass.shape[0], -1).T)
