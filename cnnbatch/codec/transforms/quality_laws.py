"""Laws of quality alone, without torch: λ(q), the quantisation step Δ(q), and curves as a codec file holds them."""

import math
from typing import TYPE_CHECKING, Annotated, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

if TYPE_CHECKING:
    from torch import Tensor

Number = TypeVar("Number", float, "Tensor")

NUM_ANCHORS = 8
"""Anchors of a curve over quality 0…63, nine steps apart."""


def lmbda_at(quality: Number, limits: tuple[float, float]) -> Number:
    """λ(q) of loss = λ·MSE + bits per pixel, MSE over grey levels 0…255: log-linear in q between its ``limits`` at 0 and 63."""
    low, high = limits
    lmbda: Number = low * (high / low) ** (quality / 63.0)
    return lmbda


def high_rate_step(lmbda: Number) -> Number:
    """Δ in grey levels of an orthonormal transform: the high-rate optimum √(18/(λ ln 2))."""
    step: Number = (18 / (math.log(2) * lmbda)) ** 0.5
    return step


def curve_at(anchors: npt.NDArray[np.float32], quality: float) -> npt.NDArray[np.float32]:
    """Numbers of a curve [NUM_ANCHORS, C] at ``quality`` [C]: linear between the anchors."""
    place = quality * ((NUM_ANCHORS - 1) / 63.0)
    first = min(int(place), NUM_ANCHORS - 2)
    share = np.float32(place - first)
    found: npt.NDArray[np.float32] = anchors[first] * (1 - share) + anchors[first + 1] * share
    return found


def _spread(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if high < 2 * low:
        raise ValueError(f"scales from {low} to {high}: the largest must be at least twice the smallest")
    return limits


Positive = Annotated[float, Field(gt=0, le=1e6)]

ScaleRange = Annotated[tuple[Positive, Positive], AfterValidator(_spread)]
"""The smallest and the largest scale, in quantisation steps, that a scale index can say."""
