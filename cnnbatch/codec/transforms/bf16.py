"""Rounding to bfloat16 inside compiled loops."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def bf16_bits(word):  # type: ignore[no-untyped-def]
    """The word of a float32 to that of the nearest bfloat16, of two equally near ones to the even one."""
    return (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
