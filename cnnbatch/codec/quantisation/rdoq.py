"""Which integer a latent on its own becomes: rate–distortion-optimised quantisation, the encoder's choice alone.

The nearest integer costs the least distortion, the one below it fewer bits (Sullivan and Wiegand, IEEE Signal Processing
Magazine 15(6), 1998, on rate–distortion optimisation). For magnitude a between k and k + 1 the upper one is taken where

    bits(k + 1) + w·(k + 1 − a)²  <  bits(k) + w·(a − k)²     ⇔     a − k  >  ½ + (bits(k + 1) − bits(k)) / 2w

with the bits of the entropy coder's own tables and w, in bits for a squared unit, of `cnnbatch.codec.hyperprior.distortion`.
A decoder never sees the difference. (In `cnnbatch.codec.quantisation.dependent` the decoder takes part.)
"""

import numba
import numpy as np

from cnnbatch.codec.entropy_coding.tables import SYMBOL_LIMIT
from cnnbatch.codec.quantisation.prices import LEVELS


@numba.njit(nogil=True, cache=True)
def choose(value, dearer, half_inverse):  # type: ignore[no-untyped-def]
    """The symbol of one value, without a branch that no processor would predict; ``dearer``: the row of its scale index."""
    magnitude = min(abs(value), np.float32(SYMBOL_LIMIT))
    low = int(magnitude)
    threshold = np.float32(0.5) + dearer[min(low, LEVELS - 1)] * half_inverse
    low += (magnitude - np.float32(low) > threshold) & (low < SYMBOL_LIMIT)
    return low * (1 - 2 * (value < 0))
