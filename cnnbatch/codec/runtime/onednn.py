"""Products of eight-bit integers by oneDNN, and whether this CPU has them."""

import logging
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from cnnbatch.codec.runtime.cpu import cpu_has_any
from cnnbatch.codec.runtime.levels import LEVEL_MAX, WEIGHT_MAX, ZERO_POINT

logger = logging.getLogger(__name__)


class PackedLayer(NamedTuple):
    """An int8 layer as oneDNN wants it."""

    weights: Tensor
    """Packed by `qlinear_prepack`."""
    scales: Tensor
    """[outputs]."""
    bias: Tensor
    """[outputs]."""


class Output(NamedTuple):
    """The result of a product: ``dtype`` uint8, in levels of ``scale`` and ``zero_point``, or float32."""

    scale: float = 1.0
    zero_point: int = 0
    dtype: torch.dtype = torch.float32
    activation: str = "none"


def packed(weight: Tensor, scales: Tensor, bias: Tensor) -> PackedLayer:
    """``weight``: whole numbers [outputs, inputs]."""
    return PackedLayer(torch.ops.onednn.qlinear_prepack(weight.to(torch.int8), None), scales, bias)


def product_of_integers(levels: Tensor, scale: float, zero_point: int, layer: PackedLayer, output: Output) -> Tensor:
    """A quantised linear layer as torch.compile makes it on a CPU, by oneDNN (torch/_inductor/fx_passes/quantization.py).

    ``levels`` uint8 [rows, inputs], which stand for (level − ``zero_point``) · ``scale``.
    """
    none = torch.zeros(1, dtype=torch.int32)
    weights = layer.weights, layer.scales, none, layer.bias
    result: Tensor = torch.ops.onednn.qlinear_pointwise(levels, scale, zero_point, *weights, *output, [], "")
    return result


@cache
def cpu_has_int8() -> bool:
    """Whether this CPU adds products of eight-bit integers in 32 bits at once, and torch multiplies exactly that.

    Without VNNI pairs of products are added in 16 bits and saturate. The operator is not of torch's public interface, so its
    answer is checked once.
    """
    if not cpu_has_any("avx512_vnni", "avx_vnni", "amx_int8"):
        return False
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-WEIGHT_MAX, WEIGHT_MAX + 1, (48, 96), generator=generator)
    levels = torch.randint(0, LEVEL_MAX + 1, (33, 96), generator=generator)
    weights[0], levels[0] = WEIGHT_MAX, LEVEL_MAX  # the largest sum there is
    try:
        layer = packed(weights, torch.ones(48), torch.zeros(48))
        answer = product_of_integers(levels.to(torch.uint8), 1.0, ZERO_POINT, layer, Output())
    except (AttributeError, RuntimeError, TypeError, NotImplementedError) as error:
        logger.warning("decoding without int8 products: %s", str(error).splitlines()[0])
        return False
    return torch.equal(answer, ((levels - ZERO_POINT) @ weights.T).float())
