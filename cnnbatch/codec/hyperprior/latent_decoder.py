"""Entropy decoding of tiles: bytes → ŷ.

A tile is self-contained: its hyper-latents and both hyper nets see nothing of its neighbours, so a decoder can read any tile
alone. One stream holds the tile's ẑ and then its symbols r (`cnnbatch.codec.quantisation.scan`); symbols whose scale index is
below the settings' ``coded_from`` are zero and not in the stream.

Shapes: N tiles of one shape, a × b latent positions, M channels.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.entropy_coding.rans import Decoder
from cnnbatch.codec.entropy_coding.tables import Indexes, Tables
from cnnbatch.codec.geometry import HYPER_BLOCK, Array
from cnnbatch.codec.hyperprior.hyper_latents import HyperTables
from cnnbatch.codec.hyperprior.inference import DecodingNetworks
from cnnbatch.codec.quantisation.dependent import Values, dequantise, state_machine
from cnnbatch.codec.quantisation.prediction import restore
from cnnbatch.codec.quantisation.scan import Coded, stream_symbols
from cnnbatch.codec.transforms.exact_layers import indexes_of
from cnnbatch.processes import Threads

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S", bound=np.generic)


class HyperSynthesis(NamedTuple):
    """Side information that ẑ gives for the latents of N tiles."""

    indexes: Tensor
    """Scale indexes uint8 [N, a, b, M], exact."""
    means: Tensor
    """[N, a, b, M], in units of the local step."""
    steps: Tensor
    """Local quantisation steps in units of Δ(q), of the same shape."""


class LatentDecoder:
    """Decodes tiles with the tables and integer offsets of one codec file."""

    def __init__(self, arrays: Mapping[str, Array], networks: DecodingNetworks, threads: Threads) -> None:
        self.settings, self.networks, self.threads = networks.settings, networks, threads
        self.tables = Tables.from_arrays(arrays)
        self.hyper = HyperTables.from_arrays(arrays)
        self._offsets = torch.from_numpy(arrays["scale_offset.table"].astype(np.float32))
        self._z_indexes = arrays["z_scale.table"]
        self._machine = state_machine(self.settings)

    def decode(self, streams: Sequence[bytes | memoryview], shape: tuple[int, int], quality: Tensor) -> Tensor:
        """Streams of N tiles of a × b = ``shape``, ``quality`` [N] → ŷ [N, a, b, M]; raises BitstreamError."""
        a, b = shape
        decoders = [Decoder(stream, self.tables) for stream in streams]
        hyper_shape = -(-a // HYPER_BLOCK), -(-b // HYPER_BLOCK)
        static = [self.z_indexes(q) for q in quality.tolist()]
        z = self.each(lambda tile: self.hyper.decode(tile[0], hyper_shape, tile[1]), zip(decoders, static, strict=True))
        z_hat = torch.from_numpy(np.stack(z)).float().to(quality.device)
        indexes, means, steps = self.hyper_synthesis(z_hat, quality, shape)
        r = self.each(self._decode_tile, zip(decoders, indexes.cpu().numpy(), strict=True))
        predicted = self.each(lambda tile: restore(*tile), zip(r, self.prediction_weights(quality), strict=True))
        return dequantised(stacked(r), stacked(predicted), means, steps)

    def hyper_synthesis(self, z_hat: Tensor, quality: Tensor, shape: tuple[int, int]) -> HyperSynthesis:
        """ẑ [N, ⌈a/4⌉, ⌈b/4⌉, Cz], ``quality`` [N] in quarter steps exactly."""
        a, b = shape
        quarters = torch.round(quality * 4).long().cpu()
        positions = self.networks.scale_net(z_hat)[:, :a, :b]
        indexes = indexes_of(positions, self._offsets[quarters].to(z_hat.device), self.settings.num_scales)
        means, steps = self.networks.mean_net(z_hat, quality)
        return HyperSynthesis(indexes, means[:, :a, :b], steps[:, :a, :b])

    def prediction_weights(self, quality: Tensor) -> Values:
        """[N, K, 4·K], see `DecodingNetworks.prediction_weights`."""
        weights: Values = self.networks.prediction_weights(quality).contiguous().cpu().numpy()
        return weights

    def scan(self, indexes: Indexes) -> Coded:
        """Which symbols are in the stream of a tile with these scale indexes [a, b, M], and in which order."""
        return stream_symbols(self.settings, indexes, self.settings.predicted_channels)

    def z_indexes(self, quality: float) -> Indexes:
        """Scale index of each hyper-latent channel."""
        indexes: Indexes = self._z_indexes[round(quality * 4)]
        return indexes

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``function`` of every tile, on the codec's threads."""
        work = list(items)
        if len(work) == 1:  # waking another thread for it takes longer than it helps
            return [function(work[0])]
        return list(self.threads.map(function, work))

    def _decode_tile(self, tile: tuple[Decoder, Indexes]) -> Values:
        """Dequantised symbols [a, b, M], without means and predictions."""
        decoder, indexes = tile
        places = self.scan(indexes).places
        coded = indexes.reshape(-1).take(places)
        symbols = decoder.decode(coded, self._machine)
        decoder.finish()
        return dequantise(symbols, coded, places, indexes.shape, self.settings)


def dequantised(values: Values, predicted: Values, means: Tensor, steps: Tensor) -> Tensor:
    """ŷ: ``values`` of the symbols [N, a, b, M], the first K channels of which are ``predicted`` instead, and the means, times
    the local steps.

    On a CPU in ``values`` themselves, which must be the caller's own.
    """
    y_hat = torch.from_numpy(values).to(means.device)
    y_hat[..., : predicted.shape[-1]] = torch.from_numpy(predicted).to(means.device)
    return y_hat.add_(means).mul_(steps)


def stacked(parts: Sequence[npt.NDArray[S]]) -> npt.NDArray[S]:
    """`numpy.stack`, but one array is not copied."""
    return parts[0][None] if len(parts) == 1 else np.stack(parts)
