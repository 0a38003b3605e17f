"""Karhunen–Loève transform (PCA) of 16×16×3 blocks: what the linear bypass starts from."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.geometry import BLOCK, GREY
from cnnbatch.codec.transforms.lapped import LappingFilter
from cnnbatch.training.data import Pixels

SUBSAMPLE = 4
"""Every fourth block in each direction is enough: 768 dimensions against about 10⁵ blocks."""


@torch.no_grad()
def block_klt(pictures: Sequence[Pixels], components: int, *, prefilter: LappingFilter) -> tuple[Tensor, Tensor]:
    """(basis [components, 768] with orthonormal rows, standard deviations [components] in grey levels), float32.

    It is the KLT of what ``prefilter`` leaves of the pictures.
    """
    moment = np.zeros((3 * BLOCK**2,) * 2)
    count = 0
    for picture in pictures:
        blocks = _blocks(picture, prefilter)
        moment += blocks.T @ blocks
        count += len(blocks)
    values, vectors = np.linalg.eigh(moment / count)
    order = np.argsort(values)[::-1][:components]
    deviations = np.sqrt(np.maximum(values[order], 1e-3))
    return torch.from_numpy(vectors[:, order].T.copy()).float(), torch.from_numpy(deviations).float()


def _blocks(picture: Pixels, prefilter: LappingFilter) -> npt.NDArray[np.float64]:
    h, w = (n // BLOCK for n in picture.shape[:2])
    values = torch.from_numpy(picture[: h * BLOCK, : w * BLOCK].astype(np.float32)) - GREY
    filtered: npt.NDArray[np.float32] = prefilter(values[None])[0].numpy()
    grid = filtered.reshape(h, BLOCK, w, BLOCK, 3).transpose(0, 2, 1, 3, 4)
    return grid[::SUBSAMPLE, ::SUBSAMPLE].reshape(-1, 3 * BLOCK**2).astype(np.float64)
