"""Better latents for the same decoder, at the price of encoding time: `--effort`.

g_a guesses y in one pass. What the synthesis makes of the quantised latents tells how far it was off: each pass takes the
gradient of the distortion there, moves every latent by a share of its Newton step, with the curvature of the linear bypass
(in an orthonormal transform they do not interact), and quantises anew. The side information stays.

Cf. Campos et al., "Content adaptive optimization for neural image compression" (CVPR workshops 2019, arXiv 1906.01223) and
Yang, Bamler, Mandt, "Improving inference for neural image compression" (NeurIPS 2020, arXiv 2006.04240), which take hundreds
of steps of gradient descent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnbatch.codec.hyperprior import Hyperprior
from cnnbatch.codec.latents import LatentCoder, Side
from cnnbatch.codec.quantisation import Choice

STEP_SHARE = 0.6
"""Of a Newton step: with whole ones latents that do interact overshoot."""


@dataclass(slots=True)
class Unit:
    """The same unit of every tile of a batch, while it is quantised."""

    place: tuple[slice, slice]
    """Where in the window of its tile, in latent positions."""
    side: Side
    values: Tensor
    """y less the means [N, a, b, M]."""
    quantised: Choice


def refine(
    coder: LatentCoder, units: Sequence[Unit], *, x: Tensor, y: Tensor, quality: Tensor, passes: int, model: Hyperprior
) -> None:
    """Improves ``units`` in place; ``x`` uint8 [N, H, W, 3] are the windows' pixels, ``y`` [N, h, w, M] their latents.

    Latents of the window outside its units (the halo) count as they are, unquantised.
    """
    curvature = 2 * model.bits_per_square(quality)[:, None, None, :]
    for _ in range(passes):
        y_hat = y.clone()
        for unit in units:
            y_hat[:, *unit.place] = coder.dequantise(unit.quantised, unit.side.means)
        gradient = _distortion_gradient(model, y_hat, x, quality)
        for unit in units:
            target = y_hat[:, *unit.place] - unit.side.means - gradient[:, *unit.place] / curvature
            unit.values = torch.lerp(unit.values, target, STEP_SHARE)
            unit.quantised = coder.quantise(unit.values, unit.side)


def _distortion_gradient(model: Hyperprior, y_hat: Tensor, x: Tensor, quality: Tensor) -> Tensor:
    """Of λ·MSE in bits of the whole window."""
    with torch.inference_mode(False), torch.enable_grad():
        latents, q = y_hat.clone().requires_grad_(), quality.clone()
        error = (model.g_s(latents, q) - x.clone()).square().flatten(1).sum(1)
        (gradient,) = torch.autograd.grad((model.settings.lmbda(q) / 3 * error).sum(), latents)
    return gradient
