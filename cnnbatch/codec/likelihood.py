"""What training takes symbols for: Gaussians integrated over a quantisation step, and what the encoder chooses."""

import numpy as np
import torch
from torch import Tensor

from cnnbatch.codec.integer_net import round_half_up
from cnnbatch.codec.trellis import (
    LEAST_MASS,
    TrellisQuantiser,
    TrellisSettings,
    chosen_values,
    gaussian_prices,
    symbol_mass,
)


def gaussian_bits(values: Tensor, scales: Tensor) -> Tensor:
    """−log₂ of a zero-mean Gaussian integrated over ±½ around each value, summed per image → [N]."""
    magnitude = values.abs()
    upper = torch.special.ndtr((0.5 - magnitude) / scales)
    lower = torch.special.ndtr((-0.5 - magnitude) / scales)
    return -torch.log2((upper - lower).clamp(min=LEAST_MASS)).flatten(1).sum(1)


@torch.no_grad()
def cheaper_integers(values: Tensor, scales: Tensor, weights: Tensor) -> Tensor:
    """Of the two nearest integers of each value the cheaper one by rate and distortion.

    As `cnnbatch.codec.quantisation` chooses, with bits of the Gaussian itself; ``weights``: of a squared error, in bits.
    """
    magnitude = values.abs()
    low = magnitude.floor()
    inner, middle, outer = (torch.special.ndtr((k - low) / scales) for k in (0.5, -0.5, -1.5))
    dearer = torch.log2((inner - middle).clamp(min=LEAST_MASS) / (middle - outer).clamp(min=LEAST_MASS))
    return torch.where(magnitude - low > 0.5 + dearer / (2 * weights), low + 1, low).copysign(values)


def on_their_own(residual: Tensor, scales: Tensor, weights: Tensor | None, *, noise: bool) -> tuple[Tensor, Tensor]:
    """(integers, with straight-through gradients; bits [N]).

    ``weights`` [N, M]: of a squared error, in bits, for the integers that an encoder chooses; None: the nearest. The bits are
    of noisy latents, whose gradient pulls at y, or of the symbols, to which scales are fitted.
    """
    if weights is None:
        r_hat = round_half_up(residual)
        return r_hat, gaussian_bits(noisy(residual) if noise else r_hat, scales)
    chosen = cheaper_integers(residual, scales, weights[:, None, None, :])
    r_hat = residual + (chosen - residual).detach()
    if not noise:
        return r_hat, gaussian_bits(r_hat, scales)
    fitted = gaussian_bits(r_hat.detach(), scales)
    pull = gaussian_bits(noisy(residual), scales.detach())
    return r_hat, fitted + (pull - pull.detach())


def on_the_trellis(
    residual: Tensor, positions: Tensor, scales: Tensor, weights: Tensor, settings: TrellisSettings, *, noise: bool
) -> tuple[Tensor, Tensor]:
    """(dequantised symbols as an encoder chooses them, with straight-through gradients; bits [N]).

    ``residual`` [N, h, w, M]: latents less their means; ``positions``: their scale indexes; ``weights`` [N, M]: of a squared
    error, in bits. Scales are fitted to the symbols, and with ``noise`` latents feel the price of noise as wide as a step of
    their quantiser.
    """
    spacing = settings.dependent_spacing
    quantise = TrellisQuantiser(gaussian_prices(settings.scales(), spacing), settings)
    inputs = (residual.float(), positions.to(torch.uint8), weights)
    units = zip(*(part.detach().cpu().numpy() for part in inputs), strict=True)
    no_context = np.zeros((0, 0), np.float32)
    choices = [quantise(values, indexes, w, no_context) for values, indexes, w in units]
    chosen = zip(*((choice.symbols, choice.tables, chosen_values(choice, settings)) for choice in choices), strict=True)
    symbols, tables, values = (torch.from_numpy(np.stack(part)).to(residual.device) for part in chosen)
    quantiser = tables.long() // settings.num_scales
    mass = symbol_mass(symbols, quantiser, scales, spacing)
    bits = -torch.log2(mass.clamp(min=LEAST_MASS)).flatten(1).sum(1)
    if noise:
        step = torch.where(quantiser > 0, 2 * spacing, 1.0)
        pull = gaussian_bits(noisy(residual / step), scales.detach() / step)
        bits = bits + (pull - pull.detach())
    return residual + (values - residual).detach(), bits


def noisy(values: Tensor) -> Tensor:
    """With uniform noise of one step, which stands for rounding where a gradient is wanted."""
    return values + torch.rand_like(values) - 0.5
