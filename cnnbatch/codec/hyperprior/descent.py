"""Gradient descent on the latents of a few pictures, for a distortion that is no parabola: what the eye sees.

The quantiser stays in the loop: the gradient is that of the distortion at the quantised latents ŷ, passed straight through to
y, and that of the rate, as if symbols were spread as wide as a step around y. Each channel of each image steps by its own root
mean square (RMSprop by channel), so that latents which hardly matter stay where they are; with a size of its own for each
latent (Adam) the many that are zero would all begin to move.

Cf. Yang, Bamler, Mandt, "Improving inference for neural image compression" (NeurIPS 2020, arXiv 2006.04240).

Shapes: N images, h × w latent positions, M channels.
"""

import numpy as np
import torch
from torch import Tensor

from cnnbatch.codec.entropy_coding.likelihood import gaussian_bits
from cnnbatch.codec.hyperprior.latent_encoder import QuantisedTile
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.quantisation.dependent import SPACING
from cnnbatch.codec.quantisation.quantised import chosen_values

WAY = 0.3
"""Quantisation steps that a latent moves in all passes together, where its gradient is the usual one of its channel."""

MEMORY = 0.5
"""Share of the gradients before in the one that is followed, and in its size."""

SPREAD = 0.43
"""Where the price of a latent is looked at, in steps to both sides of it: the farther, the sooner a latent stays zero."""

TINY = 1e-9


class Descent:
    """The latents of N images on their way down."""

    def __init__(self, y: Tensor, passes: int, settings: HyperpriorSettings) -> None:
        """``y`` [N, h, w, M]: where the way begins."""
        self.y = y.clone()
        self._passes, self._settings = passes, settings
        self._number, self._gradient = 0, torch.zeros_like(y)
        self._square: Tensor | None = None

    def step(self, gradient: Tensor, tiles: list[QuantisedTile]) -> None:
        """Moves the latents of the ``tiles``; ``gradient`` [N, h, w, M]: of the distortion, at their ŷ."""
        followed = torch.zeros_like(gradient)
        for tile in tiles:
            followed[:, *tile.place] = gradient[:, *tile.place] + self._price_slope(tile)
        square = followed.square().mean((1, 2), keepdim=True)
        self._square = square if self._square is None else torch.lerp(square, self._square, MEMORY)
        self._gradient = torch.lerp(followed, self._gradient, MEMORY)
        size = WAY / self._passes * (1 - self._number / self._passes)
        self.y -= size * self._gradient / (self._square.sqrt() + TINY)
        self._number += 1

    def _price_slope(self, tile: QuantisedTile) -> Tensor:
        """d(bits) / dy of the latents of a tile, [N, a, b, M]."""
        side, choice, device = tile.side, tile.choice, self.y.device
        k, scales = choice.restored.shape[-1], self._settings.num_scales
        predicted = choice.restored - chosen_values(choice, self._settings)[..., :k]
        steps = np.where(choice.tables >= scales, np.float32(2 * SPACING), np.float32(1))
        with torch.inference_mode(False), torch.enable_grad():  # copies, as tensors of inference mode take no gradient
            latents = self.y[:, *tile.place].clone().requires_grad_()
            residual = latents / side.steps.clone() - side.means.clone()
            residual = torch.cat([residual[..., :k] - torch.from_numpy(predicted).to(device), residual[..., k:]], -1)
            step = torch.from_numpy(steps).to(device)
            scale = self._settings.scale_at(torch.from_numpy(side.indexes.astype(np.float32)).to(device)) / step
            below, above = (gaussian_bits(residual / step + beside, scale) for beside in (-SPREAD, SPREAD))
            (slope,) = torch.autograd.grad((below + above).sum() / 2, latents)
        return slope * torch.from_numpy(side.indexes >= self._settings.coded_from).to(device)
