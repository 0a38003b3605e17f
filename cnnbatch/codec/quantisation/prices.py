"""Prices of symbols in bits, by the entropy coder's tables or by Gaussians: what an encoder weighs against distortion."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.entropy_coding.likelihood import LEAST_MASS
from cnnbatch.codec.entropy_coding.tables import PRECISION, Tables
from cnnbatch.codec.quantisation.dependent import Values
from cnnbatch.codec.quantisation.trellis_tables import symbol_mass

LEVELS = 64
"""Magnitudes with a threshold of their own; beyond, that of the last."""

ESCAPE_BITS = 16


def magnitude_bits(tables: Tables, levels: int) -> npt.NDArray[np.float64]:
    """[T, levels + 1]: bits of the symbol of each magnitude."""
    bits = np.empty((len(tables.radius), levels + 1))
    for table, (start, radius) in enumerate(zip(tables.start, tables.radius, strict=True)):
        upwards = tables.frequencies[start + radius : start + 2 * radius + 2]  # 0, 1, … radius, escape
        cost = PRECISION - np.log2(upwards.astype(np.float64))
        cost[-1] += ESCAPE_BITS
        bits[table] = cost[np.minimum(np.arange(levels + 1), radius + 1)]
    return bits


def dearer(prices: npt.NDArray[np.floating]) -> Values:
    """[…, LEVELS]: how many bits magnitude k + 1 costs more than k, of ``prices`` […, LEVELS + 1]."""
    return np.diff(prices).astype(np.float32)


def gaussian_prices(scales: Tensor) -> Values:
    """[3, T, LEVELS + 1]: bits of each magnitude in each quantiser, for zero-mean Gaussians of these ``scales`` [T]."""
    magnitudes, quantisers = torch.arange(LEVELS + 1), torch.arange(3)[:, None, None]
    mass = symbol_mass(magnitudes, quantisers, scales[:, None])
    prices: Values = -torch.log2(mass.clamp(min=LEAST_MASS)).float().numpy()
    return prices


def table_prices(tables: Tables, num_scales: int) -> Values:
    """The same of the entropy coder's own tables."""
    return magnitude_bits(tables, LEVELS).reshape(3, num_scales, LEVELS + 1).astype(np.float32)
