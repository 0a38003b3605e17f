"""Quantisation and entropy coding of tiles: y → bytes, for `LatentDecoder`.

Shapes: N tiles of one shape, a × b latent positions, M channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnbatch.codec.entropy_coding.rans import encode
from cnnbatch.codec.entropy_coding.tables import Indexes, Symbols
from cnnbatch.codec.geometry import HYPER_BLOCK
from cnnbatch.codec.hyperprior.distortion import quantiser_weights
from cnnbatch.codec.hyperprior.hyper_transforms import HyperAnalysis
from cnnbatch.codec.hyperprior.latent_decoder import LatentDecoder, dequantised, stacked
from cnnbatch.codec.hyperprior.synthesis import Synthesis
from cnnbatch.codec.quantisation.dependent import Values
from cnnbatch.codec.quantisation.prices import magnitude_bits, table_prices
from cnnbatch.codec.quantisation.quantised import QuantisedLatents, chosen_values
from cnnbatch.codec.quantisation.scan import Coded
from cnnbatch.codec.quantisation.trellis_search import TrellisQuantiser
from cnnbatch.codec.transforms.integer_kernels import Z_MAX


class SideInformation(NamedTuple):
    """An encoder's knowledge of N tiles before it quantises them."""

    z: Symbols
    """[N, ⌈a/4⌉, ⌈b/4⌉, Cz], ẑ."""
    indexes: Indexes
    """Scale indexes [N, a, b, M]."""
    means: Tensor
    """[N, a, b, M], on the codec's device, in units of the local step."""
    steps: Tensor
    """Local quantisation steps in units of Δ(q), of the same shape."""
    weights: Values
    """[N, M]: bits that the quantiser counts for a squared unit of error."""
    prediction: Values
    """[N, K, 4·K]: see `DecodingNetworks.prediction_weights`."""
    coded: Sequence[Coded]
    """N: what is in each tile's stream."""


class QuantisedTile(NamedTuple):
    """The same tile of every window of a batch, quantised."""

    place: tuple[slice, slice]
    """Where in its window, in latent positions."""
    side: SideInformation
    choice: QuantisedLatents


class LatentEncoder:
    """Quantises and encodes what a `LatentDecoder` decodes."""

    def __init__(self, decoder: LatentDecoder, hyper_analysis: HyperAnalysis, synthesis: Synthesis) -> None:
        """``synthesis``: what tells how much an error in a latent is worth."""
        self._decoder, self.hyper_analysis, self._synthesis = decoder, hyper_analysis, synthesis
        self._settings, self._tables = decoder.settings, decoder.tables
        prices = table_prices(self._tables, self._settings.num_scales)
        self._quantiser = TrellisQuantiser(prices, self._settings)

    @property
    def device(self) -> torch.device:
        """Where latents are."""
        return self._synthesis.bypass.weight.device

    def quantised(self, y: Tensor, place: tuple[slice, slice], quality: Tensor, *, bf16: bool) -> QuantisedTile:
        """The tile at ``place`` of latents ``y`` [N, h, w, M], see `side_information`."""
        latents = y[:, *place]
        side = self.side_information(latents, quality, bf16=bf16)
        return QuantisedTile(place, side, self.quantise(latents, side))

    def side_information(self, y: Tensor, quality: Tensor, *, bf16: bool) -> SideInformation:
        """``y`` [N, a, b, M], ``quality`` [N] in quarter steps exactly → what codes it.

        ``bf16``: h_a alone, whose result is in the stream; what the decoder computes too is never in bf16.
        """
        a, b = y.shape[1:3]
        beyond = -a % HYPER_BLOCK, -b % HYPER_BLOCK
        padded = F.pad(y, (0, 0, 0, beyond[1], 0, beyond[0])) if any(beyond) else y
        with torch.autocast(y.device.type, torch.bfloat16, enabled=bf16):
            z = self.hyper_analysis(padded, quality)
        z_hat = torch.floor(z.float().clamp(-Z_MAX, Z_MAX) + 0.5)
        indexes, means, steps = self._decoder.hyper_synthesis(z_hat, quality, (a, b))
        weights = quantiser_weights(self._synthesis, quality)
        host = indexes.cpu().numpy()
        return SideInformation(
            z=z_hat.to(torch.int16).cpu().numpy(),
            indexes=host,
            means=means,
            steps=steps,
            weights=weights.cpu().numpy(),
            prediction=self._decoder.prediction_weights(quality),
            coded=self._decoder.each(self._decoder.scan, host),
        )

    def quantise(self, latents: Tensor, side: SideInformation) -> QuantisedLatents:
        """Latents [N, a, b, M] → N quantised tiles."""
        arrays = (part.float().contiguous().cpu().numpy() for part in (latents / side.steps, side.means))
        tiles = zip(*arrays, side.indexes, side.weights, side.prediction, side.coded, strict=True)
        return QuantisedLatents(*map(stacked, zip(*self._decoder.each(self._quantise_tile, tiles), strict=True)))

    def _quantise_tile(self, tile: tuple[Values, Values, Indexes, Values, Values, Coded]) -> QuantisedLatents:
        latents, means, indexes, weights, prediction, coded = tile
        return self._quantiser(latents, indexes, weights, prediction, means=means, in_stream=coded)

    def bits(self, choice: QuantisedLatents, side: SideInformation) -> npt.NDArray[np.float64]:
        """[N]: of the symbols of each tile, by the entropy coder's tables."""
        coded = side.indexes >= self._settings.coded_from
        escape = int(self._tables.radius.max()) + 1  # the largest magnitude that any table has a price for
        prices = magnitude_bits(self._tables, escape)
        magnitudes = np.minimum(np.abs(choice.symbols.astype(np.int32)), escape)
        found: npt.NDArray[np.float64] = np.where(coded, prices[choice.tables, magnitudes], 0).sum((1, 2, 3))
        return found

    def dequantise(self, choice: QuantisedLatents, means: Tensor, steps: Tensor) -> Tensor:
        """ŷ [N, a, b, M], as a decoder finds it."""
        return dequantised(chosen_values(choice, self._settings), choice.restored, means, steps)

    def latents_of(self, tiles: Sequence[QuantisedTile], y: Tensor) -> Tensor:
        """ŷ of a window: as a decoder finds it in its tiles, elsewhere ``y``."""
        y_hat = y.clone()
        for tile in tiles:
            y_hat[:, *tile.place] = self.dequantise(tile.choice, tile.side.means, tile.side.steps)
        return y_hat

    def encode(self, tile: QuantisedTile, quality: Tensor) -> list[bytes]:
        """One stream for each of the N tiles."""
        side, choice = tile.side, tile.choice
        tiles = zip(side.z, choice.symbols, choice.tables, side.coded, quality.tolist(), strict=True)
        return self._decoder.each(lambda one: encode(*self.in_stream(*one), self._tables), tiles)

    def in_stream(self, z: Symbols, r: Symbols, tables: Indexes, coded: Coded, quality: float) -> tuple[Symbols, Indexes]:
        """The symbols in the stream of one tile and their tables, in order."""
        z_symbols, z_indexes = self._decoder.hyper.encode(z, self._decoder.z_indexes(quality))
        symbols, indexes = _with_coded(z_symbols, z_indexes, r.reshape(-1), tables.reshape(-1), coded.places)
        return symbols, indexes


@numba.njit(nogil=True, cache=True)
def _with_coded(symbols, indexes, others, tables, places):  # type: ignore[no-untyped-def]
    """Symbols and their table indexes, and after them ``others`` at ``places`` with their ``tables``."""
    first, total = symbols.size, symbols.size + places.size
    both = np.empty(total, np.int16), np.empty(total, np.uint8)
    for i in range(first):  # slices would take seconds more to compile, for the message of an error
        both[0][i], both[1][i] = symbols[i], indexes[i]
    for i in range(places.size):
        both[0][first + i], both[1][first + i] = others[places[i]], tables[places[i]]
    return both
