"""Entropy coding of one unit's latents: y ↔ bytes.

A unit is self-contained: its hyper-latents and both hyper nets see nothing of its neighbours, so a decoder can read any
unit alone. One stream holds the unit's ẑ and then its symbols r (`cnnbatch.codec.quantisation.scan`); symbols whose scale index
is below the settings' ``coded_from`` are zero and not in the stream.

Shapes: N units of one shape, a × b latent positions, M channels.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnbatch.codec.entropy_coding.rans import Decoder, encode
from cnnbatch.codec.entropy_coding.tables import Indexes, Symbols, Tables
from cnnbatch.codec.geometry import HYPER_BLOCK, Array
from cnnbatch.codec.hyperprior.hyper_latents import HyperTables
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.quantisation.dependent import Values, dequantise, state_machine
from cnnbatch.codec.quantisation.prediction import restore
from cnnbatch.codec.quantisation.prices import magnitude_bits, table_prices
from cnnbatch.codec.quantisation.quantised import Choice, chosen_values
from cnnbatch.codec.quantisation.scan import Coded, stream_symbols
from cnnbatch.codec.quantisation.trellis_search import TrellisQuantiser
from cnnbatch.codec.transforms.integer_layers import Z_MAX, indexes_of

T = TypeVar("T")


R = TypeVar("R")


S = TypeVar("S", bound=np.generic)


class Side(NamedTuple):
    """What an encoder knows of N units before it quantises them."""

    z: Symbols
    """[N, a/4, b/4, Cz], rounded up."""
    indexes: Indexes
    """Scale indexes [N, a, b, M]."""
    means: Tensor
    """[N, a, b, M], on the codec's device."""
    weights: npt.NDArray[np.float32]
    """[N, M]: bits that the quantiser counts for a squared unit of error."""
    context: npt.NDArray[np.float32]
    """[N, K, 4·K]: see `Hyperprior.context_weights`."""
    coded: Sequence[Coded]
    """N: what is in each unit's stream."""


class LatentCoder:
    """Codes units with the tables and integer offsets of one codec file."""

    def __init__(
        self, settings: HyperpriorSettings, arrays: Mapping[str, Array], model: Hyperprior, pool: ThreadPoolExecutor
    ) -> None:
        self.settings, self.model, self.tables, self.pool = settings, model, Tables.from_arrays(arrays), pool
        self.offsets = torch.from_numpy(arrays["scale_offset.table"].astype(np.float32))
        self.z_indexes = arrays["z_scale.table"]
        self.hyper = HyperTables.from_arrays(arrays)
        self.machine = state_machine(settings)
        self.quantiser = TrellisQuantiser(table_prices(self.tables, settings.num_scales), settings)

    def side(self, y: Tensor, quality: Tensor, *, bf16: bool) -> "Side":
        """``y`` [N, a, b, M], ``quality`` [N] in quarter steps exactly → what codes it.

        ``bf16``: h_a alone, whose result is in the stream; what the decoder computes too is never in bf16.
        """
        a, b = y.shape[1:3]
        beyond = -a % HYPER_BLOCK, -b % HYPER_BLOCK
        padded = F.pad(y, (0, 0, 0, beyond[1], 0, beyond[0])) if any(beyond) else y
        with torch.autocast(y.device.type, torch.bfloat16, enabled=bf16):
            z = self.model.h_a(padded, quality)
        z_hat = torch.floor(z.float().clamp(-Z_MAX, Z_MAX) + 0.5)
        indexes, means = self._hyper(z_hat, quality, a, b)
        weights = self.model.quantiser_weights(quality)
        z, context = z_hat.to(torch.int16).cpu().numpy(), self._context(quality)
        found = indexes.cpu().numpy()
        return Side(z, found, means, weights.cpu().numpy(), context, self._each(self._stream_symbols, found))

    def quantise(self, latents: Tensor, side: "Side") -> Choice:
        """Latents [N, a, b, M] → N quantised units."""
        arrays = (part.float().contiguous().cpu().numpy() for part in (latents, side.means))
        units = zip(*arrays, side.indexes, side.weights, side.context, side.coded, strict=True)
        return Choice(*map(_stacked, zip(*self._each(self._quantise_unit, units), strict=True)))

    def _quantise_unit(self, unit: tuple[Values, Values, Indexes, Values, Values, Coded]) -> Choice:
        latents, means, indexes, weights, context, coded = unit
        return self.quantiser(latents, indexes, weights, context, means=means, in_stream=coded)

    def bits(self, choice: Choice, side: "Side") -> npt.NDArray[np.float64]:
        """[N]: of the symbols of each unit, by the entropy coder's tables."""
        coded = side.indexes >= self.settings.coded_from
        escape = int(self.tables.radius.max()) + 1  # the largest magnitude that any table has a price for
        prices = magnitude_bits(self.tables, escape)
        magnitudes = np.minimum(np.abs(choice.symbols.astype(np.int32)), escape)
        found: npt.NDArray[np.float64] = np.where(coded, prices[choice.tables, magnitudes], 0).sum((1, 2, 3))
        return found

    def encode(self, choice: Choice, side: "Side", quality: Tensor) -> list[bytes]:
        """N quantised units → one stream for each."""
        units = zip(side.z, choice.symbols, choice.tables, side.coded, quality.tolist(), strict=True)
        return self._each(self._encode_unit, units)

    def decode(self, streams: Sequence[bytes | memoryview], shape: tuple[int, int], quality: Tensor) -> Tensor:
        """Streams of N units of a × b = ``shape`` → ŷ [N, a, b, M]; raises BitstreamError."""
        a, b = shape
        decoders = [Decoder(s, self.tables) for s in streams]
        rows, columns = -(-a // HYPER_BLOCK), -(-b // HYPER_BLOCK)
        static = [self._z_indexes(q) for q in quality.tolist()]
        z = self._each(lambda unit: self.hyper.decode(unit[0], (rows, columns), unit[1]), zip(decoders, static, strict=True))
        z_hat = torch.from_numpy(np.stack(z)).float().to(quality.device)
        indexes, means = self._hyper(z_hat, quality, a, b)
        r = self._each(self._decode_unit, zip(decoders, indexes.cpu().numpy(), strict=True))
        found = self._each(lambda unit: restore(*unit), zip(r, self._context(quality), strict=True))
        return self._with_means(_stacked(r), _stacked(found), means)

    def _context(self, quality: Tensor) -> npt.NDArray[np.float32]:
        weights: npt.NDArray[np.float32] = self.model.context_weights(quality).contiguous().cpu().numpy()
        return weights

    def dequantise(self, choice: Choice, means: Tensor) -> Tensor:
        """ŷ [N, a, b, M], as a decoder finds it."""
        return self._with_means(chosen_values(choice, self.settings), choice.found, means)

    def _with_means(self, values: npt.NDArray[np.float32], found: npt.NDArray[np.float32], means: Tensor) -> Tensor:
        """ŷ: dequantised symbols [N, a, b, M], the first K channels of which are ``found`` instead, and the means.

        On a CPU in ``values`` themselves, which must be the caller's own.
        """
        y_hat = torch.from_numpy(values).to(means.device)
        y_hat[..., : found.shape[-1]] = torch.from_numpy(found).to(means.device)
        return y_hat.add_(means)

    def _hyper(self, z_hat: Tensor, quality: Tensor, a: int, b: int) -> tuple[Tensor, Tensor]:
        """(scale indexes uint8 [N, a, b, M], means [N, a, b, M]); the indexes are exact."""
        steps = torch.round(quality * 4).long().cpu()
        positions = self.model.scale_net(z_hat)[:, :a, :b]
        indexes = indexes_of(positions, self.offsets[steps].to(z_hat.device), self.settings.num_scales)
        return indexes, self.model.mean_net(z_hat, quality)[:, :a, :b]

    def in_stream(self, z: Symbols, r: Symbols, tables: Indexes, coded: Coded, quality: float) -> tuple[Symbols, Indexes]:
        """What the stream of one unit holds: symbols and their tables, in order."""
        z_symbols, z_indexes = self.hyper.encode(z, self._z_indexes(quality))
        symbols, indexes = _with_coded(z_symbols, z_indexes, r.reshape(-1), tables.reshape(-1), coded.places)
        return symbols, indexes

    def _encode_unit(self, unit: tuple[Symbols, Symbols, Indexes, Coded, float]) -> bytes:
        return encode(*self.in_stream(*unit), self.tables)

    def _decode_unit(self, unit: tuple[Decoder, Indexes]) -> npt.NDArray[np.float32]:
        """Dequantised symbols [a, b, M], without means and predictions."""
        decoder, indexes = unit
        places = self._stream_symbols(indexes).places
        coded = indexes.reshape(-1)[places]
        symbols = decoder.decode(coded, self.machine)
        decoder.finish()
        values = np.zeros(indexes.shape, np.float32)
        values.reshape(-1)[places] = dequantise(symbols, coded, self.settings)
        return values

    def _stream_symbols(self, indexes: Indexes) -> Coded:
        return stream_symbols(self.settings, indexes, self.settings.context_channels)

    def _z_indexes(self, quality: float) -> Indexes:
        """Scale index of each hyper-latent channel."""
        indexes: Indexes = self.z_indexes[round(quality * 4)]
        return indexes

    def _each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        work = list(items)
        if len(work) == 1:  # waking another thread for it takes longer than it helps
            return [function(work[0])]
        return list(self.pool.map(function, work))


def _stacked(parts: Sequence[npt.NDArray[S]]) -> npt.NDArray[S]:
    """`numpy.stack`, but one array is not copied."""
    return parts[0][None] if len(parts) == 1 else np.stack(parts)


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
