"""Products of eight-bit integers by oneDNN, and whether this CPU has them."""

import logging
from functools import cache
from typing import Final

import torch
from torch import Tensor

from cnnbatch.codec.runtime.cpu import cpu_has_any

logger = logging.getLogger(__name__)
WEIGHT_MAX: Final = 127
LEVEL_MAX: Final = 255
ZERO: Final = 128

MOST_INPUTS: Final = (1 << 24) // (LEVEL_MAX * WEIGHT_MAX)
"""Of a layer, so that its sums stay below 2²⁴."""


def product_of_integers(
    levels: Tensor,
    step: float,
    zero: int,
    packed: Tensor,
    scales: Tensor,
    bias: Tensor,
    out_step: float,
    out_zero: int,
    kind: torch.dtype,
    then: str,
) -> Tensor:
    """What torch.compile makes of a quantised linear layer on a CPU, by oneDNN (torch/_inductor/fx_passes/quantization.py).

    ``levels`` uint8 [rows, inputs], ``packed``: int8 weights of `qlinear_prepack`, ``then``: the activation behind it.
    """
    none = torch.zeros(1, dtype=torch.int32)
    weights = packed, scales, none, bias
    out: Tensor = torch.ops.onednn.qlinear_pointwise(levels, step, zero, *weights, out_step, out_zero, kind, then, [], "")
    return out


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
    ones, nothing = torch.ones(48), torch.zeros(48)
    try:
        packed = torch.ops.onednn.qlinear_prepack(weights.to(torch.int8), None)
        answer = (packed, ones, nothing, 1.0, 0, torch.float32, "none")
        found = product_of_integers(levels.to(torch.uint8), 1.0, ZERO, *answer)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError) as error:
        logger.warning("decoding without products of integers: %s", str(error).splitlines()[0])
        return False
    return torch.equal(found, ((levels - ZERO) @ weights.T).float())
