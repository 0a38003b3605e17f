"""Weights of the adaptive filter that a codec file holds: least squares on training pictures, quality by quality.

Each picture counts by the bits that it takes, as every picture does in BD-rates. The synthesis is trained without the filter.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch

from cnnbatch.codec.adaptive_filter.estimation import Statistics, statistics
from cnnbatch.codec.adaptive_filter.filtering import surrounded
from cnnbatch.codec.adaptive_filter.kernels import AROUND
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.training.data import Pixels, crops

PICTURES = 96
SIDE = 256
"""Pixels a side of the crops that are looked at."""

RIDGE = 1e-5
"""Share of the mean square of a feature, so that none is used for next to nothing."""


@torch.no_grad()
def fit_adaptive_filter(model: Hyperprior, pictures: Sequence[Pixels], *, count: int | None = None) -> None:
    """Sets the weights of ``model``'s adaptive filter in place, by ``count`` crops; None: as many as usual."""
    source = crops(pictures, size=SIDE, rng=np.random.default_rng(0))
    originals = [torch.from_numpy(next(source).copy()).float()[None] for _ in range(count or PICTURES)]
    anchors = model.g_s.adaptive_filter.anchors
    for anchor, quality in enumerate(torch.linspace(0, 63, len(anchors))):
        anchors[anchor] = torch.from_numpy(_least_squares(model, originals, quality)).flatten()


def _least_squares(
    model: Hyperprior, originals: Sequence[torch.Tensor], quality: torch.Tensor
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """[3, FEATURES] at one quality; what does not vanish where a picture is flat is left at zero."""
    shares = []
    step = float(model.settings.step(quality))
    for original in originals:
        picture, bits = model(original, quality[None], noise=False)
        [planes] = surrounded(picture)
        shares.append(statistics(planes, original[0], step).times(1 / float(bits[0])))
    sums = functools.reduce(Statistics.plus, shares)
    weights = np.zeros_like(sums.products)
    for colour, (squares, products) in enumerate(
        zip(sums.squares[:, :AROUND, :AROUND], sums.products[:, :AROUND], strict=True)
    ):
        ridge = RIDGE * (np.diag(squares) + 1)  # and one of its own for what never varies, as where all is flat
        weights[colour, :AROUND] = np.linalg.solve(squares + np.diag(ridge), products)
    return weights
