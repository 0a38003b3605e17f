"""Entropy decoding of one tile without torch: bytes → ŷ, all channels or the first ones.

The same numbers as `cnnbatch.codec.hyperprior.latent_decoder`, but for rounding of float32 in the means and the local steps.
Shapes: a × b latent positions, M channels, of which the first C are wanted.
"""

import numba
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
from cnnbatch.codec.transforms.integer_arrays import Floats, IntegerArrays, IntegerMatrix, Rows, scale_indexes
from cnnbatch.codec.transforms.products import AT_ONCE, multiply
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
        found = self._scales.floats(self._scale_net.features(z_hat.astype(np.int16)))[: positions[..., 0].size]
        if not np.array_equal(found.reshape(*positions.shape[:2], -1), positions[..., : self._coded]):
            raise CodecFileError(f"codec {file.id[:12]}: the scale net computes differently here; refused")

    def decode(self, stream: bytes | memoryview, shape: tuple[int, int], quality: float) -> Floats:
        """The stream of a tile of a × b = ``shape`` → ŷ [a, b, wanted]; raises BitstreamError."""
        a, b = shape
        decoder, quarters = Decoder(stream, self._tables), round(quality * 4)
        z_hat = self._hyper.decode(decoder, (-(-a // HYPER_BLOCK), -(-b // HYPER_BLOCK)), self._z_indexes[quarters])
        values = self._symbols(decoder, self._indexes(z_hat, shape, quarters))
        predicted = restore(values, curve_at(self._prediction, quality).reshape(self._known, -1))
        features, means = self._mean_net.features(z_hat), self._means
        factors = self._step_factors.floats(features)
        gain = means.unit * np.exp(curve_at(self._gain, quality))
        found = np.empty((a, b, self.wanted), np.float32)
        width = HYPER_BLOCK * z_hat.shape[1]
        fill_latents(features, means.panels, means.bias, gain, factors, self._mixing, values, predicted, width, found)
        return found

    def _indexes(self, z_hat: Rows, shape: tuple[int, int], quarters: int) -> Indexes:
        indexes = np.empty((*shape, self._coded), np.uint8)
        last, width, net = np.float32(self._settings.num_scales - 1), HYPER_BLOCK * z_hat.shape[1], self._scales
        features = self._scale_net.features(z_hat)
        scale_indexes(features, net.panels, net.bias, net.unit, self._offsets[quarters], last, width, indexes)
        return indexes

    def _symbols(self, decoder: Decoder, indexes: Indexes) -> Values:
        """Dequantised symbols [a, b, coded], without means and predictions."""
        places = stream_symbols(self._settings, indexes, self._known).places
        coded: npt.NDArray[np.uint8] = indexes.reshape(-1).take(places)
        symbols = decoder.decode(coded, self._machine)
        if self._coded == self._settings.latent_channels:
            decoder.finish()
        return dequantise(symbols, coded, places, indexes.shape, self._settings)


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def fill_latents(x, right, bias, gain, factors, mixing, values, predicted, w, found):  # type: ignore[no-untyped-def]
    """Rows of features, ``w`` to a line, by the last layer of a mean net, times ``gain``, to latents ``found`` [a, b, C]: the
    first K are ``predicted`` instead of ``values``, the others are multiplied by their local steps, those of rows of
    ``factors`` by ``mixing`` [STEP_FACTORS, C − K]."""
    sums, (a, b, channels) = np.empty((AT_ONCE, right.shape[0] * right.shape[2]), np.int32), found.shape
    known, limit = predicted.shape[2], np.float32(STEP_LIMIT)
    steps = np.empty(channels - known, np.float32)
    for first in range(0, a * w, AT_ONCE):
        rows = min(AT_ONCE, len(x) - first)
        multiply(x[first : first + rows], right, sums[:rows])
        for i in range(min(rows, a * w - first)):
            line, column = divmod(first + i, w)
            if column >= b:
                continue
            here, own = found[line, column], values[line, column]
            for c in range(known):
                here[c] = (np.float32(sums[i, c]) + bias[c]) * gain[c] + predicted[line, column, c]
            steps[:] = 0
            for factor in range(mixing.shape[0]):
                share = factors[first + i, factor]
                for c in range(channels - known):
                    steps[c] += share * mixing[factor, c]
            for c in range(known, channels):
                step = _exponential(min(max(steps[c - known], -limit), limit))
                here[c] = ((np.float32(sums[i, c]) + bias[c]) * gain[c] + own[c]) * step


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _exponential(x):  # type: ignore[no-untyped-def]
    """e^x of |x| ≤ 2: the fourth power of that of x/4, whose power series ends below 10⁻⁸."""
    quarter = np.float32(0.25) * x
    total = np.float32(1 / 40320)
    for coefficient in (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        total = total * quarter + np.float32(coefficient)
    square = total * total
    return square * square
