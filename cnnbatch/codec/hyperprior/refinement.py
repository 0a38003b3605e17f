"""Better latents for the same decoder, at the price of encoding time: `--effort`.

g_a guesses y in one pass. What the synthesis makes of the quantised latents ŷ tells how far it was off. For squared errors each
pass puts in place of the distortion a parabola that has its value and its gradient at ŷ and, in every latent alone, a multiple
of the curvature that the quantiser counts with, and looks for the symbols that cost least by that. Where the parabola lies
above the distortion, no pass can lose anything (majorise and minimise: Hunter and Lange, The American Statistician 58(1),
2004). What the eye sees is far from a parabola: there each pass is a step of `Descent`. The side information stays, and of all
passes, the first guess among them, each image keeps the best.

Cf. Campos et al., "Content adaptive optimization for neural image compression" (CVPR workshops 2019, arXiv 1906.01223) and
Yang, Bamler, Mandt, "Improving inference for neural image compression" (NeurIPS 2020, arXiv 2006.04240), which take hundreds
of steps of gradient descent.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.hyperprior.descent import Descent
from cnnbatch.codec.hyperprior.distortion import bits_per_square, distortion
from cnnbatch.codec.hyperprior.inference import Int8Synthesis
from cnnbatch.codec.hyperprior.latent_encoder import LatentEncoder, QuantisedTile
from cnnbatch.codec.hyperprior.synthesis import Synthesis
from cnnbatch.codec.quantisation.quantised import QuantisedLatents

CURVATURE = 0.75
"""Curvature of the parabola, relative to what the linear bypass alone would give: as small as it may be, for large steps. The
learned path takes away much of an error in one latent, less of errors in many."""

Improvement = Callable[[list[QuantisedTile], Tensor, Tensor], list[QuantisedTile]]
"""One pass: tiles, their ŷ and the gradient of the distortion there → tiles."""


class Refinement:
    """Better symbols for tiles that are quantised already."""

    def __init__(self, latents: LatentEncoder, g_s: Synthesis, decoding: Int8Synthesis) -> None:
        """``g_s``: for its gradient; ``decoding``: for what a decoder will show."""
        self._latents, self._g_s, self._decoding = latents, g_s, decoding

    def refined(
        self, tiles: Sequence[QuantisedTile], *, x: Tensor, y: Tensor, quality: Tensor, passes: int
    ) -> list[QuantisedTile]:
        """The cheapest, image by image, of the first guess ``tiles`` and what so many ``passes`` find.

        ``x`` uint8 [N, H, W, 3]: the windows' pixels, ``y`` [N, h, w, M]: their latents, which count as they are, unquantised,
        outside of the tiles (in the halo).
        """
        least, best = np.full(len(x), np.inf), list(tiles)
        improve = self._descent(y, passes) if self._g_s.settings.objective == "ssimulacra2" else self._majorised(quality)
        for number in range(passes + 1):
            y_hat = self._latents.latents_of(tiles, y)
            decoded = self._decoding.pixels(y_hat, quality)  # clamped, filtered and computed in int8
            bits = sum(self._latents.bits(tile.choice, tile.side) for tile in tiles)
            seen, outwards = self._distortion(decoded, x, quality)
            cost = seen.cpu().numpy() + bits
            best = [_merged(cost < least, tile, known) for tile, known in zip(tiles, best, strict=True)]
            least = np.minimum(cost, least)
            if number < passes:
                tiles = improve(list(tiles), y_hat, self._gradient(y_hat, outwards, quality))
        return best

    def _descent(self, y: Tensor, passes: int) -> Improvement:
        """A step down, and the symbols there."""
        descent = Descent(y, passes, self._g_s.settings)

        def improved(tiles: list[QuantisedTile], _: Tensor, gradient: Tensor) -> list[QuantisedTile]:
            descent.step(gradient, tiles)
            places = (descent.y[:, *tile.place] for tile in tiles)
            return [t._replace(choice=self._latents.quantise(p, t.side)) for t, p in zip(tiles, places, strict=True)]

        return improved

    def _majorised(self, quality: Tensor) -> Improvement:
        """The symbols nearest to where the parabola is lowest, by rate and its distortion."""
        square = CURVATURE * bits_per_square(self._g_s, quality)  # [N, M], bits, of errors in units of the local step
        weights = square.cpu().numpy()

        def improved(tiles: list[QuantisedTile], y_hat: Tensor, gradient: Tensor) -> list[QuantisedTile]:
            steps = gradient / (2 * square[:, None, None, :])
            return [self._requantised(tile, y_hat, steps, weights) for tile in tiles]

        return improved

    def _requantised(
        self, tile: QuantisedTile, y_hat: Tensor, steps: Tensor, weights: npt.NDArray[np.float32]
    ) -> QuantisedTile:
        """``steps`` lead from ``y_hat`` to where the parabola is lowest, were all local quantisation steps 1."""
        lowest = y_hat[:, *tile.place] - steps[:, *tile.place] * tile.side.steps.square()
        return tile._replace(choice=self._latents.quantise(lowest, tile.side._replace(weights=weights)))

    def _gradient(self, y_hat: Tensor, outwards: Tensor, quality: Tensor) -> Tensor:
        """Gradient of the distortion in floats, as if no filter came behind, [N, h, w, M]; ``outwards``: that at the pixels."""
        with torch.inference_mode(False), torch.enable_grad():
            # copies, as tensors of inference mode take no gradient
            latents, outwards, quality = (part.clone() for part in (y_hat, outwards, quality))
            picture = self._g_s(latents.requires_grad_(), quality)
            (gradient,) = torch.autograd.grad(picture, latents, outwards)
        return gradient

    def _distortion(self, decoded: Tensor, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Bits that the errors of the ``decoded`` pixels of each window are worth [N], and their gradient [N, H, W, 3]."""
        with torch.inference_mode(False), torch.enable_grad():
            picture, original, quality = decoded.clone().float().requires_grad_(), x.clone().float(), quality.clone()
            bits = x.shape[1] * x.shape[2] * distortion(picture, original, quality, self._g_s.settings)
            (outwards,) = torch.autograd.grad(bits.sum(), picture)
        return bits.detach(), outwards


def _merged(better: npt.NDArray[np.bool_], new: QuantisedTile, old: QuantisedTile) -> QuantisedTile:
    """The new choice for each image [N] where it is ``better``, else the old one."""
    images = better[:, None, None, None]
    a, b = new.choice, old.choice
    choice = QuantisedLatents(
        np.where(images, a.symbols, b.symbols), np.where(images, a.restored, b.restored), np.where(images, a.tables, b.tables)
    )
    return new._replace(choice=choice)
