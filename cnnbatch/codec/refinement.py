"""Better latents for the same decoder, at the price of encoding time: `--effort`.

g_a guesses y in one pass. What the synthesis makes of the quantised latents tells how far it was off: each pass takes the
gradient of the distortion there, moves every latent by a share of its Newton step, with the curvature of the linear bypass
(in an orthonormal transform they do not interact), and quantises anew. The side information stays, and of all passes, the
first guess among them, each image keeps the best.

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

from cnnbatch.codec.hyperprior import Hyperprior
from cnnbatch.codec.latents import LatentCoder, Side
from cnnbatch.codec.quantisation import Choice

STEP_SHARE, DEPENDENT_STEP_SHARE = 0.6, 0.06
"""Of a Newton step: with whole ones latents that do interact overshoot. Where quantisation is dependent, a latent that moves
takes others to another path."""

PASS_WEIGHTS = (1.4, 0.7, 2.0, 0.5)
"""Of errors against bits in the first passes where quantisation is dependent, relative to the usual: which is best differs from
picture to picture."""


@dataclass(slots=True)
class Unit:
    """The same unit of every tile of a batch, while it is quantised."""

    place: tuple[slice, slice]
    """Where in the window of its tile, in latent positions."""
    side: Side
    values: Tensor
    """y less the means [N, a, b, M]."""
    choice: Choice


def refine(
    coder: LatentCoder, units: Sequence[Unit], *, x: Tensor, y: Tensor, quality: Tensor, passes: int, model: Hyperprior
) -> None:
    """Improves ``units`` in place; ``x`` uint8 [N, H, W, 3] are the windows' pixels, ``y`` [N, h, w, M] their latents.

    Latents of the window outside its units (the halo) count as they are, unquantised.
    """
    curvature = 2 * model.bits_per_square(quality)[:, None, None, :]
    share, weights = (DEPENDENT_STEP_SHARE, PASS_WEIGHTS) if model.settings.dependent_spacing else (STEP_SHARE, ())
    least, best = np.full(len(x), np.inf), [unit.choice for unit in units]
    for number in range(passes + 1):
        y_hat = y.clone()
        for unit in units:
            y_hat[:, *unit.place] = coder.dequantise(unit.choice, unit.side.means)
        with torch.inference_mode(False), torch.set_grad_enabled(number < passes):
            latents = y_hat.clone().requires_grad_()
            distortion = _distortion(model, latents, x, quality)
            if number < passes:
                (gradient,) = torch.autograd.grad(distortion.sum(), latents)
        cost = distortion.detach().cpu().numpy() + sum(coder.bits(unit.choice, unit.side) for unit in units)
        best = [_merged(cost < least, unit.choice, known) for unit, known in zip(units, best, strict=True)]
        least = np.minimum(cost, least)
        if number == passes:
            break
        for unit in units:
            target = y_hat[:, *unit.place] - unit.side.means - gradient[:, *unit.place] / curvature
            unit.values = torch.lerp(unit.values, target, share)
            weight = np.float32(weights[number] if number < len(weights) else 1)
            unit.choice = coder.quantise(unit.values, unit.side._replace(weights=weight * unit.side.weights))
    for unit, choice in zip(units, best, strict=True):
        unit.choice = choice


def _merged(better: npt.NDArray[np.bool_], new: Choice, old: Choice) -> Choice:
    """Of each image [N] the new one where it is ``better``."""
    return Choice(*(np.where(better[:, None, None, None], a, b) for a, b in zip(new, old, strict=True)))


def _distortion(model: Hyperprior, y_hat: Tensor, x: Tensor, quality: Tensor) -> Tensor:
    """λ·MSE in bits of each whole window [N]."""
    q = quality.clone()  # of inference mode, in which no gradient may be
    error = (model.g_s(y_hat, q) - x.clone()).square().flatten(1).sum(1)
    bits: Tensor = model.settings.lmbda(q) / 3 * error
    return bits
