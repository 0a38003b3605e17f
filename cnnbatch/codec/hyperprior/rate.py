"""Quantisation in training: the symbols that an encoder chooses, at the rate of Gaussians integrated over each symbol."""

import numpy as np
import torch
from torch import Tensor

from cnnbatch.codec.entropy_coding.likelihood import LEAST_MASS, gaussian_bits, noisy
from cnnbatch.codec.quantisation.dependent import SPACING, TrellisSettings
from cnnbatch.codec.quantisation.prices import gaussian_prices
from cnnbatch.codec.quantisation.quantised import chosen_values
from cnnbatch.codec.quantisation.trellis_search import TrellisQuantiser
from cnnbatch.codec.quantisation.trellis_tables import symbol_mass


def on_the_trellis(
    residual: Tensor, positions: Tensor, scales: Tensor, weights: Tensor, settings: TrellisSettings, *, noise: bool
) -> tuple[Tensor, Tensor]:
    """(dequantised symbols as an encoder chooses them, with straight-through gradients; bits [N]).

    ``residual`` [N, h, w, M]: latents less their means; ``positions``: their scale indexes; ``weights`` [N, M]: of a squared
    error, in bits. Scales are fitted to the symbols, and with ``noise`` latents feel the price of noise as wide as a step of
    their quantiser.
    """
    quantise = TrellisQuantiser(gaussian_prices(settings.scales()), settings)
    inputs = (residual.float(), positions.to(torch.uint8), weights)
    images = zip(*(part.detach().cpu().numpy() for part in inputs), strict=True)
    no_prediction = np.zeros((0, 0), np.float32)
    choices = [quantise(values, indexes, w, no_prediction) for values, indexes, w in images]
    chosen = zip(*((choice.symbols, choice.tables, chosen_values(choice, settings)) for choice in choices), strict=True)
    symbols, tables, values = (torch.from_numpy(np.stack(part)).to(residual.device) for part in chosen)
    quantiser = tables.long() // settings.num_scales
    mass = symbol_mass(symbols, quantiser, scales)
    bits = -torch.log2(mass.clamp(min=LEAST_MASS)).flatten(1).sum(1)
    if noise:
        step = torch.where(quantiser > 0, 2 * SPACING, 1.0)
        pull = gaussian_bits(noisy(residual / step), scales.detach() / step)
        bits = bits + (pull - pull.detach())
    return residual + (values - residual).detach(), bits
