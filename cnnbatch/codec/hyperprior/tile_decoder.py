"""Entropy decoding of one tile without torch: bytes → ŷ, all channels or the first ones.

The same numbers as `cnnbatch.codec.hyperprior.latent_decoder`, but for rounding of float32 in the means and the local steps.
Shapes: a × b latent positions, M channels, of which the first C are wanted.
"""

import numpy as np
import numpy.typing as npt

from cnnbatch.codec.entropy_coding.rans import Decoder
from cnnbatch.codec.entropy_coding.tables import Indexes, Tables
from cnnbatch.codec.geometry import HYPER_BLOCK
from cnnbatch.codec.hyperprior.hyper_latents import HyperTables
from cnnbatch.codec.hyperprior.settings import STEP_LIMIT
from cnnbatch.codec.interface import Parsed
from cnnbatch.codec.quantisation.dependent import Values, dequantise, state_machine
from cnnbatch.codec.quantisation.prediction import restore
from cnnbatch.codec.quantisation.scan import stream_symbols
from cnnbatch.codec.transforms.integer_arrays import Floats, IntegerArrays, IntegerMatrix
from cnnbatch.codec.transforms.integer_kernels import fill_indexes
from cnnbatch.codec.transforms.quality_laws import curve_at
from cnnbatch.errors import CodecFileError


class TileDecoder:
    """Decodes tiles of one codec file to its first ``wanted`` channels, or as many as the stream has before them.

    No more than the predicted channels are wanted: the others are not even entropy-decoded.
    """

    def __init__(self, file: Parsed, wanted: int) -> None:
        """Raises CodecFileError for arrays that cannot be, or if the scale net computes differently here."""
        arrays, self._settings = file.arrays, file.settings
        self._known = self._settings.predicted_channels
        self.wanted = max(wanted, self._known)
        self._coded = self._known if self.wanted == self._known else self._settings.latent_channels
        self._tables, self._hyper = Tables.from_arrays(arrays), HyperTables.from_arrays(arrays)
        self._z_indexes = arrays["z_scale.table"]
        self._offsets = arrays["scale_offset.table"][:, : self._coded].astype(np.float32)
        self._machine = state_machine(self._settings)
        self._scale_net, self._mean_net = IntegerArrays(arrays, "scale_net"), IntegerArrays(arrays, "mean_net")
        self._scales = IntegerMatrix(arrays, "scale_net.leave", outputs=self._coded)
        self._means = IntegerMatrix(arrays, "mean_net.leave", outputs=self.wanted)
        self._gain = arrays["mean_net.gain.anchors"][:, : self.wanted]
        self._step_factors = IntegerMatrix(arrays, "mean_net.step_factors")
        self._mixing = np.ascontiguousarray(arrays["mean_net.step_mixing"][: self.wanted - self._known].T.astype(np.float32))
        self._prediction = arrays["prediction.anchors"]
        self._check_known_answer(file)

    def _check_known_answer(self, file: Parsed) -> None:
        z_hat, positions = (file.arrays[f"known_answer.{name}"][0] for name in ("z_hat", "positions"))
        found = self._scales(self._scale_net.features(z_hat.astype(np.float32)))
        if not np.array_equal(found, positions[..., : self._coded]):
            raise CodecFileError(f"codec {file.id[:12]}: the scale net computes differently here; refused")

    def decode(self, stream: bytes | memoryview, shape: tuple[int, int], quality: float) -> Floats:
        """The stream of a tile of a × b = ``shape`` → ŷ [a, b, wanted]; raises BitstreamError."""
        a, b = shape
        decoder, quarters = Decoder(stream, self._tables), round(quality * 4)
        z = self._hyper.decode(decoder, (-(-a // HYPER_BLOCK), -(-b // HYPER_BLOCK)), self._z_indexes[quarters])
        z_hat = z.astype(np.float32)
        values = self._symbols(decoder, self._indexes(z_hat, shape, quarters))
        weights = curve_at(self._prediction, quality).reshape(self._known, -1)
        predicted = restore(values, weights)
        found = self._means(features := self._mean_net.features(z_hat)[:a, :b])
        found *= np.exp(curve_at(self._gain, quality))
        found[..., : self._known] += predicted
        others = found[..., self._known :]
        others += values[..., self._known : self.wanted]
        steps: Floats = self._step_factors(features).reshape(-1, self._mixing.shape[0]) @ self._mixing
        np.clip(steps, -STEP_LIMIT, STEP_LIMIT, out=steps)
        others *= np.exp(steps, out=steps).reshape(others.shape)
        return found

    def _indexes(self, z_hat: Floats, shape: tuple[int, int], quarters: int) -> Indexes:
        a, b = shape
        positions = self._scales(self._scale_net.features(z_hat)[:a, :b])
        indexes = np.empty(positions.shape, np.uint8)
        offsets = self._offsets[quarters : quarters + 1]
        fill_indexes(positions[None], offsets, np.float32(self._settings.num_scales - 1), indexes[None])
        return indexes

    def _symbols(self, decoder: Decoder, indexes: Indexes) -> Values:
        """Dequantised symbols [a, b, coded], without means and predictions."""
        places = stream_symbols(self._settings, indexes, self._known).places
        coded: npt.NDArray[np.uint8] = indexes.reshape(-1)[places]
        symbols = decoder.decode(coded, self._machine)
        if self._coded == self._settings.latent_channels:
            decoder.finish()
        values = np.zeros(indexes.shape, np.float32)
        values.reshape(-1)[places] = dequantise(symbols, coded, self._settings)
        return values
