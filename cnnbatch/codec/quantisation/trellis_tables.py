"""Costs of dependent quantisation's symbols under a Gaussian: the tables of a codec file, and masses for training."""

import numpy as np
import torch
from torch import Tensor

from cnnbatch.codec.entropy_coding.tables import TAIL_SIGMAS, Tables, integer_frequencies
from cnnbatch.codec.quantisation.dependent import SPACING


def trellis_tables(scales: Tensor) -> Tables:
    """Tables for Gaussians: those of the first quantiser, then those of the second."""
    radii = np.maximum(1, np.ceil(TAIL_SIGMAS * scales.numpy() / (2 * SPACING))).astype(np.int32)
    frequencies = []
    for quantiser in (1, 2):
        for scale, radius in zip(scales, radii, strict=True):
            mass = symbol_mass(torch.arange(-radius, radius + 1), torch.tensor(quantiser), scale).numpy()
            frequencies.append(integer_frequencies(np.append(mass, max(0.0, 1 - mass.sum()))))
    return Tables.from_frequencies(np.concatenate(frequencies), np.tile(radii, 2))


def symbol_mass(symbols: Tensor, quantisers: Tensor, scales: Tensor) -> Tensor:
    """Probability under a zero-mean Gaussian, between the middles to the next lower and the next higher level of the same
    quantiser."""
    magnitude, second = symbols.abs().to(scales.dtype), (quantisers == 2).to(scales.dtype)
    upper = 2 * magnitude + 1 - torch.where(magnitude > 0, second, second / 2)
    lower = 2 * magnitude - 1 - torch.where(magnitude > 1, second, second / 2)
    lower = torch.where(magnitude > 0, lower, -upper)
    unit = torch.where(quantisers > 0, SPACING, 0.5) / scales
    mass: Tensor = torch.special.ndtr(-lower * unit) - torch.special.ndtr(-upper * unit)
    return mass
