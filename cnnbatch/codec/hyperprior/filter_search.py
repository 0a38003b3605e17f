"""The post-filters of the images of one call of an encoder: what is decoded to find them, tile by tile, and what comes out."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.adaptive_filter.estimation import (
    SEEN_PIXELS,
    WHOLE_PIXELS,
    WINDOW,
    WINDOW_HALO,
    WINDOWS,
    Statistics,
    own_numbers,
    statistics,
    windows,
)
from cnnbatch.codec.adaptive_filter.filtering import REACH
from cnnbatch.codec.container.bitstream import Header
from cnnbatch.codec.geometry import BLOCK
from cnnbatch.codec.hyperprior.latent_codec import LatentCoder
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.refinement import Unit, latents_of
from cnnbatch.codec.hyperprior.tiling import Tile, latent_shape
from cnnbatch.codec.quantisation.quantised import Choice

Originals = npt.NDArray[np.uint8]


S = TypeVar("S", bound=np.generic)


class FilterSearch:
    """Statistics of so many images as there are ``headers``; tiles may be looked at from several threads.

    Of each part that was looked at: sums for all of its area, and that area in pixels.
    """

    def __init__(self, model: Hyperprior, coder: LatentCoder, headers: Sequence[Header]) -> None:
        self.model, self.coder, self.headers = model, coder, headers
        self._steps = [float(model.settings.step(torch.tensor(header.quality))) for header in headers]
        self._found: list[dict[tuple[int, int], tuple[Statistics, int]]] = [{} for _ in headers]

    def look_at_all(
        self, images: Sequence[int], tiles: Sequence[Tile], units: Sequence[Unit], x: Originals, *, y: Tensor, quality: Tensor
    ) -> None:
        """Decodes whole tiles of these ``images``; ``x`` [N, H, W, 3] and ``y``: their pixels and their latents.

        Of their inner parts what is not beyond the image counts; a sample of its rows stands for all.
        """
        planes = self.model.g_s.planes(latents_of(self.coder, units, y), quality)
        for image, tile, picture, original in zip(images, tiles, planes, x, strict=True):
            (r, c), header = (tile.rows, tile.columns), self.headers[image]
            top, left = (r.inner_start - r.start) * BLOCK, (c.inner_start - c.start) * BLOCK
            bottom = top + min(r.inner_stop * BLOCK, header.height) - r.inner_start * BLOCK
            right = left + min(c.inner_stop * BLOCK, header.width) - c.inner_start * BLOCK
            around = picture[:, top : bottom + 2 * REACH, left : right + 2 * REACH]
            every = 1 + header.width * header.height // SEEN_PIXELS
            found = self._statistics(image, around, original[top:bottom, left:right], every=every)
            area = (bottom - top) * (right - left)
            if found.pixels:
                found = found.times(area / found.pixels)._replace(pixels=area)
            self._found[image][r.inner_start, c.inner_start] = found, area

    def look_at_windows(
        self, images: Sequence[int], tiles: Sequence[Tile], units: Sequence[Unit], x: Originals, *, quality: Tensor
    ) -> None:
        """Decodes a few `windows` of each unit, which stand for all of it, and nothing else."""
        for unit in units:
            rows, columns = unit.place
            shape = rows.stop - rows.start, columns.stop - columns.start
            chosen = [(n, r, c) for n, image in enumerate(images) for r, c in self._windows(shape, image)]
            if not chosen:
                continue
            planes = self._decoded(unit, chosen, quality)
            found = [Statistics.none() for _ in images]
            for (n, r, c), picture in zip(chosen, planes, strict=True):
                top, left = (rows.start + r) * BLOCK, (columns.start + c) * BLOCK
                original = x[n, top : top + WINDOW * BLOCK, left : left + WINDOW * BLOCK]
                found[n] = found[n].plus(self._statistics(images[n], picture, original))
            area = shape[0] * shape[1] * BLOCK**2
            for image, tile, one in zip(images, tiles, found, strict=True):
                place = tile.rows.start + rows.start, tile.columns.start + columns.start
                self._found[image][place] = one.times(area / max(1, one.pixels)), area

    def wants_all(self, image: int) -> bool:
        """Whether windows would not be much less than all of it, or have no room."""
        header = self.headers[image]
        shape = latent_shape(header.height, header.width)
        return min(shape) < WINDOW + 2 * WINDOW_HALO or header.height * header.width <= WHOLE_PIXELS

    def numbers(self) -> list[bytes]:
        """What each header says of its image's filter."""
        return [self._numbers(image) for image in range(len(self.headers))]

    def _windows(self, shape: tuple[int, int], image: int) -> Iterator[tuple[int, int]]:
        """Those of one unit of ``shape``: its share of the `WINDOWS` of the image."""
        share = shape[0] * shape[1] * BLOCK**2 / (self.headers[image].height * self.headers[image].width)
        return windows(shape, math.ceil(WINDOWS * min(1.0, share)))

    def _decoded(self, unit: Unit, chosen: Sequence[tuple[int, int, int]], quality: Tensor) -> Tensor:
        """Planes of windows (picture, row, column) of one unit, without their halo but `REACH` pixels of it."""

        def around(start: int) -> slice:
            return slice(start - WINDOW_HALO, start + WINDOW + WINDOW_HALO)

        places = [(n, around(r), around(c)) for n, r, c in chosen]

        def taken(part: npt.NDArray[S]) -> npt.NDArray[S]:
            return np.stack([part[place] for place in places])

        choice = Choice(taken(unit.choice.symbols), taken(unit.choice.found), taken(unit.choice.tables))
        means = torch.stack([unit.side.means[place] for place in places])
        y_hat = self.coder.dequantise(choice, means)
        planes: Tensor = self.model.g_s.planes(y_hat, quality[[n for n, *_ in chosen]])
        inner = slice(WINDOW_HALO * BLOCK, (WINDOW_HALO + WINDOW) * BLOCK + 2 * REACH)
        return planes[..., inner, inner]

    def _statistics(self, image: int, planes: Tensor, original: Originals, *, every: int = 1) -> Statistics:
        return statistics(planes, torch.from_numpy(original).to(planes.device), self._steps[image], every=every)

    def _numbers(self, image: int) -> bytes:
        header, parts = self.headers[image], self._found[image]
        if not parts:
            return b""
        found, areas = zip(*(parts[place] for place in sorted(parts)), strict=True)
        pixels = header.height * header.width
        whole = functools.reduce(Statistics.plus, found).times(pixels / sum(areas))
        quality = torch.tensor([header.quality])
        with torch.inference_mode():
            anchors = self.model.g_s.post_filter.anchors
            weights = self.model.g_s.filter_weights(quality.to(anchors.device))[0].cpu().numpy()
        bits_per_square = float(self.model.settings.lmbda(quality)) / 3
        return own_numbers(whole, weights, pixels=pixels, step=self._steps[image], bits_per_square=bits_per_square)
