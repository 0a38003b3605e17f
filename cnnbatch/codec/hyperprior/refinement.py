"""Better latents for the same decoder, at the price of encoding time: `--effort`.

g_a guesses y in one pass. What the synthesis makes of the quantised latents ŷ tells how far it was off: each pass puts in place
of the distortion a parabola that has its value and its gradient at ŷ and, in every latent alone, a share of the curvature
of the linear bypass, and looks for the symbols that cost least by that. Where the parabola lies above the distortion, no
pass can lose anything (majorise and minimise: Hunter and Lange, The American Statistician 58(1), 2004). The side information
stays, and of all passes, the first guess among them, each image keeps the best.

Cf. Campos et al., "Content adaptive optimization for neural image compression" (CVPR workshops 2019, arXiv 1906.01223) and
Yang, Bamler, Mandt, "Improving inference for neural image compression" (NeurIPS 2020, arXiv 2006.04240), which take hundreds
of steps of gradient descent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.hyperprior.latent_codec import LatentCoder, Side
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.quantisation.quantised import Choice

CURVATURE = 0.75
"""Of the parabola, relative to that of the bypass: as small as it may be, for large steps. The learned path takes away much of
an error in one latent, less of errors in many."""


@dataclass(slots=True)
class Unit:
    """The same unit of every tile of a batch, while it is quantised."""

    place: tuple[slice, slice]
    """Where in the window of its tile, in latent positions."""
    side: Side
    choice: Choice


def refine(
    coder: LatentCoder, units: Sequence[Unit], *, x: Tensor, y: Tensor, quality: Tensor, passes: int, model: Hyperprior
) -> None:
    """Improves ``units`` in place; ``x`` uint8 [N, H, W, 3] are the windows' pixels, ``y`` [N, h, w, M] their latents.

    Latents of the window outside its units (the halo) count as they are, unquantised.
    """
    square = CURVATURE * model.bits_per_square(quality)  # bits of a squared unit of error in one latent
    weights = square.cpu().numpy()
    least, best = np.full(len(x), np.inf), [unit.choice for unit in units]
    for number in range(passes + 1):
        y_hat = latents_of(coder, units, y)
        decoded = model.g_s.pixels(y_hat, quality)  # clamped, filtered and, if the codec is so, computed in eight bits
        distortion = _distortion(model, decoded, x, quality)
        cost = distortion.cpu().numpy() + sum(coder.bits(unit.choice, unit.side) for unit in units)
        best = [_merged(cost < least, unit.choice, known) for unit, known in zip(units, best, strict=True)]
        least = np.minimum(cost, least)
        if number == passes:
            break
        gradient = _gradient(model, y_hat, decoded - x.float(), quality)
        for unit in units:
            step = gradient[:, *unit.place] / (2 * square[:, None, None, :])
            lowest = y_hat[:, *unit.place] - step
            unit.choice = coder.quantise(lowest, unit.side._replace(weights=weights))
    for unit, choice in zip(units, best, strict=True):
        unit.choice = choice


def latents_of(coder: LatentCoder, units: Sequence[Unit], y: Tensor) -> Tensor:
    """ŷ of the window: as a decoder finds it in its units, elsewhere ``y``."""
    y_hat = y.clone()
    for unit in units:
        y_hat[:, *unit.place] = coder.dequantise(unit.choice, unit.side.means)
    return y_hat


def _merged(better: npt.NDArray[np.bool_], new: Choice, old: Choice) -> Choice:
    """Of each image [N] the new one where it is ``better``."""
    images = better[:, None, None, None]
    return Choice(
        np.where(images, new.symbols, old.symbols),
        np.where(images, new.found, old.found),
        np.where(images, new.tables, old.tables),
    )


def _gradient(model: Hyperprior, y_hat: Tensor, error: Tensor, quality: Tensor) -> Tensor:
    """Of the distortion, in floats and as if no filter came behind, [N, h, w, M]; ``error``: pixels less original."""
    with torch.inference_mode(False), torch.enable_grad():
        latents, error, quality = (part.clone() for part in (y_hat, error, quality))  # of inference mode: no gradient may be
        picture = model.g_s(latents.requires_grad_(), quality)
        outwards = 2 / 3 * model.settings.lmbda(quality)[:, None, None, None] * error
        (gradient,) = torch.autograd.grad(picture, latents, outwards)
    return gradient


def _distortion(model: Hyperprior, decoded: Tensor, x: Tensor, quality: Tensor) -> Tensor:
    """λ·MSE in bits of each whole window [N]; ``decoded``: pixels."""
    error = (decoded.float() - x).square().flatten(1).sum(1)
    bits: Tensor = model.settings.lmbda(quality) / 3 * error
    return bits
