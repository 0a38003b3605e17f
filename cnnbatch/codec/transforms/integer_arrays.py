"""The exact nets of integers on arrays of 16 bits, without torch: what decodes a picture in a process that lives for a second.

The numbers are those of `cnnbatch.codec.transforms.integer_layers`, which explains why they are exact. Activations are whole
numbers of its unit, 1/16, and products are added as whole numbers; what is done to their sums is exact in float32.

Shapes: h × w positions of one tile, C channels; rows are positions in raster order, as many more behind them as make a
multiple of `ROWS`, and one number more in each where C is odd.
"""

from collections.abc import Mapping

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.codec.geometry import Array
from cnnbatch.codec.runtime.levels import LEVEL_MAX, WEIGHT_MAX
from cnnbatch.codec.transforms.integer_kernels import (
    ACTIVATION_MAX,
    ACTIVATION_UNIT,
    EXACT_LIMIT,
    MAX_SHIFT,
    MIN_SHIFT,
    Z_MAX,
)
from cnnbatch.codec.transforms.products import AT_ONCE, ROWS, multiply, padded, panels
from cnnbatch.errors import CodecFileError

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int16]


class IntegerMatrix:
    """One layer of integers of a codec file, its first ``outputs`` or all."""

    def __init__(
        self,
        arrays: Mapping[str, Array],
        name: str,
        *,
        input_unit: float = ACTIVATION_UNIT,
        input_max: float = ACTIVATION_MAX,
        outputs: int | None = None,
    ) -> None:
        """Raises CodecFileError for a layer that cannot be, or whose sums float32 might not hold."""
        weight, shift, bias = (arrays[f"{name}.{part}"][:outputs].astype(np.int32) for part in ("weight", "shift", "bias"))
        if not ((shift >= MIN_SHIFT) & (shift <= MAX_SHIFT)).all():
            raise CodecFileError(f"{name}: shifts outside {MIN_SHIFT}…{MAX_SHIFT}")
        largest = np.abs(weight.astype(np.int64)).sum(1) * round(input_max / input_unit) + np.abs(bias.astype(np.int64))
        if np.abs(weight).max() > WEIGHT_MAX or not (largest < EXACT_LIMIT // 2).all():
            raise CodecFileError(f"{name}: a layer of integers is not exact: a sum may reach {largest.max()}")
        self.taps: Floats = np.ascontiguousarray(weight.T.astype(np.float32))
        """[inputs, outputs]; of a depthwise layer [9, C]."""
        self.panels, self.bias, self.outputs = panels(weight.T), bias.astype(np.float32), len(bias)
        self.unit = np.ldexp(np.float32(input_unit), -shift).astype(np.float32)
        """Unit of a sum."""
        self.activations = self.unit / np.float32(ACTIVATION_UNIT)
        """Unit of a sum in that of activations."""

    def floats(self, x: Rows) -> Floats:
        """Any number of rows → what they give, exact."""
        out = np.empty((len(x), self.outputs), np.float32)
        _floats(x, self.panels, self.bias, self.unit, out)
        return out


class IntegerArrays:
    """``scale_net`` or ``mean_net`` of a codec file up to what their last layers read."""

    def __init__(self, arrays: Mapping[str, Array], name: str) -> None:
        """Raises CodecFileError as `IntegerMatrix`."""
        self._enter = IntegerMatrix(arrays, f"{name}.enter", input_unit=1.0, input_max=Z_MAX)
        self._grow = IntegerMatrix(arrays, f"{name}.grow")
        named = (key.rpartition(".depthwise.")[0] for key in arrays if ".depthwise." in key)
        blocks = {one for one in named if one.startswith(f"{name}.block_")}
        pairs = {one: tuple(IntegerMatrix(arrays, f"{one}.{part}") for part in ("depthwise", "pointwise")) for one in blocks}
        self._block_32 = pairs.pop(f"{name}.block_32")
        self._blocks_16 = [pairs[one] for one in sorted(pairs)]
        self.channels = len(self._block_32[0].bias)

    def features(self, z_hat: Rows) -> Rows:
        """ẑ [h, w, Cz] → rows of [4h, 4w]."""
        h, w, channels = z_hat.shape
        x = np.zeros((padded(h * w, ROWS), padded(channels, 2)), np.int16)
        x[: h * w, :channels] = z_hat.reshape(h * w, channels)
        x = _grown(x, (h, w), self._enter)
        _block(x, (2 * h, 2 * w), *self._block_32)
        x = _grown(x, (2 * h, 2 * w), self._grow)
        for layers in self._blocks_16:
            _block(x, (4 * h, 4 * w), *layers)
        return x


def _grown(x: Rows, shape: tuple[int, int], layer: IntegerMatrix) -> Rows:
    """A layer and depth to space: rows of [h, w] → rows of [2h, 2w]."""
    h, w = shape
    out = np.zeros((padded(4 * h * w, ROWS), padded(layer.outputs // 4, 2)), np.int16)
    _grow(x, layer.panels, layer.bias, layer.activations, h, w, out)
    return out


def _block(x: Rows, shape: tuple[int, int], depthwise: IntegerMatrix, pointwise: IntegerMatrix) -> None:
    """In ``x`` itself."""
    first, second = ((layer.bias, layer.activations) for layer in (depthwise, pointwise))
    _residual(x, *shape, depthwise.taps, *first, pointwise.panels, *second)


@numba.njit(nogil=True, cache=True)
def _activation(value):  # type: ignore[no-untyped-def]
    """The nearest activation, half up."""
    return min(max(np.floor(value + np.float32(0.5)), np.float32(0)), np.float32(LEVEL_MAX))


@numba.njit(nogil=True, cache=True)
def _floats(x, right, bias, unit, out):  # type: ignore[no-untyped-def]
    sums = np.empty((AT_ONCE, right.shape[0] * right.shape[2]), np.int32)
    some = np.zeros((AT_ONCE, 2 * right.shape[1]), np.int16)
    for first in range(0, len(x), AT_ONCE):
        rows = min(AT_ONCE, len(x) - first)
        for i in range(rows):
            for c in range(x.shape[1]):
                some[i, c] = x[first + i, c]
        multiply(some, right, sums)
        for i in range(rows):
            for c in range(len(bias)):
                out[first + i, c] = (np.float32(sums[i, c]) + bias[c]) * unit[c]


@numba.njit(nogil=True, cache=True)
def _grow(x, right, bias, unit, h, w, out):  # type: ignore[no-untyped-def]
    sums, channels = np.empty((AT_ONCE, right.shape[0] * right.shape[2]), np.int32), len(bias) // 4
    for first in range(0, len(x), AT_ONCE):
        rows = min(AT_ONCE, len(x) - first)
        multiply(x[first : first + rows], right, sums[:rows])
        for i in range(min(rows, h * w - first)):
            row, column = divmod(first + i, w)
            for part in range(4):
                target = out[(2 * row + part // 2) * 2 * w + 2 * column + part % 2]
                first_output = part * channels
                for c in range(channels):
                    total = np.float32(sums[i, first_output + c]) + bias[first_output + c]
                    target[c] = _activation(total * unit[first_output + c])


@numba.njit(nogil=True, cache=True)
def _residual(x, h, w, taps, tap_bias, tap_unit, right, bias, unit):  # type: ignore[no-untyped-def]
    """Depthwise 3×3 with zero padding; three rows of the picture at a time lie in a buffer with a border of zeros."""
    channels = len(bias)
    rows = np.zeros((3, w + 2, channels), np.float32)
    filtered = np.zeros((-(-w // ROWS) * ROWS, x.shape[1]), np.int16)
    sums = np.empty((len(filtered), right.shape[0] * right.shape[2]), np.int32)
    for i in range(-1, h):
        above, here, below = rows[(i + 3) % 3], rows[(i + 1) % 3], rows[(i + 2) % 3]
        if i + 1 < h:
            for j in range(w):
                for c in range(channels):
                    below[1 + j, c] = x[(i + 1) * w + j, c]
        else:
            below[:] = 0
        if i < 0:
            continue
        for j in range(w):
            for c in range(channels):
                total = tap_bias[c]
                for b in range(3):
                    total += above[j + b, c] * taps[b, c]
                    total += here[j + b, c] * taps[3 + b, c]
                    total += below[j + b, c] * taps[6 + b, c]
                filtered[j, c] = _activation(total * tap_unit[c])
        multiply(filtered, right, sums)
        for j in range(w):
            for c in range(channels):
                total = np.float32(sums[j, c]) + bias[c]
                x[i * w + j, c] = _activation(total * unit[c] + here[1 + j, c])


@numba.njit(nogil=True, cache=True)
def scale_indexes(x, right, bias, unit, offsets, last, w, indexes):  # type: ignore[no-untyped-def]
    """Rows of features, ``w`` to a line, by the last layer of a scale net → scale ``indexes`` uint8 [a, b, M] up to ``last``;
    positions beyond its sides are left out."""
    sums, (a, b, channels) = np.empty((AT_ONCE, right.shape[0] * right.shape[2]), np.int32), indexes.shape
    half, zero = np.float32(0.5), np.float32(0)
    for first in range(0, a * w, AT_ONCE):
        rows = min(AT_ONCE, len(x) - first)
        multiply(x[first : first + rows], right, sums[:rows])
        for i in range(min(rows, a * w - first)):
            line, column = divmod(first + i, w)
            if column < b:
                for c in range(channels):
                    position = (np.float32(sums[i, c]) + bias[c]) * unit[c]
                    indexes[line, column, c] = min(max(np.floor(position + half) + offsets[c], zero), last)
