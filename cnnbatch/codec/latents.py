"""Entropy coding of one unit's latents: y ↔ bytes.

A unit is self-contained: its hyper-latents and both hyper nets see nothing of its neighbours, so a decoder can read any
unit alone. One stream holds the unit's ẑ and then its symbols r in raster order, channels innermost; symbols whose scale
index is below the settings' ``coded_from`` are zero and not in the stream.

Shapes: N units of one shape, a × b latent positions, M channels.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnbatch.codec.architecture import Array
from cnnbatch.codec.hyperprior import HYPER_BLOCK, Hyperprior, HyperpriorSettings
from cnnbatch.codec.scale_net import Z_MAX
from cnnbatch.rans import SYMBOL_LIMIT, Decoder, Indexes, Symbols, Tables, encode

LANES_FROM = 1 << 17
"""Units with at least this many latents use four lanes; below, three more states would cost more than they save."""

T = TypeVar("T")
R = TypeVar("R")


class LatentCoder:
    """Codes units with the tables and integer offsets of one codec file."""

    def __init__(
        self, settings: HyperpriorSettings, arrays: Mapping[str, Array], model: Hyperprior, pool: ThreadPoolExecutor
    ) -> None:
        self.settings, self.model, self.tables, self.pool = settings, model, Tables.from_arrays(arrays), pool
        self.offsets = torch.from_numpy(arrays["scale_offset.table"].astype(np.float32))
        self.z_indexes = arrays["z_scale.table"]

    def encode(self, y: Tensor, quality: Tensor, *, bf16: bool) -> list[bytes]:
        """``y`` [N, a, b, M], ``quality`` [N] in quarter steps exactly → one stream for each unit.

        ``bf16``: h_a alone, whose result is in the stream; what the decoder computes too is never in bf16.
        """
        a, b = y.shape[1:3]
        padded = F.pad(y, (0, 0, 0, -b % HYPER_BLOCK, 0, -a % HYPER_BLOCK))
        with torch.autocast(y.device.type, torch.bfloat16, enabled=bf16):
            z = self.model.h_a(padded.bfloat16() if bf16 else padded, quality)
        z_hat = torch.floor(z.float().clamp(-Z_MAX, Z_MAX) + 0.5)
        indexes, means = self._hyper(z_hat, quality, a, b)
        r = (y - means).add_(0.5).floor_().clamp_(-SYMBOL_LIMIT, SYMBOL_LIMIT)
        z_symbols, symbols = (t.to(torch.int16).cpu().numpy() for t in (z_hat, r))
        units = zip(z_symbols, symbols, indexes.cpu().numpy(), quality.tolist(), strict=True)
        return self._each(self._encode_unit, units)

    def decode(self, streams: Sequence[bytes | memoryview], shape: tuple[int, int], quality: Tensor) -> Tensor:
        """Streams of N units of a × b = ``shape`` → ŷ [N, a, b, M]; raises BitstreamError."""
        a, b = shape
        lanes = self._lanes(a * b)
        decoders = [Decoder(s, self.tables, lanes=lanes) for s in streams]
        rows, columns = -(-a // HYPER_BLOCK), -(-b // HYPER_BLOCK)
        z_indexes = [self._z_indexes(q, rows * columns) for q in quality.tolist()]
        z = self._each(lambda unit: unit[0].decode(unit[1]), zip(decoders, z_indexes, strict=True))
        z_hat = torch.from_numpy(np.stack(z)).float().reshape(len(streams), rows, columns, -1).to(quality.device)
        indexes, means = self._hyper(z_hat, quality, a, b)
        r = self._each(self._decode_unit, zip(decoders, indexes.cpu().numpy(), strict=True))
        return torch.from_numpy(np.stack(r)).to(quality.device).float() + means

    def _hyper(self, z_hat: Tensor, quality: Tensor, a: int, b: int) -> tuple[Tensor, Tensor]:
        """(scale indexes uint8 [N, a, b, M], means [N, a, b, M]); the indexes are exact."""
        steps = torch.round(quality * 4).long().cpu()
        offsets = self.offsets[steps].to(z_hat.device)[:, None, None, :]
        positions = self.model.scale_net(z_hat)[:, :a, :b].add_(0.5).floor_().add_(offsets)
        indexes = positions.clamp_(0, self.settings.num_scales - 1).to(torch.uint8)
        return indexes, self.model.mean_net(z_hat, quality)[:, :a, :b]

    def _encode_unit(self, unit: tuple[Symbols, Symbols, Indexes, float]) -> bytes:
        z, r, indexes, quality = unit
        coded = indexes >= self.settings.coded_from
        symbols = np.concatenate([z.ravel(), r[coded]])
        all_indexes = np.concatenate([self._z_indexes(quality, z.shape[0] * z.shape[1]), indexes[coded]])
        return encode(symbols, all_indexes, self.tables, lanes=self._lanes(r.shape[0] * r.shape[1]))

    def _decode_unit(self, unit: tuple[Decoder, Indexes]) -> Symbols:
        decoder, indexes = unit
        coded = indexes >= self.settings.coded_from
        r = np.zeros(indexes.shape, np.int16)
        r[coded] = decoder.decode(indexes[coded])
        decoder.finish()
        return r

    def _z_indexes(self, quality: float, positions: int) -> Indexes:
        return np.tile(self.z_indexes[round(quality * 4)], positions)

    def _lanes(self, positions: int) -> int:
        return 4 if positions * self.settings.latent_channels >= LANES_FROM else 1

    def _each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        return list(self.pool.map(function, items))
