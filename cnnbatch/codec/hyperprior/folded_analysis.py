"""The inference engine of a trained analysis: at one quality it is one matrix behind the pre-filter."""

import copy
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnbatch.codec.geometry import BLOCK
from cnnbatch.codec.hyperprior.analysis import Analysis
from cnnbatch.codec.transforms.lapped_kernels import lapped_blocks
from cnnbatch.codec.transforms.layers import space_to_depth

KEPT_MATRICES = 16
"""A megabyte each."""


class FoldedAnalysis:
    """An `Analysis` that is not trained any more; keeps the matrices of the last qualities."""

    def __init__(self, analysis: Analysis) -> None:
        self._network = copy.deepcopy(analysis).requires_grad_(False).eval()
        self._matrix = lru_cache(KEPT_MATRICES)(self._matrix_at)

    @torch.inference_mode()
    def __call__(self, x: Tensor, quality: Tensor, *, bf16: bool = False) -> Tensor:
        """``x`` int8 [N, H, W, 3], pixels less `GREY`, ``quality`` [N] → y [N, H/16, W/16, M] float32."""
        dtype = torch.bfloat16 if bf16 else torch.float32
        if x.device.type == "cpu":
            found = lapped_blocks(x.contiguous().numpy(), self._network.prefilter.weight.numpy(), bf16=bf16)
            blocks = torch.from_numpy(found.view(np.int16)).view(dtype) if bf16 else torch.from_numpy(found)
        else:
            blocks = space_to_depth(self._network.prefilter(x.float()).to(dtype), BLOCK)
        if bool((quality == quality[0]).all()):
            return F.linear(blocks, *self._matrix(float(quality[0]), dtype)).float()
        pictures = zip(blocks, quality.tolist(), strict=True)
        return torch.stack([F.linear(picture, *self._matrix(q, dtype)) for picture, q in pictures]).float()

    def _matrix_at(self, quality: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[M, 768] and [M]."""
        device = self._network.bypass.weight.device
        matrix, bias = self._network.as_matrix(torch.tensor([quality], device=device))
        return matrix[0].to(dtype), bias[0].to(dtype)
