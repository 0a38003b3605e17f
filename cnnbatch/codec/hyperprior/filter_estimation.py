"""The adaptive filter of each image of one call of an encoder: what is decoded to find it, and what comes out."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.adaptive_filter.estimation import (
    PATCH_HALO,
    PATCH_SIDE,
    PATCHES,
    SEEN_PIXELS,
    WHOLE_PIXELS,
    Statistics,
    own_numbers,
    patch_places,
    statistics,
)
from cnnbatch.codec.adaptive_filter.kernels import REACH
from cnnbatch.codec.container.bitstream import Header
from cnnbatch.codec.geometry import BLOCK, Pixels
from cnnbatch.codec.hyperprior.inference import Int8Synthesis
from cnnbatch.codec.hyperprior.latent_encoder import LatentEncoder, QuantisedTile
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.hyperprior.windows import Window, latent_shape
from cnnbatch.codec.quantisation.quantised import QuantisedLatents

S = TypeVar("S", bound=np.generic)


class Seen(NamedTuple):
    """A part of an image that was looked at."""

    place: tuple[int, int]
    """Where it begins, in latent positions."""
    sums: Statistics
    """For all of its area, however many of its pixels were seen."""
    area: int
    """In pixels."""


class FilterSearch:
    """Looks for the filters of so many images as there are ``headers``."""

    def __init__(
        self, settings: HyperpriorSettings, latents: LatentEncoder, synthesis: Int8Synthesis, headers: Sequence[Header]
    ) -> None:
        self._settings, self._latents, self._synthesis, self._headers = settings, latents, synthesis, headers
        self._steps = [float(settings.step(torch.tensor(header.quality))) for header in headers]

    def whole(
        self,
        images: Sequence[int],
        windows: Sequence[Window],
        tiles: Sequence[QuantisedTile],
        x: Pixels,
        *,
        y: Tensor,
        quality: Tensor,
    ) -> list[list[Seen]]:
        """Decodes whole windows of these ``images``, one of each; ``x`` [N, H, W, 3] and ``y``: their pixels and their latents.

        Of their inner parts what is not beyond the image counts; a sample of its rows stands for all.
        """
        planes = self._synthesis.planes(self._latents.latents_of(tiles, y), quality)
        return [[self._whole(*one)] for one in zip(images, windows, planes, x, strict=True)]

    def _whole(self, image: int, window: Window, planes: Tensor, original: Pixels) -> Seen:
        (r, c), header = (window.rows, window.columns), self._headers[image]
        top, left = (r.inner_start - r.start) * BLOCK, (c.inner_start - c.start) * BLOCK
        bottom = top + min(r.inner_stop * BLOCK, header.height) - r.inner_start * BLOCK
        right = left + min(c.inner_stop * BLOCK, header.width) - c.inner_start * BLOCK
        around = planes[:, top : bottom + 2 * REACH, left : right + 2 * REACH]
        every = 1 + header.width * header.height // SEEN_PIXELS
        sums = self._statistics(image, around, original[top:bottom, left:right], every=every)
        area = (bottom - top) * (right - left)
        if sums.pixels:
            sums = sums.times(area / sums.pixels)._replace(pixels=area)
        return Seen((r.inner_start, c.inner_start), sums, area)

    def in_patches(
        self, images: Sequence[int], windows: Sequence[Window], tiles: Sequence[QuantisedTile], x: Pixels, *, quality: Tensor
    ) -> list[list[Seen]]:
        """Decodes a few `patch_places` of each tile, which stand for all of it, and nothing else."""
        seen: list[list[Seen]] = [[] for _ in images]
        for tile in tiles:
            rows, columns = tile.place
            shape = rows.stop - rows.start, columns.stop - columns.start
            chosen = [(n, r, c) for n, image in enumerate(images) for r, c in self._patch_places(shape, image)]
            if not chosen:
                continue
            sums = [Statistics.none() for _ in images]
            for (n, r, c), planes in zip(chosen, self._decoded(tile, chosen, quality), strict=True):
                top, left = (rows.start + r) * BLOCK, (columns.start + c) * BLOCK
                original = x[n, top : top + PATCH_SIDE * BLOCK, left : left + PATCH_SIDE * BLOCK]
                sums[n] = sums[n].plus(self._statistics(images[n], planes, original))
            area = shape[0] * shape[1] * BLOCK**2
            for window, one, parts in zip(windows, sums, seen, strict=True):
                place = window.rows.start + rows.start, window.columns.start + columns.start
                parts.append(Seen(place, one.times(area / max(1, one.pixels)), area))
        return seen

    def wants_all(self, image: int) -> bool:
        """Whether patches would not be much less than all of it, or have no room."""
        header = self._headers[image]
        shape = latent_shape(header.height, header.width)
        return min(shape) < PATCH_SIDE + 2 * PATCH_HALO or header.height * header.width <= WHOLE_PIXELS

    def numbers(self, image: int, parts: Sequence[Seen]) -> bytes:
        """The filter in the header of an image, from the ``parts`` of it that were looked at."""
        if not parts:
            return b""
        header, ordered = self._headers[image], sorted(parts, key=lambda part: part.place)
        pixels = header.height * header.width
        sums = functools.reduce(Statistics.plus, (part.sums for part in ordered))
        whole = sums.times(pixels / sum(part.area for part in ordered))
        quality = torch.tensor([header.quality], device=self._latents.device)
        weights = self._synthesis.filter_weights(quality)[0].cpu().numpy()
        bits_per_square = float(self._settings.lmbda(quality)) / 3
        return own_numbers(whole, weights, pixels=pixels, step=self._steps[image], bits_per_square=bits_per_square)

    def _patch_places(self, shape: tuple[int, int], image: int) -> Iterator[tuple[int, int]]:
        """Those of one tile of ``shape``: its share of the `PATCHES` of the image."""
        share = shape[0] * shape[1] * BLOCK**2 / (self._headers[image].height * self._headers[image].width)
        return patch_places(shape, math.ceil(PATCHES * min(1.0, share)))

    def _decoded(self, tile: QuantisedTile, chosen: Sequence[tuple[int, int, int]], quality: Tensor) -> Tensor:
        """Planes of patches (picture, row, column) of one tile, without their halo but `REACH` pixels of it."""

        def around(start: int) -> slice:
            return slice(start - PATCH_HALO, start + PATCH_SIDE + PATCH_HALO)

        places = [(n, around(r), around(c)) for n, r, c in chosen]

        def taken(part: npt.NDArray[S]) -> npt.NDArray[S]:
            return np.stack([part[place] for place in places])

        choice = QuantisedLatents(taken(tile.choice.symbols), taken(tile.choice.restored), taken(tile.choice.tables))
        means, steps = (torch.stack([part[place] for place in places]) for part in (tile.side.means, tile.side.steps))
        y_hat = self._latents.dequantise(choice, means, steps)
        planes = self._synthesis.planes(y_hat, quality[[n for n, *_ in chosen]])
        inner = slice(PATCH_HALO * BLOCK, (PATCH_HALO + PATCH_SIDE) * BLOCK + 2 * REACH)
        return planes[..., inner, inner]

    def _statistics(self, image: int, planes: Tensor, original: Pixels, *, every: int = 1) -> Statistics:
        return statistics(planes, torch.from_numpy(original).to(planes.device), self._steps[image], every=every)
