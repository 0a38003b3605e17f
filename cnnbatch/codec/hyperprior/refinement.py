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

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.hyperprior.distortion import bits_per_square
from cnnbatch.codec.hyperprior.inference import Int8Synthesis
from cnnbatch.codec.hyperprior.latent_encoder import LatentEncoder, QuantisedTile
from cnnbatch.codec.hyperprior.synthesis import Synthesis
from cnnbatch.codec.quantisation.quantised import QuantisedLatents

CURVATURE = 0.75
"""Of the parabola, relative to that of the bypass: as small as it may be, for large steps. The learned path takes away much of
an error in one latent, less of errors in many."""


class Refinement:
    """Better symbols for tiles that are quantised already."""

    def __init__(self, latents: LatentEncoder, g_s: Synthesis, decoding: Int8Synthesis) -> None:
        """``g_s``: for its gradient; ``decoding``: for what a decoder will show."""
        self._latents, self._g_s, self._decoding = latents, g_s, decoding

    def refined(
        self, tiles: Sequence[QuantisedTile], *, x: Tensor, y: Tensor, quality: Tensor, passes: int
    ) -> list[QuantisedTile]:
        """Of the first guess ``tiles`` and those of so many ``passes`` the cheapest, image by image.

        ``x`` uint8 [N, H, W, 3]: the windows' pixels, ``y`` [N, h, w, M]: their latents, which count as they are, unquantised,
        outside of the tiles (in the halo).
        """
        square = CURVATURE * bits_per_square(self._g_s, quality)  # bits of a squared unit of error in one latent
        weights = square.cpu().numpy()
        least, best = np.full(len(x), np.inf), list(tiles)
        for number in range(passes + 1):
            y_hat = self._latents.latents_of(tiles, y)
            decoded = self._decoding.pixels(y_hat, quality)  # clamped, filtered and computed in eight bits
            bits = sum(self._latents.bits(tile.choice, tile.side) for tile in tiles)
            cost = self._distortion(decoded, x, quality).cpu().numpy() + bits
            best = [_merged(cost < least, tile, known) for tile, known in zip(tiles, best, strict=True)]
            least = np.minimum(cost, least)
            if number < passes:
                lowest = y_hat - self._gradient(y_hat, decoded - x.float(), quality) / (2 * square[:, None, None, :])
                tiles = [self._requantised(tile, lowest, weights) for tile in tiles]
        return best

    def _requantised(self, tile: QuantisedTile, lowest: Tensor, weights: npt.NDArray[np.float32]) -> QuantisedTile:
        """The symbols nearest to where the parabola is ``lowest``, by rate and its distortion."""
        return tile._replace(choice=self._latents.quantise(lowest[:, *tile.place], tile.side._replace(weights=weights)))

    def _gradient(self, y_hat: Tensor, error: Tensor, quality: Tensor) -> Tensor:
        """Of the distortion, in floats and as if no filter came behind, [N, h, w, M]; ``error``: pixels less original."""
        with torch.inference_mode(False), torch.enable_grad():
            latents, error, quality = (
                part.clone() for part in (y_hat, error, quality)
            )  # of inference mode: no gradient may be
            picture = self._g_s(latents.requires_grad_(), quality)
            outwards = 2 / 3 * self._g_s.settings.lmbda(quality)[:, None, None, None] * error
            (gradient,) = torch.autograd.grad(picture, latents, outwards)
        return gradient

    def _distortion(self, decoded: Tensor, x: Tensor, quality: Tensor) -> Tensor:
        """λ·MSE in bits of each whole window [N]; ``decoded``: pixels."""
        error = (decoded.float() - x).square().flatten(1).sum(1)
        bits: Tensor = self._g_s.settings.lmbda(quality) / 3 * error
        return bits


def _merged(better: npt.NDArray[np.bool_], new: QuantisedTile, old: QuantisedTile) -> QuantisedTile:
    """Of each image [N] the new choice where it is ``better``."""
    images = better[:, None, None, None]
    a, b = new.choice, old.choice
    choice = QuantisedLatents(
        np.where(images, a.symbols, b.symbols), np.where(images, a.restored, b.restored), np.where(images, a.tables, b.tables)
    )
    return new._replace(choice=choice)
