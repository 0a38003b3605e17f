"""The exact nets of integers on arrays, without torch: what decodes a picture in a process that lives for a second.

The numbers are those of `cnnbatch.codec.transforms.integer_layers`, which explains why they are exact.

Shapes: h × w positions of one tile, C channels.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cnnbatch.codec.geometry import Array
from cnnbatch.codec.runtime.levels import WEIGHT_MAX
from cnnbatch.codec.transforms.integer_kernels import (
    ACTIVATION_MAX,
    ACTIVATION_UNIT,
    EXACT_LIMIT,
    MAX_SHIFT,
    MIN_SHIFT,
    Z_MAX,
    depthwise_requantised,
    requantised,
)
from cnnbatch.errors import CodecFileError

Floats = npt.NDArray[np.float32]


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
        weight, shift, bias = (arrays[f"{name}.{part}"][:outputs] for part in ("weight", "shift", "bias"))
        if not ((shift >= MIN_SHIFT) & (shift <= MAX_SHIFT)).all():
            raise CodecFileError(f"{name}: shifts outside {MIN_SHIFT}…{MAX_SHIFT}")
        largest = np.abs(weight.astype(np.int64)).sum(1) * round(input_max / input_unit) + np.abs(bias.astype(np.int64))
        if np.abs(weight.astype(np.int64)).max() > WEIGHT_MAX or not (largest < EXACT_LIMIT // 2).all():
            raise CodecFileError(f"{name}: a layer of integers is not exact: a sum may reach {largest.max()}")
        unit = np.ldexp(np.float32(1), -shift.astype(np.int32)).astype(np.float32)
        self.turned: Floats = np.ascontiguousarray((weight * unit[:, None]).T)
        """[inputs, outputs]; of a depthwise layer [9, C]."""
        self.bias: Floats = bias.astype(np.float32) * unit * np.float32(input_unit)

    def __call__(self, x: Floats) -> Floats:
        """[h, w, inputs] → [h, w, outputs]."""
        out: Floats = x.reshape(-1, x.shape[-1]) @ self.turned
        out += self.bias
        return out.reshape(*x.shape[:-1], -1)


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

    def features(self, z_hat: Floats) -> Floats:
        """ẑ [h, w, Cz] → [4h, 4w, C]."""
        x = _block(_spread(_requantised(self._enter(z_hat))), *self._block_32)
        x = _spread(_requantised(self._grow(x)))
        for layers in self._blocks_16:
            x = _block(x, *layers)
        return x


def _block(x: Floats, depthwise: IntegerMatrix, pointwise: IntegerMatrix) -> Floats:
    filtered = np.empty_like(x)
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    depthwise_requantised(padded[None], depthwise.turned, depthwise.bias, filtered[None])
    out = pointwise(filtered)
    out += x
    return _requantised(out)


def _requantised(x: Floats) -> Floats:
    """In ``x`` itself."""
    requantised(x.reshape(-1), x.reshape(-1))
    return x


def _spread(x: Floats) -> Floats:
    """Depth to space: [h, w, 4·C] → [2h, 2w, C]."""
    h, w, c = x.shape
    return np.ascontiguousarray(x.reshape(h, w, 2, 2, c // 4).transpose(0, 2, 1, 3, 4)).reshape(2 * h, 2 * w, c // 4)
