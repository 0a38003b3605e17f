"""Ranges of the whole numbers that layers are computed in."""

from typing import Final

WEIGHT_MAX: Final = 127
LEVEL_MAX: Final = 255
ZERO_POINT: Final = 128

MOST_INPUTS: Final = (1 << 24) // (LEVEL_MAX * WEIGHT_MAX)
"""Inputs of a layer, at most, so that its sums stay below 2²⁴."""
