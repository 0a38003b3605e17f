"""Images ↔ bitstreams of the dense architecture: thousands of small pictures a call."""

import math
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.container.bitstream import QUALITY_STEPS
from cnnbatch.codec.dense.context_model import VALUE_BITS
from cnnbatch.codec.dense.model import Dense
from cnnbatch.codec.dense.symbol_coder import SymbolCoder, Values
from cnnbatch.codec.geometry import Pixels, Region
from cnnbatch.codec.interface import Limits, Parsed, check_image, naming, quality_steps
from cnnbatch.codec.runtime.batching import Batches
from cnnbatch.errors import BitstreamError, CodecFileError

R = TypeVar("R")

ERROR_BITS = 18 / math.log(2)
"""λ·Δ² at every quality: bits that a squared error of one step in an orthonormal transform is worth."""

MAX_BATCH = 256
"""Pictures of one batch: their activations stay in a CPU's cache."""


class DenseCoder:
    """One codec file of the dense architecture on one device; a `cnnbatch.codec.interface.Coder`."""

    def __init__(self, file: Parsed, model: Dense, *, device: torch.device, limits: Limits, threads: int) -> None:
        """``model``: the file's. Raises CodecFileError if its known answer comes out otherwise here."""
        self.file, self.device, self.settings = file, device, model.settings
        self.model = model.to(device)
        self._check_known_answer()
        self.symbols = SymbolCoder(file.arrays, check_with=bytes.fromhex(file.id))
        self._pixels = self.settings.height * self.settings.width
        most = min((MAX_BATCH if device.type == "cpu" else 1 << 16) * self._pixels, limits.pixels(device))
        self._batches = Batches(device, most=most, threads=threads if device.type == "cpu" else os.cpu_count() or 1)

    def _check_known_answer(self) -> None:
        arrays = self.file.arrays
        try:
            values, _ = SymbolCoder(arrays, check_with=b"").decode([arrays["known_answer.bitstream"].tobytes()])
        except BitstreamError as error:
            raise CodecFileError(f"codec {self.file.id[:12]}: its known answer cannot be decoded here; refused") from error
        if not np.array_equal(values[0], arrays["known_answer.values"]):
            raise CodecFileError(f"codec {self.file.id[:12]}: the context model computes differently here; refused")

    def refusal(self, image: Pixels) -> str | None:
        """``other-mode`` for gray instead of colour or the reverse, ``other-size`` for pictures of another size."""
        check_image(image)
        s = self.settings
        if (3 if image.ndim == 3 else 1) != s.channels:
            return "other-mode"
        return None if image.shape[:2] == (s.height, s.width) else "other-size"

    def compress(self, images: Sequence[Pixels], qualities: Sequence[float], *, effort: int) -> list[bytes]:
        """See `Coder.compress`; every ``effort`` gives the same, as the quantiser already searches."""
        steps = np.array([quality_steps(q) for q in qualities], np.uint8)
        if len(images) != len(steps):
            raise ValueError(f"{len(images)} images with {len(steps)} qualities")
        return self._each(len(images), lambda part: self._compress(images[part], steps[part]))

    def reconstruct(self, bitstreams: Sequence[bytes]) -> list[Pixels]:
        """See `Coder.reconstruct`."""
        return self._each(len(bitstreams), lambda part: self._reconstruct(bitstreams, part))

    def reconstruct_region(self, bitstream: bytes, region: Region) -> Pixels:
        """See `Coder.reconstruct_region`; a small picture is decoded whole."""
        [image] = self.reconstruct([bitstream])
        return region.cut(image)

    def features(self, bitstreams: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """[N, L]: the dequantised latents in units of 64 grey levels, whatever the quality."""
        rows = self._each(len(bitstreams), lambda part: list(self._features(bitstreams, part)))
        return np.stack(rows) if rows else np.zeros((0, self.settings.latents), np.float32)

    def _compress(self, images: Sequence[Pixels], steps: npt.NDArray[np.uint8]) -> list[bytes]:
        s = self.settings
        x = torch.from_numpy(np.stack(images)).to(self.device).float().view(-1, s.height, s.width, s.channels)
        quality = self._quality(steps)
        y = self.model.g_a(x, quality).cpu().numpy()
        gain = self.model.g_s.latent_gain(quality).flatten(1)
        weight = (ERROR_BITS * torch.exp(2 * gain)).float().cpu().numpy()
        return self.symbols.encode(y, steps, weight)

    def _reconstruct(self, bitstreams: Sequence[bytes], part: slice) -> list[Pixels]:
        y_hat, quality = self._latents(bitstreams, part)
        x_hat = self.model.g_s(y_hat, quality)
        pixels = x_hat.add_(0.5).clamp_(0, 255).to(torch.uint8).cpu().numpy()
        return list(pixels[..., 0] if self.settings.channels == 1 else pixels)

    def _features(self, bitstreams: Sequence[bytes], part: slice) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = self.model.g_s.dequantised(*self._latents(bitstreams, part)).cpu().numpy()
        return found

    def _latents(self, bitstreams: Sequence[bytes], part: slice) -> tuple[Tensor, Tensor]:
        """(ŷ [N, L] in steps, quality [N])."""
        values, steps = self._decode(bitstreams, part)
        y_hat = torch.from_numpy(values).to(self.device).float() / (1 << VALUE_BITS)
        return y_hat, self._quality(steps)

    def _decode(self, bitstreams: Sequence[bytes], part: slice) -> tuple[Values, npt.NDArray[np.uint8]]:
        try:
            return self.symbols.decode(bitstreams[part])
        except BitstreamError:
            for number in range(*part.indices(len(bitstreams))):  # once more one by one: which of the call is it?
                with naming(number):
                    self.symbols.decode([bitstreams[number]])
            raise

    def _quality(self, steps: npt.NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(steps.astype(np.float32) / QUALITY_STEPS).to(self.device)

    def _each(self, count: int, function: Callable[[slice], list[R]]) -> list[R]:
        """``function`` over batches of ``count`` pictures, in order."""

        def run(numbers: Sequence[int]) -> list[R]:
            return function(slice(numbers[0], numbers[-1] + 1))

        results = self._batches.map(run, range(count), size=lambda _: self._pixels, alike=lambda _: None)
        return [result for _, result in results]
